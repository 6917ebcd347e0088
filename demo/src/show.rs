//! The demonstration: a real server on loopback, a database with known orphans and expired rows, and a client that plans,
//! runs, verifies and undoes over gRPC. Every number that it prints is compared with what the generator knows.

use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use dbkeep_client::{Client, PlanRequest, RunRequest, RunStream, UndoRequest, proto};
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use dbkeep_demo::{GenerateOptions, GroundTruth, generate, table_hashes};

/// Where the server listens if nobody else does; the clients' default.
const ADDRESS: &str = "127.0.0.1:50777";
/// Operations whose rows are captured, so that their run can be undone.
const CAPTURED: [&str; 3] = ["old_logs", "orphaned_progress", "orphaned_achievements"];
/// The operation that needs no backup.
const UNCAPTURED: &str = "expired_tokens";

/// What the caller chose.
pub(crate) struct Show {
    pub(crate) target: Option<String>,
    pub(crate) rows: u64,
    pub(crate) seed: u64,
    pub(crate) drop_existing: bool,
    pub(crate) once: bool,
    pub(crate) json: bool,
}

/// One rule, in numbers that must agree.
#[derive(Debug, Serialize)]
struct RuleCounts {
    operation: String,
    rule: String,
    table: String,
    /// What the generator put there.
    truth: u64,
    planned: u64,
    deleted: u64,
    captured: u64,
}

/// What `--output json` prints.
#[derive(Debug, Serialize)]
struct Outcome {
    database: String,
    seed: u64,
    total_rows: u64,
    rules: Vec<RuleCounts>,
    backup_rows_verified: u64,
    rows_restored: u64,
    restored_exactly: bool,
    runs: BTreeMap<&'static str, String>,
}

/// Says things to a person, unless the output is for a program.
struct Voice {
    quiet: bool,
}

impl Voice {
    fn say(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            println!("{text}");
        }
    }

    /// Follows a run with a live bar on a terminal, and a line for each step otherwise.
    async fn follow(&self, what: &str, mut events: RunStream) -> Result<proto::Run> {
        let bar = if self.quiet || !std::io::stderr().is_terminal() {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(0)
        };
        let style = "  {prefix} [{bar:32}] {human_pos}/{human_len} rows  {msg}";
        bar.set_style(ProgressStyle::with_template(style)?.progress_chars("=> "));
        bar.set_prefix(what.to_owned());
        while let Some(event) = events.next().await {
            match event?.event {
                Some(proto::run_event::Event::StepFinished(proto::StepFinished { step: Some(step) })) => bar.suspend(|| {
                    self.say(format_args!(
                        "  {what}: {} {} rows of {} in {:.1} s, {} batches",
                        step.rule,
                        step.rows_affected,
                        step.table,
                        seconds(step.duration),
                        step.batches
                    ));
                }),
                Some(proto::run_event::Event::Progress(progress)) => {
                    bar.set_length(progress.rows_planned);
                    bar.set_position(progress.rows_affected);
                    let eta = progress
                        .eta
                        .map_or(String::new(), |eta| format!(", {:.0} s left", seconds(Some(eta))));
                    bar.set_message(format!("{:.0}/s{eta}", progress.rows_per_second));
                }
                Some(proto::run_event::Event::Warning(warning)) => {
                    bar.suspend(|| self.say(format_args!("  {what}: {}: {}", warning.code, warning.message)))
                }
                _ => {}
            }
        }
        bar.finish_and_clear();
        let run = events.finish().await?;
        ensure!(
            run.state() == proto::RunState::Succeeded,
            "{what} ended {:?}: {}",
            run.state(),
            run.state_reason
        );
        Ok(run)
    }
}

fn seconds(duration: Option<prost_types::Duration>) -> f64 {
    duration
        .and_then(|duration| Duration::try_from(duration).ok())
        .map_or(0.0, |duration| duration.as_secs_f64())
}

