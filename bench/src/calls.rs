//! What it costs to know who calls: unary calls at load against a bare tonic server that answers the same message over the same transport, and
//! against dbkeepd for callers on loopback and for callers with a token; and calls that are recorded before they act.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use dbkeep_proto::v1::{
    self,
    access_service_client::AccessServiceClient,
    target_service_client::TargetServiceClient,
    target_service_server::{TargetService, TargetServiceServer},
};
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::{
    report::{Series, line, ratio},
    server::Server,
};

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Calls that are open at a time.
    #[arg(long, default_value_t = 64)]
    open: usize,
    /// Connections that they share.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// How long each contender is measured in each round, seconds.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
}

/// Answers what it was given.
struct Bare(v1::ListTargetsResponse);

#[tonic::async_trait]
impl TargetService for Bare {
    async fn list_targets(&self, _: Request<v1::ListTargetsRequest>) -> Result<Response<v1::ListTargetsResponse>, Status> {
        Ok(Response::new(self.0.clone()))
    }

    async fn get_grants(&self, _: Request<v1::GetGrantsRequest>) -> Result<Response<v1::GetGrantsResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn get_target(&self, _: Request<v1::GetTargetRequest>) -> Result<Response<v1::GetTargetResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }
}

/// dbkeepd's own settings of the transport (`server/src/grpc/mod.rs`), so that what differs is what happens in between.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// The same.
const STREAMS_PER_CONNECTION: u32 = 1_024;

/// Serves what dbkeepd answers, and nothing else, until standard input closes: the other side of the bare contender.
pub(crate) async fn serve_bare(answer: &Path) -> Result<()> {
    let answer = v1::ListTargetsResponse::decode(&std::fs::read(answer)?[..])?;
    let service = TargetServiceServer::new(Bare(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let closed = CancellationToken::new();
    let closing = closed.clone();
    tokio::task::spawn_blocking(move || {
        // The end of the input, or an error on it, means that the benchmark is gone.
        let _ = std::io::stdin().read_line(&mut String::new());
        closing.cancel();
    });
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tonic::transport::Server::builder()
        .accept_http1(true)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(service);
    Ok(server
        .serve_with_incoming_shutdown(incoming, closed.cancelled_owned())
        .await?)
}

async fn connect(address: &str, connections: usize) -> Result<Vec<Channel>> {
    let mut channels = Vec::new();
    for _ in 0..connections {
        channels.push(Endpoint::from_shared(format!("http://{address}"))?.connect().await?);
    }
    Ok(channels)
}

/// Calls a second.
async fn rate<F>(channels: &[Channel], arguments: &Arguments, call: impl Fn(Channel) -> F) -> Result<f64>
where
    F: Future<Output = Result<u64>> + Send + 'static,
{
    let began = Instant::now();
    let callers: Vec<_> = (0..arguments.open)
        .map(|number| tokio::spawn(call(channels[number % channels.len()].clone())))
        .collect();
    let mut calls = 0;
    for caller in callers {
        calls += caller.await??;
    }
    #[expect(clippy::cast_precision_loss, reason = "some thousands of calls")]
    let calls = calls as f64;
    Ok(calls / began.elapsed().as_secs_f64())
}

fn header(token: Option<&str>) -> Result<Option<MetadataValue<Ascii>>> {
    token.map(|token| Ok(format!("Bearer {token}").parse()?)).transpose()
}

fn request<T>(message: T, token: Option<&MetadataValue<Ascii>>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", token.clone());
    }
    request
}

/// Lists targets for a while.
async fn look(channels: &[Channel], arguments: &Arguments, token: Option<&str>) -> Result<f64> {
    let (token, time) = (header(token)?, Duration::from_secs(arguments.seconds));
    rate(channels, arguments, |channel| {
        let token = token.clone();
        async move {
            let mut service = TargetServiceClient::new(channel);
            let (until, mut calls) = (Instant::now() + time, 0);
            while Instant::now() < until {
                service
                    .list_targets(request(v1::ListTargetsRequest {}, token.as_ref()))
                    .await?;
                calls += 1;
            }
            Ok(calls)
        }
    })
    .await
}

/// Revokes a token that is not there for a while: the least that a recorded call does beside its records.
async fn act(channels: &[Channel], arguments: &Arguments, token: &str) -> Result<f64> {
    let (token, time) = (header(Some(token))?, Duration::from_secs(arguments.seconds));
    rate(channels, arguments, |channel| {
        let token = token.clone();
        async move {
            let mut service = AccessServiceClient::new(channel);
            let (until, mut calls) = (Instant::now() + time, 0);
            while Instant::now() < until {
                let message = v1::RevokeTokenRequest { id: "nobody".to_owned() };
                let answer = service.revoke_token(request(message, token.as_ref())).await;
                anyhow::ensure!(
                    answer.is_err_and(|status| status.code() == tonic::Code::NotFound),
                    "there is no such token"
                );
                calls += 1;
            }
            Ok(calls)
        }
    })
    .await
}

pub(crate) async fn run(arguments: &Arguments, rounds: u32) -> Result<()> {
    println!(
        "bench-db calls --open {} --connections {} --seconds {} --rounds {rounds}",
        arguments.open, arguments.connections, arguments.seconds
    );
    let folder = tempfile::tempdir()?;
    let database = folder.path().join("bench.db");
    std::fs::write(&database, [])?;
    let data = folder.path().join("data");
    let server = Server::start_with(&data, &format!("sqlite://{}", database.display()), "", None).await?;
    let ours = connect(&server.address, arguments.connections).await?;
    // It listens before it has begun; an answer says that it has. The bare server answers with the same message.
    let mut service = TargetServiceClient::new(ours[0].clone());
    let answer = service.list_targets(v1::ListTargetsRequest {}).await?.into_inner();
    anyhow::ensure!(answer.targets.len() == 1, "one target is served");
    let token = std::fs::read_to_string(data.join("admin-token")).context("the first token")?;
    let token = token.trim();
    let file = folder.path().join("answer");
    std::fs::write(&file, answer.encode_to_vec())?;
    let bare = Server::start_bare(&file)?;
    let theirs = connect(bare.address(), arguments.connections).await?;
    let [mut plain, mut carrying, mut loopback, mut by_token, mut acting] = [const { Series::new() }; 5];
    for _ in 0..rounds {
        plain.push(look(&theirs, arguments, None).await?);
        carrying.push(look(&theirs, arguments, Some(token)).await?);
        loopback.push(look(&ours, arguments, None).await?);
        by_token.push(look(&ours, arguments, Some(token)).await?);
        acting.push(act(&ours, arguments, token).await?);
    }
    line("bare tonic server, calls a second", &plain, "/s");
    line("the same, with a token's header that nobody reads", &carrying, "/s");
    line("dbkeepd, caller on loopback", &loopback, "/s");
    line("dbkeepd, caller with a token", &by_token, "/s");
    line("dbkeepd, recorded calls (two records each)", &acting, "/s");
    ratio("loopback / token", &loopback.ratios(&by_token), 1.1);
    ratio("bare / token", &plain.ratios(&by_token), 1.1);
    Ok(())
}
