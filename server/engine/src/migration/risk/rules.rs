//! The rules that are dbkeep's own: from the facts of a statement and the size of its tables to reasons. A size that nobody knows
//! counts as large; a table that the script created disturbs nobody.

use super::{
    context::{Context, Size},
    reading::{Fact, Reading},
    token::Name,
};
use crate::model::{EngineKind, LockMode, Risk, RiskReason, Work};

/// What a lock of SQLite is on.
pub(super) const DATABASE: &str = "*";

/// Judges the statements of one script in order.
#[derive(Debug)]
pub(super) struct Judge {
    /// What is known after the last statement.
    finally: Context,
    foreign_keys_off: bool,
    /// The transaction that the last statement was in.
    group: Option<usize>,
    /// Tables that are locked against everybody in that transaction and that were there before the script.
    held: Vec<Name>,
}

impl Judge {
    /// Before the first statement.
    pub(super) fn new(finally: Context, foreign_keys_off: bool) -> Self {
        Self {
            finally,
            foreign_keys_off,
            group: None,
            held: Vec::new(),
        }
    }

    /// Why a statement is risky.
    pub(super) fn judge(&mut self, reading: &Reading, context: &Context, group: usize, atomic: bool) -> Vec<RiskReason> {
        if self.group != Some(group) || !atomic {
            self.held.clear();
            self.group = Some(group);
        }
        let mut reasons: Vec<RiskReason> = reading
            .facts
            .iter()
            .filter_map(|fact| self.by_fact(fact, reading, context, atomic))
            .collect();
        if context.engine == EngineKind::Postgres && atomic {
            self.by_transaction(reading, context, &mut reasons);
        }
        reasons
    }

    /// What only the locks of earlier statements make risky.
    fn by_transaction(&mut self, reading: &Reading, context: &Context, reasons: &mut Vec<RiskReason>) {
        let busy: Vec<&Name> = reading
            .tables
            .iter()
            .filter(|table| context.size(table) >= Size::Medium)
            .collect();
        if let (Some(held), Some(table)) = (self.held.first(), busy.first())
            && reading.work != Work::Catalog
            && reading.kind != "SELECT"
        {
            let all = reading
                .facts
                .iter()
                .any(|fact| matches!(fact, Fact::UpdatesAll(_) | Fact::DeletesAll(_)));
            let risk = if reading.work > Work::Rows || all {
                Risk::High
            } else {
                Risk::Medium
            };
            reasons.push(reason(
                "long-work-under-lock",
                risk,
                format!(
                    "{held} stays locked against everybody while {table} with {} is worked through",
                    context.rows_in_words(table)
                ),
                "Do the work in a migration of its own, before or after the one that needs the lock.",
            ));
        }
        let exclusive = reading.locks.iter().filter(|(_, mode)| *mode == LockMode::AccessExclusive);
        for (table, _) in exclusive.filter(|(table, _)| !context.is_new(table)) {
            if self.held.contains(table) {
                continue;
            }
            if let Some(first) = self.held.first()
                && !reasons.iter().any(|reason| reason.rule == "several-exclusive-locks")
            {
                reasons.push(reason(
                    "several-exclusive-locks",
                    Risk::Medium,
                    format!("the transaction locks {table} against everybody while it holds such a lock on {first}; sessions that use both in another order deadlock with it"),
                    "Change one table in each migration, or let the statements be committed one by one.",
                ));
            }
            self.held.push(table.clone());
        }
    }

