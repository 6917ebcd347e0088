//! Counts the rows that a deletion reaches along its links, in one statement over the selection itself.

use dbkeep_engine::{
    model::{ChildAction, ChildLink, Selection, TableName, TableSchema},
    port::{ChildCount, TargetError},
};
use sqlx::{Row as _, postgres::PgRow};

use super::{
    error::{refused, statement},
    line::Line,
    render::{self, Pace},
};

/// Columns of a child ($1, $3) and of its parent ($2, $4) that a declared key does not compare as an index of the child would, or
/// that no comparison is sure of. The collation of `=` between the two is the child's, unless that is the default one: so they must
/// be one, or one of them the default, and both tell apart whatever differs.
const UNLIKE: &str = "SELECT c.attname::text, p.attname::text \
     FROM unnest($3::text[], $4::text[]) AS k(child, parent) \
     JOIN pg_catalog.pg_attribute AS c ON c.attrelid = to_regclass($1) AND c.attname = k.child \
     JOIN pg_catalog.pg_attribute AS p ON p.attrelid = to_regclass($2) AND p.attname = k.parent \
     CROSS JOIN LATERAL (SELECT coalesce((WITH RECURSIVE d (oid, typtype, typbasetype) AS ( \
       SELECT n.oid, n.typtype, n.typbasetype FROM pg_catalog.pg_type AS n WHERE n.oid = c.atttypid \
       UNION ALL SELECT n.oid, n.typtype, n.typbasetype FROM d JOIN pg_catalog.pg_type AS n ON n.oid = d.typbasetype WHERE d.typtype = 'd') \
       SELECT nullif(d.oid, 'varchar'::regtype) FROM d WHERE d.typtype <> 'd'), 'text'::regtype) AS base) AS ct \
     CROSS JOIN LATERAL (SELECT coalesce((WITH RECURSIVE d (oid, typtype, typbasetype) AS ( \
       SELECT n.oid, n.typtype, n.typbasetype FROM pg_catalog.pg_type AS n WHERE n.oid = p.atttypid \
       UNION ALL SELECT n.oid, n.typtype, n.typbasetype FROM d JOIN pg_catalog.pg_type AS n ON n.oid = d.typbasetype WHERE d.typtype = 'd') \
       SELECT nullif(d.oid, 'varchar'::regtype) FROM d WHERE d.typtype <> 'd'), 'text'::regtype) AS base) AS pt \
     WHERE (c.attcollation <> p.attcollation AND c.attcollation <> 0 AND p.attcollation <> 0 \
         AND (EXISTS (SELECT 1 FROM pg_catalog.pg_collation AS l WHERE l.oid IN (c.attcollation, p.attcollation) AND NOT l.collisdeterministic) \
           OR '\"default\"'::regcollation NOT IN (c.attcollation, p.attcollation))) \
       OR (ct.base <> pt.base \
         AND EXISTS (SELECT 1 FROM pg_catalog.pg_constraint AS f WHERE f.contype = 'f' AND f.conrelid = c.attrelid AND f.confrelid = p.attrelid \
           AND c.attnum = ANY (f.conkey) AND p.attnum = ANY (f.confkey)) \
         AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_amop AS o JOIN pg_catalog.pg_am AS m ON m.oid = o.amopmethod \
           WHERE m.amname = 'btree' AND o.amopstrategy = 3 AND o.amoplefttype = pt.base AND o.amoprighttype = ct.base))";

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
pub(super) fn counts(selection: &Selection, links: &[ChildLink], pace: Pace) -> Result<String, TargetError> {
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
        let from = format!("SELECT {listed} FROM ONLY {name} AS t");
        let mut within = Vec::new();
        let mut reached = Vec::new();
        let mut gone = Vec::new();
        for link in links
            .iter()
            .filter(|link| link.action == ChildAction::Delete && link.child.name == table.name)
        {
            gone = render::none_of(table, &link.except, "t")?;
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
            parts.push(format!("s AS ({from} WHERE {})", render::predicate_at(selection, pace)?));
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
                format!("ONLY {name}")
            } else {
                format!("(SELECT t.* FROM ONLY {name} AS t WHERE {})", gone.join(" AND "))
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
                "0::bigint".to_owned()
            } else if number == 0 {
                "(SELECT count(*) FROM d0) - (SELECT count(*) FROM s)".to_owned()
            } else {
                format!("(SELECT count(*) FROM d{number})")
            });
            counts.push("0::bigint".to_owned());
            counted.push(&link.child.name);
            continue;
        }
        let mut all = vec![format!(
            "EXISTS (SELECT 1 FROM d{} AS p WHERE {})",
            place(&link.parent.name)?,
            render::same("p", &link.parent_columns, "t", &link.child_columns)
        )];
        all.extend(render::none_of(&link.child, &link.except, "t")?);
        let rows = |all: &[String]| {
            format!(
                "(SELECT count(*) FROM ONLY {} AS t WHERE {})",
                render::table(&link.child.name),
                all.join(" AND ")
            )
        };
        let Ok(number) = place(&link.child.name) else {
            counts.extend([rows(&all), "0::bigint".to_owned()]);
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
pub(super) fn counted(row: &PgRow, links: usize) -> Result<Vec<ChildCount>, TargetError> {
    let count = |place: usize| {
        let count: i64 = row.try_get(place).map_err(statement)?;
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

/// Why `=` along a link is not what the database's own key means by equal. Where the two columns have no operator of their own in an
/// index, a declared key casts the child's value (text to character, say) and no index serves it.
pub(super) async fn unlike(connection: &mut Line, link: &ChildLink) -> Result<Option<String>, TargetError> {
    let unlike = sqlx::query(UNLIKE)
        .bind(render::table(&link.child.name))
        .bind(render::table(&link.parent.name))
        .bind(&link.child_columns)
        .bind(&link.parent_columns)
        .fetch_optional(connection)
        .await
        .map_err(statement)?;
    let Some(unlike) = unlike else { return Ok(None) };
    let (of_child, of_parent): (String, String) = (unlike.try_get(0).map_err(statement)?, unlike.try_get(1).map_err(statement)?);
    Ok(Some(format!(
        "{}.{of_parent} and {}.{of_child} differ in type or collation, so that no index of the child finds the rows that the \
         database's own key would",
        link.parent.name, link.child.name
    )))
}
