//! A deletion beside a writer that saves its row, in every order: all 70 interleavings of four steps of a batch and four steps of
//! a writer, with real sessions. A step that waits for a lock is seen in `pg_blocking_pids`; the other session goes on until it
//! is free. What happened is judged in plain SQL over the oracle's own connection, by rules that know nothing of the order.
//!
//! How a batch begins is a parameter ([`Begin`]): the same interleavings judge a stricter mode.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use dbkeep_engine::{
    model::{Condition, JournalEntry, Row, RowKey, RunId, Selection, TableName, Value},
    port::{BatchTransaction, Claim, Restored, RowSink, SinkError, TableLayout, Target, TargetError, TargetErrorClass},
};
use dbkeep_server::target;
use dbkeep_testkit::{Db, fresh_database};
use futures::{FutureExt as _, future::BoxFuture};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, postgres::PgConnectOptions};
use tokio::task::JoinHandle;

/// Begins a batch on these rows.
type Begin = fn(Bench, Claim, Selection) -> BoxFuture<'static, Result<Box<dyn BatchTransaction>, TargetError>>;

/// As a run without further wishes begins it.
fn plainly(
    bench: Bench,
    claim: Claim,
    selection: Selection,
) -> BoxFuture<'static, Result<Box<dyn BatchTransaction>, TargetError>> {
    async move { bench.target.begin(claim, &[&selection.table]).await }.boxed()
}

/// With the parent locked against writers from before the batch's snapshot until after its end.
fn with_the_parent_locked(
    bench: Bench,
    claim: Claim,
    selection: Selection,
) -> BoxFuture<'static, Result<Box<dyn BatchTransaction>, TargetError>> {
    async move {
        let mut lock = bench.session("dbkeep").await;
        run(&mut lock, "BEGIN; LOCK TABLE parent IN SHARE MODE").await;
        let inner = bench.target.begin(claim, &[&selection.table]).await?;
        let batch: Box<dyn BatchTransaction> = Box::new(Altered {
            inner,
            blind: false,
            _lock: Some(lock),
        });
        Ok(batch)
    }
    .boxed()
}

/// Without the last look for parents: shows that the oracle sees what that look prevents.
fn without_the_last_look(
    bench: Bench,
    claim: Claim,
    selection: Selection,
) -> BoxFuture<'static, Result<Box<dyn BatchTransaction>, TargetError>> {
    async move {
        let inner = bench.target.begin(claim, &[&selection.table]).await?;
        let batch: Box<dyn BatchTransaction> = Box::new(Altered {
            inner,
            blind: true,
            _lock: None,
        });
        Ok(batch)
    }
    .boxed()
}

/// The adapter's batch with one thing more, or one less.
struct Altered {
    inner: Box<dyn BatchTransaction>,
    blind: bool,
    /// A session whose transaction, and with it its lock, ends after the batch's.
    _lock: Option<PgConnection>,
}

#[async_trait]
impl BatchTransaction for Altered {
    async fn delete(
        &mut self,
        selection: &Selection,
        keys: &[RowKey],
        capture: Option<&mut dyn RowSink>,
    ) -> Result<u64, TargetError> {
        self.inner.delete(selection, keys, capture).await
    }

    async fn adopted(&mut self, selection: &Selection) -> Result<u64, TargetError> {
        if self.blind {
            return Ok(0);
        }
        self.inner.adopted(selection).await
    }

    async fn restore(&mut self, layout: &TableLayout, rows: Vec<Row>) -> Result<Restored, TargetError> {
        self.inner.restore(layout, rows).await
    }

    async fn record(&mut self, entry: &JournalEntry) -> Result<(), TargetError> {
        self.inner.record(entry).await
    }

    async fn commit(mut self: Box<Self>) -> Result<(), TargetError> {
        let result = self.inner.commit().await;
        release(self._lock.take()).await;
        result
    }

    async fn rollback(mut self: Box<Self>) {
        self.inner.rollback().await;
        release(self._lock.take()).await;
    }
}

async fn release(lock: Option<PgConnection>) {
    if let Some(mut lock) = lock {
        run(&mut lock, "COMMIT").await;
    }
}

async fn run(session: &mut PgConnection, sql: &str) {
    session
        .execute(AssertSqlSafe(sql.to_owned()))
        .await
        .unwrap_or_else(|error| panic!("{error}: {sql}"));
}

