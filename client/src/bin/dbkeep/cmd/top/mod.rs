//! `dbkeep top`: the service while it works, looked at again and again.
//!
//! Owns the pace, and what is known between two looks. What it looks like is in `frame.rs`, how it stands on a terminal in `screen.rs`. Called
//! by `main.rs`.
//!
//! ```text
//! GetStatus, every --interval --+
//!                               +-> Seen -> frame::tables  (terminal: drawn anew, a picture)
//! WatchMetrics, as it comes ----+        -> frame::lines   (elsewhere: lines that a person or grep reads)
//!                                        -> frame::json    (-o json: one object a look)
//! ```

mod frame;
mod screen;

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _},
    pin::pin,
    time::Duration,
};

use clap::Args;
use dbkeep_client::{Error, proto};
use futures::TryStreamExt as _;
use jiff::Timestamp;
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use self::screen::Screen;
use crate::{duration::Span, exit::Exit, session::Session};

/// Arguments of `top`.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Time between two looks.
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    interval: Span,
    /// Look so many times, then end [default: until q or Ctrl-C].
    #[arg(long, value_name = "LOOKS", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
}

/// The newest metrics of each target.
type Metrics = BTreeMap<String, proto::TargetMetrics>;

/// What is known at a look.
struct Seen {
    at: Timestamp,
    status: proto::GetStatusResponse,
    metrics: Metrics,
    /// Why the look failed; what stands beside it is older then.
    problem: Option<String>,
}

/// Follows the metrics of all targets.
struct Follower {
    newest: watch::Receiver<Metrics>,
    task: JoinHandle<()>,
}

impl Follower {
    /// Gives up where the server refuses; there are no metrics then, and the looks say what there is to say of the server.
    fn new(session: &Session) -> Self {
        let (known, newest) = watch::channel(Metrics::new());
        let stream = session.client.monitoring().watch_metrics("", 0);
        let task = tokio::spawn(async move {
            let mut stream = pin!(stream);
            while let Ok(Some(message)) = stream.try_next().await {
                let Some(metrics) = message.metrics else { continue };
                known.send_modify(|known| {
                    known.insert(metrics.target.clone(), metrics);
                });
            }
        });
        Self { newest, task }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Top {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let interval: Duration = self.interval.into();
        let follower = Follower::new(session);
        let mut seen = Seen {
            at: Timestamp::now(),
            // A server that refuses, or is not there, at the first look is no reason to wait for it.
            status: session.client.monitoring().status().await?,
            metrics: Metrics::new(),
            problem: None,
        };
        let mut screen = if !session.output.is_json() && io::stdout().is_terminal() {
            Some(Screen::open()?)
        } else {
            None
        };
        let mut looks = 0;
        loop {
            let next = Instant::now() + interval;
            seen.at = Timestamp::now();
            seen.metrics.clone_from(&follower.newest.borrow());
            match &mut screen {
                Some(screen) => screen.draw(&frame::tables(&seen, session))?,
                None if session.output.is_json() => session.output.json(&frame::json(&seen))?,
                None => {
                    for line in frame::lines(&seen) {
                        session.output.line(crate::output::printable(&line))?;
                    }
                }
            }
            looks += 1;
            if self.count.is_some_and(|count| looks >= count) {
                return Ok(Exit::Success);
            }
            if !wait(&mut screen, next).await? {
                return Ok(Exit::Success);
            }
            match session.client.monitoring().status().await {
                Ok(status) => (seen.status, seen.problem) = (status, None),
                // Somebody watches: what was seen last stays, and the next look tells of the server's return.
                Err(error) if is_passing(&error) => seen.problem = Some(error.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn is_passing(error: &Error) -> bool {
    error.is_unavailable() || matches!(error, Error::Deadline { .. })
}

/// Waits for the next look; false where the person at the terminal wants no other.
async fn wait(screen: &mut Option<Screen>, next: Instant) -> io::Result<bool> {
    match screen {
        Some(screen) => screen.wait(next).await,
        None => tokio::select! {
            () = tokio::time::sleep_until(next) => Ok(true),
            ended = tokio::signal::ctrl_c() => ended.map(|()| false),
        },
    }
}
