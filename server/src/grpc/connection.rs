//! Connections: a TCP stream with what tonic leaves out. It sends without delay, must show an HTTP/2 handshake within a time
//! limit, and can be cut when the server does not wait for its client any longer. From the handshake on, HTTP/2 keepalive finds
//! clients that are gone. Called by the transport's accept loop.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Sleep, sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Time for the handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// What a client sends at the least to begin: the preface (24 bytes) and the header of its settings frame (9 bytes).
const HANDSHAKE_BYTES: usize = 33;
/// Pause after a connection could not be accepted, for example because every file descriptor is taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections for as long as it is polled; `cut` ends those that it accepted.
pub(super) fn accept(listener: TcpListener, cut: CancellationToken) -> impl Stream<Item = io::Result<Connection>> + Send {
    futures::stream::unfold((listener, cut), |(listener, cut)| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Without it, small events wait for the acknowledgement of earlier ones: about 40 ms.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "a connection was gone before it was served");
                        continue;
                    }
                    return Some((Ok(Connection::new(stream, &cut, HANDSHAKE_TIME)), (listener, cut)));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

/// A client's connection.
pub(super) struct Connection {
    stream: TcpStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Bytes that the handshake still lacks, and until when; `None` once it is there.
    handshake: Option<(usize, Pin<Box<Sleep>>)>,
}

impl Connection {
    fn new(stream: TcpStream, cut: &CancellationToken, handshake_time: Duration) -> Self {
        let handshake = Some((HANDSHAKE_BYTES, Box::pin(sleep(handshake_time))));
        Self {
            stream,
            cut: Box::pin(cut.clone().cancelled_owned()),
            handshake,
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
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
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
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
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
        (client, Connection::new(stream, cut, handshake_time))
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
