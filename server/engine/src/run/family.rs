//! The work of a batch whose rows do not simply go: rows with children, rows that are archived, rows that are changed.
//!
//! ```text
//!  hold       the listed rows that still match, then along the links the rows that name them, and so on: all locked
//!  budget     more rows than one transaction should take: the batch is taken back, and fewer are listed rows at a time
//!  capture    every held row, children before what they name
//!  change     keys to NULL, then deletions table by table from the last children up to the listed rows; each statement's count
//!             must be the held one
//! ```
//!
//! `RETURNING` does not show what a constraint deletes along with a row, and a trigger can keep a row without a word. Here the
//! database's own cascade finds nothing left to do, and every statement's count is compared with what was held and captured.

use std::{collections::HashSet, sync::Arc};

use super::batch::{BatchOrder, Done, begin_chunk, layout};
use crate::{
    backup::ChunkWriter,
    model::{Along, ChildAction, ChildLink, Row, RowAction, TableName, TableSchema, Value},
    port::{Archive, BatchTransaction, Captured, TableLayout, TargetError, TargetErrorClass},
};

/// Most rows that one transaction may touch, however many hang on a single listed row.
const MAX_ROWS: u64 = 100_000;

/// A row by table and primary key.
type Identity = (usize, Vec<u8>);

/// Held rows of one table that are treated alike.
struct Held {
    /// Position in [`Walk::tables`].
    table: usize,
    /// Captured columns of each row.
    rows: Vec<Row>,
}

struct Walk<'a> {
    tables: Vec<&'a Arc<TableSchema>>,
    going: HashSet<Identity>,
    /// Rows that go, in the order in which they were reached: a parent before its children.
    deletions: Vec<Held>,
    /// Rows whose key becomes NULL, with the link's columns.
    nullings: Vec<(Held, &'a ChildLink)>,
    count: u64,
    budget: u64,
}

fn mismatch(message: String) -> TargetError {
    TargetError::new(TargetErrorClass::Refused, message)
}

/// The values of some columns of a captured row.
fn pick(table: &TableSchema, row: &Row, columns: &[String]) -> Result<Row, TargetError> {
    columns
        .iter()
        .map(|name| {
            let position = table.captured_columns().position(|column| column.name == *name);
            let value = position.and_then(|position| row.get(position)).cloned();
            value.ok_or_else(|| mismatch(format!("column {name} of {} is computed and cannot be followed", table.name)))
        })
        .collect()
}

/// The primary key of a captured row. SQLite lets it hold NULL, by which no statement finds the row again: such a row would be
/// captured and stay, or go uncaptured with the one that it names.
fn key_of(table: &TableSchema, row: &Row) -> Result<Row, TargetError> {
    let key = pick(table, row, &table.primary_key)?;
    if key.iter().any(|value| matches!(value, Value::Null)) {
        let columns = table.primary_key.join(", ");
        return Err(mismatch(format!(
            "a row of {} has NULL in its primary key ({columns}) and cannot be told from another; give it a key",
            table.name
        )));
    }
    Ok(key)
}

/// A key that can be compared and hashed. Values of one column that are equal to the database but not byte by byte count as
/// different here: such a row is at worst looked at twice.
fn identity(values: &Row) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in values {
        match value {
            Value::Null => bytes.push(b'n'),
            Value::Integer(number) => {
                bytes.push(b'i');
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            Value::Real(number) => {
                bytes.push(b'r');
                bytes.extend_from_slice(&number.to_bits().to_le_bytes());
            }
            Value::Text(content) | Value::Blob(content) => {
                bytes.push(if matches!(value, Value::Text(_)) { b't' } else { b'b' });
                bytes.extend_from_slice(&(content.len() as u64).to_le_bytes());
                bytes.extend_from_slice(content);
            }
        }
    }
    bytes
}

