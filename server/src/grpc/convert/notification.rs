//! Channels, notifications, deliveries, and the filter over them.

use dbkeep_engine::{
    engine::TestOutcome,
    model::{
        RunId,
        notice::{Channel, ChannelKind, Delivery, DeliveryState, Notice, NoticeKind, NoticeSeverity},
    },
    port::{DeliveryErrorClass, DeliveryFilter},
};
use dbkeep_proto::v1;

use super::time;
use crate::grpc::validate::Check;

/// A channel.
pub(in crate::grpc) fn channel(channel: Channel) -> v1::Channel {
    let kind = match channel.kind {
        ChannelKind::Email => v1::ChannelKind::Email,
        ChannelKind::Slack => v1::ChannelKind::Slack,
        ChannelKind::Webhook => v1::ChannelKind::Webhook,
    };
    v1::Channel {
        name: channel.name,
        kind: kind.into(),
        destination: channel.destination,
        recipients: channel.recipients,
    }
}

/// What became of the try of a channel.
pub(in crate::grpc) fn tested(outcome: TestOutcome) -> v1::TestChannelResponse {
    let transient = outcome
        .failure
        .as_ref()
        .is_some_and(|failure| failure.class == DeliveryErrorClass::Transient);
    v1::TestChannelResponse {
        delivered: outcome.failure.is_none(),
        problem: outcome.failure.map(|failure| failure.message).unwrap_or_default(),
        transient,
        delivery_id: outcome.delivery.to_string(),
        recipients: outcome.recipients,
        duration: Some(time::milliseconds(
            u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX),
        )),
    }
}

/// A delivery.
pub(in crate::grpc) fn delivery(delivery: Delivery) -> v1::Delivery {
    let state = match delivery.state {
        DeliveryState::Due => v1::DeliveryState::Due,
        DeliveryState::Delivered => v1::DeliveryState::Delivered,
        DeliveryState::Dead => v1::DeliveryState::Dead,
    };
    v1::Delivery {
        id: delivery.id.to_string(),
        notification: Some(notification(delivery.envelope.notice)),
        channel: delivery.envelope.channel,
        recipients: delivery.envelope.recipients,
        state: state.into(),
        attempts: delivery.attempts,
        last_error: delivery.last_error,
        created_time: Some(time::timestamp(delivery.created_at)),
        due_time: Some(time::timestamp(delivery.due_at)),
        ended_time: delivery.ended_at.map(time::timestamp),
    }
}

fn notification(notice: Notice) -> v1::Notification {
    let (schedule_id, schedule_name) = notice
        .schedule
        .map(|schedule| (schedule.id, schedule.name))
        .unwrap_or_default();
    v1::Notification {
        id: notice.id.to_string(),
        key: notice.key,
        time: Some(time::timestamp(notice.at)),
        kind: kind(notice.kind).into(),
        severity: severity(notice.severity).into(),
        target: notice.target,
        schedule_id,
        schedule_name,
        run_id: notice.run.map(|run| run.to_string()).unwrap_or_default(),
        title: notice.title,
        lines: notice
            .lines
            .into_iter()
            .map(|line| v1::NotificationLine {
                label: line.label,
                value: line.value,
            })
            .collect(),
        next_step: notice.next_step,
        command: notice.command,
    }
}

fn kind(kind: NoticeKind) -> v1::NotificationKind {
    match kind {
        NoticeKind::RunSucceeded => v1::NotificationKind::RunSucceeded,
        NoticeKind::RunWarned => v1::NotificationKind::RunWarned,
        NoticeKind::RunFailed => v1::NotificationKind::RunFailed,
        NoticeKind::RunRefused => v1::NotificationKind::RunRefused,
        NoticeKind::SlotSkipped => v1::NotificationKind::SlotSkipped,
        NoticeKind::SlotMissed => v1::NotificationKind::SlotMissed,
        NoticeKind::SchedulePaused => v1::NotificationKind::SchedulePaused,
        NoticeKind::AlertRaised => v1::NotificationKind::AlertRaised,
        NoticeKind::AlertResolved => v1::NotificationKind::AlertResolved,
        NoticeKind::AuditAnchored => v1::NotificationKind::AuditAnchored,
        NoticeKind::AuditBroken => v1::NotificationKind::AuditBroken,
        NoticeKind::Test => v1::NotificationKind::Test,
    }
}

fn severity(severity: NoticeSeverity) -> v1::NotificationSeverity {
    match severity {
        NoticeSeverity::Info => v1::NotificationSeverity::Info,
        NoticeSeverity::Warning => v1::NotificationSeverity::Warning,
        NoticeSeverity::Error => v1::NotificationSeverity::Error,
    }
}

/// The filter of a list; what means nothing is noted in `check`.
pub(in crate::grpc) fn filter(filter: v1::DeliveryFilter, check: &mut Check) -> DeliveryFilter {
    let run = if filter.run_id.is_empty() {
        None
    } else {
        let run = filter.run_id.parse::<RunId>().ok();
        if run.is_none() {
            check.refuse(
                "filter.run_id",
                format!("is {:?}; expected an id, or nothing for all", filter.run_id),
            );
        }
        run
    };
    let state = match v1::DeliveryState::try_from(filter.state) {
        Ok(v1::DeliveryState::Unspecified) => None,
        Ok(v1::DeliveryState::Due) => Some(DeliveryState::Due),
        Ok(v1::DeliveryState::Delivered) => Some(DeliveryState::Delivered),
        Ok(v1::DeliveryState::Dead) => Some(DeliveryState::Dead),
        Err(_) => {
            check.refuse(
                "filter.state",
                format!("is {}; expected a state, or DELIVERY_STATE_UNSPECIFIED for all", filter.state),
            );
            None
        }
    };
    DeliveryFilter {
        state,
        channel: Some(filter.channel).filter(|channel| !channel.is_empty()),
        run,
    }
}
