//! Monitoring: what the client and the command line send, what they show, and that streams go on after a break.

use dbkeep_client::{AlertQuery, Error, HistoryQuery, Look, proto};
use futures::TryStreamExt as _;

use crate::{
    cli::{dbkeep, json_lines, serve, text},
    fake::{Asked, Call, Fake},
};

fn asked(fake: &Fake) -> Vec<Asked> {
    fake.calls()
        .into_iter()
        .filter_map(|call| match call {
            Call::Monitoring(asked) => Some(asked),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn a_stream_goes_on_after_a_break_until_the_server_refuses() {
    let fake = Fake::new([]);
    let client = fake.client();
    let mut stream = std::pin::pin!(client.monitoring().watch_alerts(None, 0));
    let mut revisions = Vec::new();
    let error = loop {
        match stream.try_next().await {
            Ok(Some(message)) => revisions.push(message.revision),
            Ok(None) => panic!("a stream ends with an error or not at all"),
            Err(error) => break error,
        }
    };
    assert_eq!(revisions, [1, 2, 3]);
    assert!(matches!(error, Error::InvalidField { .. }), "{error:?}");
    let afters: Vec<Asked> = (0..4).map(|after| Asked::WatchAlerts { after }).collect();
    assert_eq!(asked(&fake), afters);
    let mut metrics = std::pin::pin!(client.monitoring().watch_metrics("", 7));
    for revision in [8, 9] {
        // A stream that simply ends is opened again as well.
        assert_eq!(metrics.try_next().await.unwrap().unwrap().revision, revision);
    }
    // The server's store was put back to an earlier state: from the begin.
    let mut metrics = std::pin::pin!(client.monitoring().watch_metrics("", 90));
    for revision in [91, 1] {
        assert_eq!(metrics.try_next().await.unwrap().unwrap().revision, revision);
    }
    // Whoever asks for one that was never given out is told so.
    let mut metrics = std::pin::pin!(client.monitoring().watch_metrics("", 99));
    let error = metrics.try_next().await.unwrap_err();
    assert!(matches!(error, Error::InvalidField { .. }), "{error:?}");
}

#[tokio::test]
async fn requests_are_sent_as_they_were_built() {
    let fake = Fake::new([]);
    let client = fake.client();
    let monitoring = client.monitoring();
    monitoring.metrics("app", Look::Exact).await.unwrap();
    let query = HistoryQuery::new("app", "table_rows")
        .object("t")
        .step(proto::MetricStep::Hour)
        .limit(7);
    monitoring.history(query).await.unwrap();
    let query = AlertQuery::default()
        .target("")
        .state(proto::AlertState::Resolved)
        .page_size(2);
    assert_eq!(monitoring.list_all_alerts(query).await.unwrap().len(), 4, "both pages");
    let seen = monitoring.acknowledge("alert-1", "I look").await.unwrap();
    assert_eq!(seen.acknowledgement.unwrap().note, "I look");
    let calls = asked(&fake);
    assert_eq!(
        calls[0],
        Asked::Metrics {
            target: "app".into(),
            fresh: false,
            exact: true
        }
    );
    let Asked::History(history) = &calls[1] else {
        panic!("{calls:?}")
    };
    assert_eq!(
        (history.object.as_deref(), history.step(), history.limit),
        (Some("t"), proto::MetricStep::Hour, 7)
    );
    let Asked::Alerts(alerts) = &calls[3] else {
        panic!("{calls:?}")
    };
    assert_eq!((alerts.target.as_deref(), alerts.page_token.as_str()), (Some(""), "2"));
    let incomplete = monitoring.metrics("half", Look::Newest).await.unwrap_err();
    assert!(matches!(incomplete, Error::Incomplete { .. }), "{incomplete:?}");
}

#[tokio::test]
async fn commands_show_what_the_server_says() {
    let fake = Fake::new([]);
    let address = &serve(&fake).await;
    for (arguments, words, key) in [
        (
            &["status"][..],
            &["main", "down", "12 applied, 4 pending", "disk_nearly_full"][..],
            "alerts",
        ),
        (
            &["metrics", "app"],
            &[
                "app",
                "15.18",
                "99.1 %",
                "log written",
                "1235 bytes a second",
                "public.api_logs",
                "1,234,567",
            ],
            "metrics",
        ),
        (&["findings", "--fresh"], &["unused_index", "DROP INDEX public.i"], "findings"),
        (
            &["recommendations"],
            &["Rebuild an index", "REINDEX INDEX"],
            "recommendations",
        ),
        (&["alerts"], &["alert-1", "box:/srv", "raised", "make room"], "alerts"),
        (&["alerts", "ack", "alert-1", "--note", "seen"], &["ann"], "alert"),
        (
            &["metrics", "--history", "database_size_bytes", "--step", "1h", "--since", "7d"],
            &["2.25"],
            "points",
        ),
    ] {
        let output = dbkeep(address, arguments).await;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
        let told = text(&output.stdout);
        for word in words {
            assert!(told.contains(word), "{arguments:?}: {word}: {told}");
        }
        assert!(!told.contains("\u{1b}[31m"), "what a server says moves no cursor: {told}");
        let lines = json_lines(&dbkeep(address, &[arguments, &["-o", "json"]].concat()).await);
        assert_eq!(lines.len(), 1, "{arguments:?}");
        assert!(!lines[0][key].is_null(), "{arguments:?}: {}", lines[0]);
    }
    // What a finding drops can be made again, in either form.
    let definition = "CREATE INDEX i ON public.t (a)";
    let lines = json_lines(&dbkeep(address, &["findings", "-o", "json"]).await);
    assert_eq!(lines[0]["findings"][0]["definition"], definition);
    let told = text(&dbkeep(address, &["findings"]).await.stderr);
    assert!(told.contains(&format!("public.i is made again by: {definition}")), "{told}");
    let lines = json_lines(&dbkeep(address, &["metrics", "app", "-o", "json"]).await);
    assert_eq!(lines[0]["metrics"]["database"]["recent_wal_bytes_per_second"], 1_234.6);
    let output = dbkeep(address, &["metrics", "app"]).await;
    assert!(text(&output.stderr).contains("CREATE EXTENSION pg_stat_statements"));
}

#[tokio::test]
async fn watch_writes_a_line_for_each_change() {
    let fake = Fake::new([]);
    let output = dbkeep(&serve(&fake).await, &["watch", "--after", "1", "-o", "json"]).await;
    // The fake refuses the revision in the end.
    assert_ne!(output.status.code(), Some(0));
    let lines: Vec<serde_json::Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let revisions: Vec<_> = lines.iter().map(|line| line["revision"].clone()).collect();
    assert_eq!(revisions, [2, 3]);
    assert_eq!(lines[0]["alert"]["rule"], "disk_nearly_full");
}

#[tokio::test]
async fn top_is_lines_where_it_is_no_terminal() {
    let fake = Fake::new([]);
    let address = &serve(&fake).await;
    let output = dbkeep(address, &["top", "--interval", "20ms", "--count", "3"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let told = text(&output.stdout);
    let of_target = told
        .lines()
        .filter(|line| line.contains(" target main down, size 4.77 MiB"))
        .count();
    assert_eq!(of_target, 3, "one line a look: {told}");
    assert_eq!(
        told.lines().filter(|line| line.contains("disk_nearly_full box:/srv")).count(),
        3,
        "{told}"
    );
    assert!(!told.contains('\u{1b}'), "nothing moves a cursor: {told}");
    assert_eq!(asked(&fake).iter().filter(|asked| **asked == Asked::Status).count(), 3);
    let lines = json_lines(&dbkeep(address, &["top", "--interval", "20ms", "--count", "2", "-o", "json"]).await);
    assert_eq!(lines.len(), 2);
    assert_eq!(
        (&lines[1]["targets"][0]["name"], &lines[1]["problem"]),
        (&"main".into(), &serde_json::Value::Null)
    );
}

#[tokio::test]
async fn a_week_is_words_a_page_or_json() {
    let fake = Fake::new([]);
    let address = &serve(&fake).await;
    let words = dbkeep(address, &["report", "weekly"]).await;
    assert_eq!(words.status.code(), Some(0), "{}", text(&words.stderr));
    let words = text(&words.stdout);
    for word in [
        "main",
        "down",
        "disk_nearly_full",
        "recommended: Rebuild an index",
        "REINDEX INDEX CONCURRENTLY public.i",
    ] {
        assert!(words.contains(word), "{word}: {words}");
    }
    let page = text(&dbkeep(address, &["report", "weekly", "main", "--html"]).await.stdout);
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"), "{page}");
    assert!(
        page.contains("<svg") && page.contains("unused_index") && !page.contains("<script"),
        "{page}"
    );
    let lines = json_lines(&dbkeep(address, &["report", "weekly", "-o", "json"]).await);
    assert_eq!(
        lines[0]["weekly"]["targets"][0]["findings"][0]["key"],
        "unused_index:public.i"
    );
}
