//! Schema and data of a database, to be compared with another time or place.

/// What a schema consists of, one entry for each object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SchemaObject {
    /// Kind in lower case, e.g. `column`, `index`.
    pub kind: String,
    /// Full name.
    pub name: String,
    /// All there is to say about it, as text that is equal only where the object is.
    pub definition: String,
}

/// What a table holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableContent {
    /// Full name.
    pub table: String,
    /// Rows.
    pub rows: u64,
    /// A hash over all rows, whatever their order and the order of the columns.
    pub hash: String,
    /// Each column with a hash over its values, each bound to the primary key of its row where the table has one; sorted by name.
    pub columns: Vec<(String, String)>,
}

/// Schema and data of a database, to be compared. dbkeep's own tables are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// The schema, sorted.
    pub objects: Vec<SchemaObject>,
    /// The tables, sorted.
    pub tables: Vec<TableContent>,
    /// Size of the database, bytes.
    pub bytes: u64,
}

/// How large a table is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableMeasure {
    /// The name that was asked for.
    pub table: String,
    /// Rows, an estimate where the database keeps one; `None` where there is no such table.
    pub rows: Option<u64>,
    /// Size with indexes, bytes.
    pub bytes: u64,
}
