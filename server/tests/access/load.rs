//! What waits, and what is too much, over real sockets: calls above those that are worked on, and connections that never begin.

use std::time::{Duration, Instant};

use bytes::Bytes;
use dbkeep_client::proto as v1;
use dbkeep_server::config::access::{AccessConfig, CallLimits};
use prost::Message as _;
use sqlx::{Connection as _, Executor as _, SqliteConnection};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::world::{Authority, PATIENCE, SEEN, Way, World, call};

const CALLER: &str = "/dbkeep.v1.AccessService/GetCaller";
/// The time that a connection has for each handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn above_what_is_worked_on_a_call_is_told_when_to_come_again() {
    let world = World::with(Authority::new(), |config| AccessConfig {
        calls: CallLimits {
            working: 1,
            per_second: 0,
            ..CallLimits::default()
        },
        ..config
    })
    .await;
    let channel = world.channel().await;
    let way = Way::Token(world.admin());
    // Whoever reads this database waits for its holder.
    let url = format!("sqlite://{}", world.folder.path().join(format!("{SEEN}.db")).display());
    let mut holder = SqliteConnection::connect(&url).await.expect("a database");
    holder.execute("BEGIN EXCLUSIVE").await.expect("held");
    let plan = v1::PlanCleanupRequest {
        target: SEEN.to_owned(),
        operations: vec![format!("expired_{SEEN}")],
    };
    let working = tokio::spawn({
        let (channel, way) = (channel.clone(), way.clone());
        async move {
            let message = Bytes::from(plan.encode_to_vec());
            call(&channel, "/dbkeep.v1.CleanupService/PlanCleanup", false, message, &way).await
        }
    });
    let refused = timeout(PATIENCE, async {
        loop {
            // Until the other has its place.
            if let Err(status) = call(&channel, CALLER, false, Bytes::new(), &way).await {
                return status;
            }
        }
    });
    let refused = refused.await.expect("in time");
    assert!(!working.is_finished(), "it is still worked on");
    let details = refused.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone());
    assert_eq!((refused.code(), reason.as_deref()), (Code::Unavailable, Some("OVERLOADED")));
    let again = details
        .retry_info()
        .and_then(|info| info.retry_delay)
        .expect("when to come again");
    assert!(again > Duration::ZERO && again <= Duration::from_secs(60), "{again:?}");
    holder.execute("COMMIT").await.expect("let go");
    holder.close().await.expect("an end");
    let worked = timeout(PATIENCE, working).await.expect("in time").expect("no panic");
    worked.expect("it was worked on all the time");
    call(&channel, CALLER, false, Bytes::new(), &way)
        .await
        .expect("a place again");
    world.stop().await;
}

/// Reads until the server ends the connection, which it has to do about when its time is over.
async fn let_go(mut stream: TcpStream, since: Instant, what: &str) {
    let mut sink = Vec::new();
    // That it is reset rather than closed is as good.
    let ended = timeout(PATIENCE, stream.read_to_end(&mut sink)).await;
    drop(ended.unwrap_or_else(|_| panic!("{what} stays")));
    let took = since.elapsed();
    assert!(
        took + Duration::from_secs(1) >= HANDSHAKE_TIME,
        "{what} was let go after {took:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_end_a_tls_handshake_is_let_go() {
    let world = World::start().await;
    let since = Instant::now();
    let silent = TcpStream::connect(world.address).await.expect("a connection");
    let mut halfway = TcpStream::connect(world.address).await.expect("a connection");
    // The header of a record, and of a ClientHello that never comes.
    halfway
        .write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3])
        .await
        .expect("written");
    let silent = tokio::spawn(let_go(silent, since, "a connection that says nothing"));
    let halfway = tokio::spawn(let_go(halfway, since, "a handshake that is begun"));
    // Nobody waits for them meanwhile.
    let channel = timeout(HANDSHAKE_TIME / 2, world.channel()).await.expect("in time");
    call(&channel, CALLER, false, Bytes::new(), &Way::Token(world.admin()))
        .await
        .expect("served");
    silent.await.expect("let go");
    halfway.await.expect("let go");
    world.stop().await;
}
