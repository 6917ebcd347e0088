//! From declared keys and the catalog's own children to the links along which a deletion reaches other rows.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    model::{ChildAction, ChildLink, Condition, Finding, OnDelete, TableName, TableSchema},
    rule::{Mismatch, Rule, Schemas, check_pairs},
};

use super::block;

/// The links of a rule whose rows go, a parent before its children, and what is wrong with them.
pub(super) struct Links {
    pub(super) links: Vec<ChildLink>,
    pub(super) findings: Vec<Finding>,
}

/// What a declared key does; the catalog's word for the same columns goes first.
struct Declared<'a> {
    name: String,
    child: &'a TableName,
    columns: &'a [String],
    null_columns: &'a [String],
    parent_columns: &'a [String],
    action: ChildAction,
}

fn schema<'a>(schemas: &'a Schemas, resolved: &TableName) -> Option<&'a Arc<TableSchema>> {
    schemas.values().find(|schema| schema.name == *resolved)
}

/// Tables that a walk along the keys of `table` comes to next and that are not known yet.
pub(super) fn unknown_children(rule: &Rule, schemas: &Schemas) -> Vec<TableName> {
    let Some(root) = schemas.get(&rule.table) else {
        return Vec::new();
    };
    let mut unknown = Vec::new();
    let mut seen = BTreeSet::from([&root.name]);
    let mut next = vec![root];
    while let Some(table) = next.pop() {
        for key in &table.incoming {
            match schema(schemas, &key.child) {
                None => unknown.push(key.child.clone()),
                Some(child) if key.on_delete == OnDelete::Cascade && seen.insert(&child.name) => next.push(child),
                Some(_) => {}
            }
        }
        for child in rule.children.iter().filter(|child| child.action == ChildAction::Delete) {
            if let Some(child) = schemas.get(&child.table)
                && seen.insert(&child.name)
            {
                next.push(child);
            }
        }
    }
    unknown
}

/// The links of one table of the walk.
fn of_table<'a>(
    table: &'a TableSchema,
    rule: &'a Rule,
    schemas: &'a Schemas,
    findings: &mut Vec<Finding>,
) -> Result<Vec<Declared<'a>>, Mismatch> {
    let mut declared = Vec::new();
    for child in &rule.children {
        let of = schemas.get(child.of.as_ref().unwrap_or(&rule.table));
        let Some(resolved) = schemas.get(&child.table) else {
            return Err(Mismatch::new(format!(
                "child table {} does not exist; expected a table of the target",
                child.table
            )));
        };
        if of.is_none_or(|of| of.name != table.name) {
            continue;
        }
        check_pairs(resolved, &child.columns, table, &child.parent_columns)?;
        if !identifies(table, &child.parent_columns) {
            // Children of a row that stays would go with one that has the same values.
            return Err(Mismatch::new(format!(
                "child {}: {} ({}) may have two rows alike; expected its primary key or unique columns",
                child.table,
                table.name,
                child.parent_columns.join(", ")
            )));
        }
        declared.push(Declared {
            name: format!("{} ({}) in the catalog", resolved.name, child.columns.join(", ")),
            child: &resolved.name,
            columns: &child.columns,
            null_columns: &child.columns,
            parent_columns: &child.parent_columns,
            action: child.action,
        });
    }
    for key in &table.incoming {
        if declared
            .iter()
            .any(|known| *known.child == key.child && known.columns == key.child_columns)
        {
            continue;
        }
        let action = match key.on_delete {
            OnDelete::Cascade => ChildAction::Delete,
            OnDelete::SetNull => ChildAction::SetNull,
            OnDelete::NoAction | OnDelete::Restrict => ChildAction::Refuse,
            OnDelete::SetDefault => {
                findings.push(block(
                    "CHILD_REWRITTEN",
                    table,
                    format!(
                        "constraint {} gives rows of {} ({}) a default when rows of {} go, and that may name any row",
                        key.name,
                        key.child,
                        key.child_columns.join(", "),
                        table.name
                    ),
                    "declare the child in the catalog with on_delete = \"cascade\" or \"set_null\"",
                ));
                continue;
            }
        };
        declared.push(Declared {
            name: key.name.clone(),
            child: &key.child,
            columns: &key.child_columns,
            null_columns: &key.null_columns,
            parent_columns: &key.parent_columns,
            action,
        });
    }
    Ok(declared)
}

