//! `cargo bench-db migrations`: how long the status of a folder takes, and small migrations applied by dbkeep beside psql, which gets the
//! same files one transaction each: as a process for each file, which is what scripts do, and as one process for all of them.

use std::{fs, path::Path, time::Instant};

use anyhow::{Context as _, Result, ensure};
use dbkeep_engine::{
    model::{EngineKind, Layout},
    testing::migrations::generate,
};
use dbkeep_proto::v1::{self, migration_service_client::MigrationServiceClient};
use dbkeep_testkit::{Durability, PrivatePostgres};
use tonic::transport::Channel;

use crate::{
    report::{Series, line, ratio},
    server::Server,
};

/// Seed of the folder.
const SEED: u64 = 7;
/// How often the status is asked for.
const ASKED: u32 = 20;

/// How much of it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Migrations whose status is asked for; half of them are applied.
    #[arg(long, default_value_t = 1_000)]
    status: u32,
    /// Migrations that are applied.
    #[arg(long, default_value_t = 300)]
    apply: u32,
}

fn write(folder: &Path, count: u32) -> Result<()> {
    fs::create_dir_all(folder)?;
    let count = usize::try_from(count)?;
    for file in generate(Layout::Sqlx, EngineKind::Postgres, count, SEED) {
        fs::write(folder.join(file.path), file.bytes)?;
    }
    Ok(())
}

/// The up scripts of a folder in their order, and whether each is one transaction.
fn scripts(folder: &Path) -> Result<Vec<(std::path::PathBuf, bool)>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".sql") && !name.ends_with(".down.sql") {
            let version: u64 = name.split('_').next().unwrap_or_default().parse().context("a version")?;
            let atomic = !fs::read_to_string(&path)?.starts_with("-- no-transaction");
            paths.push((version, path, atomic));
        }
    }
    paths.sort();
    Ok(paths.into_iter().map(|(_, path, atomic)| (path, atomic)).collect())
}

async fn client(server: &Server) -> Result<MigrationServiceClient<Channel>> {
    let channel = Channel::from_shared(format!("http://{}", server.address))?.connect().await?;
    Ok(MigrationServiceClient::new(channel).max_decoding_message_size(64 << 20))
}

/// Applies so many, planning included; returns the seconds of the run alone and with its plan.
async fn apply(client: &mut MigrationServiceClient<Channel>, steps: u32) -> Result<(f64, f64)> {
    let selection = v1::MigrationSelection {
        steps,
        ..v1::MigrationSelection::default()
    };
    let began = Instant::now();
    let request = v1::PlanMigrationsRequest {
        selection: Some(selection.clone()),
        ..v1::PlanMigrationsRequest::default()
    };
    let plan = client.plan_migrations(request).await?.into_inner().plan.context("a plan")?;
    let planned = began.elapsed().as_secs_f64();
    let request = v1::ApplyMigrationsRequest {
        selection: Some(selection),
        dry_run: Some(false),
        plan_token: plan.token,
        ..v1::ApplyMigrationsRequest::default()
    };
    let mut stream = client.apply_migrations(request).await?.into_inner();
    let mut last = v1::RunState::Unspecified;
    while let Some(message) = stream.message().await? {
        if let Some(v1::run_event::Event::StateChanged(change)) = message.event.and_then(|event| event.event) {
            last = change.to();
        }
    }
    ensure!(last == v1::RunState::Succeeded, "the run ended {last:?}");
    let all = began.elapsed().as_secs_f64();
    Ok((all - planned, all))
}

pub(crate) async fn run(arguments: &Arguments, rounds: u32) -> Result<()> {
    println!(
        "bench-db migrations --status {} --apply {} --rounds {rounds}",
        arguments.status, arguments.apply
    );
    let folder = tempfile::tempdir()?;
    let cluster = PrivatePostgres::start_with(Durability::Durable, &[]).await?;
    cluster.create_database("status").await?;
    let data = folder.path().join("status");
    write(&data.join("migrations"), arguments.status)?;
    let server = Server::start_with(&data, &cluster.url("status"), "", None).await?;
    let mut asking = client(&server).await?;
    apply(&mut asking, arguments.status / 2).await?;
    let mut status = Series::default();
    for _ in 0..ASKED {
        let began = Instant::now();
        let answer = asking.get_migration_status(v1::GetMigrationStatusRequest::default()).await?;
        status.push(began.elapsed().as_secs_f64() * 1e3);
        let told = answer.into_inner().status.context("a status")?;
        ensure!(
            told.total_count == arguments.status && told.applied_count == arguments.status / 2,
            "{told:?}"
        );
    }
    drop(server);
    let (mut alone, mut planned, mut each, mut once) =
        (Series::default(), Series::default(), Series::default(), Series::default());
    for number in 0..rounds {
        let data = folder.path().join(format!("apply{number}"));
        write(&data.join("migrations"), arguments.apply)?;
        let paths = scripts(&data.join("migrations"))?;
        for name in ["dbkeep", "each", "once"] {
            cluster.create_database(&format!("{name}_{number}")).await?;
        }
        let server = Server::start_with(&data, &cluster.url(&format!("dbkeep_{number}")), "", None).await?;
        let (run, all) = apply(&mut client(&server).await?, arguments.apply).await?;
        drop(server);
        alone.push(run);
        planned.push(all);
        let url = cluster.url(&format!("each_{number}"));
        let began = Instant::now();
        for (path, atomic) in &paths {
            let file = path.display().to_string();
            let whole: &[&str] = if *atomic { &["-1", "-f", &file] } else { &["-f", &file] };
            psql(&cluster, &url, whole)?;
        }
        each.push(began.elapsed().as_secs_f64());
        let script = data.join("all.psql");
        let lines = paths.iter().map(|(path, atomic)| match atomic {
            true => format!("BEGIN;\n\\i {}\nCOMMIT;\n", path.display()),
            false => format!("\\i {}\n", path.display()),
        });
        let lines: Vec<String> = lines.collect();
        fs::write(&script, lines.concat())?;
        let began = Instant::now();
        psql(
            &cluster,
            &cluster.url(&format!("once_{number}")),
            &["-f", &script.display().to_string()],
        )?;
        once.push(began.elapsed().as_secs_f64());
    }
    println!("\nMigrations on PostgreSQL, median of {rounds} rounds");
    line(&format!("status of {} migrations", arguments.status), &status, "ms");
    line(&format!("{} applied by dbkeep", arguments.apply), &alone, "s");
    line("the same with its plan", &planned, "s");
    line("psql, a process for each file", &each, "s");
    line("psql, one process for all", &once, "s");
    ratio("dbkeep / psql, a process for each file", &alone.ratios(&each), 1.2);
    ratio("dbkeep / psql, one process for all", &alone.ratios(&once), 1.2);
    let limit = 100.0;
    let verdict = if status.median() <= limit { "met" } else { "MISSED" };
    println!("status, target <= {limit} ms: {verdict}");
    Ok(())
}

fn psql(cluster: &PrivatePostgres, url: &str, arguments: &[&str]) -> Result<()> {
    let output = cluster
        .command("psql")
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url])
        .args(arguments)
        .output()?;
    ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
