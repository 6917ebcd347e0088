//! Tables from which rows cannot go, come back or change as planned are refused by name: made for real on each database, planned, and
//! refused when executed. Nothing of them changes.

mod support;

use dbkeep_client::{Error, RunRequest};
use support::{Database, World};

const DOOMED: &str = "kind = \"filter\"\ntable = \"thing\"\ncondition = \"doomed = 1\"\nmax_fraction = 1.0\n";
const CHANGED: &str = "kind = \"filter\"\ntable = \"thing\"\ncondition = \"doomed = 1\"\nmax_fraction = 1.0\naction = \"update\"\nset = { doomed = 0 }\n";
const THING: &str = "CREATE TABLE thing (id integer PRIMARY KEY, doomed integer);";
const ROWS: &str = "INSERT INTO thing VALUES (1, 1), (2, 1), (3, 0);";

struct Case {
    code: &'static str,
    /// What the finding names.
    names: &'static str,
    rule: String,
    schema: String,
}

fn case(code: &'static str, names: &'static str, rule: &str, schema: &[&str]) -> Case {
    Case {
        code,
        names,
        rule: rule.to_owned(),
        schema: schema.concat(),
    }
}

async fn is_refused(database: Database, case: &Case) {
    let catalog = format!(
        "[[operation]]\nname = \"tidy\"\ncategory = \"TEST\"\nseverity = \"MEDIUM\"\nbackup = true\n[[operation.rule]]\nname = \"doomed\"\n{}",
        case.rule
    );
    let world = World::with_schema(database, &case.schema, &catalog).await;
    let rows = async || world.db.fetch_text("SELECT * FROM thing ORDER BY id").await.expect("rows");
    let before = rows().await;
    let plan = world.plan("tidy").await;
    let findings = plan.steps.iter().flat_map(|step| &step.findings);
    let finding = findings.clone().find(|finding| finding.code == case.code);
    let Some(finding) = finding else {
        panic!("{}: {:?}", case.code, findings.collect::<Vec<_>>());
    };
    assert!(finding.detail.contains(case.names), "{}: {}", case.code, finding.detail);
    assert!(!finding.remediation.is_empty(), "{}", case.code);
    let refused = world.client.cleanup().run(RunRequest::of_plan(&plan).execute()).await;
    assert!(
        matches!(&refused, Err(Error::PlanBlocked { .. })),
        "{}: {refused:?}",
        case.code
    );
    assert_eq!(rows().await, before, "{}", case.code);
}

