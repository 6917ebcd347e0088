//! Which table a catalog means by a name. A name that could mean several is refused: the database would take one of them without
//! a word. Called by the planner, and by the engine for what an undo needs.

use super::{PlanError, StepRule};
use crate::{
    model::{TableName, TableSchema},
    port::{Namesakes, Target, TargetError, TargetErrorClass},
    rule::Mismatch,
};

fn listed(names: &[TableName]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Refuses a name that could mean several tables: the database would take one of them without a word.
fn check_unambiguous(name: &TableName, namesakes: &Namesakes) -> Result<(), Mismatch> {
    if namesakes.reached.len() > 1 {
        return Err(Mismatch::new(format!(
            "table {name} could be any of {}, all of which the search path reaches; expected one of these names",
            listed(&namesakes.reached)
        )));
    }
    Ok(())
}

/// The shape of a table that a rule names; `None` where there is none of that name anywhere.
pub(super) async fn look_up(
    target: &dyn Target,
    step: &StepRule<'_>,
    name: &TableName,
) -> Result<Option<TableSchema>, PlanError> {
    if name.schema.is_none() {
        let namesakes = target.namesakes(name).await?;
        check_unambiguous(name, &namesakes).map_err(|mismatch| step.mismatch(mismatch))?;
        if namesakes.reached.is_empty() && !namesakes.elsewhere.is_empty() {
            return Err(step.mismatch(Mismatch::new(format!(
                "table {name} does not exist where the search path leads; expected its full name, such as {}",
                listed(&namesakes.elsewhere)
            ))));
        }
    }
    target.introspect(name).await.map_err(|error| unsupported(step, name, error))
}

/// A name that no table of this database can have is the catalog's mistake.
fn unsupported(step: &StepRule<'_>, name: &TableName, error: TargetError) -> PlanError {
    if error.class == TargetErrorClass::Unsupported {
        return step.mismatch(Mismatch::new(format!("table {name}: {error}; expected another name")));
    }
    error.into()
}

/// Full name of an archive table, and its shape where it is there.
pub(super) async fn archive_table(
    target: &dyn Target,
    step: &StepRule<'_>,
    into: &TableName,
) -> Result<(TableName, Option<TableSchema>), PlanError> {
    let namesakes = target.namesakes(into).await.map_err(|error| unsupported(step, into, error))?;
    check_unambiguous(into, &namesakes).map_err(|mismatch| step.mismatch(mismatch))?;
    Ok(match target.introspect(into).await? {
        Some(archive) => (archive.name.clone(), Some(archive)),
        None => (namesakes.made, None),
    })
}

/// Full name of the table that a run has archived rows into, or would have: it may be gone.
pub(crate) async fn archive_name(target: &dyn Target, into: &TableName) -> Result<TableName, TargetError> {
    Ok(match target.introspect(into).await? {
        Some(archive) => archive.name,
        None => target.namesakes(into).await?.made,
    })
}
