//! How ledgers of other tools are read.

use super::*;
use crate::{migration::source, model::EngineKind, port::SourceFile};

fn folder(files: &[(&str, &str)], layout: Layout) -> Collection {
    let files: Vec<SourceFile> = files
        .iter()
        .map(|(path, text)| SourceFile {
            path: (*path).to_owned(),
            bytes: text.as_bytes().to_vec(),
        })
        .collect();
    source::read(&files, EngineKind::Postgres, Some(layout)).expect("a folder")
}

fn ledger(kind: LedgerKind, entries: &[(&str, bool)]) -> ForeignLedger {
    ForeignLedger {
        kind,
        table: "ledger".to_owned(),
        reach: LedgerReach::Read,
        entries: entries
            .iter()
            .map(|(version, and_older)| ForeignEntry {
                version: (*version).to_owned(),
                checksum: String::new(),
                applied_at: None,
                failed: false,
                and_older: *and_older,
            })
            .collect(),
    }
}

fn states(found: &Standings) -> Vec<Standing> {
    found.items.iter().map(|item| item.standing).collect()
}

#[test]
fn a_newest_version_speaks_for_all_older_ones() {
    let collection = folder(
        &[
            ("1_a.up.sql", "SELECT 1"),
            ("2_b.up.sql", "SELECT 1"),
            ("10_c.up.sql", "SELECT 1"),
        ],
        Layout::GolangMigrate,
    );
    let found = standings(&collection, &[], &[ledger(LedgerKind::GolangMigrate, &[("2", true)])]);
    let adopted = Standing::Adopted(LedgerKind::GolangMigrate);
    assert_eq!(states(&found), [adopted, adopted, Standing::Pending]);
    assert!(found.problems.is_empty(), "{:?}", found.problems);
}

#[test]
fn what_another_layout_keeps_says_nothing() {
    let collection = folder(&[("1_a.up.sql", "SELECT 1")], Layout::Sqlx);
    let found = standings(&collection, &[], &[ledger(LedgerKind::Diesel, &[("1", false)])]);
    assert_eq!(states(&found), [Standing::Pending]);
    assert_eq!(found.ignored.len(), 1);
}

#[test]
fn versions_are_found_however_a_tool_writes_them() {
    let prisma = folder(&[("20240101000000_init/migration.sql", "SELECT 1")], Layout::Prisma);
    let found = standings(&prisma, &[], &[ledger(LedgerKind::Prisma, &[("20240101000000_init", false)])]);
    assert_eq!(states(&found), [Standing::Adopted(LedgerKind::Prisma)]);
    let diesel = folder(&[("2024-01-02-030405_a/up.sql", "SELECT 1")], Layout::Diesel);
    let found = standings(&diesel, &[], &[ledger(LedgerKind::Diesel, &[("20240102030405", false)])]);
    assert_eq!(states(&found), [Standing::Adopted(LedgerKind::Diesel)]);
    let flyway = folder(
        &[("V1_1__a.sql", "SELECT 1"), ("R__all_views.sql", "SELECT 1")],
        Layout::Flyway,
    );
    let entries = [("1.1", false), ("R__all views", false)];
    let found = standings(&flyway, &[], &[ledger(LedgerKind::Flyway, &entries)]);
    let adopted = Standing::Adopted(LedgerKind::Flyway);
    assert_eq!(states(&found), [adopted, adopted]);
}

#[test]
fn what_was_not_read_is_told_and_says_nothing() {
    let collection = folder(&[("1_a.up.sql", "SELECT 1")], Layout::GolangMigrate);
    let other = |table: &str, reach: LedgerReach| ForeignLedger {
        table: table.to_owned(),
        reach,
        ..ledger(LedgerKind::GolangMigrate, &[("1", true)])
    };
    let (one, two) = (
        other("a.ledger", LedgerReach::Outside),
        other("b.ledger", LedgerReach::Outside),
    );
    let grants = "GRANT SELECT ON TABLE c.ledger TO keeper;".to_owned();
    let closed = other("c.ledger", LedgerReach::Unreadable { grants });
    let begun = own("9", LedgerState::RolledBack, "2026-01-02T10:00:00Z");
    for (own, foreign, problem) in [
        (vec![], vec![one.clone()], Some(("FOREIGN_OUTSIDE", false))),
        (vec![], vec![one.clone(), two.clone()], Some(("FOREIGN_OUTSIDE", true))),
        // dbkeep's own ledger says by now what is in effect.
        (vec![begun], vec![one.clone(), two], Some(("FOREIGN_OUTSIDE", false))),
        (vec![], vec![closed, one], Some(("FOREIGN_UNREADABLE", true))),
    ] {
        let found = standings(&collection, &own, &foreign);
        assert_eq!(states(&found), [Standing::Pending], "{foreign:?}");
        assert_eq!(found.ignored.len(), foreign.len());
        let told: Vec<_> = found.problems.iter().map(|problem| (problem.code, problem.blocks)).collect();
        assert_eq!(told, Vec::from_iter(problem), "{foreign:?}");
    }
    let read = ledger(LedgerKind::GolangMigrate, &[("0", true)]);
    let found = standings(&collection, &[], &[read, other("a.ledger", LedgerReach::Outside)]);
    assert!(!codes(&found).contains(&"FOREIGN_OUTSIDE"), "{:?}", found.problems);
}

