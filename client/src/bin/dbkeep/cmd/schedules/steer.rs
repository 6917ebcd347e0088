//! `dbkeep schedules run`, `pause`, `resume` and `approve`.
//!
//! Owns the question before an approval, and the grammar of the day until which it holds. Following a run is `follow.rs`. Called by
//! `mod.rs`.

use std::{str::FromStr, time::Duration};

use clap::Args;
use dbkeep_client::proto::RunKind;
use jiff::{Timestamp, civil::Date, tz::TimeZone};

use super::{answer, look, name};
use crate::{
    duration::Span,
    exit::Exit,
    follow::{self, follow},
    prompt,
    session::Session,
    table,
};

/// Arguments of `schedules run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Id or name of the schedule.
    name: String,
    /// Print the run's id and leave it at work.
    #[arg(long)]
    detach: bool,
}

impl Run {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let schedules = session.client.schedules();
        let schedule = schedules.get(self.name).await?;
        let works_through_operations = schedule.spec.is_some_and(|spec| spec.maintenance.is_empty());
        // The kind gives the words for what is done to a row.
        let kind = if works_through_operations {
            RunKind::Cleanup
        } else {
            RunKind::Maintain
        };
        let until = if self.detach {
            follow::Until::Started
        } else {
            follow::Until::End
        };
        follow(session, kind, until, schedules.run(schedule.id)).await
    }
}

/// Arguments of `schedules pause`.
#[derive(Debug, Args)]
pub(crate) struct Pause {
    /// Id or name of the schedule.
    name: String,
    /// Why; kept with the schedule.
    #[arg(long, default_value = "")]
    reason: String,
}

impl Pause {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let schedule = session.client.schedules().pause(self.name, self.reason).await?;
        answer(session, &schedule, "is paused")
    }
}

/// Arguments of `schedules resume`.
#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// Id or name of the schedule.
    name: String,
    /// Why; kept in the record of decisions.
    #[arg(long, default_value = "")]
    reason: String,
}

impl Resume {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let schedule = session.client.schedules().resume(self.name, self.reason).await?;
        answer(session, &schedule, "is resumed")
    }
}

/// Until when an approval holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    Instant(Timestamp),
    For(Span),
}

/// Why a text is no such time.
#[derive(Debug, thiserror::Error)]
#[error("expected a day like 2027-06-30 (to its end, UTC), an instant like 2027-06-30T12:00:00Z, or a duration like 90d")]
pub(crate) struct InvalidUntil;

impl FromStr for Until {
    type Err = InvalidUntil;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(span) = text.parse() {
            return Ok(Self::For(span));
        }
        if let Ok(instant) = text.parse() {
            return Ok(Self::Instant(instant));
        }
        // A date with a time and no zone would be somebody's guess.
        let day = Date::strptime("%Y-%m-%d", text).map_err(|_| InvalidUntil)?;
        let end = day.tomorrow().and_then(|day| day.to_zoned(TimeZone::UTC));
        end.map(|end| Self::Instant(end.timestamp())).map_err(|_| InvalidUntil)
    }
}

/// Arguments of `schedules approve`.
#[derive(Debug, Args)]
pub(crate) struct Approve {
    /// Id or name of the schedule.
    name: String,
    /// Most rows that one run may delete under it.
    #[arg(long, value_name = "ROWS")]
    max_rows: u64,
    /// Until when it holds, at most a year: a day (to its end, UTC), an instant, or a duration like 90d.
    #[arg(long, value_name = "DATE")]
    until: Until,
    /// Etag of the schedule as it was reviewed; without it, the schedule is shown and a terminal is asked.
    #[arg(long)]
    etag: Option<String>,
    /// Do not ask; consents to the schedule as it is now.
    #[arg(long, short)]
    yes: bool,
}

impl Approve {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let schedules = session.client.schedules();
        let until = match self.until {
            Until::Instant(instant) => instant,
            Until::For(span) => Timestamp::now().checked_add(Duration::from(span))?,
        };
        let words = until.strftime("%F %TZ").to_string();
        let (id, etag) = match self.etag {
            Some(etag) => (self.name, etag),
            None => {
                // Consent is to what was read: the etag is that of the schedule that is shown.
                let schedule = schedules.get(self.name).await?;
                if !self.yes {
                    if !session.output.is_json() {
                        look::detail(session, &schedule)?;
                    }
                    let question = format!(
                        "Approve all runs of {} until {words}, of up to {} each?",
                        name(&schedule),
                        table::rows(self.max_rows)
                    );
                    if let Err(exit) = prompt::confirm(&question, &session.output).await? {
                        return Ok(exit);
                    }
                }
                (schedule.id, schedule.etag)
            }
        };
        let approved = schedules.approve(id, etag, self.max_rows, until).await?;
        answer(session, &approved, &format!("is approved until {words}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_approval_ends_with_a_day_at_an_instant_or_after_a_while() {
        let instant = |text: &str| Until::Instant(text.parse().unwrap());
        for (text, until) in [
            ("2027-06-30", instant("2027-07-01T00:00:00Z")),
            ("2027-06-30T12:00:00+02:00", instant("2027-06-30T10:00:00Z")),
            ("90d", Until::For("90d".parse().unwrap())),
        ] {
            assert_eq!(text.parse::<Until>().unwrap(), until, "{text}");
        }
        for text in ["", "tomorrow", "2027-02-30", "2027-06-30T12:00:00", "90"] {
            assert!(text.parse::<Until>().is_err(), "{text}");
        }
    }
}