    fn by_fact(&self, fact: &Fact, reading: &Reading, context: &Context, atomic: bool) -> Option<RiskReason> {
        let sized = |table: &Name| context.size(table);
        let rows = |table: &Name| context.rows_in_words(table);
        match fact {
            Fact::Opaque(why) => Some(reason(
                "opaque",
                Risk::Medium,
                format!("{} cannot be judged by reading: {why}", reading.kind),
                "Rehearse it on a copy, which shows its locks and its duration.",
            )),
            Fact::UpdatesAll(table) if has_rows(table, context) => Some(reason(
                "update-without-where",
                Risk::High,
                format!("UPDATE without a condition changes every row of {table}"),
                "Say which rows are meant, and change a large table in batches.",
            )),
            Fact::DeletesAll(table) if has_rows(table, context) => Some(reason(
                "delete-without-where",
                Risk::High,
                format!("DELETE without a condition deletes every row of {table}"),
                "Say which rows are meant, or use TRUNCATE where all of them are.",
            )),
            Fact::DeletesSome(table) if has_rows(table, context) => Some(reason(
                "loses-data",
                Risk::Medium,
                format!("rows of {table} are deleted, which no opposite brings back"),
                "Let a backup be made before.",
            )),
            Fact::Loses { what, table } => loss(what, table.as_ref(), context),
            Fact::ForeignKey {
                child, columns, parent, ..
            } => self.unindexed(child, columns, parent),
            Fact::Rewrites { table, why } => {
                let risk = by_size(sized(table), Risk::High)?;
                let message = format!("{table} with {} is written anew while nobody can use it: {why}", rows(table));
                Some(reason(
                    "table-rewrite",
                    risk,
                    message,
                    "Add a column beside it, fill it in batches, and switch over.",
                ))
            }
            Fact::Scans { table, why } => scan(table, why, reading, context),
            Fact::ChangesType {
                table,
                column,
                to,
                rewrites,
            } => {
                let risk = if *rewrites {
                    by_size(sized(table), Risk::High)?
                } else {
                    by_size(sized(table), Risk::Low)?
                };
                let how = if *rewrites {
                    format!("; {} are written anew while nobody can use the table", rows(table))
                } else {
                    String::new()
                };
                let message = format!("column {column} of {table} becomes {to}{how}");
                Some(reason(
                    "type-change",
                    risk,
                    message,
                    "Add a column of the new type, fill it in batches, and switch over.",
                ))
            }
            Fact::VolatileDefault { table, column, default } => {
                let risk = by_size(sized(table), Risk::High)?;
                let message = format!(
                    "the default {default} of {column} is computed for each row, so that {table} with {} is written anew",
                    rows(table)
                );
                Some(reason(
                    "volatile-default",
                    risk,
                    message,
                    "Add the column without a default, set the default, and fill the column in batches.",
                ))
            }
            Fact::RequiredColumn { table, column } if has_rows(table, context) => Some(reason(
                "not-null-without-default",
                Risk::High,
                format!(
                    "column {column} of {table} must not be null and has no default: it fails where there are rows, of which {table} has {}",
                    rows(table)
                ),
                "Give it a default, or add it nullable, fill it, and set NOT NULL then.",
            )),
            Fact::Impossible { table, why } if has_rows(table, context) => Some(reason(
                "cannot-add-column",
                Risk::High,
                format!("it fails where {table} has rows: {why}"),
                "Rebuild the table.",
            )),
            Fact::Indexes {
                table,
                concurrently: false,
                built: true,
                ..
            } if context.engine == EngineKind::Postgres => {
                let exclusive = reading
                    .locks
                    .iter()
                    .any(|(name, mode)| name == table && *mode == LockMode::AccessExclusive);
                let risk = by_size(sized(table), Risk::High)?;
                let whom = if exclusive { "nobody can use" } else { "nobody can write to" };
                let message = format!("an index over {} is built while {whom} {table}", rows(table));
                let help = if exclusive {
                    "Build a unique index CONCURRENTLY and add the constraint USING INDEX."
                } else {
                    "Build it CONCURRENTLY, outside of a transaction."
                };
                Some(reason("index-blocks-writes", risk, message, help))
            }
            Fact::NoTransaction if atomic && context.engine == EngineKind::Postgres => Some(reason(
                "fails-in-transaction",
                Risk::High,
                format!("{} as it is written here fails inside a transaction", reading.kind),
                "Let the statements of the migration be committed one by one.",
            )),
            Fact::LocksExplicitly(table) => {
                let risk = by_size(sized(table), Risk::Medium)?;
                Some(reason(
                    "explicit-lock",
                    risk,
                    format!("{table} is locked until the transaction ends"),
                    "",
                ))
            }
            Fact::WritesCatalog => Some(reason(
                "writable-schema",
                Risk::High,
                "the schema is edited as text; a mistake makes the database unreadable".to_owned(),
                "Rebuild the table instead.",
            )),
            Fact::DropsRebuilt { table, renamed_first } => Some(self.cascades(table, *renamed_first, context)),
            Fact::Replaces(table) if has_rows(table, context) => self.replaces(table, context),
            _ => None,
        }
    }

    fn unindexed(&self, child: &Name, columns: &[String], parent: &Name) -> Option<RiskReason> {
        if columns.is_empty() || self.finally.is_indexed(child, columns) {
            return None;
        }
        let list = columns.join(", ");
        Some(reason(
            "unindexed-foreign-key",
            Risk::Medium,
            format!(
                "no index leads with {list} of {child}, so that each row that is deleted from {parent} makes the database search all of {child}"
            ),
            &format!("Create an index on {child} ({list})."),
        ))
    }

