//! The dbkeep server: gRPC services over the engine, and the adapters for databases, control stores and backup folders.
//!
//! A test starts a server in five lines:
//!
//! ```no_run
//! # async fn start() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let config = dbkeep_server::Config::embedded("data")
//!     .with_target("app", "sqlite://app.db", "builtin:learning-platform")
//!     .with_root("app", "temp", "/srv/app/temp")
//!     .with_root("app", "uploads", "/srv/app/uploads");
//! let shutdown = tokio_util::sync::CancellationToken::new();
//! tokio::spawn(dbkeep_server::serve(listener, config, shutdown.clone()));
//! # Ok(())
//! # }
//! ```

mod access;
mod anchor_file;
pub mod archive;
mod compose;
pub mod config;
pub mod files;
pub mod grpc;
mod hosts;
mod http;
pub mod machine;
mod migration_folder;
pub mod notify;
pub mod process;
pub mod store;
pub mod target;
pub mod telemetry;

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub use compose::{ComposeError, TargetCheck, check};
pub use config::{CatalogSource, Config, ConfigError};

use compose::{Composition, compose};
use config::access::AccessConfig;
use grpc::Stops;

/// Time for connections to notice that they were cut, and for the control store to close.
const LAST_ACTS: Duration = Duration::from_secs(2);

/// A server ended, or could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// It could not be put together.
    #[error(transparent)]
    Compose(#[from] ComposeError),
    /// The listener is not one to serve on.
    #[error("listen: {0}")]
    Listen(String),
    /// The listener failed.
    #[error("listen: {0}")]
    Listener(#[from] io::Error),
    /// The transport failed.
    #[error("transport: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The transport's task ended without a word.
    #[error("transport: {0}")]
    TransportLost(tokio::task::JoinError),
    /// The transport cannot be set up.
    #[error(transparent)]
    Setup(#[from] grpc::TransportError),
}

/// Serves until `shutdown` is cancelled, and for at most the configured grace after it. Runs are brought to a batch boundary and
/// handed back; they go on with the next start.
///
/// # Errors
/// Whatever keeps a server from starting; see [`ComposeError`].
pub async fn serve(listener: TcpListener, config: Config, shutdown: CancellationToken) -> Result<(), ServeError> {
    Server::start(config, &shutdown).await?.serve(listener, shutdown).await
}

/// A server that is put together and does nothing yet.
pub struct Server {
    composition: Composition,
    shutdown_grace: Duration,
    max_streams: usize,
    access: AccessConfig,
}

impl Server {
    /// Opens the control store and the backup folder, and checks the catalogs. `shutdown` ends the wait for a control store that
    /// does not answer.
    ///
    /// # Errors
    /// See [`ComposeError`].
    pub async fn start(config: Config, shutdown: &CancellationToken) -> Result<Self, ServeError> {
        let composition = compose(&config, shutdown).await?;
        Ok(Self {
            composition,
            shutdown_grace: config.shutdown_grace,
            max_streams: config.max_streams,
            access: config.access,
        })
    }

    /// Takes up runs and answers calls until `shutdown` is cancelled:
    ///
    /// ```text
    /// shutdown -> no new connections, runs to a boundary -> watchers told -> connections closed, at the latest after the grace
    /// ```
    ///
    /// # Errors
    /// Where the listener can be reached from other machines, or fails.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
        let address = listener.local_addr()?;
        self.access.check_listen(address).map_err(ServeError::Listen)?;
        let Composition { engine, store, lock } = self.composition;
        // Cancelled by the caller, or here where the transport ends by itself.
        let stop = shutdown.child_token();
        let stops = Stops {
            accepting: stop.clone(),
            ..Stops::default()
        };
        let (health, transport) = grpc::transport(
            listener,
            engine.clone(),
            grpc::Settings {
                access: self.access,
                max_streams: self.max_streams,
            },
            stops.clone(),
        )
        .await?;
        let mut transport = AbortOnDropHandle::new(tokio::spawn(transport));
        let info = server_info(&engine.settings().holder, address);
        let mut scheduler = AbortOnDropHandle::new(tokio::spawn(engine.scheduler(info).run(stop.clone())));
        let mut supervisor = AbortOnDropHandle::new(tokio::spawn(engine.supervisor().run(stop.clone())));
        let mut collector = AbortOnDropHandle::new(tokio::spawn(engine.collector().run(stop.clone())));
        let keyring = Arc::clone(engine.keyring());
        let revocations = stop.clone();
        let _revocations = AbortOnDropHandle::new(tokio::spawn(async move { keyring.run(revocations).await }));
        let mut dispatcher = AbortOnDropHandle::new(tokio::spawn(engine.dispatcher().run(stop.clone())));
        let mut keeper = AbortOnDropHandle::new(tokio::spawn(engine.audit_keeper().run(stop.clone())));
        tracing::info!(%address, targets = engine.targets().len(), "serving");

        let early = tokio::select! {
            () = stop.cancelled() => None,
            ended = &mut transport => Some(ended),
        };
        stop.cancel();
        tracing::info!("shutting down");
        let limit = Instant::now() + self.shutdown_grace;
        // Watchers see their runs interrupted before they are told to come back; they are told in time to leave in order.
        let handed_back = timeout(self.shutdown_grace / 2, &mut supervisor).await.is_ok();
        health.end().await;
        stops.streams.cancel();
        let mut served = match early {
            Some(ended) => Ok(ended),
            None => timeout_at(limit, &mut transport).await,
        };
        if served.is_err() {
            tracing::warn!("some clients did not leave in time; their connections are cut");
            stops.connections.cancel();
            served = timeout(LAST_ACTS, &mut transport).await;
        }
        if !handed_back && timeout_at(limit, &mut supervisor).await.is_err() {
            tracing::warn!("a batch takes longer than the grace; its run goes on from the journal after the restart");
            supervisor.abort();
        }
        if timeout(LAST_ACTS, &mut scheduler).await.is_err() {
            tracing::warn!("a slot is being planned; another server, or the next start, goes on with it");
            scheduler.abort();
        }
        if timeout(LAST_ACTS, &mut collector).await.is_err() {
            tracing::warn!("a target is being looked at; what was not written is collected again");
            collector.abort();
        }
        if timeout(LAST_ACTS, &mut keeper).await.is_err() {
            tracing::warn!("the audit log is being looked after; the next look goes on with it");
            keeper.abort();
        }
        if timeout_at(limit, &mut dispatcher).await.is_err() {
            tracing::warn!("a notification takes longer than the grace; it is sent again after the restart, under the same id");
            dispatcher.abort();
        }
        stops.records.close();
        if timeout(LAST_ACTS, stops.records.wait()).await.is_err() {
            tracing::warn!("some calls have no record of their end");
        }
        if timeout(LAST_ACTS, store.close()).await.is_err() {
            tracing::warn!("the control store did not close in time");
        }
        drop(lock);
        tracing::info!("stopped");
        match served {
            Ok(Ok(result)) => Ok(result?),
            Ok(Err(lost)) => Err(ServeError::TransportLost(lost)),
            // What is still open has nothing more to say: everything that matters is stored.
            Err(_) => Ok(()),
        }
    }
}

/// What this server says of itself to the others.
fn server_info(holder: &str, address: std::net::SocketAddr) -> dbkeep_engine::model::ServerInfo {
    let name = rustix::system::uname();
    dbkeep_engine::model::ServerInfo {
        id: holder.to_owned(),
        address: address.to_string(),
        host: name.nodename().to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: jiff::Timestamp::now(),
    }
}
