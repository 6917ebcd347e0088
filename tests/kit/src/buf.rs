//! `buf`, a client that knows nothing of dbkeep but what reflection tells it. `./check tools` brings it.

use std::path::{Path, PathBuf};

/// The program: where `./check tools` puts it, or on the PATH.
///
/// # Panics
/// Where it is missing.
#[must_use]
pub fn buf() -> PathBuf {
    let executable = std::env::current_exe().unwrap_or_default();
    let default_target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let brought = executable
        .ancestors()
        .chain([default_target.as_path()])
        .map(|folder| folder.join("tools/python/bin/buf"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = brought.chain(std::env::split_paths(&path).map(|folder| folder.join("buf")));
    found.find(|program| program.exists()).expect("buf is missing: ./check tools")
}
