//! The command line of the demonstration. It only reads arguments and prints; the demonstration itself is in `show.rs` and `tour.rs`, the
//! data in the library.

mod show;
mod tour;
mod voice;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use dbkeep_demo::{GenerateOptions, GroundTruth, generate};
use jiff::Timestamp;

/// dbkeep on the database of a learning platform: builds it, starts a real server on loopback, and over gRPC plans, runs,
/// verifies and undoes a cleanup; every number is compared with what the generator put there.
#[derive(Parser)]
#[command(name = "dbkeep-demo", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    show: ShowArguments,
}

#[derive(Args)]
struct ShowArguments {
    /// Do it in this database instead of a SQLite file: postgres://user@host/database. Its tables of the same names are in the way,
    /// unless --drop is given; what the demonstration made stays there.
    #[arg(long, value_name = "URL")]
    target: Option<String>,
    /// Rows in all tables together, 1000 or more.
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// The same seed brings the same rows.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Declare foreign keys (CASCADE, SET NULL, deferrable) that the platform itself does not have.
    #[arg(long)]
    declared_keys: bool,
    /// Drop the platform's tables in the target first where they exist, and nothing else.
    #[arg(long)]
    drop: bool,
    /// End after the report instead of leaving the server running.
    #[arg(long)]
    once: bool,
    /// How to print: for a person, or the counts as one JSON object.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Subcommand)]
enum Command {
    /// Fill a database with the platform's tables and say which rows each cleanup operation must find.
    Generate(GenerateArguments),
}

#[derive(Args)]
struct GenerateArguments {
    /// Database to fill: sqlite:///path/file.db (made if missing) or postgres://user@host/database.
    #[arg(long)]
    url: String,
    /// Rows in all tables together, 1000 or more.
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// The same seed, --now and --rows bring the same rows.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Instant from which "expired" is reckoned, such as 2025-06-01T12:00:00Z; the present if not given.
    #[arg(long)]
    now: Option<Timestamp>,
    /// Declare foreign keys (CASCADE, SET NULL, deferrable) that the platform itself does not have.
    #[arg(long)]
    declared_keys: bool,
    /// Drop the platform's tables first where they exist, and nothing else.
    #[arg(long)]
    drop: bool,
    /// How to print what was generated.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// Lines for a person.
    Table,
    /// The whole ground truth as one JSON object.
    Json,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // In one line: a person who chose the wrong database needs the causes and not the stack.
            eprintln!("dbkeep-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<()> {
    match cli.command {
        None => {
            let ShowArguments {
                target,
                rows,
                seed,
                declared_keys,
                drop,
                once,
                output,
            } = cli.show;
            let json = matches!(output, Output::Json);
            // Only what goes wrong: the demonstration tells the rest itself, and its own long reads are no news.
            tracing_subscriber::fmt()
                .with_env_filter("warn,sqlx=error")
                .with_writer(std::io::stderr)
                .init();
            show::show(show::Show {
                target,
                rows,
                seed,
                declared_keys,
                drop_existing: drop,
                once,
                json,
            })
            .await?;
        }
        Some(Command::Generate(arguments)) => {
            let truth = generate(&GenerateOptions {
                url: arguments.url,
                rows: arguments.rows,
                seed: arguments.seed,
                now: arguments.now.unwrap_or_else(Timestamp::now),
                declared_keys: arguments.declared_keys,
                drop_existing: arguments.drop,
            })
            .await?;
            match arguments.output {
                Output::Table => print_table(&truth),
                Output::Json => println!("{}", serde_json::to_string_pretty(&truth)?),
            }
        }
    }
    Ok(())
}

fn print_table(truth: &GroundTruth) {
    println!(
        "{} rows in {} tables, seed {}, now {}",
        truth.total_rows,
        truth.tables.len(),
        truth.seed,
        truth.now
    );
    for (table, rows) in &truth.tables {
        println!("  {table:<24} {rows:>12}");
    }
    for operation in &truth.operations {
        println!("{} must find {} rows", operation.name, operation.rows());
        for rule in &operation.rules {
            println!("  {:<32} {:>12}", rule.name, rule.rows);
            for (table, rows) in &rule.cascaded {
                println!("    and take along {rows} of {table}");
            }
            for (table, rows) in &rule.nullified {
                println!("    and set the key of {rows} of {table} to NULL");
            }
        }
    }
}
