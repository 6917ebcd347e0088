//! Rules about sets: duplicates and cycles. What goes is compared with models in plain Rust, never with another query.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::model::Order;

/// The rules that do not hold.
pub(super) async fn broken(fixture: &dyn Fixture) -> Vec<&'static str> {
    rules!(
        fixture,
        duplicates_leave_the_newest_row_of_each_key,
        duplicates_leave_the_oldest_row_of_each_key,
        text_keys_decide_by_their_bytes,
        duplicates_of_several_columns_and_orders,
        only_rows_that_count_are_duplicates,
        a_later_step_leaves_duplicates_out,
        listed_duplicates_come_in_windows_with_what_stays,
        a_duplicate_stays_when_its_keeper_is_gone,
        a_duplicate_stays_when_its_keeper_is_no_keeper_any_more,
        a_better_row_does_not_save_a_duplicate,
        random_duplicates_are_those_of_the_model,
        a_cycle_of_any_length_loses_one_edge,
        overlapping_cycles_lose_the_edge_they_share,
        ends_that_are_null_are_no_edge,
        composite_ends,
        a_parent_column_is_an_edge,
        the_same_edges_go_in_whatever_order_they_came,
        an_edge_stays_when_its_cycle_is_broken,
        an_edge_stays_when_its_cycle_is_led_elsewhere,
        edges_that_earlier_steps_take_close_nothing,
        random_graphs_are_left_without_cycles,
        sets_with_quoted_names,
    )
}

/// splitmix64: a seed names the same rows for ever.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

fn duplicate(table: &Arc<TableSchema>, columns: &[&str], by: &[&str], newest_first: bool) -> Condition {
    Condition::Duplicate {
        table: Arc::clone(table),
        columns: strings(columns),
        order: by
            .iter()
            .map(|column| Order {
                column: (*column).to_owned(),
                newest_first,
            })
            .collect(),
        among: Vec::new(),
    }
}

fn cycle(from: &[&str], to: &[&str]) -> Condition {
    Condition::Cycle {
        from: strings(from),
        to: strings(to),
        among: Vec::new(),
    }
}

fn is(column: &str, value: i64) -> Condition {
    Condition::OneOf {
        column: column.to_owned(),
        values: vec![crate::model::Literal::Integer(value)],
    }
}

/// Counted, listed and deleted must be the same rows; returns what is left.
async fn clean(fixture: &dyn Fixture, selection: &Selection) -> u64 {
    fixture
        .target()
        .explain(selection)
        .await
        .expect("the database takes the condition");
    let survey = fixture.target().survey(selection, 5).await.expect("a survey");
    assert_eq!(
        survey.samples.len() as u64,
        survey.row_count.min(5),
        "as many samples as there can be"
    );
    let gone = delete_all(fixture, selection).await;
    assert_eq!(gone.len() as u64, survey.row_count, "the plan counts what goes");
    let shown: Vec<&Row> = survey.samples.iter().filter(|row| !gone.contains(row)).collect();
    assert!(shown.is_empty(), "samples are rows that go, got {shown:?}");
    assert_eq!(survey_count(fixture, selection).await, 0, "nothing is left of them");
    gone.len() as u64
}

async fn players(fixture: &dyn Fixture, rows: &str) -> (String, Arc<TableSchema>) {
    let table = fresh("player");
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, grp bigint, at bigint, note text); INSERT INTO {table} (id, grp, at) VALUES {rows}"
        ))
        .await;
    let schema = schema(fixture, &table).await;
    (table, schema)
}

async fn duplicates_leave_the_newest_row_of_each_key(fixture: &dyn Fixture) {
    // One row alone; newest wins; ties by id; NULL is the oldest; all NULL; NULL keys.
    let rows = "(1, 1, 5), (2, 2, 5), (3, 2, 7), (4, 2, 6), (6, 3, 9), (5, 3, 9), (7, 4, NULL), (8, 4, 1), (10, 5, NULL), (9, 5, NULL), \
                (11, NULL, 1), (12, NULL, 1)";
    let (table, schema) = players(fixture, rows).await;
    let selection = select(&schema, duplicate(&schema, &["grp"], &["at"], true));
    assert_eq!(clean(fixture, &selection).await, 5);
    assert_eq!(remaining(fixture, &table).await, [1, 3, 5, 8, 9, 11, 12]);
}

