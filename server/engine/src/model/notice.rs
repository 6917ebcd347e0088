//! Notices: something happened that a person or a program wants to hear of, and to whom it goes.
//!
//! A [`Notice`] is made once, by whoever sees the event; its id follows from its key alone, so that two servers that see the same event make the
//! same notice. An [`Envelope`] is a notice on its way over one channel, a [`Delivery`] what the outbox keeps of that way. Which
//! envelopes a notice gets is decided in [`crate::notify::routing`], what an ended run says in [`crate::notify::ended`].

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::run::{ReportStatus, RunId};

/// Id of a notice; the same for the same event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NoticeId(pub Uuid);

impl NoticeId {
    /// The id that belongs to a key: a UUID of version 8 over its SHA-256.
    #[must_use]
    pub fn of_key(key: &str) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"dbkeep-notice\0");
        hasher.update(key);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize()[..16]);
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }
}

impl fmt::Display for NoticeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// A run did everything that was planned.
    RunSucceeded,
    /// A run ended with warnings, was stopped, or did a part of its plan.
    RunWarned,
    /// A run failed, or a step of it did.
    RunFailed,
    /// A run was not allowed to begin.
    RunRefused,
    /// A schedule's slot was passed over on purpose.
    SlotSkipped,
    /// A schedule's slot went by unused.
    SlotMissed,
    /// A schedule paused itself.
    SchedulePaused,
    /// A measured value left its bounds.
    AlertRaised,
    /// It is back in them.
    AlertResolved,
    /// The head of the audit log is anchored.
    AuditAnchored,
    /// The audit log does not fit.
    AuditBroken,
    /// Somebody tries a channel.
    Test,
}

impl NoticeKind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::RunSucceeded,
        Self::RunWarned,
        Self::RunFailed,
        Self::RunRefused,
        Self::SlotSkipped,
        Self::SlotMissed,
        Self::SchedulePaused,
        Self::AlertRaised,
        Self::AlertResolved,
        Self::AuditAnchored,
        Self::AuditBroken,
        Self::Test,
    ];

    /// Name in settings, stores and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RunSucceeded => "run_succeeded",
            Self::RunWarned => "run_warned",
            Self::RunFailed => "run_failed",
            Self::RunRefused => "run_refused",
            Self::SlotSkipped => "slot_skipped",
            Self::SlotMissed => "slot_missed",
            Self::SchedulePaused => "schedule_paused",
            Self::AlertRaised => "alert_raised",
            Self::AlertResolved => "alert_resolved",
            Self::AuditAnchored => "audit_anchored",
            Self::AuditBroken => "audit_broken",
            Self::Test => "test",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// How much it matters where nothing else is known.
    #[must_use]
    pub fn severity(self) -> NoticeSeverity {
        match self {
            Self::RunSucceeded | Self::AlertResolved | Self::AuditAnchored | Self::Test => NoticeSeverity::Info,
            Self::RunWarned | Self::SlotSkipped | Self::SlotMissed | Self::AlertRaised => NoticeSeverity::Warning,
            Self::RunFailed | Self::RunRefused | Self::SchedulePaused | Self::AuditBroken => NoticeSeverity::Error,
        }
    }
}

/// How much a notice matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeSeverity {
    /// Good to know.
    Info,
    /// Worth a look.
    Warning,
    /// Somebody has to act.
    Error,
}

impl NoticeSeverity {
    /// Every severity, the least first.
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Error];

    /// Name in settings, stores and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }

    /// The severity of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.name() == name)
    }
}

/// The schedule that a notice is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleRef {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// The numbers of a notice, for programs; 0 and nothing where they do not apply.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Verdict over the run.
    pub status: Option<ReportStatus>,
    /// Operations of the run.
    pub operations: Vec<String>,
    /// Rows deleted, changed, put back or proven.
    pub rows_affected: u64,
    /// Rows written to the backup.
    pub rows_captured: u64,
    /// Size of that backup, bytes.
    pub bytes: u64,
    /// Time at work, milliseconds.
    pub duration_ms: u64,
    /// Warnings.
    pub warnings: u64,
    /// Steps that failed.
    pub errors: u64,
}

