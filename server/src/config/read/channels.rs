//! The sections `[notifications]`, `[[channel]]` and `[[route]]`: who is told of what, and how. A key that does not belong to the kind of a
//! channel is refused: it would be parsed and ignored.

use std::{ops::Range, path::PathBuf, time::Duration};

use dbkeep_engine::{
    model::notice::{ChannelKind, NoticeKind, NoticeSeverity},
    notify::Route,
    port::LONGEST_LEASE,
};
use serde::Deserialize;
use toml::Spanned;

use super::{
    super::channels::{ChannelConfig, ChannelSetting, DEFAULT_TIMEOUT, EmailConfig, HookConfig, MailSecurity, check_route},
    Config, ConfigError, Source,
};

/// Most tries that can be set.
const MOST_TRIES: u64 = 1_000;
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NotificationsSection {
    first_wait: Option<Spanned<String>>,
    longest_wait: Option<Spanned<String>>,
    give_up_after: Option<Spanned<String>>,
    max_tries: Option<Spanned<u64>>,
    lease_term: Option<Spanned<String>>,
    keep_delivered: Option<Spanned<String>>,
    keep_dead: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChannelSection {
    name: Spanned<String>,
    kind: Spanned<String>,
    url: Option<Spanned<String>>,
    url_file: Option<Spanned<PathBuf>>,
    from: Option<Spanned<String>>,
    to: Option<Spanned<Vec<String>>>,
    username: Option<Spanned<String>>,
    password: Option<Spanned<String>>,
    password_file: Option<Spanned<PathBuf>>,
    starttls: Option<Spanned<bool>>,
    allow_plaintext: Option<Spanned<bool>>,
    secret: Option<Spanned<String>>,
    secret_file: Option<Spanned<PathBuf>>,
    allow_private: Option<Spanned<bool>>,
    ca_file: Option<Spanned<PathBuf>>,
    timeout: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteSection {
    kinds: Option<Spanned<Vec<String>>>,
    severity: Option<Spanned<String>>,
    targets: Option<Spanned<Vec<String>>>,
    channels: Spanned<Vec<String>>,
    recipients: Option<Spanned<Vec<String>>>,
}

fn start<T>(value: Option<&Spanned<T>>) -> Option<usize> {
    value.map(|value| value.span().start)
}

impl ChannelSection {
    /// Where each key that only some kinds have stands, and which kinds those are.
    fn of_some_kinds(&self) -> [(&'static str, Option<usize>, &'static [ChannelKind]); 10] {
        use ChannelKind::{Email, Slack, Webhook};
        [
            ("url_file", start(self.url_file.as_ref()), &[Slack, Webhook]),
            ("from", start(self.from.as_ref()), &[Email]),
            ("to", start(self.to.as_ref()), &[Email]),
            ("username", start(self.username.as_ref()), &[Email]),
            ("password", start(self.password.as_ref()), &[Email]),
            ("password_file", start(self.password_file.as_ref()), &[Email]),
            ("starttls", start(self.starttls.as_ref()), &[Email]),
            ("allow_plaintext", start(self.allow_plaintext.as_ref()), &[Email]),
            ("secret", start(self.secret.as_ref()), &[Webhook]),
            ("secret_file", start(self.secret_file.as_ref()), &[Webhook]),
        ]
    }

    /// Where the key stands that `check` complains of; the channel's name where that key is not there.
    fn place(&self, key: &str) -> usize {
        let place = match key {
            "url" => start(self.url.as_ref()).or(start(self.url_file.as_ref())),
            "from" => start(self.from.as_ref()),
            "to" => start(self.to.as_ref()),
            "starttls" => start(self.starttls.as_ref()),
            "secret" => start(self.secret.as_ref()).or(start(self.secret_file.as_ref())),
            _ => None,
        };
        place.unwrap_or(self.name.span().start)
    }
}

impl Source<'_> {
    pub(super) fn notifications(&self, section: NotificationsSection, config: &mut Config) -> Result<(), ConfigError> {
        let notify = &mut config.engine.notify;
        let longest = start(section.longest_wait.as_ref());
        self.duration(section.first_wait, &mut notify.first_wait, SECOND / 10, DAY)?;
        self.duration(section.longest_wait, &mut notify.longest_wait, SECOND / 10, DAY)?;
        if notify.first_wait > notify.longest_wait {
            return Err(self.refuse(
                longest.unwrap_or_default(),
                format!(
                    "longest_wait is {} s; expected at least first_wait, {} s",
                    notify.longest_wait.as_secs_f64(),
                    notify.first_wait.as_secs_f64()
                ),
            ));
        }
        self.duration(section.give_up_after, &mut notify.give_up_after, SECOND, 30 * DAY)?;
        let mut tries = usize::try_from(notify.max_tries).unwrap_or_default();
        self.count(
            section.max_tries,
            &mut tries,
            usize::try_from(MOST_TRIES).unwrap_or(usize::MAX),
        )?;
        notify.max_tries = u32::try_from(tries).unwrap_or(notify.max_tries);
        self.duration(section.lease_term, &mut notify.lease_term, 2 * SECOND, LONGEST_LEASE)?;
        self.duration(section.keep_delivered, &mut notify.keep_delivered, SECOND, 3_650 * DAY)?;
        self.duration(section.keep_dead, &mut notify.keep_dead, SECOND, 3_650 * DAY)
    }

    pub(super) fn channel(&self, section: ChannelSection, before: &[ChannelConfig]) -> Result<ChannelConfig, ConfigError> {
        let kind = section.kind.get_ref();
        let kind = ChannelKind::named(kind).ok_or_else(|| {
            let known = ChannelKind::ALL.map(ChannelKind::name).join(", ");
            self.refuse(
                section.kind.span().start,
                format!("kind {kind:?} is unknown; expected one of {known}"),
            )
        })?;
        for (key, place, kinds) in section.of_some_kinds() {
            if let Some(place) = place.filter(|_| !kinds.contains(&kind)) {
                let of: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
                return Err(self.refuse(
                    place,
                    format!(
                        "{key} is set, and the channel is of kind {}; expected it of {}",
                        kind.name(),
                        of.join(" or ")
                    ),
                ));
            }
        }
        if let Some(place) = start(section.allow_private.as_ref()).filter(|_| kind == ChannelKind::Email) {
            return Err(self.refuse(
                place,
                "allow_private is set, and the channel is of kind email; expected it of slack or webhook",
            ));
        }
        let name = section.name.get_ref();
        if before.iter().any(|other| other.name == *name) {
            return Err(self.refuse(
                section.name.span().start,
                format!("channel {name} is declared twice; expected unique names"),
            ));
        }
        let setting = match kind {
            ChannelKind::Email => ChannelSetting::Email(self.email(&section)?),
            ChannelKind::Slack => ChannelSetting::Slack(self.hook(&section)?),
            ChannelKind::Webhook => ChannelSetting::Webhook {
                hook: self.hook(&section)?,
                key: self
                    .secret("secret", section.secret.as_ref(), section.secret_file.as_ref())?
                    .ok_or_else(|| {
                        self.refuse(
                            section.name.span().start,
                            "secret is missing; expected whsec_ and base64, as \"${NAME}\", or secret_file",
                        )
                    })?,
            },
        };
        let mut channel = ChannelConfig {
            name: name.clone(),
            setting,
            authorities: section.ca_file.as_ref().map(|file| self.authorities(file)).transpose()?,
            timeout: DEFAULT_TIMEOUT,
        };
        self.duration(section.timeout.clone(), &mut channel.timeout, SECOND, 60 * SECOND)?;
        channel
            .check()
            .map_err(|(key, problem)| self.refuse(section.place(key), problem))?;
        Ok(channel)
    }

    fn email(&self, section: &ChannelSection) -> Result<EmailConfig, ConfigError> {
        let missing =
            |key: &str, expected: &str| self.refuse(section.name.span().start, format!("{key} is missing; expected {expected}"));
        let expected = "smtp://host:port or smtps://host:port";
        let url = section.url.as_ref().ok_or_else(|| missing("url", expected))?;
        let place = url.span().start;
        let text = self.expand(url.get_ref()).map_err(|problem| self.refuse(place, problem))?;
        // It may hold a password in spite of all, so that it is not repeated.
        let parsed = url::Url::parse(&text).map_err(|_| self.refuse(place, format!("the url is none; expected {expected}")))?;
        let (security, port) = match parsed.scheme() {
            "smtp" => (MailSecurity::StartTls, 587),
            "smtps" => (MailSecurity::Tls, 465),
            _ => return Err(self.refuse(place, format!("the url is of no known kind; expected {expected}"))),
        };
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(self.refuse(
                place,
                "the url holds a user or a password; expected the keys username and password",
            ));
        }
        if !matches!(parsed.path(), "" | "/") || parsed.query().is_some() {
            return Err(self.refuse(place, format!("the url says more than a host; expected {expected}")));
        }
        let host = parsed
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| self.refuse(place, format!("the url names no host; expected {expected}")))?;
        let security = match &section.starttls {
            None => security,
            Some(starttls) if security == MailSecurity::Tls => {
                return Err(self.refuse(
                    starttls.span().start,
                    "starttls is set beside smtps://, which is TLS already; expected smtp://",
                ));
            }
            Some(starttls) if *starttls.get_ref() => MailSecurity::StartTls,
            Some(_) => MailSecurity::Plain,
        };
        let password = self.secret("password", section.password.as_ref(), section.password_file.as_ref())?;
        let login = match (&section.username, password) {
            (None, None) => None,
            (Some(username), Some(password)) => {
                let name = self
                    .expand(username.get_ref())
                    .map_err(|problem| self.refuse(username.span().start, problem))?;
                Some((name, password))
            }
            (Some(username), None) => {
                return Err(self.refuse(
                    username.span().start,
                    "username is set and password is not; expected password = \"${NAME}\", or password_file",
                ));
            }
            (None, Some(_)) => return Err(missing("username", "it beside the password")),
        };
        Ok(EmailConfig {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: parsed.port().unwrap_or(port),
            security,
            allow_plaintext: section.allow_plaintext.as_ref().is_some_and(|allow| *allow.get_ref()),
            login,
            from: section
                .from
                .as_ref()
                .map(|from| from.get_ref().clone())
                .ok_or_else(|| missing("from", "the sender's address"))?,
            to: section.to.as_ref().map(|to| to.get_ref().clone()).unwrap_or_default(),
        })
    }

    fn hook(&self, section: &ChannelSection) -> Result<HookConfig, ConfigError> {
        let url = self.secret("url", section.url.as_ref(), section.url_file.as_ref())?;
        Ok(HookConfig {
            url: url.ok_or_else(|| {
                self.refuse(
                    section.name.span().start,
                    "url is missing; expected https://host/path, which may be \"${NAME}\", or url_file",
                )
            })?,
            allow_private: section.allow_private.as_ref().is_some_and(|allow| *allow.get_ref()),
        })
    }

    pub(super) fn authorities(&self, file: &Spanned<PathBuf>) -> Result<Vec<u8>, ConfigError> {
        let pem = self.file("ca_file", file, false)?;
        crate::notify::authorities(&pem).map_err(|problem| self.refuse(file.span().start, format!("ca_file: {problem}")))?;
        Ok(pem)
    }

    /// A route; all channels are known by now.
    pub(super) fn route(&self, section: RouteSection, config: &Config) -> Result<Route, ConfigError> {
        let spans = |key: &str| -> Range<usize> {
            let span = match key {
                "recipients" => section.recipients.as_ref().map(Spanned::span),
                _ => None,
            };
            span.unwrap_or_else(|| section.channels.span())
        };
        let mut kinds = Vec::new();
        if let Some(named) = &section.kinds {
            for name in named.get_ref() {
                kinds.push(NoticeKind::named(name).ok_or_else(|| {
                    let known = NoticeKind::ALL.map(NoticeKind::name).join(", ");
                    self.refuse(
                        named.span().start,
                        format!("kind {name:?} is unknown; expected some of {known}"),
                    )
                })?);
            }
        }
        let severity = match &section.severity {
            None => NoticeSeverity::Info,
            Some(named) => NoticeSeverity::named(named.get_ref()).ok_or_else(|| {
                self.refuse(
                    named.span().start,
                    format!("severity is {:?}; expected info, warning or error", named.get_ref()),
                )
            })?,
        };
        let list = |value: &Option<Spanned<Vec<String>>>| value.as_ref().map(|value| value.get_ref().clone()).unwrap_or_default();
        let route = Route {
            kinds,
            severity,
            targets: list(&section.targets),
            channels: section.channels.get_ref().clone(),
            recipients: list(&section.recipients),
        };
        check_route(&config.routing(), &route).map_err(|(key, problem)| self.refuse(spans(key).start, problem))?;
        Ok(route)
    }
}
