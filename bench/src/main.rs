//! `cargo bench-db`: dbkeep beside what people do without it, side by side in one run. What it prints belongs into
//! `docs/BENCHMARKS.md`, with the command. It needs PostgreSQL's programs (`./check tools` brings them) and starts a private
//! cluster; it talks to loopback only and stops by itself.

mod audit;
mod calls;
mod files;
mod foreground;
mod migrations;
mod postgres;
mod report;
mod schedules;
mod server;
mod sets;
mod snapshot;
mod sqlite;
mod stolen;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Benchmarks of dbkeep.
#[derive(Debug, Parser)]
#[command(name = "bench-db", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

/// What is measured, and how often.
#[derive(Debug, Clone, clap::Args)]
struct Options {
    /// Rows of the table; a fifth of them are orphans.
    #[arg(long, default_value_t = 1_000_000, global = true)]
    rows: u64,
    /// Rounds; in each every contender runs once.
    #[arg(long, default_value_t = 5, global = true)]
    rounds: u32,
    /// Rows of a batch where the engine runs at full speed.
    #[arg(long, default_value_t = 10_000, global = true)]
    batch: u32,
    /// Seed of the rows.
    #[arg(long, default_value_t = 7, global = true)]
    seed: u64,
    /// Only this database.
    #[arg(long, value_enum, global = true)]
    only: Option<Database>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Database {
    Postgres,
    Sqlite,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What the foreground feels while rows are deleted: p99 of single-row statements (PostgreSQL).
    Foreground(foreground::Load),
    /// Duplicates and cycles instead of orphans.
    Sets {
        /// What is measured, and how often.
        #[command(flatten)]
        options: Options,
        /// Which parts.
        #[command(flatten)]
        choice: sets::Choice,
    },
    /// Many schedules: creating and listing them, the idle scheduler, and how late slots fire (SQLite).
    Schedules(schedules::Arguments),
    /// Migrations: status of a folder, and applying small ones beside psql (PostgreSQL).
    Migrations(migrations::Arguments),
    /// A look at the health of a database with many tables (PostgreSQL).
    Snapshot(snapshot::Arguments),
    /// Unary calls at load: who calls, and the record of what acts (SQLite).
    Calls(calls::Arguments),
    /// Serves one message until standard input closes; started by the benchmarks themselves.
    #[command(hide = true)]
    ServeBare {
        /// The message, as it is encoded.
        answer: PathBuf,
    },
    /// Serves a target until standard input closes; started by the benchmarks themselves.
    #[command(hide = true)]
    Serve {
        /// Data folder.
        data: PathBuf,
        /// URL of the target.
        target: String,
        /// Folder that the target declares as root "files".
        root: Option<PathBuf>,
    },
    /// The audit log: records a second that are durable while many callers wait, and verifying them.
    Audit(audit::Arguments),
    /// Files of a root against the references of a database: time, and memory of the server.
    Files(files::Arguments),
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { command, options } = Arguments::parse();
    match command {
        Some(Command::Serve { data, target, root }) => return server::serve(&data, &target, root).await,
        Some(Command::ServeBare { answer }) => return calls::serve_bare(&answer).await,
        Some(Command::Calls(arguments)) => return calls::run(&arguments, options.rounds).await,
        Some(Command::Sets { options, choice }) => {
            println!(
                "bench-db sets --rows {} --rounds {} --batch {}",
                options.rows, options.rounds, options.batch
            );
            return sets::run(&options, &choice).await;
        }
        Some(Command::Foreground(load)) => return foreground::run(&options, &load).await,
        Some(Command::Schedules(arguments)) => return schedules::run(&arguments).await,
        Some(Command::Migrations(arguments)) => return migrations::run(&arguments, options.rounds).await,
        Some(Command::Snapshot(arguments)) => return snapshot::run(&arguments, options.rounds).await,
        Some(Command::Audit(arguments)) => return audit::run(&arguments, options.rounds, options.only).await,
        Some(Command::Files(arguments)) => return files::run(&arguments, options.only).await,
        None => {}
    }
    println!(
        "bench-db --rows {} --rounds {} --batch {} --seed {}",
        options.rows, options.rounds, options.batch, options.seed
    );
    if options.only != Some(Database::Sqlite) {
        postgres::run(&options).await?;
    }
    if options.only != Some(Database::Postgres) {
        sqlite::run(&options).await?;
    }
    Ok(())
}