/// What a writer does between its BEGIN and its COMMIT, and what makes a row safe from then on.
#[derive(Clone, Copy)]
struct Story {
    name: &'static str,
    steps: [&'static str; 2],
    rule: Rule,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    Orphan,
    Expired,
}

const ADOPTS: Story = Story {
    name: "adopts",
    steps: [
        "INSERT INTO parent VALUES (2)",
        "UPDATE child SET note = 'adopted' WHERE id = 2",
    ],
    rule: Rule::Orphan,
};
const ADOPTS_CHILD_FIRST: Story = Story {
    name: "adopts_child_first",
    steps: [
        "UPDATE child SET note = 'adopted' WHERE id = 2",
        "INSERT INTO parent VALUES (2)",
    ],
    rule: Rule::Orphan,
};
const PARENT_ONLY: Story = Story {
    name: "parent_only",
    steps: ["INSERT INTO parent VALUES (2)", "SELECT FROM child WHERE id = 2"],
    rule: Rule::Orphan,
};
const RE_PARENTS: Story = Story {
    name: "re_parents",
    steps: ["INSERT INTO parent VALUES (4)", "UPDATE child SET parent_id = 4 WHERE id = 2"],
    rule: Rule::Orphan,
};
const REMOVES: Story = Story {
    name: "removes",
    steps: [
        "INSERT INTO parent VALUES (2)",
        "WITH gone AS (DELETE FROM child WHERE id = 2 RETURNING id) INSERT INTO removed SELECT id FROM gone",
    ],
    rule: Rule::Orphan,
};
const REFRESHES: Story = Story {
    name: "refreshes",
    steps: [
        "SELECT FROM child WHERE id = 2",
        "UPDATE child SET at = '2030-01-01Z' WHERE id = 2",
    ],
    rule: Rule::Expired,
};

const ISOLATIONS: [&str; 2] = ["READ COMMITTED", "REPEATABLE READ"];

/// Rows that a rule takes are 2 and 3. The writer cares for 2; 3 shows that a batch that may go on does.
const TABLES: &str = "CREATE TABLE parent (id bigint PRIMARY KEY); \
     CREATE TABLE child (id bigint PRIMARY KEY, parent_id bigint, at timestamptz, note text); \
     CREATE TABLE original (LIKE child); CREATE TABLE captured (LIKE child); \
     CREATE TABLE removed (id bigint); CREATE TABLE safe (id bigint)";

/// TRUNCATE, so that each row lies where it lay before: the keys of one scan serve every interleaving.
const FILL: &str = "TRUNCATE child; DELETE FROM parent; DELETE FROM original; DELETE FROM captured; DELETE FROM removed; DELETE FROM safe; \
     INSERT INTO parent VALUES (1); \
     INSERT INTO child VALUES (1, 1, '2030-01-01Z', 'kept'), (2, 2, '2010-01-01Z', 'taken'), (3, 3, '2010-01-01Z', 'taken'); \
     INSERT INTO original SELECT * FROM child";

/// A database, the adapter on it, and the oracle beside it.
#[derive(Clone)]
struct Bench {
    options: PgConnectOptions,
    db: Db,
    target: Arc<dyn Target>,
}

impl Bench {
    async fn open(name: &str) -> Self {
        let url = fresh_database(name).await.unwrap();
        let bench = Self {
            options: url.parse().unwrap(),
            db: Db::open(&url).await.unwrap(),
            target: target::open(&url).unwrap(),
        };
        bench.db.execute(TABLES).await.unwrap();
        bench
    }

    async fn session(&self, name: &str) -> PgConnection {
        PgConnection::connect_with(&self.options.clone().application_name(name))
            .await
            .unwrap()
    }

    async fn selection(&self, rule: Rule) -> Selection {
        let schema = async |name| {
            let schema = self.target.introspect(&TableName::parse(name)).await.unwrap();
            Arc::new(schema.expect("the table exists"))
        };
        let matches = match rule {
            Rule::Orphan => Condition::ParentMissing {
                columns: vec!["parent_id".to_owned()],
                parent: schema("parent").await,
                parent_columns: vec!["id".to_owned()],
            },
            Rule::Expired => Condition::OlderThan {
                column: "at".to_owned(),
                horizon: "2020-01-01T00:00:00Z".parse().unwrap(),
                encoding: None,
                zone: None,
            },
        };
        Selection {
            table: schema("child").await,
            matches,
            except: Vec::new(),
        }
    }

