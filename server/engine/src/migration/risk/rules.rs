//! How risky a statement is: facts of a [`Reading`] against the sizes of tables and what the script made itself.

use super::{
    context::{Context, Size},
    reading::{Fact, Reading},
    sqlite,
    token::Name,
};
use crate::model::{EngineKind, LockMode, Risk, RiskReason, Work};

/// Judges a statement by what was known before it, except that an index may come after the key that needs it.
pub(super) fn judge(reading: &Reading, before: &Context, after: &Context, foreign_keys_off: bool) -> Vec<RiskReason> {
    let mut reasons: Vec<RiskReason> = Vec::new();
    for fact in &reading.facts {
        let found = about_rows(fact, before)
            .or_else(|| about_schema(fact, before, after))
            .or_else(|| about_work(fact, reading, before))
            .or_else(|| about_rebuilds(fact, before, foreign_keys_off));
        if let Some(reason) = found
            && !reasons.contains(&reason)
        {
            reasons.push(reason);
        }
    }
    reasons
}

/// Whether data goes that was there before the script.
pub(super) fn loses_data(reading: &Reading, before: &Context) -> bool {
    reading.facts.iter().any(|fact| match fact {
        Fact::Loses { table, .. } => table.as_ref().is_none_or(|table| !before.is_new(table)),
        Fact::DeletesAll(table) | Fact::DeletesSome(table) => !before.is_new(table),
        _ => false,
    })
}

fn reason(rule: &str, risk: Risk, message: impl Into<String>, help: &str) -> RiskReason {
    RiskReason {
        rule: rule.to_owned(),
        risk,
        message: message.into(),
        help: help.to_owned(),
    }
}

/// The risk of work that takes as long as a table is large; `None` where nobody can notice.
fn by_size(size: Size) -> Option<Risk> {
    match size {
        Size::New | Size::Empty => None,
        Size::Absent | Size::Small => Some(Risk::Low),
        Size::Medium => Some(Risk::Medium),
        Size::Large | Size::Unknown => Some(Risk::High),
    }
}

fn has_rows(size: Size) -> bool {
    !matches!(size, Size::New | Size::Empty)
}

fn about_rows(fact: &Fact, before: &Context) -> Option<RiskReason> {
    match fact {
        Fact::UpdatesAll(table) if has_rows(before.size(table)) => Some(reason(
            "update-without-where",
            Risk::High,
            format!(
                "UPDATE without a condition changes every row of {table} ({})",
                before.rows_in_words(table)
            ),
            "state which rows; where all of them are meant, change them in portions",
        )),
        Fact::DeletesAll(table) if has_rows(before.size(table)) => Some(reason(
            "delete-without-where",
            Risk::High,
            format!(
                "DELETE without a condition removes every row of {table} ({})",
                before.rows_in_words(table)
            ),
            "state which rows",
        )),
        Fact::DeletesSome(table) if has_rows(before.size(table)) => Some(reason(
            "deletes-rows",
            Risk::Medium,
            format!("rows of {table} are deleted, and no other statement brings them back"),
            "",
        )),
        Fact::Replaces(table) if before.keys_to(table).next().is_some() => Some(reason(
            "replaces-rows",
            Risk::Medium,
            format!("a row of {table} that clashes is deleted first, and what refers to it goes with it or is in the way"),
            "use INSERT .. ON CONFLICT DO UPDATE",
        )),
        Fact::Loses { what, table } => match table.as_ref().map(|table| before.size(table)) {
            Some(Size::New) => None,
            Some(Size::Empty) => Some(reason(
                "loses-data",
                Risk::Low,
                format!("{what} is gone, though it has no rows now"),
                "",
            )),
            _ => Some(reason(
                "loses-data",
                Risk::High,
                format!("{what} is gone"),
                "take a backup before it",
            )),
        },
        _ => None,
    }
}

