//! The grants that one table takes: as few and as narrow as PostgreSQL has them.
//!
//! Two of dbkeep's acts need more than their name says. `LOCK TABLE` asks for a right on the whole table, whatever columns are changed; the
//! narrowest that will do is `MAINTAIN` from version 17 on, before that `INSERT` (so that the shape stays) or `UPDATE` (so that nobody
//! else writes). `SELECT .. FOR UPDATE` asks for `UPDATE` on one column, and gives nothing to whoever may delete the row anyway.

use dbkeep_engine::model::{
    TableName,
    privilege::{Feature, Need, Right},
};

use super::{super::render, Known, MAINTAIN, Place, Wanted, held::Probe};

/// What is asked of one table, and by whom.
#[derive(Default)]
struct Asked {
    /// The narrowest feature that asks, and all reasons.
    by: Option<(Feature, Vec<String>)>,
}

impl Asked {
    fn add(&mut self, need: &Need) {
        let (feature, reasons) = self.by.get_or_insert_with(|| (need.feature, Vec::new()));
        // What the basis of all that is needed for is granted with that.
        *feature = (*feature).min(need.feature);
        if !reasons.contains(&need.why) {
            reasons.push(need.why.clone());
        }
    }

    fn is_asked(&self) -> bool {
        self.by.is_some()
    }

    /// Whether it is asked by this feature or one before it.
    fn is_asked_by(&self, most: Feature) -> bool {
        self.by.as_ref().is_some_and(|(feature, _)| *feature <= most)
    }
}

/// What a table takes.
pub(super) struct OfTable {
    oid: Option<i64>,
    name: TableName,
    read: Asked,
    delete: Asked,
    insert: Asked,
    change: Asked,
    columns: Vec<String>,
    lock: Asked,
    lock_column: String,
    shape: Asked,
    still: Asked,
}

impl OfTable {
    pub(super) fn new(known: Known) -> Self {
        Self {
            oid: Some(known.oid),
            ..Self::absent(&known.name)
        }
    }

    /// A table that is to be made.
    pub(super) fn absent(name: &TableName) -> Self {
        Self {
            oid: None,
            name: name.clone(),
            read: Asked::default(),
            delete: Asked::default(),
            insert: Asked::default(),
            change: Asked::default(),
            columns: Vec::new(),
            lock: Asked::default(),
            lock_column: String::new(),
            shape: Asked::default(),
            still: Asked::default(),
        }
    }

    pub(super) fn oid(&self) -> Option<i64> {
        self.oid
    }

    /// What tells of a right on it. Whoever makes a table has every right on it, so that of one that is not there the right to make it counts.
    fn probe(&self, of: impl Fn(i64) -> Probe) -> Probe {
        match (self.oid, &self.name.schema) {
            (Some(oid), _) => of(oid),
            (None, Some(schema)) => Probe::Schema(schema.clone(), "CREATE"),
            (None, None) => Probe::Never,
        }
    }

    pub(super) fn schema(&self) -> Option<&str> {
        self.name.schema.as_deref()
    }

    pub(super) fn add(&mut self, need: &Need) {
        match &need.right {
            Right::Read => self.read.add(need),
            Right::Delete => self.delete.add(need),
            Right::Insert => self.insert.add(need),
            Right::Change { columns } => {
                self.change.add(need);
                for column in columns {
                    if !self.columns.contains(column) {
                        self.columns.push(column.clone());
                    }
                }
            }
            Right::LockRows { column } => {
                self.lock.add(need);
                self.lock_column.clone_from(column);
            }
            Right::KeepShape => self.shape.add(need),
            Right::KeepStill => self.still.add(need),
        }
    }

