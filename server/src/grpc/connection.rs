//! Connections: a TCP stream with what tonic leaves out. It sends without delay, speaks TLS where the server does, must show an HTTP/2
//! handshake within a time limit, and can be cut when the server does not wait for its client any longer. From the handshake on, HTTP/2
//! keepalive finds clients that are gone. Called by the transport's accept loop.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
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

use super::calls::network;
use crate::access::{self, Peer, Tls};

/// Time for each of the handshakes, of TLS and of HTTP/2.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// What a client sends at the least to begin: the preface (24 bytes) and the header of its settings frame (9 bytes).
const HANDSHAKE_BYTES: usize = 33;
/// How long a connection may be open on which nobody has said who he is.
const STRANGER_TIME: Duration = Duration::from_secs(120);
/// The share of all connections that one address may have, unless it is this machine: one of so many.
const SHARE: usize = 4;
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
    let addresses = Addresses {
        most: share(most),
        open: Arc::default(),
    };
    let accepted = futures::stream::unfold((listener, places, addresses), |(listener, places, addresses)| async move {
        loop {
            // Whoever finds no place waits in the system's queue, and after that is refused by it.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return None;
            };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let Some(place) = addresses.place(peer.ip(), place) else {
                        tracing::debug!(%peer, "refused: its address has its share of connections");
                        continue;
                    };
                    // Without it, small events wait for the acknowledgement of earlier ones: about 40 ms.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "a connection was gone before it was served");
                        continue;
                    }
                    return Some(((stream, place), (listener, places, addresses)));
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

/// How many of all connections one address may have. Of very few it has one: otherwise no other machine had any.
fn share(most: usize) -> usize {
    (most / SHARE).max(1)
}

/// Connections by address; of IPv6, by network.
struct Addresses {
    /// Most of one address.
    most: usize,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Addresses {
    /// A place for a connection of that address; `None` where it has its share.
    fn place(&self, address: IpAddr, place: OwnedSemaphorePermit) -> Option<Place> {
        let is_here = address.to_canonical().is_loopback();
        let address = network(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= self.most && !is_here {
            return None;
        }
        *count += 1;
        Some(Place {
            address,
            open: Arc::clone(&self.open),
            _place: place,
        })
    }
}

/// The place of a connection, given back when it is dropped.
struct Place {
    address: IpAddr,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

type Accepted = (TcpStream, Place);

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

fn begin(stream: TcpStream, place: Place, accept: &Accept) -> BoxFuture<'static, Option<Connection>> {
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
    peer: Arc<Peer>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Bytes that the handshake still lacks, and until when; `None` once it is there.
    handshake: Option<(usize, Pin<Box<Sleep>>)>,
    /// When it ends, unless somebody has said who he is by then; `None` once he has.
    stranger: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

impl Connection {
    fn new(stream: Transport, place: Place, cut: &CancellationToken, handshake_time: Duration) -> Self {
        let handshake = Some((HANDSHAKE_BYTES, Box::pin(sleep(handshake_time))));
        let certificate = match &stream {
            Transport::Plain(_) => None,
            Transport::Tls(stream) => access::client(stream),
        };
        let tcp = stream.tcp();
        Self {
            peer: Arc::new(Peer::new(tcp.peer_addr().ok(), tcp.local_addr().ok(), certificate)),
            stream,
            cut: Box::pin(cut.clone().cancelled_owned()),
            handshake,
            stranger: Some(Box::pin(sleep(STRANGER_TIME))),
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
        if self.peer.is_known() {
            self.stranger = None;
        }
        if let Some(limit) = &mut self.stranger
            && limit.as_mut().poll(context).is_ready()
        {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody has said who he is"));
        }
        Ok(())
    }

    /// Ends a connection that may not go on, where there is nothing to read or write just now. That is soon enough: tokio makes every task wait now and
    /// then, also one whose socket is always ready. Looked at with every frame, what all connections share would cost each call.
    fn or_end<T>(&mut self, polled: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_pending() {
            self.check(context)?;
        }
        polled
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = on!(self.stream, poll_read, context, buffer);
        ready!(self.or_end(polled, context))?;
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
        let polled = on!(self.stream, poll_write, context, buffer);
        self.or_end(polled, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = on!(self.stream, poll_flush, context);
        self.or_end(polled, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        on!(self.stream, poll_shutdown, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = on!(self.stream, poll_write_vectored, context, buffers);
        self.or_end(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
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
        let addresses = Addresses {
            most: 1,
            open: Arc::default(),
        };
        let place = addresses
            .place(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), place)
            .expect("a place");
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
    async fn one_address_does_not_take_all_places() {
        let addresses = Addresses {
            most: 2,
            open: Arc::default(),
        };
        let permit = || Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a place");
        let far: IpAddr = "10.0.0.1".parse().expect("an address");
        let first = addresses.place(far, permit()).expect("a place");
        let second = addresses.place("::ffff:10.0.0.1".parse().expect("an address"), permit());
        assert!(second.is_some() && addresses.place(far, permit()).is_none());
        assert!(addresses.place("10.0.0.2".parse().expect("an address"), permit()).is_some());
        drop((first, second));
        assert!(addresses.place(far, permit()).is_some());
        // A host of IPv6 has a whole network of addresses.
        let at = |text: &str| text.parse::<IpAddr>().expect("an address");
        let first = addresses.place(at("2001:db8::1"), permit()).expect("a place");
        let second = addresses.place(at("2001:db8::2"), permit()).expect("a place");
        assert!(addresses.place(at("2001:db8::3:4"), permit()).is_none());
        assert!(addresses.place(at("2001:db8:0:1::1"), permit()).is_some());
        drop((first, second));
        for here in ["127.0.0.1", "::1"] {
            let ours: Vec<_> = (0..9).map(|_| addresses.place(at(here), permit())).collect();
            assert!(ours.iter().all(Option::is_some));
        }
        assert!(addresses.open.lock().expect("the lock").is_empty());
    }

    #[test]
    fn of_few_connections_another_machine_has_one() {
        assert_eq!([1, 3, 4, 8, 4_096].map(share), [1, 1, 1, 2, 1_024]);
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