/// Walks the keys from the rule's table.
///
/// # Errors
/// Where a child that the catalog declares does not fit the schema.
pub(super) fn links(rule: &Rule, schemas: &Schemas) -> Result<Links, Mismatch> {
    let Some(root) = schemas.get(&rule.table) else {
        return Err(Mismatch::new(format!(
            "table {} does not exist; expected a table of the target",
            rule.table
        )));
    };
    let mut findings = Vec::new();
    let mut links: Vec<ChildLink> = Vec::new();
    let mut tables = vec![Arc::clone(root)];
    let mut next = 0;
    while next < tables.len() {
        let table = Arc::clone(&tables[next]);
        next += 1;
        for declared in of_table(&table, rule, schemas, &mut findings)? {
            let Some(child) = schema(schemas, declared.child) else {
                return Err(Mismatch::new(format!("child table {} vanished", declared.child)));
            };
            findings.extend(unindexed(&table, child, &declared));
            if declared.action == ChildAction::SetNull
                && let Some(column) = declared
                    .null_columns
                    .iter()
                    .find(|name| child.column(name).is_none_or(|column| !column.nullable) || child.primary_key.contains(name))
            {
                findings.push(block(
                    "CHILD_NOT_NULLABLE",
                    child,
                    format!(
                        "{} sets {}.{column} to NULL, which it may not be, or which leaves the row without a key",
                        declared.name, child.name
                    ),
                    "declare the child with on_delete = \"cascade\", or let the column be NULL",
                ));
            }
            if declared.action == ChildAction::Delete && !tables.iter().any(|known| known.name == child.name) {
                tables.push(Arc::clone(child));
            }
            links.push(ChildLink {
                name: declared.name,
                parent: Arc::clone(&table),
                parent_columns: declared.parent_columns.to_vec(),
                child: Arc::clone(child),
                child_columns: declared.columns.to_vec(),
                null_columns: declared.null_columns.to_vec(),
                action: declared.action,
                except: Vec::new(),
            });
        }
    }
    findings.extend(unreached(rule, schemas, &tables));
    findings.extend(nulled_twice(&links));
    match ranks(&tables, &links) {
        Ok(ranks) => {
            let rank = |link: &ChildLink| {
                ranks
                    .iter()
                    .find(|(name, _)| *name == link.parent.name)
                    .map_or(0, |(_, rank)| *rank)
            };
            links.sort_by_key(rank);
        }
        Err(circle) => findings.push(block(
            "CASCADE_LOOP",
            root,
            format!("keys lead in a circle over {circle}, so that no order of deletion is right"),
            "break the circle, or exclude the table",
        )),
    }
    Ok(Links { links, findings })
}

/// Children that the catalog declares of a table that the walk never comes to.
fn unreached(rule: &Rule, schemas: &Schemas, tables: &[Arc<TableSchema>]) -> Option<Finding> {
    let stray = rule.children.iter().find(|child| {
        let of = schemas.get(child.of.as_ref().unwrap_or(&rule.table));
        of.is_none_or(|of| !tables.iter().any(|table| table.name == of.name))
    })?;
    let root = schemas.get(&rule.table)?;
    Some(block(
        "CHILD_UNREACHED",
        root,
        format!(
            "child {} is declared of {}, of which this rule deletes nothing",
            stray.table,
            stray.of.as_ref().map_or(String::new(), ToString::to_string)
        ),
        "declare the tables between them as well",
    ))
}

/// Two keys that empty the same column of a row: which of the two an undo has to fill again could not be told.
fn nulled_twice(links: &[ChildLink]) -> Option<Finding> {
    let nulling = || links.iter().filter(|link| link.action == ChildAction::SetNull);
    let pairs = nulling()
        .enumerate()
        .flat_map(|(place, one)| nulling().skip(place + 1).map(move |other| (one, other)));
    let (one, other) = pairs
        .filter(|(one, other)| one.child.name == other.child.name)
        .find(|(one, other)| one.null_columns.iter().any(|column| other.null_columns.contains(column)))?;
    Some(block(
        "CHILD_NULLED_TWICE",
        &one.child,
        format!(
            "{} and {} both set the same column of {} to NULL",
            one.name, other.name, one.child.name
        ),
        "declare one of the children with on_delete = \"cascade\"",
    ))
}

