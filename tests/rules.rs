//! Rules with children, and every action, over gRPC on both databases: what is planned is what happens, and undo takes it back
//! bit by bit in every table.

mod support;

use std::collections::BTreeMap;

use dbkeep_client::{Error, PlanRequest, RunRequest, RunStream, UndoRequest, proto};
use futures::StreamExt as _;
use support::{Database, World, refusal};

/// Each case on each database.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod postgres { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Database::Postgres).await; })* }
        mod sqlite { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Database::Sqlite).await; })* }
    };
}

on_both! {
    cascades_are_counted_captured_and_undone
    small_batches_hold_whole_families
    threads_go_whole_whatever_is_listed_of_them
    archived_threads_come_back_at_the_first_undo
    a_row_that_two_keys_reach_counts_once
    a_child_of_a_column_that_is_not_unique_is_refused_at_start
    a_restricting_key_blocks_by_name
    a_declared_child_goes_along_where_the_schema_only_refuses
    archived_rows_are_copied_and_undo_takes_the_copies_back
    archived_rows_come_back_where_the_archive_table_is_gone
    an_archive_table_that_does_not_fit_is_refused_at_start
    updated_rows_stay_and_undo_gives_the_old_values_back
    orphans_of_every_form
    nullified_orphans_stay
    text_keys_name_missing_rows
    a_filter_takes_what_it_says
    a_filter_before_others_means_its_own_columns
    a_circle_of_cascades_is_refused_by_name
    later_steps_foresee_what_earlier_ones_take
    children_that_came_since_the_plan_are_too_many
    what_a_run_and_its_undo_write_to_is_held
    rules_of_several_operations_that_conflict_are_not_planned_together
    the_share_of_a_child_table_is_limited_as_well
    what_the_catalog_gets_wrong_is_refused_at_start
}

/// Accounts 1 to 40, of which every fourth is closed, and what hangs on them.
const SCHEMA: &str = "
CREATE TABLE account (id integer PRIMARY KEY, status text NOT NULL, closed_at bigint, seen_at bigint, made_at bigint NOT NULL);
CREATE TABLE profile (id integer PRIMARY KEY, account_id integer NOT NULL REFERENCES account ON DELETE CASCADE, bio text);
CREATE INDEX profile_account ON profile (account_id);
CREATE TABLE post (id integer PRIMARY KEY, account_id integer REFERENCES account ON DELETE CASCADE,
  reply_to integer REFERENCES post ON DELETE SET NULL, editor_id integer REFERENCES account ON DELETE SET NULL, body text);
CREATE INDEX post_account ON post (account_id);
CREATE INDEX post_reply ON post (reply_to);
CREATE INDEX post_editor ON post (editor_id);
CREATE TABLE remark (id integer PRIMARY KEY, post_id integer REFERENCES post ON DELETE CASCADE,
  parent_id integer REFERENCES remark ON DELETE CASCADE, body text);
CREATE INDEX remark_post ON remark (post_id);
CREATE INDEX remark_parent ON remark (parent_id);
CREATE TABLE badge (id integer PRIMARY KEY, account_id integer, title text);
CREATE INDEX badge_account ON badge (account_id);
CREATE TABLE cache (id integer PRIMARY KEY, name text, note text);
CREATE TABLE event (id integer PRIMARY KEY, subject_type text, subject_id integer, at bigint);

INSERT INTO account WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
  SELECT i, CASE WHEN i % 4 = 0 THEN 'closed' WHEN i % 7 = 0 THEN 'barred' ELSE 'open' END, CASE WHEN i % 8 = 0 THEN 1000 END,
    CASE WHEN i % 5 = 0 THEN NULL WHEN i % 2 = 0 THEN 2000 ELSE 99999999999 END, CASE WHEN i % 10 = 0 THEN 3000 ELSE 99999999999 END FROM n;
INSERT INTO profile SELECT id, id, 'bio ' || id FROM account;
INSERT INTO post WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
  SELECT i, 1 + i % 40, CASE WHEN i % 3 = 0 AND i > 10 THEN i - 7 END, CASE WHEN i % 6 = 0 THEN 1 + (i / 6) % 40 END, 'post ' || i FROM n;
INSERT INTO remark WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900)
  SELECT i, CASE WHEN i % 10 = 0 THEN NULL ELSE 1 + i % 400 END, CASE WHEN i % 2 = 0 AND i > 20 THEN i - 17 END, 'remark ' || i FROM n;
INSERT INTO badge WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 120)
  SELECT i, CASE WHEN i % 9 = 0 THEN NULL ELSE 1 + i % 45 END, 'badge ' || i FROM n;
INSERT INTO cache WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
  SELECT i, CASE WHEN i % 10 = 0 THEN NULL WHEN i % 10 = 1 THEN 'user:x' || i WHEN i % 10 = 2 THEN 'users:' || i ELSE 'user:' || i END, 'n' FROM n;
INSERT INTO event WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
  SELECT i, CASE WHEN i % 2 = 0 THEN 'account' ELSE 'post' END, i, CASE WHEN i % 10 = 0 THEN NULL WHEN i % 10 < 5 THEN 1000 ELSE 99999999999 END FROM n;
";

const TABLES: [&str; 7] = ["account", "profile", "post", "remark", "badge", "cache", "event"];

/// Rows that hang on closed accounts, found with nothing but SQL.
const GONE_POSTS: &str = "(SELECT p.id FROM post AS p JOIN account AS a ON a.id = p.account_id WHERE a.status = 'closed')";

fn operation(name: &str, rules: &str) -> String {
    format!("[[operation]]\nname = \"{name}\"\ncategory = \"TEST\"\nseverity = \"MEDIUM\"\nbackup = true\n{rules}\n")
}

fn rule(name: &str, kind: &str, table: &str, rest: &str) -> String {
    format!("[[operation.rule]]\nname = \"{name}\"\nkind = \"{kind}\"\ntable = \"{table}\"\n{rest}\n")
}

fn closed_accounts(rest: &str) -> String {
    operation(
        "close",
        &rule(
            "closed",
            "filter",
            "account",
            &format!("condition = \"status = 'closed'\"\n{rest}"),
        ),
    )
}

async fn hashes(world: &World) -> BTreeMap<&'static str, String> {
    let mut hashes = BTreeMap::new();
    for table in TABLES {
        hashes.insert(table, world.hash(table).await);
    }
    hashes
}

async fn count(world: &World, sql: &str) -> u64 {
    let rows = world.db.fetch_text(sql).await.expect("a count");
    rows[0][0].as_deref().and_then(|count| count.parse().ok()).expect("a number")
}

async fn undo(world: &World, run: &str) -> proto::Run {
    let undo = world
        .client
        .runs()
        .undo(UndoRequest::new(run).full_speed())
        .await
        .expect("a stream");
    undo.finish().await.expect("an end")
}

