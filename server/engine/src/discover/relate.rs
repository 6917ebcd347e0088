//! Relations: which columns name rows of which table. Declared keys are taken as they are; the rest is guessed from names
//! (`candidates`), tried on sampled values (`lookup`), and chosen here. Called by `mod.rs`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Hint, HintKind, Work,
    candidates::{self, Candidate},
    facts::Table,
    hints, lookup, positions,
    score::{FLOOR, Telling},
    snippet::{Draft, Setting},
};
use crate::port::{Target, TargetError};

/// Two parents closer than this, in the names and in the outcome, are equally likely.
const AMBIGUOUS: f64 = 0.05;

/// A column, or several, that name rows of a table.
#[derive(Debug, Clone)]
pub(super) struct Relation {
    pub(super) child: usize,
    pub(super) columns: Vec<String>,
    pub(super) parent: usize,
    pub(super) parent_columns: Vec<String>,
    pub(super) confidence: f64,
    evidence: Vec<String>,
    notes: Vec<String>,
}

fn capital(sentence: &str) -> String {
    let mut characters = sentence.chars();
    characters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

impl Relation {
    /// What a candidate has become, with its reasons in words.
    fn of(candidate: &Candidate, tables: &[Table]) -> Self {
        let parent = &tables[candidate.parent];
        let mut evidence = Vec::new();
        evidence.extend(candidate.name.map(|name| format!("{}.", capital(name.reason))));
        let signs = &candidate.signs;
        evidence.push(match (signs.telling, signs.asked) {
            (Telling::Nothing, _) | (_, 0) => "There are no values to look up.".to_owned(),
            (Telling::Strong, asked) => format!(
                "{} of {asked} sampled values are found in {}, and such values are not equal by chance.",
                signs.found, parent.name
            ),
            (Telling::Weak, asked) => format!(
                "{} of {asked} sampled values are found in {}; values like these may be equal by chance.",
                signs.found, parent.name
            ),
        });
        if !signs.primary {
            evidence.push(format!(
                "{} is unique in {}, but not its primary key.",
                candidate.key.columns.join(", "),
                parent.name
            ));
        }
        let mut notes = Vec::new();
        if signs.sentinel {
            let value = candidate
                .missing
                .iter()
                .find(|value| matches!(value.as_str(), "" | "0" | "-1"))
                .cloned();
            notes.push(format!(
                "The value {:?} names no row and may stand for \"none\": the rule would take those rows.",
                value.unwrap_or_else(|| "00000000-..".to_owned())
            ));
        }
        if signs.asked > 0 && signs.found == 0 {
            notes.push(format!(
                "No sampled value names a row of {}: is it the right parent?",
                parent.name
            ));
        }
        Relation {
            child: candidate.child,
            columns: candidate.columns.clone(),
            parent: candidate.parent,
            parent_columns: candidate.key.columns.clone(),
            confidence: candidate.confidence(),
            evidence,
            notes,
        }
    }

    /// The rule that takes the rows whose parent is gone.
    pub(super) fn draft(&self, tables: &[Table]) -> Draft {
        let (child, parent) = (&tables[self.child], &tables[self.parent]);
        let columns = self.columns.join(", ");
        let mut notes = self.notes.clone();
        if child.schema.incoming.iter().any(|key| key.child != child.schema.name) {
            notes.push(format!(
                "Other tables declare keys to {}: a plan says what that means.",
                child.name
            ));
        }
        Draft {
            kind: "orphan",
            table: self.child,
            columns: self.columns.clone(),
            parent: Some((self.parent, self.parent_columns.clone())),
            title: "orphaned",
            subject: format!("{}_by_{}", child.name.name, self.columns.join("_")),
            description: format!("Rows of {} whose {columns} names no row of {}.", child.name, parent.name),
            category: "ORPHANED_DATA",
            severity: "MEDIUM",
            settings: vec![
                ("columns", Setting::Texts(self.columns.clone())),
                ("parent", Setting::Table(self.parent)),
                ("parent_columns", Setting::Texts(self.parent_columns.clone())),
            ],
            comments: Vec::new(),
            confidence: self.confidence,
            evidence: self.evidence.clone(),
            notes,
        }
    }
}

/// Every relation that is worth telling, at most one for each set of columns, and hints about those that cannot be decided.
pub(super) async fn relations(
    target: &dyn Target,
    tables: &[Table],
    wanted: &[bool],
    hints: &mut Vec<Hint>,
    work: &mut Work,
) -> Result<Vec<Relation>, TargetError> {
    let mut relations = declared(target, tables, work).await?;
    let taken: BTreeSet<(usize, Vec<String>)> = relations
        .iter()
        .map(|relation| (relation.child, relation.columns.clone()))
        .collect();
    let mut pairs = BTreeSet::new();
    for (child, table) in tables.iter().enumerate() {
        for (columns, hint) in hints::polymorphic(tables, table) {
            pairs.extend(columns.into_iter().map(|column| (child, column)));
            hints.extend(wanted[child].then_some(hint));
        }
    }
    let mut candidates = Vec::new();
    for child in 0..tables.len() {
        let own = candidates::by_name(tables, child);
        candidates.extend(own.into_iter().filter(|candidate| {
            !taken.contains(&(child, candidate.columns.clone()))
                && !candidate
                    .columns
                    .iter()
                    .any(|column| pairs.contains(&(child, column.clone())))
        }));
    }
    lookup::measure(target, tables, &mut candidates, work).await?;
    let mut blind = candidates::without_name(tables, &candidates, &taken, &pairs);
    lookup::measure(target, tables, &mut blind, work).await?;
    // Without a word for it, a relation needs values that nobody has by chance, and most of them found.
    blind.retain(|candidate| candidate.signs.found >= 3 && candidate.signs.found * 2 >= candidate.signs.asked);
    candidates.extend(blind);
    relations.extend(choose(tables, wanted, candidates, hints));
    Ok(relations)
}

/// What the schema declares.
async fn declared(target: &dyn Target, tables: &[Table], work: &mut Work) -> Result<Vec<Relation>, TargetError> {
    let declared = target.declared_keys().await;
    let declared = work.tolerate(declared, || "the declared keys could not be read".to_owned())?;
    let positions = positions(tables);
    let mut relations: Vec<Relation> = Vec::new();
    for key in declared.into_iter().flatten() {
        let (Some(&child), Some(&parent)) = (positions.get(&key.child), positions.get(&key.parent)) else {
            continue;
        };
        // SQLite keeps the names as they are written in the key, in any case.
        let exact = |table: &Table, names: &[String]| -> Option<Vec<String>> {
            let find = |name: &String| {
                let columns = || table.schema.columns.iter().map(|column| &column.name);
                let same = columns().find(|column| *column == name);
                same.or_else(|| columns().find(|column| column.eq_ignore_ascii_case(name)))
                    .cloned()
            };
            names.iter().map(find).collect()
        };
        let columns = exact(&tables[child], &key.columns);
        let parent_columns = exact(&tables[parent], &key.parent_columns);
        let (Some(columns), Some(parent_columns)) = (columns, parent_columns) else {
            work.warnings
                .push(format!("key {} names a column that does not exist", key.name));
            continue;
        };
        let (confidence, evidence, notes) = if key.checked {
            let note = "The database enforces this key: the rule finds rows only where enforcement was switched off for a while.";
            (
                1.0,
                format!("Declared by {}, and checked by the database.", key.name),
                vec![note.to_owned()],
            )
        } else {
            (
                0.97,
                format!("Declared by {}; the database has not checked every row.", key.name),
                Vec::new(),
            )
        };
        let relation = Relation {
            child,
            columns,
            parent,
            parent_columns,
            confidence,
            evidence: vec![evidence],
            notes,
        };
        let repeated = |known: &Relation| known.child == child && known.columns == relation.columns && known.parent == parent;
        if !relations.iter().any(repeated) {
            relations.push(relation);
        }
    }
    Ok(relations)
}

/// One relation for each set of columns: the most likely, unless another one is as likely.
fn choose(tables: &[Table], wanted: &[bool], candidates: Vec<Candidate>, hints: &mut Vec<Hint>) -> Vec<Relation> {
    let mut by_columns: BTreeMap<(usize, Vec<String>), Vec<Candidate>> = BTreeMap::new();
    for candidate in candidates {
        // What could not be looked up, though there are values, is not known well enough.
        if candidate.confidence() >= FLOOR && (candidate.signs.asked > 0 || candidate.signs.telling == Telling::Nothing) {
            by_columns
                .entry((candidate.child, candidate.columns.clone()))
                .or_default()
                .push(candidate);
        }
    }
    let mut relations = Vec::new();
    for ((child, columns), mut rivals) in by_columns {
        rivals.sort_by(|one, other| {
            (other.confidence().total_cmp(&one.confidence()))
                .then(other.signs.name.total_cmp(&one.signs.name))
                .then(one.parent.cmp(&other.parent))
        });
        let best = &rivals[0];
        let equal: Vec<&Candidate> = rivals
            .iter()
            .filter(|rival| {
                best.confidence() - rival.confidence() < AMBIGUOUS
                    && (best.signs.name - rival.signs.name).abs() < AMBIGUOUS - 1e-9
            })
            .collect();
        let parents: BTreeSet<usize> = equal.iter().map(|rival| rival.parent).collect();
        if parents.len() > 1 {
            hints.extend(wanted[child].then(|| {
                Hint {
                    kind: HintKind::Ambiguous,
                    table: tables[child].name.clone(),
                    columns: columns.clone(),
                    candidates: equal
                        .iter()
                        .map(|rival| format!("{}({})", tables[rival.parent].name, rival.key.columns.join(", ")))
                        .collect(),
                    detail: format!(
                        "{} may name rows of any of these tables; nothing tells which.",
                        columns.join(", ")
                    ),
                }
            }));
            continue;
        }
        relations.push(Relation::of(best, tables));
    }
    relations
}
