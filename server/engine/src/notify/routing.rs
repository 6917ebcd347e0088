//! Who hears of what: the routes of the settings, which are for everything, and the rules of a schedule, which are for its runs. Pure.
//!
//! A channel that takes recipients gets one envelope for each of them, so that an address which is refused costs the others nothing, and
//! nobody gets the same notice twice because two routes name them.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::notice::{Channel, Envelope, Notice, NoticeKind, NoticeSeverity, is_address};

/// A route: notices that fit go to its channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Kinds that fit; empty for all of them.
    pub kinds: Vec<NoticeKind>,
    /// The least severity that fits.
    pub severity: NoticeSeverity,
    /// Targets that fit; empty for all of them, and for notices about none.
    pub targets: Vec<String>,
    /// Names of channels.
    pub channels: Vec<String>,
    /// Recipients for the channels that take some; empty for the channels' own.
    pub recipients: Vec<String>,
}

impl Route {
    fn fits(&self, notice: &Notice) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&notice.kind))
            && notice.severity >= self.severity
            && (self.targets.is_empty() || self.targets.contains(&notice.target))
    }
}

/// What a schedule wants to be told of its own runs, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules<'a> {
    /// Tell of successes.
    pub on_success: bool,
    /// Tell of failures: of runs that failed or were refused, of slots that were missed, and of a schedule that paused itself.
    pub on_failure: bool,
    /// Tell of warnings: of runs that ended with some, and of slots that were skipped or missed.
    pub on_warnings: bool,
    /// Channels, by name, or by kind for all channels of it.
    pub channels: &'a [String],
    /// Recipients for the channels that take some; empty for the channels' own.
    pub recipients: &'a [String],
}

impl Rules<'_> {
    fn fit(&self, kind: NoticeKind) -> bool {
        match kind {
            NoticeKind::RunSucceeded => self.on_success,
            NoticeKind::RunFailed | NoticeKind::RunRefused | NoticeKind::SchedulePaused => self.on_failure,
            // What did not happen is the failure that nobody sees by itself.
            NoticeKind::SlotMissed => self.on_failure || self.on_warnings,
            NoticeKind::RunWarned | NoticeKind::SlotSkipped => self.on_warnings,
            // Those are no schedule's.
            NoticeKind::AlertRaised
            | NoticeKind::AlertResolved
            | NoticeKind::AuditAnchored
            | NoticeKind::AuditBroken
            | NoticeKind::Test => false,
        }
    }
}

/// The channels that there are, and the routes of the settings.
#[derive(Debug, Clone, Default)]
pub struct Routing {
    channels: BTreeMap<String, Channel>,
    routes: Vec<Route>,
}

impl Routing {
    /// A routing over these channels.
    #[must_use]
    pub fn new(channels: impl IntoIterator<Item = Channel>, routes: Vec<Route>) -> Self {
        Self {
            channels: channels.into_iter().map(|channel| (channel.name.clone(), channel)).collect(),
            routes,
        }
    }

    /// The envelopes of a notice: by the routes, and by the rules of its schedule where it has one. A channel that there is not, any more or on
    /// this server, gets one as well: another server may have it, and where none has, what was to be told is on record as a dead letter.
    #[must_use]
    pub fn envelopes(&self, notice: &Notice, rules: Option<Rules<'_>>) -> Vec<Envelope> {
        let mut places = BTreeSet::new();
        for route in self.routes.iter().filter(|route| route.fits(notice)) {
            self.add(&mut places, &route.channels, &route.recipients);
        }
        if let Some(rules) = rules.filter(|rules| rules.fit(notice.kind)) {
            self.add(&mut places, rules.channels, rules.recipients);
        }
        places
            .into_iter()
            .map(|(channel, recipients)| Envelope {
                notice: notice.clone(),
                channel,
                recipients,
            })
            .collect()
    }

    fn add(&self, places: &mut BTreeSet<(String, Vec<String>)>, names: &[String], recipients: &[String]) {
        for name in names {
            let mut known = false;
            for channel in self.resolve(name) {
                known = true;
                if !channel.kind.takes_recipients() {
                    places.insert((channel.name.clone(), Vec::new()));
                    continue;
                }
                let recipients = if recipients.is_empty() {
                    &channel.recipients
                } else {
                    recipients
                };
                places.extend(
                    recipients
                        .iter()
                        .map(|recipient| (channel.name.clone(), vec![recipient.clone()])),
                );
            }
            if !known {
                // What it took is not known either: one envelope says it all.
                places.insert((name.clone(), recipients.to_vec()));
            }
        }
    }

