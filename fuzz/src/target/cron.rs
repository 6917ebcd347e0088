//! Cron expressions, zones and instants: an expression, a zone and seconds since 1970, one a line.

use dbkeep_engine::{
    model::{CronFields, DstPolicy, FoldPolicy, GapPolicy},
    schedule::{Cron, zone},
};
use jiff::Timestamp;

use super::{Check, Target, broken, no_seeds};

pub(super) const TARGET: Target = Target {
    name: "cron",
    about: "cron expressions, and the times that they name",
    words: &[
        "*",
        "*/2",
        "1-5",
        "1,2,3",
        "MON",
        "SUN-SAT",
        "JAN-DEC",
        "L",
        "W",
        "#",
        "?",
        "@daily",
        "@reboot",
        "0-59/1",
        "31",
        "29 2",
        "7",
        "-",
        "/0",
        "Europe/Berlin",
        "America/New_York",
        "Pacific/Apia",
        "Etc/GMT+12",
        "UTC",
        "253402300799",
        "-377705116800",
    ],
    seeds: no_seeds,
    open,
};

/// Times that are asked for; each is a step of the calendar.
const ASKED: usize = 12;

fn open() -> anyhow::Result<Check> {
    Ok(Box::new(check))
}

fn check(input: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.lines();
    let expression = lines.next().unwrap_or_default();
    let zone_name = lines.next().unwrap_or("UTC");
    let after = lines.next().and_then(|line| line.trim().parse::<i64>().ok()).unwrap_or(0);
    let fields = match CronFields::from_expression(expression) {
        Ok(fields) => fields,
        Err(problems) => return refused("expression", &problems),
    };
    let again = CronFields::from_expression(&fields.to_expression()).map_err(|_| "an expression is not read back")?;
    if again.to_expression() != fields.to_expression() {
        return broken("an expression is read back as another");
    }
    let cron = match Cron::parse(&fields) {
        Ok(cron) => cron,
        Err(problems) => return refused("fields", &problems),
    };
    let zone = match zone(zone_name) {
        Ok(zone) => zone,
        Err(problem) => return refused("zone", &[problem]),
    };
    let Ok(start) = Timestamp::from_second(after) else {
        return Ok("no such instant".to_owned());
    };
    for (gap, fold) in [
        (GapPolicy::default(), FoldPolicy::default()),
        (GapPolicy::Skip, FoldPolicy::Twice),
    ] {
        let dst = DstPolicy { gap, fold };
        let mut last = start;
        let mut times = Vec::new();
        while times.len() < ASKED {
            let Some(next) = cron.next_after(&zone, dst, last) else {
                break;
            };
            if next.at <= last {
                return broken(format!("after {last} comes {}", next.at));
            }
            last = next.at;
            times.push(next);
        }
        let between = cron.occurrences_between(&zone, dst, start, last, ASKED);
        if between != times {
            return broken("the times between two instants are others than one after the other");
        }
        if !times.is_empty() && cron.last_between(&zone, dst, start, last) != times.last().cloned() {
            return broken("the last time between two instants is another");
        }
    }
    Ok("accepted".to_owned())
}

fn refused(what: &str, problems: &[dbkeep_engine::schedule::FieldProblem]) -> Result<String, String> {
    if problems.is_empty() || problems.iter().any(|problem| problem.problem.is_empty()) {
        return broken(format!("{what} are refused without a word"));
    }
    Ok(format!("{what}: {}", problems[0].problem))
}
