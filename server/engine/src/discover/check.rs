//! The proof of each proposal: its snippet is read by the catalog's own reader, fitted to the target's schema as the planner does it,
//! and counted by the survey that plans use. What fails one of these is told as unsupported, never shown as ready. Called by `mod.rs`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    Proposal, Work,
    facts::Table,
    snippet::{self, Draft},
};
use crate::{
    catalog::Catalog,
    model::{Selection, TableKind, TableName},
    port::{Target, TargetError},
    rule::{Rule, Schemas},
};

/// Writes the drafts down, checks and counts them.
pub(super) async fn proposals(
    target: &dyn Target,
    limit: Duration,
    tables: &[Table],
    drafts: Vec<Draft>,
    catalog: &Catalog,
    work: &mut Work,
) -> Result<Vec<Proposal>, TargetError> {
    let mut allowed = work.left(limit);
    let mut counting = target.bounded(allowed);
    let names: Vec<Option<TableName>> = tables
        .iter()
        .map(|table| snippet::table_name(target.engine(), table))
        .collect();
    let schemas: Schemas = tables
        .iter()
        .zip(&names)
        .filter_map(|(table, name)| Some((name.clone()?, Arc::clone(&table.schema))))
        .collect();
    // Rows are old by the clock that wrote them.
    let clock = if drafts.is_empty() {
        None
    } else {
        let status = counting.status().await;
        work.tolerate(status, || "the target's clock could not be read".to_owned())?
            .map(|status| status.clock)
    };
    let mut taken: BTreeSet<String> = catalog.operations().iter().map(|operation| operation.name.clone()).collect();
    let mut proposals = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let involved = std::iter::once(draft.table).chain(draft.parent.iter().map(|(parent, _)| *parent));
        if let Some(unsayable) = involved.into_iter().find(|position| names[*position].is_none()) {
            let name = &tables[unsayable].name;
            work.warnings.push(format!(
                "a catalog cannot write the name of {name}; what was found about it is left out"
            ));
            continue;
        }
        let Some(table) = names[draft.table].clone() else { continue };
        let operation = snippet::operation_name(&draft, &mut taken);
        let toml = snippet::render(&draft, &operation, &table, &names);
        let parent = draft
            .parent
            .as_ref()
            .and_then(|(parent, columns)| Some((names[*parent].clone()?, columns.clone())));
        let mut proposal = Proposal {
            operation,
            kind: draft.kind.to_owned(),
            table,
            columns: draft.columns,
            parent,
            description: draft.description,
            confidence: draft.confidence,
            evidence: draft.evidence,
            row_count: None,
            uncounted: String::new(),
            toml,
            note: String::new(),
            supported: false,
        };
        let mut notes = draft.notes;
        if tables[draft.table].schema.kind != TableKind::Table {
            notes.push("The table is partitioned or inherited from: a plan for it is blocked.".to_owned());
        }
        match fit(target, &proposal.toml, &schemas, clock) {
            Ok((rule, selection)) => {
                proposal.supported = true;
                notes.extend(known(catalog, &rule));
                let left = work.left(limit);
                if left < allowed {
                    allowed = left;
                    counting = target.bounded(left);
                }
                count(counting.as_ref(), &selection, &mut proposal, work).await?;
            }
            Err(problem) => {
                proposal.uncounted.clone_from(&problem);
                notes.push(format!("Not ready to use: {problem}."));
            }
        }
        proposal.note = notes.join(" ");
        proposals.push(proposal);
    }
    Ok(proposals)
}

/// Reads the snippet as a catalog and fits its rule to the schema.
fn fit(target: &dyn Target, toml: &str, schemas: &Schemas, clock: Option<Timestamp>) -> Result<(Rule, Selection), String> {
    let catalog = Catalog::parse("the snippet", toml).map_err(|error| error.problem)?;
    let rule = catalog.operations().first().and_then(|operation| operation.rules.first());
    let rule = rule.ok_or("it holds no rule")?.clone();
    let clock = clock.ok_or("the target's clock could not be read")?;
    let horizon = rule.horizon(clock).map_err(|mismatch| mismatch.expected)?;
    let matches = rule
        .condition(target.engine(), schemas, horizon)
        .map_err(|mismatch| mismatch.expected)?;
    let table = schemas.get(&rule.table).ok_or("its table is unknown")?;
    let selection = Selection {
        table: Arc::clone(table),
        matches,
        except: Vec::new(),
    };
    Ok((rule, selection))
}

/// A rule of the catalog that does the same.
fn known(catalog: &Catalog, rule: &Rule) -> Option<String> {
    let same = |other: &Rule| other.kind == rule.kind && other.table.name == rule.table.name;
    let operation = catalog
        .operations()
        .iter()
        .find(|operation| operation.rules.iter().any(same))?;
    Some(format!("The catalog has this rule already, in operation {}.", operation.name))
}

async fn count(target: &dyn Target, selection: &Selection, proposal: &mut Proposal, work: &mut Work) -> Result<(), TargetError> {
    if work.is_over() {
        proposal.uncounted = "the time for this discovery is over".to_owned();
        return Ok(());
    }
    let warned = work.warnings.len();
    let survey = target.survey(selection, 0).await;
    match work.tolerate(survey, || format!("{} was not counted", proposal.operation))? {
        Some(survey) => proposal.row_count = Some(survey.row_count),
        None => proposal.uncounted = work.warnings.drain(warned..).next().unwrap_or_default(),
    }
    Ok(())
}
