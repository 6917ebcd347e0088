//! The gRPC boundary over real sockets: a real server, an embedded control store, a SQLite target, and plain generated clients.
//!
//! What runs do to rows is tested elsewhere; here it is what callers get: refusals, streams, deadlines, limits, shutdown, and what
//! reflection shows.

mod harness;
mod limits;
mod refusals;
#[path = "../support/serving.rs"]
mod serving;
mod streams;
mod surface;
