//! What a group does, and what it leaves when it does not end well.

use std::time::Duration;

use super::{Fixture, count, execute, follow, is_postgres, is_there, order, right, row};
use crate::{
    model::LedgerState,
    port::{GroupOrder, MigratorError, Told},
};

/// A statement that does not end by itself.
fn endless(fixture: &dyn Fixture) -> &'static str {
    if is_postgres(fixture) {
        "SELECT pg_sleep(600)"
    } else {
        "CREATE TABLE endless AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) AS n FROM c"
    }
}

pub(super) async fn a_group_takes_effect_with_its_ledger_row(fixture: &dyn Fixture) {
    let claim = right(fixture).await;
    let statements = [
        "CREATE TABLE whole (id integer PRIMARY KEY, name text)",
        "INSERT INTO whole VALUES (1, 'a;b'), (2, 'it''s')",
        "UPDATE whole SET name = 'c'",
    ];
    let mut order = order(claim, "whole", &statements);
    order.checks = vec!["SELECT count(*) = 2, 'rows' FROM whole".to_owned(), "SELECT 1;".to_owned()];
    order.after.rows = 10;
    let (follow, mut hearing) = follow();
    let done = fixture.target().migrator().execute(&order, &follow).await.expect("applied");
    let rows: Vec<u64> = done.statements.iter().map(|statement| statement.rows).collect();
    assert_eq!(rows, [0, 2, 2]);
    assert_eq!((done.statements[2].statement, done.statements[2].line), (3, 3));
    assert_eq!(done.entry.rows, 14, "those before, and its own");
    assert_eq!(row(fixture, "whole").await.as_ref(), Some(&done.entry));
    let status = fixture.target().status().await.expect("a clock");
    let age = status.clock.duration_since(done.entry.at).as_secs();
    assert!((-5..60).contains(&age), "the target's clock: {age} s");
    assert_eq!(count(fixture, "whole WHERE name = 'c'").await, "2");
    let mut told = Vec::new();
    while let Ok(one) = hearing.try_recv() {
        told.push(match one {
            Told::Begun(index) => format!("begun {index}"),
            Told::Ended(report) => format!("ended {}", report.statement),
        });
    }
    assert_eq!(told, ["begun 0", "ended 1", "begun 1", "ended 2", "begun 2", "ended 3"]);

    let nothing = super::order(claim, "nothing", &[]);
    execute(fixture, &nothing)
        .await
        .expect("a script without statements is applied too");
    assert!(row(fixture, "nothing").await.is_some());
}

pub(super) async fn a_group_that_fails_leaves_nothing(fixture: &dyn Fixture) {
    let claim = right(fixture).await;
    let failing = [
        "CREATE TABLE partly (id integer PRIMARY KEY)",
        "INSERT INTO partly VALUES (1)",
        "SELECT 'ä', no_such_column FROM partly",
    ];
    match execute(fixture, &order(claim, "partly", &failing)).await {
        Err(MigratorError::Statement {
            index,
            offset,
            code,
            message,
            retryable,
            blockers,
        }) => {
            assert_eq!((index, offset, retryable), (2, Some(12), false), "{message}");
            assert!(message.contains("no_such_column") && !code.is_empty() && blockers.is_empty());
        }
        unexpected => panic!("the third statement fails: {unexpected:?}"),
    }
    assert!(!is_there(fixture, "partly").await && row(fixture, "partly").await.is_none());
    let doubled = [
        "CREATE TABLE partly (id integer PRIMARY KEY)",
        "INSERT INTO partly VALUES (1), (1)",
    ];
    let error = execute(fixture, &order(claim, "partly", &doubled))
        .await
        .expect_err("a key twice");
    assert!(matches!(error, MigratorError::Statement { index: 1, .. }), "{error:?}");
    assert!(!is_there(fixture, "partly").await);
    // A key that is looked at when the transaction ends.
    let late = [
        "CREATE TABLE partly (id integer PRIMARY KEY, up integer REFERENCES partly (id) DEFERRABLE INITIALLY DEFERRED)",
        "INSERT INTO partly VALUES (1, 2)",
    ];
    let error = execute(fixture, &order(claim, "partly", &late)).await.expect_err("no parent");
    assert!(matches!(error, MigratorError::Statement { index: 1, .. }), "{error:?}");
    assert!(!is_there(fixture, "partly").await && row(fixture, "partly").await.is_none());
}

pub(super) async fn a_script_that_ends_its_transaction_is_told(fixture: &dyn Fixture) {
    let claim = right(fixture).await;
    let order = order(claim, "ended", &["CREATE TABLE ended (id integer)", "COMMIT", "SELECT 1"]);
    let error = execute(fixture, &order)
        .await
        .expect_err("it must not pass for one transaction");
    assert!(error.to_string().contains("ended its transaction"), "{error}");
    assert!(row(fixture, "ended").await.is_none());
}