/// Plans and runs; the report must be the plan.
async fn clean(world: &World, operation: &str, batch: u32) -> (proto::Plan, proto::Run) {
    let plan = world
        .client
        .cleanup()
        .plan(PlanRequest::new([operation]))
        .await
        .expect("a plan");
    assert!(
        !plan.blocked,
        "{:?}",
        plan.steps.iter().map(|step| &step.findings).collect::<Vec<_>>()
    );
    let run = world
        .client
        .cleanup()
        .run(RunRequest::of_plan(&plan).execute().batch_size(batch).full_speed())
        .await
        .expect("a run");
    let run = run.finish().await.expect("an end");
    let report = run.report.clone().expect("a report");
    assert_eq!(
        run.state(),
        proto::RunState::Succeeded,
        "{}: {:?}",
        run.state_reason,
        report.steps
    );
    for (planned, done) in plan.steps.iter().zip(&report.steps) {
        assert_eq!(planned.row_count, done.rows_affected, "{}", planned.rule);
        let mut along = BTreeMap::new();
        for child in planned.children.iter().filter(|child| child.row_count > 0) {
            let (deleted, nullified) = along.entry(child.table.as_str()).or_insert((0, 0));
            match child.action() {
                proto::ChildAction::Delete => *deleted += child.row_count,
                proto::ChildAction::SetNull => *nullified += child.row_count,
                proto::ChildAction::Unspecified => panic!("a child without an action"),
            }
        }
        let done: BTreeMap<_, _> = done
            .along
            .iter()
            .map(|along| (along.table.as_str(), (along.rows_deleted, along.rows_nullified)))
            .collect();
        assert_eq!(along, done, "{}", planned.rule);
    }
    (plan, run)
}

/// Cleans, checks the database, proves the backup, undoes, and compares every table.
async fn round_trip(world: &World, operation: &str, batch: u32) -> proto::Plan {
    let before = hashes(world).await;
    let (plan, run) = clean(world, operation, batch).await;
    assert_ne!(hashes(world).await, before);
    let again = world
        .client
        .cleanup()
        .plan(PlanRequest::new([operation]))
        .await
        .expect("a plan");
    assert_eq!(
        (again.row_count, again.along_row_count),
        (0, 0),
        "a second run has nothing to do"
    );
    let verified = world.client.backups().verify(run.id.as_str()).await.expect("a stream");
    let verified = verified.finish().await.expect("an end");
    assert_eq!(verified.state(), proto::RunState::Succeeded, "{}", verified.state_reason);
    let undo = undo(world, &run.id).await;
    assert_eq!(undo.state(), proto::RunState::Succeeded, "{}", undo.state_reason);
    assert_eq!(hashes(world).await, before, "as before, bit by bit");
    plan
}

fn along<'a>(plan: &'a proto::Plan, table: &str, action: proto::ChildAction) -> u64 {
    let children = plan.steps.iter().flat_map(|step| &step.children);
    let of_table = |child: &&'a proto::PlanChild| child.table.rsplit('.').next() == Some(table) && child.action() == action;
    children.filter(of_table).map(|child| child.row_count).sum()
}

async fn cascades_are_counted_captured_and_undone(database: Database) {
    use proto::ChildAction::{Delete, SetNull};
    let world = World::with_schema(database, SCHEMA, &closed_accounts("")).await;
    let remarks = format!(
        "WITH RECURSIVE gone(id) AS (SELECT id FROM remark WHERE post_id IN {GONE_POSTS} UNION \
         SELECT r.id FROM remark AS r JOIN gone ON gone.id = r.parent_id) SELECT count(*) FROM gone"
    );
    let posts = count(&world, &format!("SELECT count(*) FROM {GONE_POSTS} AS g")).await;
    let remarks = count(&world, &remarks).await;
    let replies = format!("SELECT count(*) FROM post WHERE reply_to IN {GONE_POSTS} AND id NOT IN {GONE_POSTS}");
    let edited = format!(
        "SELECT count(*) FROM post WHERE editor_id IN (SELECT id FROM account WHERE status = 'closed') AND id NOT IN {GONE_POSTS}"
    );
    let changed = count(&world, &replies).await + count(&world, &edited).await;
    let plan = round_trip(&world, "close", 100).await;
    assert_eq!(plan.row_count, 10);
    assert_eq!(along(&plan, "profile", Delete), 10);
    assert_eq!(
        (along(&plan, "post", Delete), along(&plan, "remark", Delete)),
        (posts, remarks)
    );
    assert_eq!(along(&plan, "post", SetNull), changed);
    assert!(posts > 50 && remarks > posts && changed > 20, "{posts} {remarks} {changed}");
}

async fn small_batches_hold_whole_families(database: Database) {
    let world = World::with_schema(database, SCHEMA, &closed_accounts("")).await;
    let before = hashes(&world).await;
    // One account alone has more rows than a batch may hold: each must go in a batch of its own.
    let (plan, run) = clean(&world, "close", 4).await;
    let report = run.report.clone().expect("a report");
    assert_eq!(report.steps[0].batches, plan.row_count);
    assert_eq!(undo(&world, &run.id).await.state(), proto::RunState::Succeeded);
    assert_eq!(hashes(&world).await, before);
}

async fn threads_go_whole_whatever_is_listed_of_them(database: Database) {
    threads(database, "").await;
}

async fn archived_threads_come_back_at_the_first_undo(database: Database) {
    threads(
        database,
        "action = \"archive\"\ninto = \"old_remark\"\nstamp = \"archived_at\"\n",
    )
    .await;
}

async fn threads(database: Database, action: &str) {
    // Every remark from 20 on answers the one 17 before it, and more than one answers the first: listed rows hang on listed rows,
    // and on rows that only go along. Two answer each other.
    let rules = rule(
        "old",
        "filter",
        "remark",
        &format!("condition = \"id < 300 OR id % 7 = 0\"\nmax_fraction = 1.0\n{action}"),
    );
    let world = World::with_schema(database, SCHEMA, &operation("old", &rules)).await;
    world
        .db
        .execute(
            "UPDATE remark SET parent_id = CASE WHEN id = 3 THEN 899 WHEN id = 899 THEN 3 WHEN id % 50 = 0 THEN 7 ELSE id - 17 END \
             WHERE id > 20 OR id = 3",
        )
        .await
        .expect("threads");
    let before = hashes(&world).await;
    let remarks = world.db.count("remark").await.expect("a count");
    let plan = world.plan("old").await;
    for batch in [10, 299, 1_000] {
        let plan = if batch == 10 { plan.clone() } else { world.plan("old").await };
        let request = RunRequest::of_plan(&plan).execute().batch_size(batch).full_speed();
        let run = world
            .client
            .cleanup()
            .run(request)
            .await
            .expect("a run")
            .finish()
            .await
            .expect("an end");
        let report = run.report.clone().expect("a report");
        assert_eq!(
            run.state(),
            proto::RunState::Succeeded,
            "{}: {:?}",
            run.state_reason,
            report.steps
        );
        let gone = remarks - world.db.count("remark").await.expect("a count");
        assert_eq!(gone, plan.row_count + plan.along_row_count, "what was planned, batch {batch}");
        assert_eq!(
            (report.rows_affected + report.rows_along, report.rows_captured),
            (gone, gone),
            "batch {batch}"
        );
        let undone = undo(&world, &run.id).await;
        assert_eq!(undone.state(), proto::RunState::Succeeded, "{}", undone.state_reason);
        assert_eq!(hashes(&world).await, before, "as before, batch {batch}");
        if !action.is_empty() {
            assert_eq!(world.db.count("old_remark").await.expect("a count"), 0, "no copy is left");
        }
    }
}

