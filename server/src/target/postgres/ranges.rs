//! A selection by ranges of its table's pages, for runs that share the database. A cursor over a join hashes the parents before its first
//! row: a burst that grows with them, that nothing divides, and that everybody else feels; and its snapshot keeps dead rows from being
//! removed for as long as it is open. Here each statement looks at some pages alone, with their parents looked up by an index, in a
//! transaction of its own that ends with it. docs/adr/0022-listing-by-pages.md.
//!
//! Looking up costs more in all than hashing once. It is done where the planner would read the whole table anyway and has nothing but index
//! scans for the parents, which is asked of the planner itself; elsewhere, and before PostgreSQL 14, which cannot read a range of pages, the
//! cursor is what there is.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use dbkeep_engine::{
    model::{RowKey, Selection},
    port::{Scan, TargetError, Window},
};
use serde_json::Value as Json;
use sqlx::{AssertSqlSafe, Executor as _, Row as _, postgres::PgRow};

use super::{
    error::{refused, statement},
    line::Line,
    render, text_row,
};

/// Time that a statement should take: what comes meanwhile waits for at most about as long, which is less than a commit takes.
const SLICE: Duration = Duration::from_millis(1);
/// Rest after a statement, in times of what its pages take. A pass looks at every row and a batch only at its own, so that a pass at the
/// run's own duty cycle is felt more than the run.
const REST: u32 = 3;
/// Pages of the first statement; the others follow the time that pages take.
const FIRST_PAGES: u32 = 4;
/// Most pages of a statement, whose rows may all match.
const MAX_PAGES: u32 = 128;
/// A window is given back with what it has after this time, so that a request to stop does not wait for rare rows.
const WINDOW_TIME: Duration = Duration::from_millis(200);
/// No line of a page has this number: after it the next page begins.
const LAST_LINE: u16 = u16::MAX;
/// First version that reads a range of pages, as `server_version_num`.
const TID_RANGE_SCANS: &str = "140000";
/// What each statement runs under. A hash or merge join would take in all parents.
const SETTINGS: &str = "BEGIN READ ONLY; SET LOCAL row_security = off; SET LOCAL jit = off; \
                        SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off";

/// Where a pass stands: the page and the line of a row, or of the end of a page. The pass goes on after it.
type Place = (u32, u16);

/// The ranges of a table, one after the other.
pub(super) struct Ranges {
    from: String,
    place: Place,
    /// Pages of the table when the pass began.
    pages: u32,
    pace: Pace,
}

impl Ranges {
    /// Those after a place; `None` where the selection is better listed in another way.
    pub(super) async fn over(
        connection: &mut Line,
        selection: &Selection,
        after: Option<&str>,
    ) -> Result<Option<Self>, TargetError> {
        let parents = selection.matches.parents();
        // Without parents nothing is hashed. Rows that are judged by rows of their own table begin to match while others of it go:
        // they are listed in one snapshot, or the run would take more than was planned.
        if parents.is_empty() || parents.iter().any(|parent| parent.name == selection.table.name) {
            return Ok(None);
        }
        let from = render::from_where(selection)?;
        let asked = format!(
            "{SETTINGS}; \
             SELECT (current_setting('server_version_num')::int >= {TID_RANGE_SCANS})::text, \
             (pg_relation_size(to_regclass({})) / current_setting('block_size')::bigint)::text; \
             EXPLAIN (FORMAT JSON) SELECT t.ctid {from}; COMMIT",
            render::literal(&render::table(&selection.table.name)),
        );
        let answers = connection.fetch_all(AssertSqlSafe(asked)).await.map_err(statement)?;
        let [table, plan] = answers.as_slice() else {
            return Err(refused("the database did not say how it lists the table".to_owned()));
        };
        let known: String = table.try_get(0).map_err(statement)?;
        let pages: Option<String> = table.try_get(1).map_err(statement)?;
        let plan: String = plan.try_get_unchecked(0).map_err(statement)?;
        if known != "true" || !reads_all_and_looks_up(&plan, "Seq Scan") {
            return Ok(None);
        }
        let ranges = Self {
            from,
            place: after.and_then(place).unwrap_or_default(),
            pages: pages.and_then(|pages| pages.parse().ok()).unwrap_or_default(),
            pace: Pace::default(),
        };
        let one = format!(
            "{SETTINGS}; EXPLAIN (FORMAT JSON) SELECT t.ctid {}; COMMIT",
            ranges.next_range()
        );
        let plan = connection.fetch_one(AssertSqlSafe(one)).await.map_err(statement)?;
        let plan: String = plan.try_get_unchecked(0).map_err(statement)?;
        Ok(reads_all_and_looks_up(&plan, "Tid Range Scan").then_some(ranges))
    }

