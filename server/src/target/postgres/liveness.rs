//! What lets a server find out by itself that its client is gone: a session that nobody hears of any more would keep its locks and its
//! snapshot. Every [`super::line::Line`] begins with it; whoever resets the settings of a session sets these again ([`watched`]). The other
//! direction, a server that is gone, is the line's own.
//!
//! A process that is stopped answers for as long as its system does; sessions of such a one are ended by name ([`super::holders`]).

/// What `libpq` programs are told of it. They wait for disks, so that data which nobody takes for a while is no sign of anything.
pub(super) const OPTIONS: &str = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3";

/// Sets it for the session, or with `local` for the transaction that is open. A machine that is gone is missed after 25 seconds where
/// nothing is under way, after 60 where something is; a process that is gone while a statement is at work, after two.
pub(super) fn watched(local: bool) -> String {
    // Only Linux surely tells a server of a closed socket that it does not read from; others refuse the last of these settings.
    format!(
        "SELECT pg_catalog.set_config(s.name, s.value, {local}) FROM (VALUES ('tcp_keepalives_idle', '10', 0), \
         ('tcp_keepalives_interval', '5', 0), ('tcp_keepalives_count', '3', 0), ('tcp_user_timeout', '60s', 120000), \
         ('client_connection_check_interval', '2s', 140000)) AS s (name, value, since) \
         WHERE pg_catalog.current_setting('server_version_num')::integer >= s.since \
           AND (s.since < 140000 OR pg_catalog.strpos(pg_catalog.version(), 'linux') > 0)"
    )
}
