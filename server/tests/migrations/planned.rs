//! What a plan says of tables that have rows: locks, work, time, risk and why, a backup; and that what is risky is not applied unseen.

use std::collections::BTreeSet;

use dbkeep_engine::{model::EngineKind, port::SourceFile};
use dbkeep_proto::v1::{self, EstimateSource, MigrationDirection, Risk, RunState, StatementWork};

use super::world::{BOTH, World, all, file, named, reason};

/// Rows of the table that is changed: enough for it to count as neither small nor large.
const ROWS: u64 = 50_000;

/// What a change of the catalog is expected to take.
const CATALOG_MS: u64 = 5;

/// One migration, and what a plan has to say of it.
struct Case {
    name: &'static str,
    up: &'static str,
    /// Tables, each with the strongest lock on it.
    locks: &'static [(&'static str, &'static str)],
    /// The heaviest of its statements.
    work: StatementWork,
    rules: &'static [&'static str],
    risk: Risk,
    transforms: bool,
    backup: bool,
    /// What some reason says.
    says: &'static str,
}

/// PostgreSQL has a statement for each.
const POSTGRES: [Case; 4] = [
    Case {
        name: "type",
        up: "ALTER TABLE orders ALTER COLUMN amount TYPE bigint;",
        locks: &[("orders", "ACCESS EXCLUSIVE")],
        work: StatementWork::Rewrite,
        rules: &["type-change"],
        risk: Risk::High,
        transforms: false,
        backup: false,
        says: "column amount of orders becomes bigint; 50000 rows are written anew",
    },
    Case {
        name: "update",
        up: "UPDATE orders SET note = 'none';",
        locks: &[("orders", "ROW EXCLUSIVE")],
        work: StatementWork::Rows,
        rules: &["update-without-where"],
        risk: Risk::High,
        transforms: true,
        backup: false,
        says: "changes every row of orders",
    },
    Case {
        name: "key",
        up: "ALTER TABLE orders ADD CONSTRAINT orders_owner FOREIGN KEY (owner) REFERENCES owners (id);",
        locks: &[("orders", "SHARE ROW EXCLUSIVE"), ("owners", "SHARE ROW EXCLUSIVE")],
        work: StatementWork::Scan,
        rules: &["table-scan", "unindexed-foreign-key"],
        risk: Risk::Medium,
        transforms: false,
        backup: false,
        says: "no index leads with owner of orders",
    },
    Case {
        name: "drop",
        up: "ALTER TABLE orders DROP COLUMN note;",
        locks: &[("orders", "ACCESS EXCLUSIVE")],
        work: StatementWork::Catalog,
        rules: &["loses-data"],
        risk: Risk::High,
        transforms: false,
        backup: true,
        says: "column note of orders is lost",
    },
];

/// SQLite builds the table anew for another type, adds a key with its column, and has one lock.
const SQLITE: [Case; 4] = [
    Case {
        name: "type",
        up: "CREATE TABLE orders_new (id integer PRIMARY KEY, owner integer NOT NULL, amount text NOT NULL, note text);\n\
             INSERT INTO orders_new SELECT id, owner, amount, note FROM orders;\n\
             DROP TABLE orders;\nALTER TABLE orders_new RENAME TO orders;",
        locks: &[("*", "ACCESS EXCLUSIVE")],
        work: StatementWork::Rewrite,
        rules: &["rebuild-cascades"],
        risk: Risk::High,
        transforms: true,
        backup: false,
        says: "orders is rebuilt with foreign keys on",
    },
    Case {
        name: "update",
        up: "UPDATE orders SET note = 'none';",
        locks: &[("*", "ACCESS EXCLUSIVE")],
        work: StatementWork::Rows,
        rules: &["update-without-where"],
        risk: Risk::High,
        transforms: true,
        backup: false,
        says: "changes every row of orders",
    },
    Case {
        name: "key",
        up: "ALTER TABLE orders ADD COLUMN buyer integer REFERENCES owners (id);",
        locks: &[("*", "ACCESS EXCLUSIVE")],
        work: StatementWork::Catalog,
        rules: &["unindexed-foreign-key"],
        risk: Risk::Medium,
        transforms: false,
        backup: false,
        says: "no index leads with buyer of orders",
    },
    Case {
        name: "drop",
        up: "ALTER TABLE orders DROP COLUMN note;",
        locks: &[("*", "ACCESS EXCLUSIVE")],
        work: StatementWork::Rewrite,
        rules: &["loses-data", "table-rewrite"],
        risk: Risk::High,
        transforms: false,
        backup: true,
        says: "orders with 50000 rows is written anew",
    },
];

/// Rows with these numbers, and statistics of them.
fn orders(first: u64, last: u64) -> String {
    format!(
        "WITH RECURSIVE series (n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM series WHERE n < {last}) \
         INSERT INTO orders SELECT n, 1, n, '{}' FROM series; ANALYZE orders",
        "x".repeat(100)
    )
}

fn millis(duration: Option<&prost_types::Duration>) -> u64 {
    let duration = duration.expect("an estimate");
    let whole = u64::try_from(duration.seconds).expect("not negative") * 1_000;
    whole + u64::try_from(duration.nanos).expect("not negative") / 1_000_000
}

