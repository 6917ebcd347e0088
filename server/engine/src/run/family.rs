//! The work of a batch whose rows do not simply go: rows with children, rows that are archived, rows that are changed.
//!
//! ```text
//!  hold       the listed rows that still match, then along the links the rows that go with them, and so on, then the rows that only
//!             change: all locked
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
    /// Rows whose key becomes NULL, by the link's place among the links.
    changing: HashSet<(usize, Identity)>,
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

/// The primary key of a captured row, by which it is deleted or changed and found again by an undo. SQLite lets it hold NULL, and
/// then any number of rows may have the same.
fn address(table: &TableSchema, row: &Row) -> Result<Row, TargetError> {
    let key = pick(table, row, &table.primary_key)?;
    if key.contains(&Value::Null) {
        let columns = table.primary_key.join(", ");
        return Err(mismatch(format!(
            "NULL_PRIMARY_KEY: a row of {} has no value in its primary key ({columns}), so that it cannot be told from another; the batch was taken back",
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
            changing: HashSet::new(),
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
            if self.going.insert((table, identity(&address(schema, &row)?))) {
                unseen.push(row);
            }
        }
        Ok(unseen)
    }

    /// Keeps those rows that stay and that this link has not reached yet.
    fn staying(&mut self, link: usize, table: usize, rows: Vec<Row>) -> Result<Vec<Row>, TargetError> {
        let schema = self.tables[table];
        let mut staying = Vec::with_capacity(rows.len());
        for row in rows {
            let row_identity = (table, identity(&address(schema, &row)?));
            if !self.going.contains(&row_identity) && self.changing.insert((link, row_identity)) {
                staying.push(row);
            }
        }
        Ok(staying)
    }

    /// Holds the rows that name those at this place of the deletions along a link.
    async fn children(
        &mut self,
        transaction: &mut dyn BatchTransaction,
        place: usize,
        link: &'a ChildLink,
    ) -> Result<(usize, Vec<Row>), TargetError> {
        let Held { table, rows } = &self.deletions[place];
        let schema = self.tables[*table];
        let (mut named, mut seen) = (Vec::new(), HashSet::new());
        if link.parent.name == schema.name {
            for row in rows {
                let key = pick(schema, row, &link.parent_columns)?;
                if !key.contains(&Value::Null) && seen.insert(identity(&key)) {
                    named.push(key);
                }
            }
        }
        let child = self.table(&link.child);
        if named.is_empty() {
            return Ok((child, Vec::new()));
        }
        // Of these up to `count` may be held already, so that an answer which is cut off always breaks the budget: a row that was
        // not held would go by the database's own cascade, uncaptured and uncounted.
        let most = self.budget.saturating_add(1).saturating_add(self.count);
        Ok((child, transaction.hold_children(link, &named, most).await?))
    }

    /// Holds everything that hangs on the rows that go.
    async fn follow(&mut self, transaction: &mut dyn BatchTransaction, links: &'a [ChildLink]) -> Result<(), TargetError> {
        let mut place = 0;
        while place < self.deletions.len() {
            for link in links.iter().filter(|link| link.action == ChildAction::Delete) {
                let (table, children) = self.children(transaction, place, link).await?;
                let rows = self.unseen(table, children)?;
                self.charge(rows.len())?;
                if !rows.is_empty() {
                    self.deletions.push(Held { table, rows });
                }
            }
            place += 1;
        }
        // Only now is it known which rows go: one that a link would change and another deletes is deleted, and counts once.
        for place in 0..self.deletions.len() {
            for (number, link) in links.iter().enumerate() {
                if link.action != ChildAction::SetNull {
                    continue;
                }
                let (table, children) = self.children(transaction, place, link).await?;
                let rows = self.staying(number, table, children)?;
                self.charge(rows.len())?;
                if !rows.is_empty() {
                    self.nullings.push((Held { table, rows }, link));
                }
            }
        }
        Ok(())
    }

    /// What will happen to rows beside the listed ones, which are the first deletions.
    fn along(&self) -> Vec<Along> {
        let mut along = Vec::new();
        for held in self.deletions.iter().skip(1) {
            note(&mut along, self.tables[held.table], held.rows.len() as u64, 0);
        }
        for (held, _) in &self.nullings {
            note(&mut along, self.tables[held.table], 0, held.rows.len() as u64);
        }
        along
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
        held.rows.iter().map(|row| address(schema, row)).collect()
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
        let keys = rows.iter().map(|row| address(table, row)).collect::<Result<Vec<_>, _>>()?;
        change(transaction, &mut sections, table, &keys, rows, assignments).await?;
    } else {
        let mut walk = Walk::new(order);
        walk.charge(rows.len())?;
        let rows = walk.unseen(0, rows)?;
        walk.deletions.push(Held { table: 0, rows });
        walk.follow(transaction, &order.effect.children).await?;
        if let Some(exceeded) = order.allowance.exceeded(affected, &walk.along()) {
            return Err(mismatch(format!("COUNT_DRIFTED: {exceeded}; make a new plan")));
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
        let key = |row: &Row| address(table, row);
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
