//! A database to discover, the judge beside it, and what a schema's author knows about it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use dbkeep_engine::{
    catalog::Catalog,
    discover::{Discovery, Options, Proposal, discover},
    model::TableName,
    planner,
    port::Target,
};
use dbkeep_server::target;
use dbkeep_testkit::{Db, fresh_database};

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Database {
    Postgres,
    Sqlite,
}

pub(crate) const BOTH: [Database; 2] = [Database::Postgres, Database::Sqlite];

impl Database {
    /// A statement in this database's words: `{uuid}` and `{instant}` stand for types.
    pub(crate) fn sql(self, text: &str) -> String {
        let (uuid, instant) = match self {
            Self::Postgres => ("uuid", "timestamptz"),
            Self::Sqlite => ("TEXT", "TEXT"),
        };
        text.replace("{uuid}", uuid).replace("{instant}", instant)
    }
}

/// A database of one's own.
pub(crate) struct Lab {
    pub(crate) database: Database,
    pub(crate) url: String,
    pub(crate) db: Db,
    pub(crate) target: Arc<dyn Target>,
    _folder: Option<tempfile::TempDir>,
}

impl Lab {
    pub(crate) async fn new(database: Database) -> Self {
        let (url, folder) = match database {
            Database::Postgres => (fresh_database("discover").await.expect("a database"), None),
            Database::Sqlite => {
                let folder = tempfile::tempdir().expect("a folder");
                (format!("sqlite://{}/target.db", folder.path().display()), Some(folder))
            }
        };
        let opened = if database == Database::Sqlite {
            format!("{url}?mode=rwc")
        } else {
            url.clone()
        };
        Self {
            database,
            db: Db::open(&opened).await.expect("a database"),
            target: target::open(&url).expect("a target"),
            url,
            _folder: folder,
        }
    }

    pub(crate) async fn with(database: Database, setup: &str) -> Self {
        let lab = Self::new(database).await;
        lab.execute(setup).await;
        lab
    }

    pub(crate) async fn execute(&self, sql: &str) {
        let sql = self.database.sql(sql);
        self.db
            .execute(&sql)
            .await
            .unwrap_or_else(|error| panic!("{error:#}: {}", &sql[..sql.len().min(2_000)]));
    }

    /// Everything that is found, however unsure.
    pub(crate) async fn discover(&self) -> Discovery {
        self.discover_with(&Options {
            min_confidence: 0.0,
            ..Options::within(Duration::from_secs(100))
        })
        .await
    }

    pub(crate) async fn discover_with(&self, options: &Options) -> Discovery {
        let found = discover(self.target.as_ref(), &Catalog::default(), options)
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        self.prove(&found).await;
        found
    }

    /// What holds of every proposal: its snippet is a catalog that fits the target, and its count is what plain SQL counts.
    async fn prove(&self, found: &Discovery) {
        let mut all = String::new();
        for proposal in &found.proposals {
            assert!((0.0..=1.0).contains(&proposal.confidence), "{proposal:?}");
            assert!(!proposal.evidence.is_empty(), "{proposal:?}");
            assert_eq!(proposal.row_count.is_none(), !proposal.uncounted.is_empty(), "{proposal:?}");
            let known = dbkeep_engine::rule::KINDS.iter().any(|kind| kind.name == proposal.kind);
            if !known {
                assert!(!proposal.supported && !proposal.note.is_empty(), "{proposal:?}");
                continue;
            }
            assert!(proposal.supported, "{:?}: {}", self.database, proposal.toml);
            let catalog = Catalog::parse("snippet", &proposal.toml).unwrap_or_else(|error| panic!("{error}\n{}", proposal.toml));
            let [operation] = catalog.operations() else {
                panic!("{}", proposal.toml)
            };
            assert_eq!(
                (operation.name.as_str(), operation.backup),
                (proposal.operation.as_str(), true)
            );
            assert_eq!(operation.rules.len(), 1);
            assert_eq!(operation.rules[0].kind_name(), proposal.kind);
            planner::check(self.target.as_ref(), &Default::default(), catalog.operations())
                .await
                .unwrap_or_else(|error| panic!("{error}\n{}", proposal.toml));
            if let Some(expected) = self.orphans(proposal).await {
                assert_eq!(proposal.row_count, Some(expected), "{:?}: {}", self.database, proposal.toml);
            }
            all.push_str(&proposal.toml);
            all.push('\n');
        }
        let whole = Catalog::parse("all", &all).unwrap_or_else(|error| panic!("{error}\n{all}"));
        let supported = found.proposals.iter().filter(|proposal| proposal.supported).count();
        assert_eq!(whole.operations().len(), supported);
    }