async fn duplicates_leave_the_oldest_row_of_each_key(fixture: &dyn Fixture) {
    let rows = "(1, 1, 5), (2, 2, 5), (3, 2, 7), (6, 3, 9), (5, 3, 9), (7, 4, NULL), (8, 4, 1)";
    let (table, schema) = players(fixture, rows).await;
    let selection = select(&schema, duplicate(&schema, &["grp"], &["at"], false));
    assert_eq!(clean(fixture, &selection).await, 3);
    assert_eq!(remaining(fixture, &table).await, [1, 2, 5, 7]);
}

async fn text_keys_decide_by_their_bytes(fixture: &dyn Fixture) {
    let table = fresh("worded");
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id text PRIMARY KEY, grp text, at bigint){}; \
             INSERT INTO {table} VALUES ('b', 'x', 1), ('B', 'x', 1), ('a', 'x', 1), ('_', 'y', 1), ('É', 'y', 1), ('z', 'y', 1)",
            fixture.keyed()
        ))
        .await;
    let schema = schema(fixture, &table).await;
    clean(fixture, &select(&schema, duplicate(&schema, &["grp"], &["at"], true))).await;
    let left = fixture.rows(&format!("SELECT id FROM {table} ORDER BY grp")).await;
    assert_eq!(left, [[Some("B".to_owned())], [Some("_".to_owned())]]);
}

async fn duplicates_of_several_columns_and_orders(fixture: &dyn Fixture) {
    let table = fresh("several");
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, a bigint, b text, x bigint, y bigint); INSERT INTO {table} VALUES \
             (1, 1, 'u', 5, 1), (2, 1, 'u', 5, 2), (3, 1, 'v', 5, 1), (4, 1, 'u', NULL, 9), (5, 1, NULL, 5, 1), (6, 1, NULL, 5, 1)"
        ))
        .await;
    let schema = schema(fixture, &table).await;
    clean(fixture, &select(&schema, duplicate(&schema, &["a", "b"], &["x", "y"], true))).await;
    assert_eq!(remaining(fixture, &table).await, [2, 3, 5, 6]);
}

async fn only_rows_that_count_are_duplicates(fixture: &dyn Fixture) {
    // Row 3 would be the keeper of 1 and 2; an earlier step takes it. In the second table only rows of time 1 count at all.
    let rows = "(1, 1, 1), (2, 1, 2), (3, 1, 9), (4, 2, 9), (5, 2, 1)";
    let (table, schema) = players(fixture, rows).await;
    let mut selection = select(&schema, duplicate(&schema, &["grp"], &["at"], true));
    selection.except.push(is("at", 9));
    assert_eq!(clean(fixture, &selection).await, 1);
    assert_eq!(remaining(fixture, &table).await, [2, 3, 4, 5]);
    let (table, schema) = players(fixture, "(1, 1, 1), (2, 1, 1), (3, 1, 9), (4, 2, 9), (5, 2, 9)").await;
    let mut condition = duplicate(&schema, &["grp"], &["at"], true);
    if let Condition::Duplicate { among, .. } = &mut condition {
        among.push(is("at", 1));
    }
    assert_eq!(clean(fixture, &select(&schema, condition)).await, 1);
    assert_eq!(remaining(fixture, &table).await, [1, 3, 4, 5]);
}

async fn a_later_step_leaves_duplicates_out(fixture: &dyn Fixture) {
    let (table, schema) = players(
        fixture,
        "(1, 1, 1), (2, 1, 2), (3, 2, 1), (4, NULL, 1), (5, 3, NULL), (6, 3, 1)",
    )
    .await;
    let mut selection = select(&schema, is("at", 1));
    selection.except.push(duplicate(&schema, &["grp"], &["at"], true));
    // Row 1 goes as a duplicate, so that it is none of this step's business.
    assert_eq!(clean(fixture, &selection).await, 3);
    assert_eq!(remaining(fixture, &table).await, [1, 2, 5]);
}