pub(super) async fn a_check_takes_the_group_back(fixture: &dyn Fixture) {
    let claim = right(fixture).await;
    let checks = [
        ("SELECT count(*) = 0 FROM checked", "false|0"),
        ("SELECT id FROM checked WHERE id > 9", "no row"),
        ("SELECT id > 1 FROM checked ORDER BY id", "row 1 of 2"),
        ("SELECT NULL FROM checked WHERE id = 1", "NULL"),
        ("SELECT no_such_column FROM checked", "no_such_column"),
    ];
    for (check, found) in checks {
        let mut order = order(
            claim,
            "checked",
            &["CREATE TABLE checked (id integer)", "INSERT INTO checked VALUES (1), (2)"],
        );
        order.checks = vec!["SELECT true".to_owned(), check.to_owned()];
        match execute(fixture, &order).await {
            Err(MigratorError::Check {
                check: named,
                found: told,
            }) => {
                assert_eq!(named, check);
                assert!(found.split('|').any(|found| told.contains(found)), "{check}: {told}");
            }
            unexpected => panic!("{check} does not hold: {unexpected:?}"),
        }
        assert!(!is_there(fixture, "checked").await && row(fixture, "checked").await.is_none());
    }
}

pub(super) async fn a_check_cannot_write(fixture: &dyn Fixture) {
    let claim = right(fixture).await;
    fixture.execute("CREATE TABLE unwritten (id integer)").await;
    let writes = [
        "INSERT INTO unwritten VALUES (1) RETURNING 1",
        "SELECT 1) AS a; INSERT INTO unwritten VALUES (1); SELECT * FROM (SELECT 1",
        "SELECT 1; DROP TABLE unwritten",
    ];
    let target = fixture.target();
    for write in writes {
        assert!(!matches!(target.migrator().check(write).await, Ok(None)), "{write}");
        let mut order = order(claim, "unwritten", &["SELECT 1"]);
        order.checks = vec![write.to_owned()];
        assert!(execute(fixture, &order).await.is_err(), "{write}");
        assert_eq!(count(fixture, "unwritten").await, "0", "{write}");
    }
    assert_eq!(
        target.migrator().check("SELECT count(*) = 0 FROM unwritten").await.ok(),
        Some(None)
    );
    let found = target.migrator().check("SELECT 0 FROM unwritten").await.expect("a query");
    assert!(found.is_some_and(|found| found.contains("no row")));
    fixture.execute("DROP TABLE unwritten").await;
}

fn single(mut order: GroupOrder) -> GroupOrder {
    order.atomic = false;
    order
}

pub(super) async fn a_single_statement_is_in_doubt_while_it_works(fixture: &dyn Fixture) {
    let claim = right(fixture).await;
    let target = fixture.target();
    let order = single(order(claim, "alone", &["VACUUM"]));
    let done = target.migrator().execute(&order, &follow().0).await.expect("applied");
    assert_eq!((done.entry.state, done.entry.in_doubt), (LedgerState::Applied, false));
    assert_eq!(row(fixture, "alone").await.as_ref(), Some(&done.entry));

    let stopped = single(super::order(claim, "doubtful", &[endless(fixture)]));
    let (follow, mut hearing) = follow();
    let stop = follow.stop.clone();
    let (ended, ()) = tokio::join!(target.migrator().execute(&stopped, &follow), async {
        assert!(matches!(hearing.recv().await, Some(Told::Begun(0))));
        let doubt = row(fixture, "doubtful").await.expect("the row is there before the statement");
        assert!(doubt.in_doubt, "{doubt:?}");
        assert_eq!((doubt.state, doubt.statements_done), (LedgerState::Applying, 0));
        stop.cancel();
    });
    assert!(matches!(ended, Err(MigratorError::Stopped)), "{ended:?}");
    assert!(
        row(fixture, "doubtful").await.is_some_and(|entry| entry.in_doubt),
        "nobody knows"
    );
}

pub(super) async fn a_single_statement_that_fails_is_in_no_doubt(fixture: &dyn Fixture) {
    let claim = right(fixture).await;
    let failing = single(order(claim, "alone_failed", &["DROP TABLE no_such_table"]));
    let error = execute(fixture, &failing).await.expect_err("there is none");
    assert!(matches!(error, MigratorError::Statement { index: 0, .. }), "{error:?}");
    let entry = row(fixture, "alone_failed").await.expect("a row");
    assert_eq!(
        (entry.state, entry.statements_done, entry.in_doubt),
        (LedgerState::Applying, 0, false)
    );
    assert!(entry.problem.contains("no_such_table"), "{}", entry.problem);

    let mut again = single(order(claim, "alone_failed", &["CREATE TABLE alone_failed (id integer)"]));
    again.before = Some(entry);
    again.checks = vec!["SELECT count(*) = 1 FROM alone_failed".to_owned()];
    let error = execute(fixture, &again).await.expect_err("the check does not hold");
    assert!(matches!(error, MigratorError::Check { .. }), "{error:?}");
    let entry = row(fixture, "alone_failed").await.expect("a row");
    assert_eq!(
        (entry.state, entry.statements_done, entry.in_doubt),
        (LedgerState::Applying, 1, false)
    );
    assert!(
        is_there(fixture, "alone_failed").await && entry.problem.contains("check"),
        "{}",
        entry.problem
    );
}