    /// Orphans of a proposed relation, counted without dbkeep.
    async fn orphans(&self, proposal: &Proposal) -> Option<u64> {
        let (parent, keys) = proposal.parent.as_ref().filter(|_| proposal.kind == "orphan")?;
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let table = |name: &TableName| match &name.schema {
            Some(schema) => format!("{}.{}", quoted(schema), quoted(&name.name)),
            None => quoted(&name.name),
        };
        let present: Vec<String> = proposal
            .columns
            .iter()
            .map(|column| format!("c.{} IS NOT NULL", quoted(column)))
            .collect();
        let same: Vec<String> = proposal
            .columns
            .iter()
            .zip(keys)
            .map(|(column, key)| format!("p.{} = c.{}", quoted(key), quoted(column)))
            .collect();
        let sql = format!(
            "SELECT CAST(count(*) AS text) FROM {} AS c WHERE {} AND NOT EXISTS (SELECT 1 FROM {} AS p WHERE {})",
            table(&proposal.table),
            present.join(" AND "),
            table(parent),
            same.join(" AND ")
        );
        let rows = self
            .db
            .fetch_text(&sql)
            .await
            .unwrap_or_else(|error| panic!("{error:#}: {sql}"));
        rows[0][0].as_deref().and_then(|count| count.parse().ok())
    }
}

/// A proposal in one line: `orphan orders.customer_id -> customers.id`, `expired carts.expires_at`.
pub(crate) fn line(proposal: &Proposal) -> String {
    let mut line = format!("{} {}.{}", proposal.kind, proposal.table, proposal.columns.join("+"));
    if let Some((parent, keys)) = &proposal.parent {
        line += &format!(" -> {parent}.{}", keys.join("+"));
    }
    line
}

/// What the author of a schema knows.
pub(crate) struct Labels {
    /// What must be found, with at least the confidence that is told by default.
    pub(crate) expected: Vec<String>,
    /// What is right too, however sure.
    pub(crate) right: Vec<String>,
}

/// One proposal with the author's judgement.
#[derive(Debug, Clone)]
pub(crate) struct Judged {
    pub(crate) what: String,
    pub(crate) confidence: f64,
    pub(crate) right: bool,
}

impl Labels {
    pub(crate) fn new(expected: &[&str], right: &[&str]) -> Self {
        let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        Self {
            expected: owned(expected),
            right: owned(right),
        }
    }

    /// Holds a discovery against what is known.
    pub(crate) fn judge(&self, name: &str, found: &Discovery) -> Vec<Judged> {
        let judged: Vec<Judged> = found
            .proposals
            .iter()
            .map(|proposal| {
                let what = line(proposal);
                Judged {
                    right: self.expected.contains(&what) || self.right.contains(&what),
                    confidence: proposal.confidence,
                    what,
                }
            })
            .collect();
        let sure: BTreeSet<&String> = judged
            .iter()
            .filter(|judged| judged.confidence >= Options::MIN_CONFIDENCE)
            .map(|judged| &judged.what)
            .collect();
        let missing: Vec<&String> = self.expected.iter().filter(|line| !sure.contains(line)).collect();
        assert!(
            missing.is_empty(),
            "{name}: not found with enough confidence: {missing:#?}\nfound: {judged:#?}"
        );
        let wrong: Vec<&Judged> = judged
            .iter()
            .filter(|judged| !judged.right && judged.confidence >= 0.9)
            .collect();
        assert!(wrong.is_empty(), "{name}: wrong, and told with 0.9 or more: {wrong:#?}");
        judged
    }
}

/// Of the proposals with a confidence of c and more, at least the share c must be right, for every c that occurs.
pub(crate) fn assert_calibrated(judged: &[Judged]) {
    for threshold in judged.iter().map(|judged| judged.confidence) {
        let told: Vec<&Judged> = judged.iter().filter(|judged| judged.confidence >= threshold).collect();
        let wrong: Vec<&&Judged> = told.iter().filter(|judged| !judged.right).collect();
        let (right, all) = (told.len() - wrong.len(), told.len());
        let hundredths = (threshold * 100.0).round();
        #[expect(clippy::cast_precision_loss, reason = "a few hundred proposals")]
        let precision = right as f64 * 100.0 / all as f64;
        assert!(
            precision >= hundredths,
            "at {threshold}: {right} of {all} are right; wrong: {wrong:#?}"
        );
    }
}
