//! Feeds: event logs on their way to watchers. The store holds every event; a feed keeps the newest ones in memory, so that
//! thousands of watchers of a run cost the store nothing, and tells them when there is more.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    EngineError,
    model::{Event, EventBody, RunId},
    port::Store,
};

/// Events that a feed keeps in memory.
const RING_EVENTS: usize = 512;
/// Events read from the store at a time.
const PAGE_EVENTS: u32 = 500;
/// A watcher that is further behind than this gets progress coalesced.
const BEHIND_EVENTS: usize = 16;
/// How often the store is asked for events of a run that this server does not work on.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// What a watcher gets.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchItem {
    /// The next event.
    Event {
        /// The event.
        event: Arc<Event>,
        /// Progress events left out just before it.
        coalesced: u64,
    },
    /// The events asked for were trimmed; `first` is the oldest that is kept, and the next item.
    HistoryLost {
        /// Its sequence.
        first: u64,
    },
}

struct Feed {
    ring: Mutex<VecDeque<Arc<Event>>>,
    latest: watch::Sender<u64>,
}

impl Feed {
    fn publish(&self, events: impl IntoIterator<Item = Event>) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            let expected = ring.back().map(|last| last.sequence + 1);
            match expected {
                Some(expected) if event.sequence < expected => continue,
                // Another server wrote in between: watchers read that stretch from the store.
                Some(expected) if event.sequence > expected => ring.clear(),
                _ => {}
            }
            if ring.len() == RING_EVENTS {
                ring.pop_front();
            }
            ring.push_back(Arc::new(event));
        }
        if let Some(last) = ring.back() {
            let sequence = last.sequence;
            self.latest
                .send_if_modified(|latest| std::mem::replace(latest, sequence.max(*latest)) < sequence);
        }
    }

    /// Events after `sequence` from memory; `None` where the next one is not there.
    fn after(&self, sequence: u64) -> Option<Vec<Arc<Event>>> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let first = ring.front()?.sequence;
        if sequence + 1 < first {
            return None;
        }
        let skip = usize::try_from(sequence + 1 - first).unwrap_or(usize::MAX);
        Some(ring.iter().skip(skip).cloned().collect())
    }
}

/// The feeds of a server.
pub struct Feeds {
    store: Arc<dyn Store>,
    feeds: Mutex<HashMap<RunId, Weak<Feed>>>,
}

impl Feeds {
    /// Feeds over this store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            store,
            feeds: Mutex::new(HashMap::new()),
        })
    }

    /// Hands events that the store has written to the run's watchers, if there are any.
    pub fn publish(&self, run: RunId, events: Vec<Event>) {
        let feed = self
            .feeds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&run)
            .and_then(Weak::upgrade);
        if let Some(feed) = feed {
            feed.publish(events);
        }
    }

    /// Tells the run's watchers that the store has events up to this one, written by an act that hands none out.
    pub fn announce(&self, run: RunId, sequence: u64) {
        let feed = self
            .feeds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&run)
            .and_then(Weak::upgrade);
        if let Some(feed) = feed {
            let mut ring = feed.ring.lock().unwrap_or_else(PoisonError::into_inner);
            if ring.back().is_some_and(|last| last.sequence < sequence) {
                // Memory no longer holds the newest events, so that watchers must go to the store.
                ring.clear();
            }
            drop(ring);
            feed.latest
                .send_if_modified(|latest| std::mem::replace(latest, sequence.max(*latest)) < sequence);
        }
    }

    /// The feed of a run; the first watcher makes it, and with the last one it goes.
    fn feed(self: &Arc<Self>, run: RunId) -> Arc<Feed> {
        let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(feed) = feeds.get(&run).and_then(Weak::upgrade) {
            return feed;
        }
        feeds.retain(|_, feed| feed.strong_count() > 0);
        let feed = Arc::new(Feed {
            ring: Mutex::default(),
            latest: watch::Sender::new(0),
        });
        feeds.insert(run, Arc::downgrade(&feed));
        tokio::spawn(poll(Arc::clone(&self.store), run, Arc::downgrade(&feed)));
        feed
    }

    /// Follows a run's log after a sequence until the run's last event. Items come without gap or repeat, and a watcher that
    /// does not read never holds the run up. `whole` is for a log that is over: it is read for what it says, not followed, so
    /// that nothing in it is coalesced.
    pub fn watch(
        self: &Arc<Self>,
        run: RunId,
        after: u64,
        whole: bool,
        shutdown: CancellationToken,
    ) -> impl futures::Stream<Item = Result<WatchItem, EngineError>> + Send + use<> {
        let feeds = Arc::clone(self);
        let feed = self.feed(run);
        let watcher = Watcher {
            latest: feed.latest.subscribe(),
            feeds,
            feed,
            run,
            sequence: after,
            queue: VecDeque::new(),
            ended: false,
            whole,
            shutdown,
        };
        futures::stream::unfold(watcher, |mut watcher| async move {
            let item = watcher.next().await.transpose()?;
            watcher.ended |= item.is_err();
            Some((item, watcher))
        })
    }
}