async fn listed_duplicates_come_in_windows_with_what_stays(fixture: &dyn Fixture) {
    let rows: Vec<String> = (0..25).map(|id| format!("({id}, {}, {id})", id % 3)).collect();
    let (_, schema) = players(fixture, &rows.join(", ")).await;
    let selection = select(&schema, duplicate(&schema, &["grp"], &["at"], true));
    for limit in [1, 7, 22, 1_000] {
        let windows = windows(fixture, &selection, None, limit).await;
        assert_eq!(
            windows.iter().map(|window| window.keys.len()).sum::<usize>(),
            22,
            "windows of {limit}"
        );
        // A pass that resumes after any window lists what is still there.
        let again = super::windows(
            fixture,
            &selection,
            windows.first().map(|window| window.cursor.as_str()),
            limit,
        )
        .await;
        assert_eq!(
            again.iter().map(|window| window.keys.len()).sum::<usize>(),
            22,
            "windows of {limit} again"
        );
    }
}

/// Deletes the listed rows after somebody else's change; returns what is left.
async fn race(fixture: &dyn Fixture, table: &str, selection: &Selection, change: &str) -> Vec<i64> {
    let keys = listed(fixture, selection, 1_000).await;
    fixture.execute(change).await;
    let claim = claim(fixture).await;
    let mut batch = begin(fixture, claim, &selection.table).await;
    let held = batch.hold(selection, &keys).await.expect("held rows");
    let mut sink = Collector::default();
    let deleted = batch.delete(selection, &keys, Some(&mut sink)).await.expect("a deletion");
    assert_eq!(deleted, held.len() as u64, "as many rows can be held as deleted");
    assert_eq!(ids(&held), ids(&sink.rows), "the same rows");
    batch.record(&entry(claim, 0, 1)).await.expect("a journal row");
    batch.commit().await.expect("a commit");
    remaining(fixture, table).await
}

async fn a_duplicate_stays_when_its_keeper_is_gone(fixture: &dyn Fixture) {
    let (table, schema) = players(fixture, "(1, 1, 1), (2, 1, 2), (3, 1, 3), (4, 2, 1), (5, 2, 2)").await;
    let selection = select(&schema, duplicate(&schema, &["grp"], &["at"], true));
    let left = race(fixture, &table, &selection, &format!("DELETE FROM {table} WHERE id = 3")).await;
    assert_eq!(left, [1, 2, 5]);
    // The next pass finds the next keeper.
    assert_eq!(clean(fixture, &selection).await, 1);
    assert_eq!(remaining(fixture, &table).await, [2, 5]);
}

async fn a_duplicate_stays_when_its_keeper_is_no_keeper_any_more(fixture: &dyn Fixture) {
    for change in [
        "UPDATE {} SET grp = 7 WHERE id = 2",
        "UPDATE {} SET grp = NULL WHERE id = 2",
        "UPDATE {} SET at = 0 WHERE id = 2",
        "UPDATE {} SET at = NULL WHERE id = 2",
        "UPDATE {} SET at = 9 WHERE id = 1",
        "UPDATE {} SET grp = 3 WHERE id = 1",
        // Rows that an earlier step would take do not count.
        "UPDATE {} SET note = 'gone' WHERE id = 2",
    ] {
        let (table, schema) = players(fixture, "(1, 1, 1), (2, 1, 2)").await;
        let mut selection = select(&schema, duplicate(&schema, &["grp"], &["at"], true));
        selection.except.push(Condition::OneOf {
            column: "note".to_owned(),
            values: vec![crate::model::Literal::Text("gone".to_owned())],
        });
        let left = race(fixture, &table, &selection, &change.replace("{}", &table)).await;
        assert_eq!(left, [1, 2], "{change}");
    }
}

async fn a_better_row_does_not_save_a_duplicate(fixture: &dyn Fixture) {
    let (table, schema) = players(fixture, "(1, 1, 1), (2, 1, 2)").await;
    let selection = select(&schema, duplicate(&schema, &["grp"], &["at"], true));
    let change = format!("INSERT INTO {table} (id, grp, at) VALUES (3, 1, 3)");
    assert_eq!(race(fixture, &table, &selection, &change).await, [2, 3]);
}

