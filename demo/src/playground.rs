//! A small platform behind a real server, for examples that run: what they show is what happens.

use anyhow::Result;
use dbkeep_client::Client;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{CATALOG, GenerateOptions, generate, generate_files};

/// A server on loopback with one target, `platform`. Dropped, it ends.
#[derive(Debug)]
pub struct Playground {
    /// A client of it.
    pub client: Client,
    _running: DropGuard,
    _folder: tempfile::TempDir,
}

/// Builds a platform of 2,000 rows in a SQLite file and serves it.
///
/// # Errors
/// Where the disk or the port cannot be had.
pub async fn playground() -> Result<Playground> {
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite://{}", folder.path().join("platform.db").display());
    let now = jiff::Timestamp::now();
    let options = GenerateOptions {
        url: url.clone(),
        rows: 2_000,
        seed: 42,
        now,
        declared_keys: false,
        drop_existing: false,
    };
    generate(&options).await?;
    generate_files(&options, folder.path())?;
    let catalog = dbkeep_server::CatalogSource::Text {
        name: "learning-platform.toml".to_owned(),
        text: CATALOG.to_owned(),
    };
    let config = dbkeep_server::Config::embedded(folder.path().join("data"))
        .with_target("platform", url.as_str(), catalog)
        .with_root("platform", "temp", folder.path().join("temp"))
        .with_root("platform", "uploads", folder.path().join("uploads"));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let shutdown = CancellationToken::new();
    tokio::spawn(dbkeep_server::serve(listener, config, shutdown.clone()));
    let client = Client::builder().address(address).connect().await?;
    Ok(Playground {
        client,
        _running: shutdown.drop_guard(),
        _folder: folder,
    })
}
