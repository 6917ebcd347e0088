//! `dbkeep`, the command line tool.
//!
//! Owns the command line: its grammar, the connection that all commands share, and the exit code. What a command does is in
//! `cmd/`, one file per noun; what its answers look like is in `json/` (`--output json`) and `table.rs` (`--output table`).
//! Uses only what the library makes public.
//!
//! Answers go to stdout; progress, questions and errors go to stderr. With `--output json` every line on stdout is one JSON
//! object; `json/mod.rs` documents them. `exit.rs` documents the exit codes, and `dbkeep --help` prints them.

mod cmd;
mod duration;
mod exit;
mod failure;
mod follow;
mod json;
mod next;
mod output;
mod principal;
mod progress;
mod prompt;
mod report;
mod session;
mod table;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::{
    duration::Span,
    exit::Exit,
    output::{Format, Output},
    session::Session,
};

/// Database maintenance: plan what to delete, delete it in small batches, take it back.
#[derive(Debug, Parser)]
#[command(name = "dbkeep", version, after_help = exit::HELP, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Settings of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Where the server listens: host:port, http://host:port, or https://host:port with TLS.
    #[arg(long, global = true, env = "DBKEEP_ADDR", value_name = "ADDRESS", default_value = dbkeep_client::DEFAULT_ADDRESS)]
    addr: String,
    /// Who calls, for a server on this machine that asks for no proof; needed to approve a run [default: the name of the system's user].
    #[arg(long, global = true, env = "DBKEEP_PRINCIPAL", value_name = "NAME")]
    principal: Option<String>,
    /// File with the token that proves who calls, instead of the variable DBKEEP_TOKEN.
    #[arg(long, global = true, env = "DBKEEP_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// File of the authority that has signed the server's certificate, as PEM [default: the public ones].
    #[arg(long, global = true, env = "DBKEEP_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// File with the client's own certificate, as PEM, for a server that asks for one.
    #[arg(long, global = true, env = "DBKEEP_CERT", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// File with the key of that certificate, as PEM.
    #[arg(long, global = true, env = "DBKEEP_KEY", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Name that the server's certificate must have, instead of the host of the address.
    #[arg(long, global = true, value_name = "NAME")]
    server_name: Option<String>,
    /// Send the token to another machine without TLS: whoever is in between reads it.
    #[arg(long, global = true)]
    token_in_the_clear: bool,
    /// What the answers look like; with json, every line on stdout is one JSON object.
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// No colours, also on a terminal; so does the environment variable NO_COLOR.
    #[arg(long, global = true)]
    no_color: bool,
    /// Longest time for a call that is answered at once; plans and runs take the time they take.
    #[arg(long, global = true, value_name = "DURATION", default_value = "30s")]
    timeout: Span,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// The databases that the server maintains.
    #[command(subcommand)]
    Targets(cmd::targets::Targets),
    /// The rights that dbkeep's role needs in a target, as SQL that grants exactly those.
    Grants(cmd::grants::Grants),
    /// What can be cleaned.
    #[command(subcommand)]
    Operations(cmd::operations::Operations),
    /// Look around in a database and propose rules for its catalog; changes nothing.
    Discover(cmd::discover::Discover),
    /// Count exactly what a run would delete; changes nothing.
    Plan(cmd::plan::Plan),
    /// Run operations: a dry run unless --execute.
    Run(cmd::run::Run),
    /// Runs: look at them, follow them, stop them, take them back.
    #[command(subcommand)]
    Runs(cmd::runs::Runs),
    /// Who asked for what, and what became of it.
    #[command(subcommand)]
    Decisions(cmd::decisions::Decisions),
    /// The audit log: list it, verify it, take it away, anchor it.
    #[command(subcommand)]
    Audit(cmd::audit::Audit),
    /// What runs saved: make, show, prove, restore and remove backups.
    #[command(subcommand)]
    Backups(cmd::backups::Backups),
    /// Migrations: how a folder of them stands on a target; plan, rehearse, apply and take them back.
    #[command(subcommand)]
    Migrations(cmd::migrations::Migrations),
    /// Notifications: channels, a test of one, and what is on its way.
    #[command(subcommand)]
    Notify(cmd::notify::Notify),
    /// Schedules: what is done when, what became of every slot, and the switch over all of them.
    #[command(subcommand)]
    Schedules(cmd::schedules::Schedules),
    /// The service at a glance: scheduler, servers, targets, runs, migrations, alerts.
    Status(cmd::status::Status),
    /// The service while it works, live: runs with bars, targets, alerts. q ends it.
    Top(cmd::top::Top),
    /// How a target is: its newest snapshot, or the history of one metric.
    Metrics(cmd::metrics::Metrics),
    /// What is wrong with a target.
    Findings(cmd::findings::Findings),
    /// What should be done about a target.
    Recommendations(cmd::findings::Recommendations),
    /// Alerts: those that are raised, what became of others, and who looks after them.
    Alerts(cmd::alerts::Alerts),
    /// Follow alerts as they are raised and resolved.
    Watch(cmd::alerts::Watch),
    /// Reports over a time: the last week.
    #[command(subcommand)]
    Report(report::weekly::Report),
    /// Tokens that prove who calls: make, list and revoke them.
    #[command(subcommand)]
    Tokens(cmd::tokens::Tokens),
    /// Who the server takes the caller for, and what it may do.
    Whoami(cmd::tokens::Whoami),
    /// Print a completion script for a shell.
    Completions(cmd::completions::Completions),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.global.output, cli.global.no_color);
    let exit = match run(cli, &output).await {
        Ok(exit) => exit,
        Err(error) => failure::report(&error, &output),
    };
    exit.into()
}