impl<'a> Walk<'a> {
    fn new(order: &BatchOrder<'a>) -> Self {
        Self {
            tables: vec![&order.selection.table],
            going: HashSet::new(),
            deletions: Vec::new(),
            nullings: Vec::new(),
            count: 0,
            // One listed row alone goes whole, up to what a transaction can bear at all.
            budget: if order.window.keys.len() > 1 {
                u64::from(order.budget.max(1)).min(MAX_ROWS)
            } else {
                MAX_ROWS
            },
        }
    }

    fn table(&mut self, schema: &'a Arc<TableSchema>) -> usize {
        match self.tables.iter().position(|table| table.name == schema.name) {
            Some(position) => position,
            None => {
                self.tables.push(schema);
                self.tables.len() - 1
            }
        }
    }

    fn charge(&mut self, rows: usize) -> Result<(), TargetError> {
        self.count += rows as u64;
        if self.count <= self.budget {
            return Ok(());
        }
        let message = format!(
            "over {} rows hang together; one transaction may take {}",
            self.count, self.budget
        );
        let class = if self.budget == MAX_ROWS {
            TargetErrorClass::Refused
        } else {
            TargetErrorClass::OverBudget
        };
        Err(TargetError::new(class, message))
    }

    /// Keeps those rows that are not going already.
    fn unseen(&mut self, table: usize, rows: Vec<Row>) -> Result<Vec<Row>, TargetError> {
        let schema = self.tables[table];
        let mut unseen = Vec::with_capacity(rows.len());
        for row in rows {
            let key = identity(&key_of(schema, &row)?);
            if self.going.insert((table, key)) {
                unseen.push(row);
            }
        }
        Ok(unseen)
    }

    /// Holds everything that hangs on the rows that go.
    async fn follow(&mut self, transaction: &mut dyn BatchTransaction, links: &'a [ChildLink]) -> Result<(), TargetError> {
        let mut next = 0;
        while next < self.deletions.len() {
            let Held { table, rows } = &self.deletions[next];
            let (table, parents) = (*table, rows.clone());
            next += 1;
            let schema = self.tables[table];
            for link in links {
                if link.parent.name != schema.name || link.action == ChildAction::Refuse {
                    continue;
                }
                let mut named = Vec::new();
                let mut seen = HashSet::new();
                for row in &parents {
                    let key = pick(schema, row, &link.parent_columns)?;
                    if !key.iter().any(|value| matches!(value, Value::Null)) && seen.insert(identity(&key)) {
                        named.push(key);
                    }
                }
                if named.is_empty() {
                    continue;
                }
                // Of these up to `count` may be held already, so that an answer which is cut off always breaks the budget: a row that
                // was not held would go by the database's own cascade, uncaptured and uncounted.
                let most = self.budget.saturating_add(1).saturating_add(self.count);
                let children = transaction.hold_children(link, &named, most).await?;
                let child = self.table(&link.child);
                if link.action == ChildAction::SetNull {
                    self.charge(children.len())?;
                    self.nullings.push((
                        Held {
                            table: child,
                            rows: children,
                        },
                        link,
                    ));
                    continue;
                }
                let children = self.unseen(child, children)?;
                self.charge(children.len())?;
                if !children.is_empty() {
                    self.deletions.push(Held {
                        table: child,
                        rows: children,
                    });
                }
            }
        }
        // A row that one link would change and another deletes is deleted, and captured once.
        for (held, _) in &mut self.nullings {
            let schema = self.tables[held.table];
            let mut kept = Vec::with_capacity(held.rows.len());
            for row in std::mem::take(&mut held.rows) {
                let key = identity(&key_of(schema, &row)?);
                if !self.going.contains(&(held.table, key)) {
                    kept.push(row);
                }
            }
            held.rows = kept;
        }
        Ok(())
    }