async fn random_duplicates_are_those_of_the_model(fixture: &dyn Fixture) {
    for seed in 1..=12 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let newest_first = seed % 2 == 0;
        let mut rows: Vec<(i64, Option<i64>, Option<i64>)> = Vec::new();
        for id in 0..300 {
            let mut value = |limit| {
                let value = random.below(limit);
                (value > 0).then_some(i64::try_from(value).expect("small"))
            };
            let group = value(2 + 10 * seed);
            rows.push((id, group, value(6)));
        }
        // The oldest value is None, as it is to Option's own order.
        let mut best: BTreeMap<i64, (Option<i64>, i64)> = BTreeMap::new();
        for (id, group, at) in &rows {
            let Some(group) = group else { continue };
            let entry = best.entry(*group).or_insert((*at, *id));
            let better = if newest_first { *at > entry.0 } else { *at < entry.0 };
            if better || (*at == entry.0 && *id < entry.1) {
                *entry = (*at, *id);
            }
        }
        let kept: BTreeSet<i64> = best.values().map(|(_, id)| *id).collect();
        let expected: Vec<i64> = rows
            .iter()
            .filter(|(id, group, _)| group.is_none() || kept.contains(id))
            .map(|(id, ..)| *id)
            .collect();
        for place in (1..rows.len()).rev() {
            let other = usize::try_from(random.below(place as u64 + 1)).expect("an index");
            rows.swap(place, other);
        }
        let text = |value: Option<i64>| value.map_or("NULL".to_owned(), |value| value.to_string());
        let rows: Vec<String> = rows
            .iter()
            .map(|(id, group, at)| format!("({id}, {}, {})", text(*group), text(*at)))
            .collect();
        let (table, schema) = players(fixture, &rows.join(", ")).await;
        clean(fixture, &select(&schema, duplicate(&schema, &["grp"], &["at"], newest_first))).await;
        assert_eq!(remaining(fixture, &table).await, expected, "seed {seed}");
    }
}

async fn edges(fixture: &dyn Fixture, rows: &[(i64, i64)]) -> (String, Arc<TableSchema>) {
    let table = fresh("edge");
    let values: Vec<String> = rows.iter().map(|(from, to)| format!("({from}, {to})")).collect();
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (lesson bigint NOT NULL, needs bigint NOT NULL, PRIMARY KEY (lesson, needs)){}; INSERT INTO {table} VALUES {}",
            fixture.keyed(),
            values.join(", ")
        ))
        .await;
    let schema = schema(fixture, &table).await;
    (table, schema)
}

async fn left_of(fixture: &dyn Fixture, table: &str) -> Vec<(i64, i64)> {
    let rows = fixture
        .rows(&format!("SELECT lesson, needs FROM {table} ORDER BY lesson, needs"))
        .await;
    let number = |value: &Option<String>| value.as_deref().and_then(|value| value.parse().ok()).expect("a number");
    rows.iter().map(|row| (number(&row[0]), number(&row[1]))).collect()
}

/// Whether taking away, again and again, what begins where nothing ends leaves nothing.
fn is_acyclic(edges: &[(i64, i64)]) -> bool {
    let mut left = edges.to_vec();
    loop {
        let ends: BTreeSet<i64> = left.iter().map(|edge| edge.1).collect();
        let before = left.len();
        left.retain(|edge| ends.contains(&edge.0));
        if left.is_empty() {
            return true;
        }
        if left.len() == before {
            return false;
        }
    }
}

async fn a_cycle_of_any_length_loses_one_edge(fixture: &dyn Fixture) {
    let mut list = Vec::new();
    for length in 1..=50 {
        let base = length * 100;
        list.extend((0..length).map(|node| (base + node, base + (node + 1) % length)));
    }
    // A tail into a cycle and one out of it stay.
    list.extend([(1, 5_000), (5_010, 2)]);
    let (table, schema) = edges(fixture, &list).await;
    assert_eq!(clean(fixture, &select(&schema, cycle(&["lesson"], &["needs"]))).await, 50);
    let left = left_of(fixture, &table).await;
    assert!(is_acyclic(&left) && left.len() == list.len() - 50);
    assert!(left.contains(&(1, 5_000)) && left.contains(&(5_010, 2)));
}

