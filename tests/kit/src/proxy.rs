//! A TCP proxy between a client and PostgreSQL that loses one reply: the statement reaches the server and takes effect, and then the
//! connection breaks before anybody hears of it. It understands no more of the protocol than where a message begins and ends.
//!
//! It also goes silent, as a server without power does, or a network that swallows packets: connections stay open, and nothing comes through
//! them again in either direction, not even their end.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
    task::JoinHandle,
};

/// Says of a statement, and of those that came on its connection since the last that ended a transaction, whether its reply is lost.
type Choice = Box<dyn FnMut(&str, &[String]) -> bool + Send>;

#[derive(Default)]
struct Shared {
    /// Where new connections lead, `host:port`.
    server: Mutex<String>,
    choice: Mutex<Option<Choice>>,
    lost: AtomicUsize,
    accepted: watch::Sender<usize>,
    /// How often everything that was open went silent. A connection lives as long as this is what it was when it began.
    silences: AtomicUsize,
    /// Whether new connections are silent, too.
    mute: AtomicBool,
}

/// The proxy. Dropped, it takes no further connection.
pub struct Proxy {
    url: String,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// In front of the server of this URL, which is reached by TCP and without TLS.
    ///
    /// # Errors
    /// Where no port is free, or the URL names no host and port.
    pub async fn before(url: &str) -> Result<Self> {
        let (scheme, user, server, path) = parts(url)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let own = format!("{scheme}://{user}@{}/{path}", listener.local_addr()?);
        let shared = Arc::new(Shared {
            server: Mutex::new(server.to_owned()),
            ..Shared::default()
        });
        let sharing = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                sharing.accepted.send_modify(|accepted| *accepted += 1);
                tokio::spawn(carry(client, Arc::clone(&sharing)));
            }
        });
        Ok(Self {
            url: own,
            shared,
            accepting,
        })
    }

    /// The URL by which clients come through it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Loses the reply to the next statement that is chosen, by its text and those before it in its transaction, and to no other.
    pub fn lose(&self, choice: impl FnMut(&str, &[String]) -> bool + Send + 'static) {
        *self.shared.choice.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(choice));
    }

    /// Every connection that is open goes silent, for ever; new ones come through.
    pub fn silence_open(&self) {
        self.shared.silences.fetch_add(1, Ordering::SeqCst);
    }

    /// Every connection that is open goes silent, for ever, and new ones do until [`speak`](Self::speak).
    pub fn silence(&self) {
        self.shared.mute.store(true, Ordering::SeqCst);
        self.silence_open();
    }

    /// New connections come through again. Those that went silent stay so.
    pub fn speak(&self) {
        self.shared.mute.store(false, Ordering::SeqCst);
    }

    /// New connections lead to the server of this URL from now on; those that are open stay where they are.
    ///
    /// # Errors
    /// Where the URL names no host and port.
    pub fn lead_to(&self, url: &str) -> Result<()> {
        let (_, _, server, _) = parts(url)?;
        server.clone_into(&mut self.shared.server.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    /// How many connections were accepted.
    #[must_use]
    pub fn accepted(&self) -> usize {
        *self.shared.accepted.borrow()
    }

    /// Waits until so many connections were accepted.
    pub async fn has_accepted(&self, connections: usize) {
        let mut accepted = self.shared.accepted.subscribe();
        // What it is told by lives as long as the proxy.
        drop(accepted.wait_for(|accepted| *accepted >= connections).await);
    }

    /// How many replies were lost.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.shared.lost.load(Ordering::SeqCst)
    }
}