    /// The tables so that each comes after all whose rows name its own. The planner refuses links that lead in a circle over
    /// several tables.
    fn children_first(&self, links: &[ChildLink]) -> Vec<usize> {
        let place = |name: &TableName| self.tables.iter().position(|table| table.name == *name);
        let mut depths = vec![0_usize; self.tables.len()];
        for _ in 0..self.tables.len() {
            for link in links.iter().filter(|link| link.parent.name != link.child.name) {
                if let (Some(parent), Some(child)) = (place(&link.parent.name), place(&link.child.name)) {
                    depths[child] = depths[child].max(depths[parent] + 1);
                }
            }
        }
        let mut order: Vec<usize> = (0..self.tables.len()).collect();
        order.sort_by_key(|table| std::cmp::Reverse(depths[*table]));
        order
    }

    fn keys(&self, held: &Held) -> Result<Vec<Row>, TargetError> {
        let schema = self.tables[held.table];
        held.rows.iter().map(|row| key_of(schema, row)).collect()
    }
}

/// What the chunk will hold, section by section.
#[derive(Default)]
struct Sections(Vec<(TableLayout, Vec<Row>)>);

impl Sections {
    fn put(&mut self, table: &TableSchema, captured: Captured, rows: Vec<Row>) {
        let layout = TableLayout {
            captured,
            ..layout(table)
        };
        self.0.push((layout, rows));
    }

    fn write(
        self,
        archive: &dyn Archive,
        order: &BatchOrder<'_>,
        name: &mut Option<String>,
    ) -> Result<Option<ChunkWriter>, TargetError> {
        if !order.capture || self.0.is_empty() {
            return Ok(None);
        }
        let layouts = self.0.iter().map(|(layout, _)| layout.clone()).collect();
        let mut writer = begin_chunk(archive, order, layouts)?;
        *name = Some(writer.name().to_owned());
        for (section, (_, rows)) in self.0.iter().enumerate() {
            for row in rows {
                writer.write(section, row)?;
            }
        }
        Ok(Some(writer))
    }
}

fn note(along: &mut Vec<Along>, table: &TableSchema, deleted: u64, nullified: u64) {
    let one = Along {
        table: table.name.to_string(),
        deleted,
        nullified,
    };
    if deleted + nullified > 0 {
        Along::add(along, std::slice::from_ref(&one));
    }
}

/// Does the work between the begin of the transaction and the seal of its chunk. `name` is the chunk's, once it exists.
pub(super) async fn work(
    transaction: &mut dyn BatchTransaction,
    archive: &dyn Archive,
    order: &BatchOrder<'_>,
    name: &mut Option<String>,
) -> Result<(Done, Option<ChunkWriter>), TargetError> {
    let table = &order.selection.table;
    let rows = transaction.hold(order.selection, &order.window.keys).await?;
    let affected = rows.len() as u64;
    let mut done = Done {
        affected,
        along: Vec::new(),
        captured: 0,
    };
    if rows.is_empty() {
        return Ok((done, None));
    }
    let mut sections = Sections::default();
    if let RowAction::Set { assignments } = &order.effect.action {
        let keys = rows.iter().map(|row| key_of(table, row)).collect::<Result<Vec<_>, _>>()?;
        change(transaction, &mut sections, table, &keys, rows, assignments).await?;
    } else {
        let mut walk = Walk::new(order);
        walk.charge(rows.len())?;
        let rows = walk.unseen(0, rows)?;
        walk.deletions.push(Held { table: 0, rows });
        walk.follow(transaction, &order.effect.children).await?;
        let along = walk.count - affected;
        let most = order.allowance.along.min(order.allowance.touched.saturating_sub(affected));
        if along > most {
            return Err(mismatch(format!(
                "COUNT_DRIFTED: {along} rows hang on the {affected} of this batch, at most {most} more were planned or allowed; make a new plan"
            )));
        }
        delete_all(transaction, &mut sections, &mut done, order, walk).await?;
    }
    done.captured = sections.0.iter().map(|(_, rows)| rows.len() as u64).sum();
    let writer = sections.write(archive, order, name)?;
    Ok((done, writer))
}

