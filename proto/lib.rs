//! Wire types of `dbkeep.v1`, generated from the `.proto` files beside this one.
//!
//! Owns nothing but the generated code, its descriptor set and the list of its methods. The server converts these types to the engine's
//! at its boundary; the client hands them to its callers.

/// Messages, clients and servers of package `dbkeep.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    rustdoc::all,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code; its documentation is written in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("dbkeep.v1");
}

include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// Encoded `google.protobuf.FileDescriptorSet` of `dbkeep.v1` and what it imports, with comments, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dbkeep.v1.bin"));