    /// The grants, those of them that make others superfluous first.
    pub(super) fn grants(&self, place: &Place) -> Vec<Wanted> {
        let mut grants = Vec::new();
        let whole = |privilege: &'static str| (privilege.to_owned(), vec![self.probe(|oid| Probe::Table(oid, privilege))]);
        grants.extend(self.wanted(place, &self.read, whole("SELECT")));
        grants.extend(self.wanted(place, &self.delete, whole("DELETE")));
        // What serves a lock: any right to take rows away or change them all.
        let deletes = self.delete.is_asked_by(Feature::Cleanup);
        let maintain = place.version >= MAINTAIN;
        let any = |privileges: &'static str| vec![self.probe(|oid| Probe::Table(oid, privileges))];
        let mut whole_update = false;
        let mut maintained = false;
        if self.still.is_asked() && !deletes {
            if maintain {
                maintained = true;
                let probes = any("MAINTAIN, UPDATE, DELETE, TRUNCATE");
                grants.extend(self.wanted(place, &self.still, ("MAINTAIN".to_owned(), probes)));
            } else {
                whole_update = true;
                let probes = any("UPDATE, DELETE, TRUNCATE");
                grants.extend(self.wanted(place, &self.still, ("UPDATE".to_owned(), probes)));
            }
        }
        let mut inserts = self.insert.is_asked_by(Feature::Cleanup);
        if self.shape.is_asked() && !deletes && !whole_update && !maintained && !inserts {
            if maintain {
                let probes = any("MAINTAIN, INSERT, UPDATE, DELETE, TRUNCATE");
                grants.extend(self.wanted(place, &self.shape, ("MAINTAIN".to_owned(), probes)));
            } else {
                inserts = true;
                let probes = any("INSERT, UPDATE, DELETE, TRUNCATE");
                grants.extend(self.wanted(place, &self.shape, ("INSERT".to_owned(), probes)));
            }
        }
        if !inserts || self.insert.is_asked_by(Feature::Cleanup) {
            grants.extend(self.wanted(place, &self.insert, whole("INSERT")));
        }
        // A right on all columns has those on each of them.
        if whole_update {
            return grants;
        }
        if self.change.is_asked() {
            let probes = self
                .columns
                .iter()
                .map(|column| self.probe(|oid| Probe::Column(oid, column.clone(), "UPDATE")));
            let columns: Vec<String> = self.columns.iter().map(|column| render::identifier(column)).collect();
            let privilege = format!("UPDATE ({})", columns.join(", "));
            grants.extend(self.wanted(place, &self.change, (privilege, probes.collect())));
        } else if self.lock.is_asked() {
            let privilege = format!("UPDATE ({})", render::identifier(&self.lock_column));
            let probes = vec![self.probe(|oid| Probe::AnyColumn(oid, "UPDATE"))];
            grants.extend(self.wanted(place, &self.lock, (privilege, probes)));
        }
        grants
    }

    fn wanted(&self, place: &Place, asked: &Asked, (privilege, probes): (String, Vec<Probe>)) -> Option<Wanted> {
        let (feature, reasons) = asked.by.as_ref()?;
        Some(Wanted {
            feature: *feature,
            object: format!("table {}", self.name),
            statement: format!("GRANT {privilege} ON TABLE {} {}", render::table(&self.name), place.to_role()),
            privilege,
            why: reasons.join("; "),
            probes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(version: i32, rights: &[(Feature, Right)]) -> Vec<String> {
        let name = TableName::parse("public.t");
        let mut table = OfTable::new(Known {
            oid: 1,
            name: name.clone(),
        });
        for (feature, right) in rights {
            table.add(&Need {
                table: name.clone(),
                right: right.clone(),
                feature: *feature,
                why: "a.b: so".into(),
            });
        }
        let place = Place {
            role: "r".into(),
            exists: true,
            database: "d".into(),
            version,
        };
        let grants = table.grants(&place);
        grants
            .iter()
            .map(|grant| format!("{}: {}", grant.feature.name(), grant.privilege))
            .collect()
    }

    #[test]
    fn a_table_takes_no_more_than_it_must() {
        use Feature::{Cleanup, Undo};
        let column = || "id".to_owned();
        let change = || Right::Change {
            columns: vec!["a".into(), "b\"".into()],
        };
        /// Version, rights, and what is written.
        type Cases<'a> = &'a [(i32, &'a [(Feature, Right)], &'a [&'a str])];
        let cases: Cases<'_> = &[
            (150_000, &[(Cleanup, Right::Read)], &["cleanup: SELECT"]),
            (
                150_000,
                &[
                    (Cleanup, Right::Read),
                    (Cleanup, Right::Delete),
                    (Undo, Right::Insert),
                    (Cleanup, Right::KeepStill),
                    (Cleanup, Right::KeepShape),
                ],
                &["cleanup: SELECT", "cleanup: DELETE", "undo: INSERT"],
            ),
            (
                150_000,
                &[(Cleanup, Right::Delete), (Cleanup, Right::LockRows { column: column() })],
                &["cleanup: DELETE", "cleanup: UPDATE (\"id\")"],
            ),
            (
                150_000,
                &[(Cleanup, change()), (Cleanup, Right::KeepShape)],
                &["cleanup: INSERT", "cleanup: UPDATE (\"a\", \"b\"\"\")"],
            ),
            (
                170_000,
                &[(Cleanup, change()), (Cleanup, Right::KeepShape)],
                &["cleanup: MAINTAIN", "cleanup: UPDATE (\"a\", \"b\"\"\")"],
            ),
            (150_000, &[(Cleanup, Right::KeepStill)], &["cleanup: UPDATE"]),
            (170_000, &[(Cleanup, Right::KeepStill)], &["cleanup: MAINTAIN"]),
            // A copy that goes when its row comes back is deleted by the undo alone: the lock of a cleanup cannot rest on that.
            (
                150_000,
                &[(Undo, Right::Delete), (Cleanup, Right::KeepStill)],
                &["undo: DELETE", "cleanup: UPDATE"],
            ),
        ];
        for (version, rights, expected) in cases {
            assert_eq!(grants(*version, rights), *expected, "{version} {rights:?}");
        }
    }
}