/// Changes held rows; the old and the new values go into the chunk.
async fn change(
    transaction: &mut dyn BatchTransaction,
    sections: &mut Sections,
    table: &TableSchema,
    keys: &[Row],
    rows: Vec<Row>,
    assignments: &[(String, Option<crate::model::Literal>)],
) -> Result<(), TargetError> {
    let values = transaction.assign(table, keys, assignments).await?;
    if values.len() != rows.len() {
        return Err(mismatch(format!(
            "{} rows of {} were to change and {} did: a trigger or a rule keeps them; the batch was taken back",
            rows.len(),
            table.name,
            values.len()
        )));
    }
    let changed = assignments.iter().map(|(column, _)| column.clone()).collect();
    let rows = rows
        .into_iter()
        .zip(values)
        .map(|(mut row, new)| {
            row.extend(new);
            row
        })
        .collect();
    sections.put(table, Captured::Changed { changed }, rows);
    Ok(())
}

async fn delete_all(
    transaction: &mut dyn BatchTransaction,
    sections: &mut Sections,
    done: &mut Done,
    order: &BatchOrder<'_>,
    mut walk: Walk<'_>,
) -> Result<(), TargetError> {
    for (held, link) in std::mem::take(&mut walk.nullings) {
        if held.rows.is_empty() {
            continue;
        }
        let table = walk.tables[held.table];
        let keys = walk.keys(&held)?;
        let assignments: Vec<_> = link.null_columns.iter().map(|column| (column.clone(), None)).collect();
        note(&mut done.along, table, 0, held.rows.len() as u64);
        change(transaction, sections, table, &keys, held.rows, &assignments).await?;
    }
    let mut deletions = std::mem::take(&mut walk.deletions);
    let selected = deletions.remove(0);
    for position in walk.children_first(&order.effect.children) {
        let table = walk.tables[position];
        let along: Vec<Row> = deletions
            .iter_mut()
            .filter(|held| held.table == position)
            .flat_map(|held| std::mem::take(&mut held.rows))
            .collect();
        let listed = if position == 0 { selected.rows.as_slice() } else { &[] };
        note(&mut done.along, table, along.len() as u64, 0);
        let key = |row: &Row| key_of(table, row);
        let listed_keys = listed.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        let mut captured = Captured::Deleted;
        if let RowAction::Archive { into, stamp_column } = &order.effect.action
            && position == 0
        {
            let (copied, stamp) = transaction.copy_to_archive(table, &listed_keys, into, stamp_column).await?;
            if copied != listed_keys.len() as u64 {
                return Err(mismatch(format!(
                    "{} rows of {} were to be archived and {copied} were; the batch was taken back",
                    listed_keys.len(),
                    table.name
                )));
            }
            captured = Captured::Archived {
                into: into.clone(),
                stamp_column: stamp_column.clone(),
                stamp,
            };
        }
        // All rows of a table in one statement: rows that name one another go together, whatever their keys say.
        let mut keys = along.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        keys.extend(listed_keys);
        if keys.is_empty() {
            continue;
        }
        let removed = transaction.remove(table, &keys).await?;
        if removed != keys.len() as u64 {
            return Err(mismatch(format!(
                "{} rows of {} were captured and {removed} deleted: a trigger or a rule keeps them; the batch was taken back",
                keys.len(),
                table.name
            )));
        }
        // Rows of one table may name one another: those that were deleted alike go back together, in whatever order it takes.
        let mut together = along;
        if captured == Captured::Deleted {
            together.extend_from_slice(listed);
        }
        if !together.is_empty() {
            sections.put(table, Captured::Deleted, together);
        }
        if captured != Captured::Deleted && !listed.is_empty() {
            sections.put(table, captured, listed.to_vec());
        }
    }
    Ok(())
}
