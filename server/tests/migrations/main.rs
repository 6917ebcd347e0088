//! Migrations through gRPC, on real databases of both products, judged by an oracle that reads them without dbkeep.

mod in_effect;
mod layouts;
mod lost_replies;
mod meanwhile;
mod rewinds;
mod troubles;
mod world;
