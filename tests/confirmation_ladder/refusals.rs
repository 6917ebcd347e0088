//! Every severity x every way in which a run is refused before it is accepted. Each case is tried with and without `force`, which
//! must make no difference.

use dbkeep_proto::v1::{self, DecisionAct};
use tonic::Code;

use crate::world::{Database, Refusal, SEVERITIES, World, bare, confirmed, phrase, with};

/// A way of being refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    NoToken,
    WrongToken,
    ForgedToken,
    ReusedToken,
    OtherOperation,
    OtherTarget,
    NoPhrase,
    PhraseInCapitals,
    PhraseWithSpace,
    PhraseWithOtherCount,
    PhraseOfOtherTarget,
    Drift,
    ChangedSchema,
    OverMaxRows,
    OverMaxFraction,
    EmptyParent,
}

const CASES: [Case; 16] = [
    Case::NoToken,
    Case::WrongToken,
    Case::ForgedToken,
    Case::ReusedToken,
    Case::OtherOperation,
    Case::OtherTarget,
    Case::NoPhrase,
    Case::PhraseInCapitals,
    Case::PhraseWithSpace,
    Case::PhraseWithOtherCount,
    Case::PhraseOfOtherTarget,
    Case::Drift,
    Case::ChangedSchema,
    Case::OverMaxRows,
    Case::OverMaxFraction,
    Case::EmptyParent,
];

impl Case {
    /// How it ends; `None` where the severity does not ask for what is missing.
    fn refusal(self, severity: &str) -> Option<(Code, &'static str)> {
        let unmet = |reason| Some((Code::FailedPrecondition, reason));
        match self {
            Self::NoToken if severity == "LOW" => None,
            Self::NoToken => unmet("PLAN_REQUIRED"),
            Self::WrongToken | Self::ForgedToken => Some((Code::NotFound, "UNKNOWN_PLAN")),
            Self::ReusedToken => unmet("PLAN_USED"),
            Self::OtherOperation | Self::OtherTarget => unmet("PLAN_MISMATCH"),
            Self::NoPhrase
            | Self::PhraseInCapitals
            | Self::PhraseWithSpace
            | Self::PhraseWithOtherCount
            | Self::PhraseOfOtherTarget
                if severity != "CRITICAL" =>
            {
                None
            }
            Self::NoPhrase
            | Self::PhraseInCapitals
            | Self::PhraseWithSpace
            | Self::PhraseWithOtherCount
            | Self::PhraseOfOtherTarget => unmet("CONFIRMATION_PHRASE"),
            Self::Drift => unmet("COUNT_DRIFTED"),
            Self::ChangedSchema => unmet("SCHEMA_CHANGED"),
            Self::OverMaxRows | Self::OverMaxFraction | Self::EmptyParent => unmet("PLAN_BLOCKED"),
        }
    }

    /// Prepares the world for the case and asks for the run; also the state of the table just before.
    async fn ask(self, world: &World, severity: &str, force: bool) -> (Result<String, Refusal>, String) {
        match self {
            Self::OverMaxFraction => execute(world, "UPDATE child SET parent_id = 4000000 WHERE id > 900").await,
            Self::EmptyParent => execute(world, "DELETE FROM parent").await,
            _ => {}
        }
        let plan = world.plan(severity).await;
        let request = confirmed(&plan);
        let spoken = |phrase: String| v1::RunCleanupRequest {
            confirmation_phrase: phrase,
            ..request.clone()
        };
        let phrase = plan.confirmation_phrase.clone();
        let request = match self {
            Self::NoToken => bare(severity),
            Self::WrongToken => v1::RunCleanupRequest {
                plan_token: "nonsense".into(),
                ..request
            },
            Self::ForgedToken => {
                let mut forged = plan.token.clone();
                let last = forged.pop().expect("a token");
                forged.push(if last == '0' { '1' } else { '0' });
                v1::RunCleanupRequest {
                    plan_token: forged,
                    ..request
                }
            }
            Self::ReusedToken => {
                let first = world.run("ann", request.clone()).await.expect("the first time");
                if severity == "CRITICAL" {
                    // Being denied does not give it back either.
                    world.deny("bob", &first).await.expect("denied");
                } else {
                    world.end_of(&first).await;
                }
                request
            }
            Self::OtherOperation => {
                let other = world.plan("other").await;
                v1::RunCleanupRequest {
                    plan_token: other.token,
                    ..request
                }
            }
            Self::OtherTarget => v1::RunCleanupRequest {
                target: "elsewhere".into(),
                ..request
            },
            Self::NoPhrase => spoken(String::new()),
            Self::PhraseInCapitals => spoken(phrase.to_uppercase()),
            Self::PhraseWithSpace => spoken(format!("{phrase} ")),
            Self::PhraseWithOtherCount => spoken(phrase.replacen("300", "301", 1)),
            Self::PhraseOfOtherTarget => spoken(phrase.replacen("on app", "on elsewhere", 1)),
            Self::Drift => {
                world.add_orphans(10_000, 131).await;
                request
            }
            Self::ChangedSchema => {
                execute(world, "ALTER TABLE parent ADD COLUMN extra integer").await;
                request
            }
            Self::OverMaxRows => with(request, |options| options.max_rows = Some(299)),
            Self::OverMaxFraction | Self::EmptyParent => request,
        };
        let before = world.children().await;
        let answer = world.run("ann", with(request, |options| options.force = force)).await;
        (answer, before)
    }
}

