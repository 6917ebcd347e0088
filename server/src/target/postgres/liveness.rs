//! What lets a server find out by itself that its client is gone: a session that nobody hears of any more would keep its locks and its
//! snapshot. Every [`super::line::Line`] begins with it; whoever resets the settings of a session sets these again ([`watched_by`]). The other
//! direction, a server that is gone, is the line's own.
//!
//! A process that is stopped answers for as long as its system does; sessions of such a one are ended by name ([`super::holders`]).

/// What `libpq` programs are told of it. They wait for disks, so that data which nobody takes for a while is no sign of anything.
pub(super) const OPTIONS: &str = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3";

/// Name, value, and the version from which on a server takes it.
const SETTINGS: &str = "(VALUES ('tcp_keepalives_idle', '10', 0), ('tcp_keepalives_interval', '5', 0), ('tcp_keepalives_count', '3', 0), \
     ('tcp_user_timeout', '40s', 120000), ('client_connection_check_interval', '2s', 140000)) AS s (name, value, since)";
/// Only Linux surely tells a server of a closed socket that it does not read from; others refuse the last two of these settings.
const TAKEN: &str = "pg_catalog.current_setting('server_version_num')::integer >= s.since \
     AND (s.since = 0 OR pg_catalog.strpos(pg_catalog.version(), 'linux') > 0)";

/// Sets it for the session. A machine that is gone is missed after 40 seconds, before the next attempt of a run loses its patience with the
/// locks of the one before; a process that is gone while a statement is at work, after two.
pub(super) fn watched() -> String {
    format!("SELECT pg_catalog.set_config(s.name, s.value, false) FROM {SETTINGS} WHERE {TAKEN}")
}

/// The query of one text, by which [`watched_by`] sets the same without having the server plan anything.
pub(super) fn select_taken() -> String {
    format!(
        "SELECT pg_catalog.string_agg(s.name || ' = ' || pg_catalog.quote_literal(s.value), ',') FROM {SETTINGS} WHERE {TAKEN}"
    )
}

/// Sets what [`select_taken`] told, for the session or with `local` for the transaction that is open.
pub(super) fn watched_by(taken: &str, local: bool) -> String {
    let kind = if local { "LOCAL" } else { "SESSION" };
    let set = taken.split(',').map(|setting| format!("SET {kind} {setting}"));
    set.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_set_one_by_one() {
        let taken = "tcp_keepalives_idle = '10',tcp_user_timeout = '40s'";
        assert_eq!(
            watched_by(taken, true),
            "SET LOCAL tcp_keepalives_idle = '10'; SET LOCAL tcp_user_timeout = '40s'"
        );
        assert!(watched_by(taken, false).starts_with("SET SESSION tcp_keepalives_idle"));
    }
}
