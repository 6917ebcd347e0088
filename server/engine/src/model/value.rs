//! One value of a row, exactly as the database gave it, so that it can be put back bit by bit.

/// A value in the database's own lossless form.
///
/// PostgreSQL hands every value over as the text of its type's output function under pinned settings (the form that
/// `pg_dump` relies on), hence `Text` or `Null`; SQLite hands over its five storage classes.
#[derive(Debug, Clone)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// SQLite INTEGER.
    Integer(i64),
    /// SQLite REAL, compared and stored by its bits.
    Real(f64),
    /// Text; bytes rather than `String`, because SQLite does not check the encoding.
    Text(Vec<u8>),
    /// SQLite BLOB.
    Blob(Vec<u8>),
}

/// Equal is what would be stored as the same bytes: `0.0` and `-0.0` differ.
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Integer(mine), Self::Integer(theirs)) => mine == theirs,
            (Self::Real(mine), Self::Real(theirs)) => mine.to_bits() == theirs.to_bits(),
            (Self::Text(mine), Self::Text(theirs)) | (Self::Blob(mine), Self::Blob(theirs)) => mine == theirs,
            _ => false,
        }
    }
}

impl Value {
    /// The value as a person would read it, at most `limit` characters; `None` for NULL.
    #[must_use]
    pub fn preview(&self, limit: usize) -> Option<String> {
        let text = match self {
            Self::Null => return None,
            Self::Integer(number) => number.to_string(),
            Self::Real(number) => number.to_string(),
            Self::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Blob(bytes) => format!("x'{}'", hex::encode(bytes.get(..limit.min(bytes.len())).unwrap_or_default())),
        };
        Some(match text.char_indices().nth(limit) {
            Some((cut, _)) => format!("{}…", &text[..cut]),
            None => text,
        })
    }
}

/// The values of one row, in the order of the columns that were asked for.
pub type Row = Vec<Value>;

/// What finds a listed row again: made by an adapter's scan and read only by the same adapter's batch.
/// PostgreSQL: ctid, then the primary key. SQLite: the rowid, or the primary key of a table without one.
pub type RowKey = Vec<Value>;
