//! Ledgers of other migration tools, read as they are: which table is whose, and what its rows mean. The adapters find the tables and
//! bring the rows as text; nobody here writes anything.

use dbkeep_engine::model::{ForeignEntry, LedgerKind};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// A value as text; `None` for NULL.
type Text = Option<String>;

/// How a tool keeps its ledger.
pub(super) struct Shape {
    /// Whose.
    pub(super) kind: LedgerKind,
    /// The table's name.
    pub(super) table: &'static str,
    /// Columns that are read, in the order in which [`Shape::entries`] expects their values.
    columns: &'static [&'static str],
    /// Whether it is this tool's only with these columns and no other.
    exact: bool,
    /// The one of them that holds bytes, to be read as lowercase hex.
    pub(super) bytes: &'static str,
    /// Columns to order by.
    pub(super) order: &'static [&'static str],
}

/// Every ledger that is known.
pub(super) const SHAPES: [Shape; 9] = [
    Shape {
        kind: LedgerKind::Sqlx,
        table: "_sqlx_migrations",
        columns: &["version", "checksum", "installed_on", "success"],
        exact: false,
        bytes: "checksum",
        order: &["version"],
    },
    Shape {
        kind: LedgerKind::Diesel,
        table: "__diesel_schema_migrations",
        columns: &["version", "run_on"],
        exact: false,
        bytes: "",
        order: &["version"],
    },
    Shape {
        kind: LedgerKind::GolangMigrate,
        table: "schema_migrations",
        columns: &["version", "dirty"],
        exact: true,
        bytes: "",
        order: &["version"],
    },
    Shape {
        kind: LedgerKind::Dbmate,
        table: "schema_migrations",
        columns: &["version"],
        exact: true,
        bytes: "",
        order: &["version"],
    },
    Shape {
        kind: LedgerKind::Goose,
        table: "goose_db_version",
        columns: &["version_id", "is_applied", "tstamp"],
        exact: false,
        bytes: "",
        order: &["id"],
    },
    Shape {
        kind: LedgerKind::Flyway,
        table: "flyway_schema_history",
        columns: &[
            "version",
            "description",
            "type",
            "script",
            "checksum",
            "installed_on",
            "success",
        ],
        exact: false,
        bytes: "",
        order: &["installed_rank"],
    },
    Shape {
        kind: LedgerKind::Prisma,
        table: "_prisma_migrations",
        columns: &["migration_name", "checksum", "finished_at", "rolled_back_at"],
        exact: false,
        bytes: "",
        order: &["started_at"],
    },
    Shape {
        kind: LedgerKind::Sqitch,
        table: "changes",
        columns: &["change", "script_hash", "committed_at"],
        exact: false,
        bytes: "",
        order: &["committed_at"],
    },
    // Before flyway 5.
    Shape {
        kind: LedgerKind::Flyway,
        table: "schema_version",
        columns: &[
            "version",
            "description",
            "type",
            "script",
            "checksum",
            "installed_on",
            "success",
        ],
        exact: false,
        bytes: "",
        order: &["installed_rank"],
    },
];

/// The tool whose ledger a table is, by its name and its columns.
pub(super) fn shape_of(table: &str, columns: &[String]) -> Option<&'static Shape> {
    let has = |name: &str| columns.iter().any(|column| column.eq_ignore_ascii_case(name));
    SHAPES.iter().find(|shape| {
        // sqitch's table has the most common of names.
        let own = shape.kind != LedgerKind::Sqitch || has("change_id");
        shape.table.eq_ignore_ascii_case(table)
            && own
            && shape.columns.iter().chain(shape.order).all(|name| has(name))
            && (!shape.exact || columns.len() == shape.columns.len())
    })
}

impl Shape {
    /// The columns to read, each with whether it holds bytes.
    pub(super) fn columns(&self) -> impl Iterator<Item = (&'static str, bool)> {
        let bytes = self.bytes;
        self.columns.iter().map(move |name| (*name, *name == bytes))
    }

