//! Counts the rows that a deletion reaches along its links, in one statement over the selection itself, and tells which links
//! cannot be followed as SQLite's own keys do.

use dbkeep_engine::{
    model::{ChildAction, ChildLink, Selection, TableName, TableSchema},
    port::{ChildCount, TargetError},
};
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    error::{refused, statement},
    render,
};

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

/// A statement with two counts for each link, those of a [`ChildCount`]. `d0`, `d1`, .. hold the rows that go, table by table,
/// parents first; rows that name one another within a table are followed by recursion.
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
            let same = render::names(link, "p", "t");
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
                name.clone()
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
            counts.push("0".to_owned());
            counted.push(&link.child.name);
            continue;
        }
        let mut all = vec![format!(
            "EXISTS (SELECT 1 FROM d{} AS p WHERE {})",
            place(&link.parent.name)?,
            render::names(link, "p", "t")
        )];
        all.extend(render::none_of(&link.except, "t")?);
        let rows = |all: &[String]| {
            format!(
                "(SELECT count(*) FROM {} AS t WHERE {})",
                render::table(&link.child.name),
                all.join(" AND ")
            )
        };
        let Ok(number) = place(&link.child.name) else {
            counts.extend([rows(&all), "0".to_owned()]);
            continue;
        };
        let key = &link.child.primary_key;
        let going = format!(
            "EXISTS (SELECT 1 FROM d{number} AS q WHERE {})",
            render::same("q", key, "t", key)
        );
        let all = |last: String| rows(&[all.as_slice(), &[last]].concat());
        counts.extend([all(format!("NOT {going}")), all(going)]);
    }
    Ok(format!("WITH RECURSIVE {} SELECT {}", parts.join(", "), counts.join(", ")))
}

/// The counts of a row of [`counts`].
pub(super) fn counted(row: &SqliteRow, links: usize) -> Result<Vec<ChildCount>, TargetError> {
    let count = |place: usize| {
        let count: i64 = row.try_get_unchecked(place).map_err(statement)?;
        Ok::<_, TargetError>(u64::try_from(count).unwrap_or(0))
    };
    let pairs = (0..links).map(|link| {
        Ok(ChildCount {
            rows: count(2 * link)?,
            also_going: count(2 * link + 1)?,
        })
    });
    pairs.collect()
}

/// Why a link cannot be followed as SQLite's own key does. Its action compares by the parent's collation, and an index of the child
/// must serve that: elsewhere each deleted row reads the whole child. A number and something else are compared by one rule when a
/// child looks for its parent and by another when the parent goes, so that the action may take the child of a row that stays.
pub(super) async fn unlike(connection: &mut SqliteConnection, link: &ChildLink) -> Result<Option<String>, TargetError> {
    let kind = |table: &TableSchema, name: &str| table.column(name).map(|column| render::affinity(&column.type_name));
    let mut pairs = link.parent_columns.iter().zip(&link.child_columns);
    let alike = pairs.all(|(of_parent, of_child)| kind(&link.parent, of_parent) == kind(&link.child, of_child));
    if alike && has_index(connection, link).await? {
        return Ok(None);
    }
    Ok(Some(format!(
        "{} ({}) and {} ({}) differ in {}, so that rows cannot be found by an index as the database's own key finds them",
        link.parent.name,
        link.parent_columns.join(", "),
        link.child.name,
        link.child_columns.join(", "),
        if alike { "collation" } else { "type" }
    )))
}

/// Whether an index of the child serves the comparison that a key makes.
async fn has_index(connection: &mut SqliteConnection, link: &ChildLink) -> Result<bool, TargetError> {
    let (parent, child) = (render::table(&link.parent.name), render::table(&link.child.name));
    let same = render::same("p", &link.parent_columns, "t", &link.child_columns);
    // What ANALYZE has gathered may speak against every index, so that each is tried by its name as well.
    let names: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_index_list(?) WHERE partial = 0")
        .bind(&link.child.name.name)
        .fetch_all(&mut *connection)
        .await
        .map_err(statement)?;
    let tries = names.iter().map(|name| format!(" INDEXED BY {}", render::identifier(name)));
    for indexed_by in std::iter::once(String::new()).chain(tries) {
        let sql = format!("EXPLAIN QUERY PLAN SELECT 1 FROM {parent} AS p CROSS JOIN {child} AS t{indexed_by} WHERE {same}");
        // An index that cannot be used at all is an error.
        let Ok(steps) = sqlx::query(AssertSqlSafe(sql))
            .persistent(false)
            .fetch_all(&mut *connection)
            .await
        else {
            continue;
        };
        for step in steps {
            let step: String = step.try_get_unchecked(3).map_err(statement)?;
            let by_index = step
                .strip_prefix("SEARCH t USING ")
                .filter(|how| !how.starts_with("AUTOMATIC"));
            if by_index.is_some_and(|how| how.matches("=?").count() >= link.child_columns.len()) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
