//! The channels: what carries notifications to people and programs. One file per kind; the engine decides what goes where and when it is
//! tried again (`dbkeep_engine::notify`), these try once.
//!
//! `render` is what all of them say, `http` the way out for Slack and webhooks, `pin` what that way may lead to. No message of theirs holds a
//! secret: neither a password nor a URL, which for Slack is one. Called by the composition root.

mod http;
mod pin;
mod render;
mod slack;
mod smtp;
mod webhook;

use std::sync::Arc;

use dbkeep_engine::port::Notifier;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::config::channels::{ChannelConfig, ChannelSetting};

pub use pin::{PinError, Resolve, SystemResolver, is_public, pin};
pub use webhook::signing_key;

/// A channel by its setting.
///
/// # Errors
/// What is wrong with it and what was expected.
pub fn open(channel: &ChannelConfig) -> Result<Arc<dyn Notifier>, String> {
    open_with(channel, Arc::new(SystemResolver))
}

/// The same with another way to find addresses.
///
/// # Errors
/// What is wrong with it and what was expected.
pub fn open_with(channel: &ChannelConfig, resolver: Arc<dyn Resolve>) -> Result<Arc<dyn Notifier>, String> {
    Ok(match &channel.setting {
        ChannelSetting::Email(email) => Arc::new(smtp::Smtp::new(channel, email)?),
        ChannelSetting::Slack(hook) => Arc::new(slack::Slack::new(
            channel.facts(),
            http::Poster::new(channel, hook, resolver)?,
        )),
        ChannelSetting::Webhook { hook, key } => Arc::new(webhook::Webhook::new(
            channel.facts(),
            http::Poster::new(channel, hook, resolver)?,
            signing_key(key.expose())?,
        )),
    })
}

/// The certificates in a PEM file.
///
/// # Errors
/// What is wrong with it and what was expected.
pub(crate) fn authorities(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("is no PEM ({error}); expected certificates of authorities"))?;
    if found.is_empty() {
        return Err("holds no certificate; expected those of authorities, in PEM".to_owned());
    }
    Ok(found)
}

/// TLS that trusts these authorities, or the public ones. It brings its provider of cryptography along, so that none is installed for
/// the whole process.
pub(crate) fn tls(authorities_pem: Option<&[u8]>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match authorities_pem {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(pem) => {
            for authority in authorities(pem)? {
                roots
                    .add(authority)
                    .map_err(|error| format!("ca_file: a certificate cannot be used ({error})"))?;
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}
