//! Sizes around a scheduled run, and what to do after it. Called by `table.rs`; the page of a report shows the same cells.

use std::io;

use comfy_table::Table;
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
    pub(crate) dead_before: String,
    pub(crate) dead_after: String,
    pub(crate) free_before: String,
    pub(crate) free_after: String,
}

impl Line {
    /// What stands behind its name; dead rows and free bytes where the database tells of them.
    pub(crate) fn cells(&self, space: bool) -> Vec<&str> {
        let of_space = [&self.dead_before, &self.dead_after, &self.free_before, &self.free_after];
        let of_all = [&self.rows_before, &self.rows_after, &self.bytes_before, &self.bytes_after];
        let of_space = of_space.into_iter().filter(|_| space);
        of_all.into_iter().chain(of_space).map(String::as_str).collect()
    }
}

/// Whether the database tells of dead rows and free bytes in tables. SQLite does not: what is deleted is gone, and free pages are the file's.
pub(crate) fn has_space(sizes: &proto::RunSizes) -> bool {
    let snapshots = [&sizes.before, &sizes.after].into_iter().flatten();
    snapshots
        .flat_map(|snapshot| &snapshot.tables)
        .any(|table| table.dead_rows.is_some() || table.free_bytes.is_some())
}

/// A number that the database estimates.
fn about(number: Option<String>) -> String {
    number.map_or_else(|| "?".to_owned(), |number| format!("~{number}"))
}

/// Dead rows of a table.
fn dead(table: Option<&proto::TableSize>) -> String {
    about(
        table
            .and_then(|table| table.dead_rows)
            .map(|rows| HumanCount(rows).to_string()),
    )
}

/// What is free in a table.
fn free(table: Option<&proto::TableSize>) -> String {
    about(
        table
            .and_then(|table| table.free_bytes)
            .map(|bytes| HumanBytes(bytes).to_string()),
    )
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
        dead_before: String::new(),
        dead_after: String::new(),
        free_before: String::new(),
        free_after: String::new(),
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
            dead_before: dead(was.as_ref()),
            dead_after: dead(is.as_ref()),
            free_before: free(was.as_ref()),
            free_after: free(is.as_ref()),
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
    output.line(shown(sizes, output))
}

fn shown(sizes: &proto::RunSizes, output: &Output) -> Table {
    let space = has_space(sizes);
    let mut table = if space {
        output.table([
            "SIZE OF",
            "ROWS BEFORE",
            "ROWS AFTER",
            "BEFORE",
            "AFTER",
            "DEAD BEFORE",
            "DEAD AFTER",
            "FREE BEFORE",
            "FREE AFTER",
        ])
    } else {
        output.table(["SIZE OF", "ROWS BEFORE", "ROWS AFTER", "BEFORE", "AFTER"])
    };
    for line in lines(sizes) {
        let numbers = line.cells(space).into_iter().enumerate();
        // What the database takes in the end is the point.
        let tone = |place| if place == 3 { Tone::Strong } else { Tone::Dim };
        let numbers = numbers.map(|(place, text)| output.number(tone(place), text));
        table.add_row(std::iter::once(output.cell(Tone::Strong, &line.what)).chain(numbers));
    }
    table
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
                    ..Default::default()
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
    #[test]
    fn what_is_dead_and_what_is_free_shows_where_the_database_tells_of_it() {
        let output = Output::plain(crate::output::Format::Table);
        let mut sizes = proto::RunSizes {
            before: Some(snapshot(2048, &[("logs", Some(1_000), RowCountBasis::Count)])),
            after: Some(snapshot(1024, &[("logs", Some(900), RowCountBasis::Estimate)])),
        };
        let told = shown(&sizes, &output).to_string();
        assert!(
            !has_space(&sizes) && !told.contains("DEAD") && !told.contains("FREE"),
            "{told}"
        );
        let table = |snapshot: &mut Option<proto::SizeSnapshot>, dead, free| {
            let table = &mut snapshot.as_mut().unwrap().tables[0];
            (table.dead_rows, table.free_bytes) = (dead, free);
        };
        table(&mut sizes.before, Some(1_234), None);
        table(&mut sizes.after, Some(0), Some(4_096));
        let found = lines(&sizes);
        assert_eq!(
            found[1].cells(true),
            ["1,000", "~900", "?", "?", "~1,234", "~0", "?", "~4.00 KiB"]
        );
        assert_eq!(found[0].cells(true)[4..], [""; 4], "of the whole database it is not said");
        assert_eq!(found[1].cells(false).len(), 4);
        let told = shown(&sizes, &output).to_string();
        for word in [
            "DEAD BEFORE",
            "DEAD AFTER",
            "FREE BEFORE",
            "FREE AFTER",
            "~1,234",
            "~4.00 KiB",
        ] {
            assert!(told.contains(word), "{word}: {told}");
        }
    }
}
