//! A pool of one session between clients and PostgreSQL, as poolers in transaction mode are: whoever begins gets the session, and the next one
//! has it as soon as no transaction is open. What a client sets for its session is set for all. Named statements stay a client's own, as good
//! poolers see to; more of the protocol is not understood.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Mutex,
    task::JoinHandle,
};

use crate::proxy::parts;

/// The protocol's version in the first message of a session.
const VERSION: [u8; 4] = 196_608_u32.to_be_bytes();
/// What asks for encryption instead.
const ENCRYPTION: [u8; 4] = 80_877_103_u32.to_be_bytes();

/// The pool. Dropped, it takes no further client.
pub struct Pooler {
    url: String,
    accepting: JoinHandle<()>,
}

impl Pooler {
    /// In front of the server of this URL, which is reached by TCP, without TLS and without a password.
    ///
    /// # Errors
    /// Where no port is free, the URL names no host and port, or the server does not let its user in.
    pub async fn before(url: &str) -> Result<Self> {
        let (scheme, user, server, path) = parts(url)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let own = format!("{scheme}://{user}@{}/{path}", listener.local_addr()?);
        let (session, greeting) = begin(server, user, path.split('?').next().unwrap_or_default()).await?;
        let (session, greeting) = (Arc::new(Mutex::new(session)), Arc::new(greeting));
        let clients = AtomicUsize::new(0);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = clients.fetch_add(1, Ordering::Relaxed);
                // A client that goes away without a word ends its own task alone.
                tokio::spawn(serve(client, number, Arc::clone(&session), Arc::clone(&greeting)));
            }
        });
        Ok(Self { url: own, accepting })
    }

    /// The URL by which clients come through it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Begins the session; returns it with all that the server says until it is ready.
async fn begin(server: &str, user: &str, database: &str) -> Result<(TcpStream, Vec<u8>)> {
    let mut session = TcpStream::connect(server).await?;
    session.set_nodelay(true)?;
    let user = user.split(':').next().unwrap_or(user);
    let mut body = VERSION.to_vec();
    body.extend(format!("user\0{user}\0database\0{database}\0\0").into_bytes());
    let length = u32::try_from(body.len() + 4)?;
    session.write_all(&[&length.to_be_bytes()[..], &body[..]].concat()).await?;
    let mut greeting = Vec::new();
    loop {
        let message = message(&mut session).await?;
        ensure!(message[0] != b'E', "{}", String::from_utf8_lossy(&message));
        greeting.extend(&message);
        if message[0] == b'Z' {
            return Ok((session, greeting));
        }
    }
}

/// A message with its type and its length.
async fn message(from: &mut TcpStream) -> Result<Vec<u8>> {
    let mut message = vec![from.read_u8().await?];
    let length = from.read_u32().await?;
    message.extend(length.to_be_bytes());
    message.resize(usize::try_from(length)? + 1, 0);
    from.read_exact(&mut message[5..]).await?;
    Ok(message)
}

async fn serve(mut client: TcpStream, number: usize, session: Arc<Mutex<TcpStream>>, greeting: Arc<Vec<u8>>) -> Result<()> {
    client.set_nodelay(true)?;
    loop {
        let length = usize::try_from(client.read_u32().await?)?;
        let mut first = vec![0; length.checked_sub(4).context("a length")?];
        client.read_exact(&mut first).await?;
        if first.starts_with(&VERSION) {
            break;
        }
        ensure!(first.starts_with(&ENCRYPTION), "neither a session nor a wish for encryption");
        client.write_all(b"N").await?;
    }
    client.write_all(&greeting).await?;
    loop {
        let asked = message(&mut client).await?;
        if asked[0] == b'X' {
            return Ok(());
        }
        let mut session = session.lock().await;
        carry(&mut client, &mut session, number, asked).await?;
    }
}

/// Carries one transaction from its first message to its end.
async fn carry(client: &mut TcpStream, session: &mut TcpStream, number: usize, mut asked: Vec<u8>) -> Result<()> {
    loop {
        let ends = matches!(asked[0], b'Q' | b'S');
        session.write_all(&own_names(asked, number)?).await?;
        if ends {
            loop {
                let answer = message(session).await?;
                client.write_all(&answer).await?;
                if answer[0] == b'Z' {
                    if answer.last() == Some(&b'I') {
                        return Ok(());
                    }
                    break;
                }
            }
        }
        match message(client).await {
            Ok(next) if next[0] != b'X' => asked = next,
            // Whoever goes in the middle of a transaction takes it back.
            gone => {
                let rollback = b"Q\0\0\0\x0dROLLBACK\0";
                session.write_all(rollback).await?;
                while message(session).await?[0] != b'Z' {}
                gone?;
                return Ok(());
            }
        }
    }
}

/// The message with the client's number before the name of its statement.
fn own_names(asked: Vec<u8>, number: usize) -> Result<Vec<u8>> {
    let after_text = |from: usize| {
        let rest = asked.get(from..).unwrap_or_default();
        let length = rest.iter().position(|byte| *byte == 0).context("the end of a text")?;
        anyhow::Ok(from + length + 1)
    };
    let at = match asked[0] {
        b'P' => 5,
        b'B' => after_text(5)?,
        b'D' | b'C' if asked.get(5) == Some(&b'S') => 6,
        _ => return Ok(asked),
    };
    if asked.get(at) == Some(&0) {
        return Ok(asked);
    }
    let name = format!("c{number}_").into_bytes();
    let length = u32::try_from(asked.len() - 1 + name.len())?;
    Ok([&asked[..1], &length.to_be_bytes()[..], &asked[5..at], &name[..], &asked[at..]].concat())
}