async fn run(cli: Cli, output: &Output) -> anyhow::Result<Exit> {
    if let Command::Completions(command) = &cli.command {
        // Works without a server.
        return command.run(&mut Cli::command());
    }
    if let Command::Backups(cmd::backups::Backups::Extract(extract)) = cli.command {
        // Works without a server too: that is what it is for.
        return extract.run(output);
    }
    if let Command::Audit(audit) = &cli.command
        && let Some((file, anchor)) = audit.offline()
    {
        // The same: whoever doubts a server asks somebody else.
        return cmd::audit::verify_file(output, file, anchor);
    }
    let session = Session::connect(&cli.global, output).await?;
    match cli.command {
        Command::Targets(command) => command.run(&session).await,
        Command::Grants(command) => command.run(&session).await,
        Command::Operations(command) => command.run(&session).await,
        Command::Discover(command) => command.run(&session).await,
        Command::Plan(command) => command.run(&session).await,
        Command::Run(command) => command.run(&session).await,
        Command::Runs(command) => command.run(&session).await,
        Command::Decisions(command) => command.run(&session).await,
        Command::Audit(command) => command.run(&session).await,
        Command::Backups(command) => command.run(&session).await,
        Command::Migrations(command) => command.run(&session).await,
        Command::Notify(command) => command.run(&session).await,
        Command::Schedules(command) => command.run(&session).await,
        Command::Status(command) => command.run(&session).await,
        Command::Top(command) => command.run(&session).await,
        Command::Metrics(command) => command.run(&session).await,
        Command::Findings(command) => command.run(&session).await,
        Command::Recommendations(command) => command.run(&session).await,
        Command::Alerts(command) => command.run(&session).await,
        Command::Watch(command) => command.run(&session).await,
        Command::Report(command) => command.run(&session).await,
        Command::Tokens(command) => command.run(&session).await,
        Command::Whoami(command) => command.run(&session).await,
        Command::Completions(_) => Ok(Exit::Success),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_settings_stand_before_or_after_the_command() {
        for line in [
            "dbkeep --addr 10.0.0.1:1 --output json --no-color --timeout 2m targets list",
            "dbkeep targets list --addr 10.0.0.1:1 -o json --no-color --timeout 2m",
        ] {
            let cli = parse(line).unwrap();
            assert_eq!(cli.global.addr, "10.0.0.1:1");
            assert_eq!(cli.global.output, Format::Json);
            assert!(cli.global.no_color);
            assert_eq!(std::time::Duration::from(cli.global.timeout).as_secs(), 120);
        }
    }

    #[test]
    fn a_run_is_dry_until_execute() {
        let Command::Run(run) = parse("dbkeep run a b --target main").unwrap().command else {
            panic!("no run")
        };
        assert!(!run.execute);
        assert_eq!(run.operations, ["a", "b"]);
        let line = "dbkeep run a --execute --plan TOKEN --batch-size 500 --max-time 30m --full-speed --yes --detach";
        let Command::Run(run) = parse(line).unwrap().command else {
            panic!("no run")
        };
        assert!(run.execute && run.yes && run.detach);
        assert_eq!(run.plan.as_deref(), Some("TOKEN"));
    }

    #[test]
    fn every_command_of_the_manual_parses() {
        for line in [
            "dbkeep targets list",
            "dbkeep targets show main",
            "dbkeep grants",
            "dbkeep grants main --role maintainer --for cleanup,undo --for backups",
            "dbkeep grants main --check",
            "dbkeep operations list --category LOGS --severity medium",
            "dbkeep operations show old_logs --target main",
            "dbkeep discover",
            "dbkeep discover --target main --table users --table app.orders --min-confidence 0.5 --limit 10 --toml",
            "dbkeep plan a b --target main --samples 0",
            "dbkeep run --plan TOKEN --execute",
            "dbkeep runs list --target main --state failed --state interrupted --kind cleanup --operation a --since 2h --limit 3",
            "dbkeep runs show ID",
            "dbkeep runs report ID",
            "dbkeep runs report ID --json",
            "dbkeep runs report ID --html",
            "dbkeep runs report ID --html report.html",
            "dbkeep run a --stop-on-failure",
            "dbkeep runs watch ID --after 7",
            "dbkeep runs cancel ID --reason because",
            "dbkeep --principal bob runs approve ID",
            "dbkeep runs approve ID --deny --reason because --principal bob",
            "dbkeep run --plan TOKEN --execute --yes --phrase PHRASE --max-rows 10 --force",
            "dbkeep decisions list --run ID --plan ID --outcome refused --limit 3",
            "dbkeep audit list --by ann --method RunService/CancelRun --target app --phase denied --since 2h --until 1h --limit 3",
            "dbkeep audit show 7",
            "dbkeep audit verify --anchor anchors.jsonl",
            "dbkeep audit verify --file log.jsonl --anchor anchors.jsonl",
            "dbkeep audit export --out log.jsonl",
            "dbkeep audit anchor anchors.jsonl",
            "dbkeep runs pause ID --reason lunch",
            "dbkeep runs resume ID",
            "dbkeep runs limits ID --batch-size 200 --rows-per-second 0 --duty-cycle 100",
            "dbkeep runs list --state paused --state pausing",
            "dbkeep run a --queue --rows-per-second 500 --duty-cycle 25 --max-replica-lag 30s",
            "dbkeep run a --full-speed --max-replica-lag 1m",
            "dbkeep runs undo ID --yes --batch-size 10 --max-time 2h --full-speed --detach",
            "dbkeep backups list --target main --limit 1",
            "dbkeep backups show ID --max-chunks 5",
            "dbkeep backups verify ID --detach",
            "dbkeep backups create --target main --table a --table b --detach",
            "dbkeep backups restore ID --table a --scratch-name look",
            "dbkeep backups restore ID --in-place --confirm main/ID --replace",
            "dbkeep backups prune --keep-last 3 --older-than 30d --execute",
            "dbkeep backups extract FOLDER --format sql --table a --out HERE",
            "dbkeep run a --vacuum --execute",
            "dbkeep migrations status --target main",
            "dbkeep migrations list --state pending --state stopped_up --limit 3",
            "dbkeep migrations show 3 --target main",
            "dbkeep migrations plan",
            "dbkeep migrations plan 3 4 --backup --target main",
            "dbkeep migrations plan --down --steps 2",
            "dbkeep migrations plan --to 3",
            "dbkeep migrations test 3 --detach --lock-timeout 500ms",
            "dbkeep migrations test --to 3",
            "dbkeep migrations apply --steps 1 --backup",
            "dbkeep migrations apply 3 --execute --yes --detach --lock-timeout 2s --lock-tries 5 --statement-timeout 10m",
            "dbkeep migrations apply --to 3 --plan TOKEN --execute",
            "dbkeep migrations rollback --steps 1 --execute --unproven",
            "dbkeep migrations rollback --to 3 --plan TOKEN --execute",
            "dbkeep migrations test --applied --to 3",
            "dbkeep migrations test --schema-only",
            "dbkeep migrations rollback --steps 2 --from-backup",
            "dbkeep migrations rollback --from-backup=RUN --execute --plan TOKEN --phrase PHRASE",
            "dbkeep migrations rollback 3 4",
            "dbkeep migrations baseline --to 3 --yes",
            "dbkeep migrations repair 3",
            "dbkeep migrations repair 3 --action drop-invalid-index --yes --target main",
            "dbkeep migrations new add_users --folder db/migrations --target main",
            "dbkeep runs list --kind migrate --kind rollback --kind rehearse",
            "dbkeep status",
            "dbkeep top",
            "dbkeep top --interval 500ms --count 3 -o json",
            "dbkeep metrics",
            "dbkeep metrics app --exact",
            "dbkeep metrics app --history database_size_bytes --since 7d --step 1h --object public.t",
            "dbkeep findings app --fresh",
            "dbkeep recommendations app -o json",
            "dbkeep alerts --target app --state resolved --limit 3",
            "dbkeep alerts ack ID --note seen",
            "dbkeep watch --target app --after 7",
            "dbkeep report weekly",
            "dbkeep report weekly app --html week.html",
            "dbkeep notify channels",
            "dbkeep notify test mail --to ops@example.com --to ann@example.com",
            "dbkeep notify deliveries --state dead --channel mail --run ID --limit 3",
            "dbkeep notify show ID",
            "dbkeep notify retry ID -o json",
            "dbkeep schedules list --target main --limit 3",
            "dbkeep schedules show nightly",
            "dbkeep schedules create nightly --operation a --operation b --target main --cron @daily --timezone Europe/Berlin",
            "dbkeep schedules create nightly --maintenance prune_backups:days=30,count=10 --maintenance vacuum_analyze --minute 0 --hour 2",
            "dbkeep schedules create tidy --maintenance vacuum_analyze --maintenance prune_backups:days=30,count=10 --cron @weekly",
            "dbkeep schedules create x --operation a --cron @daily --description d --disabled --dry-run --batch-size 10 --max-time 30m",
            "dbkeep schedules create x --operation a --cron @daily --max-rows 10 --max-fraction 0.1 --full-speed --vacuum --overlap queue-one",
            "dbkeep schedules create x --operation a --cron @daily --misfire run-once --catch-up 2h --deadline 1h --jitter 5m --gap skip --fold twice",
            "dbkeep schedules create x --operation a --cron @daily --exclude 12-24..12-26 --exclude 01-01..01-01 --pause-after-failures 3",
            "dbkeep schedules create x --operation a --cron @daily --on-success --on-failure --on-warnings --recipient a@b.c --channel mail",
            "dbkeep schedules create x --operation a --cron @daily --stop-on-failure --overlap cancel-other --misfire skip",
            "dbkeep schedules update nightly --rename weekly --cron @weekly --etag 7",
            "dbkeep schedules update nightly --disabled=false --max-rows none --vacuum=false",
            "dbkeep schedules delete nightly --yes --etag 7",
            "dbkeep schedules run nightly --detach",
            "dbkeep schedules pause nightly --reason release",
            "dbkeep schedules resume nightly --reason mended",
            "dbkeep schedules approve nightly --max-rows 1000 --until 2027-06-30 --etag 7 --principal bob",
            "dbkeep schedules approve nightly --max-rows 1000 --until 90d --yes",
            "dbkeep schedules preview nightly --count 3 --after 2027-03-27T00:00:00Z",
            "dbkeep schedules preview --cron @daily --timezone Europe/Berlin",
            "dbkeep schedules preview --minute 0 --hour 2 --day-of-month 1 --month 1 --day-of-week MON",
            "dbkeep schedules runs nightly --outcome missed --outcome skipped --limit 3",
            "dbkeep schedules runs",
            "dbkeep schedules scheduler",
            "dbkeep schedules scheduler status",
            "dbkeep schedules scheduler start",
            "dbkeep schedules scheduler stop --reason release",
            "dbkeep completions bash",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_exit_code_2() {
        for line in [
            "dbkeep",
            "dbkeep plan",
            "dbkeep run",
            "dbkeep discover --min-confidence 2",
            "dbkeep discover --limit 0",
            "dbkeep run a --batch-size many",
            "dbkeep run a --max-time 30",
            "dbkeep run a --yes",
            "dbkeep run a --phrase x",
            "dbkeep run a --execute --max-rows many",
            "dbkeep decisions list --outcome perhaps",
            "dbkeep run a --full-speed --duty-cycle 50",
            "dbkeep runs limits ID",
            "dbkeep runs pause",
            "dbkeep runs list --state asleep",
            "dbkeep runs report ID --html - --json",
            "dbkeep operations list --severity none",
            "dbkeep targets list --output xml",
            "dbkeep grants --for everything",
            "dbkeep backups prune",
            "dbkeep backups restore ID --in-place",
            "dbkeep backups restore ID --replace",
            "dbkeep migrations",
            "dbkeep migrations show",
            "dbkeep migrations list --state perhaps",
            "dbkeep migrations plan 3 --to 4",
            "dbkeep migrations plan --to 4 --steps 1",
            "dbkeep migrations plan --steps 0",
            "dbkeep migrations plan --down --steps 1 --backup",
            "dbkeep migrations plan --down",
            "dbkeep migrations apply --plan TOKEN",
            "dbkeep migrations apply --yes",
            "dbkeep migrations apply --lock-timeout 2",
            "dbkeep migrations rollback",
            "dbkeep migrations rollback --unproven",
            "dbkeep migrations rollback --from-backup --unproven",
            "dbkeep migrations rollback --steps 1 --execute --phrase x",
            "dbkeep migrations rollback 3 --steps 1",
            "dbkeep migrations repair",
            "dbkeep migrations repair 3 --action forget",
            "dbkeep migrations repair 3 --yes",
            "dbkeep migrations new",
            "dbkeep metrics --fresh --exact",
            "dbkeep metrics --since 7d",
            "dbkeep metrics --history x --step 2h",
            "dbkeep alerts --state lost",
            "dbkeep alerts ack",
            "dbkeep notify",
            "dbkeep notify test",
            "dbkeep notify deliveries --state lost",
            "dbkeep notify retry",
            "dbkeep schedules",
            "dbkeep schedules show",
            "dbkeep schedules create",
            "dbkeep schedules create x --operation a --maintenance vacuum_analyze",
            "dbkeep schedules create x --maintenance prune_backups:weeks=1",
            "dbkeep schedules create x --cron @daily --hour 2",
            "dbkeep schedules create x --overlap never",
            "dbkeep schedules create x --max-rows many",
            "dbkeep schedules create x --disabled no",
            "dbkeep schedules approve x",
            "dbkeep schedules approve x --max-rows 1 --until tomorrow",
            "dbkeep schedules preview",
            "dbkeep schedules preview x --cron @daily",
            "dbkeep schedules preview --cron @daily --count 0",
            "dbkeep schedules runs --outcome perhaps",
            "dbkeep schedules scheduler restart",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
