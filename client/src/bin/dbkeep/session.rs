//! What every command needs: the client, the output, and the way to name further commands.
//!
//! Owns the connection of one invocation. Made by `main.rs`.

use std::time::Duration;

use dbkeep_client::{Client, DEFAULT_ADDRESS, Error};

use crate::output::Output;

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
    pub(crate) async fn connect(
        address: &str,
        principal: Option<String>,
        timeout: Duration,
        output: &Output,
    ) -> Result<Self, Error> {
        let builder = principal
            .into_iter()
            .fold(Client::builder(), |builder, name| builder.principal(name));
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
