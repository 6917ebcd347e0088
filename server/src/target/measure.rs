//! How far a program or a statement is that writes one file: by the size of that file. Knows no database; the adapters call it.

use std::{path::Path, time::Duration};

use dbkeep_engine::port::Watch;

/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_millis(300);

/// Waits for `writing` and says meanwhile how large `path` has become, of about `total` bytes.
pub(super) async fn growing<T>(path: &Path, total: u64, phase: &str, watch: &Watch, writing: impl Future<Output = T>) -> T {
    let mut writing = std::pin::pin!(writing);
    loop {
        tokio::select! {
            biased;
            done = &mut writing => return done,
            () = tokio::time::sleep(INTERVAL) => {
                // A file that cannot be looked at is no reason to stop; whoever writes it will say so.
                let bytes = tokio::fs::metadata(path).await.map_or(0, |found| found.len());
                watch.say(phase, "", bytes, total.max(bytes), "bytes");
            }
        }
    }
}