pub(super) async fn a_group_that_is_stopped_leaves_nothing(fixture: &dyn Fixture) {
    let claim = right(fixture).await;
    let target = fixture.target();
    let order = order(claim, "stopped", &["CREATE TABLE stopped (id integer)", endless(fixture)]);
    let (follow, mut hearing) = follow();
    let stop = follow.stop.clone();
    let group = tokio::time::timeout(Duration::from_secs(20), target.migrator().execute(&order, &follow));
    let (ended, ()) = tokio::join!(group, async {
        while let Some(told) = hearing.recv().await {
            if matches!(told, Told::Begun(1)) {
                stop.cancel();
                break;
            }
        }
    });
    let ended = ended.expect("it ends soon");
    assert!(matches!(ended, Err(MigratorError::Stopped)), "{ended:?}");
    assert!(!is_there(fixture, "stopped").await && row(fixture, "stopped").await.is_none());
    if is_postgres(fixture) {
        let left = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' AND query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()";
        assert!(fixture.rows(left).await.is_empty(), "the statement has ended too");
    }
}

pub(super) async fn a_statement_that_takes_too_long_is_ended(fixture: &dyn Fixture) {
    let claim = right(fixture).await;
    let mut order = order(claim, "too_long", &["CREATE TABLE too_long (id integer)", endless(fixture)]);
    order.statement_timeout = Some(Duration::from_millis(300));
    let error = execute(fixture, &order).await.expect_err("it takes too long");
    assert!(
        matches!(
            error,
            MigratorError::Statement {
                index: 1,
                retryable: false,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(!is_there(fixture, "too_long").await);
}

pub(super) async fn rows_that_vanish_take_the_group_back(fixture: &dyn Fixture) {
    if is_postgres(fixture) {
        return;
    }
    let claim = right(fixture).await;
    fixture
        .execute(
            "CREATE TABLE parent (id integer PRIMARY KEY); CREATE TABLE child (id integer PRIMARY KEY, up integer REFERENCES parent (id) ON DELETE CASCADE); \
             INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1, 1), (2, 2)",
        )
        .await;
    let rebuild = [
        "CREATE TABLE parent_new (id integer PRIMARY KEY, name text)",
        "INSERT INTO parent_new (id) SELECT id FROM parent",
        "DROP TABLE parent",
        "ALTER TABLE parent_new RENAME TO parent",
    ];
    match execute(fixture, &order(claim, "cascade", &rebuild)).await {
        Err(MigratorError::RowsLost { lost }) => {
            assert_eq!((lost[0].table.as_str(), lost[0].before, lost[0].after), ("child", 2, 0));
        }
        unexpected => panic!("the children would go: {unexpected:?}"),
    }
    assert_eq!(count(fixture, "child").await, "2");

    let mut part = rebuild;
    part[1] = "INSERT INTO parent_new (id) SELECT id FROM parent WHERE id < 2";
    let mut order = order(claim, "part", &part);
    order.foreign_keys_off = true;
    match execute(fixture, &order).await {
        Err(MigratorError::RowsLost { lost }) => {
            assert_eq!((lost[0].table.as_str(), lost[0].before, lost[0].after), ("parent", 2, 1));
        }
        unexpected => panic!("a row would go: {unexpected:?}"),
    }
    let gone = ["DELETE FROM parent WHERE id = 1"];
    let mut order = super::order(claim, "violated", &gone);
    order.foreign_keys_off = true;
    match execute(fixture, &order).await {
        Err(MigratorError::Violations { violations }) => assert!(violations[0].contains("child"), "{violations:?}"),
        unexpected => panic!("a child would be left: {unexpected:?}"),
    }
    let mut order = super::order(claim, "rebuilt", &rebuild);
    order.foreign_keys_off = true;
    execute(fixture, &order).await.expect("nothing is lost");
    assert_eq!(count(fixture, "child").await, "2");
    let violations = fixture.target().migrator().violations().await.expect("a look");
    assert!(violations.is_empty(), "{violations:?}");
    fixture.execute("DROP TABLE child; DROP TABLE parent").await;
}

pub(super) async fn tables_are_measured(fixture: &dyn Fixture) {
    fixture
        .execute("CREATE TABLE \"Mea sured\" (id integer PRIMARY KEY); INSERT INTO \"Mea sured\" VALUES (1), (2), (3)")
        .await;
    let names = ["\"Mea sured\"", "no_such_table", "*"].map(str::to_owned);
    let measures = fixture.target().migrator().measure(&names).await.expect("measures");
    let rows: Vec<Option<u64>> = measures.iter().map(|measure| measure.rows).collect();
    assert_eq!(rows, [Some(3), None, None]);
    assert!(measures[0].bytes > 0 && measures[0].table == names[0]);
    fixture.execute("DROP TABLE \"Mea sured\"").await;
}