    /// What the rows say, oldest first.
    pub(super) fn entries(&self, rows: &[Vec<Text>]) -> Vec<ForeignEntry> {
        let mut entries = Vec::new();
        for row in rows {
            let text = |place: usize| row.get(place).cloned().flatten();
            let version = text(0).unwrap_or_default();
            match self.kind {
                LedgerKind::Sqlx => entries.push(ForeignEntry {
                    failed: !is_true(text(3)),
                    applied_at: instant(text(2)),
                    ..entry(version, text(1))
                }),
                LedgerKind::Diesel => entries.push(ForeignEntry {
                    applied_at: instant(text(1)),
                    ..entry(version, None)
                }),
                LedgerKind::GolangMigrate => entries.push(ForeignEntry {
                    failed: is_true(text(1)),
                    and_older: true,
                    ..entry(version, None)
                }),
                LedgerKind::Dbmate => entries.push(entry(version, None)),
                LedgerKind::Goose => {
                    // Each act has a row; the newest of a version says where it stands. Version 0 marks the table's making.
                    entries.retain(|known: &ForeignEntry| known.version != version);
                    if is_true(text(1)) && version != "0" {
                        entries.push(ForeignEntry {
                            applied_at: instant(text(2)),
                            ..entry(version, None)
                        });
                    }
                }
                LedgerKind::Flyway => flyway(&mut entries, row),
                LedgerKind::Prisma => {
                    // A try that somebody declared to be rolled back is over, and what it was for is pending.
                    if text(3).is_some() {
                        continue;
                    }
                    let failed = text(2).is_none();
                    // A migration that failed is tried again under the same name.
                    entries.retain(|known: &ForeignEntry| known.version != version);
                    entries.push(ForeignEntry {
                        failed,
                        applied_at: instant(text(2)),
                        ..entry(version, text(1))
                    });
                }
                LedgerKind::Sqitch => entries.push(ForeignEntry {
                    applied_at: instant(text(2)),
                    ..entry(version, text(1))
                }),
            }
        }
        entries
    }
}

fn entry(version: String, checksum: Text) -> ForeignEntry {
    ForeignEntry {
        version,
        checksum: checksum.unwrap_or_default(),
        applied_at: None,
        failed: false,
        and_older: false,
    }
}

/// Flyway also notes what is no migration: schemas that it made, undone versions, and rows that a repair has struck out.
fn flyway(entries: &mut Vec<ForeignEntry>, row: &[Text]) {
    let text = |place: usize| row.get(place).cloned().flatten();
    let act = text(2).unwrap_or_default().to_ascii_uppercase();
    let success = is_true(text(6));
    let version = text(0).filter(|version| !version.is_empty()).unwrap_or_else(|| {
        let script = text(3).unwrap_or_default();
        let file = script.rsplit('/').next().unwrap_or_default();
        match file.strip_suffix(".sql").filter(|name| name.starts_with("R__")) {
            Some(name) => name.to_owned(),
            None => format!("R__{}", text(1).unwrap_or_default().replace(' ', "_")),
        }
    });
    if act == "SCHEMA" {
        return;
    }
    if act == "DELETE" || (act.starts_with("UNDO") && success) {
        entries.retain(|known| known.version != version);
        return;
    }
    if act.starts_with("UNDO") {
        return;
    }
    entries.retain(|known| known.version != version);
    entries.push(ForeignEntry {
        failed: !success,
        and_older: act == "BASELINE",
        applied_at: instant(text(5)),
        ..entry(version, text(4))
    });
}

fn is_true(text: Text) -> bool {
    text.is_some_and(|text| matches!(text.to_ascii_lowercase().as_str(), "t" | "true" | "1"))
}

