//! Addresses of e-mail, as far as a sender can know: what RFC 5321 lets stand in an envelope, without quoted local parts and without
//! characters beyond ASCII, which many servers refuse. Whether anybody lives there is not asked.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Longest address that fits a path of RFC 5321.
const MAX_ADDRESS: usize = 254;
const MAX_LOCAL: usize = 64;
const MAX_DOMAIN: usize = 253;
const MAX_LABEL: usize = 63;

/// What is wrong with an address; `None` where nothing is.
pub(super) fn problem(address: &str) -> Option<String> {
    // A line end in an address would be one in a header: it is named first, and the text is shown escaped.
    if address.contains(['\r', '\n']) {
        return Some(format!("{address:?} holds a line end; expected local@domain"));
    }
    if address.is_empty() {
        return Some("is empty; expected local@domain".to_owned());
    }
    if address.contains(char::is_whitespace) || address.contains(char::is_control) {
        return Some(format!(
            "{address:?} holds a space or control character; expected local@domain"
        ));
    }
    if address.len() > MAX_ADDRESS {
        return Some(format!("has {} bytes; expected at most {MAX_ADDRESS}", address.len()));
    }
    let Some((local, domain)) = address.rsplit_once('@') else {
        return Some(format!("{address:?} has no @; expected local@domain"));
    };
    if local.is_empty() || local.len() > MAX_LOCAL {
        return Some(format!("{address:?}: expected 1 to {MAX_LOCAL} bytes before the @"));
    }
    if !local.split('.').all(|atom| !atom.is_empty() && atom.bytes().all(is_atext)) {
        return Some(format!(
            "{address:?}: expected letters, digits and !#$%&'*+-/=?^_`{{|}}~ before the @, with single dots between"
        ));
    }
    if !is_domain(domain) {
        return Some(format!(
            "{address:?}: {domain:?} is no domain; expected names of letters, digits and hyphens with dots between"
        ));
    }
    None
}

fn is_atext(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

fn is_domain(domain: &str) -> bool {
    if let Some(literal) = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match literal.strip_prefix("IPv6:") {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => literal.parse::<Ipv4Addr>().is_ok(),
        };
    }
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    domain.len() <= MAX_DOMAIN && domain.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_can_be_written_to_pass() {
        for address in [
            "ops@example.org",
            "first.last+tag@sub.example.co",
            "o'brien@example.org",
            "root@localhost",
            "a@[192.0.2.1]",
            "a@[IPv6:2001:db8::1]",
            &format!("{}@example.org", "l".repeat(64)),
        ] {
            assert_eq!(problem(address), None, "{address}");
        }
    }

    #[test]
    fn anything_else_is_refused_and_says_why() {
        let (long_local, long) = (
            format!("{}@example.org", "l".repeat(65)),
            format!("a@{}", ["d".repeat(60).as_str(); 5].join(".")),
        );
        let long_label = format!("a@{}.org", "d".repeat(64));
        for (address, expected) in [
            ("", "is empty"),
            ("ops", "has no @"),
            ("ops@example.org\r\nBcc: all@example.org", "line end"),
            ("ops@example.org\n", "line end"),
            ("ops @example.org", "space"),
            ("ops@exa mple.org", "space"),
            ("ops\u{0}@example.org", "control"),
            ("@example.org", "before the @"),
            (long_local.as_str(), "before the @"),
            (long.as_str(), "at most 254"),
            (long_label.as_str(), "no domain"),
            (".ops@example.org", "single dots"),
            ("a..b@example.org", "single dots"),
            ("a@b@example.org", "before the @"),
            ("\"a b\"@example.org", "space"),
            ("\"ab\"@example.org", "before the @"),
            ("jürgen@example.org", "before the @"),
            ("Ops <ops@example.org>", "space"),
            ("<ops@example.org>", "before the @"),
            ("ops@", "no domain"),
            ("ops@-example.org", "no domain"),
            ("ops@example-.org", "no domain"),
            ("ops@example..org", "no domain"),
            ("ops@example.org.", "no domain"),
            ("ops@exämple.org", "no domain"),
            ("ops@[300.0.0.1]", "no domain"),
            ("ops@[IPv6:zz]", "no domain"),
        ] {
            let found = problem(address).unwrap_or_default();
            assert!(found.contains(expected), "{address:?}: {found}");
            assert!(!found.contains(['\r', '\n']), "{found:?}");
        }
    }
}
