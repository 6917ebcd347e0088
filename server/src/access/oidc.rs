//! Tokens of an identity provider (OpenID Connect): JSON Web Tokens that are signed by one of its keys.
//!
//! Only signatures by key pairs are taken, never a shared secret, and only the algorithm that the key is for. Where the keys come from is
//! `jwks`'s.

use std::collections::BTreeSet;

use dbkeep_engine::{
    access::{Grant, Role, Scope},
    model::Caller,
};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, jwk::PublicKeyUse};
use serde_json::{Map, Value};

use super::jwks::Jwks;
use crate::config::access::OidcConfig;

/// Longest token, bytes.
const MAX_TOKEN: usize = 16 << 10;
/// By how much clocks may differ, seconds.
const LEEWAY: u64 = 30;
/// The same as a duration.
const LEEWAY_SPAN: SignedDuration = SignedDuration::from_secs(30);
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

/// An identity provider.
pub(crate) struct Oidc {
    config: OidcConfig,
    keys: Jwks,
}

impl Oidc {
    /// # Errors
    /// Where the keys' file cannot be used, or the address is none.
    pub(crate) fn open(config: &OidcConfig) -> Result<Self, String> {
        Ok(Self {
            config: config.clone(),
            keys: Jwks::open(config)?,
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
        let key = self.keys.key(&kid).await?;
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
        // It is taken for as long after its end as clocks may differ.
        let until = claims.get("exp").and_then(Value::as_f64).and_then(|at| {
            let end = SignedDuration::try_from_secs_f64(at).ok()?.checked_add(LEEWAY_SPAN)?;
            Timestamp::from_duration(end).ok()
        });
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
}

/// A claim that is a text, or a list of texts.
fn texts(claim: Option<&Value>) -> Vec<&str> {
    match claim {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}
