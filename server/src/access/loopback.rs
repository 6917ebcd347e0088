//! Whose process is at the other end of a connection over loopback: the kernel's table of sockets says which user each belongs to.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// State of a connection that stands, in the kernel's table (`TCP_ESTABLISHED`).
const ESTABLISHED: &str = "01";
const ROOT: u32 = 0;

/// Whether the socket at `remote`, which has connected to `local`, belongs to the user of this process, or to root.
pub(super) fn is_own(remote: SocketAddr, local: SocketAddr) -> bool {
    is_of(remote, local, rustix::process::geteuid().as_raw())
}

fn is_of(remote: SocketAddr, local: SocketAddr, user: u32) -> bool {
    owner(remote, local).is_some_and(|owner| owner == user || owner == ROOT)
}

/// The user of that socket; `None` where the kernel does not tell.
fn owner(remote: SocketAddr, local: SocketAddr) -> Option<u32> {
    let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    // A socket of IPv6 may speak IPv4, and stands in the table of IPv6 then.
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .into_iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| find(&table, remote, local))
}

/// The line of a table whose own end is `remote` and whose other end is `local`.
fn find(table: &str, remote: SocketAddr, local: SocketAddr) -> Option<u32> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (own, other, state) = (fields.next()?, fields.next()?, fields.next()?);
        if state != ESTABLISHED || address(own)? != remote || address(other)? != local {
            return None;
        }
        // tx_queue:rx_queue, tr:tm->when, retrnsmt, uid
        fields.nth(3)?.parse().ok()
    })
}

/// An address as the table writes it: 32 bits at a time in the machine's order, and the port as a number, in hexadecimal.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words = host.as_bytes().chunks(8).map(|word| {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    let bytes: Vec<u8> = words.collect::<Option<Vec<_>>>()?.concat();
    let host = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(four) => IpAddr::V4(Ipv4Addr::from(four)),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?),
    };
    Some(SocketAddr::new(host.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::unix::process::CommandExt as _,
        process::Command,
    };

    use super::*;

    #[test]
    fn the_owner_of_a_connection_is_found() {
        for host in ["127.0.0.1:0", "127.3.4.5:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(host) else {
                assert_eq!(host, "[::1]:0", "only IPv6 may be absent");
                continue;
            };
            let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
            let (server, remote) = listener.accept().expect("a connection");
            let local = server.local_addr().expect("an address");
            assert_eq!(owner(remote, local), Some(rustix::process::geteuid().as_raw()), "{host}");
            assert!(is_own(remote, local));
            // Another connection is not this one.
            let other = SocketAddr::new(remote.ip(), remote.port() ^ 1);
            assert_eq!(owner(other, local), None);
            drop(client);
        }
    }

    /// The user that owns nothing, by convention.
    const NOBODY: u32 = 65_534;

    /// Only root can be somebody else; as another user there is no second one to connect as.
    #[test]
    fn a_connection_of_another_user_is_not_the_own_one() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let local = listener.local_addr().expect("an address");
        let mut child = Command::new("bash")
            .args([
                "-c",
                &format!("exec 3<>/dev/tcp/127.0.0.1/{} && read -r line <&3", local.port()),
            ])
            .uid(NOBODY)
            .gid(NOBODY)
            .current_dir("/")
            .spawn()
            .expect("a process of another user");
        let (server, remote) = listener.accept().expect("a connection");
        assert_eq!(owner(remote, local), Some(NOBODY));
        // The tests' own user is root; a server of any other user asks the same of the same table.
        assert!(!is_of(remote, local, NOBODY - 1) && is_of(remote, local, NOBODY));
        assert!(!is_own(remote, local));
        drop(server);
        child.wait().expect("it ends");
    }

    #[test]
    fn another_user_is_not_the_own_one() {
        // Real lines, of users 1000 and 0.
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:9C40 0100007F:C659 01 00000000:00000000 00:00000000 00000000  1000        0 20 1 0 20 4 30 10 -1\n\
            1: 0100007F:9C41 0100007F:C659 06 00000000:00000000 03:00000F9E 00000000     0        0 0 3 0\n";
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        assert_eq!(find(table, at("127.0.0.1:40000"), at("127.0.0.1:50777")), Some(1000));
        // A connection that is over has no owner any more: its line says 0, which would be root.
        assert_eq!(find(table, at("127.0.0.1:40001"), at("127.0.0.1:50777")), None);
        assert_eq!(find(table, at("127.0.0.1:50777"), at("127.0.0.1:40000")), None);
        assert_eq!(find("", at("127.0.0.1:1"), at("127.0.0.1:2")), None);
    }
}