/// Notes that one account owns and another edits.
const NOTES: &str = "CREATE TABLE account (id integer PRIMARY KEY, doomed integer);
CREATE TABLE note (id integer PRIMARY KEY, owner integer REFERENCES account ON DELETE CASCADE, editor integer REFERENCES account ON DELETE SET NULL);
CREATE INDEX note_owner ON note (owner); CREATE INDEX note_editor ON note (editor);
INSERT INTO account VALUES (1, 1), (2, 1), (3, 0);
INSERT INTO note WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600)
  SELECT i, CASE WHEN i <= 400 THEN 2 ELSE 3 END, CASE WHEN i % 2 = 0 THEN 2 ELSE 1 END FROM n;";

async fn a_row_that_two_keys_reach_counts_once(database: Database) {
    use proto::ChildAction::{Delete, SetNull};
    let rules = rule(
        "doomed",
        "filter",
        "account",
        "condition = \"doomed = 1\"\nmax_fraction = 1.0\n",
    );
    let world = World::with_schema(database, NOTES, &operation("doomed", &rules)).await;
    let before = (world.hash("account").await, world.hash("note").await);
    // All in one batch, and each account in its own, so that the first changes rows that the second deletes.
    for batch in [1_000, 10] {
        let plan = world.plan("doomed").await;
        assert_eq!((along(&plan, "note", Delete), along(&plan, "note", SetNull)), (400, 200));
        let request = RunRequest::of_plan(&plan).execute().batch_size(batch).full_speed();
        let run = world.client.cleanup().run(request).await.expect("a run");
        let run = run.finish().await.expect("an end");
        let report = run.report.clone().expect("a report");
        assert_eq!(
            run.state(),
            proto::RunState::Succeeded,
            "batch {batch}: {}: {:?}",
            run.state_reason,
            report.steps
        );
        let done = &report.steps[0].along[0];
        let nullified = if batch == 10 { 400 } else { 200 };
        assert_eq!((done.rows_deleted, done.rows_nullified), (400, nullified), "batch {batch}");
        assert_eq!(report.rows_captured, 2 + 400 + nullified, "batch {batch}");
        let undone = undo(&world, &run.id).await;
        assert_eq!(undone.state(), proto::RunState::Succeeded, "{}", undone.state_reason);
        assert_eq!(
            (world.hash("account").await, world.hash("note").await),
            before,
            "batch {batch}"
        );
    }
}

/// An operation that deletes the doomed rows of a table.
fn doomed(table: &str, rest: &str) -> String {
    let rest = format!("condition = \"doomed = 1\"\nmax_fraction = 1.0\n{rest}");
    operation("doomed", &rule("doomed", "filter", table, &rest))
}