    /// SQLite: with foreign keys on, `DROP TABLE` deletes all rows first, with what that does to the children.
    fn cascades(&self, table: &Name, renamed_first: bool, context: &Context) -> RiskReason {
        let mut children: Vec<String> = context.keys_to(table).map(|key| key.child.to_string()).collect();
        children.sort();
        children.dedup();
        let list = children.join(", ");
        let help = "Put PRAGMA foreign_keys = OFF before the transaction, and compare the children's rows afterwards.";
        if children.is_empty() {
            let message = format!("{table} is rebuilt; no foreign key to it is known");
            return reason("rebuild-cascades", Risk::Low, message, help);
        }
        if self.foreign_keys_off {
            let (risk, how) = if renamed_first {
                (
                    Risk::High,
                    "; their foreign keys followed the renaming and now are to a table that is dropped",
                )
            } else {
                (Risk::Low, "; foreign keys are off, so that the rows of its children stay")
            };
            return reason(
                "rebuild-cascades",
                risk,
                format!("{table} is rebuilt, to which {list} refer{how}"),
                "Create the new table under another name, fill it, drop the old one, and rename the new one.",
            );
        }
        let message = format!(
            "{table} is rebuilt with foreign keys on: dropping the old table deletes or nulls the rows of {list} that refer to it"
        );
        reason("rebuild-cascades", Risk::High, message, help)
    }

    fn replaces(&self, table: &Name, context: &Context) -> Option<RiskReason> {
        let children: Vec<String> = context.keys_to(table).map(|key| key.child.to_string()).collect();
        if children.is_empty() || self.foreign_keys_off {
            return None;
        }
        let message = format!(
            "a row of {table} that clashes is deleted before it is inserted anew, which deletes or nulls its rows in {}",
            children.join(", ")
        );
        Some(reason("replace-deletes", Risk::Medium, message, "Use ON CONFLICT DO UPDATE."))
    }
}

fn reason(rule: &str, risk: Risk, message: String, help: &str) -> RiskReason {
    RiskReason {
        rule: rule.to_owned(),
        risk,
        message,
        help: help.to_owned(),
    }
}

/// Whether rows may be there that somebody cares about.
fn has_rows(table: &Name, context: &Context) -> bool {
    context.size(table) > Size::Empty
}

/// The risk of what takes as long as a table is large; `None` where there is nobody to disturb and nothing to do.
fn by_size(size: Size, large: Risk) -> Option<Risk> {
    match size {
        Size::New => None,
        Size::Empty | Size::Small => Some(Risk::Low),
        Size::Medium | Size::Large | Size::Unknown => Some(large),
    }
}

fn loss(what: &str, table: Option<&Name>, context: &Context) -> Option<RiskReason> {
    let size = table.map_or(Size::Unknown, |table| context.size(table));
    let risk = match size {
        Size::New => return None,
        // The count may be an estimate, and the table's definition goes all the same.
        Size::Empty => Risk::Medium,
        _ => Risk::High,
    };
    Some(reason(
        "loses-data",
        risk,
        format!("{what} is lost, and no opposite brings it back"),
        "Let a backup be made before.",
    ))
}

fn scan(table: &Name, why: &str, reading: &Reading, context: &Context) -> Option<RiskReason> {
    let size = context.size(table);
    let mode = reading.locks.iter().find(|(name, _)| name == table).map(|(_, mode)| *mode);
    // Reading is fast, so that a table has to be really large for it to be an outage.
    let large = if size == Size::Medium { Risk::Medium } else { Risk::High };
    let (risk, whom) = match mode {
        Some(LockMode::AccessExclusive) if context.engine == EngineKind::Postgres => (by_size(size, large)?, "nobody can use it"),
        Some(LockMode::Share | LockMode::ShareRowExclusive | LockMode::Exclusive) => {
            (by_size(size, large)?, "nobody can write to it")
        }
        _ if context.engine == EngineKind::Sqlite => (by_size(size, Risk::Medium)?, "nobody can write"),
        _ => return None,
    };
    let message = format!(
        "{table} with {} is read from beginning to end while {whom}: {why}",
        context.rows_in_words(table)
    );
    Some(reason(
        "table-scan",
        risk,
        message,
        "Add the constraint NOT VALID and VALIDATE it in a migration of its own.",
    ))
}