/// Whether some key of the table keeps two rows from having the same values in these columns.
fn identifies(table: &TableSchema, columns: &[String]) -> bool {
    let covers = |key: &[String]| !key.is_empty() && key.iter().all(|column| columns.contains(column));
    covers(&table.primary_key) || table.indexes.iter().any(|index| index.unique && covers(&index.columns))
}

fn unindexed(parent: &TableSchema, child: &TableSchema, declared: &Declared<'_>) -> Option<Finding> {
    (!child.indexed(declared.columns)).then(|| {
        let place = format!("{} ({})", child.name, declared.columns.join(", "));
        block(
            "CHILD_KEY_UNINDEXED",
            parent,
            format!(
                "no index of {place} serves {}: each deleted row would read the whole table",
                declared.name
            ),
            format!("create an index on {place}"),
        )
    })
}

/// How many links lie between the root and each table at most; the tables of a circle where there is one. A table whose rows
/// name one another is no circle: its rows go together.
fn ranks(tables: &[Arc<TableSchema>], links: &[ChildLink]) -> Result<Vec<(TableName, usize)>, String> {
    let mut ranks: Vec<(TableName, usize)> = tables.iter().map(|table| (table.name.clone(), 0)).collect();
    // Whatever a key does: between two tables whose rows go it tells which of them must go first.
    let deleting = |link: &&ChildLink| link.parent.name != link.child.name;
    for _ in 0..=tables.len() {
        let mut moved = Vec::new();
        for link in links.iter().filter(deleting) {
            let rank = |name: &TableName| ranks.iter().position(|(known, _)| known == name);
            if let (Some(parent), Some(child)) = (rank(&link.parent.name), rank(&link.child.name))
                && ranks[child].1 <= ranks[parent].1
            {
                ranks[child].1 = ranks[parent].1 + 1;
                moved.push(ranks[child].0.to_string());
            }
        }
        if moved.is_empty() {
            return Ok(ranks);
        }
        if ranks.iter().any(|(_, rank)| *rank > tables.len()) {
            moved.sort();
            moved.dedup();
            return Err(moved.join(", "));
        }
    }
    Ok(ranks)
}

/// Which rows of which tables go with a step, as conditions on those tables: its own first. Rows that name one another in one
/// table are described only one level deep.
pub(super) fn taken(
    table: &TableSchema,
    matches: &Condition,
    except: &[Condition],
    links: &[ChildLink],
) -> Vec<(TableName, Condition)> {
    let mut parts = vec![matches.clone()];
    parts.extend(except.iter().map(|condition| Condition::Not(Box::new(condition.clone()))));
    let mut taken = vec![(table.name.clone(), Condition::All(parts))];
    for link in links.iter().filter(|link| link.action == ChildAction::Delete) {
        let of_parent: Vec<Condition> = taken
            .iter()
            .filter(|(name, _)| *name == link.parent.name)
            .map(|(_, condition)| condition.clone())
            .collect();
        taken.push((
            link.child.name.clone(),
            Condition::ParentMatches {
                columns: link.child_columns.clone(),
                parent: Arc::clone(&link.parent),
                parent_columns: link.parent_columns.clone(),
                matches: Box::new(Condition::Any(of_parent)),
            },
        ));
    }
    taken
}

/// Has parents that are gone by then not count as parents.
pub(super) fn foresee(condition: &mut Condition, gone: &[(TableName, Condition)]) {
    match condition {
        Condition::All(parts) | Condition::Any(parts) => parts.iter_mut().for_each(|part| foresee(part, gone)),
        Condition::Not(part) => foresee(part, gone),
        Condition::ParentMissing { parent, unfit, .. } | Condition::KeyDangling { parent, unfit, .. } => {
            let of_parent = gone.iter().filter(|(name, _)| *name == parent.name);
            unfit.extend(of_parent.map(|(_, condition)| condition.clone()));
        }
        _ => {}
    }
}
