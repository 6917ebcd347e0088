//! What every command needs: the client, the output, and the way to name further commands.
//!
//! Owns the connection of one invocation. Made by `main.rs`.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use dbkeep_client::{Client, DEFAULT_ADDRESS};

use crate::{Global, output::Output, principal};

/// Somebody watches a plan being counted and can press Ctrl-C; this only keeps a script from waiting for ever.
const PLAN_TIMEOUT: Duration = Duration::from_secs(3600);

/// One invocation of the tool.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) output: Output,
    /// What to put behind `dbkeep` so that a pasted command reaches the same server.
    address_option: String,
}

impl Session {
    /// Connects at once: somebody waits at a prompt, and wants to know at once that nobody is there.
    pub(crate) async fn connect(global: &Global, output: &Output) -> anyhow::Result<Self> {
        let address = &global.addr;
        let timeout = Duration::from(global.timeout);
        let token = token(global.token_file.as_deref())?;
        // Whoever proves who he is needs no name of his own making.
        let is_proven = token.is_some() || global.cert.is_some();
        let name = global.principal.clone();
        let name = if is_proven { name } else { name.or_else(principal::of_user) };
        let mut builder = name
            .into_iter()
            .fold(Client::builder(), |builder, name| builder.principal(name));
        if let Some(token) = token {
            builder = builder.token(token);
        }
        if global.token_in_the_clear {
            builder = builder.token_in_the_clear();
        }
        if let Some(file) = &global.ca {
            builder = builder.authority(read(file)?);
        }
        if let (Some(certificate), Some(key)) = (&global.cert, &global.key) {
            builder = builder.identity(read(certificate)?, read(key)?);
        }
        if let Some(name) = &global.server_name {
            builder = builder.server_name(name);
        }
        let client = builder
            .address(address)
            .call_timeout(timeout)
            .plan_timeout(PLAN_TIMEOUT.max(timeout))
            .user_agent(concat!("dbkeep-cli/", env!("CARGO_PKG_VERSION")))
            .connect()
            .await?;
        let environment = std::env::var("DBKEEP_ADDR").unwrap_or_default();
        Ok(Self {
            client,
            output: output.clone(),
            address_option: address_option(address, &environment),
        })
    }

    /// A command line to paste, e.g. `dbkeep runs watch ID`.
    pub(crate) fn command(&self, arguments: &str) -> String {
        format!("dbkeep{} {arguments}", self.address_option)
    }
}

/// The token that proves who calls: from a file, or from the environment; never from the command line, which everybody on the machine reads.
fn token(file: Option<&Path>) -> anyhow::Result<Option<String>> {
    let text = match file {
        Some(file) => String::from_utf8(read(file)?).map_err(|_| anyhow::anyhow!("{} is no text", file.display()))?,
        None => std::env::var("DBKEEP_TOKEN").unwrap_or_default(),
    };
    let token = text.trim();
    anyhow::ensure!(file.is_none() || !token.is_empty(), "the file of the token is empty");
    Ok((!token.is_empty()).then(|| token.to_owned()))
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// An argument that survives a shell.
pub(crate) fn quoted(argument: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@+=".contains(c);
    if !argument.is_empty() && argument.chars().all(is_plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', "'\\''"))
    }
}

fn address_option(address: &str, environment: &str) -> String {
    let is_found_again = if environment.is_empty() {
        address == DEFAULT_ADDRESS
    } else {
        address == environment
    };
    if is_found_again {
        String::new()
    } else {
        format!(" --addr {address}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_survives_a_shell() {
        assert_eq!(quoted("R__users-2.sql"), "R__users-2.sql");
        assert_eq!(quoted("add it"), "'add it'");
        assert_eq!(quoted("a'b"), "'a'\\''b'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_pasted_command_reaches_the_same_server() {
        assert_eq!(address_option(DEFAULT_ADDRESS, ""), "");
        assert_eq!(address_option("db:1", "db:1"), "");
        assert_eq!(address_option("db:1", ""), " --addr db:1");
        assert_eq!(address_option(DEFAULT_ADDRESS, "db:1"), format!(" --addr {DEFAULT_ADDRESS}"));
    }
}