/// An instant as tools write them: with a zone, or in UTC without one, or as seconds or milliseconds of the epoch.
fn instant(text: Text) -> Option<Timestamp> {
    let text = text?;
    if let Ok(number) = text.parse::<i64>() {
        return if number.abs() > 100_000_000_000 {
            Timestamp::from_millisecond(number).ok()
        } else {
            Timestamp::from_second(number).ok()
        };
    }
    let text = text.trim().replace(" UTC", "Z");
    text.parse::<Timestamp>().ok().or_else(|| {
        let civil: DateTime = text.parse().ok()?;
        civil.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[&str]) -> Vec<Text> {
        values
            .iter()
            .map(|value| (*value != "-").then(|| (*value).to_owned()))
            .collect()
    }

    fn versions(entries: &[ForeignEntry]) -> Vec<&str> {
        entries.iter().map(|entry| entry.version.as_str()).collect()
    }

    #[test]
    fn tables_are_told_by_their_columns() {
        let kind = |table: &str, columns: &[&str]| {
            let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
            shape_of(table, &columns).map(|shape| shape.kind)
        };
        assert_eq!(
            kind("schema_migrations", &["version", "dirty"]),
            Some(LedgerKind::GolangMigrate)
        );
        assert_eq!(kind("schema_migrations", &["version"]), Some(LedgerKind::Dbmate));
        assert_eq!(kind("schema_migrations", &["version", "inserted_at"]), None);
        assert_eq!(kind("changes", &["change", "script_hash", "committed_at"]), None);
    }

    #[test]
    fn undone_versions_are_not_there() {
        let goose = SHAPES.iter().find(|shape| shape.kind == LedgerKind::Goose).expect("known");
        let rows = [
            row(&["0", "t", "2024-01-01 00:00:00"]),
            row(&["1", "t", "2024-01-01 00:00:00"]),
            row(&["2", "t", "2024-01-01 00:00:00"]),
            row(&["2", "f", "2024-01-02 00:00:00"]),
        ];
        assert_eq!(versions(&goose.entries(&rows)), ["1"]);
        let flyway = SHAPES.iter().find(|shape| shape.kind == LedgerKind::Flyway).expect("known");
        let rows = [
            row(&["-", "<< Flyway Schema Creation >>", "SCHEMA", "\"app\"", "-", "-", "t"]),
            row(&["1", "base", "BASELINE", "<< Flyway Baseline >>", "-", "-", "t"]),
            row(&["2", "two", "SQL", "V2__two.sql", "12", "-", "t"]),
            row(&["2", "two", "UNDO_SQL", "U2__two.sql", "13", "-", "t"]),
            row(&["3", "three", "SQL", "V3__three.sql", "-14", "-", "f"]),
            row(&["-", "my view", "SQL", "views/R__my_view.sql", "15", "-", "t"]),
        ];
        let entries = flyway.entries(&rows);
        assert_eq!(versions(&entries), ["1", "3", "R__my_view"]);
        assert!(entries[0].and_older && entries[1].failed && !entries[2].failed);
    }

    #[test]
    fn what_prisma_counts_as_rolled_back_is_pending() {
        let prisma = SHAPES.iter().find(|shape| shape.kind == LedgerKind::Prisma).expect("known");
        let when = "2024-01-01 00:00:00";
        let rows = [
            row(&["1_one", "aa", "-", when]),
            row(&["2_two", "bb", "-", when]),
            row(&["2_two", "bb", when, "-"]),
            row(&["3_three", "cc", "-", "-"]),
            row(&["4_four", "dd", when, "-"]),
        ];
        let told: Vec<_> = prisma
            .entries(&rows)
            .into_iter()
            .map(|entry| (entry.version, entry.failed))
            .collect();
        let expected = [("2_two", false), ("3_three", true), ("4_four", false)];
        assert_eq!(told, expected.map(|(version, failed)| (version.to_owned(), failed)));
    }

    #[test]
    fn instants_are_read_in_every_form() {
        let at = |text: &str| instant(Some(text.to_owned()));
        let wanted: Option<Timestamp> = "2024-03-01T10:00:00Z".parse().ok();
        for text in [
            "2024-03-01 10:00:00",
            "2024-03-01 10:00:00+00",
            "2024-03-01T10:00:00.000Z",
            "2024-03-01 10:00:00+00:00",
            "1709287200000",
            "1709287200",
            "2024-03-01 10:00:00 UTC",
        ] {
            assert_eq!(at(text), wanted, "{text}");
        }
        assert_eq!(at("soon"), None);
    }
}