fn about_schema(fact: &Fact, before: &Context, after: &Context) -> Option<RiskReason> {
    match fact {
        Fact::Opaque(why) => Some(reason(
            "opaque",
            Risk::Medium,
            format!("it cannot be judged by reading it: {why}"),
            "rehearse it",
        )),
        Fact::ForeignKey {
            child, columns, parent, ..
        } if !columns.is_empty() && !after.is_indexed(&now(child, before, after), columns) => Some(reason(
            "unindexed-foreign-key",
            Risk::Medium,
            format!(
                "no index begins with {} of {child}, so that every DELETE from {parent} reads all of {child}",
                columns.join(", ")
            ),
            "create an index on these columns",
        )),
        Fact::Renames { from, to } if !before.is_new(from) => Some(reason(
            "renames-table",
            Risk::Medium,
            format!("whoever still says {from} fails once it is {to}"),
            "leave a view with the old name behind",
        )),
        Fact::RenamesColumn { table, column } if !before.is_new(table) => Some(reason(
            "renames-column",
            Risk::Medium,
            format!("whoever still says {column} of {table} fails"),
            "add a column, fill it, and drop the old one once nobody uses it",
        )),
        Fact::RequiredColumn { table, column } if has_rows(before.size(table)) => Some(reason(
            "required-column",
            if before.size(table) == Size::Absent {
                Risk::Medium
            } else {
                Risk::High
            },
            format!(
                "{column} must not be null and has no default, so that adding it fails where {table} has rows, and so do clients that do not know it"
            ),
            "add it with a default, or nullable, fill it, and set NOT NULL after that",
        )),
        Fact::Impossible { table, always, why } if *always || has_rows(before.size(table)) => {
            Some(reason("cannot-succeed", Risk::High, why.clone(), ""))
        }
        Fact::LocksExplicitly(table) if !before.is_new(table) => Some(reason(
            "explicit-lock",
            Risk::Medium,
            format!("{table} is locked until the transaction ends"),
            "",
        )),
        Fact::WritesCatalog => Some(reason(
            "writes-catalog",
            Risk::High,
            "the schema's own table can be written, and a mistake in it makes the database unreadable",
            "rebuild the table instead",
        )),
        _ => None,
    }
}

/// A table by the name that it has in the end; a rebuilt table has its key declared under the name of the copy.
fn now(table: &Name, before: &Context, after: &Context) -> Name {
    let declared = before.keys.len();
    let key = after
        .keys
        .get(declared..)
        .and_then(|new| new.iter().find(|key| key.declared_as.same(table)));
    key.map_or_else(|| table.clone(), |key| key.child.clone())
}

fn about_work(fact: &Fact, reading: &Reading, before: &Context) -> Option<RiskReason> {
    let mode = |table: &Name| {
        let held = reading
            .locks
            .iter()
            .find(|(name, _)| name == table || name.to_string() == sqlite::DATABASE);
        held.map_or(LockMode::AccessShare, |(_, mode)| *mode)
    };
    let blocked = |table: &Name| match mode(table) {
        _ if before.engine == EngineKind::Sqlite => "every writer of the database waits",
        LockMode::AccessExclusive => "everybody who uses it waits",
        _ => "everybody who writes it waits",
    };
    let rows = |table: &Name| before.rows_in_words(table);
    match fact {
        Fact::Indexes {
            table,
            concurrently: false,
            built: true,
            ..
        } => {
            let mut risk = by_size(before.size(table))?;
            let mut help = "build the index CONCURRENTLY; a constraint can take it over with USING INDEX";
            if before.engine == EngineKind::Sqlite {
                // There is no other way to build an index, and readers are not blocked in WAL mode.
                risk = risk.min(Risk::Medium);
                help = "";
            }
            let message = format!("an index is built over {table} ({}), and {}", rows(table), blocked(table));
            Some(reason("index-blocks", risk, message, help))
        }
        Fact::Rewrites { table, why } => {
            let message = format!("{table} ({}) is written anew: {why}; {}", rows(table), blocked(table));
            Some(reason("rewrites-table", by_size(before.size(table))?, message, ""))
        }
        Fact::VolatileDefault { table, column, default } => {
            let message = format!(
                "the default {default} of {column} is computed for each row, for which {table} ({}) is written anew; {}",
                rows(table),
                blocked(table)
            );
            let help = "add the column without it, set the default after that, and fill the rows in portions";
            Some(reason("volatile-default", by_size(before.size(table))?, message, help))
        }
        Fact::ChangesType { table, column, to } => {
            let message = format!(
                "{column} becomes {to}, for which {table} ({}) is written anew; {}",
                rows(table),
                blocked(table)
            );
            let help = "add another column, fill it in portions, and let it take the old one's place";
            Some(reason("type-change", by_size(before.size(table))?, message, help))
        }
        // Under a weaker lock than this nobody waits for the scan.
        Fact::Scans { table, why } if mode(table) >= LockMode::Share => {
            let message = format!(
                "{table} ({}) is read from beginning to end: {why}; {}",
                rows(table),
                blocked(table)
            );
            let help = "declare it NOT VALID and validate it in a transaction of its own";
            let help = if before.engine == EngineKind::Postgres { help } else { "" };
            Some(reason("scans-table", by_size(before.size(table))?, message, help))
        }
        _ => None,
    }
}

