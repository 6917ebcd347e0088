//! Tokens of an identity provider (OpenID Connect): JSON Web Tokens that are signed by one of its keys.
//!
//! Only signatures by key pairs are taken, never a shared secret, and only the algorithm that the key is for. Keys come from a file, which is
//! read anew when it changes, or over https: at the first token, then every [`KEPT`], and earlier for a key that is not known, at most once in
//! [`PAUSE`]. Where they cannot be read, those from before stay.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use dbkeep_engine::{
    access::{Grant, Role, Scope},
    model::Caller,
};
use jiff::Timestamp;
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    jwk::{Jwk, JwkSet, PublicKeyUse},
};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use crate::{
    config::access::{KeySource, OidcConfig},
    notify,
};

/// How long keys from the network are kept.
const KEPT: Duration = Duration::from_secs(600);
/// Least time between two requests for keys.
const PAUSE: Duration = Duration::from_secs(30);
/// Longest wait for keys.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest set of keys, bytes.
const MAX_KEYS: usize = 1 << 20;
/// Longest token, bytes.
const MAX_TOKEN: usize = 16 << 10;
/// By how much clocks may differ, seconds.
const LEEWAY: u64 = 30;
/// Algorithms of key pairs.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

#[derive(Default)]
struct Keys {
    set: Option<JwkSet>,
    read_at: Option<Instant>,
    tried_at: Option<Instant>,
    modified: Option<SystemTime>,
}

/// An identity provider.
pub(crate) struct Oidc {
    config: OidcConfig,
    /// For keys over https; `None` for a file.
    client: Option<reqwest::Client>,
    keys: Arc<Mutex<Keys>>,
}

impl Oidc {
    /// # Errors
    /// Where the keys' file cannot be used, or the address is none.
    pub(crate) fn open(config: &OidcConfig) -> Result<Self, String> {
        let client = match &config.keys {
            KeySource::File(_) => None,
            KeySource::Url(_) => Some(
                reqwest::Client::builder()
                    .tls_backend_preconfigured(notify::tls(config.authorities.as_deref())?)
                    .https_only(true)
                    .redirect(reqwest::redirect::Policy::none())
                    .timeout(PATIENCE)
                    .build()
                    .map_err(|error| format!("jwks: {error}"))?,
            ),
        };
        let mut keys = Keys::default();
        if let KeySource::File(_) = &config.keys {
            read_file(config, &mut keys)?;
        }
        Ok(Self {
            config: config.clone(),
            client,
            keys: Arc::new(Mutex::new(keys)),
        })
    }