/// What both databases have.
fn of_both() -> Vec<Case> {
    let child = |column: &str| {
        format!("{THING} CREATE TABLE part (id integer PRIMARY KEY, {column}); CREATE INDEX part_thing ON part (thing_id);{ROWS}")
    };
    vec![
        case(
            "CHILD_NOT_NULLABLE",
            "part.thing_id",
            DOOMED,
            &[&child("thing_id integer NOT NULL REFERENCES thing ON DELETE SET NULL")],
        ),
        case(
            "CHILD_NULLED_TWICE",
            "part",
            DOOMED,
            &[
                "CREATE TABLE thing (id integer PRIMARY KEY, doomed integer, UNIQUE (id, doomed)); \
                 CREATE TABLE part (id integer PRIMARY KEY, thing_id integer REFERENCES thing ON DELETE SET NULL, doomed integer, \
                 FOREIGN KEY (thing_id, doomed) REFERENCES thing (id, doomed) ON DELETE SET NULL); \
                 CREATE INDEX part_thing ON part (thing_id, doomed);",
                ROWS,
            ],
        ),
        case(
            "CHILD_REWRITTEN",
            "part (thing_id)",
            DOOMED,
            &[&child("thing_id integer DEFAULT 3 REFERENCES thing ON DELETE SET DEFAULT")],
        ),
        case(
            "CHILD_UNREACHED",
            "leaf",
            &format!(
                "{DOOMED}[[operation.rule.child]]\ntable = \"leaf\"\nparent = \"branch\"\ncolumns = [\"branch_id\"]\nparent_columns = [\"id\"]\non_delete = \"cascade\"\n"
            ),
            &[
                THING,
                "CREATE TABLE branch (id integer PRIMARY KEY); CREATE TABLE leaf (id integer PRIMARY KEY, branch_id integer); \
                 CREATE INDEX leaf_branch ON leaf (branch_id);",
                ROWS,
            ],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_refuses_by_name() {
    let trigger = |event: &str, table: &str| {
        format!(
            "CREATE FUNCTION halt() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
             CREATE TRIGGER guard BEFORE {event} ON {table} FOR EACH ROW EXECUTE FUNCTION halt();"
        )
    };
    let cascade = "CREATE TABLE part (id integer PRIMARY KEY, thing_id integer REFERENCES thing ON DELETE CASCADE); CREATE INDEX ON part (thing_id);";
    let mut cases = of_both();
    cases.extend([
        case(
            "PARTITIONED_TABLE",
            "thing",
            DOOMED,
            &[
                "CREATE TABLE thing (id integer PRIMARY KEY, doomed integer) PARTITION BY RANGE (id); \
                 CREATE TABLE thing_1 PARTITION OF thing FOR VALUES FROM (0) TO (100);",
                ROWS,
            ],
        ),
        case("INHERITED_TABLE", "thing", DOOMED, &[THING, "CREATE TABLE heir () INHERITS (thing);", ROWS]),
        case(
            "REWRITE_RULE",
            "keeps",
            DOOMED,
            &[THING, ROWS, "CREATE RULE keeps AS ON DELETE TO thing DO INSTEAD NOTHING"],
        ),
        case("DELETE_TRIGGER", "guard", DOOMED, &[THING, ROWS, &trigger("DELETE", "thing")]),
        // Of a table whose rows go along.
        case("DELETE_TRIGGER", "guard", DOOMED, &[THING, cascade, ROWS, &trigger("DELETE", "part")]),
        case("UPDATE_TRIGGER", "guard", CHANGED, &[THING, ROWS, &trigger("UPDATE", "thing")]),
        case(
            "LOSSY_TYPE",
            "shape",
            DOOMED,
            &[
                "CREATE TYPE outline AS (a integer); CREATE FUNCTION short(outline) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ''x'''; \
                 CREATE CAST (outline AS text) WITH FUNCTION short(outline); \
                 CREATE TABLE thing (id integer PRIMARY KEY, doomed integer, shape outline);",
                ROWS,
            ],
        ),
        case(
            "NOT_A_TABLE",
            "thing",
            DOOMED,
            &["CREATE TABLE base (id integer, doomed integer); CREATE VIEW thing AS SELECT id, doomed FROM base;"],
        ),
    ]);
    for case in &cases {
        is_refused(Database::Postgres, case).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_refuses_by_name() {
    let mut cases = of_both();
    let trigger = |event: &str| format!("CREATE TRIGGER guard BEFORE {event} ON thing BEGIN SELECT RAISE(IGNORE); END;");
    cases.extend([
        case("DELETE_TRIGGER", "guard", DOOMED, &[THING, ROWS, &trigger("DELETE")]),
        case("UPDATE_TRIGGER", "guard", CHANGED, &[THING, ROWS, &trigger("UPDATE")]),
    ]);
    for case in &cases {
        is_refused(Database::Sqlite, case).await;
    }
}

/// What a trigger after each row does is its owner's business, once somebody has said so.
#[tokio::test(flavor = "multi_thread")]
async fn triggers_that_cannot_cancel_are_told() {
    let schema = "CREATE TABLE thing (id integer PRIMARY KEY, doomed integer); CREATE TABLE noted (id integer); \
         INSERT INTO thing VALUES (1, 1), (2, 1), (3, 0); \
         CREATE TRIGGER note AFTER DELETE ON thing BEGIN INSERT INTO noted VALUES (old.id); END; \
         CREATE TRIGGER back AFTER INSERT ON thing BEGIN INSERT INTO noted VALUES (-new.id); END";
    let catalog = format!(
        "[[operation]]\nname = \"tidy\"\ncategory = \"TEST\"\nseverity = \"LOW\"\nbackup = true\n[[operation.rule]]\nname = \"doomed\"\n{DOOMED}"
    );
    let world = World::with_schema(Database::Sqlite, schema, &catalog).await;
    let unseen = world.client.cleanup().run(RunRequest::new(["tidy"]).execute()).await;
    assert!(matches!(&unseen, Err(Error::FindingsUnconfirmed { .. })), "{unseen:?}");
    assert_eq!(world.db.count("thing").await.expect("a count"), 3);
    let plan = world.plan("tidy").await;
    let codes: Vec<_> = plan.steps[0].findings.iter().map(|finding| finding.code.as_str()).collect();
    assert!(
        codes.contains(&"DELETE_TRIGGER") && codes.contains(&"INSERT_TRIGGER"),
        "{codes:?}"
    );
    let run = world.client.cleanup().run(RunRequest::of_plan(&plan).execute()).await;
    run.expect("a run").finish().await.expect("an end");
    assert_eq!(world.db.count("thing").await.expect("a count"), 1);
    assert_eq!(world.db.count("noted").await.expect("a count"), 2);
}
