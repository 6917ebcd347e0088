//! Notifications from the end of a run to a real receiver: HTTPS with certificates of its own, a real mail server, kill -9 in between.

#[path = "../support/serving.rs"]
mod serving;
#[path = "../support/mod.rs"]
mod support;

mod kill;
mod mail;
mod outbox;
mod rebinding;
mod receiver;
mod requests;
mod world;
