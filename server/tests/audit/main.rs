//! The audit log on both databases: what its tables refuse, a thousand tamperings by SQL, servers that append at once, kill -9, sealing, removing and
//! anchoring, and the service over it.

#![expect(clippy::unwrap_used, reason = "in a test, a panic with the error is the report")]

mod chain;
mod keeper;
mod kill;
mod service;
#[path = "../support/serving.rs"]
mod serving;
mod tamper;
mod world;
