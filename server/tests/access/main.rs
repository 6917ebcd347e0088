//! Who gets in, and to what, over a real TLS socket: every method by every kind of caller, what callers for one target see, certificates,
//! tokens of an identity provider, revocation, what takes two people, and limits.

mod by_curl;
mod certificates;
mod load;
mod matrix;
mod oidc;
mod persons;
mod records;
mod scope;
#[path = "../support/serving.rs"]
mod serving;
mod tokens;
mod world;
