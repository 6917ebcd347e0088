//! `dbkeep notify` against a real server: tables, JSON and exit codes.

use dbkeep_client::proto;
use dbkeep_server::{
    Config,
    config::channels::{ChannelConfig, ChannelSetting, EmailConfig, MailSecurity},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cli::{dbkeep, json_lines, text};

/// A server whose channel `mail` leads to a port where nobody listens.
async fn serve(folder: &tempfile::TempDir) -> (String, CancellationToken) {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let email = EmailConfig {
        host: "127.0.0.1".into(),
        port: closed,
        security: MailSecurity::Plain,
        allow_plaintext: false,
        login: Some(("u".into(), "s3cret".into())),
        from: "dbkeep@example.com".into(),
        to: vec!["ops@example.com".into()],
    };
    let channel = ChannelConfig::new("mail", ChannelSetting::Email(email));
    let config = Config::embedded(folder.path()).with_channel(channel);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let shutdown = CancellationToken::new();
    tokio::spawn(dbkeep_server::serve(listener, config, shutdown.clone()));
    (address, shutdown)
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_tests_and_deliveries_are_tables_or_json() {
    let folder = tempfile::tempdir().unwrap();
    let (address, shutdown) = serve(&folder).await;
    let output = dbkeep(&address, &["notify", "channels"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for shown in ["mail", "email", "not secured", "ops@example.com"] {
        assert!(text(&output.stdout).contains(shown), "{}", text(&output.stdout));
    }
    let output = dbkeep(&address, &["notify", "channels", "-o", "json"]).await;
    let lines = json_lines(&output);
    assert_eq!(lines[0]["channels"][0]["kind"], "email");
    assert!(!text(&output.stdout).contains("s3cret"));

    let output = dbkeep(&address, &["notify", "test", "mail"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stdout).contains("not delivered over mail to ops@example.com"),
        "{}",
        text(&output.stdout)
    );
    assert!(text(&output.stderr).contains("may pass"), "{}", text(&output.stderr));
    let output = dbkeep(&address, &["notify", "test", "mail", "--to", "ann@example.com", "-o", "json"]).await;
    assert_eq!(output.status.code(), Some(1));
    let tested = &json_lines(&output)[0]["test"];
    assert_eq!(tested["recipients"][0], "ann@example.com");
    assert_eq!((&tested["delivered"], &tested["transient"]), (&false.into(), &true.into()));
    assert!(tested["problem"].as_str().unwrap().contains("refused"), "{tested}");

    for (arguments, code, said) in [
        (vec!["notify", "test", "pager"], 1, "UNKNOWN_CHANNEL"),
        (vec!["notify", "test", "mail", "--to", "nobody"], 2, "INVALID_FIELD"),
        (vec!["notify", "show", "d1"], 1, "UNKNOWN_DELIVERY"),
        (vec!["notify", "retry", "d1"], 1, "dbkeep notify deliveries"),
    ] {
        let output = dbkeep(&address, &arguments).await;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(said), "{arguments:?}: {}", text(&output.stderr));
    }
    let output = dbkeep(&address, &["notify", "deliveries", "--state", "dead", "-o", "json"]).await;
    assert_eq!(json_lines(&output)[0], serde_json::json!({ "deliveries": [], "more": false }));
    let output = dbkeep(&address, &["decisions", "list", "-o", "json"]).await;
    let acts = json_lines(&output)[0]["decisions"].as_array().unwrap().len();
    assert_eq!(acts, 5, "two tests, two refused ones and a retry: {}", text(&output.stdout));
    assert_eq!(
        crate::cli::json_lines(&output)[0]["decisions"][4]["act"],
        proto::DecisionAct::TestChannel
            .as_str_name()
            .trim_start_matches("DECISION_ACT_")
            .to_lowercase()
    );
    shutdown.cancel();
}