/// Asserts what a plan says of one migration, and returns its estimate in milliseconds.
fn check(step: &v1::MigrationPlanStep, case: &Case, engine: EngineKind) -> u64 {
    let name = format!("{} on {engine:?}: {step:?}", case.name);
    let statements = || step.statements.iter();
    let locks: BTreeSet<(&str, &str)> = statements()
        .flat_map(|statement| &statement.locks)
        .map(|lock| (lock.table.as_str(), lock.mode.as_str()))
        .collect();
    assert_eq!(locks, case.locks.iter().copied().collect::<BTreeSet<_>>(), "{name}");
    let heaviest = statements().map(|statement| statement.work).max();
    assert_eq!(heaviest, Some(i32::from(case.work)), "{name}");
    let reasons = || statements().flat_map(|statement| &statement.reasons);
    let rules: BTreeSet<&str> = reasons().map(|reason| reason.rule.as_str()).collect();
    assert_eq!(rules, case.rules.iter().copied().collect::<BTreeSet<_>>(), "{name}");
    assert!(reasons().any(|reason| reason.message.contains(case.says)), "{name}");
    assert_eq!(step.risk(), case.risk, "{name}");
    let highest = reasons().map(|reason| reason.risk).max();
    assert_eq!(highest, Some(i32::from(case.risk)), "{name}");
    assert_eq!(
        (step.transforms_data, step.needs_backup),
        (case.transforms, case.backup),
        "{name}"
    );
    assert_eq!(statements().any(|statement| statement.loses_data), case.backup, "{name}");
    assert_eq!(step.estimate_source(), EstimateSource::Size, "{name}");
    let estimate = millis(step.estimated_duration.as_ref());
    if case.work == StatementWork::Catalog {
        assert_eq!(estimate, CATALOG_MS, "{name}");
    } else {
        assert!(
            estimate > CATALOG_MS * u64::try_from(step.statements.len()).expect("few"),
            "{name}"
        );
    }
    estimate
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_what_becomes_of_a_table_with_rows_and_is_needed_where_that_is_risky() {
    for engine in BOTH {
        let cases = match engine {
            EngineKind::Postgres => &POSTGRES,
            EngineKind::Sqlite => &SQLITE,
        };
        let files: Vec<SourceFile> = cases
            .iter()
            .zip(1..)
            .map(|(case, number)| file(&format!("{number}_{}.up.sql", case.name), case.up))
            .collect();
        let mut world = World::new(engine, &files, None).await;
        let tables = "CREATE TABLE owners (id integer PRIMARY KEY); INSERT INTO owners VALUES (1); \
             CREATE TABLE orders (id integer PRIMARY KEY, owner integer NOT NULL, amount integer NOT NULL, note text); \
             CREATE TABLE lines (id integer PRIMARY KEY, of_order integer NOT NULL REFERENCES orders (id) ON DELETE CASCADE)";
        world.db.execute(tables).await.expect("tables");
        world.db.execute(&orders(1, ROWS)).await.expect("rows");
        let plan = world.plan(MigrationDirection::Up, all()).await.expect("a plan");
        assert!(plan.problems.is_empty(), "{:?}", plan.problems);
        assert_eq!(plan.steps.len(), cases.len());
        let estimates: Vec<u64> = plan
            .steps
            .iter()
            .zip(cases)
            .map(|(step, case)| check(step, case, engine))
            .collect();
        assert_eq!(
            millis(plan.estimated_duration.as_ref()),
            estimates.iter().sum::<u64>(),
            "{engine:?}"
        );
        let transforming = cases.iter().filter(|case| case.transforms).count();
        assert_eq!(
            (plan.risk(), plan.backup_first, plan.unestimated_count),
            (Risk::High, true, 0),
            "{engine:?}"
        );
        assert_eq!(usize::try_from(plan.transforming_count), Ok(transforming), "{engine:?}");
        // Twice the rows take longer, where rows matter.
        world.db.execute(&orders(ROWS + 1, 2 * ROWS)).await.expect("more rows");
        let larger = world.plan(MigrationDirection::Up, all()).await.expect("a plan");
        for ((step, before), case) in larger.steps.iter().zip(&estimates).zip(cases) {
            let now = millis(step.estimated_duration.as_ref());
            assert_eq!(
                now > *before,
                case.work != StatementWork::Catalog,
                "{}: {before}, {now}",
                case.name
            );
        }
        // Of risk HIGH nothing is applied that nobody has seen.
        let refused = world.apply_planned(all(), String::new()).await.expect_err("not reviewed");
        assert_eq!(reason(&refused), "PLAN_REQUIRED");
        assert_eq!(world.status().await.pending_count, 4, "{engine:?}");
        // What is less risky needs no token and, as it loses nothing, no backup.
        let key = world.plan(MigrationDirection::Up, named(&["3"])).await.expect("a plan");
        assert_eq!((key.risk(), key.backup_first), (Risk::Medium, false));
        let run = world.apply_planned(named(&["3"]), String::new()).await.expect("accepted");
        assert_eq!(run.state(), RunState::Succeeded, "{engine:?}: {}", run.state_reason);
        assert!(run.backup_id.is_empty(), "{engine:?}");
        let run = world.apply(named(&["4"])).await.expect("reviewed");
        assert_eq!(run.state(), RunState::Succeeded, "{engine:?}: {}", run.state_reason);
        assert!(!run.backup_id.is_empty(), "{engine:?}: what loses data is saved before");
        assert_eq!(world.status().await.pending_count, 2, "{engine:?}");
        world.end().await;
    }
}