    async fn keys(&self, selection: &Selection) -> Vec<RowKey> {
        let mut scan = self.target.scan(selection, None, 100).await.unwrap();
        let mut keys = Vec::new();
        while let Some(window) = scan.next().await.unwrap() {
            keys.extend(window.keys);
        }
        keys
    }

    /// Whether a session of that name waits for another one.
    async fn waits(&self, name: &str) -> bool {
        let sql = format!(
            "SELECT FROM pg_stat_activity AS a, unnest(pg_blocking_pids(a.pid)) AS b, pg_stat_activity AS o WHERE a.application_name = '{name}' \
             AND a.datname = current_database() AND o.pid = b AND o.backend_type = 'client backend'"
        );
        !self.db.fetch_text(&sql).await.unwrap().is_empty()
    }

    /// Notes which rows are safe now, for everybody to see: one of them must not be gone later.
    async fn witness(&self, rule: Rule) {
        let safe = match rule {
            Rule::Orphan => "SELECT c.id FROM child AS c JOIN parent AS p ON p.id = c.parent_id",
            Rule::Expired => "SELECT c.id FROM child AS c WHERE c.at >= '2020-01-01Z'",
        };
        self.db.execute(&format!("INSERT INTO safe {safe}")).await.unwrap();
    }

    /// Everything that must not be, in words.
    async fn wrongs(&self, step: u32, commits: usize) -> Vec<String> {
        let sql = format!(
            "SELECT 'lost ' || id FROM (SELECT id FROM safe EXCEPT SELECT id FROM child EXCEPT SELECT id FROM removed) AS a \
             UNION ALL SELECT 'uncaptured ' || id FROM (SELECT id FROM original EXCEPT SELECT id FROM child EXCEPT SELECT id FROM removed \
                EXCEPT SELECT id FROM captured) AS b \
             UNION ALL SELECT 'captured and there ' || id FROM (SELECT id FROM captured INTERSECT SELECT id FROM child) AS c \
             UNION ALL SELECT 'taken twice ' || id FROM (SELECT id FROM captured INTERSECT SELECT id FROM removed) AS d \
             UNION ALL SELECT 'captured otherwise than it was ' || id FROM (SELECT * FROM captured EXCEPT SELECT * FROM original) AS e \
             UNION ALL SELECT 'captured twice ' || id FROM captured GROUP BY id HAVING count(*) > 1 \
             UNION ALL SELECT 'journal ' || count(*) || ' batches, ' || coalesce(sum(affected), 0) || ' rows' FROM dbkeep.journal WHERE step = {step} \
                HAVING coalesce(sum(affected), 0) <> (SELECT count(*) FROM captured) OR count(*) <> {commits}"
        );
        let rows = self.db.fetch_text(&sql).await.unwrap();
        rows.into_iter().map(|mut row| row.remove(0).unwrap()).collect()
    }
}

#[derive(Default)]
struct Collector(Vec<Row>);

impl RowSink for Collector {
    fn row(&mut self, values: &[Value]) -> Result<(), SinkError> {
        self.0.push(values.to_vec());
        Ok(())
    }
}

/// Who takes four steps.
trait Party: Send + 'static {
    const NAME: &'static str;
    fn step(&mut self, number: usize) -> impl Future<Output = ()> + Send;
}

/// How a batch ended, or that it has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Open,
    Committed,
    /// The database refused to delete on old evidence.
    Conflict,
    /// The last look found a parent.
    Adopted,
}

/// A batch, in the steps of the engine's own protocol: begin; delete; look for parents; record and commit.
struct Deleter {
    bench: Bench,
    begin: Begin,
    claim: Claim,
    selection: Selection,
    keys: Vec<RowKey>,
    place: (u32, u64),
    batch: Option<Box<dyn BatchTransaction>>,
    sink: Collector,
    end: End,
}

impl Deleter {
    async fn take_back(&mut self, end: End) {
        self.end = end;
        if let Some(batch) = self.batch.take() {
            batch.rollback().await;
        }
    }

