//! Trying candidates: sampled values are looked up in the parents, one statement for all candidates of a parent's key. Called by
//! `relate`.

use std::collections::BTreeMap;

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

/// Distinct keys, and how many rows of the sample have each.
#[derive(Default)]
struct Keys {
    rows: Vec<Row>,
    counts: Vec<usize>,
}

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
        let mut batch: Vec<(usize, Keys)> = Vec::new();
        let mut size = 0;
        for position in positions {
            let keys = keys_of(target, tables, &candidates[position], work).await?;
            size += keys.rows.len();
            batch.push((position, keys));
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
async fn keys_of(target: &dyn Target, tables: &[Table], candidate: &Candidate, work: &mut Work) -> Result<Keys, TargetError> {
    let from = &tables[candidate.child];
    if let [column] = candidate.columns.as_slice() {
        let keys = from.profile(column).map(|profile| Keys {
            rows: profile.values.iter().map(|value| vec![value.clone()]).collect(),
            counts: profile.counts.clone(),
        });
        return Ok(keys.unwrap_or_default());
    }
    if work.is_over() {
        return Ok(Keys::default());
    }
    let sample = target.sample(&from.schema, &candidate.columns, COMPOSITE_ROWS).await;
    let sample = work.tolerate(sample, || format!("no keys of {} could be read", from.name))?;
    let mut keys = Keys::default();
    let mut places: BTreeMap<Vec<String>, usize> = BTreeMap::new();
    for row in sample.into_iter().flat_map(|sample| sample.rows) {
        let Some(texts) = row.iter().map(text).collect::<Option<Vec<String>>>() else {
            continue;
        };
        if let Some(&place) = places.get(&texts) {
            keys.counts[place] += 1;
        } else {
            places.insert(texts, keys.rows.len());
            keys.rows.push(row);
            keys.counts.push(1);
        }
    }
    Ok(keys)
}

async fn look_up(
    target: &dyn Target,
    parent: &Table,
    key: &[String],
    batch: Vec<(usize, Keys)>,
    candidates: &mut [Candidate],
    work: &mut Work,
) -> Result<(), TargetError> {
    let asked: Vec<Row> = batch.iter().flat_map(|(_, keys)| &keys.rows).cloned().collect();
    if asked.is_empty() || work.is_over() {
        return Ok(());
    }
    let present = target.present(&parent.schema, key, &asked).await;
    let Some(present) = work.tolerate(present, || format!("no values could be looked up in {}", parent.name))? else {
        return Ok(());
    };
    let mut rest = present.as_slice();
    for (position, keys) in &batch {
        let (mine, others) = rest.split_at(keys.rows.len().min(rest.len()));
        candidates[*position].learn(&keys.rows, &keys.counts, mine);
        rest = others;
    }
    Ok(())
}