pub(crate) async fn show(show: Show) -> Result<()> {
    let voice = Voice { quiet: show.json };
    let folder = tempfile::Builder::new().prefix("dbkeep-demo-").tempdir()?;
    let url = show
        .target
        .clone()
        .unwrap_or_else(|| format!("sqlite://{}", folder.path().join("platform.db").display()));

    voice.say(format_args!(
        "1. Building the learning platform's database: about {} rows, seed {} ...",
        show.rows, show.seed
    ));
    let truth = generate(&GenerateOptions {
        url: url.clone(),
        rows: show.rows,
        seed: show.seed,
        now: jiff::Timestamp::now(),
        declared_keys: false,
        drop_existing: show.drop_existing,
    })
    .await?;
    voice.say(format_args!("   {} rows in {} tables", truth.total_rows, truth.tables.len()));

    let catalog = folder.path().join("learning-platform.toml");
    std::fs::write(&catalog, dbkeep_demo::CATALOG)?;
    let listener = match (show.once, TcpListener::bind(ADDRESS).await) {
        (false, Ok(listener)) => listener,
        _ => TcpListener::bind("127.0.0.1:0").await?,
    };
    let address = listener.local_addr()?.to_string();
    let config = dbkeep_server::Config::embedded(folder.path().join("data")).with_target(
        "platform",
        url.as_str(),
        catalog.display().to_string(),
    );
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(dbkeep_server::serve(listener, config, shutdown.clone()));
    let result = async {
        let client = Client::builder()
            .address(&address)
            .plan_timeout(Duration::from_secs(600))
            .connect()
            .await?;
        voice.say(format_args!(
            "2. A server listens on {address}; from here on everything goes over gRPC."
        ));
        let outcome = operate(&voice, &client, &url, &truth).await?;
        if show.json {
            println!("{}", serde_json::to_string_pretty(&outcome)?);
        } else if !show.once {
            print_commands(&address, &outcome);
        }
        std::io::stdout().flush()?;
        ensure!(outcome.restored_exactly, "the undone tables differ from before");
        if !show.once {
            voice.say("\nThe server goes on. Ctrl-C ends it and removes the demonstration's files.");
            tokio::signal::ctrl_c().await?;
        }
        anyhow::Ok(())
    }
    .await;
    shutdown.cancel();
    server.await?.context("the server")?;
    result
}

