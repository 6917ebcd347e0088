//! Where a request may go. A name is resolved once, every address that it has is judged, and the connection is made to one of the judged addresses
//! and to no other: a name that answers differently the next time (rebinding) gains nothing. Whoever may write a URL into the settings
//! does not thereby reach what only this machine can reach.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use async_trait::async_trait;

/// Finds the addresses of a name.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// All addresses of a name.
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's resolver.
#[derive(Debug, Clone, Copy)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((host, 0))
            .await?
            .map(|address| address.ip())
            .collect())
    }
}

/// A host cannot be connected to, or must not be.
#[derive(Debug)]
pub enum PinError {
    /// It has no address, or its address could not be found.
    Unresolved(String),
    /// It has an address in a network that is not public.
    NotPublic {
        /// The host.
        host: String,
        /// That address.
        address: IpAddr,
    },
}

impl fmt::Display for PinError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved(why) => formatter.write_str(why),
            Self::NotPublic { host, address } => write!(
                formatter,
                "{host} leads to {address}, which is no public address; expected one, or allow_private = true in the channel's settings"
            ),
        }
    }
}

/// The addresses to connect to, for a host and a port. One address that is not public spoils them all: a name that mixes them is
/// up to something, or misconfigured.
///
/// # Errors
/// Where there is none, or one that is not public, unless `allow_private`.
pub async fn pin(
    resolver: &dyn Resolve,
    host: &url::Host<&str>,
    port: u16,
    allow_private: bool,
) -> Result<Vec<SocketAddr>, PinError> {
    let addresses = match host {
        url::Host::Ipv4(ip) => vec![IpAddr::V4(*ip)],
        url::Host::Ipv6(ip) => vec![IpAddr::V6(*ip)],
        url::Host::Domain(name) => resolver
            .addresses(name)
            .await
            .map_err(|error| PinError::Unresolved(format!("{name} has no address: {error}")))?,
    };
    if addresses.is_empty() {
        return Err(PinError::Unresolved(format!("{host} has no address")));
    }
    if !allow_private && let Some(address) = addresses.iter().find(|address| !is_public(**address)) {
        return Err(PinError::NotPublic {
            host: host.to_string(),
            address: *address,
        });
    }
    Ok(addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect())
}

/// Networks of IPv4 that are not public: address and length of the prefix (IANA's registry of special-purpose addresses).
const SPECIAL_V4: [([u8; 4], u32); 16] = [
    // "This network".
    ([0, 0, 0, 0], 8),
    // Private (RFC 1918).
    ([10, 0, 0, 0], 8),
    // Carrier-grade NAT.
    ([100, 64, 0, 0], 10),
    // Loopback.
    ([127, 0, 0, 0], 8),
    // Link-local, where clouds keep their metadata.
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    // IETF protocol assignments.
    ([192, 0, 0, 0], 24),
    // Documentation.
    ([192, 0, 2, 0], 24),
    // 6to4 relays, given up.
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    // Benchmarks.
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    // Multicast.
    ([224, 0, 0, 0], 4),
    // Reserved, and broadcast.
    ([240, 0, 0, 0], 5),
    ([248, 0, 0, 0], 5),
];

/// Networks of IPv6 inside of the global unicast block that are not public, or that carry an IPv4 address inside.
const SPECIAL_V6: [(u128, u32); 5] = [
    // IETF protocol assignments: Teredo, benchmarks, ORCHID.
    (0x2001_0000 << 96, 23),
    // Documentation.
    (0x2001_0db8 << 96, 32),
    (0x3fff_0000 << 96, 20),
    // 6to4: an IPv4 address follows.
    (0x2002_0000 << 96, 16),
    // Once the test network 6bone.
    (0x3ffe_0000 << 96, 16),
];

/// Whether an address is one of the public internet: not loopback, private, link-local, shared, multicast, reserved or documentation, and not a
/// way to write or to reach an IPv4 address (mapped, compatible, NAT64, 6to4, Teredo).
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let bits = ip.to_bits();
    !SPECIAL_V4.iter().any(|(network, length)| {
        let network = u32::from_be_bytes(*network);
        (bits ^ network) >> (32 - length) == 0
    })
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let bits = ip.to_bits();
    // Only this block is handed out. Everything else is special: ::1, ::ffff:0:0/96, 64:ff9b::/96, fc00::/7, fe80::/10, ff00::/8 and more.
    let global_unicast = bits >> 125 == 1;
    global_unicast
        && !SPECIAL_V6
            .iter()
            .any(|(network, length)| (bits ^ network) >> (128 - length) == 0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn what_is_not_public_is_known() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.254",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "248.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:10.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:10::1",
            "2001:1ff::1",
            "2001:db8::1",
            "2002:a00:1::1",
            "3ffe::1",
            "3fff::1",
            "3fff:fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(text.parse().expect(text)), "{text}");
        }
        for text in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.0.1",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2000::1",
            "2001:200::1",
            "2001:db9::1",
            "2003::1",
            "2606:4700::1111",
            "3ffd::1",
            "3fff:1000::1",
        ] {
            assert!(is_public(text.parse().expect(text)), "{text}");
        }
    }

    /// Answers with one list after the other.
    struct Answers(Vec<Vec<&'static str>>, AtomicUsize);

    #[async_trait]
    impl Resolve for Answers {
        async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
            assert_eq!(host, "hooks.example");
            let answer = &self.0[self.1.fetch_add(1, Ordering::Relaxed)];
            Ok(answer.iter().map(|text| text.parse().expect("an address")).collect())
        }
    }

    async fn pinned(answers: Vec<Vec<&'static str>>, allow_private: bool) -> Result<Vec<SocketAddr>, PinError> {
        let resolver = Answers(answers, AtomicUsize::new(0));
        let pinned = pin(&resolver, &url::Host::Domain("hooks.example"), 443, allow_private).await;
        assert_eq!(resolver.1.into_inner(), 1, "a name is looked up once");
        pinned
    }

    #[tokio::test]
    async fn a_name_is_judged_by_all_of_its_addresses_and_looked_up_once() {
        // The second answer is what a rebinding name would give to whoever asks again.
        let addresses = pinned(vec![vec!["1.1.1.1", "2606:4700::1111"], vec!["127.0.0.1"]], false).await;
        let expected = ["1.1.1.1:443", "[2606:4700::1111]:443"].map(|text| text.parse().expect("an address"));
        assert_eq!(addresses.expect("public"), expected);
        for private in ["127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::a00:1", "fd00::1"] {
            for answer in [vec![private], vec!["1.1.1.1", private], vec![private, "1.1.1.1"]] {
                let error = pinned(vec![answer], false).await.expect_err("must be refused");
                assert!(matches!(&error, PinError::NotPublic { .. }), "{error}");
            }
            assert_eq!(pinned(vec![vec![private]], true).await.expect("allowed").len(), 1);
        }
        assert!(matches!(pinned(vec![vec![]], true).await, Err(PinError::Unresolved(_))));
    }

    #[tokio::test]
    async fn addresses_that_are_written_out_are_judged_too() {
        let resolver = Answers(Vec::new(), AtomicUsize::new(0));
        for (host, public) in [
            (url::Host::Ipv4(Ipv4Addr::LOCALHOST), false),
            (url::Host::Ipv6(Ipv6Addr::LOCALHOST), false),
            (url::Host::Ipv4(Ipv4Addr::new(8, 8, 8, 8)), true),
        ] {
            assert_eq!(pin(&resolver, &host, 443, false).await.is_ok(), public, "{host}");
        }
    }
}