fn about_rebuilds(fact: &Fact, before: &Context, foreign_keys_off: bool) -> Option<RiskReason> {
    let Fact::DropsRebuilt { table, renamed_first } = fact else {
        return None;
    };
    let mut children: Vec<String> = before.keys_to(table).map(|key| key.child.to_string()).collect();
    children.sort();
    children.dedup();
    let children = children.join(", ");
    if children.is_empty() {
        None
    } else if *renamed_first {
        Some(reason(
            "rebuild-cascades",
            Risk::High,
            format!("the references of {children} follow the renaming and are to {table}, which is dropped"),
            "create the new table under another name, drop the old one, and rename the new one after that",
        ))
    } else if foreign_keys_off {
        None
    } else {
        Some(reason(
            "rebuild-cascades",
            Risk::High,
            format!("dropping {table} deletes its rows first, and with them, by their foreign keys, those of {children}"),
            "put PRAGMA foreign_keys = OFF at the script's beginning",
        ))
    }
}

/// The locks that a transaction has taken so far on tables which others use.
#[derive(Debug, Default)]
pub(super) struct Held {
    exclusive: Vec<Name>,
}

impl Held {
    /// Judges a statement by the locks of those before it in the transaction, and notes its own.
    pub(super) fn judge(&mut self, reading: &Reading, before: &Context) -> Vec<RiskReason> {
        let mut reasons = Vec::new();
        if before.engine == EngineKind::Sqlite {
            return reasons;
        }
        if reading.facts.contains(&Fact::NoTransaction) {
            let message = format!("{} fails in a transaction", reading.kind);
            reasons.push(reason(
                "not-in-transaction",
                Risk::Medium,
                message,
                "give it a migration of its own",
            ));
        }
        let creates = |table: &Name| {
            let mut facts = reading.facts.iter();
            facts.any(|fact| matches!(fact, Fact::Creates(created) if created.same(table)))
        };
        let used = |table: &Name| !matches!(before.size(table), Size::New | Size::Absent) && !creates(table);
        let names = |tables: &[Name]| tables.iter().map(Name::to_string).collect::<Vec<_>>().join(", ");
        let heavy = reading.tables.iter().filter_map(|table| {
            let risk = by_size(before.size(table)).filter(|risk| *risk > Risk::Low)?;
            // Rows that a condition picks may be few.
            Some((table, if reading.work == Work::Rows { Risk::Medium } else { risk }))
        });
        if reading.work > Work::Catalog
            && !self.exclusive.is_empty()
            && let Some((table, risk)) = heavy.max_by_key(|(_, risk)| *risk)
        {
            reasons.push(reason(
                "long-work-under-lock",
                risk,
                format!(
                    "while it works through {table} ({}), nobody can use {}, which the transaction has locked before",
                    before.rows_in_words(table),
                    names(&self.exclusive)
                ),
                "put it into a migration of its own",
            ));
        }
        let held = self.exclusive.len();
        for (table, mode) in &reading.locks {
            if *mode == LockMode::AccessExclusive && used(table) && !self.exclusive.iter().any(|name| name.same(table)) {
                self.exclusive.push(table.clone());
            }
        }
        if self.exclusive.len() > held.max(1) {
            reasons.push(reason(
                "several-exclusive-locks",
                Risk::Medium,
                format!(
                    "the transaction holds ACCESS EXCLUSIVE on {} at the same time, which may deadlock with others",
                    names(&self.exclusive)
                ),
                "change one table in each migration",
            ));
        }
        reasons
    }
}