    /// Whether the table's end is reached.
    pub(super) fn is_over(&self) -> bool {
        self.next_page() >= self.pages
    }

    /// What the next statement gives for its pages; then the run rests, and the ranges go on behind them.
    pub(super) async fn take(&mut self, connection: &mut Line, columns: &str) -> Result<Vec<PgRow>, TargetError> {
        let sql = format!("{SETTINGS}; SELECT {columns} {}; COMMIT", self.next_range());
        let began = Instant::now();
        let rows = connection.fetch_all(AssertSqlSafe(sql)).await.map_err(statement)?;
        let pages = self.end() - self.next_page();
        self.place = (self.end() - 1, LAST_LINE);
        let rest = self.pace.after(pages, began.elapsed());
        if !self.is_over() {
            tokio::time::sleep(rest).await;
        }
        Ok(rows)
    }

    /// Share of the table that is behind, 0 to 1.
    fn fraction(&self) -> f64 {
        (f64::from(self.next_page()) / f64::from(self.pages.max(1))).min(1.0)
    }

    fn next_page(&self) -> u32 {
        match self.place {
            (page, LAST_LINE) => page + 1,
            (page, _) => page,
        }
    }

    fn end(&self) -> u32 {
        self.next_page().saturating_add(self.pace.pages).min(self.pages)
    }

    /// The selected rows of the next pages.
    fn next_range(&self) -> String {
        let ((page, line), end) = (self.place, self.end());
        format!(
            "{} AND t.ctid > '({page},{line})'::tid AND t.ctid < '({end},0)'::tid",
            self.from
        )
    }
}

/// How many pages a statement looks at.
struct Pace {
    pages: u32,
    /// What a page takes where nobody else has the processor: the shortest time of late, since a wait only adds.
    page: Option<Duration>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            pages: FIRST_PAGES,
            page: None,
        }
    }
}

impl Pace {
    /// Notes what some pages took, and says how long to rest.
    fn after(&mut self, pages: u32, took: Duration) -> Duration {
        let seen = took / pages.max(1);
        // A twentieth longer with each statement, so that a table whose pages become dearer is followed.
        let page = self.page.map_or(seen, |page| seen.min(page + page / 20));
        self.page = Some(page);
        let wanted = SLICE.as_nanos() / page.as_nanos().max(1);
        let most = self.pages.saturating_mul(2).min(MAX_PAGES);
        self.pages = u32::try_from(wanted).unwrap_or(u32::MAX).clamp(1, most);
        page * pages * REST
    }
}

/// A place as text, where it is one.
fn place(text: &str) -> Option<Place> {
    let (page, line) = text.trim_matches(['(', ')']).split_once(',')?;
    Some((page.parse().ok()?, line.parse().ok()?))
}

/// Whether a plan reads the selection's table in this way, and everything else by the keys of an index.
fn reads_all_and_looks_up(plan: &str, way: &str) -> bool {
    let Ok(plan) = serde_json::from_str(plan) else {
        return false;
    };
    let mut reads = 0;
    let mut others = true;
    nodes(&plan, &mut |node| {
        let text = |name| node.get(name).and_then(Json::as_str).unwrap_or_default();
        match text("Node Type") {
            kind if kind == way && text("Alias") == "t" => reads += 1,
            "Index Scan" | "Index Only Scan" => others &= node.contains_key("Index Cond"),
            // None of them takes in all of its input before it gives out the first row.
            "Nested Loop" | "Memoize" | "Result" | "Append" | "Limit" => {}
            _ => others = false,
        }
    });
    others && reads == 1
}

fn nodes(plan: &Json, look: &mut impl FnMut(&serde_json::Map<String, Json>)) {
    match plan {
        Json::Array(parts) => parts.iter().for_each(|part| nodes(part, look)),
        Json::Object(fields) => {
            if fields.contains_key("Node Type") {
                look(fields);
            }
            fields.values().for_each(|part| nodes(part, look));
        }
        _ => {}
    }
}

/// The pass over a table by its ranges.
pub(super) struct RangeScan {
    connection: Line,
    ranges: Ranges,
    columns: String,
    limit: usize,
    /// Listed, and not given out yet; in the order of the table.
    listed: VecDeque<(Place, RowKey)>,
}

impl RangeScan {
    pub(super) fn new(connection: Line, selection: &Selection, ranges: Ranges, limit: u32) -> Self {
        let keys = render::text_columns(selection.table.row_key.iter().map(String::as_str));
        Self {
            connection,
            ranges,
            columns: format!("t.ctid::text, {keys}"),
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            listed: VecDeque::new(),
        }
    }
}

