//! Webhooks: a JSON body (`docs/notification.schema.json`), signed by the Standard Webhooks scheme, so that the receiver can tell who sent it, that
//! nothing was changed, and, by `webhook-id`, that it was sent before.
//!
//! ```text
//! webhook-id:        the delivery's id, the same with every try
//! webhook-timestamp: seconds since 1970 of this try; receivers refuse what is old
//! webhook-signature: v1,BASE64(HMAC-SHA256(key, id "." timestamp "." body))
//! ```

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use dbkeep_engine::{
    model::notice::{Channel, DeliveryId, Envelope, Notice},
    port::{DeliveryError, Notifier},
};
use jiff::Timestamp;
use reqwest::header::{HeaderMap, HeaderValue};
use ring::hmac;
use serde_json::json;

use super::http::Poster;

/// What a key begins with.
const PREFIX: &str = "whsec_";
/// Lengths of a key that the scheme allows, bytes.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

pub(super) struct Webhook {
    channel: Channel,
    poster: Poster,
    key: hmac::Key,
}

/// The key of a signature, from its text.
///
/// # Errors
/// What is wrong with it and what was expected; never the key.
pub fn signing_key(text: &str) -> Result<hmac::Key, String> {
    let expected = "expected whsec_ and base64 of 24 to 64 random bytes";
    let encoded = text
        .strip_prefix(PREFIX)
        .ok_or_else(|| format!("the secret does not begin with {PREFIX}; {expected}"))?;
    let bytes = STANDARD
        .decode(encoded)
        .map_err(|_| format!("the secret is no base64; {expected}"))?;
    if !KEY_BYTES.contains(&bytes.len()) {
        return Err(format!("the secret has {} bytes; {expected}", bytes.len()));
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

impl Webhook {
    pub(super) fn new(channel: Channel, poster: Poster, key: hmac::Key) -> Self {
        Self { channel, poster, key }
    }
}

#[async_trait]
impl Notifier for Webhook {
    fn channel(&self) -> &Channel {
        &self.channel
    }

    async fn deliver(&self, envelope: &Envelope, delivery: DeliveryId) -> Result<(), DeliveryError> {
        let body = body(&envelope.notice);
        let headers = headers(&self.key, &delivery.to_string(), Timestamp::now().as_second(), &body)?;
        // What the receiver says beside its status may hold anything, and is not repeated.
        self.poster.post(headers, body).await?.judge("")
    }
}

fn headers(key: &hmac::Key, id: &str, seconds: i64, body: &str) -> Result<HeaderMap, DeliveryError> {
    let signed = hmac::sign(key, format!("{id}.{seconds}.{body}").as_bytes());
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", seconds.to_string()),
        ("webhook-signature", format!("v1,{}", STANDARD.encode(signed))),
    ] {
        let value =
            HeaderValue::from_str(&value).map_err(|_| DeliveryError::permanent("the delivery's id is no header value"))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// The body: the same bytes with every try.
fn body(notice: &Notice) -> String {
    json!({
        "type": notice.kind,
        "timestamp": notice.at,
        "data": {
            "id": notice.id,
            "key": notice.key,
            "severity": notice.severity,
            "target": (!notice.target.is_empty()).then_some(&notice.target),
            "schedule": notice.schedule,
            "run_id": notice.run,
            "title": notice.title,
            "facts": notice.facts,
            "lines": notice.lines,
            "next_step": (!notice.next_step.is_empty()).then_some(&notice.next_step),
            "command": (!notice.command.is_empty()).then_some(&notice.command),
        },
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks specification's own test vectors.
    #[test]
    fn the_signature_is_that_of_the_specification() {
        let key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a key");
        let headers = headers(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, "{\"test\": 2432232314}").expect("headers");
        assert_eq!(
            headers["webhook-signature"],
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
        assert_eq!(headers["webhook-id"], "msg_p5jXN8AQM9LWM0D4loKWxJek");
        assert_eq!(headers["webhook-timestamp"], "1614265330");
    }

    #[test]
    fn keys_are_long_enough_and_never_repeated() {
        let short = format!("whsec_{}", STANDARD.encode([7; 23]));
        let long = format!("whsec_{}", STANDARD.encode([7; 65]));
        for text in ["", "s3cret", "whsec_s3cret!", &short, &long] {
            let error = signing_key(text).expect_err(text);
            assert!(error.contains("expected whsec_") && !error.contains("s3cret"), "{error}");
        }
        for bytes in [24, 64] {
            assert!(signing_key(&format!("whsec_{}", STANDARD.encode(vec![7; bytes]))).is_ok());
        }
    }
}
