//! Looking around in a database that nobody has described yet: what tables there are, what they declare, and what a bounded
//! look at their values shows. Nothing here changes anything. Called by [`crate::discover`].

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::target::{Target, TargetError};
use crate::model::{Row, TableName, TableSchema};

/// A key that the schema declares, from the child's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredKey {
    /// Name of the constraint; SQLite has none, there it is `child(columns)`.
    pub name: String,
    /// Table that declares it, as [`Target::introspect`] resolves it.
    pub child: TableName,
    /// Its columns.
    pub columns: Vec<String>,
    /// Table that it points to, as [`Target::introspect`] resolves it.
    pub parent: TableName,
    /// Columns there, pairwise with `columns`.
    pub parent_columns: Vec<String>,
    /// Whether the database has checked every row. Not so of a key that is NOT VALID or not enforced, and never on SQLite,
    /// where each connection decides for itself whether keys are enforced.
    pub checked: bool,
}

/// Some rows of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The values of the columns that were asked for. Texts are cut after [`SAMPLE_TEXT`] characters.
    pub rows: Vec<Row>,
    /// Whether these are all the rows that the table has.
    pub whole: bool,
}

/// Longest text in a sample, characters. What is longer is no key.
pub const SAMPLE_TEXT: usize = 200;

/// How often keys occur more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeats {
    /// Keys that several rows have.
    pub keys: u64,
    /// Rows beyond the first of each such key.
    pub surplus: u64,
}

/// What a database shows to somebody who does not know it. Every target can do this.
#[async_trait]
pub trait Explore {
    /// The same target, on connections of its own, whose statements the database itself ends after `limit`, with class
    /// [`Timeout`](super::TargetErrorClass::Timeout).
    fn bounded(&self, limit: Duration) -> Arc<dyn Target>;

    /// The application's own tables, ordered by name: no views, no system schemas, no tables of extensions, no single
    /// partitions, and nothing of dbkeep. A schema is named where the table would not be found without it.
    async fn tables(&self) -> Result<Vec<TableName>, TargetError>;

    /// Every declared key of every table, checked or not.
    async fn declared_keys(&self) -> Result<Vec<DeclaredKey>, TargetError>;

    /// Up to `rows` rows from all over the table; the same ones each time while the table stays as it is. Reads a bounded
    /// number of pages, however large the table is.
    async fn sample(&self, table: &TableSchema, columns: &[String], rows: u32) -> Result<Sample, TargetError>;

    /// Which of the keys a row of `table` has in `columns`. Meant for columns with an index; the keys' values are those of a
    /// sample, of comparable columns.
    async fn present(&self, table: &TableSchema, columns: &[String], keys: &[Row]) -> Result<Vec<bool>, TargetError>;

    /// How often values of `columns`, none of them NULL, occur more than once; reads the whole table.
    async fn repeats(&self, table: &TableSchema, columns: &[String]) -> Result<Repeats, TargetError>;
}
