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
fn what_is_only_in_a_ledger_is_listed_last_and_blocks_nothing() {
    let collection = folder(&[("2_b.up.sql", "SELECT 1")], Layout::Sqlx);
    let found = standings(&collection, &[], &[ledger(LedgerKind::Sqlx, &[("1", false)])]);
    assert_eq!(states(&found), [Standing::Pending, Standing::Adopted(LedgerKind::Sqlx)]);
    assert_eq!(found.problems[0].code, "FILE_MISSING");
    assert!(!found.problems[0].blocks);
}
