//! The search as adapters use it: how often a database trims its edges before, on which thread it runs and when that ends, and in which
//! portions a pass gets what it found. All of it is the same for every database; what they say in SQL is theirs.

use tokio_util::sync::CancellationToken;

use super::{
    feedback::{self, Feedback, Stopped},
    graph::Edge,
};
use crate::{
    model::TableName,
    port::{TargetError, TargetErrorClass},
    share,
};

/// More edges than this are not looked at in memory: at [`feedback::BYTES_PER_EDGE`] that is 1 GiB in the worst case.
const MAX_EDGES: u64 = 8 << 20;
/// With fewer edges left no further round is worth its statement.
const FEW_EDGES: u64 = 100_000;
/// A round that takes out less than one part in this many is the last.
const WORTHWHILE: u64 = 10;

/// Rounds in which a database takes out edges that begin where none ends or end where none begins.
#[derive(Debug)]
pub struct Trimming {
    edges: u64,
    worthwhile: bool,
}

impl Trimming {
    /// Before the first round, with so many edges.
    #[must_use]
    pub fn of(edges: u64) -> Self {
        Self { edges, worthwhile: true }
    }

    /// Whether there should be another round.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.worthwhile && self.edges > FEW_EDGES
    }

    /// A round took out so many.
    pub fn took_out(&mut self, gone: u64) {
        self.worthwhile = gone.saturating_mul(WORTHWHILE) >= self.edges;
        self.edges = self.edges.saturating_sub(gone);
    }

    /// How many are left of the table's edges.
    ///
    /// # Errors
    /// Where they are too many to be looked at in memory.
    pub fn left(self, table: &TableName) -> Result<usize, TargetError> {
        let edges = self.edges;
        if edges <= MAX_EDGES {
            return Ok(usize::try_from(edges).unwrap_or(0));
        }
        Err(TargetError::new(
            TargetErrorClass::Unsupported,
            format!("{table} has {edges} edges that may be on cycles; at most {MAX_EDGES} are looked at"),
        ))
    }
}

/// Works on a thread where that disturbs nobody, until done or until the returned future is dropped.
async fn aside<T: Send + 'static>(
    what: &str,
    work: impl FnOnce(&dyn Fn() -> bool) -> Result<T, Stopped> + Send + 'static,
) -> Result<T, TargetError> {
    let stop = CancellationToken::new();
    let seen = stop.clone();
    let _stops_when_dropped = stop.drop_guard();
    let why = match tokio::task::spawn_blocking(move || work(&|| seen.is_cancelled())).await {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(Stopped)) => "nobody waited for it".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(TargetError::new(
        TargetErrorClass::Refused,
        format!("the search for {what} was cut short: {why}"),
    ))
}

/// Decides which edges go; see [`feedback::feedback`]. The search ends soon after the returned future is dropped.
///
/// # Errors
/// Where it could not be finished.
pub async fn find(edges: Vec<Edge>) -> Result<Feedback, TargetError> {
    aside("cycles", |is_over| feedback::feedback(edges, is_over)).await
}

/// A pass over the edges that go.
pub struct Rings {
    /// Taken out while witnesses are searched for.
    feedback: Option<Feedback>,
    limit: usize,
    most: usize,
    next: usize,
    total: usize,
}

impl Rings {
    /// In portions of at most `limit` edges that go, and of not many more than `most` edges with all witnesses, unless a single one
    /// has more.
    #[must_use]
    pub fn of(feedback: Feedback, limit: u32, most: usize) -> Self {
        Self {
            total: feedback.removed().len(),
            feedback: Some(feedback),
            limit: limit as usize,
            most,
            next: 0,
        }
    }

    /// The rings that the next edges close: each begins with the edge that goes, and the kept edges follow that lead back to it. None
    /// at the end.
    ///
    /// # Errors
    /// Where it could not be finished, and always after that.
    pub async fn next(&mut self) -> Result<Vec<Vec<u32>>, TargetError> {
        let Some(feedback) = self.feedback.take() else {
            return Err(TargetError::new(TargetErrorClass::Refused, "the scan failed before"));
        };
        let (next, limit, most) = (self.next, self.limit, self.most);
        let work = move |is_over: &dyn Fn() -> bool| portion(feedback, (next, limit, most), is_over);
        let (feedback, rings) = aside("witnesses", work).await?;
        self.feedback = Some(feedback);
        self.next += rings.len();
        Ok(rings)
    }

    /// How much of the pass is over.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        share(self.next as u64, self.total as u64)
    }
}

fn portion(
    mut feedback: Feedback,
    (next, limit, most): (usize, usize, usize),
    is_over: &dyn Fn() -> bool,
) -> Result<(Feedback, Vec<Vec<u32>>), Stopped> {
    let removed: Vec<u32> = feedback.removed().iter().skip(next).take(limit).copied().collect();
    let mut rings = Vec::new();
    let mut edges = 0;
    for number in removed {
        if edges > most {
            break;
        }
        let mut ring = vec![number];
        ring.extend(feedback.witness(number, is_over)?);
        edges += ring.len();
        rings.push(ring);
    }
    Ok((feedback, rings))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn two_rings() -> Vec<Edge> {
        let pairs = [(0, 1), (1, 0), (2, 3), (3, 4), (4, 2)];
        pairs.map(|(from, to)| Edge { from, to }).to_vec()
    }

    #[tokio::test]
    async fn rings_come_in_portions() {
        for (limit, most) in [(1, 100), (100, 1)] {
            let found = find(two_rings()).await.expect("it is found");
            let mut rings = Rings::of(found, limit, most);
            assert_eq!(rings.next().await.expect("a portion"), [[1, 0]]);
            assert_eq!(rings.next().await.expect("a portion"), [[4, 2, 3]]);
            assert!((rings.fraction() - 1.0).abs() < f64::EPSILON);
            assert!(rings.next().await.expect("the end").is_empty());
        }
    }

    #[tokio::test]
    async fn a_search_that_nobody_waits_for_ends() {
        let (says, hears) = std::sync::mpsc::channel();
        let work = aside("a long time", move |is_over| {
            while !is_over() {
                std::thread::sleep(Duration::from_millis(1));
            }
            says.send(()).expect("the test listens");
            Err::<(), _>(Stopped)
        });
        let waited = tokio::time::timeout(Duration::from_millis(20), work).await;
        assert!(waited.is_err(), "it has no end of its own");
        let ended = tokio::task::spawn_blocking(move || hears.recv_timeout(Duration::from_secs(10))).await;
        ended.expect("a thread").expect("the search has ended");
    }

    #[test]
    fn rounds_end_where_they_are_not_worth_it() {
        let table = TableName::parse("edges");
        let mut trimming = Trimming::of(1_000_000);
        assert!(trimming.goes_on());
        trimming.took_out(100_000);
        assert!(trimming.goes_on());
        trimming.took_out(89_999);
        assert!(!trimming.goes_on());
        assert_eq!(trimming.left(&table).expect("few enough"), 810_001);
        assert!(!Trimming::of(FEW_EDGES).goes_on());
        assert!(Trimming::of(MAX_EDGES + 1).left(&table).is_err());
    }
}