async fn execute(world: &World, sql: &str) {
    world.db.execute(sql).await.expect("sql");
}

/// The severities beside one another: each case has a world of its own.
async fn every_severity(database: Database) {
    futures::future::join_all(SEVERITIES.map(|severity| every_way(database, severity))).await;
}

async fn every_way(database: Database, severity: &str) {
    for case in CASES {
        let Some(expected) = case.refusal(severity) else { continue };
        for force in [false, true] {
            let world = World::new(database).await;
            let name = format!("{severity} {case:?} force={force} on {database:?}");
            let (answer, before) = case.ask(&world, severity, force).await;
            let refusal = world.refused(&name, answer, expected, "ann", DecisionAct::Run, &before).await;
            let finding = match case {
                Case::OverMaxRows => Some("OVER_MAX_ROWS"),
                Case::OverMaxFraction => Some("OVER_MAX_FRACTION"),
                Case::EmptyParent => Some("EMPTY_PARENT"),
                _ => None,
            };
            assert_eq!(refusal.metadata.get("finding").map(String::as_str), finding, "{name}");
            if case == Case::ReusedToken {
                let decision = world.last_decision().await;
                assert_eq!(
                    decision.run_id, refusal.metadata["run"],
                    "{name}: the record names the first run"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_severity_in_every_way_on_sqlite() {
    every_severity(Database::Sqlite).await;
}

// What a refusal hangs on comes from the database in half of the ways: counts, shapes, sizes, and the table's name in the phrase.
#[tokio::test(flavor = "multi_thread")]
async fn every_severity_in_every_way_on_postgres() {
    every_severity(Database::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_is_too_old_is_refused() {
    for database in [Database::Sqlite, Database::Postgres] {
        let world = World::with(database, |config| config.engine.plan_lifetime = std::time::Duration::ZERO).await;
        let before = world.children().await;
        for severity in SEVERITIES {
            let plan = world.plan(severity).await;
            let answer = world.run("ann", confirmed(&plan)).await;
            let expected = (Code::FailedPrecondition, "PLAN_EXPIRED");
            let name = format!("{severity} on {database:?}");
            world.refused(&name, answer, expected, "ann", DecisionAct::Run, &before).await;
        }
    }
}

// On one database: the catalog is refused when it is read, before any target is asked.
#[tokio::test(flavor = "multi_thread")]
async fn high_and_critical_without_a_backup_do_not_even_start() {
    let mut world = World::new(Database::Sqlite).await;
    let before = world.children().await;
    for severity in ["HIGH", "CRITICAL"] {
        world.stop().await;
        let declared = format!("severity = \"{severity}\"\nbackup = true");
        assert!(world.catalog.contains(&declared));
        let kept = world.catalog.clone();
        world.catalog = kept.replace(&declared, &format!("severity = \"{severity}\"\nbackup = false"));
        let error = world.start().await.expect_err("the catalog is refused");
        assert!(error.to_string().contains("expected backup = true"), "{error}");
        world.catalog = kept;
    }
    assert_eq!(world.children().await, before);
}

// On one database: the stored plan is compared with the catalog in memory, before any target is asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_does_not_carry_over_what_the_catalog_asks_for_by_now() {
    let mut world = World::new(Database::Sqlite).await;
    let before = world.children().await;
    let plans = [world.plan("MEDIUM").await, world.plan("LOW").await];
    world.stop().await;
    // Both tokens were handed out without a phrase.
    for severity in ["MEDIUM", "LOW"] {
        let backup = severity != "LOW";
        let declared = format!("severity = \"{severity}\"\nbackup = {backup}");
        world.catalog = world.catalog.replacen(&declared, "severity = \"CRITICAL\"\nbackup = true", 1);
    }
    world.start().await.expect("the server starts");
    for plan in plans {
        let answer = world.run("ann", confirmed(&plan)).await;
        let expected = (Code::FailedPrecondition, "PLAN_MISMATCH");
        world
            .refused(&plan.operations[0], answer, expected, "ann", DecisionAct::Run, &before)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_states_what_a_run_needs() {
    for database in [Database::Sqlite, Database::Postgres] {
        let world = World::new(database).await;
        for severity in SEVERITIES {
            let plan = world.plan(severity).await;
            let (expected, approvals) = if severity == "CRITICAL" {
                (phrase(database), 1)
            } else {
                (String::new(), 0)
            };
            assert_eq!(
                (plan.confirmation_phrase, plan.approvals_required),
                (expected, approvals),
                "{severity}"
            );
        }
        let again = world.plan("CRITICAL").await.confirmation_phrase;
        assert_eq!(again, phrase(database), "it depends on the plan alone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_uses_no_token_up_and_is_no_decision() {
    for database in [Database::Sqlite, Database::Postgres] {
        dry_runs_leave_the_token(World::new(database).await).await;
    }
}

async fn dry_runs_leave_the_token(world: World) {
    let plan = world.plan("HIGH").await;
    for _ in 0..2 {
        let dry = world
            .finish("ann", with(confirmed(&plan), |options| options.dry_run = Some(true)))
            .await;
        assert_eq!(dry.state(), v1::RunState::Succeeded, "{}", dry.state_reason);
    }
    assert_eq!(world.decisions(v1::DecisionFilter::default()).await, []);
    let run = world.finish("ann", confirmed(&plan)).await;
    assert_eq!(run.report.expect("a report").rows_affected, 300);
    // A phrase is asked for where something is deleted.
    let critical = world.plan("CRITICAL").await;
    let request = v1::RunCleanupRequest {
        confirmation_phrase: String::new(),
        ..confirmed(&critical)
    };
    world
        .run("ann", with(request, |options| options.dry_run = Some(true)))
        .await
        .expect("a dry run");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_calls_with_one_token_one_starts_a_run() {
    for database in [Database::Sqlite, Database::Postgres] {
        let world = World::new(database).await;
        let plan = world.plan("MEDIUM").await;
        let calls = (0..6).map(|_| world.run("ann", confirmed(&plan)));
        let (accepted, refused): (Vec<_>, Vec<_>) = futures::future::join_all(calls).await.into_iter().partition(Result::is_ok);
        assert_eq!((accepted.len(), refused.len()), (1, 5));
        for refusal in refused {
            assert_eq!(refusal.expect_err("refused").reason, "PLAN_USED");
        }
        let run = world.end_of(accepted[0].as_ref().expect("a run")).await;
        assert_eq!(run.report.expect("a report").rows_affected, 300);
    }
}

// On one database: the name is refused by the server's outermost layer.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_none_is_refused() {
    let world = World::new(Database::Sqlite).await;
    let before = world.children().await;
    for name in ["a b", "a/b", "ann,bob", &"x".repeat(65)] {
        let refusal = world.run(name, bare("LOW")).await.expect_err("refused");
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (Code::Unauthenticated, "PRINCIPAL_REFUSED"),
            "{name}"
        );
    }
    assert_eq!(world.children().await, before);
}