/// One line of a notice's particulars.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What the value is.
    pub label: String,
    /// The value, for people.
    pub value: String,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Its id, which follows from the key.
    pub id: NoticeId,
    /// What the event is, in a form that no other event has, such as `run:<id>:ended`.
    pub key: String,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub kind: NoticeKind,
    /// How much it matters.
    pub severity: NoticeSeverity,
    /// Target that it is about; empty for none.
    pub target: String,
    /// Schedule that it is about.
    pub schedule: Option<ScheduleRef>,
    /// Run that it is about.
    pub run: Option<RunId>,
    /// One line that tells what happened, where, and with which result.
    pub title: String,
    /// Its numbers.
    pub facts: Facts,
    /// Its particulars for people, in order.
    pub lines: Vec<Line>,
    /// What to do next, in one sentence; empty where nothing is to be done.
    pub next_step: String,
    /// Command of the command line tool that looks closer; empty for none.
    pub command: String,
}

impl Notice {
    /// Longest title, characters.
    pub const MAX_TITLE: usize = 200;
    /// Longest value of a line, characters.
    pub const MAX_VALUE: usize = 500;

    /// A notice of now with the severity of its kind, and nothing else yet.
    #[must_use]
    pub fn new(kind: NoticeKind, key: impl Into<String>, target: impl Into<String>, title: impl AsRef<str>) -> Self {
        let key = key.into();
        Self {
            id: NoticeId::of_key(&key),
            key,
            at: Timestamp::now(),
            kind,
            severity: kind.severity(),
            target: target.into(),
            schedule: None,
            run: None,
            title: one_line(title.as_ref(), Self::MAX_TITLE),
            facts: Facts::default(),
            lines: Vec::new(),
            next_step: String::new(),
            command: String::new(),
        }
    }

    /// Adds a line, unless its value is empty.
    pub fn line(&mut self, label: &str, value: impl AsRef<str>) {
        let value = one_line(value.as_ref(), Self::MAX_VALUE);
        if !value.is_empty() {
            self.lines.push(Line {
                label: label.to_owned(),
                value,
            });
        }
    }
}

/// A text on one line, without control characters, cut to so many characters.
#[must_use]
pub fn one_line(text: &str, most: usize) -> String {
    let mut line = String::new();
    for word in text.split(|character: char| character.is_whitespace() || character.is_control()) {
        if !word.is_empty() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    match line.char_indices().nth(most) {
        None => line,
        Some(_) => {
            let mut cut: String = line.chars().take(most.saturating_sub(1)).collect();
            cut.push('…');
            cut
        }
    }
}

/// What carries notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChannelKind {
    /// Mail, by SMTP.
    Email,
    /// An incoming webhook of Slack.
    Slack,
    /// An HTTP request, signed by the Standard Webhooks scheme.
    Webhook,
}

impl ChannelKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Email, Self::Slack, Self::Webhook];

    /// Name in settings and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Slack => "slack",
            Self::Webhook => "webhook",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether its envelopes name recipients; the others go to one place.
    #[must_use]
    pub fn takes_recipients(self) -> bool {
        self == Self::Email
    }
}

/// A channel, as far as it may be shown: no secret is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Its name, unique.
    pub name: String,
    /// What it is.
    pub kind: ChannelKind,
    /// Where it leads, without what is secret: a host, and for mail how it is secured.
    pub destination: String,
    /// Who gets what names nobody; empty for channels that take no recipients.
    pub recipients: Vec<String>,
}

/// A notice on its way over one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// What is told.
    pub notice: Notice,
    /// Name of the channel.
    pub channel: String,
    /// To whom, where the channel takes recipients.
    pub recipients: Vec<String>,
}