#[async_trait]
impl Scan for RangeScan {
    async fn next(&mut self) -> Result<Option<Window>, TargetError> {
        if self.ranges.is_over() && self.listed.is_empty() {
            return Ok(None);
        }
        let opened = Instant::now();
        while self.listed.len() < self.limit && !self.ranges.is_over() && opened.elapsed() < WINDOW_TIME {
            let mut found = Vec::new();
            for row in self.ranges.take(&mut self.connection, &self.columns).await? {
                let at: String = row.try_get(0).map_err(statement)?;
                let at = place(&at).ok_or_else(|| refused(format!("{at:?} is no place of a row")))?;
                found.push((at, text_row(&row)?));
            }
            found.sort_unstable_by_key(|(at, _)| *at);
            self.listed.extend(found);
        }
        let count = self.listed.len().min(self.limit);
        let given: Vec<(Place, RowKey)> = self.listed.drain(..count).collect();
        let (page, line) = match (given.last(), self.listed.is_empty()) {
            (Some((last, _)), false) => *last,
            _ => self.ranges.place,
        };
        Ok(Some(Window {
            keys: given.into_iter().map(|(_, key)| key).collect(),
            cursor: format!("({page},{line})"),
            examined: 0,
            fraction: self.ranges.fraction(),
        }))
    }

    fn may_pass_over(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pages_follow_what_they_take() {
        let micros = Duration::from_micros;
        let mut pace = Pace::default();
        assert_eq!(pace.after(4, micros(400)), micros(1_200));
        assert_eq!(pace.pages, 8, "twice as many at most");
        pace.after(8, micros(800));
        assert_eq!(pace.pages, 10, "a millisecond's worth");
        let rest = pace.after(10, micros(20_000));
        assert_eq!(pace.pages, 9, "a wait for the processor is not what a page takes");
        assert_eq!(rest, micros(3_150));
        for _ in 0..200 {
            pace.after(pace.pages, micros(5_000) * pace.pages);
        }
        assert_eq!(pace.pages, 1, "but pages that became dearer are");
        for _ in 0..10 {
            pace.after(pace.pages, micros(1));
        }
        assert_eq!(pace.pages, MAX_PAGES);
    }

    #[test]
    fn every_page_is_in_one_range() {
        let mut ranges = Ranges {
            from: "FROM ONLY x AS t WHERE y".to_owned(),
            place: (2, 7),
            pages: 12,
            pace: Pace::default(),
        };
        let mut seen = Vec::new();
        while !ranges.is_over() {
            seen.push(ranges.next_range());
            ranges.place = (ranges.end() - 1, LAST_LINE);
        }
        let range =
            |after: &str, before: &str| format!("{} AND t.ctid > '{after}'::tid AND t.ctid < '{before}'::tid", ranges.from);
        assert_eq!(
            seen,
            [
                range("(2,7)", "(6,0)"),
                range("(5,65535)", "(10,0)"),
                range("(9,65535)", "(12,0)")
            ]
        );
        assert!((ranges.fraction() - 1.0).abs() < f64::EPSILON);
        assert_eq!(place("(5,65535)"), Some((5, LAST_LINE)));
        assert_eq!(place("(5,65536)"), None);
        assert_eq!(place(""), None);
    }

    #[test]
    fn a_plan_that_hashes_or_reads_a_whole_parent_is_not_taken() {
        let t = json!({"Node Type": "Tid Range Scan", "Alias": "t"});
        let plan = |inner: Json| json!([{"Plan": {"Node Type": "Nested Loop", "Plans": [t, inner]}}]).to_string();
        let taken = |inner: Json| reads_all_and_looks_up(&plan(inner), "Tid Range Scan");
        let by_key = json!({"Node Type": "Index Only Scan", "Alias": "tp", "Index Cond": "(id = t.x)"});
        assert!(taken(by_key.clone()));
        assert!(taken(json!({"Node Type": "Memoize", "Plans": [by_key]})));
        assert!(!reads_all_and_looks_up(&plan(by_key), "Seq Scan"), "another way of reading");
        assert!(
            !taken(json!({"Node Type": "Index Only Scan", "Alias": "tp"})),
            "a whole index"
        );
        for inner in [
            "Seq Scan",
            "Hash",
            "Sort",
            "Materialize",
            "Bitmap Heap Scan",
            "Tid Range Scan",
        ] {
            assert!(!taken(json!({"Node Type": inner, "Alias": "tp"})), "{inner}");
        }
        assert!(!reads_all_and_looks_up("no plan", "Seq Scan"));
    }
}
