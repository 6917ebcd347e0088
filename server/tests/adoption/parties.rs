//! The two sides, step by step, and the driver that puts their steps into an order.

use std::{future::Future, time::Duration};

use dbkeep_engine::{
    model::{JournalEntry, Row, RowKey, Selection, Value},
    port::{BatchTransaction, Claim, RowSink, SinkError, TargetError, TargetErrorClass},
};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};
use tokio::task::JoinHandle;

use crate::{begins::Begin, bench::Bench};

#[derive(Default)]
pub(crate) struct Collector(pub(crate) Vec<Row>);

impl RowSink for Collector {
    fn row(&mut self, values: &[Value]) -> Result<(), SinkError> {
        self.0.push(values.to_vec());
        Ok(())
    }
}

/// Who takes some steps, one after another.
pub(crate) trait Party: Send + 'static {
    const NAME: &'static str;

    fn steps(&self) -> usize {
        4
    }

    fn step(&mut self, number: usize) -> impl Future<Output = ()> + Send;
}

/// How a batch ended, or that it has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Open,
    Committed,
    /// The database refused to delete on old evidence.
    Conflict,
    /// The last look found a parent.
    Adopted,
    /// The database changed more than the batch had captured.
    Uncaptured,
}

/// A batch, in the steps of the engine's own protocol: begin; delete; look for parents; record and commit.
pub(crate) struct Deleter {
    pub(crate) bench: Bench,
    pub(crate) begin: Begin,
    pub(crate) claim: Claim,
    pub(crate) selection: Selection,
    pub(crate) keys: Vec<RowKey>,
    pub(crate) place: (u32, u64),
    pub(crate) batch: Option<Box<dyn BatchTransaction>>,
    pub(crate) sink: Collector,
    pub(crate) end: End,
}

impl Deleter {
    pub(crate) async fn take_back(&mut self, end: End) {
        self.end = end;
        if let Some(batch) = self.batch.take() {
            batch.rollback().await;
        }
    }

    pub(crate) async fn fail(&mut self, error: TargetError) {
        assert_eq!(error.class, TargetErrorClass::Conflict, "{error}");
        self.take_back(End::Conflict).await;
    }
}

impl Party for Deleter {
    const NAME: &'static str = "dbkeep";

    async fn step(&mut self, number: usize) {
        if self.end != End::Open {
            return;
        }
        match (number, self.batch.as_mut()) {
            (0, _) => match (self.begin)(self.bench.clone(), self.claim, self.selection.clone()).await {
                Ok(batch) => self.batch = Some(batch),
                Err(error) => self.fail(error).await,
            },
            (1, Some(batch)) => {
                if let Err(error) = batch.delete(&self.selection, &self.keys, Some(&mut self.sink)).await {
                    self.fail(error).await;
                }
            }
            (2, Some(batch)) => {
                if batch.adopted(&self.selection).await.unwrap() > 0 {
                    self.take_back(End::Adopted).await;
                }
            }
            (_, Some(_)) => {
                let mut batch = self.batch.take().unwrap();
                let affected = self.sink.0.len() as u64;
                let entry = JournalEntry {
                    run: self.claim.run,
                    step: self.place.0,
                    batch: self.place.1,
                    pass: 1,
                    fence: self.claim.fence,
                    cursor: String::new(),
                    examined: 0,
                    matched: self.keys.len() as u64,
                    affected,
                    along: Vec::new(),
                    conflicting: 0,
                    chunk: None,
                };
                batch.record(&entry).await.unwrap();
                match batch.commit().await {
                    Ok(()) => self.end = End::Committed,
                    Err(error) => self.fail(error).await,
                }
            }
            (_, None) => unreachable!("an open batch that has not begun"),
        }
    }
}

/// An application with a transaction of four statements.
pub(crate) struct Writer {
    pub(crate) session: PgConnection,
    pub(crate) statements: [String; 4],
    pub(crate) failed: bool,
    /// Codes with which the database may refuse a statement.
    pub(crate) may_fail: &'static [&'static str],
}

impl Party for Writer {
    const NAME: &'static str = "writer";

    async fn step(&mut self, number: usize) {
        let sql = match (self.failed, number) {
            (false, _) => self.statements[number].clone(),
            (true, 3) => "ROLLBACK".to_owned(),
            (true, _) => return,
        };
        if let Err(error) = self.session.execute(AssertSqlSafe(sql.clone())).await {
            let code = error.as_database_error().and_then(|error| error.code().map(String::from));
            let expected = code.is_some_and(|code| self.may_fail.contains(&code.as_str()));
            assert!(expected, "{error}: {sql}");
            self.failed = true;
        }
    }
}

/// A party that may be in the middle of a step.
pub(crate) struct Session<P> {
    party: Option<P>,
    pending: Option<JoinHandle<P>>,
    taken: usize,
    steps: usize,
}

impl<P: Party> Session<P> {
    pub(crate) fn new(party: P) -> Self {
        Self {
            steps: party.steps(),
            party: Some(party),
            pending: None,
            taken: 0,
        }
    }

    pub(crate) fn free(&self) -> bool {
        self.pending.is_none()
    }

    /// Whether the last step is done, after which what it did is there for everybody.
    pub(crate) fn ended(&self) -> bool {
        self.free() && self.taken == self.steps
    }

    pub(crate) fn start(&mut self) {
        let (mut party, number) = (self.party.take().unwrap(), self.taken);
        self.taken += 1;
        self.pending = Some(tokio::spawn(async move {
            party.step(number).await;
            party
        }));
    }

    /// Returns when the step in work is done or waits for another session; says whether one was done.
    pub(crate) async fn settle(&mut self, bench: &Bench) -> bool {
        let Some(mut step) = self.pending.take() else { return false };
        // A step that is in nobody's way ends within this time, so that the lock table is not asked for nothing.
        let soon = Duration::from_millis(2);
        loop {
            if let Ok(party) = tokio::time::timeout(soon, &mut step).await {
                self.party = Some(party.unwrap());
                return true;
            }
            if bench.waits(P::NAME).await && !step.is_finished() {
                self.pending = Some(step);
                return false;
            }
        }
    }
}

/// Lets both take their steps in this order (`d` and `w`), as far as locks allow: a session that waits is passed over until it
/// is free. `witness` is called when one of them has ended. Returns them and the order in which the steps ended.
pub(crate) async fn interleave<D: Party>(
    bench: &Bench,
    mut witness: impl AsyncFnMut(),
    order: &str,
    deleter: D,
    writer: Writer,
) -> (D, Writer, String) {
    let (mut deleter, mut writer) = (Session::new(deleter), Session::new(writer));
    let mut remaining: Vec<char> = order.chars().collect();
    let (mut ended, mut seen) = (String::new(), 0);
    while ended.len() < order.len() {
        let next = remaining
            .iter()
            .position(|who| if *who == 'd' { deleter.free() } else { writer.free() });
        // The one that goes on may free the other, so that it is looked at first.
        let next = next.map(|next| remaining.remove(next));
        if next == Some('w') {
            writer.start();
            ended.extend(writer.settle(bench).await.then_some('w'));
        } else if next == Some('d') {
            deleter.start();
        }
        ended.extend(deleter.settle(bench).await.then_some('d'));
        ended.extend(writer.settle(bench).await.then_some('w'));
        let over = usize::from(deleter.ended()) + usize::from(writer.ended());
        if over > seen {
            witness().await;
            seen = over;
        }
    }
    (deleter.party.unwrap(), writer.party.unwrap(), ended)
}
