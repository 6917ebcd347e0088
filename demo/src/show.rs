//! The demonstration around its tour: a database and folders with known content, a real server on loopback, clients of two principals,
//! and what is left to play with.

use std::{io::Write as _, time::Duration};

use anyhow::{Context as _, Result};
use dbkeep_client::Client;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use dbkeep_demo::{GenerateOptions, generate, generate_files};

use crate::{
    tour::{Outcome, Tour},
    voice::Voice,
};

/// Where the server listens if nobody else does; the clients' default.
const ADDRESS: &str = "127.0.0.1:50777";

/// What the caller chose.
pub(crate) struct Show {
    pub(crate) target: Option<String>,
    pub(crate) rows: u64,
    pub(crate) seed: u64,
    pub(crate) declared_keys: bool,
    pub(crate) drop_existing: bool,
    pub(crate) once: bool,
    pub(crate) json: bool,
}

/// Shows it.
///
/// # Errors
/// Where anything is not as the generator knows it, or the server or database fails.
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
    let options = GenerateOptions {
        url: url.clone(),
        rows: show.rows,
        seed: show.seed,
        now: jiff::Timestamp::now(),
        declared_keys: show.declared_keys,
        drop_existing: show.drop_existing,
    };
    let truth = generate(&options).await?;
    generate_files(&options, folder.path())?;
    voice.say(format_args!(
        "   {} rows in {} tables, and two folders of files",
        truth.total_rows,
        truth.tables.len()
    ));

    let catalog = folder.path().join("learning-platform.toml");
    std::fs::write(&catalog, dbkeep_demo::CATALOG)?;
    let listener = match (show.once, TcpListener::bind(ADDRESS).await) {
        (false, Ok(listener)) => listener,
        _ => TcpListener::bind("127.0.0.1:0").await?,
    };
    let address = listener.local_addr()?.to_string();
    let config = dbkeep_server::Config::embedded(folder.path().join("data"))
        .with_target("platform", url.as_str(), catalog.display().to_string())
        .with_root("platform", "temp", folder.path().join("temp"))
        .with_root("platform", "uploads", folder.path().join("uploads"));
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(dbkeep_server::serve(listener, config, shutdown.clone()));
    let result = async {
        let named = |principal: &str| {
            let builder = Client::builder().address(&address).principal(principal);
            builder.plan_timeout(Duration::from_secs(600)).connect()
        };
        let (client, approver) = (named("ada").await?, named("grace").await?);
        voice.say(format_args!(
            "2. A server listens on {address}; from here on everything goes over gRPC."
        ));
        let tour = Tour {
            voice: &voice,
            client: &client,
            approver: &approver,
            url: &url,
            place: folder.path(),
            truth: &truth,
        };
        let outcome = tour.operate().await?;
        if show.json {
            println!("{}", serde_json::to_string_pretty(&outcome)?);
        } else if !show.once {
            print_commands(&address, &outcome);
        }
        std::io::stdout().flush()?;
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

fn print_commands(address: &str, outcome: &Outcome) {
    let run = outcome.run_of("orphaned_progress").unwrap_or("RUN");
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
