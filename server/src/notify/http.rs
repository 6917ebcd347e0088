//! The way out for Slack and webhooks: one POST over TLS to an address that was judged before ([`super::pin`]). No redirect is followed, no proxy is
//! asked, and what comes back is read up to a bound in size and time.

use std::{sync::Arc, time::Duration};

use dbkeep_engine::port::{DeliveryError, DeliveryErrorClass};
use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};
use reqwest::{
    Client, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT},
    redirect::Policy,
    retry,
};
use tokio::time::timeout;

use super::{PinError, Resolve, chain, pin, tls};
use crate::config::channels::{ChannelConfig, HookConfig};

/// Longest time until a connection stands.
const CONNECT: Duration = Duration::from_secs(5);
/// Most of an answer's body that is read, bytes.
const MAX_BODY: usize = 4_096;
/// Port of https.
const HTTPS: u16 = 443;

/// What came back.
pub(super) struct Answer {
    status: StatusCode,
    retry_after: Option<Duration>,
    /// The beginning of the body.
    pub(super) body: String,
}

/// Posts to one URL.
pub(super) struct Poster {
    url: reqwest::Url,
    tls: rustls::ClientConfig,
    allow_private: bool,
    timeout: Duration,
    resolver: Arc<dyn Resolve>,
}

impl Poster {
    pub(super) fn new(channel: &ChannelConfig, hook: &HookConfig, resolver: Arc<dyn Resolve>) -> Result<Self, String> {
        Ok(Self {
            url: reqwest::Url::parse(hook.url.expose()).map_err(|_| "the url is none; expected https://host/path".to_owned())?,
            tls: tls(channel.authorities.as_deref())?,
            allow_private: hook.allow_private,
            timeout: channel.timeout,
            resolver,
        })
    }

    /// Posts JSON; returns once the head of the answer is there, and what is read of its body.
    pub(super) async fn post(&self, headers: HeaderMap, body: String) -> Result<Answer, DeliveryError> {
        match timeout(self.timeout, self.send(headers, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(DeliveryError::transient(format!(
                "no answer within {} s",
                self.timeout.as_secs_f64()
            ))),
        }
    }

    async fn send(&self, mut headers: HeaderMap, body: String) -> Result<Answer, DeliveryError> {
        let client = self.client().await?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("dbkeep/", env!("CARGO_PKG_VERSION"))),
        );
        let request = client.post(self.url.clone()).headers(headers).body(body);
        let mut response = request
            .send()
            .await
            // The URL may be a secret.
            .map_err(|error| DeliveryError::transient(chain(&error.without_url())))?;
        let status = response.status();
        let mut answer = Answer {
            status,
            retry_after: response.headers().get(RETRY_AFTER).and_then(retry_after),
            body: String::new(),
        };
        if !status.is_success() {
            // Of a success nothing more is of interest, and of a failure only how it begins; a body that does not end is left alone.
            let mut bytes = Vec::new();
            let read = async {
                while bytes.len() < MAX_BODY
                    && let Ok(Some(chunk)) = response.chunk().await
                {
                    bytes.extend_from_slice(&chunk[..chunk.len().min(MAX_BODY - bytes.len())]);
                }
            };
            // A body that comes too slowly says no more than its status does.
            let _ = timeout(self.timeout / 4, read).await;
            answer.body = String::from_utf8_lossy(&bytes).into_owned();
        }
        Ok(answer)
    }

    /// A client that knows one way only. Made anew for each request: the address is resolved anew, and none is kept.
    async fn client(&self) -> Result<Client, DeliveryError> {
        let host = self
            .url
            .host()
            .ok_or_else(|| DeliveryError::permanent("the url names no host"))?;
        let port = self.url.port().unwrap_or(HTTPS);
        let addresses = pin(self.resolver.as_ref(), &host, port, self.allow_private)
            .await
            .map_err(|error| match error {
                PinError::Unresolved(_) => DeliveryError::transient(error.to_string()),
                // Its owner may correct the name; a record that is wrong for an hour loses nothing.
                PinError::NotPublic { .. } => DeliveryError::permanent(error.to_string()),
            })?;
        let client = Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .https_only(true)
            .redirect(Policy::none())
            .no_proxy()
            .retry(retry::never())
            .referer(false)
            .connect_timeout(CONNECT)
            .pool_max_idle_per_host(0)
            // For a name; an address that is written out needs no lookup, and is the one that was judged.
            .resolve_to_addrs(self.url.host_str().unwrap_or_default(), &addresses)
            .build();
        client.map_err(|error| DeliveryError::permanent(chain(&error.without_url())))
    }
}

/// Seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let until = DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default())
}

impl Answer {
    /// Whether the other side took it. `said` is what may be told of its body.
    pub(super) fn judge(&self, said: &str) -> Result<(), DeliveryError> {
        let status = self.status;
        if status.is_success() {
            return Ok(());
        }
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        let (class, what) = match status {
            StatusCode::GONE => (DeliveryErrorClass::Permanent, ", the receiver is gone for good"),
            _ if status.is_redirection() => (
                DeliveryErrorClass::Permanent,
                ", a redirect, which is not followed; expected the final address in the settings",
            ),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                (DeliveryErrorClass::Transient, "")
            }
            _ if status.is_client_error() => (DeliveryErrorClass::Permanent, ""),
            _ => (DeliveryErrorClass::Transient, ""),
        };
        Err(DeliveryError {
            class,
            retry_after: self.retry_after,
            message: format!("answered {}{what}{said}", status.as_u16()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            retry_after: None,
            body: String::new(),
        }
    }

    #[test]
    fn statuses_pass_or_stay() {
        use DeliveryErrorClass::{Permanent, Transient};
        for status in [200, 201, 202, 204] {
            assert_eq!(answer(status).judge(""), Ok(()));
        }
        for (status, class) in [
            (100, Transient),
            (301, Permanent),
            (307, Permanent),
            (400, Permanent),
            (401, Permanent),
            (404, Permanent),
            (408, Transient),
            (410, Permanent),
            (425, Transient),
            (429, Transient),
            (500, Transient),
            (503, Transient),
        ] {
            let error = answer(status).judge("why").expect_err("no success");
            assert_eq!(error.class, class, "{status}");
            assert!(
                error.message.contains(&status.to_string()) && error.message.ends_with(": why"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        let of = |text: &str| retry_after(&HeaderValue::from_str(text).expect("a value"));
        assert_eq!(of("120"), Some(Duration::from_secs(120)));
        assert_eq!(of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO), "it is over");
        let later = Timestamp::now() + jiff::SignedDuration::from_secs(600);
        let date = jiff::fmt::rfc2822::DateTimePrinter::new()
            .timestamp_to_rfc9110_string(&later)
            .expect("a date");
        let wait = of(&date).expect("a date");
        assert!(
            wait > Duration::from_secs(590) && wait <= Duration::from_secs(600),
            "{wait:?}"
        );
        assert_eq!(of("soon"), None);
        assert_eq!(of("-5"), None);
    }
}