/// The plan is blocked by a finding of this code alone, and a run of it changes nothing.
async fn is_blocked(database: Database, schema: &str, catalog: &str, code: &str, tables: &[&str]) {
    let world = World::with_schema(database, schema, catalog).await;
    let dump = async || {
        let mut rows = Vec::new();
        for table in tables {
            let sql = format!("SELECT * FROM {table}");
            rows.push(world.db.fetch_text(&sql).await.expect("rows"));
        }
        rows
    };
    let before = dump().await;
    let plan = world.plan("doomed").await;
    let codes: Vec<_> = plan.steps[0].findings.iter().map(|finding| finding.code.as_str()).collect();
    assert_eq!(codes, [code], "{schema}");
    let refused = world.client.cleanup().run(RunRequest::of_plan(&plan).execute()).await;
    assert!(
        matches!(&refused, Err(Error::PlanBlocked { finding, .. }) if finding == code),
        "{refused:?}"
    );
    assert_eq!(dump().await, before, "{schema}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_children_are_found_as_the_parent_compares() {
    let schema = "CREATE TABLE label (name TEXT COLLATE NOCASE NOT NULL PRIMARY KEY, doomed INTEGER); \
         CREATE TABLE used (id INTEGER PRIMARY KEY, name TEXT REFERENCES Label (NAME) ON DELETE CASCADE); \
         CREATE INDEX used_name ON used (name COLLATE NOCASE); \
         CREATE TABLE hint (id INTEGER PRIMARY KEY, name TEXT REFERENCES label ON DELETE SET NULL); \
         CREATE INDEX hint_name ON hint (name COLLATE NOCASE); \
         INSERT INTO label VALUES ('abc', 1), ('x', 0); INSERT INTO used VALUES (1, 'ABC'), (2, 'abc'), (3, 'X'); \
         INSERT INTO hint VALUES (1, 'Abc'), (2, 'abc'), (3, 'X')";
    let world = World::with_schema(Database::Sqlite, schema, &doomed("label", "")).await;
    let hashes = async || {
        (
            world.db.table_hash("label", "name").await.expect("a hash"),
            world.hash("used").await,
            world.hash("hint").await,
        )
    };
    let before = hashes().await;
    let (plan, run) = clean(&world, "doomed", 100).await;
    assert_eq!((plan.row_count, plan.along_row_count), (1, 4));
    assert_eq!(run.report.as_ref().expect("a report").rows_captured, 5);
    let left = world
        .db
        .fetch_text("SELECT count(*), (SELECT count(name) FROM hint) FROM used")
        .await
        .expect("counts");
    assert_eq!(left, [[Some("1".to_owned()), Some("1".to_owned())]]);
    assert_eq!(undo(&world, &run.id).await.state(), proto::RunState::Succeeded);
    assert_eq!(hashes().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_keys_that_no_index_compares_are_refused_by_name() {
    for (name, reference, index) in [
        ("TEXT COLLATE NOCASE NOT NULL PRIMARY KEY", "TEXT", "name"),
        ("TEXT NOT NULL PRIMARY KEY", "TEXT COLLATE NOCASE", "name"),
        ("INTEGER PRIMARY KEY", "TEXT", "name"),
        ("TEXT NOT NULL PRIMARY KEY", "INTEGER", "name"),
        ("INTEGER PRIMARY KEY", "", "name"),
    ] {
        let schema = format!(
            "PRAGMA foreign_keys = OFF; CREATE TABLE label (name {name}, doomed INTEGER); \
             CREATE TABLE used (id INTEGER PRIMARY KEY, name {reference} REFERENCES label ON DELETE CASCADE); \
             CREATE INDEX used_name ON used ({index}); \
             INSERT INTO label VALUES ('1', 1); INSERT INTO used VALUES (1, '1'), (2, '01'); PRAGMA foreign_keys = ON"
        );
        is_blocked(
            Database::Sqlite,
            &schema,
            &doomed("label", ""),
            "CHILD_KEY_UNLIKE",
            &["label", "used"],
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_rows_without_a_key_are_refused_by_name() {
    const LABELS: &str =
        "CREATE TABLE label (id TEXT PRIMARY KEY, doomed INTEGER, note TEXT); INSERT INTO label VALUES ('a', 1, NULL)";
    let used = |on_delete: &str| {
        format!(
            "{LABELS}; CREATE TABLE used (id TEXT PRIMARY KEY, label TEXT REFERENCES label ON DELETE {on_delete}); \
             CREATE INDEX used_label ON used (label); INSERT INTO used VALUES (NULL, 'a'), (NULL, 'a'), ('b', 'a')"
        )
    };
    let cases = [
        (used("CASCADE"), ""),
        (used("SET NULL"), ""),
        (
            format!("{LABELS}, (NULL, 1, NULL), (NULL, 1, NULL)"),
            "action = \"update\"\nset = { note = \"gone\" }\n",
        ),
        (
            format!("{LABELS}, (NULL, 1, NULL), (NULL, 1, NULL)"),
            "action = \"archive\"\ninto = \"old_label\"\nstamp = \"archived_at\"\n",
        ),
    ];
    for (schema, rest) in cases {
        let tables: &[&str] = if schema.contains("used") {
            &["label", "used"]
        } else {
            &["label"]
        };
        is_blocked(Database::Sqlite, &schema, &doomed("label", rest), "NULL_PRIMARY_KEY", tables).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keys_that_cast_the_child_are_refused_by_name() {
    for (name, reference) in [
        ("character(4)", "text"),
        ("numeric", "integer"),
        ("text COLLATE careless", "text COLLATE \"C\""),
    ] {
        let schema = format!(
            "CREATE COLLATION careless (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
             CREATE TABLE label (name {name} PRIMARY KEY, doomed integer); \
             CREATE TABLE used (id integer PRIMARY KEY, name {reference} REFERENCES label ON DELETE CASCADE); \
             CREATE INDEX used_name ON used (name); \
             INSERT INTO label VALUES ('1', 1); INSERT INTO used VALUES (1, '1'), (2, '1 '::text::{cast})",
            cast = if reference == "integer" { "integer" } else { "text" }
        );
        // A key that does not care for capitals does for blanks.
        let schema = if name.contains("careless") {
            schema.replace("'1 '", "'1'")
        } else {
            schema
        };
        is_blocked(
            Database::Postgres,
            &schema,
            &doomed("label", ""),
            "CHILD_KEY_UNLIKE",
            &["label", "used"],
        )
        .await;
    }
}

async fn a_child_of_a_column_that_is_not_unique_is_refused_at_start(database: Database) {
    let child = "[[operation.rule.child]]\ntable = \"badge\"\ncolumns = [\"title\"]\nparent_columns = [\"status\"]\non_delete = \"cascade\"\n";
    let said = refusal(database, SCHEMA, &closed_accounts(child)).await;
    assert!(said.contains("may have two rows alike"), "{said}");
}

const INVOICES: &str = "CREATE TABLE invoice (id integer PRIMARY KEY, account_id integer, CONSTRAINT invoice_of_account FOREIGN KEY (account_id) REFERENCES account);
CREATE INDEX invoice_account ON invoice (account_id);
INSERT INTO invoice SELECT id, id FROM account WHERE id IN (3, 4, 5);";

async fn a_restricting_key_blocks_by_name(database: Database) {
    let world = World::with_schema(database, &format!("{SCHEMA}{INVOICES}"), &closed_accounts("")).await;
    let plan = world.plan("close").await;
    let findings = &plan.steps[0].findings;
    let blocking = findings
        .iter()
        .find(|finding| finding.code == "RESTRICTED_BY_CHILD")
        .expect("a finding");
    let name = if database == Database::Postgres {
        "invoice_of_account"
    } else {
        "invoice(account_id)"
    };
    assert!(
        blocking.detail.contains(name) && blocking.detail.contains("1 rows"),
        "{}",
        blocking.detail
    );
    let before = hashes(&world).await;
    let refused = world.client.cleanup().run(RunRequest::of_plan(&plan).execute()).await;
    assert!(refused.is_err(), "blocked");
    assert_eq!(hashes(&world).await, before);
    world
        .db
        .execute("DELETE FROM invoice WHERE account_id = 4")
        .await
        .expect("no invoice");
    clean(&world, "close", 100).await;
}

async fn a_declared_child_goes_along_where_the_schema_only_refuses(database: Database) {
    use proto::ChildAction::{Delete, SetNull};
    let children = "[[operation.rule.child]]\ntable = \"invoice\"\ncolumns = [\"account_id\"]\nparent_columns = [\"id\"]\non_delete = \"set_null\"\n\
                    [[operation.rule.child]]\ntable = \"badge\"\ncolumns = [\"account_id\"]\nparent_columns = [\"id\"]\non_delete = \"cascade\"\n";
    let world = World::with_schema(database, &format!("{SCHEMA}{INVOICES}"), &closed_accounts(children)).await;
    let badges = count(
        &world,
        "SELECT count(*) FROM badge AS b JOIN account AS a ON a.id = b.account_id WHERE a.status = 'closed'",
    )
    .await;
    let invoices = world.db.table_hash("invoice", "id").await.expect("a hash");
    let plan = round_trip(&world, "close", 1_000).await;
    assert_eq!((along(&plan, "badge", Delete), along(&plan, "invoice", SetNull)), (badges, 1));
    assert_eq!(world.db.table_hash("invoice", "id").await.expect("a hash"), invoices);
}

async fn archived_rows_are_copied_and_undo_takes_the_copies_back(database: Database) {
    let rest = "action = \"archive\"\ninto = \"old_account\"\nstamp = \"archived_at\"\n";
    let world = World::with_schema(database, SCHEMA, &closed_accounts(rest)).await;
    let accounts = world
        .db
        .fetch_text("SELECT id, status, closed_at, seen_at, made_at FROM account WHERE status = 'closed' ORDER BY id")
        .await
        .expect("rows");
    let before = hashes(&world).await;
    let (_, run) = clean(&world, "close", 3).await;
    assert_eq!(run.state_reason, format!("{} rows archived", accounts.len()));
    assert_eq!(run.report.as_ref().expect("a report").steps[0].action, "archive");
    let archived = "SELECT id, status, closed_at, seen_at, made_at FROM old_account WHERE archived_at IS NOT NULL ORDER BY id";
    assert_eq!(world.db.fetch_text(archived).await.expect("rows"), accounts);
    // A copy that somebody changed is not thrown away; the row is back all the same.
    world
        .db
        .execute("UPDATE old_account SET status = 'looked into' WHERE id = 4")
        .await
        .expect("a change");
    let undone = undo(&world, &run.id).await;
    assert_eq!(undone.state(), proto::RunState::Succeeded, "{}", undone.state_reason);
    assert_eq!(hashes(&world).await, before);
    assert_eq!(world.db.count("old_account").await.expect("a count"), 1);
    let warnings = undone.report.expect("a report").warnings;
    assert!(
        warnings.iter().any(|warning| warning.message.contains("id=4")),
        "{warnings:?}"
    );
}

async fn archived_rows_come_back_where_the_archive_table_is_gone(database: Database) {
    let rest = "action = \"archive\"\ninto = \"old_account\"\nstamp = \"archived_at\"\n";
    for sql in ["DROP TABLE old_account", "ALTER TABLE old_account DROP COLUMN archived_at"] {
        let world = World::with_schema(database, SCHEMA, &closed_accounts(rest)).await;
        let before = hashes(&world).await;
        let (_, run) = clean(&world, "close", 3).await;
        world.db.execute(sql).await.expect("a change");
        let undone = undo(&world, &run.id).await;
        assert_eq!(undone.state(), proto::RunState::Succeeded, "{sql}: {}", undone.state_reason);
        assert_eq!(hashes(&world).await, before, "{sql}");
        let warnings = undone.report.expect("a report").warnings;
        let told: Vec<_> = warnings.iter().filter(|warning| warning.code == "ARCHIVE_GONE").collect();
        assert_eq!(told.len(), 1, "once, not for each chunk: {warnings:?}");
        assert!(told[0].message.contains("old_account"), "{}", told[0].message);
    }
}

async fn an_archive_table_that_does_not_fit_is_refused_at_start(database: Database) {
    let rest = "action = \"archive\"\ninto = \"old_account\"\nstamp = \"archived_at\"\n";
    let schema = format!("{SCHEMA}CREATE TABLE old_account (id integer PRIMARY KEY, status text, archived_at text);");
    let said = refusal(database, &schema, &closed_accounts(rest)).await;
    assert!(said.contains("old_account") && said.contains("closed_at"), "{said}");
}

async fn updated_rows_stay_and_undo_gives_the_old_values_back(database: Database) {
    let rules = rule(
        "dormant",
        "expired",
        "account",
        "column = \"seen_at\"\nfallback = \"made_at\"\nretention = \"P1Y\"\nencoding = \"unix_seconds\"\nwhere = { status = \"open\" }\n\
         action = \"update\"\nset = { status = \"dormant\", made_at = 7 }\n",
    );
    let world = World::with_schema(database, SCHEMA, &operation("sleep", &rules)).await;
    let dormant =
        "SELECT count(*) FROM account WHERE status = 'open' AND (seen_at < 1000000 OR seen_at IS NULL AND made_at < 1000000)";
    let expected = count(&world, dormant).await;
    let plan = round_trip(&world, "sleep", 3).await;
    assert!(expected > 5 && plan.row_count == expected, "{expected}");
    let dry = world.client.cleanup().run(RunRequest::new(["sleep"])).await.expect("a run");
    let dry = dry.finish().await.expect("an end");
    assert_eq!(dry.state_reason, format!("dry run: {expected} rows would be updated"));

    // A row that was changed since is left and named.
    let (_, run) = clean(&world, "sleep", 3).await;
    assert_eq!(run.state_reason, format!("{expected} rows updated"));
    assert_eq!(run.report.as_ref().expect("a report").steps[0].action, "update");
    assert_eq!(
        count(
            &world,
            "SELECT count(*) FROM account WHERE status = 'dormant' AND made_at = 7"
        )
        .await,
        expected
    );
    let woken = world
        .db
        .fetch_text("SELECT min(id) FROM account WHERE status = 'dormant'")
        .await
        .expect("an id");
    let woken = woken[0][0].clone().expect("an id");
    world
        .db
        .execute(&format!("UPDATE account SET status = 'open' WHERE id = {woken}"))
        .await
        .expect("a change");
    let undone = undo(&world, &run.id).await;
    assert_eq!(undone.state(), proto::RunState::PartiallySucceeded, "{}", undone.state_reason);
    let report = undone.report.expect("a report");
    assert_eq!((report.rows_affected, report.rows_conflicting), (expected - 1, 1));
    assert!(
        report
            .warnings
            .iter()
            .any(|warning| warning.message.contains(&format!("id={woken}")))
    );
}

async fn orphans_of_every_form(database: Database) {
    let rules = [
        // A parent that does not count is no parent.
        rule(
            "barred",
            "orphan",
            "badge",
            "columns = [\"account_id\"]\nparent = \"account\"\nparent_columns = [\"id\"]\nparent_where = { status = [\"barred\", \"closed\"] }\n",
        ),
        // Only rows that name an account, and only those left alone for a while.
        rule(
            "events",
            "orphan",
            "event",
            "columns = [\"subject_id\"]\nparent = \"account\"\nparent_columns = [\"id\"]\ntype_column = \"subject_type\"\ntype_value = \"account\"\n\
             grace = { column = \"at\", age = \"P1D\", encoding = \"unix_seconds\" }\n",
        ),
    ];
    let world = World::with_schema(database, SCHEMA, &operation("tidy", &rules.concat())).await;
    let badges = "SELECT count(*) FROM badge AS b WHERE b.account_id IS NOT NULL AND NOT EXISTS \
                  (SELECT 1 FROM account AS a WHERE a.id = b.account_id AND a.status = 'open')";
    let events = "SELECT count(*) FROM event WHERE subject_type = 'account' AND subject_id > 40 AND at = 1000";
    let expected = (count(&world, badges).await, count(&world, events).await);
    let plan = round_trip(&world, "tidy", 10).await;
    assert_eq!((plan.steps[0].row_count, plan.steps[1].row_count), expected);
    assert!(expected.0 > 10 && expected.1 > 5, "{expected:?}");
    assert!(!plan.steps[0].strict, "MEDIUM does not lock parents");
}

async fn nullified_orphans_stay(database: Database) {
    let rules = rule(
        "names",
        "orphan",
        "badge",
        "columns = [\"account_id\"]\nparent = \"account\"\nparent_columns = [\"id\"]\nstrict = true\naction = \"nullify\"\nnullify = [\"account_id\"]\n",
    );
    let world = World::with_schema(database, SCHEMA, &operation("tidy", &rules)).await;
    let expected = count(&world, "SELECT count(*) FROM badge WHERE account_id > 40").await;
    let plan = round_trip(&world, "tidy", 2).await;
    assert!(expected > 0 && plan.row_count == expected && plan.steps[0].strict);
    let (_, run) = clean(&world, "tidy", 100).await;
    assert_eq!(run.state_reason, format!("{expected} rows set to NULL"));
    assert_eq!(run.report.expect("a report").steps[0].action, "nullify");
    assert_eq!(world.db.count("badge").await.expect("a count"), 120);
}

async fn text_keys_name_missing_rows(database: Database) {
    let rules = rule(
        "gone",
        "dangling_key",
        "cache",
        "column = \"name\"\nprefix = \"user:\"\nparent = \"account\"\nparent_column = \"id\"\n",
    );
    let world = World::with_schema(database, SCHEMA, &operation("cache", &rules)).await;
    // Ids 41 to 60, less those whose text has another form: a NULL, user:x.., users:..
    let plan = round_trip(&world, "cache", 5).await;
    assert_eq!(plan.row_count, 20 - 2 - 2 - 2);
}

async fn a_filter_takes_what_it_says(database: Database) {
    let rules = rule(
        "some",
        "filter",
        "event",
        "condition = \"subject_type = 'post' AND (subject_id % 3 = 0 OR at IS NULL)\"\n",
    );
    let world = World::with_schema(database, SCHEMA, &operation("some", &rules)).await;
    let expected = count(
        &world,
        "SELECT count(*) FROM event WHERE subject_type = 'post' AND (subject_id % 3 = 0 OR at IS NULL)",
    )
    .await;
    assert_eq!(round_trip(&world, "some", 7).await.row_count, expected);
}

async fn a_filter_before_others_means_its_own_columns(database: Database) {
    // Each of the later rules looks at two rows of the filter's table at once, or at other tables whose columns have such names.
    let schema = "
        CREATE TABLE node (id integer PRIMARY KEY, parent_id integer, body text, place integer);
        CREATE TABLE note (id integer PRIMARY KEY, node_id integer, body text, place integer, members integer, address integer);
        CREATE TABLE edge (id integer PRIMARY KEY, a integer, b integer, place integer, members integer, address integer, ring integer);
        CREATE INDEX node_parent ON node (parent_id);
        CREATE INDEX note_node ON note (node_id);
        INSERT INTO node VALUES (1, NULL, 'root', 1), (2, 1, 'leaf', 2), (3, 1, 'old', 3), (4, 99, 'lost', 4), (5, 4, 'under the lost', 5),
            (6, 5, 'old', 6), (7, 6, 'under an old one', 7), (8, 1, 'leaf', 8), (9, 1, 'leaf', 9), (10, 8, 'leaf', 10),
            (11, 8, 'leaf', 11), (12, 9, 'leaf', 12), (13, 9, 'leaf', 13), (14, 9, 'leaf', 14), (15, 9, 'leaf', 15);
        INSERT INTO note VALUES (1, 1, 'x', 1, 0, 0), (2, 1, 'x', 2, 0, 0), (3, 1, 'old', 3, 0, 0), (4, 2, 'y', 4, 0, 0), (5, 2, 'y', 5, 0, 0),
            (6, 2, 'z', 6, 0, 0), (7, 2, 'w', 7, 0, 0), (8, 2, 'v', 8, 0, 0);
        INSERT INTO edge VALUES (1, 1, 2, 1, 0, 0, 0), (2, 2, 1, 2, 0, 0, 0), (3, 2, 3, -1, 0, 0, 0), (4, 3, 3, 4, 0, 0, 0), (5, 4, 5, 5, 0, 0, 0),
            (6, 5, 6, 6, 0, 0, 0);";
    let child = "[[operation.rule.child]]\ntable = \"node\"\ncolumns = [\"parent_id\"]\nparent_columns = [\"id\"]\non_delete = \"cascade\"\n";
    let lost = format!("columns = [\"parent_id\"]\nparent = \"node\"\nparent_columns = [\"id\"]\n{child}");
    let tree = operation(
        "tree",
        &(rule(
            "old",
            "filter",
            "node",
            "condition = \"body = 'old' AND id > 0 AND place > 0\"\n",
        ) + &rule("lost", "orphan", "node", &lost)),
    );
    let twice = operation(
        "twice",
        &(rule(
            "old",
            "filter",
            "note",
            "condition = \"body = 'old' AND id > 0 AND place > 0\"\n",
        ) + &rule(
            "same",
            "duplicate",
            "note",
            "columns = [\"node_id\", \"body\"]\nkeep = \"oldest\"\nby = [\"id\"]\n",
        )),
    );
    let ring = operation(
        "ring",
        &(rule(
            "old",
            "filter",
            "edge",
            "condition = \"place < 0 AND members = 0 AND address = 0 AND ring = 0\"\n",
        ) + &rule("rings", "cycle", "edge", "from = [\"a\"]\nto = [\"b\"]\n")),
    );
    let world = World::with_schema(database, schema, &[tree, twice, ring].concat()).await;
    for (name, expected, along) in [("tree", [2, 2], 1), ("twice", [1, 2], 0), ("ring", [1, 2], 0)] {
        let before = [
            world.db.table_hash("node", "id").await.expect("a hash"),
            world.db.table_hash("note", "id").await.expect("a hash"),
            world.db.table_hash("edge", "id").await.expect("a hash"),
        ];
        let (plan, run) = clean(&world, name, 10).await;
        let counts: Vec<_> = plan.steps.iter().map(|step| step.row_count).collect();
        assert_eq!((counts, plan.along_row_count), (expected.to_vec(), along), "{name}");
        let undone = undo(&world, &run.id).await;
        assert_eq!(undone.state(), proto::RunState::Succeeded, "{name}: {}", undone.state_reason);
        let after = [
            world.db.table_hash("node", "id").await.expect("a hash"),
            world.db.table_hash("note", "id").await.expect("a hash"),
            world.db.table_hash("edge", "id").await.expect("a hash"),
        ];
        assert_eq!(after, before, "{name}");
    }
}

async fn a_circle_of_cascades_is_refused_by_name(database: Database) {
    let schema = "CREATE TABLE a (id integer PRIMARY KEY, b_id integer); \
                  CREATE TABLE b (id integer PRIMARY KEY, a_id integer REFERENCES a ON DELETE CASCADE); \
                  CREATE INDEX a_b ON a (b_id); CREATE INDEX b_a ON b (a_id); INSERT INTO a VALUES (1, 1), (2, NULL), (3, NULL); INSERT INTO b VALUES (1, 1);";
    let child = "condition = \"id = 1\"\n[[operation.rule.child]]\ntable = \"a\"\nparent = \"b\"\ncolumns = [\"b_id\"]\nparent_columns = [\"id\"]\non_delete = \"cascade\"\n";
    let world = World::with_schema(database, schema, &operation("circle", &rule("r", "filter", "a", child))).await;
    let plan = world.plan("circle").await;
    assert!(plan.blocked);
    let codes: Vec<_> = plan.steps[0].findings.iter().map(|finding| finding.code.as_str()).collect();
    assert!(codes.contains(&"CASCADE_LOOP"), "{codes:?}");
}

async fn later_steps_foresee_what_earlier_ones_take(database: Database) {
    // Badges of closed accounts become orphans by the first rule; profiles go with it, so that the third finds fewer.
    let rules = [
        rule("closed", "filter", "account", "condition = \"status = 'closed'\"\n"),
        rule(
            "badges",
            "orphan",
            "badge",
            "columns = [\"account_id\"]\nparent = \"account\"\nparent_columns = [\"id\"]\n",
        ),
        rule("profiles", "filter", "profile", "condition = \"id <= 8\"\n"),
    ];
    let world = World::with_schema(database, SCHEMA, &operation("all", &rules.concat())).await;
    let orphans = "SELECT count(*) FROM badge AS b WHERE b.account_id IS NOT NULL AND NOT EXISTS \
                   (SELECT 1 FROM account AS a WHERE a.id = b.account_id AND a.status <> 'closed')";
    let orphans = count(&world, orphans).await;
    let plan = round_trip(&world, "all", 50).await;
    let counts: Vec<_> = plan.steps.iter().map(|step| step.row_count).collect();
    assert_eq!(counts, [10, orphans, 6], "profiles 4 and 8 went with their accounts");
}

async fn children_that_came_since_the_plan_are_too_many(database: Database) {
    let world = World::with_schema(database, SCHEMA, &closed_accounts("max_fraction = 1.0\n")).await;
    let plan = world.plan("close").await;
    let more = "INSERT INTO remark WITH RECURSIVE n(i) AS (SELECT 2001 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) \
                SELECT i, (SELECT min(id) FROM post WHERE account_id = 4), NULL, 'late' FROM n";
    world.db.execute(more).await.expect("remarks");
    let before = hashes(&world).await;
    let refused = world
        .client
        .cleanup()
        .run(RunRequest::of_plan(&plan).execute())
        .await
        .expect_err("refused");
    assert!(matches!(refused, Error::CountDrifted { .. }), "{refused:?}");
    // A limit counts them as well.
    let plan = world.plan("close").await;
    let request = RunRequest::of_plan(&plan).execute().max_rows(1_000);
    let refused = world.client.cleanup().run(request).await.expect_err("refused");
    assert!(
        matches!(&refused, Error::PlanBlocked { finding, .. } if finding == "OVER_MAX_ROWS"),
        "{refused:?}"
    );
    assert_eq!(hashes(&world).await, before);
}

/// The run of a stream that has done something.
async fn at_work(stream: &mut RunStream) -> String {
    loop {
        let event = stream.next().await.expect("no end yet").expect("an event");
        if matches!(&event.event, Some(proto::run_event::Event::Progress(progress)) if progress.rows_affected > 0) {
            return event.run_id;
        }
    }
}

async fn what_a_run_and_its_undo_write_to_is_held(database: Database) {
    let time = if database == Database::Postgres {
        "timestamptz"
    } else {
        "text"
    };
    let archive = format!(
        "CREATE TABLE old_account (id integer PRIMARY KEY, status text, closed_at bigint, seen_at bigint, made_at bigint, archived_at {time});"
    );
    let own = |name: &str, table: &str| operation(name, &rule("one", "filter", table, "condition = \"id = 1\"\n"));
    let others = [
        ("profiles", "profile"),
        ("posts", "post"),
        ("remarks", "remark"),
        ("archives", "old_account"),
    ];
    let mut catalog = closed_accounts("action = \"archive\"\ninto = \"old_account\"\nstamp = \"archived_at\"\n");
    others.iter().for_each(|(name, table)| catalog += &own(name, table));
    catalog += &own("badges", "badge");
    let world = World::with_schema(database, &format!("{SCHEMA}{archive}"), &catalog).await;
    let before = hashes(&world).await;
    let all_held = async |holder: &str| {
        for (name, table) in others {
            let request = RunRequest::of_plan(&world.plan(name).await).execute();
            let refused = world.client.cleanup().run(request).await.map(|_| ()).expect_err(table);
            assert!(
                matches!(&refused, Error::RunAlreadyActive { run, .. } if run == holder),
                "{table}: {refused:?}"
            );
        }
        // What it has nothing to do with is free.
        assert_eq!(world.clean("badges").await.state(), proto::RunState::Succeeded);
    };
    // So slow that it is still at work when everything has been tried.
    let plan = world.plan("close").await;
    let request = RunRequest::of_plan(&plan).execute().batch_size(1).max_rows_per_second(1);
    let mut stream = world.client.cleanup().run(request).await.expect("a run");
    let run = at_work(&mut stream).await;
    all_held(&run).await;
    world.client.runs().cancel(run.as_str(), "enough").await.expect("cancelled");
    stream.finish().await.expect("an end");
    assert_eq!(undo(&world, &run).await.state(), proto::RunState::Succeeded);

    let (_, run) = clean(&world, "close", 1).await;
    let request = UndoRequest::new(&run.id).max_rows_per_second(1);
    let mut stream = world.client.runs().undo(request).await.expect("a stream");
    let undoing = at_work(&mut stream).await;
    all_held(&undoing).await;
    world
        .client
        .runs()
        .cancel(undoing.as_str(), "enough")
        .await
        .expect("cancelled");
    stream.finish().await.expect("an end");
    // Another undo brings the rest.
    undo(&world, &run.id).await;
    let mut after = hashes(&world).await;
    after.insert("badge", before["badge"].clone());
    assert_eq!(after, before);
}

async fn rules_of_several_operations_that_conflict_are_not_planned_together(database: Database) {
    let retire = rule(
        "retire",
        "filter",
        "account",
        "condition = \"id < 10\"\nwhere = { status = \"open\" }\naction = \"update\"\nset = { status = \"retired\" }\n",
    );
    let badges = |status: &str| {
        let rest = format!(
            "columns = [\"account_id\"]\nparent = \"account\"\nparent_columns = [\"id\"]\nparent_where = {{ status = \"{status}\" }}\n"
        );
        rule("badges", "orphan", "badge", &rest)
    };
    let catalog = [
        operation("retire", &retire),
        operation("retired_badges", &badges("retired")),
        operation("barred_badges", &badges("barred")),
    ];
    let world = World::with_schema(database, SCHEMA, &catalog.concat()).await;
    let before = hashes(&world).await;
    let plan = async |operations: [&str; 2]| world.client.cleanup().plan(PlanRequest::new(operations)).await;
    let refused = plan(["retire", "retired_badges"]).await.expect_err("refused");
    let said = refused.to_string();
    assert!(matches!(refused, Error::CatalogMismatch { .. }), "{refused:?}");
    for part in [
        "rule badges of operation retired_badges",
        "rule retire of operation retire",
        "status",
        "catalog.toml:",
        "in a plan of its own",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(hashes(&world).await, before);
    // In the other order, and where the change is none to the second, the counts are what happens.
    for operations in [["retired_badges", "retire"], ["retire", "barred_badges"]] {
        let plan = plan(operations).await.expect("a plan");
        let request = RunRequest::of_plan(&plan).execute().full_speed();
        let run = world.client.cleanup().run(request).await.expect("a run");
        let run = run.finish().await.expect("an end");
        let report = run.report.expect("a report");
        let done: Vec<_> = report.steps.iter().map(|step| step.rows_affected).collect();
        let planned: Vec<_> = plan.steps.iter().map(|step| step.row_count).collect();
        assert_eq!(done, planned, "{operations:?}");
        assert!(planned.iter().sum::<u64>() > 0, "{operations:?}");
        assert_eq!(undo(&world, &run.id).await.state(), proto::RunState::Succeeded);
    }
    assert_eq!(hashes(&world).await, before);
}

async fn the_share_of_a_child_table_is_limited_as_well(database: Database) {
    // Of three invoices one would go, of the accounts a quarter; of the remarks 20, and 8 that answer them.
    let child = |on_delete: &str| {
        format!(
            "[[operation.rule.child]]\ntable = \"invoice\"\ncolumns = [\"account_id\"]\nparent_columns = [\"id\"]\non_delete = \"{on_delete}\"\n"
        )
    };
    let accounts = |name: &str, rest: String| {
        operation(
            name,
            &rule(
                "closed",
                "filter",
                "account",
                &format!("condition = \"status = 'closed'\"\n{rest}"),
            ),
        )
    };
    let remarks = |name: &str, fraction: &str| {
        operation(
            name,
            &rule(
                "first",
                "filter",
                "remark",
                &format!("condition = \"id <= 20\"\nmax_fraction = {fraction}\n"),
            ),
        )
    };
    let catalog = [
        accounts("cascade", format!("max_fraction = 0.3\n{}", child("cascade"))),
        accounts("set_null", format!("max_fraction = 0.3\n{}", child("set_null"))),
        remarks("tight", "0.025"),
        remarks("loose", "0.04"),
    ];
    let world = World::with_schema(database, &format!("{SCHEMA}{INVOICES}"), &catalog.concat()).await;
    let shares = async |name: &str, table: &str| -> Vec<String> {
        let plan = world.plan(name).await;
        let findings = plan.steps.into_iter().flat_map(|step| step.findings);
        let of_table =
            findings.filter(|finding| finding.code == "OVER_MAX_FRACTION" && finding.table.rsplit('.').next() == Some(table));
        of_table.map(|finding| finding.detail).collect()
    };
    let over = shares("cascade", "invoice").await;
    assert!(over.len() == 1 && over[0].starts_with("1 of 3 rows"), "{over:?}");
    assert_eq!(shares("cascade", "account").await, [""; 0]);
    assert_eq!(
        shares("set_null", "invoice").await,
        [""; 0],
        "what stays is no part of the share"
    );
    let over = shares("tight", "remark").await;
    assert!(over.len() == 1 && over[0].starts_with("28 of 900 rows"), "{over:?}");
    assert_eq!(shares("loose", "remark").await, [""; 0]);
    let before = hashes(&world).await;
    let plan = world.plan("cascade").await;
    let refused = world
        .client
        .cleanup()
        .run(RunRequest::of_plan(&plan).execute())
        .await
        .expect_err("refused");
    assert!(
        matches!(&refused, Error::PlanBlocked { finding, .. } if finding == "OVER_MAX_FRACTION"),
        "{refused:?}"
    );
    assert_eq!(hashes(&world).await, before);
}

async fn what_the_catalog_gets_wrong_is_refused_at_start(database: Database) {
    let orphan = "columns = [\"account_id\"]\nparent = \"account\"\nparent_columns = [\"id\"]\n";
    let cases = [
        (rule("r", "filter", "accounts", "condition = \"id = 1\"\n"), "accounts"),
        (rule("r", "filter", "account", "condition = \"idd = 1\"\n"), "reads no column"),
        (
            rule("r", "filter", "account", "condition = \"id === 1\"\n"),
            "does not take its condition",
        ),
        (
            rule("r", "filter", "account", "condition = \"'a' = 'a'\"\n"),
            "names no column",
        ),
        (
            rule("r", "orphan", "badge", &orphan.replace("account_id", "account")),
            "no column account",
        ),
        (
            rule(
                "r",
                "orphan",
                "badge",
                &format!("{orphan}parent_where = {{ state = \"x\" }}\n"),
            ),
            "no column state",
        ),
        (
            rule(
                "r",
                "orphan",
                "badge",
                &format!("{orphan}action = \"nullify\"\nnullify = [\"id\"]\n"),
            ),
            "primary key",
        ),
        (
            rule(
                "r",
                "filter",
                "account",
                "condition = \"id = 1\"\naction = \"update\"\nset = { state = 1 }\n",
            ),
            "no column state",
        ),
        (
            rule(
                "r",
                "filter",
                "account",
                "condition = \"id = 1\"\naction = \"nullify\"\nnullify = [\"status\"]\n",
            ),
            "NOT NULL",
        ),
        (
            rule("r", "filter", "account", "condition = \"id = 1\"\nwhere = { id = \"one\" }\n"),
            "expected values of that type",
        ),
        (
            rule("r", "orphan", "badge", orphan) + &rule("s", "orphan", "badge", orphan),
            "both select the same rows",
        ),
        (
            rule(
                "r",
                "filter",
                "account",
                "condition = \"id = 1\"\naction = \"update\"\nset = { status = \"x\" }\n",
            ) + &rule("s", "filter", "account", "condition = \"status = 'closed'\"\n"),
            "the first changes status",
        ),
        (
            rule(
                "r",
                "filter",
                "account",
                "condition = \"id = 1\"\naction = \"update\"\nset = { status = \"x\" }\n",
            ) + &rule(
                "s",
                "orphan",
                "badge",
                &format!("{orphan}parent_where = {{ status = \"x\" }}\n"),
            ),
            "the first changes account.status, by which the second selects",
        ),
        (
            // A key of the database empties what the second one looks at.
            rule("r", "filter", "account", "condition = \"id = 1\"\n")
                + &rule("s", "filter", "post", "condition = \"editor_id = 1\"\n"),
            "changes editor_id, by which it selects",
        ),
        (
            rule("r", "orphan", "badge", &orphan.replace("parent_columns = [\"id\"]\n", "")),
            "missing field `parent_columns`",
        ),
        (
            rule("r", "orphan", "badge", &orphan.replace("[\"id\"]", "[\"id\", \"status\"]")),
            "columns has 1 entries and parent_columns 2",
        ),
        (
            rule(
                "r",
                "dangling_key",
                "event",
                "column = \"at\"\nprefix = \"x\"\nparent = \"account\"\nparent_column = \"id\"\n",
            ),
            "expected text",
        ),
    ];
    for (rules, expected) in cases {
        let said = refusal(database, SCHEMA, &operation("wrong", &rules)).await;
        assert!(
            said.contains("catalog.toml:") && said.contains(expected),
            "{expected}: {said}"
        );
    }
}
