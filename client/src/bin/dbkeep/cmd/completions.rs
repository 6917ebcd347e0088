//! `dbkeep completions`: scripts that complete commands in a shell.
//!
//! Owns nothing but the choice of shell; the script derives from the grammar in `main.rs`. Needs no server.

use std::io::Write as _;

use clap::Args;
use clap_complete::Shell;

use crate::exit::Exit;

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell, e.g. for bash: dbkeep completions bash > /etc/bash_completion.d/dbkeep
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self, grammar: &mut clap::Command) -> anyhow::Result<Exit> {
        // Generated into memory, because clap_complete panics where a reader goes away.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, grammar, "dbkeep", &mut script);
        std::io::stdout().write_all(&script)?;
        Ok(Exit::Success)
    }
}