#[test]
fn what_is_only_in_a_ledger_is_listed_last_and_blocks_nothing() {
    let collection = folder(&[("2_b.up.sql", "SELECT 1")], Layout::Sqlx);
    let found = standings(&collection, &[], &[ledger(LedgerKind::Sqlx, &[("1", false)])]);
    assert_eq!(states(&found), [Standing::Pending, Standing::Adopted(LedgerKind::Sqlx)]);
    assert_eq!(found.problems[0].code, "FILE_MISSING");
    assert!(!found.problems[0].blocks);
}

fn own(id: &str, state: LedgerState, at: &str) -> LedgerEntry {
    LedgerEntry {
        id: MigrationId(id.to_owned()),
        name: "a".to_owned(),
        sha256: String::new(),
        state,
        statements_done: 1,
        statements: 1,
        in_doubt: false,
        problem: String::new(),
        rows: 0,
        duration_ms: 0,
        at: at.parse().expect("a time"),
        by: "ann".to_owned(),
        run: crate::model::RunId::new(),
        backup: None,
        script_sha256: String::new(),
    }
}

fn said(at: Option<&str>, failed: bool) -> ForeignLedger {
    let mut found = ledger(LedgerKind::Sqlx, &[("1", false)]);
    found.entries[0].applied_at = at.map(|at| at.parse().expect("a time"));
    found.entries[0].failed = failed;
    found
}

fn codes(found: &Standings) -> Vec<&str> {
    found.problems.iter().map(|problem| problem.code).collect()
}

#[test]
fn what_another_tool_does_after_it_was_taken_back_counts() {
    let collection = folder(&[("1_a.up.sql", "SELECT 1")], Layout::Sqlx);
    let back = own("1", LedgerState::RolledBack, "2026-01-02T10:00:00.5Z");
    let adopted = Standing::Adopted(LedgerKind::Sqlx);
    for (at, failed, standing, problem) in [
        (Some("2026-01-02T09:59:59Z"), false, Standing::Pending, None),
        (Some("2026-01-02T10:00:01Z"), false, adopted, None),
        (Some("2026-01-02T10:00:00.6Z"), false, adopted, None),
        (Some("2026-01-02T10:00:00.4Z"), false, Standing::Pending, None),
        // A whole second may be any moment of that second.
        (
            Some("2026-01-02T10:00:00Z"),
            false,
            Standing::Pending,
            Some("FOREIGN_UNDATED"),
        ),
        (None, false, Standing::Pending, Some("FOREIGN_UNDATED")),
        (None, true, Standing::Pending, Some("FOREIGN_UNDATED")),
        (Some("2026-01-02T10:00:01Z"), true, Standing::Pending, Some("FOREIGN_FAILED")),
        (Some("2026-01-02T09:00:00Z"), true, Standing::Pending, None),
    ] {
        let found = standings(&collection, std::slice::from_ref(&back), &[said(at, failed)]);
        assert_eq!(states(&found), [standing], "{at:?} {failed}");
        assert_eq!(codes(&found), Vec::from_iter(problem), "{at:?} {failed}");
        assert!(found.problems.iter().all(|problem| problem.blocks));
    }
}

#[test]
fn what_was_known_when_it_was_taken_back_is_no_news_and_a_later_time_is() {
    let collection = folder(&[("1_a.up.sql", "SELECT 1")], Layout::Sqlx);
    let mut back = own("1", LedgerState::RolledBack, "2026-01-02T10:00:00.5Z");
    let word = standings(&collection, &[], &[said(None, false)]).items[0].elsewhere.clone();
    back.problem = word.expect("a word").known();
    for at in [None, Some("2026-01-02T10:00:00Z"), Some("2026-01-01T10:00:00Z")] {
        let found = standings(&collection, std::slice::from_ref(&back), &[said(at, false)]);
        assert_eq!((states(&found), codes(&found)), (vec![Standing::Pending], vec![]), "{at:?}");
    }
    let found = standings(&collection, &[back], &[said(Some("2026-01-02T10:00:01Z"), false)]);
    assert_eq!(states(&found), [Standing::Adopted(LedgerKind::Sqlx)]);
}

#[test]
fn a_newest_version_speaks_for_what_was_taken_back_too() {
    let collection = folder(
        &[("1_a.up.sql", "SELECT 1"), ("2_b.up.sql", "SELECT 1")],
        Layout::GolangMigrate,
    );
    let back = own("1", LedgerState::RolledBack, "2026-01-02T10:00:00Z");
    let found = standings(&collection, &[back], &[ledger(LedgerKind::GolangMigrate, &[("2", true)])]);
    assert_eq!(found.items[0].standing, Standing::Pending);
    assert!(codes(&found).contains(&"FOREIGN_UNDATED"), "{:?}", found.problems);
    let applied = own("1", LedgerState::Applied, "2026-01-02T10:00:00Z");
    let found = standings(&collection, &[applied], &[ledger(LedgerKind::GolangMigrate, &[("2", true)])]);
    assert_eq!(found.items[0].standing, Standing::Applied);
    assert!(codes(&found).is_empty(), "{:?}", found.problems);
}