    /// Whether a name means a channel that there is.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.resolve(name).next().is_some()
    }

    /// The channels that a name means: the one of that name, else all of that kind.
    fn resolve<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Channel> {
        let named = self.channels.get(name);
        let of_kind = self
            .channels
            .values()
            .filter(move |channel| named.is_none() && channel.kind.name() == name);
        named.into_iter().chain(of_kind)
    }

    /// Checks where something is to go, for whoever takes such lists from a caller.
    ///
    /// # Errors
    /// What is wrong and what was expected: a channel that there is not, an address that is none, or mail to nobody.
    pub fn check(&self, names: &[String], recipients: &[String]) -> Result<(), String> {
        if let Some(recipient) = recipients.iter().find(|recipient| !is_address(recipient)) {
            return Err(format!(
                "recipient {recipient:?} is no mail address; expected one such as ops@example.com"
            ));
        }
        for name in names {
            let mut meant = self.resolve(name).peekable();
            if meant.peek().is_none() {
                let known = self.channels.keys().cloned().collect::<Vec<_>>().join(", ");
                return Err(if known.is_empty() {
                    format!("there is no channel {name:?}; this server has none, expected a [[channel]] in its settings")
                } else {
                    format!("there is no channel {name:?}; expected one of {known}")
                });
            }
            let nobody =
                meant.find(|channel| channel.kind.takes_recipients() && recipients.is_empty() && channel.recipients.is_empty());
            if let Some(channel) = nobody {
                return Err(format!(
                    "nobody would get the mail of channel {}; expected recipients",
                    channel.name
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::notice::ChannelKind;

    fn channel(name: &str, kind: ChannelKind, recipients: &[&str]) -> Channel {
        Channel {
            name: name.to_owned(),
            kind,
            destination: String::new(),
            recipients: texts(recipients),
        }
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn route(channels: &[&str], recipients: &[&str]) -> Route {
        Route {
            kinds: Vec::new(),
            severity: NoticeSeverity::Info,
            targets: Vec::new(),
            channels: texts(channels),
            recipients: texts(recipients),
        }
    }

    fn routing(routes: Vec<Route>) -> Routing {
        let channels = [
            channel("mail", ChannelKind::Email, &["ops@example.com"]),
            channel("chat", ChannelKind::Slack, &[]),
            channel("hook-a", ChannelKind::Webhook, &[]),
            channel("hook-b", ChannelKind::Webhook, &[]),
        ];
        Routing::new(channels, routes)
    }

    fn places(envelopes: &[Envelope]) -> Vec<String> {
        envelopes
            .iter()
            .map(|envelope| format!("{}:{}", envelope.channel, envelope.recipients.join(",")))
            .collect()
    }

    #[test]
    fn routes_fit_by_kind_severity_and_target() {
        let mut narrow = route(&["chat"], &[]);
        narrow.kinds = vec![NoticeKind::RunFailed, NoticeKind::RunSucceeded];
        narrow.severity = NoticeSeverity::Warning;
        narrow.targets = texts(&["shop"]);
        let routing = routing(vec![narrow]);
        let of = |kind, target: &str| routing.envelopes(&Notice::new(kind, "k", target, "t"), None).len();
        assert_eq!(of(NoticeKind::RunFailed, "shop"), 1);
        assert_eq!(of(NoticeKind::RunFailed, "bank"), 0);
        assert_eq!(of(NoticeKind::RunFailed, ""), 0);
        assert_eq!(of(NoticeKind::RunSucceeded, "shop"), 0, "it is less than a warning");
        assert_eq!(of(NoticeKind::RunRefused, "shop"), 0, "no such kind");
    }

    #[test]
    fn everybody_gets_a_notice_once() {
        let routing = routing(vec![
            route(&["mail", "chat"], &[]),
            route(&["mail"], &["ops@example.com", "ann@example.com"]),
        ]);
        let (channels, recipients) = (
            texts(&["mail", "webhook", "chat"]),
            texts(&["bob@example.com", "ann@example.com"]),
        );
        let rules = Rules {
            on_success: false,
            on_failure: true,
            on_warnings: false,
            channels: &channels,
            recipients: &recipients,
        };
        let failed = Notice::new(NoticeKind::RunFailed, "k", "shop", "t");
        assert_eq!(
            places(&routing.envelopes(&failed, Some(rules))),
            [
                "chat:",
                "hook-a:",
                "hook-b:",
                "mail:ann@example.com",
                "mail:bob@example.com",
                "mail:ops@example.com"
            ]
        );
        let succeeded = Notice::new(NoticeKind::RunSucceeded, "k", "shop", "t");
        assert_eq!(
            places(&routing.envelopes(&succeeded, Some(rules))),
            ["chat:", "mail:ann@example.com", "mail:ops@example.com"]
        );
        assert_eq!(
            places(&Routing::default().envelopes(&failed, Some(rules))),
            [
                "chat:bob@example.com,ann@example.com",
                "mail:bob@example.com,ann@example.com",
                "webhook:bob@example.com,ann@example.com"
            ],
            "channels that are gone, or that another server has: nothing is dropped"
        );
    }

    #[test]
    fn lists_of_callers_are_checked() {
        let check = |channels: &[&str], recipients: &[&str]| routing(Vec::new()).check(&texts(channels), &texts(recipients));
        assert_eq!(check(&["mail", "slack", "hook-a"], &["a@example.com"]), Ok(()));
        assert_eq!(check(&["mail"], &[]), Ok(()), "the channel has recipients of its own");
        let said = check(&["pager"], &[]).expect_err("unknown");
        assert!(said.contains("chat, hook-a, hook-b, mail"), "{said}");
        assert!(check(&["mail"], &["nobody"]).is_err());
        let silent = Routing::new([channel("mail", ChannelKind::Email, &[])], Vec::new());
        let said = silent.check(&texts(&["email"]), &[]).expect_err("nobody gets it");
        assert!(said.contains("expected recipients"), "{said}");
    }
}
