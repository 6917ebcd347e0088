//! Connections: a TCP stream with what tonic leaves out. It sends without delay, speaks TLS where the server does, must show an HTTP/2
//! handshake within a time limit, and can be cut when the server does not wait for its client any longer. From the handshake on, HTTP/2
//! keepalive finds clients that are gone. Called by the transport's accept loop.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{Stream, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::access::{self, Peer, Tls};

/// Time for each of the handshakes, of TLS and of HTTP/2.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// What a client sends at the least to begin: the preface (24 bytes) and the header of its settings frame (9 bytes).
const HANDSHAKE_BYTES: usize = 33;
/// Pause after a connection could not be accepted, for example because every file descriptor is taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What connections are accepted with.
pub(super) struct Accept {
    /// Certificates; `None` for plain connections.
    pub(super) tls: Option<Arc<Tls>>,
    /// Most connections at a time; 0 for no limit.
    pub(super) most: usize,
    /// Ends those that were accepted.
    pub(super) cut: CancellationToken,
}

/// Accepts connections for as long as it is polled.
pub(super) fn accept(listener: TcpListener, accept: Accept) -> impl Stream<Item = io::Result<Connection>> + Send {
    let most = if accept.most == 0 {
        Semaphore::MAX_PERMITS
    } else {
        accept.most
    };
    let places = Arc::new(Semaphore::new(most));
    let accepted = futures::stream::unfold((listener, places), |(listener, places)| async move {
        loop {
            // Whoever finds no place waits in the system's queue, and after that is refused by it.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return None;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Without it, small events wait for the acknowledgement of earlier ones: about 40 ms.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "a connection was gone before it was served");
                        continue;
                    }
                    return Some(((stream, place), (listener, places)));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    secured(Box::pin(accepted), accept)
}

type Accepted = (TcpStream, OwnedSemaphorePermit);

/// Speaks TLS where it is spoken; nobody waits for the handshake of another.
fn secured(
    accepted: Pin<Box<dyn Stream<Item = Accepted> + Send>>,
    accept: Accept,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    type Handshakes = FuturesUnordered<BoxFuture<'static, Option<Connection>>>;

    futures::stream::unfold(
        (accepted, Handshakes::new(), accept),
        |(mut accepted, mut handshakes, accept)| async move {
            loop {
                tokio::select! {
                    Some(done) = handshakes.next(), if !handshakes.is_empty() => {
                        if let Some(connection) = done {
                            return Some((Ok(connection), (accepted, handshakes, accept)));
                        }
                    }
                    next = accepted.next() => {
                        let (stream, place) = next?;
                        handshakes.push(begin(stream, place, &accept));
                    }
                }
            }
        },
    )
}

fn begin(stream: TcpStream, place: OwnedSemaphorePermit, accept: &Accept) -> BoxFuture<'static, Option<Connection>> {
    let cut = accept.cut.clone();
    let Some(tls) = &accept.tls else {
        return Box::pin(async move { Some(Connection::new(Transport::Plain(stream), place, &cut, HANDSHAKE_TIME)) });
    };
    let acceptor = tls.acceptor();
    Box::pin(async move {
        let peer = stream.peer_addr().ok();
        match timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Some(Connection::new(Transport::Tls(Box::new(stream)), place, &cut, HANDSHAKE_TIME)),
            Ok(Err(error)) => {
                tracing::debug!(?peer, %error, "no TLS with a client");
                None
            }
            Err(_) => {
                tracing::debug!(?peer, "a client did not end its TLS handshake in time");
                None
            }
        }
    })
}

/// What carries a connection.
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

/// Calls a method of the stream that there is.
macro_rules! on {
    ($transport:expr, $method:ident $(, $argument:expr)*) => {
        match &mut $transport {
            Transport::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Transport::Tls(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

/// A client's connection.
pub(super) struct Connection {
    stream: Transport,
    peer: Peer,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Bytes that the handshake still lacks, and until when; `None` once it is there.
    handshake: Option<(usize, Pin<Box<Sleep>>)>,
    /// Given back when the connection is dropped.
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: Transport, place: OwnedSemaphorePermit, cut: &CancellationToken, handshake_time: Duration) -> Self {
        let handshake = Some((HANDSHAKE_BYTES, Box::pin(sleep(handshake_time))));
        let names = match &stream {
            Transport::Plain(_) => None,
            Transport::Tls(stream) => access::names(stream),
        };
        let tcp = stream.tcp();
        Self {
            peer: Peer::new(tcp.peer_addr().ok(), tcp.local_addr().ok(), names),
            stream,
            cut: Box::pin(cut.clone().cancelled_owned()),
            handshake,
            _place: place,
        }
    }

    /// Whether the connection may go on; wakes the task when that changes.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server has shut down"));
        }
        if let Some((_, limit)) = &mut self.handshake
            && limit.as_mut().poll(context).is_ready()
        {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no HTTP/2 handshake in time"));
        }
        Ok(())
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        let before = buffer.filled().len();
        ready!(on!(self.stream, poll_read, context, buffer))?;
        let read = buffer.filled().len() - before;
        self.handshake = match self.handshake.take() {
            Some((missing, limit)) if missing > read => Some((missing - read, limit)),
            _ => None,
        };
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        on!(self.stream, poll_write, context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        on!(self.stream, poll_flush, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        on!(self.stream, poll_shutdown, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        on!(self.stream, poll_write_vectored, context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn pair(cut: &CancellationToken, handshake_time: Duration) -> (TcpStream, Connection) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address"))
            .await
            .expect("a connection");
        let (stream, _) = listener.accept().await.expect("a connection");
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a place");
        (client, Connection::new(Transport::Plain(stream), place, cut, handshake_time))
    }

    #[tokio::test]
    async fn whoever_does_not_begin_in_time_is_let_go() {
        let (mut client, mut connection) = pair(&CancellationToken::new(), Duration::from_millis(20)).await;
        client.write_all(&[0; HANDSHAKE_BYTES - 1]).await.expect("written");
        let error = connection.read_to_end(&mut Vec::new()).await.expect_err("must be let go");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn whoever_has_begun_may_be_silent_until_the_server_cuts() {
        let cut = CancellationToken::new();
        let (mut client, mut connection) = pair(&cut, Duration::from_millis(20)).await;
        client.write_all(&[0; HANDSHAKE_BYTES]).await.expect("written");
        connection.read_exact(&mut [0; HANDSHAKE_BYTES]).await.expect("read");
        let silent = tokio::time::timeout(Duration::from_millis(60), connection.read_u8()).await;
        assert!(silent.is_err(), "the handshake's limit is over: {silent:?}");
        cut.cancel();
        let error = connection.read_u8().await.expect_err("must be cut");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
}