    /// Who the owner of a token is, and what he is granted.
    ///
    /// # Errors
    /// Why it opens nothing; for the log, not for the caller.
    pub(crate) async fn admit(&self, token: &str) -> Result<(String, Grant), String> {
        if token.len() > MAX_TOKEN {
            return Err(format!("it has {} bytes; expected at most {MAX_TOKEN}", token.len()));
        }
        let header = decode_header(token).map_err(|error| format!("it is malformed ({error})"))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(format!("it is signed by {:?}", header.alg));
        }
        let kid = header.kid.ok_or("it does not say which key has signed it")?;
        let key = self.key(&kid).await?;
        if key
            .common
            .public_key_use
            .as_ref()
            .is_some_and(|usage| *usage != PublicKeyUse::Signature)
        {
            return Err(format!("key {kid} is not for signatures"));
        }
        let named = key.common.key_algorithm.map(|algorithm| algorithm.to_string());
        if named.is_some_and(|named| named != format!("{:?}", header.alg)) {
            return Err(format!("it is signed by {:?}, which key {kid} is not for", header.alg));
        }
        let decoding = DecodingKey::from_jwk(&key).map_err(|error| format!("key {kid} cannot be used ({error})"))?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.config.issuer]);
        validation.set_audience(&[&self.config.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let claims = decode::<Map<String, Value>>(token, &decoding, &validation).map_err(|error| error.to_string())?;
        self.granted(&claims.claims)
    }

    fn granted(&self, claims: &Map<String, Value>) -> Result<(String, Grant), String> {
        let config = &self.config;
        let principal = claims.get(&config.principal_claim).and_then(Value::as_str);
        let principal = principal.ok_or_else(|| format!("it has no {}", config.principal_claim))?;
        if !Caller::is_principal(principal) || principal == Caller::ANONYMOUS {
            return Err(format!("its {} is no name of a principal", config.principal_claim));
        }
        let given = texts(claims.get(&config.role_claim));
        let roles: BTreeSet<Role> = given.iter().filter_map(|name| self.role(name)).collect();
        let role = [Role::Admin, Role::Operator, Role::Approver, Role::Viewer]
            .into_iter()
            .find(|role| roles.contains(role))
            .ok_or_else(|| format!("its {} names no role", config.role_claim))?;
        let scope = match &config.targets_claim {
            None => Scope::All,
            Some(claim) => {
                let targets: BTreeSet<String> = texts(claims.get(claim)).into_iter().map(str::to_owned).collect();
                if targets.is_empty() {
                    return Err(format!("its {claim} names no target"));
                }
                Scope::Targets(targets)
            }
        };
        let until = claims
            .get("exp")
            .and_then(Value::as_i64)
            .and_then(|at| Timestamp::from_second(at).ok());
        let grant = Grant {
            role,
            scope,
            until: Some(until.ok_or("it has no end")?),
        };
        Ok((principal.to_owned(), grant))
    }

    fn role(&self, name: &str) -> Option<Role> {
        if self.config.roles.is_empty() {
            Role::named(name)
        } else {
            self.config.roles.get(name).copied()
        }
    }

    async fn key(&self, kid: &str) -> Result<Jwk, String> {
        let mut keys = self.keys.lock().await;
        match &self.config.keys {
            KeySource::File(_) => {
                if let Err(problem) = read_file(&self.config, &mut keys) {
                    tracing::error!(problem, "the identity provider's keys cannot be read; those from before stay");
                }
            }
            KeySource::Url(url) => {
                let is_old = keys.read_at.is_none_or(|at| at.elapsed() > KEPT);
                let is_unknown = find(&keys, kid).is_none();
                let may_ask = keys.tried_at.is_none_or(|at| at.elapsed() > PAUSE);
                if (is_old || is_unknown) && may_ask {
                    keys.tried_at = Some(Instant::now());
                    match self.fetch(url).await {
                        Ok(set) => {
                            keys.set = Some(set);
                            keys.read_at = Some(Instant::now());
                        }
                        Err(problem) => {
                            tracing::error!(problem, "the identity provider's keys cannot be read; those from before stay")
                        }
                    }
                }
            }
        }
        find(&keys, kid).ok_or_else(|| format!("key {kid} is not known"))
    }

    async fn fetch(&self, url: &str) -> Result<JwkSet, String> {
        let client = self.client.as_ref().ok_or("there is no way to fetch keys")?;
        let mut response = client
            .get(url)
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| error.to_string())? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_KEYS {
                return Err(format!("the keys have more than {MAX_KEYS} bytes"));
            }
        }
        serde_json::from_slice(&bytes).map_err(|error| format!("the answer is no set of keys ({error})"))
    }
}

fn read_file(config: &OidcConfig, keys: &mut Keys) -> Result<(), String> {
    let KeySource::File(path) = &config.keys else { return Ok(()) };
    let failed = |error: std::io::Error| format!("jwks: {}: {error}", path.display());
    let modified = std::fs::metadata(path).and_then(|facts| facts.modified()).map_err(failed)?;
    if keys.modified == Some(modified) {
        return Ok(());
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let set = serde_json::from_str(&text).map_err(|error| format!("jwks: {} is no set of keys ({error})", path.display()))?;
    keys.set = Some(set);
    keys.modified = Some(modified);
    Ok(())
}

fn find(keys: &Keys, kid: &str) -> Option<Jwk> {
    keys.set.as_ref()?.find(kid).cloned()
}

/// A claim that is a text, or a list of texts.
fn texts(claim: Option<&Value>) -> Vec<&str> {
    match claim {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}