    async fn fail(&mut self, error: TargetError) {
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
struct Writer {
    session: PgConnection,
    statements: [String; 4],
    failed: bool,
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
            assert_eq!(code.as_deref(), Some("40001"), "{error}: {sql}");
            self.failed = true;
        }
    }
}

/// A party that may be in the middle of a step.
struct Session<P> {
    party: Option<P>,
    pending: Option<JoinHandle<P>>,
    taken: usize,
}

impl<P: Party> Session<P> {
    fn new(party: P) -> Self {
        Self {
            party: Some(party),
            pending: None,
            taken: 0,
        }
    }

    fn free(&self) -> bool {
        self.pending.is_none()
    }

    /// Whether the last step is done, after which what it did is there for everybody.
    fn ended(&self) -> bool {
        self.free() && self.taken == 4
    }

    fn start(&mut self) {
        let (mut party, number) = (self.party.take().unwrap(), self.taken);
        self.taken += 1;
        self.pending = Some(tokio::spawn(async move {
            party.step(number).await;
            party
        }));
    }

    /// Returns when the step in work is done or waits for another session; says whether one was done.
    async fn settle(&mut self, bench: &Bench) -> bool {
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
/// is free. Returns them and the order in which the steps ended.
async fn interleave(bench: &Bench, rule: Rule, order: &str, deleter: Deleter, writer: Writer) -> (Deleter, Writer, String) {
    let (mut deleter, mut writer) = (Session::new(deleter), Session::new(writer));
    let mut remaining: Vec<char> = order.chars().collect();
    let mut ended = String::new();
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
        if deleter.ended() || writer.ended() {
            bench.witness(rule).await;
        }
    }
    (deleter.party.unwrap(), writer.party.unwrap(), ended)
}

/// Every order of four steps of each.
fn orders() -> Vec<String> {
    let of = |bits: u8| (0..8).map(|bit| if bits >> bit & 1 == 1 { 'w' } else { 'd' }).collect();
    let orders: Vec<String> = (0..=u8::MAX).filter(|bits| bits.count_ones() == 4).map(of).collect();
    assert_eq!(orders.len(), 70);
    orders
}

/// What the interleavings of one story came to.
#[derive(Debug, Default)]
struct Tally {
    /// How the batch ended the first time.
    ends: BTreeMap<End, usize>,
    /// Interleavings whose writer failed, at REPEATABLE READ.
    writer_failed: usize,
    /// Interleavings in which some step had to wait.
    waited: usize,
    /// Interleavings that lost the row, and nothing else went wrong.
    lost: Vec<String>,
}

/// Runs every interleaving of a story. Whatever the oracle objects to, but a lost row, fails here.
async fn every_interleaving(story: Story, isolation: &str, begin: Begin) -> Tally {
    let bench = Bench::open(&format!("adoption_{}", story.name)).await;
    let claim = Claim {
        run: RunId::new(),
        fence: 1,
    };
    bench.target.claim(claim).await.unwrap();
    bench.db.execute(FILL).await.unwrap();
    let selection = bench.selection(story.rule).await;
    let keys = bench.keys(&selection).await;
    assert_eq!(keys.len(), 2);
    let mut session = Some(bench.session("writer").await);
    let mut tally = Tally::default();
    for (place, order) in (1..).zip(orders()) {
        bench.db.execute(FILL).await.unwrap();
        let deleter = |batch| Deleter {
            bench: bench.clone(),
            begin,
            claim,
            selection: selection.clone(),
            keys: keys.clone(),
            place: (place, batch),
            batch: None,
            sink: Collector::default(),
            end: End::Open,
        };
        let writer = Writer {
            session: session.take().unwrap(),
            statements: [
                // The SELECT takes the snapshot of a REPEATABLE READ transaction.
                format!("BEGIN ISOLATION LEVEL {isolation}; SELECT 1"),
                story.steps[0].to_owned(),
                story.steps[1].to_owned(),
                "COMMIT".to_owned(),
            ],
            failed: false,
        };
        let (first, writer, ended) = interleave(&bench, story.rule, &order, deleter(1), writer).await;
        session = Some(writer.session);
        let mut commits = keep_captured(&bench, &first).await;
        // A batch that was taken back is tried again, as the engine does, and then nothing stands in its way.
        if first.end != End::Committed {
            let mut again = deleter(2);
            for number in 0..4 {
                again.step(number).await;
            }
            assert_eq!(again.end, End::Committed, "{order}");
            commits += keep_captured(&bench, &again).await;
        }
        let wrongs = bench.wrongs(place, commits).await;
        let left = match story.rule {
            Rule::Orphan => "parent_id NOT IN (SELECT id FROM parent)",
            Rule::Expired => "at < '2020-01-01Z'",
        };
        assert_eq!(
            bench.db.count_where("child", left).await.unwrap(),
            0,
            "{order}: a row remains"
        );
        *tally.ends.entry(first.end).or_default() += 1;
        tally.writer_failed += usize::from(writer.failed);
        tally.waited += usize::from(ended != order);
        if !wrongs.is_empty() {
            assert_eq!(wrongs, ["lost 2"], "{} at {isolation}: {order}, ended as {ended}", story.name);
            tally.lost.push(order);
        }
    }
    println!("{} at {isolation}: {tally:?}", story.name);
    tally
}

/// Hands what a committed batch captured to the oracle; returns the number of commits.
async fn keep_captured(bench: &Bench, deleter: &Deleter) -> usize {
    if deleter.end != End::Committed {
        return 0;
    }
    let literal = |value: &Value| format!("'{}'", value.preview(100).unwrap());
    let tuple = |row: &Row| format!("({})", row.iter().map(literal).collect::<Vec<_>>().join(", "));
    let tuples: Vec<_> = deleter.sink.0.iter().map(tuple).collect();
    if !tuples.is_empty() {
        let insert = format!("INSERT INTO captured VALUES {}", tuples.join(", "));
        bench.db.execute(&insert).await.unwrap();
    }
    1
}

async fn nothing_is_lost(story: Story) {
    for isolation in ISOLATIONS {
        let tally = every_interleaving(story, isolation, plainly).await;
        assert_eq!(tally.lost, Vec::<String>::new(), "{} at {isolation}", story.name);
        // All four ends were reached, or the story was not told.
        assert!(tally.ends[&End::Committed] > 0 && tally.ends[&End::Conflict] > 0, "{tally:?}");
        assert!(tally.waited > 0, "{tally:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_adopted_is_never_lost() {
    nothing_is_lost(ADOPTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_adopted_before_its_parent_is_there_is_never_lost() {
    nothing_is_lost(ADOPTS_CHILD_FIRST).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_moves_to_another_parent_is_never_lost() {
    nothing_is_lost(RE_PARENTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_somebody_else_deletes_is_taken_once() {
    nothing_is_lost(REMOVES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_refreshed_is_never_lost() {
    nothing_is_lost(REFRESHES).await;
}

/// ADR 2: a parent that is committed between the last look for parents and the batch's commit, by a writer that does not touch
/// the child. It is lost where the writer's commit and the batch's are the last two steps, in this order, and nowhere else.
#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_comes_back_alone_is_missed_only_between_the_last_look_and_the_commit() {
    let lost: Vec<_> = orders().into_iter().filter(|order| order.ends_with("wd")).collect();
    assert_eq!(lost.len(), 20);
    for isolation in ISOLATIONS {
        let tally = every_interleaving(PARENT_ONLY, isolation, plainly).await;
        assert_eq!(tally.lost, lost, "{isolation}");
        assert_eq!((tally.waited, tally.writer_failed), (0, 0), "nobody is in the other's way");
    }
}

/// The teeth of the test above: without the last look, every commit of the parent between the batch's begin and its end is missed.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_last_look_for_parents_more_is_lost() {
    let lost = |order: &String| order.find('d') < order.rfind('w') && order.ends_with('d');
    let lost: Vec<_> = orders().into_iter().filter(lost).collect();
    assert_eq!(lost.len(), 34);
    let tally = every_interleaving(PARENT_ONLY, ISOLATIONS[0], without_the_last_look).await;
    assert_eq!(tally.lost, lost);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_parent_locked_nothing_is_lost() {
    for (story, isolation) in [
        (PARENT_ONLY, ISOLATIONS[0]),
        (PARENT_ONLY, ISOLATIONS[1]),
        (ADOPTS, ISOLATIONS[0]),
    ] {
        let tally = every_interleaving(story, isolation, with_the_parent_locked).await;
        assert_eq!(tally.lost, Vec::<String>::new(), "{} at {isolation}", story.name);
        assert!(tally.waited > 0, "{tally:?}");
    }
}