async fn overlapping_cycles_lose_the_edge_they_share(fixture: &dyn Fixture) {
    let list = [(1, 2), (2, 3), (3, 1), (2, 4), (4, 1), (4, 5), (5, 6), (6, 1)];
    let (table, schema) = edges(fixture, &list).await;
    assert_eq!(clean(fixture, &select(&schema, cycle(&["lesson"], &["needs"]))).await, 1);
    assert!(!left_of(fixture, &table).await.contains(&(1, 2)));
}

async fn ends_that_are_null_are_no_edge(fixture: &dyn Fixture) {
    let table = fresh("loose");
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, a text, b text); INSERT INTO {table} VALUES \
             (1, NULL, NULL), (2, 'x', NULL), (3, NULL, 'x'), (4, 'x', 'x'), (5, 'X', 'y'), (6, 'y', 'X')"
        ))
        .await;
    let schema = schema(fixture, &table).await;
    assert_eq!(clean(fixture, &select(&schema, cycle(&["a"], &["b"]))).await, 2);
    assert_eq!(remaining(fixture, &table).await, [1, 2, 3, 5]);
}

async fn composite_ends(fixture: &dyn Fixture) {
    let table = fresh("composite");
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, a bigint, b text, c bigint, d text); INSERT INTO {table} VALUES \
             (1, 1, 'x', 1, 'y'), (2, 1, 'y', 2, 'x'), (3, 2, 'x', 1, 'x'), (4, 2, 'y', 1, 'x'), (5, 1, 'x', NULL, 'x')"
        ))
        .await;
    let schema = schema(fixture, &table).await;
    assert_eq!(clean(fixture, &select(&schema, cycle(&["a", "b"], &["c", "d"]))).await, 1);
    assert_eq!(remaining(fixture, &table).await, [1, 2, 4, 5]);
}

async fn a_parent_column_is_an_edge(fixture: &dyn Fixture) {
    let table = fresh("tree");
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, parent_id bigint); INSERT INTO {table} VALUES \
             (1, NULL), (2, 1), (3, 5), (4, 3), (5, 4), (6, 6)"
        ))
        .await;
    let schema = schema(fixture, &table).await;
    let selection = select(&schema, cycle(&["id"], &["parent_id"]));
    let keys = listed(fixture, &selection, 10).await;
    let claim = claim(fixture).await;
    let mut batch = begin(fixture, claim, &schema).await;
    let held = batch.hold(&selection, &keys).await.expect("held rows");
    assert_eq!(ids(&held), [5, 6], "what an update would set to NULL");
    batch.rollback().await;
}

async fn the_same_edges_go_in_whatever_order_they_came(fixture: &dyn Fixture) {
    let mut random = Random(3);
    let mut list: BTreeSet<(i64, i64)> = BTreeSet::new();
    while list.len() < 120 {
        let mut node = || i64::try_from(random.below(40)).expect("small");
        list.insert((node(), node()));
    }
    let mut list: Vec<(i64, i64)> = list.into_iter().collect();
    let mut first = None;
    for _ in 0..3 {
        let (table, schema) = edges(fixture, &list).await;
        clean(fixture, &select(&schema, cycle(&["lesson"], &["needs"]))).await;
        let left = left_of(fixture, &table).await;
        assert_eq!(*first.get_or_insert_with(|| left.clone()), left);
        for place in (1..list.len()).rev() {
            let other = usize::try_from(random.below(place as u64 + 1)).expect("an index");
            list.swap(place, other);
        }
    }
}

/// As [`race`], over edges.
async fn race_of_edges(fixture: &dyn Fixture, list: &[(i64, i64)], change: &str) -> Vec<(i64, i64)> {
    let (table, schema) = edges(fixture, list).await;
    let selection = select(&schema, cycle(&["lesson"], &["needs"]));
    let keys = listed(fixture, &selection, 1_000).await;
    assert!(!keys.is_empty(), "there is a cycle");
    fixture.execute(&change.replace("{}", &table)).await;
    let claim = claim(fixture).await;
    let mut batch = begin(fixture, claim, &schema).await;
    let mut sink = Collector::default();
    batch.delete(&selection, &keys, Some(&mut sink)).await.expect("a deletion");
    batch.record(&entry(claim, 0, 1)).await.expect("a journal row");
    batch.commit().await.expect("a commit");
    left_of(fixture, &table).await
}

