//! Who calls: the name that a caller on this machine gives itself, in the metadata `dbkeep-principal`.
//!
//! Until callers are authenticated, a name is a statement and no proof. It is taken from this machine only, where whoever can connect
//! is trusted already; from elsewhere it is refused rather than passed over, so that nobody believes to be known by it. Called by the
//! gate for every call, and by the services that record who asked.

use std::net::SocketAddr;

use dbkeep_engine::model::Caller;
use http::{Extensions, HeaderMap};
use tonic::transport::server::TcpConnectInfo;

use super::status::Fault;

/// Name of the metadata.
const HEADER: &str = "dbkeep-principal";

/// The caller of a call, by its headers and its connection.
///
/// # Errors
/// `PrincipalRefused` where the name is malformed, came twice, or came from another machine.
pub(super) fn identify(headers: &HeaderMap, extensions: &Extensions) -> Result<Caller, Fault> {
    let peer = extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    named(headers, peer)
}

fn named(headers: &HeaderMap, peer: Option<SocketAddr>) -> Result<Caller, Fault> {
    let address = peer.map(|peer| peer.to_string()).unwrap_or_default();
    let refuse = |problem: String| Err(Fault::PrincipalRefused { problem });
    let mut names = headers.get_all(HEADER).iter();
    let Some(name) = names.next() else {
        return Ok(Caller {
            principal: Caller::ANONYMOUS.to_owned(),
            peer: address,
        });
    };
    if !peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback()) {
        return refuse("came from another machine; expected it from a loopback address only".to_owned());
    }
    if names.next().is_some() {
        return refuse("came more than once; expected one name".to_owned());
    }
    match name.to_str() {
        Ok(name) if Caller::is_principal(name) => Ok(Caller {
            principal: name.to_owned(),
            peer: address,
        }),
        _ => refuse(format!(
            "is malformed; expected 1 to {} of A-Z a-z 0-9 . _ @ -",
            Caller::MAX_PRINCIPAL
        )),
    }
}

/// The caller that the gate found.
pub(super) fn caller_of<T>(request: &tonic::Request<T>) -> Caller {
    request.extensions().get::<Caller>().cloned().unwrap_or_else(|| Caller {
        principal: Caller::ANONYMOUS.to_owned(),
        peer: String::new(),
    })
}

/// The targets that the caller sees. Until callers are authenticated, all of them.
pub(super) fn scope_of<T>(_request: &tonic::Request<T>) -> dbkeep_engine::access::Scope {
    dbkeep_engine::access::Scope::All
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(names: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for name in names {
            headers.append(HEADER, http::HeaderValue::from_bytes(name).expect("a header value"));
        }
        headers
    }

    fn of(names: &[&[u8]], peer: Option<&str>) -> Result<String, String> {
        let peer = peer.map(|peer| peer.parse().expect("an address"));
        match named(&headers(names), peer) {
            Ok(caller) => {
                assert_eq!(caller.peer, peer.map(|peer| peer.to_string()).unwrap_or_default());
                Ok(caller.principal)
            }
            Err(Fault::PrincipalRefused { problem }) => Err(problem),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_name_is_taken_from_this_machine_only() {
        for here in ["127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(of(&[b"ann@db-1"], Some(here)), Ok("ann@db-1".to_owned()), "{here}");
            assert_eq!(of(&[], Some(here)), Ok(Caller::ANONYMOUS.to_owned()));
        }
        for elsewhere in [Some("10.0.0.7:1"), Some("[2001:db8::1]:1"), Some("[::ffff:10.0.0.7]:1"), None] {
            let problem = of(&[b"ann"], elsewhere).expect_err("refused");
            assert!(problem.contains("another machine"), "{problem}");
            assert_eq!(of(&[], elsewhere), Ok(Caller::ANONYMOUS.to_owned()));
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for names in [
            &[b"".as_slice()] as &[&[u8]],
            &[b"a b"],
            &["ä".as_bytes()],
            &[b"\xff"],
            &["x".repeat(65).as_bytes()],
            &[b"ann", b"bob"],
            &[b"ann", b"ann"],
        ] {
            assert!(of(names, Some("127.0.0.1:1")).is_err(), "{names:?}");
        }
    }
}