/// Scheme, user, host and port, and the rest of a URL.
pub(crate) fn parts(url: &str) -> Result<(&str, &str, &str, &str)> {
    let (scheme, rest) = url.split_once("://").context("a scheme")?;
    let (authority, path) = rest.split_once('/').context("a database")?;
    let (user, server) = authority.rsplit_once('@').context("a user")?;
    Ok((scheme, user, server, path))
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    /// Waits for ever in a connection that went silent.
    async fn unless_silent(&self, born: usize) {
        if self.silences.load(Ordering::SeqCst) != born {
            std::future::pending::<()>().await;
        }
    }

    fn chooses(&self, sql: &str, before: &[String]) -> bool {
        let mut choice = self.choice.lock().unwrap_or_else(PoisonError::into_inner);
        let chosen = choice.as_mut().is_some_and(|choose| choose(sql, before));
        if chosen {
            *choice = None;
        }
        chosen
    }
}

/// Carries one connection until either side ends it, or its reply is lost. One that is silent is kept open for as long as the proxy's runtime lives.
async fn carry(client: TcpStream, shared: Arc<Shared>) {
    if shared.mute.load(Ordering::SeqCst) {
        let _kept = client;
        return std::future::pending().await;
    }
    let born = shared.silences.load(Ordering::SeqCst);
    let server = shared.server.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    if client.set_nodelay(true).is_err() || server.set_nodelay(true).is_err() {
        return;
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let losing = Arc::new(AtomicBool::new(false));
    let back = tokio::spawn(replies(
        from_server,
        to_client,
        Arc::clone(&losing),
        Arc::clone(&shared),
        born,
    ));
    // Whatever ends it ends both ways: halves that are dropped close their sockets.
    let mut to_server = to_server;
    let _ = requests(from_client, &mut to_server, &losing, &shared, born).await;
    shared.unless_silent(born).await;
    if !losing.load(Ordering::SeqCst) {
        back.abort();
    }
}

/// From client to server, message by message.
async fn requests(
    mut from: OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    losing: &AtomicBool,
    shared: &Shared,
    born: usize,
) -> std::io::Result<()> {
    // Messages before the session has begun have no type.
    let mut begun = false;
    let mut before: Vec<String> = Vec::new();
    loop {
        let mut message = Vec::new();
        if begun {
            message.push(from.read_u8().await?);
        }
        let length = from.read_u32().await?;
        message.extend(length.to_be_bytes());
        let start = message.len();
        message.resize(start + usize::try_from(length).unwrap_or(0).saturating_sub(4), 0);
        from.read_exact(&mut message[start..]).await?;
        if !begun {
            // The version of the protocol; requests for encryption and cancellation have numbers of their own.
            begun = message[start..].starts_with(&196_608_u32.to_be_bytes());
        } else if message[0] == b'Q' {
            let text = String::from_utf8_lossy(&message[start..]).trim_end_matches('\0').to_owned();
            if shared.chooses(&text, &before) {
                losing.store(true, Ordering::SeqCst);
            }
            if matches!(text.as_str(), "COMMIT" | "ROLLBACK") {
                before.clear();
            } else {
                before.push(text);
            }
        }
        shared.unless_silent(born).await;
        to.write_all(&message).await?;
        if losing.load(Ordering::SeqCst) {
            // The other direction closes the client once the server has answered; until then nothing is closed here.
            std::future::pending::<()>().await;
        }
    }
}

/// From server to client, until the reply that is lost.
async fn replies(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, losing: Arc<AtomicBool>, shared: Arc<Shared>, born: usize) {
    let mut buffer = vec![0_u8; 64 << 10];
    let mut swallowed = Vec::new();
    while let Ok(read) = from.read(&mut buffer).await {
        shared.unless_silent(born).await;
        if read == 0 {
            break;
        }
        if losing.load(Ordering::SeqCst) {
            swallowed.extend_from_slice(&buffer[..read]);
            // "Ready for query", whatever came before it: the server is done, and says so to nobody.
            let length = swallowed.len();
            if length >= 6 && swallowed[length - 6..length - 1] == [b'Z', 0, 0, 0, 5] {
                shared.lost.fetch_add(1, Ordering::SeqCst);
                break;
            }
        } else if to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    // The peer sees the end of the stream; what it still says goes nowhere.
    let _ = to.shutdown().await;
}
