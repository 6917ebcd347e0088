//! Trying candidates: sampled values are looked up in the parents, one statement for all candidates of a parent's key. Called by
//! `relate`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Work,
    candidates::Candidate,
    facts::{Table, text},
};
use crate::{
    model::Row,
    port::{Target, TargetError},
};

/// Most keys that one statement looks up.
const LOOKUPS: usize = 4_000;
/// Rows of which the pairs of a composite key are looked up.
const COMPOSITE_ROWS: u32 = 300;

/// Looks sampled values up in the parents: one statement for all candidates of a parent's key, however many children it has.
pub(super) async fn measure(
    target: &dyn Target,
    tables: &[Table],
    candidates: &mut [Candidate],
    work: &mut Work,
) -> Result<(), TargetError> {
    let mut by_parent: BTreeMap<(usize, Vec<String>), Vec<usize>> = BTreeMap::new();
    for (position, candidate) in candidates.iter().enumerate() {
        by_parent
            .entry((candidate.parent, candidate.key.columns.clone()))
            .or_default()
            .push(position);
    }
    for ((parent, key), positions) in by_parent {
        let to = &tables[parent];
        let mut batch: Vec<(usize, Vec<Row>)> = Vec::new();
        let mut size = 0;
        for position in positions {
            let rows = keys_of(target, tables, &candidates[position], work).await?;
            size += rows.len();
            batch.push((position, rows));
            if size >= LOOKUPS {
                look_up(target, to, &key, std::mem::take(&mut batch), candidates, work).await?;
                size = 0;
            }
        }
        look_up(target, to, &key, batch, candidates, work).await?;
    }
    Ok(())
}

/// The sampled keys of a candidate.
async fn keys_of(target: &dyn Target, tables: &[Table], candidate: &Candidate, work: &mut Work) -> Result<Vec<Row>, TargetError> {
    let from = &tables[candidate.child];
    if let [column] = candidate.columns.as_slice() {
        let values = from.profile(column).map_or(&[][..], |profile| &profile.values);
        return Ok(values.iter().map(|value| vec![value.clone()]).collect());
    }
    if work.is_over() {
        return Ok(Vec::new());
    }
    let sample = target.sample(&from.schema, &candidate.columns, COMPOSITE_ROWS).await;
    let sample = work.tolerate(sample, || format!("no keys of {} could be read", from.name))?;
    let mut seen = BTreeSet::new();
    let rows = sample.into_iter().flat_map(|sample| sample.rows);
    Ok(rows
        .filter(|row| {
            let texts: Option<Vec<String>> = row.iter().map(text).collect();
            texts.is_some_and(|texts| seen.insert(texts))
        })
        .collect())
}

async fn look_up(
    target: &dyn Target,
    parent: &Table,
    key: &[String],
    batch: Vec<(usize, Vec<Row>)>,
    candidates: &mut [Candidate],
    work: &mut Work,
) -> Result<(), TargetError> {
    let asked: Vec<Row> = batch.iter().flat_map(|(_, rows)| rows).cloned().collect();
    if asked.is_empty() || work.is_over() {
        return Ok(());
    }
    let present = target.present(&parent.schema, key, &asked).await;
    let Some(present) = work.tolerate(present, || format!("no values could be looked up in {}", parent.name))? else {
        return Ok(());
    };
    let mut rest = present.as_slice();
    for (position, rows) in &batch {
        let (mine, others) = rest.split_at(rows.len().min(rest.len()));
        candidates[*position].learn(rows, mine);
        rest = others;
    }
    Ok(())
}
