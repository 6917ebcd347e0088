//! JSON of notifications.
//!
//! Owns the shapes `channel`, `delivery` and `test`. Called by `cmd/notify.rs`.

use dbkeep_client::proto;
use serde::Serialize;

/// A channel.
#[derive(Debug, Serialize)]
pub(crate) struct Channel<'a> {
    name: &'a str,
    /// "email", "slack" or "webhook".
    kind: String,
    destination: &'a str,
    recipients: &'a [String],
}

impl<'a> From<&'a proto::Channel> for Channel<'a> {
    fn from(channel: &'a proto::Channel) -> Self {
        Self {
            name: &channel.name,
            kind: super::channel_kind(channel.kind()),
            destination: &channel.destination,
            recipients: &channel.recipients,
        }
    }
}

/// What became of the try of a channel.
#[derive(Debug, Serialize)]
pub(crate) struct Test<'a> {
    channel: &'a str,
    delivered: bool,
    problem: Option<&'a str>,
    transient: bool,
    delivery_id: &'a str,
    recipients: &'a [String],
    duration_seconds: Option<f64>,
}

impl<'a> Test<'a> {
    pub(crate) fn of(channel: &'a str, answer: &'a proto::TestChannelResponse) -> Self {
        Self {
            channel,
            delivered: answer.delivered,
            problem: super::text(&answer.problem),
            transient: answer.transient,
            delivery_id: &answer.delivery_id,
            recipients: &answer.recipients,
            duration_seconds: super::seconds(answer.duration.as_ref()),
        }
    }
}

/// A particular of a notification.
#[derive(Debug, Serialize)]
struct Line<'a> {
    label: &'a str,
    value: &'a str,
}

/// A delivery, with what is told.
#[derive(Debug, Serialize)]
pub(crate) struct Delivery<'a> {
    id: &'a str,
    channel: &'a str,
    recipients: &'a [String],
    /// "due", "delivered" or "dead".
    state: String,
    attempts: u32,
    last_error: Option<&'a str>,
    created_time: Option<String>,
    due_time: Option<String>,
    ended_time: Option<String>,
    notification_id: &'a str,
    key: &'a str,
    time: Option<String>,
    /// Such as "run_failed".
    kind: String,
    /// "info", "warning" or "error".
    severity: String,
    target: Option<&'a str>,
    schedule_id: Option<&'a str>,
    schedule_name: Option<&'a str>,
    run_id: Option<&'a str>,
    title: &'a str,
    lines: Vec<Line<'a>>,
    next_step: Option<&'a str>,
    command: Option<&'a str>,
}

impl<'a> Delivery<'a> {
    /// A delivery with its notification, which every server of this version sends.
    pub(crate) fn of(delivery: &'a proto::Delivery, told: &'a proto::Notification) -> Self {
        let lines = told.lines.iter().map(|line| Line {
            label: &line.label,
            value: &line.value,
        });
        Self {
            id: &delivery.id,
            channel: &delivery.channel,
            recipients: &delivery.recipients,
            state: super::delivery_state(delivery.state()),
            attempts: delivery.attempts,
            last_error: super::text(&delivery.last_error),
            created_time: super::time(delivery.created_time.as_ref()),
            due_time: super::time(delivery.due_time.as_ref()),
            ended_time: super::time(delivery.ended_time.as_ref()),
            notification_id: &told.id,
            key: &told.key,
            time: super::time(told.time.as_ref()),
            kind: super::notification_kind(told.kind()),
            severity: super::notification_severity(told.severity()),
            target: super::text(&told.target),
            schedule_id: super::text(&told.schedule_id),
            schedule_name: super::text(&told.schedule_name),
            run_id: super::text(&told.run_id),
            title: &told.title,
            lines: lines.collect(),
            next_step: super::text(&told.next_step),
            command: super::text(&told.command),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_delivery_and_what_it_leaves_out() {
        let told = proto::Notification {
            id: "n1".into(),
            key: "run:r1:ended".into(),
            kind: proto::NotificationKind::RunFailed.into(),
            severity: proto::NotificationSeverity::Error.into(),
            run_id: "r1".into(),
            title: "t".into(),
            lines: vec![proto::NotificationLine {
                label: "Target".into(),
                value: "main".into(),
            }],
            ..Default::default()
        };
        let delivery = proto::Delivery {
            id: "d1".into(),
            channel: "hook".into(),
            state: proto::DeliveryState::Dead.into(),
            attempts: 2,
            last_error: "answered 410".into(),
            created_time: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&Delivery::of(&delivery, &told)).unwrap(),
            concat!(
                r#"{"id":"d1","channel":"hook","recipients":[],"state":"dead","attempts":2,"last_error":"answered 410","#,
                r#""created_time":"1970-01-01T00:00:00Z","due_time":null,"ended_time":null,"notification_id":"n1","key":"run:r1:ended","#,
                r#""time":null,"kind":"run_failed","severity":"error","target":null,"schedule_id":null,"schedule_name":null,"run_id":"r1","#,
                r#""title":"t","lines":[{"label":"Target","value":"main"}],"next_step":null,"command":null}"#,
            )
        );
    }
}
