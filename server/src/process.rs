//! What this process gives up before it does anything: files that others may read, and an image of its memory, in which passwords stand.
//! Called by the binary, first of all.

use std::io;

use rustix::{
    fs::Mode,
    process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, umask},
};

/// Bits that no file of this process gets, whoever makes it: a program that it starts, or a library.
const NOT_FOR_OTHERS: Mode = Mode::from_bits_retain(0o077);

/// Sets the umask to 0077, the limit of core dumps to zero, and keeps other processes of the same user from reading this one's memory.
/// Programs that it starts inherit the first two.
///
/// # Errors
/// Where the system refuses; there is no reason to.
pub fn harden() -> io::Result<()> {
    umask(NOT_FOR_OTHERS);
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
