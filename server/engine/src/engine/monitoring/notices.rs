//! What people are told of alerts. Pure.

use jiff::Timestamp;

use crate::model::{
    monitor::{Alert, AlertTransition, Level},
    notice::{Notice, NoticeKind, NoticeSeverity},
};

/// The notice of a transition; `None` where nobody is told.
pub(super) fn of(alert: &Alert, transition: AlertTransition) -> Option<Notice> {
    let (kind, what, at) = match transition {
        AlertTransition::Raised => (NoticeKind::AlertRaised, "raised", alert.raised_at),
        AlertTransition::Resolved => (NoticeKind::AlertResolved, "resolved", alert.resolved_at),
        AlertTransition::Begun | AlertTransition::Held | AlertTransition::Seen | AlertTransition::Passed => return None,
    };
    let place = match (alert.target.as_str(), alert.object.as_str()) {
        ("", object) => object.to_owned(),
        (target, "") => target.to_owned(),
        (target, object) => format!("{object} on {target}"),
    };
    let title = if transition == AlertTransition::Raised {
        format!("{}: {place}: {}", alert.rule, alert.detail)
    } else {
        format!("{}: {place}: over", alert.rule)
    };
    // Both are told once, however often the same look is repeated.
    let mut notice = Notice::new(kind, format!("alert:{}:{what}", alert.id), alert.target.as_str(), title);
    notice.at = at.unwrap_or(notice.at);
    if transition == AlertTransition::Raised {
        notice.severity = match alert.level {
            Level::Info => NoticeSeverity::Info,
            Level::Warning => NoticeSeverity::Warning,
            Level::Error => NoticeSeverity::Error,
        };
        notice.next_step.clone_from(&alert.remediation);
    }
    notice.line("Alert", format!("{} ({})", alert.rule, alert.level.name()));
    notice.line("Target", &alert.target);
    notice.line("Object", &alert.object);
    notice.line("Measured", &alert.detail);
    if let Some(threshold) = alert.threshold {
        notice.line("Begins at", format!("{:.4}", threshold.raise_at));
        notice.line("Ends at", format!("{:.4}", threshold.clear_at));
    }
    notice.line("Since", alert.since.to_string());
    notice.line(
        "Over at",
        alert.resolved_at.as_ref().map(Timestamp::to_string).unwrap_or_default(),
    );
    if let Some((by, _, note)) = &alert.acknowledged {
        notice.line(
            "Looked after by",
            if note.is_empty() {
                by.clone()
            } else {
                format!("{by}: {note}")
            },
        );
    }
    "dbkeep alerts".clone_into(&mut notice.command);
    Some(notice)
}
