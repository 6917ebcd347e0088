//! Monitoring with a real store and real targets: what is collected and kept, what is judged and told, and what becomes of it when servers
//! die, clocks jump and stores are full.

#![expect(
    clippy::unwrap_used,
    reason = "a panic is how a test reports; clippy knows tests, not the functions they share"
)]

mod alerts;
mod carried;
mod exposition;
mod history;
mod measured;
#[path = "../notifications/receiver.rs"]
#[expect(dead_code, reason = "shared with the tests of notifications, which ask for more")]
mod receiver;
mod routed;
mod service;
#[path = "../support/serving.rs"]
mod serving;
#[path = "../support/mod.rs"]
mod support;
mod takeover;
mod world;
