//! `dbkeep notify`: channels, a try of one, and what is on its way.
//!
//! Owns the lists and the detail view. Called by `main.rs`.

use std::pin::pin;

use clap::{Subcommand, ValueEnum};
use dbkeep_client::{DeliveryQuery, proto};
use futures::TryStreamExt as _;
use serde_json::json;

use crate::{
    exit::Exit,
    json::{self, notification},
    output::{Output, Tone},
    session::Session,
    table,
};

/// Commands of `notify`.
#[derive(Debug, Subcommand)]
pub(crate) enum Notify {
    /// List the channels of the server.
    Channels,
    /// Send a test over a channel now, and tell what became of it.
    Test {
        /// Name of the channel.
        channel: String,
        /// To whom, instead of the channel's own recipients. Can be repeated.
        #[arg(long, value_name = "ADDRESS")]
        to: Vec<String>,
    },
    /// List what is on its way, what has arrived and what was given up, newest first.
    Deliveries {
        /// Only deliveries in this state.
        #[arg(long, value_enum)]
        state: Option<State>,
        /// Only deliveries over this channel.
        #[arg(long, value_name = "NAME")]
        channel: Option<String>,
        /// Only deliveries about this run.
        #[arg(long, value_name = "ID")]
        run: Option<String>,
        /// Most deliveries to list.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show a delivery and what it tells.
    Show {
        /// Id of the delivery.
        id: String,
    },
    /// Try a delivery again that was given up.
    Retry {
        /// Id of the delivery.
        id: String,
    },
}

/// A state to filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    Due,
    Delivered,
    Dead,
}

impl From<State> for proto::DeliveryState {
    fn from(state: State) -> Self {
        match state {
            State::Due => Self::Due,
            State::Delivered => Self::Delivered,
            State::Dead => Self::Dead,
        }
    }
}

impl Notify {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        match self {
            Self::Channels => channels(session).await,
            Self::Test { channel, to } => test(session, &channel, to).await,
            Self::Deliveries {
                state,
                channel,
                run,
                limit,
            } => {
                let mut query = DeliveryQuery::default().page_size(limit.min(500));
                if let Some(state) = state {
                    query = query.state(state.into());
                }
                if let Some(channel) = channel {
                    query = query.channel(channel);
                }
                if let Some(run) = run {
                    query = query.run(run);
                }
                deliveries(session, query, usize::try_from(limit)?).await
            }
            Self::Show { id } => show(session, &session.client.notifications().get(id).await?),
            Self::Retry { id } => show(session, &session.client.notifications().retry(id).await?),
        }
    }
}

async fn channels(session: &Session) -> anyhow::Result<Exit> {
    let output = &session.output;
    let channels = session.client.notifications().channels().await?;
    if output.is_json() {
        let channels: Vec<_> = channels.iter().map(notification::Channel::from).collect();
        output.json(&json!({ "channels": channels }))?;
        return Ok(Exit::Success);
    }
    let mut table = output.table(["NAME", "KIND", "DESTINATION", "RECIPIENTS"]);
    for channel in &channels {
        table.add_row([
            output.cell(Tone::Strong, &channel.name),
            output.cell(Tone::Dim, json::channel_kind(channel.kind())),
            output.cell(Tone::Dim, &channel.destination),
            output.cell(Tone::Dim, table::or_dash(&channel.recipients.join(", "))),
        ]);
    }
    output.line(table)?;
    if channels.is_empty() {
        output.note("The server has no channel; [[channel]] in dbkeep.toml declares one.");
    }
    Ok(Exit::Success)
}

async fn test(session: &Session, channel: &str, to: Vec<String>) -> anyhow::Result<Exit> {
    let output = &session.output;
    let answer = session.client.notifications().test(channel, to).await?;
    let exit = if answer.delivered { Exit::Success } else { Exit::Failure };
    if output.is_json() {
        output.json(&json!({ "test": notification::Test::of(channel, &answer) }))?;
        return Ok(exit);
    }
    let to = if answer.recipients.is_empty() {
        String::new()
    } else {
        format!(" to {}", answer.recipients.join(", "))
    };
    let took = table::duration(answer.duration.as_ref());
    if answer.delivered {
        let text = format!("delivered over {channel}{to} in {took}");
        output.line(output.paint(Tone::Good, &text))?;
    } else {
        let text = format!("not delivered over {channel}{to}: {}", answer.problem);
        output.line(output.paint(Tone::Bad, &text))?;
        if answer.transient {
            output.note("That may pass; a notification would be tried again.");
        } else {
            output.note("That will not pass by itself; a notification would be given up.");
        }
    }
    Ok(exit)
}

fn tone(state: proto::DeliveryState) -> Tone {
    match state {
        proto::DeliveryState::Delivered => Tone::Good,
        proto::DeliveryState::Dead => Tone::Bad,
        proto::DeliveryState::Due | proto::DeliveryState::Unspecified => Tone::Strong,
    }
}

