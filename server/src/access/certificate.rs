//! What a client certificate says of its owner.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

/// A client's certificate, which an authority has signed.
#[derive(Debug, Clone)]
pub(crate) struct ClientCertificate {
    /// The subject alternative names that say who somebody is: DNS names, mail addresses and URIs. Its common name is not looked at
    /// (RFC 9525, 2).
    pub(crate) names: Arc<[String]>,
    /// Until when it is good.
    pub(crate) not_after: Timestamp,
}

/// What a certificate says of its owner. One that cannot be read has no name, and is over.
pub(super) fn read(certificate: &CertificateDer<'_>) -> ClientCertificate {
    let nobody = ClientCertificate {
        names: Arc::default(),
        not_after: Timestamp::UNIX_EPOCH,
    };
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return nobody;
    };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        _ => None,
    };
    let names = match certificate.subject_alternative_name() {
        Ok(Some(names)) => names.value.general_names.iter().filter_map(name).collect(),
        Ok(None) | Err(_) => Arc::default(),
    };
    let end = certificate.validity().not_after.timestamp();
    ClientCertificate {
        names,
        not_after: Timestamp::from_second(end).unwrap_or(nobody.not_after),
    }
}
