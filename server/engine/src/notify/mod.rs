//! Notifications: from something that happened to somebody who has heard of it.
//!
//! ```text
//! event -> Notice -> routing -> envelopes -> outbox (in the transaction of the event) -> dispatch -> port::Notifier
//!                                                ^                                         |
//!                                                '--- next try after a wait (backoff) <----'
//! ```
//!
//! `ended` words what a run that ended says, `routing` decides who hears of what, `dispatch` empties the outbox. At least once: whatever is in
//! the outbox is delivered or given up with a reason, across restarts and over several servers, and every try of a delivery has the
//! same id. What is sent, and how, is the adapters' (`server/src/notify/`); what is kept is the store's ([`crate::port::Outbox`]).

mod backoff;
mod dispatch;
pub mod ended;
pub mod routing;
mod settings;
pub mod words;

pub use dispatch::Dispatcher;
pub use routing::{Route, Routing, Rules};
pub use settings::{Channels, NotifySettings};