/// Brings what other servers write; what this one writes comes at once through [`Feeds::publish`].
async fn poll(store: Arc<dyn Store>, run: RunId, feed: Weak<Feed>) {
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let Some(feed) = feed.upgrade() else { return };
        let mut latest = *feed.latest.borrow();
        if latest == 0 {
            // Nothing has been published here yet; watchers themselves read the past. Only what is new matters.
            match store.events(run, u64::MAX, 0).await {
                Ok(page) => latest = page.last,
                Err(_) => continue,
            }
            feed.latest
                .send_if_modified(|current| std::mem::replace(current, latest.max(*current)) < latest);
            continue;
        }
        if let Ok(page) = store.events(run, latest, PAGE_EVENTS).await {
            let ended = page.events.last().is_some_and(Event::is_last);
            feed.publish(page.events);
            if ended {
                return;
            }
        }
    }
}

struct Watcher {
    feeds: Arc<Feeds>,
    feed: Arc<Feed>,
    latest: watch::Receiver<u64>,
    run: RunId,
    sequence: u64,
    queue: VecDeque<WatchItem>,
    ended: bool,
    whole: bool,
    shutdown: CancellationToken,
}

impl Watcher {
    async fn next(&mut self) -> Result<Option<WatchItem>, EngineError> {
        loop {
            if let Some(item) = self.queue.pop_front() {
                return Ok(Some(item));
            }
            if self.ended {
                return Ok(None);
            }
            self.latest.borrow_and_update();
            let events = match self.feed.after(self.sequence) {
                Some(events) => events,
                None => {
                    let page = self.feeds.store.events(self.run, self.sequence, PAGE_EVENTS).await?;
                    if page.first_kept > self.sequence + 1 {
                        self.sequence = page.first_kept - 1;
                        self.queue.push_back(WatchItem::HistoryLost { first: page.first_kept });
                    }
                    page.events.into_iter().map(Arc::new).collect()
                }
            };
            if events.is_empty() && self.queue.is_empty() {
                tokio::select! {
                    () = self.shutdown.cancelled() => return Err(EngineError::ShuttingDown),
                    changed = self.latest.changed() => if changed.is_err() { return Ok(None) },
                }
                continue;
            }
            self.enqueue(events);
        }
    }

    fn enqueue(&mut self, events: Vec<Arc<Event>>) {
        let behind = !self.whole && events.len() > BEHIND_EVENTS;
        let mut coalesced = 0;
        let mut events = events.into_iter().peekable();
        while let Some(event) = events.next() {
            self.sequence = event.sequence;
            let progress = |event: &Event| matches!(event.body, EventBody::Progress(_) | EventBody::Maintenance(_));
            if behind && progress(&event) && events.peek().is_some_and(|next| progress(next)) {
                coalesced += 1;
                continue;
            }
            self.ended |= event.is_last();
            self.queue.push_back(WatchItem::Event { event, coalesced });
            coalesced = 0;
        }
    }
}
