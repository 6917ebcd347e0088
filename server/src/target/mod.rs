//! Maintained databases: one folder per product, each an adapter of the engine's [`Target`] port. Adapters never import each
//! other; SQL for targets is written nowhere else.

mod foreign;
mod indexes;
mod ledger;
mod measure;
mod postgres;
mod spread;
mod sqlite;
mod words;

use std::{path::PathBuf, sync::Arc, time::Duration};

use dbkeep_engine::port::Target;

pub use postgres::PostgresTarget;
pub use sqlite::SqliteTarget;

/// A target URL cannot be used. The message does not repeat the URL, which may carry a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UrlError(String);

/// Prepares a target of a product.
type Open = fn(&str, &Tools) -> Result<Arc<dyn Target>, UrlError>;

/// One database product: how its URLs begin, and how one is opened.
struct Product {
    schemes: &'static [&'static str],
    open: Open,
}

const PRODUCTS: &[Product] = &[
    Product {
        schemes: &["postgres:", "postgresql:"],
        open: |url, tools| Ok(Arc::new(PostgresTarget::open(url, tools)?)),
    },
    Product {
        schemes: &["sqlite:"],
        open: |url, _| Ok(Arc::new(SqliteTarget::open(url)?)),
    },
];

/// How long a database may be silent before that is looked into, where nothing else is said.
pub const TARGET_SILENCE: Duration = Duration::from_secs(30);

/// What adapters are given beside a URL.
#[derive(Debug, Clone)]
pub struct Tools {
    /// Folder of PostgreSQL's client programs; the PATH where `None`.
    pub pg_bin: Option<PathBuf>,
    /// How long nothing has to come from the server of a target that was asked something, before it is asked on another connection whether it
    /// is still at work on that; zero for never. Databases that are files have no such server.
    pub target_silence: Duration,
}

impl Default for Tools {
    fn default() -> Self {
        Self {
            pg_bin: None,
            target_silence: TARGET_SILENCE,
        }
    }
}

/// As [`open_with`], with the programs on the PATH.
///
/// # Errors
/// Where the URL names no known product or is malformed.
pub fn open(url: &str) -> Result<Arc<dyn Target>, UrlError> {
    open_with(url, &Tools::default())
}

/// Prepares a target; nothing is connected yet.
///
/// # Errors
/// Where the URL names no known product or is malformed.
pub fn open_with(url: &str, tools: &Tools) -> Result<Arc<dyn Target>, UrlError> {
    let product = PRODUCTS
        .iter()
        .find(|product| product.schemes.iter().any(|scheme| url.starts_with(scheme)));
    let product = product.ok_or_else(|| UrlError("expected a URL that begins with postgres:// or sqlite://".to_owned()))?;
    (product.open)(url, tools)
}