fn severity_tone(severity: proto::NotificationSeverity) -> Tone {
    match severity {
        proto::NotificationSeverity::Error => Tone::Bad,
        proto::NotificationSeverity::Warning => Tone::Warn,
        proto::NotificationSeverity::Info | proto::NotificationSeverity::Unspecified => Tone::Dim,
    }
}

async fn deliveries(session: &Session, query: DeliveryQuery, limit: usize) -> anyhow::Result<Exit> {
    let output = &session.output;
    let mut stream = pin!(session.client.notifications().list(query));
    let mut deliveries = Vec::new();
    let mut more = false;
    while let Some(mut delivery) = stream.try_next().await? {
        if deliveries.len() == limit {
            more = true;
            break;
        }
        let told = delivery.notification.take().unwrap_or_default();
        deliveries.push((delivery, told));
    }
    if output.is_json() {
        let deliveries: Vec<_> = deliveries
            .iter()
            .map(|(delivery, told)| notification::Delivery::of(delivery, told))
            .collect();
        output.json(&json!({ "deliveries": deliveries, "more": more }))?;
        return Ok(Exit::Success);
    }
    let mut table = output.table(["ID", "TIME", "CHANNEL", "TO", "STATE", "TRIES", "KIND", "TITLE", "PROBLEM"]);
    for (delivery, told) in &deliveries {
        table.add_row([
            output.cell(Tone::Strong, &delivery.id),
            output.cell(Tone::Dim, table::instant(delivery.created_time.as_ref())),
            output.cell(Tone::Dim, &delivery.channel),
            output.cell(Tone::Dim, table::or_dash(&delivery.recipients.join(", "))),
            output.cell(tone(delivery.state()), json::delivery_state(delivery.state())),
            output.number(Tone::Dim, delivery.attempts),
            output.cell(severity_tone(told.severity()), json::notification_kind(told.kind())),
            output.cell(Tone::Dim, &told.title),
            output.cell(tone(delivery.state()), table::or_dash(&delivery.last_error)),
        ]);
    }
    output.line(table)?;
    if more {
        output.note(format_args!("There are more than {limit}; --limit shows them."));
    }
    Ok(Exit::Success)
}

fn show(session: &Session, delivery: &proto::Delivery) -> anyhow::Result<Exit> {
    let output = &session.output;
    let nothing = proto::Notification::default();
    let told = delivery.notification.as_ref().unwrap_or(&nothing);
    if output.is_json() {
        output.json(&json!({ "delivery": notification::Delivery::of(delivery, told) }))?;
        return Ok(Exit::Success);
    }
    output.line(detail(output, delivery, told))?;
    if delivery.state() == proto::DeliveryState::Dead {
        output.note(format_args!(
            "To try it again: {}",
            session.command(&format!("notify retry {}", delivery.id))
        ));
    }
    Ok(Exit::Success)
}

fn detail(output: &Output, delivery: &proto::Delivery, told: &proto::Notification) -> comfy_table::Table {
    let mut table = output.table(["DELIVERY", &delivery.id]);
    let state = json::delivery_state(delivery.state());
    let mut row = |label: &str, tone: Tone, value: &str| {
        table.add_row([output.cell(Tone::Dim, label), output.cell(tone, table::or_dash(value))]);
    };
    row("state", tone(delivery.state()), &state);
    row("channel", Tone::Strong, &delivery.channel);
    row("to", Tone::Strong, &delivery.recipients.join(", "));
    row("tries", Tone::Strong, &delivery.attempts.to_string());
    row("problem", tone(delivery.state()), &delivery.last_error);
    row("created", Tone::Dim, &table::instant(delivery.created_time.as_ref()));
    row("due", Tone::Dim, &table::instant(delivery.due_time.as_ref()));
    row("ended", Tone::Dim, &table::instant(delivery.ended_time.as_ref()));
    let kind = format!(
        "{}, {}",
        json::notification_kind(told.kind()),
        json::notification_severity(told.severity())
    );
    row("kind", severity_tone(told.severity()), &kind);
    row("title", Tone::Strong, &told.title);
    for line in &told.lines {
        row(&line.label, Tone::Strong, &line.value);
    }
    row("next step", Tone::Strong, &told.next_step);
    row("look closer", Tone::Strong, &told.command);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_words_are_those_of_the_json() {
        for state in State::value_variants() {
            let word = state.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(word, json::delivery_state((*state).into()));
        }
    }

    #[test]
    fn a_delivery_is_shown_with_what_it_tells() {
        let told = proto::Notification {
            title: "cleanup on main \u{1b}[31mfailed".into(),
            lines: vec![proto::NotificationLine {
                label: "Target".into(),
                value: "main".into(),
            }],
            ..Default::default()
        };
        let delivery = proto::Delivery {
            id: "d1".into(),
            state: proto::DeliveryState::Dead.into(),
            last_error: "answered 410".into(),
            ..Default::default()
        };
        let text = detail(&Output::plain(crate::output::Format::Table), &delivery, &told).to_string();
        for shown in ["d1", "dead", "answered 410", "Target", "main", "\\u{1b}[31mfailed"] {
            assert!(text.contains(shown), "{shown} in {text}");
        }
    }
}
