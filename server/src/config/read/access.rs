//! The sections `[tls]`, `[auth]` and `[calls]`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use dbkeep_engine::{
    access::{Role, Scope},
    model::Caller,
};
use serde::Deserialize;
use toml::Spanned;

use super::{Config, ConfigError, Source};
use crate::config::access::{AccessConfig, CertificateRule, KeySource, Loopback, OidcConfig, TlsConfig};

/// Claim that names the principal where nothing is set.
const PRINCIPAL_CLAIM: &str = "sub";
/// Claim that names the role where nothing is set.
const ROLE_CLAIM: &str = "dbkeep_role";

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TlsSection {
    certificate: Option<Spanned<PathBuf>>,
    key: Option<Spanned<PathBuf>>,
    client_ca: Option<Spanned<PathBuf>>,
    client_certificate: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AuthSection {
    loopback: Option<Spanned<String>>,
    dangerously_listen_without_tls: bool,
    certificate: Vec<CertificateSection>,
    oidc: Option<OidcSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateSection {
    san: Spanned<String>,
    principal: Spanned<String>,
    role: Spanned<String>,
    targets: Option<Spanned<BTreeSet<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OidcSection {
    issuer: Spanned<String>,
    audience: Spanned<String>,
    jwks: Spanned<String>,
    ca_file: Option<Spanned<PathBuf>>,
    principal_claim: Option<String>,
    role_claim: Option<String>,
    #[serde(default)]
    roles: BTreeMap<String, Spanned<String>>,
    targets_claim: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CallsSection {
    per_second: Option<Spanned<u64>>,
    burst: Option<Spanned<u64>>,
    open: Option<Spanned<u64>>,
    working: Option<Spanned<u64>>,
    connections: Option<Spanned<u64>>,
    strangers: Option<Spanned<u64>>,
}

impl Source<'_> {
    pub(super) fn access(
        &self,
        tls: TlsSection,
        auth: AuthSection,
        calls: CallsSection,
        config: &mut Config,
    ) -> Result<(), ConfigError> {
        let mut access = AccessConfig {
            tls: self.tls(tls)?,
            dangerously_listen_without_tls: auth.dangerously_listen_without_tls,
            ..AccessConfig::default()
        };
        if let Some(loopback) = auth.loopback {
            let named = Loopback::ALL.into_iter().find(|way| way.name() == loopback.get_ref());
            access.loopback = Some(named.ok_or_else(|| {
                let known = Loopback::ALL.map(Loopback::name).join(", ");
                self.refuse(
                    loopback.span().start,
                    format!("loopback is {:?}; expected one of {known}", loopback.get_ref()),
                )
            })?);
        }
        for section in auth.certificate {
            let rule = self.certificate(section, &access.certificates)?;
            access.certificates.push(rule);
        }
        access.oidc = auth.oidc.map(|section| self.oidc(section)).transpose()?;
        let limits = &mut access.calls;
        self.limit(calls.per_second, "per_second", &mut limits.per_second)?;
        self.limit(calls.burst, "burst", &mut limits.burst)?;
        self.limit(calls.open, "open", &mut limits.open)?;
        self.limit(calls.working, "working", &mut limits.working)?;
        self.limit(calls.connections, "connections", &mut limits.connections)?;
        self.limit(calls.strangers, "strangers", &mut limits.strangers)?;
        config.access = access;
        Ok(())
    }

    fn tls(&self, section: TlsSection) -> Result<Option<TlsConfig>, ConfigError> {
        let path = |path: &PathBuf| self.base.join(path);
        let required = match &section.client_certificate {
            None => false,
            Some(text) => match text.get_ref().as_str() {
                "required" => true,
                "optional" => false,
                other => {
                    return Err(self.refuse(
                        text.span().start,
                        format!("client_certificate is {other:?}; expected optional or required"),
                    ));
                }
            },
        };
        let (certificate, key) = match (section.certificate, section.key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(alone), None) => return Err(self.refuse(alone.span().start, "certificate is set, and key is not")),
            (None, Some(alone)) => return Err(self.refuse(alone.span().start, "key is set, and certificate is not")),
            (None, None) => {
                let stray = section.client_ca.map(|path| path.span().start);
                let stray = stray.or(section.client_certificate.map(|text| text.span().start));
                return match stray {
                    Some(place) => Err(self.refuse(
                        place,
                        "client certificates are spoken of, and certificate and key are not set",
                    )),
                    None => Ok(None),
                };
            }
        };
        if let Some(text) = section.client_certificate.filter(|_| section.client_ca.is_none()) {
            return Err(self.refuse(text.span().start, "client_certificate is set, and client_ca is not"));
        }
        let tls = TlsConfig {
            certificate: path(certificate.get_ref()),
            key: path(key.get_ref()),
            client_ca: section.client_ca.as_ref().map(|file| path(file.get_ref())),
            client_required: required,
        };
        // What cannot be used is refused at its line, and not at the first connection.
        crate::access::check_tls(&tls).map_err(|problem| self.refuse(certificate.span().start, problem))?;
        Ok(Some(tls))
    }

    fn role(&self, text: &Spanned<String>) -> Result<Role, ConfigError> {
        Role::named(text.get_ref()).ok_or_else(|| {
            let known = Role::ALL.map(Role::name).join(", ");
            self.refuse(
                text.span().start,
                format!("the role is {:?}; expected one of {known}", text.get_ref()),
            )
        })
    }

    fn certificate(&self, section: CertificateSection, before: &[CertificateRule]) -> Result<CertificateRule, ConfigError> {
        let san = section.san.get_ref();
        if san.is_empty() || before.iter().any(|rule| rule.san == *san) {
            let problem = format!("san is {san:?}; expected a name of the certificate that no other section has");
            return Err(self.refuse(section.san.span().start, problem));
        }
        // The name of those who have none is nobody's: what it stands for in the record would be two things.
        if !Caller::is_principal(section.principal.get_ref()) || section.principal.get_ref() == Caller::ANONYMOUS {
            let problem = format!(
                "principal is {:?}; expected 1 to {} of A-Z a-z 0-9 . _ @ -, and not the name of those who have none",
                section.principal.get_ref(),
                Caller::MAX_PRINCIPAL
            );
            return Err(self.refuse(section.principal.span().start, problem));
        }
        let scope = match section.targets {
            None => Scope::All,
            Some(targets) if targets.get_ref().is_empty() => {
                return Err(self.refuse(
                    targets.span().start,
                    "targets is empty; expected names, or no such key for all of them",
                ));
            }
            Some(targets) => Scope::Targets(targets.into_inner()),
        };
        Ok(CertificateRule {
            san: san.clone(),
            role: self.role(&section.role)?,
            principal: section.principal.into_inner(),
            scope,
        })
    }

    fn oidc(&self, section: OidcSection) -> Result<OidcConfig, ConfigError> {
        for text in [&section.issuer, &section.audience, &section.jwks] {
            if text.get_ref().is_empty() {
                return Err(self.refuse(text.span().start, "is empty"));
            }
        }
        let jwks = section.jwks.get_ref();
        let keys = if jwks.starts_with("https://") {
            KeySource::Url(jwks.clone())
        } else if jwks.contains("://") {
            return Err(self.refuse(
                section.jwks.span().start,
                format!("jwks is {jwks:?}; expected the path of a file, or an address of https"),
            ));
        } else {
            KeySource::File(self.base.join(jwks))
        };
        let roles = section.roles.iter().map(|(name, role)| Ok((name.clone(), self.role(role)?)));
        Ok(OidcConfig {
            issuer: section.issuer.into_inner(),
            audience: section.audience.into_inner(),
            keys,
            authorities: section.ca_file.as_ref().map(|file| self.authorities(file)).transpose()?,
            principal_claim: section.principal_claim.unwrap_or_else(|| PRINCIPAL_CLAIM.to_owned()),
            role_claim: section.role_claim.unwrap_or_else(|| ROLE_CLAIM.to_owned()),
            roles: roles.collect::<Result<_, ConfigError>>()?,
            targets_claim: section.targets_claim,
        })
    }

    fn limit(&self, number: Option<Spanned<u64>>, name: &str, value: &mut u32) -> Result<(), ConfigError> {
        const MOST: u32 = 1_000_000;
        let Some(number) = number else { return Ok(()) };
        match u32::try_from(*number.get_ref()) {
            Ok(limit) if limit <= MOST => *value = limit,
            _ => {
                return Err(self.refuse(
                    number.span().start,
                    format!("{name} is {}; expected 1 to {MOST}, or 0 for no limit", number.get_ref()),
                ));
            }
        }
        Ok(())
    }
}
