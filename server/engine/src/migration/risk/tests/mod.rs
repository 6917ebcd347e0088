//! Tables of statements with what is expected of each, and scripts whose statements depend on each other.

mod postgres;
mod scripts;
mod sqlite;

use super::{Known, assess};
use crate::model::{EngineKind, Group, Impact, LockMode, Risk, Script, Statement, TableMeasure, Work};

/// A statement, its kind, its first lock as `table mode`, its work, whether it loses data, and its risk.
type Case = (&'static str, &'static str, &'static str, Work, bool, Risk);

fn script(statements: &[&str], atomic: bool) -> Script {
    let statements = statements
        .iter()
        .map(|sql| Statement {
            sql: (*sql).to_owned(),
            line: 1,
            column: 1,
        })
        .collect();
    Script {
        file: "1_test.sql".to_owned(),
        sha256: String::new(),
        groups: vec![Group { atomic, statements }],
        foreign_keys_off: false,
    }
}

/// A table of each size: `big`, `mid`, `small`, `empty`; others are of unknown size.
fn known() -> Known {
    let table = |table: &str, rows| TableMeasure {
        table: table.to_owned(),
        rows: Some(rows),
        bytes: rows * 100,
    };
    Known {
        tables: vec![
            table("big", 5_000_000),
            table("mid", 100_000),
            table("small", 50),
            table("empty", 0),
        ],
        indexes: vec![("big".to_owned(), vec!["owner_id".to_owned()])],
        foreign_keys: vec![("child".to_owned(), vec!["parent_id".to_owned()], "parent".to_owned())],
        columns: vec![
            ("big".to_owned(), "name".to_owned(), "character varying(50)".to_owned()),
            ("big".to_owned(), "id".to_owned(), "integer".to_owned()),
            ("big".to_owned(), "price".to_owned(), "numeric(10,2)".to_owned()),
        ],
    }
}

fn locks_of(impact: &Impact) -> Vec<(String, LockMode)> {
    impact.locks.iter().map(|lock| (lock.table.clone(), lock.mode)).collect()
}

fn rules_of(impact: &Impact) -> Vec<&str> {
    impact.reasons.iter().map(|reason| reason.rule.as_str()).collect()
}

fn check(cases: &[Case], engine: EngineKind) {
    let mut wrong = Vec::new();
    for (sql, kind, lock, work, loses_data, risk) in cases {
        let impacts = assess(&script(&[sql], false), engine, &known());
        let impact = impacts.first().expect("an impact for the statement");
        let first = impact
            .locks
            .first()
            .map(|lock| format!("{} {:?}", lock.table, lock.mode))
            .unwrap_or_default();
        let found = (
            impact.kind.as_str(),
            first.as_str(),
            impact.work,
            impact.loses_data,
            super::overall(&impacts),
        );
        if found != (*kind, *lock, *work, *loses_data, *risk) {
            wrong.push(format!(
                "{sql}\n  expected {:?}\n  found    {found:?} {:?}",
                (kind, lock, work, loses_data, risk),
                rules_of(impact)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
