//! Counts the rows that a deletion reaches along its links, in one statement over the selection itself.

use dbkeep_engine::{
    model::{ChildAction, ChildLink, Selection, TableName, TableSchema},
    port::TargetError,
};

use super::{error::refused, render};

/// Columns by which rows of a table are told apart and named by others.
fn columns(table: &TableSchema, links: &[ChildLink]) -> Vec<String> {
    let mut columns = table.primary_key.clone();
    for name in links
        .iter()
        .filter(|link| link.parent.name == table.name)
        .flat_map(|link| &link.parent_columns)
    {
        if !columns.contains(name) {
            columns.push(name.clone());
        }
    }
    columns
}

fn list(columns: &[String]) -> String {
    let columns = columns.iter().map(|name| format!("t.{}", render::identifier(name)));
    columns.collect::<Vec<_>>().join(", ")
}

/// A statement with one count for each link. `d0`, `d1`, .. hold the rows that go, table by table, parents first; rows that
/// name one another within a table are followed by recursion.
pub(super) fn counts(selection: &Selection, links: &[ChildLink]) -> Result<String, TargetError> {
    let root = &selection.table;
    let mut tables: Vec<&TableSchema> = vec![root];
    for link in links.iter().filter(|link| link.action == ChildAction::Delete) {
        if !tables.iter().any(|table| table.name == link.child.name) {
            tables.push(&link.child);
        }
    }
    let place = |name: &TableName| {
        let place = tables.iter().position(|table| table.name == *name);
        place.ok_or_else(|| refused(format!("no link leads to {name}")))
    };
    let mut parts = Vec::new();
    for (number, table) in tables.iter().enumerate() {
        let (listed, name) = (list(&columns(table, links)), render::table(&table.name));
        let from = format!("SELECT {listed} FROM {name} AS t");
        let mut within = Vec::new();
        let mut reached = Vec::new();
        let mut gone = Vec::new();
        for link in links
            .iter()
            .filter(|link| link.action == ChildAction::Delete && link.child.name == table.name)
        {
            gone = render::none_of(&link.except, "t")?;
            let same = render::same("p", &link.parent_columns, "t", &link.child_columns);
            if link.parent.name == table.name {
                within.push(format!("({same})"));
            } else {
                reached.push(format!(
                    "EXISTS (SELECT 1 FROM d{} AS p WHERE {same})",
                    place(&link.parent.name)?
                ));
            }
        }
        let first = if number == 0 {
            parts.push(format!("s AS ({from} WHERE {})", render::predicate(selection)?));
            "SELECT * FROM s".to_owned()
        } else {
            let mut all = vec![format!("({})", reached.join(" OR "))];
            all.extend(gone.iter().cloned());
            format!("{from} WHERE {}", all.join(" AND "))
        };
        let recursion = if within.is_empty() {
            String::new()
        } else {
            // A condition in SQL names columns without their table: it must not see `p`, which has some of the same.
            let left = if gone.is_empty() {
                format!("{name}")
            } else {
                format!("(SELECT t.* FROM {name} AS t WHERE {})", gone.join(" AND "))
            };
            format!(
                " UNION SELECT {listed} FROM {left} AS t, d{number} AS p WHERE {}",
                within.join(" OR ")
            )
        };
        parts.push(format!("d{number} AS ({first}{recursion})"));
    }
    let mut counted: Vec<&TableName> = Vec::new();
    let mut counts = Vec::new();
    for link in links {
        if link.action == ChildAction::Delete {
            let number = place(&link.child.name)?;
            counts.push(if counted.contains(&&link.child.name) {
                "0".to_owned()
            } else if number == 0 {
                "(SELECT count(*) FROM d0) - (SELECT count(*) FROM s)".to_owned()
            } else {
                format!("(SELECT count(*) FROM d{number})")
            });
            counted.push(&link.child.name);
            continue;
        }
        let mut all = vec![format!(
            "EXISTS (SELECT 1 FROM d{} AS p WHERE {})",
            place(&link.parent.name)?,
            render::same("p", &link.parent_columns, "t", &link.child_columns)
        )];
        all.extend(render::none_of(&link.except, "t")?);
        if let Ok(number) = place(&link.child.name) {
            let key = &link.child.primary_key;
            all.push(format!(
                "NOT EXISTS (SELECT 1 FROM d{number} AS q WHERE {})",
                render::same("q", key, "t", key)
            ));
        }
        counts.push(format!(
            "(SELECT count(*) FROM {} AS t WHERE {})",
            render::table(&link.child.name),
            all.join(" AND ")
        ));
    }
    Ok(format!("WITH RECURSIVE {} SELECT {}", parts.join(", "), counts.join(", ")))
}
