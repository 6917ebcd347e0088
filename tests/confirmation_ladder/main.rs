//! The confirmation ladder end to end: a real server, plain generated clients, both databases. Every severity against every way of
//! being refused; each refusal is judged by its code and reason, by the rows that are still there, and by the record that it left.

mod approvals;
mod limits;
mod record;
mod refusals;
mod world;
