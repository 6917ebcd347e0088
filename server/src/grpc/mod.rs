//! The gRPC side: services, their statuses, and the transport under them.
//!
//! One file per service checks a request, calls the engine, and converts the answer (`convert`). `status` alone builds statuses,
//! `stream` shows runs, `gate` stands before every method with `policy`, `subject` and `calls`, `recorded` writes the audit log, `answer` is what an open call may see, `connection` is the socket. Wire types appear nowhere else
//! in the server. Called by [`crate::Server`].

mod access;
mod answer;
mod audit;
mod backups;
mod calls;
mod cleanup;
mod connection;
mod convert;
mod discovery;
mod gate;
mod migrations;
mod monitoring;
mod notifications;
mod page;
pub mod policy;
mod recorded;
mod runs;
mod schedules;
mod status;
mod stream;
mod subject;
mod targets;
mod validate;

use std::{future::Future, sync::Arc, time::Duration};

use dbkeep_engine::{Engine, EngineError};
use dbkeep_proto::v1::{
    access_service_server::AccessServiceServer, audit_service_server::AuditServiceServer,
    backup_service_server::BackupServiceServer, cleanup_service_server::CleanupServiceServer,
    migration_service_server::MigrationServiceServer, monitoring_service_server::MonitoringServiceServer,
    notification_service_server::NotificationServiceServer, run_service_server::RunServiceServer,
    schedule_service_server::ScheduleServiceServer, target_service_server::TargetServiceServer,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{server::NamedService, service::Routes, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    access::{Access, Oidc, Tls},
    config::access::AccessConfig,
};

use self::{
    access::Tokens,
    audit::Audit,
    backups::Backups,
    calls::Calls,
    cleanup::Cleanup,
    connection::Accept,
    gate::{GateLayer, Guard},
    migrations::Migrations,
    monitoring::Monitoring,
    notifications::Notifications,
    runs::Runs,
    schedules::Schedules,
    status::Fault,
    stream::Streams,
    subject::Requests,
    targets::Targets,
};

/// Largest request, bytes.
const MAX_REQUEST: usize = 1 << 20;
/// Largest response or stream message, bytes.
const MAX_RESPONSE: usize = 16 << 20;
/// Most calls at a time on one connection.
const STREAMS_PER_CONNECTION: u32 = 1_024;
/// How often a connection is asked for a sign of life, and how long it may take to give one.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// The tokens that bring a server down, in the order in which they are cancelled.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stops {
    /// No further connections; open ones end with their last call.
    pub(crate) accepting: CancellationToken,
    /// Watchers are told to come back later.
    pub(crate) streams: CancellationToken,
    /// Connections are cut.
    pub(crate) connections: CancellationToken,
}

/// Says of every service whether it can be used.
#[derive(Clone)]
pub(crate) struct Health(HealthReporter);

/// Names under which health is asked for: the server as a whole, and each service.
const HEALTH_NAMES: [&str; 11] = [
    "",
    AccessServiceServer::<Tokens>::NAME,
    TargetServiceServer::<Targets>::NAME,
    CleanupServiceServer::<Cleanup>::NAME,
    RunServiceServer::<Runs>::NAME,
    BackupServiceServer::<Backups>::NAME,
    MigrationServiceServer::<Migrations>::NAME,
    ScheduleServiceServer::<Schedules>::NAME,
    NotificationServiceServer::<Notifications>::NAME,
    MonitoringServiceServer::<Monitoring>::NAME,
    AuditServiceServer::<Audit>::NAME,
];

impl Health {
    async fn set(&self, status: ServingStatus) {
        for name in HEALTH_NAMES {
            self.0.set_service_status(name, status).await;
        }
    }

    /// Tells those who watch that the server goes down, and ends their streams.
    pub(crate) async fn end(mut self) {
        self.set(ServingStatus::NotServing).await;
        for name in HEALTH_NAMES {
            self.0.clear_service_status(name).await;
        }
    }
}

/// The transport cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The descriptors that reflection shows cannot be read; a fault of the build.
    #[error("the descriptor set is damaged: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The descriptors by which requests are read cannot be read; a fault of the build.
    #[error(transparent)]
    Descriptors(#[from] subject::DescriptorError),
    /// Certificates or keys cannot be used.
    #[error("{0}")]
    Access(String),
}

