//! Sizes around a scheduled run, and what to do after it. Called by `table.rs`; the page of a report shows the same cells.

use std::io;

use dbkeep_client::proto::{self, RecommendationLevel, RowCountBasis};
use indicatif::{HumanBytes, HumanCount};

use crate::output::{Output, Tone, printable};

/// One line of sizes: a table, or the whole database.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) what: String,
    pub(crate) rows_before: String,
    pub(crate) rows_after: String,
    pub(crate) bytes_before: String,
    pub(crate) bytes_after: String,
}

/// A size; a question mark where it is unknown.
fn size(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "?".to_owned(), |bytes| HumanBytes(bytes).to_string())
}

/// A number of rows, with a tilde where it is an estimate.
fn rows(table: Option<&proto::TableSize>) -> String {
    let Some((table, count)) = table.and_then(|table| Some((table, table.row_count?))) else {
        return "?".to_owned();
    };
    let about = match table.row_count_basis() {
        RowCountBasis::Count => "",
        RowCountBasis::Estimate | RowCountBasis::Unspecified => "~",
    };
    format!("{about}{}", HumanCount(count))
}

/// The whole database, what is free in it where that is known, and each table that one of both looks found.
pub(crate) fn lines(sizes: &proto::RunSizes) -> Vec<Line> {
    let (before, after) = (sizes.before.as_ref(), sizes.after.as_ref());
    let whole = |what: &str, bytes: fn(&proto::SizeSnapshot) -> Option<u64>| Line {
        what: what.to_owned(),
        rows_before: String::new(),
        rows_after: String::new(),
        bytes_before: size(before.and_then(bytes)),
        bytes_after: size(after.and_then(bytes)),
    };
    let mut lines = vec![whole("whole database", |snapshot| snapshot.database_bytes)];
    if [before, after]
        .into_iter()
        .flatten()
        .any(|snapshot| snapshot.reusable_bytes.is_some())
    {
        lines.push(whole("free for new rows", |snapshot| snapshot.reusable_bytes));
    }
    let found = |snapshot: Option<&proto::SizeSnapshot>, name: &str| {
        snapshot.and_then(|snapshot| snapshot.tables.iter().find(|table| table.table == name).cloned())
    };
    let mut names: Vec<&str> = Vec::new();
    for table in [before, after].into_iter().flatten().flat_map(|snapshot| &snapshot.tables) {
        if !names.contains(&table.table.as_str()) {
            names.push(&table.table);
        }
    }
    lines.extend(names.into_iter().map(|name| {
        let (was, is) = (found(before, name), found(after, name));
        Line {
            what: name.to_owned(),
            rows_before: rows(was.as_ref()),
            rows_after: rows(is.as_ref()),
            bytes_before: size(was.and_then(|table| table.bytes)),
            bytes_after: size(is.and_then(|table| table.bytes)),
        }
    }));
    lines
}

/// How urgent a recommendation looks.
pub(crate) fn tone(level: RecommendationLevel) -> Tone {
    match level {
        RecommendationLevel::Act => Tone::Bad,
        RecommendationLevel::Warn => Tone::Warn,
        RecommendationLevel::Info | RecommendationLevel::Unspecified => Tone::Dim,
    }
}

/// Prints sizes before and after.
pub(super) fn print(report: &proto::RunReport, output: &Output) -> io::Result<()> {
    let Some(sizes) = &report.sizes else { return Ok(()) };
    let mut table = output.table(["SIZE OF", "ROWS BEFORE", "ROWS AFTER", "BEFORE", "AFTER"]);
    for line in lines(sizes) {
        table.add_row([
            output.cell(Tone::Strong, &line.what),
            output.number(Tone::Dim, &line.rows_before),
            output.number(Tone::Dim, &line.rows_after),
            output.number(Tone::Dim, &line.bytes_before),
            output.number(Tone::Strong, &line.bytes_after),
        ]);
    }
    output.line(table)
}

/// What should be done, in a few words. Reports of earlier versions have no more than the key.
pub(crate) fn advised(advice: &proto::Recommendation) -> &str {
    if advice.name.is_empty() { &advice.key } else { &advice.name }
}

/// What a recommendation rests on, in one line; empty where nothing is told.
pub(crate) fn evidence(advice: &proto::Recommendation) -> String {
    let numbers = advice
        .evidence
        .iter()
        .map(|number| format!("{} {}", number.name, number.value));
    numbers.collect::<Vec<_>>().join(", ")
}

/// Prints what should be done, why, what that rests on, and what to type or to paste, line by line as it is.
pub(crate) fn recommend(recommendations: &[proto::Recommendation], output: &Output) -> io::Result<()> {
    for advice in recommendations {
        let what = format!("recommended: {}: {}", advised(advice), advice.detail);
        output.line(output.paint(tone(advice.level()), &what))?;
        let evidence = evidence(advice);
        if !evidence.is_empty() {
            output.line(output.paint(Tone::Dim, &format!("  by {evidence}")))?;
        }
        for line in advice.remediation.lines() {
            output.line(format_args!("  {}", printable(line)))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(bytes: u64, tables: &[(&str, Option<u64>, RowCountBasis)]) -> proto::SizeSnapshot {
        proto::SizeSnapshot {
            database_bytes: Some(bytes),
            tables: tables
                .iter()
                .map(|(name, rows, basis)| proto::TableSize {
                    table: (*name).to_owned(),
                    row_count: *rows,
                    row_count_basis: (*basis).into(),
                    bytes: None,
                })
                .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn what_is_estimated_and_what_is_unknown_shows() {
        let sizes = proto::RunSizes {
            before: Some(snapshot(2048, &[("logs", Some(1_000), RowCountBasis::Count)])),
            after: Some(snapshot(
                1024,
                &[
                    ("logs", Some(900), RowCountBasis::Estimate),
                    ("archive", None, RowCountBasis::Unspecified),
                ],
            )),
        };
        let found = lines(&sizes);
        let shown: Vec<[&str; 5]> = found
            .iter()
            .map(|line| {
                let cells = [
                    &line.what,
                    &line.rows_before,
                    &line.rows_after,
                    &line.bytes_before,
                    &line.bytes_after,
                ];
                cells.map(String::as_str)
            })
            .collect();
        assert_eq!(
            shown,
            [
                ["whole database", "", "", "2.00 KiB", "1.00 KiB"],
                ["logs", "1,000", "~900", "?", "?"],
                ["archive", "?", "?", "?", "?"]
            ]
        );
        let running = proto::RunSizes { after: None, ..sizes };
        assert_eq!(lines(&running)[0].bytes_after, "?");
    }
}
