//! `dbkeep status`: the service at a glance.
//!
//! Owns that view: the scheduler and the servers (as `schedules scheduler` shows them), and the configured targets, to which nobody
//! connects for it. Called by `main.rs`.

use clap::Args;
use serde_json::json;

use crate::{cmd::schedules::scheduler, cmd::targets, exit::Exit, json, session::Session};

/// `dbkeep status` has no arguments of its own.
#[derive(Debug, Args)]
pub(crate) struct Status {}

impl Status {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let status = session.client.schedules().scheduler_status().await?;
        let targets = session.client.targets().list().await?;
        if output.is_json() {
            let targets: Vec<_> = targets.iter().map(json::catalog::Target::from).collect();
            output.json(&json!({ "scheduler": json::schedule::Scheduler::from(&status), "targets": targets }))?;
            return Ok(Exit::Success);
        }
        scheduler::show(&status, session)?;
        targets::show_list(&targets, output)?;
        Ok(Exit::Success)
    }
}
