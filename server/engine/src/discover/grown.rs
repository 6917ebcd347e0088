//! A rule for one table that is known to grow and that no operation looks at. Told by itself, without a look at other tables, and without
//! counting: whoever advises must not read whole tables. Called by [`crate::Engine::recommendations`].

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{
    Proposal, Work, age, check,
    facts::{self, Table},
    snippet::{Draft, Setting},
};
use crate::{
    catalog::Catalog,
    model::{TableName, TypeClass},
    port::{Target, TargetError},
};

/// A rule that keeps the table from growing for ever, ready for a catalog: by a column of time where it has one, by a condition that is
/// still to be written where it has none. `None` where the table is not there or cannot be read, or a catalog cannot write its name.
/// Reads a bounded sample of the table, and nothing else; no statement takes longer than `limit`.
///
/// # Errors
/// Where the target is out of reach.
pub async fn for_grown(
    target: &dyn Target,
    catalog: &Catalog,
    table: &TableName,
    limit: Duration,
) -> Result<Option<Proposal>, TargetError> {
    let mut work = Work {
        until: Instant::now() + limit,
        given_up: CancellationToken::new(),
        cut_short: false,
        warnings: Vec::new(),
    };
    let looking = target.bounded(limit);
    let tables = facts::gather(looking.as_ref(), vec![table.clone()], &mut work).await?;
    let Some(grown) = tables.first() else { return Ok(None) };
    let Some(draft) = age::of_grown(target.engine(), grown).or_else(|| by_condition(grown)) else {
        return Ok(None);
    };
    // Nothing is counted once the time is over, and to count is to read the whole table.
    work.cut_short = true;
    let found = check::proposals(target, limit, &tables, vec![draft], catalog, &mut work).await?;
    Ok(found.into_iter().find(|proposal| proposal.supported))
}

/// A rule whose condition takes no row, for somebody to write.
fn by_condition(table: &Table) -> Option<Draft> {
    let comparable = || table.schema.columns.iter().find(|column| column.class != TypeClass::Other);
    let key = table.schema.primary_key.first();
    let column = key.or_else(|| comparable().map(|column| &column.name))?.clone();
    let quoted = TableName {
        schema: None,
        name: column.clone(),
    }
    .quoted();
    Some(Draft {
        kind: "filter",
        table: 0,
        columns: vec![column],
        parent: None,
        title: "old",
        subject: table.name.name.clone(),
        description: format!("Rows of {} that nobody needs any more.", table.name),
        category: "LOGS",
        severity: "MEDIUM",
        settings: vec![("condition", Setting::Text(format!("{quoted} <> {quoted}")))],
        comments: vec![("condition", "PLACEHOLDER: say which rows nobody needs any more")],
        confidence: 0.3,
        evidence: vec!["The table grows, and no column says when a row expires or was written.".to_owned()],
        notes: vec!["PLACEHOLDER: condition is true of no row; say which rows nobody needs any more.".to_owned()],
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use crate::catalog::Catalog;

    #[test]
    fn what_waits_for_a_decision_takes_nothing_yet() {
        let is_placeholder = |settings: &str| {
            let text = format!(
                "[[operation]]\nname = \"o\"\ncategory = \"LOGS\"\nseverity = \"LOW\"\nbackup = false\n\
                 [[operation.rule]]\nname = \"r\"\ntable = \"t\"\n{settings}\n"
            );
            let catalog = Catalog::parse("c.toml", &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            let now = Timestamp::from_second(1_800_000_000).expect("a time");
            catalog.operations()[0].rules[0].is_placeholder(now)
        };
        for (settings, expected) in [
            ("kind = \"expired\"\ncolumn = \"c\"\nretention = \"P100Y\"", true),
            ("kind = \"expired\"\ncolumn = \"c\"\nretention = \"P5Y\"", false),
            ("kind = \"expired\"\ncolumn = \"c\"\nexpiry = true", false),
            ("kind = \"filter\"\ncondition = '\"id\" <> \"id\"'", true),
            ("kind = \"filter\"\ncondition = 'id <> other'", false),
            ("kind = \"filter\"\ncondition = 'id <> id OR done'", false),
        ] {
            assert_eq!(is_placeholder(settings), expected, "{settings}");
        }
    }
}
