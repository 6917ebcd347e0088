//! Migrations through gRPC, on real databases of both products, judged by an oracle that reads them without dbkeep.

mod beside;
mod by_curl;
mod checksums;
mod consent;
mod identity;
mod in_effect;
mod kept;
mod layouts;
mod locks;
mod lost_replies;
mod meanwhile;
mod planned;
mod rehearsed;
mod repairs;
mod rewinds;
mod sampled;
mod troubles;
mod world;
