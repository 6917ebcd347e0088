//! Rule kind `cycle`: edges of a self-referencing relation that close a cycle, of any length. Goes the least practical number
//! of edges that leaves no cycle, the same ones for the same rows however they lie in the table. A NULL in an end is no edge.
//!
//! What goes is decided over all rows at once, in [`feedback`]; adapters number the nodes, leave out what can be on no cycle,
//! and hand over the rest in the order of the primary key, by way of [`job`].

pub mod feedback;
pub mod graph;
pub mod job;
mod kernel;
mod landmarks;
mod order;
mod patience;
mod search;
mod sequence;

use serde::{Deserialize, Serialize};

use super::{KindInfo, Mismatch, Schemas, column_of, schema_of};
use crate::model::{Condition, TableName, TypeClass};

/// The kind's entry in [`super::KINDS`].
pub const INFO: KindInfo = KindInfo {
    name: "cycle",
    summary: "the fewest edges that break every cycle of a self-referencing relation",
};

/// Settings of the kind, as the catalog writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    from: Vec<String>,
    to: Vec<String>,
}

/// A checked rule of this kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cycle {
    /// Columns that name the node which an edge leaves.
    pub from: Vec<String>,
    /// Columns that name the node which it enters, pairwise with `from`.
    pub to: Vec<String>,
}

impl TryFrom<Settings> for Cycle {
    type Error = String;

    fn try_from(Settings { from, to }: Settings) -> Result<Self, String> {
        if from.is_empty() {
            return Err("from is empty; expected the columns that name the start of an edge".to_owned());
        }
        if from.len() != to.len() {
            return Err(format!(
                "from has {} entries and to {}; expected as many of one as of the other",
                from.len(),
                to.len()
            ));
        }
        for (position, column) in from.iter().enumerate() {
            if from[..position].contains(column) || to[..position].contains(&to[position]) {
                return Err(format!(
                    "from or to names {column} or {} twice; expected each column once",
                    to[position]
                ));
            }
            if *column == to[position] {
                return Err(format!("from and to both name {column}; expected the two ends of an edge"));
            }
        }
        Ok(Self { from, to })
    }
}

impl Cycle {
    pub(super) fn describe(&self, table: &TableName) -> String {
        format!(
            "the fewest rows of {table} without which no cycle of {} to {} is left",
            self.from.join(", "),
            self.to.join(", ")
        )
    }

    pub(super) fn condition(&self, table: &TableName, schemas: &Schemas, among: Vec<Condition>) -> Result<Condition, Mismatch> {
        let schema = schema_of(schemas, table)?;
        for (from, to) in self.from.iter().zip(&self.to) {
            let (start, end) = (column_of(schema, from)?, column_of(schema, to)?);
            let same = start.class == end.class && (start.class != TypeClass::Other || start.type_name == end.type_name);
            if !same {
                return Err(Mismatch::new(format!(
                    "{}.{from} is {} and {to} is {}; expected the two ends of an edge to have one type",
                    schema.name, start.type_name, end.type_name
                )));
            }
        }
        Ok(Condition::Cycle {
            from: self.from.clone(),
            to: self.to.clone(),
            among,
        })
    }
}
