//! What the tests and the benchmarks share: private PostgreSQL clusters ([`postgres`]), also in pairs of a primary and its standby
//! ([`replicated`]), an oracle in raw SQL ([`oracle`]), a proxy that loses replies ([`proxy`]), a pool of one session ([`pooler`]), a mail
//! server ([`mail`]), `buf` ([`buf()`]) and a reader of backup chunks by their documented
//! format ([`chunk`]).
//!
//! Nothing here imports dbkeep: a judge that shares code with the accused repeats its mistakes.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use dbkeep_testkit::{Db, fresh_database};
//!
//! let db = Db::open(&fresh_database("orphans").await?).await?;
//! db.execute("CREATE TABLE t (id bigint PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 3)").await?;
//! let before = db.table_hash("t", "id").await?;
//! db.execute("DELETE FROM t WHERE id = 2").await?;
//! assert_eq!(db.count("t").await?, 2);
//! assert_ne!(db.table_hash("t", "id").await?, before);
//! # Ok(())
//! # }
//! ```

mod buf;
pub mod chunk;
pub mod mail;
pub mod oracle;
pub mod pooler;
pub mod postgres;
pub mod proxy;
pub mod replicated;

pub use buf::buf;
pub use mail::{MailOptions, MailServer};
pub use oracle::Db;
pub use pooler::Pooler;
pub use postgres::{Durability, PrivatePostgres, fresh_database, shared};
pub use proxy::Proxy;
pub use replicated::ReplicatedPostgres;