/// What a transport is set up with.
pub(crate) struct Settings {
    /// Who may call, and how much.
    pub(crate) access: AccessConfig,
    /// Most open event streams.
    pub(crate) max_streams: usize,
}

/// Sets the services up; the returned future serves until `stops.accepting` is cancelled and every connection has ended.
pub(crate) async fn transport(
    listener: TcpListener,
    engine: Engine,
    settings: Settings,
    stops: Stops,
) -> Result<(Health, impl Future<Output = Result<(), tonic::transport::Error>> + Send), TransportError> {
    let Settings { access, max_streams } = settings;
    let tls = access
        .tls
        .as_ref()
        .map(Tls::open)
        .transpose()
        .map_err(TransportError::Access)?;
    let oidc = access
        .oidc
        .as_ref()
        .map(Oidc::open)
        .transpose()
        .map_err(TransportError::Access)?;
    let guard = Guard {
        access: Access::new(engine.clone(), &access, oidc),
        calls: Calls::new(access.calls),
        requests: Requests::new()?,
        engine: engine.clone(),
    };
    let streams = Streams::new(max_streams, stops.streams);
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let health = Health(reporter);
    health.set(ServingStatus::Serving).await;

    /// Sets the limits of messages, which every generated server has under the same names.
    macro_rules! limited {
        ($server:expr) => {
            $server
                .max_decoding_message_size(MAX_REQUEST)
                .max_encoding_message_size(MAX_RESPONSE)
        };
    }
    let stopping = stops.accepting.clone();
    let observed = engine.clone();
    let routes = Routes::new(limited!(AccessServiceServer::new(Tokens { engine: engine.clone() })))
        .add_service(limited!(TargetServiceServer::new(Targets { engine: engine.clone() })))
        .add_service(limited!(CleanupServiceServer::new(Cleanup {
            engine: engine.clone(),
            streams: streams.clone()
        })))
        .add_service(limited!(RunServiceServer::new(Runs {
            engine: engine.clone(),
            streams: streams.clone()
        })))
        .add_service(limited!(MigrationServiceServer::new(Migrations {
            engine: engine.clone(),
            streams: streams.clone()
        })))
        .add_service(limited!(ScheduleServiceServer::new(Schedules {
            engine: engine.clone(),
            streams: streams.clone()
        })))
        .add_service(limited!(NotificationServiceServer::new(Notifications {
            engine: engine.clone()
        })))
        .add_service(limited!(MonitoringServiceServer::new(Monitoring {
            engine: engine.clone(),
            streams: streams.clone()
        })))
        .add_service(limited!(AuditServiceServer::new(Audit {
            engine: engine.clone(),
            streams: streams.clone()
        })))
        .add_service(limited!(BackupServiceServer::new(Backups { engine, streams })))
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .prepare()
        .into_axum_router();
    let routes = crate::http::add(routes, observed, stopping);
    let router = Server::builder()
        // For what is no gRPC: a scraper and a prober speak HTTP/1.
        .accept_http1(true)
        .layer(GateLayer(Arc::new(guard)))
        // tonic's default lifts hyper's own limit.
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_routes(Routes::from(routes));
    let incoming = connection::accept(
        listener,
        Accept {
            tls: tls.map(Arc::new),
            most: usize::try_from(access.calls.connections).unwrap_or(usize::MAX),
            cut: stops.connections,
        },
    );
    Ok((
        health,
        router.serve_with_incoming_shutdown(incoming, stops.accepting.cancelled_owned()),
    ))
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(dbkeep_proto::FILE_DESCRIPTOR_SET)
        // With the standard details at hand, clients print rich errors decoded.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Lets the engine work in a task that a caller who goes away cannot tear: a query that is dropped half-way goes on in the
/// database, and can leave a connection in a state that the next user does not expect.
async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T, EngineError>> + Send + 'static) -> Result<T, Fault> {
    match tokio::spawn(work).await {
        Ok(result) => result.map_err(Fault::Engine),
        Err(lost) => Err(Fault::TaskLost(lost)),
    }
}
