//! `dbkeep alerts` and `dbkeep watch`: what somebody should be told of, and who looks after it.
//!
//! Owns the list, the acknowledgement and the stream. Called by `main.rs`; `cmd/status.rs` shows the list.

use std::pin::pin;

use clap::{Args, Subcommand, ValueEnum};
use dbkeep_client::{AlertQuery, proto};
use futures::TryStreamExt as _;
use serde_json::json;

use crate::{
    exit::Exit,
    json::{self, monitoring},
    output::{Output, Tone},
    session::Session,
    table,
};

/// Arguments of `alerts`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub(crate) struct Alerts {
    #[command(subcommand)]
    act: Option<Act>,
    /// Only of this target; those of servers where it is empty.
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Only in this state [default: raised]. Can be repeated.
    #[arg(long, value_enum)]
    state: Vec<State>,
    /// Most alerts to list.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// What to do with an alert.
#[derive(Debug, Subcommand)]
enum Act {
    /// Say that you look after an alert.
    Ack {
        /// Id of the alert.
        id: String,
        /// What you want to say.
        #[arg(long, default_value = "")]
        note: String,
    },
}

/// A state to filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    Pending,
    Raised,
    Resolved,
}

impl From<State> for proto::AlertState {
    fn from(state: State) -> Self {
        match state {
            State::Pending => Self::Pending,
            State::Raised => Self::Raised,
            State::Resolved => Self::Resolved,
        }
    }
}

impl Alerts {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        if let Some(Act::Ack { id, note }) = self.act {
            let alert = session.client.monitoring().acknowledge(id, note).await?;
            if output.is_json() {
                output.json(&json!({ "alert": monitoring::Alert::from(&alert) }))?;
            } else {
                show(std::slice::from_ref(&alert), output)?;
            }
            return Ok(Exit::Success);
        }
        let mut query = AlertQuery::default().page_size(self.limit.min(500));
        for state in self.state {
            query = query.state(state.into());
        }
        if let Some(target) = self.target {
            query = query.target(target);
        }
        let limit = usize::try_from(self.limit)?;
        let mut stream = pin!(session.client.monitoring().alerts(query));
        let (mut alerts, mut more) = (Vec::new(), false);
        while let Some(alert) = stream.try_next().await? {
            if alerts.len() == limit {
                more = true;
                break;
            }
            alerts.push(alert);
        }
        if output.is_json() {
            let alerts: Vec<_> = alerts.iter().map(monitoring::Alert::from).collect();
            output.json(&json!({ "alerts": alerts, "more": more }))?;
            return Ok(Exit::Success);
        }
        show(&alerts, output)?;
        if more {
            output.note(format_args!("There are more than {limit}; --limit shows them."));
        }
        Ok(Exit::Success)
    }
}

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Only of this target; those of servers where it is empty.
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Go on after this revision, as a line before has told it [default: begin with what is raised].
    #[arg(long, value_name = "REVISION", default_value_t = 0)]
    after: u64,
}

impl Watch {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let mut stream = pin!(session.client.monitoring().watch_alerts(self.target, self.after));
        while let Some(message) = stream.try_next().await? {
            let Some(alert) = &message.alert else { continue };
            if output.is_json() {
                output.json(&json!({ "revision": message.revision, "alert": monitoring::Alert::from(alert) }))?;
                continue;
            }
            let text = format!(
                "{} {} {} {}: {}",
                table::instant(alert.seen_time.as_ref()),
                json::alert_state(alert.state()),
                alert.rule,
                place(alert),
                alert.detail
            );
            output.line(output.paint(tone(alert), &crate::output::printable(&text)))?;
        }
        Ok(Exit::Success)
    }
}

/// What an alert is about.
pub(crate) fn place(alert: &proto::Alert) -> String {
    match (alert.target.as_str(), alert.object.as_str()) {
        ("", object) => object.to_owned(),
        (target, "") => target.to_owned(),
        (target, object) => format!("{object} on {target}"),
    }
}

pub(crate) fn level_tone(level: proto::AlertLevel) -> Tone {
    match level {
        proto::AlertLevel::Error => Tone::Bad,
        proto::AlertLevel::Warning => Tone::Warn,
        proto::AlertLevel::Info | proto::AlertLevel::Unspecified => Tone::Dim,
    }
}

fn tone(alert: &proto::Alert) -> Tone {
    match alert.state() {
        proto::AlertState::Resolved => Tone::Good,
        _ => level_tone(alert.level()),
    }
}

/// Shows alerts in a table.
pub(crate) fn show(alerts: &[proto::Alert], output: &Output) -> anyhow::Result<()> {
    let mut table = output.table([
        "ALERT",
        "RULE",
        "ABOUT",
        "STATE",
        "SINCE",
        "WHAT",
        "WHAT TO DO",
        "LOOKED AFTER BY",
    ]);
    for alert in alerts {
        let by = alert.acknowledgement.as_ref().map_or("", |said| said.principal.as_str());
        table.add_row([
            output.cell(Tone::Strong, &alert.id),
            output.cell(tone(alert), &alert.rule),
            output.cell(Tone::Strong, place(alert)),
            output.cell(tone(alert), json::alert_state(alert.state())),
            output.cell(Tone::Dim, table::instant(alert.since_time.as_ref())),
            output.cell(Tone::Strong, &alert.detail),
            output.cell(Tone::Dim, table::or_dash(&alert.remediation)),
            output.cell(Tone::Dim, table::or_dash(by)),
        ]);
    }
    Ok(output.line(table)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_words_are_those_of_the_json() {
        for state in State::value_variants() {
            let word = state.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(word, json::alert_state((*state).into()));
        }
    }
}
