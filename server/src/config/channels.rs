//! Channels that carry notifications, and the routes to them: what is set, and what must hold of it.

use std::{collections::BTreeSet, fmt, net::IpAddr, time::Duration};

use dbkeep_engine::{
    model::notice::{Channel, ChannelKind, is_address},
    notify::{Route, Routing},
};

use super::{Config, ConfigError, check_target_name, refuse};

/// Longest time of one try where nothing else is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// Something that nobody may see: a password, a key, or an address that lets whoever knows it in.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for those who use it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("<hidden>")
    }
}

/// A channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelConfig {
    /// Its name, unique: 1 to 63 of A-Z a-z 0-9 _ -.
    pub name: String,
    /// What it is.
    pub setting: ChannelSetting,
    /// Certificates (PEM) of the authorities that are trusted instead of the public ones.
    pub authorities: Option<Vec<u8>>,
    /// Longest time of one try.
    pub timeout: Duration,
}

/// What a channel is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelSetting {
    /// Mail.
    Email(EmailConfig),
    /// An incoming webhook of Slack.
    Slack(HookConfig),
    /// A signed HTTP request.
    Webhook {
        /// Where to.
        hook: HookConfig,
        /// Key of the signature, `whsec_..`.
        key: Secret,
    },
}

/// How the way to a mail server is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailSecurity {
    /// TLS from the first byte.
    Tls,
    /// STARTTLS, and nothing is said without it.
    StartTls,
    /// Not at all.
    Plain,
}

/// A mail server, and who writes to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmailConfig {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the way is secured.
    pub security: MailSecurity,
    /// Whether mail may leave this machine unsecured.
    pub allow_plaintext: bool,
    /// User and password.
    pub login: Option<(String, Secret)>,
    /// Address of the sender.
    pub from: String,
    /// Recipients where nobody is named.
    pub to: Vec<String>,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookConfig {
    /// An https URL.
    pub url: Secret,
    /// Whether it may lead into private networks.
    pub allow_private: bool,
}