async fn operate(voice: &Voice, client: &Client, url: &str, truth: &GroundTruth) -> Result<Outcome> {
    let mut rules = Vec::new();
    let mut runs = BTreeMap::new();

    voice.say(format_args!("3. {UNCAPTURED}: severity LOW, no backup: it runs at once."));
    let uncaptured = client
        .cleanup()
        .run(RunRequest::new([UNCAPTURED]).execute().batch_size(5_000))
        .await?;
    let uncaptured = voice.follow(UNCAPTURED, uncaptured).await?;
    add_counts(&mut rules, truth, &uncaptured)?;
    runs.insert("uncaptured", uncaptured.id);

    let before = table_hashes(url).await?;
    voice.say(format_args!(
        "4. {}: a plan first, with exact counts; nothing is changed.",
        CAPTURED.join(", ")
    ));
    let plan = client.cleanup().plan(PlanRequest::new(CAPTURED)).await?;
    for step in &plan.steps {
        voice.say(format_args!(
            "  {:<28} {:>9} of {:>9} rows of {}",
            step.rule, step.row_count, step.table_row_count, step.table
        ));
        for finding in &step.findings {
            voice.say(format_args!("    {:?} {}: {}", finding.level(), finding.code, finding.detail));
        }
    }
    voice.say(format_args!(
        "  {} rows in all, about {:.1} MB to capture. The plan's token: {}",
        plan.row_count,
        megabytes(plan.capture_bytes),
        plan.token
    ));

    voice.say("5. The run: exactly this plan, batch by batch, each row in a backup before it goes.");
    let run = client
        .cleanup()
        .run(RunRequest::of_plan(&plan).execute().batch_size(5_000))
        .await?;
    let run = voice.follow("cleanup", run).await?;
    add_counts(&mut rules, truth, &run)?;
    let report = run.report.clone().unwrap_or_default();
    voice.say(format_args!(
        "  {} rows deleted, {} captured in {:.1} MB of chunks, {:.1} s",
        report.rows_affected,
        report.rows_captured,
        megabytes(report.captured_bytes),
        seconds(report.duration)
    ));
    for rule in &rules {
        ensure!(
            rule.planned == rule.truth && rule.deleted == rule.truth,
            "{}: the generator made {} rows, the plan counted {}, the run deleted {}",
            rule.rule,
            rule.truth,
            rule.planned,
            rule.deleted
        );
    }
    voice.say("  planned = deleted = what the generator put there, for every rule");

    voice.say("6. The backup is proven: every checksum, and every row restored into a scratch table.");
    let verified = client.backups().verify(run.id.as_str()).await?;
    let verified = voice.follow("verify", verified).await?;

    voice.say("7. Undo: every row goes back.");
    let undo = client.runs().undo(UndoRequest::new(run.id.as_str())).await?;
    let undo = voice.follow("undo", undo).await?;
    let after = table_hashes(url).await?;
    let changed: Vec<&String> = before
        .iter()
        .filter(|(table, hash)| after.get(*table) != Some(*hash))
        .map(|(table, _)| table)
        .collect();
    if changed.is_empty() {
        voice.say(format_args!(
            "  SHA-256 over each of {} tables: the same as before the run",
            before.len()
        ));
    } else {
        bail!("after the undo these tables differ from before: {changed:?}");
    }
    runs.insert("cleanup", run.id);
    runs.insert("verify", verified.id);
    runs.insert("undo", undo.id);
    Ok(Outcome {
        database: truth.database.clone(),
        seed: truth.seed,
        total_rows: truth.total_rows,
        rules,
        backup_rows_verified: verified.report.unwrap_or_default().rows_affected,
        rows_restored: undo.report.unwrap_or_default().rows_affected,
        restored_exactly: changed.is_empty(),
        runs,
    })
}

fn add_counts(rules: &mut Vec<RuleCounts>, truth: &GroundTruth, run: &proto::Run) -> Result<()> {
    for step in &run.report.as_ref().context("a run without a report")?.steps {
        let known = truth
            .rule(&step.operation, &step.rule)
            .with_context(|| format!("the generator knows no rule {}", step.rule))?;
        rules.push(RuleCounts {
            operation: step.operation.clone(),
            rule: step.rule.clone(),
            table: step.table.clone(),
            truth: known.rows,
            planned: step.rows_planned,
            deleted: step.rows_affected,
            captured: step.rows_captured,
        });
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a size for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn print_commands(address: &str, outcome: &Outcome) {
    let run = outcome.runs.get("cleanup").map_or("RUN", String::as_str);
    println!(
        "\nTry it yourself, in another terminal:\n\
         \n  export DBKEEP_ADDR={address}\n\
         \x20 cargo dbkeep operations list\n\
         \x20 cargo dbkeep plan orphaned_progress\n\
         \x20 cargo dbkeep run orphaned_progress --execute\n\
         \x20 cargo dbkeep runs show {run}\n\
         \x20 cargo dbkeep runs list\n\
         \x20 cargo dbkeep backups list\n\
         \n  grpcurl -plaintext {address} list\n\
         \x20 grpcurl -plaintext {address} describe dbkeep.v1.CleanupService\n\
         \x20 grpcurl -plaintext -d '{{\"operations\":[\"orphaned_progress\"]}}' {address} dbkeep.v1.CleanupService/PlanCleanup\n\
         \x20 grpcurl -plaintext -d '{{\"id\":\"{run}\"}}' {address} dbkeep.v1.RunService/WatchRun"
    );
}
