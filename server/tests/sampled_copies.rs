//! Copies with some of the rows, by the adapters: closed under keys, everything else as it is in the target, the same each time, and
//! nothing written to the target.

use std::{collections::BTreeMap, fs::File, path::Path, sync::Arc};

use dbkeep_engine::{
    model::{MaintenanceProgress, RunId, Sample, SampledTable, SchemaObject, TableContent},
    port::{Claim, SampleOrder, Target, Watch},
};
use dbkeep_server::target;
use dbkeep_testkit::{Db, fresh_database};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Keys of one column and of two, of a table to itself, in a ring, to a unique column; a table without a key of its own.
const COMMON: &str = "CREATE TABLE country (code text PRIMARY KEY, name text NOT NULL UNIQUE);
CREATE TABLE person (id integer PRIMARY KEY, boss integer REFERENCES person (id), country text REFERENCES country (name));
CREATE TABLE room (house integer NOT NULL, number integer NOT NULL, PRIMARY KEY (house, number));
CREATE TABLE stay (id integer PRIMARY KEY, person integer NOT NULL REFERENCES person (id), house integer, number integer,
  FOREIGN KEY (house, number) REFERENCES room (house, number));
CREATE TABLE note (text text);
CREATE INDEX stay_person ON stay (person);";

fn rows(series: &str) -> String {
    let series = |count: u32| series.replace("COUNT", &count.to_string());
    format!(
        "INSERT INTO country SELECT 'c' || n, 'country ''' || n || '''' FROM {};
INSERT INTO person SELECT n, CASE WHEN n > 1 THEN n / 2 END, CASE WHEN n % 3 > 0 THEN 'country ''' || (n % 50 + 1) || '''' END FROM {};
INSERT INTO room SELECT n / 10, n % 10 FROM {};
INSERT INTO stay SELECT n, (n * 7919) % 1000 + 1, CASE WHEN n % 2 = 0 THEN n % 100 / 10 + 1 END, CASE WHEN n % 4 = 0 THEN NULL ELSE n % 10 END FROM {};
INSERT INTO note SELECT 'note ' || n FROM {};",
        series(50),
        series(1_000),
        series(500),
        series(2_000),
        series(300)
    )
}

const POSTGRES: &str = "CREATE SCHEMA other;
CREATE TABLE other.counted (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n integer NOT NULL, twice integer GENERATED ALWAYS AS (n * 2) STORED,
  at timestamptz NOT NULL DEFAULT '2026-01-01 00:00:00+00', CONSTRAINT small CHECK (n < 100000));
INSERT INTO other.counted (n) SELECT n FROM generate_series(1, 200) AS n;
CREATE TABLE measured (day date NOT NULL, person integer NOT NULL REFERENCES person (id), PRIMARY KEY (day, person)) PARTITION BY RANGE (day);
CREATE TABLE measured_1 PARTITION OF measured FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE measured_2 PARTITION OF measured FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
INSERT INTO measured SELECT date '2026-01-01' + n % 59, n FROM generate_series(1, 500) AS n;
CREATE TABLE remark (id integer PRIMARY KEY, day date, person integer, FOREIGN KEY (day, person) REFERENCES measured (day, person));
INSERT INTO remark SELECT row_number() OVER (), day, person FROM measured WHERE person % 5 = 0;
CREATE TABLE egg (id integer PRIMARY KEY, hen integer);
CREATE TABLE hen (id integer PRIMARY KEY, egg integer NOT NULL REFERENCES egg (id));
INSERT INTO egg SELECT n, n FROM generate_series(1, 100) AS n; INSERT INTO hen SELECT n, n % 100 + 1 FROM generate_series(1, 100) AS n;
ALTER TABLE egg ADD CONSTRAINT egg_hen FOREIGN KEY (hen) REFERENCES hen (id);
CREATE TABLE word (word text COLLATE \"C\" PRIMARY KEY);
CREATE TABLE said (id integer PRIMARY KEY, word text COLLATE \"POSIX\" NOT NULL REFERENCES word (word), twice varchar(20) COLLATE \"POSIX\");
ALTER TABLE word ADD COLUMN also text, ADD UNIQUE (word, also); ALTER TABLE said ADD FOREIGN KEY (word, twice) REFERENCES word (word, also);
INSERT INTO word SELECT 'word ' || n, n % 7 FROM generate_series(1, 500) AS n;
INSERT INTO said SELECT n, 'word ' || (501 - n), (501 - n) % 7 FROM generate_series(1, 500) AS n;
CREATE TABLE padded (code char(12) PRIMARY KEY);
CREATE TABLE plain (code text PRIMARY KEY, padded text NOT NULL REFERENCES padded (code));
CREATE TABLE pads (id integer PRIMARY KEY, plain char(12) NOT NULL REFERENCES plain (code));
INSERT INTO padded SELECT 'code ' || n FROM generate_series(1, 500) AS n;
INSERT INTO plain SELECT 'plain ' || n, 'code ' || (501 - n) FROM generate_series(1, 500) AS n;
INSERT INTO pads SELECT n, 'plain ' || (501 - n) FROM generate_series(1, 500) AS n;
CREATE TABLE orphan (id integer PRIMARY KEY, person integer);
INSERT INTO orphan SELECT n, n + 995 FROM generate_series(1, 10) AS n;
ALTER TABLE orphan ADD CONSTRAINT orphan_person FOREIGN KEY (person) REFERENCES person (id) NOT VALID;
CREATE MATERIALIZED VIEW a_busy AS SELECT person, count(*) AS stays FROM stay GROUP BY person;
CREATE MATERIALIZED VIEW a_empty AS SELECT 1 AS one WITH NO DATA;
CREATE VIEW shown AS SELECT * FROM person;
CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a copy fires no trigger'; END $$;
CREATE TRIGGER never BEFORE INSERT ON note FOR EACH ROW EXECUTE FUNCTION never();
SELECT setval('other.counted_id_seq', 777);";

const SQLITE: &str = "CREATE TABLE pair (a text, b integer, v text, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE TABLE counted (id integer PRIMARY KEY AUTOINCREMENT, n integer, twice integer GENERATED ALWAYS AS (n * 2) STORED);
CREATE TABLE odd (rowid text, v integer);
CREATE VIRTUAL TABLE words USING fts5 (text);
CREATE VIEW shown AS SELECT * FROM person;
CREATE TRIGGER never BEFORE INSERT ON note BEGIN SELECT RAISE(ABORT, 'a copy fires no trigger'); END;
PRAGMA user_version = 42;";

const SQLITE_ROWS: &str = "INSERT INTO pair SELECT 'a' || (value % 7), value, 'v' FROM generate_series(1, 100);
INSERT INTO counted (id, n) SELECT value, value FROM generate_series(1, 200); DELETE FROM counted WHERE id > 190;
INSERT INTO odd SELECT 'r' || value, value FROM generate_series(1, 100);
INSERT INTO words SELECT 'word' || value FROM generate_series(1, 60);
DELETE FROM note WHERE rowid % 2 = 0;";

struct Place {
    target: Arc<dyn Target>,
    folder: tempfile::TempDir,
    url: String,
}

impl Place {
    /// Copies, looks at the copy, and removes it.
    async fn sample(&self, sample: Sample) -> Copied {
        let claim = Claim {
            run: RunId::new(),
            fence: 1,
        };
        self.target.claim(claim).await.expect("a claim");
        let before = self.target.migrator().fingerprint().await.expect("a fingerprint");
        let (name, tables) = self.copy(claim, sample).await;
        let maintenance = self.target.maintenance();
        let copy = maintenance.open_scratch(&name).await.expect("a target");
        // Keys that are not validated have such rows in the target, too.
        let mut violations = copy.migrator().violations().await.expect("looked at");
        violations.retain(|violation| !violation.contains("orphan"));
        let there = copy.migrator().fingerprint().await.expect("a fingerprint");
        // Whether a partition's key is its own or its parent's is not what pg_dump keeps; a whole copy has it so as well.
        let schema = |objects: &[SchemaObject]| -> Vec<SchemaObject> {
            let counts = |object: &&SchemaObject| object.kind != "constraint" || !object.name.starts_with("public.measured_");
            objects.iter().filter(counts).cloned().collect()
        };
        assert_eq!(schema(&there.objects), schema(&before.objects), "the whole schema");
        let db = Db::open(&self.url_of(&name)).await.expect("a connection");
        let mut answers = Vec::new();
        for question in self.questions() {
            let rows = db.fetch_text(question).await.expect("an answer");
            answers.push(rows.first().and_then(|row| row[0].clone()).unwrap_or_default());
        }
        db.close().await;
        drop(copy);
        maintenance.drop_scratch(claim, &name).await.expect("dropped");
        let after = self.target.migrator().fingerprint().await.expect("a fingerprint");
        assert_eq!(
            (after.objects, after.tables),
            (before.objects, before.tables),
            "nothing was written to the target"
        );
        Copied {
            tables: by_name(&tables),
            contents: there.tables,
            violations,
            answers,
        }
    }

    /// Copies; the name of the copy, and what it has.
    async fn copy(&self, claim: Claim, sample: Sample) -> (String, Vec<SampledTable>) {
        let name = format!("sampled_{}", &claim.run.to_string()[24..]);
        let path = self.folder.path().join("schema.dump");
        File::create(&path).expect("a file");
        let watch = Watch {
            progress: watch::channel(MaintenanceProgress::default()).0,
            stop: CancellationToken::new(),
        };
        let order = SampleOrder { claim, path, sample };
        let maintenance = self.target.maintenance();
        let tables = maintenance.sample_scratch(&order, &name, &watch).await.expect("a sample");
        (name, tables)
    }

    fn is_sqlite(&self) -> bool {
        self.url.starts_with("sqlite")
    }

    fn url_of(&self, name: &str) -> String {
        if self.is_sqlite() {
            return format!("sqlite://{}", self.folder.path().join(format!("{name}.db")).display());
        }
        let (server, database) = self.url.rsplit_once('/').expect("a database");
        let options = database
            .split_once('?')
            .map_or(String::new(), |(_, options)| format!("?{options}"));
        format!("{server}/{name}{options}")
    }

    /// Each has one answer, however many rows were taken.
    fn questions(&self) -> Vec<&'static str> {
        if self.is_sqlite() {
            vec![
                "SELECT CAST((SELECT seq FROM sqlite_sequence WHERE name = 'counted') AS text)",
                "SELECT CAST(min(twice = n * 2) AS text) FROM counted",
                "SELECT CAST(count(*) AS text) FROM words WHERE words MATCH 'word7'",
                "SELECT CAST(user_version AS text) FROM pragma_user_version",
                "SELECT CAST(min(rowid % 2) AS text) || CAST(max(rowid) AS text) FROM note",
            ]
        } else {
            vec![
                "SELECT nextval('other.counted_id_seq')::text",
                "SELECT bool_and(twice = n * 2)::text FROM other.counted",
                "SELECT ((SELECT count(*) FROM a_busy) = (SELECT count(DISTINCT person) FROM stay))::text",
                "SELECT relispopulated::text FROM pg_class WHERE relname = 'a_empty'",
                "SELECT count(*)::text FROM pg_constraint WHERE contype = 'f' AND NOT convalidated",
            ]
        }
    }
}

struct Copied {
    tables: BTreeMap<String, (u64, u64)>,
    contents: Vec<TableContent>,
    violations: Vec<String>,
    answers: Vec<String>,
}

fn by_name(tables: &[SampledTable]) -> BTreeMap<String, (u64, u64)> {
    let bare = |table: &SampledTable| (table.table.name.clone(), (table.rows, table.of));
    tables.iter().map(bare).collect()
}

async fn place(sqlite: bool) -> Place {
    let folder = tempfile::tempdir().expect("a folder");
    let url = if sqlite {
        format!("sqlite://{}", folder.path().join("app.db").display())
    } else {
        fresh_database("sampled").await.expect("a database")
    };
    let db = Db::open(&format!("{url}{}", if sqlite { "?mode=rwc" } else { "" }))
        .await
        .expect("a database");
    let series = if sqlite {
        "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < COUNT) SELECT n FROM s)"
    } else {
        "generate_series(1, COUNT) AS n"
    };
    db.execute(COMMON).await.expect("tables");
    db.execute(&rows(series)).await.expect("rows");
    if sqlite {
        // SQLite's own library has no generate_series.
        let rows = SQLITE_ROWS.replace(
            "generate_series(1, ",
            "(WITH RECURSIVE s(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM s WHERE value < ",
        );
        let rows = rows
            .split(';')
            .map(|one| match one.contains("RECURSIVE") {
                true => format!("{one} SELECT value FROM s)"),
                false => one.to_owned(),
            })
            .collect::<Vec<_>>()
            .join(";");
        let (made, trigger) = SQLITE.split_once("CREATE TRIGGER").expect("a trigger");
        db.execute(made).await.expect("tables");
        db.execute(&rows).await.expect("rows");
        db.execute(&format!("CREATE TRIGGER{trigger}")).await.expect("a trigger");
    } else {
        db.execute(POSTGRES).await.expect("tables and rows");
    }
    db.close().await;
    Place {
        target: target::open(&url).expect("a target"),
        folder,
        url,
    }
}

async fn sampled(sqlite: bool) {
    let place = place(sqlite).await;
    let few = place.sample(Sample::Rows(20)).await;
    assert!(few.violations.is_empty(), "{:?}", few.violations);
    assert_eq!(
        few.tables["note"],
        (20, if sqlite { 150 } else { 300 }),
        "exactly so many where no key asks for more"
    );
    assert_eq!(few.tables["room"].1, 500);
    let (stays, people) = (few.tables["stay"], few.tables["person"]);
    assert_eq!(stays, (20, 2_000));
    // Bosses of bosses came along, and not everybody.
    assert!((21..500).contains(&people.0) && people.1 == 1_000, "{people:?}");
    let again = place.sample(Sample::Rows(20)).await;
    assert_eq!(again.contents, few.contents, "the same rows come out");
    let expected: &[&str] = if sqlite {
        &["200", "1", "1", "42", "1299"]
    } else {
        &["778", "true", "true", "false", "1"]
    };
    assert_eq!(few.answers, expected);
    if sqlite {
        assert_eq!(few.tables["pair"], (20, 100));
        assert_eq!(few.tables["odd"], (20, 100));
    } else {
        assert!(few.tables["measured_1"].0 >= 20 && few.tables["measured_1"].0 < few.tables["measured_1"].1);
        assert_eq!(few.tables["counted"], (20, 200));
        assert_eq!(few.tables["orphan"], (10, 10), "a key that is not validated keeps its rows");
    }
    let part = place.sample(Sample::TenThousandths(500)).await;
    assert_eq!(part.tables["stay"], (100, 2_000));
    assert!(part.violations.is_empty(), "{:?}", part.violations);
    let all = place.sample(Sample::Rows(1_000_000)).await;
    let whole = place.target.migrator().fingerprint().await.expect("a fingerprint");
    assert_eq!(all.contents, whole.tables, "a sample of everything is everything");
    assert!(all.tables.values().all(|(rows, of)| rows == of), "{:?}", all.tables);
    left(place.folder.path());
}

fn left(folder: &Path) {
    let names: Vec<_> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|file| file.expect("a file").file_name())
        .collect();
    assert!(
        names.iter().all(|name| name == "schema.dump" || name == "app.db"),
        "nothing of a copy is left: {names:?}"
    );
}

#[tokio::test]
async fn a_sample_of_postgres_satisfies_its_constraints() {
    sampled(false).await;
}

/// 60,000 rows that name 30,000 of 600,000 others, each in two ways of writing. The copy takes all of the former and 60,000 of the latter.
#[tokio::test]
async fn missing_parents_are_looked_for_once_a_round_and_fetched_once() {
    let url = fresh_database("missing").await.expect("a database");
    let db = Db::open(&url).await.expect("a connection");
    db.execute(
        "CREATE TABLE price (amount numeric PRIMARY KEY); INSERT INTO price SELECT n FROM generate_series(1, 600000) AS n; \
         CREATE TABLE paid (id integer PRIMARY KEY, amount numeric NOT NULL REFERENCES price (amount)); \
         INSERT INTO paid SELECT n, 10 * (n % 30000) + 1 FROM generate_series(1, 30000) AS n; \
         INSERT INTO paid SELECT n + 30000, (10 * (n % 30000) + 1)::numeric(12, 2) FROM generate_series(1, 30000) AS n",
    )
    .await
    .expect("tables");
    let place = Place {
        target: target::open(&url).expect("a target"),
        folder: tempfile::tempdir().expect("a folder"),
        url,
    };
    let claim = Claim {
        run: RunId::new(),
        fence: 1,
    };
    place.target.claim(claim).await.expect("a claim");
    let (name, tables) = place.copy(claim, Sample::Rows(60_000)).await;
    let tables = by_name(&tables);
    assert_eq!(tables["paid"], (60_000, 60_000));
    // None of them was there already, and none comes twice.
    assert_eq!(tables["price"], (90_000, 600_000));
    let copy = Db::open(&place.url_of(&name)).await.expect("a connection");
    let scans = loop {
        // What a session did is counted when it has ended.
        let rows = copy
            .fetch_text("SELECT seq_scan::text, n_tup_ins::text FROM pg_stat_user_tables WHERE relname = 'paid'")
            .await
            .expect("an answer");
        if rows[0][1].as_deref() == Some("60000") {
            break rows[0][0]
                .as_deref()
                .and_then(|text| text.parse::<u32>().ok())
                .expect("a number");
        }
    };
    // Two rounds, the count, the constraints; each perhaps by three processes. A look for each 2,000 keys would be 15 more at least.
    assert!(scans < 15, "the children were read {scans} times");
    copy.close().await;
    place.target.maintenance().drop_scratch(claim, &name).await.expect("dropped");
}

#[tokio::test]
async fn a_sample_of_sqlite_satisfies_its_constraints() {
    sampled(true).await;
}