impl ChannelConfig {
    /// A channel with the usual time limit, which trusts the public authorities.
    #[must_use]
    pub fn new(name: impl Into<String>, setting: ChannelSetting) -> Self {
        Self {
            name: name.into(),
            setting,
            authorities: None,
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// What may be shown of it.
    #[must_use]
    pub fn facts(&self) -> Channel {
        let (kind, destination, recipients) = match &self.setting {
            ChannelSetting::Email(email) => {
                let secured = match email.security {
                    MailSecurity::Tls => "TLS",
                    MailSecurity::StartTls => "STARTTLS",
                    MailSecurity::Plain => "not secured",
                };
                let destination = format!("{}:{} ({secured})", email.host, email.port);
                (ChannelKind::Email, destination, email.to.clone())
            }
            ChannelSetting::Slack(hook) => (ChannelKind::Slack, host_of(hook), Vec::new()),
            ChannelSetting::Webhook { hook, .. } => (ChannelKind::Webhook, host_of(hook), Vec::new()),
        };
        Channel {
            name: self.name.clone(),
            kind,
            destination,
            recipients,
        }
    }

    /// What is wrong with it, by the key that says it.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        check_target_name(&self.name).map_err(|problem| ("name", problem))?;
        match &self.setting {
            ChannelSetting::Email(email) => email.check(),
            ChannelSetting::Slack(hook) => hook.check(),
            ChannelSetting::Webhook { hook, key } => {
                hook.check()?;
                crate::notify::signing_key(key.expose())
                    .map(drop)
                    .map_err(|problem| ("secret", problem))
            }
        }
    }
}

fn host_of(hook: &HookConfig) -> String {
    let url = url::Url::parse(hook.url.expose()).ok();
    let host = url.as_ref().and_then(url::Url::host_str).unwrap_or_default().to_owned();
    match url.as_ref().and_then(url::Url::port) {
        Some(port) => format!("{host}:{port}"),
        None => host,
    }
}

impl EmailConfig {
    fn check(&self) -> Result<(), (&'static str, String)> {
        for address in std::iter::once(&self.from).chain(&self.to) {
            if !is_address(address) {
                let key = if *address == self.from { "from" } else { "to" };
                return Err((
                    key,
                    format!("{key} has {address:?}, which is no mail address; expected one such as ops@example.com"),
                ));
            }
        }
        let loopback = self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if self.security == MailSecurity::Plain && !loopback && !self.allow_plaintext {
            return Err((
                "starttls",
                format!(
                    "mail to {} would travel unsecured; expected starttls = true, smtps://, or allow_plaintext = true where the network is trusted",
                    self.host
                ),
            ));
        }
        Ok(())
    }
}

impl HookConfig {
    fn check(&self) -> Result<(), (&'static str, String)> {
        // The URL itself may be the secret, so that no message repeats it.
        let refused = |problem: &str| Err(("url", problem.to_owned()));
        let Ok(url) = url::Url::parse(self.url.expose()) else {
            return refused("the url is none; expected https://host/path");
        };
        if url.scheme() != "https" {
            return refused("the url is not of https; expected https://host/path");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refused("the url holds a user or a password; expected https://host/path");
        }
        let literal = match url.host() {
            Some(url::Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
            Some(url::Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
            Some(url::Host::Domain(_)) => None,
            None => return refused("the url names no host; expected https://host/path"),
        };
        if let Some(ip) = literal.filter(|ip| !self.allow_private && !crate::notify::is_public(*ip)) {
            return Err((
                "url",
                format!("the url leads to {ip}, which is no public address; expected one, or allow_private = true"),
            ));
        }
        Ok(())
    }
}

/// Checks channels and routes together.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let mut names = BTreeSet::new();
    for channel in &config.channels {
        channel
            .check()
            .map_err(|(_, problem)| refuse(format!("channel {}", channel.name), problem))?;
        if !names.insert(&channel.name) {
            return Err(refuse(
                "channel",
                format!("{} is declared twice; expected unique names", channel.name),
            ));
        }
    }
    let routing = config.routing();
    for route in &config.routes {
        check_route(&routing, route).map_err(|(_, problem)| refuse("route", problem))?;
        // Here and not where the file is read: the command line may add targets.
        let known = |name: &String| config.targets.iter().any(|target| target.name == *name);
        if let Some(stray) = route.targets.iter().find(|name| !known(name)) {
            let names: Vec<&str> = config.targets.iter().map(|target| target.name.as_str()).collect();
            return Err(refuse(
                "route",
                format!("there is no target {stray:?}; expected one of {}", names.join(", ")),
            ));
        }
    }
    Ok(())
}

/// What is wrong with a route, by the key that says it.
pub(super) fn check_route(routing: &Routing, route: &Route) -> Result<(), (&'static str, String)> {
    if route.channels.is_empty() {
        return Err(("channels", "channels is empty; expected the name of a channel".to_owned()));
    }
    let key = if route.recipients.iter().all(|recipient| is_address(recipient)) {
        "channels"
    } else {
        "recipients"
    };
    routing
        .check(&route.channels, &route.recipients)
        .map_err(|problem| (key, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(url: &str, allow_private: bool) -> ChannelConfig {
        let url = Secret::from(url);
        ChannelConfig::new("hook", ChannelSetting::Slack(HookConfig { url, allow_private }))
    }

    #[test]
    fn secrets_are_not_shown() {
        let webhook = ChannelConfig::new(
            "hook",
            ChannelSetting::Webhook {
                hook: HookConfig {
                    url: "https://example.com/s3cret".into(),
                    allow_private: false,
                },
                key: "whsec_s3cret".into(),
            },
        );
        let email = ChannelConfig::new(
            "mail",
            ChannelSetting::Email(EmailConfig {
                host: "h".to_owned(),
                port: 25,
                security: MailSecurity::StartTls,
                allow_plaintext: false,
                login: Some(("u".to_owned(), "s3cret".into())),
                from: "a@example.com".to_owned(),
                to: Vec::new(),
            }),
        );
        for channel in [webhook, email] {
            assert!(!format!("{channel:?} {:?}", channel.facts()).contains("s3cret"));
        }
    }

    #[test]
    fn requests_go_to_public_places_over_https() {
        assert_eq!(hook("https://hooks.slack.com/services/x", false).check(), Ok(()));
        assert_eq!(hook("https://10.0.0.7/x", true).check(), Ok(()));
        for (url, problem) in [
            ("http://hooks.slack.com/s3cret", "not of https"),
            ("https://10.0.0.7/s3cret", "10.0.0.7, which is no public address"),
            ("https://[::ffff:127.0.0.1]/s3cret", "no public address"),
            ("https://0x7f.1/s3cret", "127.0.0.1, which is no public address"),
            ("https://u:s3cret@example.com/", "holds a user"),
            ("s3cret", "the url is none"),
        ] {
            let (key, said) = hook(url, false).check().expect_err(url);
            assert_eq!(key, "url");
            assert!(said.contains(problem) && !said.contains("s3cret"), "{said}");
        }
    }
}