async fn an_edge_stays_when_its_cycle_is_broken(fixture: &dyn Fixture) {
    let ring = [(1, 2), (2, 3), (3, 1), (7, 7), (8, 9), (9, 8)];
    let left = race_of_edges(fixture, &ring, "DELETE FROM {} WHERE lesson = 2").await;
    // The self loop and the other ring have nothing to do with it.
    assert_eq!(left, [(1, 2), (3, 1), (8, 9)]);
}

async fn an_edge_stays_when_its_cycle_is_led_elsewhere(fixture: &dyn Fixture) {
    let ring = [(1, 2), (2, 3), (3, 1)];
    let left = race_of_edges(fixture, &ring, "UPDATE {} SET needs = 4 WHERE lesson = 2").await;
    assert_eq!(left, [(1, 2), (2, 4), (3, 1)]);
    let left = race_of_edges(fixture, &ring, "UPDATE {} SET needs = 5 WHERE lesson = 3").await;
    assert_eq!(left, [(1, 2), (2, 3), (3, 5)]);
}

async fn edges_that_earlier_steps_take_close_nothing(fixture: &dyn Fixture) {
    let (table, schema) = edges(fixture, &[(1, 2), (2, 1), (3, 4), (4, 3)]).await;
    let mut selection = select(&schema, cycle(&["lesson"], &["needs"]));
    selection.except.push(is("lesson", 2));
    assert_eq!(clean(fixture, &selection).await, 1);
    assert_eq!(left_of(fixture, &table).await, [(1, 2), (2, 1), (3, 4)]);
}

async fn random_graphs_are_left_without_cycles(fixture: &dyn Fixture) {
    for seed in 1..=8 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut list: BTreeSet<(i64, i64)> = BTreeSet::new();
        let nodes = 5 + 20 * (seed - 1);
        while list.len() < 12 + usize::try_from(seed - 1).expect("small") * 50 {
            let mut node = || i64::try_from(random.below(nodes)).expect("small");
            list.insert((node(), node()));
        }
        let list: Vec<(i64, i64)> = list.into_iter().collect();
        let (table, schema) = edges(fixture, &list).await;
        let gone = clean(fixture, &select(&schema, cycle(&["lesson"], &["needs"]))).await;
        let left = left_of(fixture, &table).await;
        assert!(is_acyclic(&left), "seed {seed}");
        assert_eq!(left.len() as u64 + gone, list.len() as u64, "seed {seed}");
        for edge in list.iter().filter(|edge| !left.contains(edge)) {
            let with: Vec<(i64, i64)> = left.iter().chain([edge]).copied().collect();
            assert!(!is_acyclic(&with), "seed {seed}: {edge:?} closes no cycle");
        }
        if list.len() == 12 {
            let least = (0_u32..1 << 12).filter(|set| {
                let kept = list.iter().enumerate().filter(|(place, _)| set >> place & 1 == 0);
                is_acyclic(&kept.map(|(_, edge)| *edge).collect::<Vec<_>>())
            });
            assert_eq!(
                Some(gone),
                least.map(|set| u64::from(set.count_ones())).min(),
                "the fewest edges"
            );
        }
    }
}

async fn sets_with_quoted_names(fixture: &dyn Fixture) {
    let name = format!("{} \"q\" C", fresh("Odd"));
    let table = quote(&name);
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, \"the \"\"from\" text, \"C\" text, \"order\" bigint); \
             INSERT INTO {table} VALUES (1, 'a', 'b', 1), (2, 'b', 'a', 1), (3, 'a', 'c', 2)"
        ))
        .await;
    let schema = schema(fixture, &name).await;
    let selection = select(&schema, cycle(&["the \"from"], &["C"]));
    assert_eq!(clean(fixture, &selection).await, 1);
    let selection = select(&schema, duplicate(&schema, &["the \"from"], &["order"], true));
    assert_eq!(clean(fixture, &selection).await, 1);
    assert_eq!(remaining(fixture, &table).await, [3]);
}