/// Longest address of a recipient, bytes (RFC 5321, 4.5.3.1.3).
const MAX_ADDRESS: usize = 254;
/// Longest part before its `@`, bytes.
const MAX_LOCAL_PART: usize = 64;

/// Whether a text is a mail address of the plain kind: `name@host.domain` without quotes, comments or control characters.
#[must_use]
pub fn is_address(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else {
        return false;
    };
    let atom = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
    let dotted = |text: &str, allowed: &dyn Fn(u8) -> bool| {
        text.split('.')
            .all(|part| !part.is_empty() && part.len() <= MAX_LOCAL_PART && part.bytes().all(allowed))
    };
    let label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    text.len() <= MAX_ADDRESS
        && local.len() <= MAX_LOCAL_PART
        && dotted(local, &atom)
        && dotted(domain, &label)
        && !domain.split('.').any(|part| part.starts_with('-') || part.ends_with('-'))
}

/// Id of a delivery, sortable by time. It stays the same however often it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(pub Uuid);

impl DeliveryId {
    /// A new id (UUID version 7).
    #[must_use]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl Default for DeliveryId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl std::str::FromStr for DeliveryId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text).map(Self)
    }
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// It is tried, now or later.
    Due,
    /// The other side took it.
    Delivered,
    /// It was given up, and is tried again only when somebody asks.
    Dead,
}

impl DeliveryState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Due, Self::Delivered, Self::Dead];

    /// Name in stores and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Due => "due",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// An envelope in the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its id.
    pub id: DeliveryId,
    /// What goes where.
    pub envelope: Envelope,
    /// Where it stands.
    pub state: DeliveryState,
    /// How often it was tried, all in all; also the fence of the newest try.
    pub attempts: u32,
    /// Why the newest try failed, or why it was given up; empty where nothing went wrong.
    pub last_error: String,
    /// When it was put into the outbox.
    pub created_at: Timestamp,
    /// When it is tried next; of one that ended, when it was last due.
    pub due_at: Timestamp,
    /// When it was delivered or given up.
    pub ended_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_follows_from_the_key() {
        assert_eq!(NoticeId::of_key("run:1:ended"), NoticeId::of_key("run:1:ended"));
        assert_ne!(NoticeId::of_key("run:1:ended"), NoticeId::of_key("run:2:ended"));
        assert_eq!(NoticeId::of_key("x").0.get_version_num(), 8);
    }

    #[test]
    fn names_lead_back_and_are_those_of_the_json() {
        for kind in NoticeKind::ALL {
            assert_eq!(NoticeKind::named(kind.name()), Some(kind));
            assert_eq!(serde_json::to_value(kind).expect("a value"), kind.name());
        }
        for severity in NoticeSeverity::ALL {
            assert_eq!(NoticeSeverity::named(severity.name()), Some(severity));
            assert_eq!(serde_json::to_value(severity).expect("a value"), severity.name());
        }
    }

    #[test]
    fn a_line_is_one_line() {
        assert_eq!(one_line(" a\r\nBcc: b\u{0}\u{85}c\td ", 100), "a Bcc: b c d");
        assert_eq!(one_line(&"ü".repeat(10), 4), "üüü…");
        assert_eq!(one_line("abcd", 4), "abcd");
    }

    #[test]
    fn addresses_are_plain() {
        for address in ["ops@example.com", "a.b+c@x-1.example", "root@localhost"] {
            assert!(is_address(address), "{address}");
        }
        let long = format!("{}@example.com", "x".repeat(65));
        for text in [
            "",
            "ops",
            "@x",
            "a@",
            "a@b@c",
            "a b@c",
            "a@b c",
            "a@b\r\nBcc: x@y",
            "a..b@c",
            ".a@c",
            "a@.c",
            "a@c.",
            "a@-c",
            "\"a\"@c",
            "ops <a@b>",
            "ä@b",
            "a@b,c@d",
            long.as_str(),
        ] {
            assert!(!is_address(text), "{text:?}");
        }
    }
}
