//! Tables and indexes with their sizes, counters and estimates of free space, a page of the catalog at a time, so that no statement takes
//! long. Sizes come from the file system; a table that somebody has locked altogether is not waited for.

use std::collections::BTreeMap;

use dbkeep_engine::{
    model::{
        TableName,
        monitor::{Blocks, IndexVitals, Precision, TableVitals, Vitals},
    },
    port::TargetError,
};
use jiff::Timestamp;

use super::{
    super::dump::OWN_SCHEMAS,
    Space,
    database::Basics,
    estimate::{air, free_bytes},
    keys::Keys,
    rows::{INDEXES, IndexRow, TABLES, TableRow, VISIBLE_WIDTHS, WIDTHS, WidthRow, with_locked},
    session::{Look, float, moment, unsigned},
};
use crate::target::indexes::{Part, Shape, duplicates};

/// Tables of a page.
const PAGE: i64 = 100;
/// Tables of a piece of a page of which one cannot be looked at.
const PIECE: usize = 10;
/// So many blocks have to have been asked for before a part of them means something.
const EVIDENCE: u64 = 10_000;

/// A table, and what it is made of.
pub(super) struct Table {
    pub(super) vitals: TableVitals,
    pub(super) indexes: Vec<Indexed>,
    pub(super) partitioned: bool,
}

/// An index.
pub(super) struct Indexed {
    pub(super) vitals: IndexVitals,
    pub(super) shape: Shape,
    partitioned: bool,
}

fn add(blocks: &mut Blocks, fetched: i64, hit: i64) {
    blocks.fetched += unsigned(fetched);
    blocks.hit += unsigned(hit);
}

fn fraction(blocks: Blocks) -> Option<f64> {
    (blocks.fetched >= EVIDENCE).then(|| (float(blocks.hit) / float(blocks.fetched)).min(1.0))
}

/// Everything that was found, tables by their oid.
#[derive(Default)]
pub(super) struct Relations {
    pub(super) tables: BTreeMap<i64, Table>,
    heap: Blocks,
    index: Blocks,
    /// The earliest VACUUM or ANALYZE that the counters know of: they count at least since then.
    since: Option<Timestamp>,
    locked: u64,
    unreadable: u64,
    /// Indexes that cannot be used, and that may be being built.
    unsure: u64,
}

/// All tables and indexes.
pub(super) async fn all(look: &mut Look<'_>, basics: &Basics) -> Relations {
    let mut found = Relations::default();
    let mut after = 0;
    while let Some(next) = page(look, basics, after, &mut found).await {
        after = next;
    }
    if found.locked > 0 {
        let why = format!("{} tables are locked by others at this moment", found.locked);
        look.gap("table_sizes", why, "");
    }
    if found.unsure > 0 {
        let why = format!(
            "the role may not see which indexes are being built, and {} cannot be used at this moment",
            found.unsure
        );
        let allow = look.grant();
        look.gap("index_builds", why, allow);
    }
    if found.unreadable > 0 {
        let why = format!(
            "the role may not see statistics of the columns of {} tables",
            found.unreadable
        );
        let allow = format!(
            "GRANT SELECT (starelid, staattnum, stainherit, stanullfrac, stawidth) ON pg_catalog.pg_statistic TO {};",
            look.role()
        );
        look.gap("free_space", why, allow);
    }
    found
}

/// The space in one table; `None` where it is gone.
pub(super) async fn space(look: &mut Look<'_>, basics: &Basics, oid: i64) -> Result<Option<Space>, TargetError> {
    // The first one after the number before its own.
    let next = move || with_locked(TABLES).bind(oid - 1).bind(1_i64).bind(false);
    let found = look.list::<TableRow>(next).await?;
    let Some(row) = found.into_iter().find(|row| row.oid == oid) else {
        return Ok(None);
    };
    let sql = if basics.widths { WIDTHS } else { VISIBLE_WIDTHS };
    let columns = look.list::<WidthRow>(|| sqlx::query(sql).bind(vec![oid])).await?;
    Ok(Some(Space {
        dead_rows: unsigned(row.dead),
        free_bytes: free_bytes(&row, row.rows(basics.page), &columns, basics.page),
    }))
}

/// One page after the table with this oid; the oid after which the next one begins, where there may be one.
async fn page(look: &mut Look<'_>, basics: &Basics, after: i64, found: &mut Relations) -> Option<i64> {
    let tables = tables_after(look, after).await;
    let (tables, next) = look.or_gap("tables", tables)?;
    let oids: Vec<i64> = tables.iter().map(|table| table.oid).collect();
    let indexes = indexes_of(look, &oids).await;
    let indexes = look.or_gap("indexes", indexes).unwrap_or_default();
    let with_expressions = indexes.iter().filter(|index| index.expressions.is_some());
    let relations: Vec<i64> = oids.iter().copied().chain(with_expressions.map(|index| index.oid)).collect();
    let sql = if basics.widths { WIDTHS } else { VISIBLE_WIDTHS };
    let widths = look.list::<WidthRow>(|| sqlx::query(sql).bind(relations.clone())).await;
    let widths = look.or_gap("columns", widths).unwrap_or_default();
    let mut columns: BTreeMap<i64, Vec<WidthRow>> = BTreeMap::new();
    for row in widths {
        columns.entry(row.relation).or_default().push(row);
    }
    for row in tables {
        let own_columns = columns.get(&row.oid).map_or(&[][..], Vec::as_slice);
        found.take_table(&row, own_columns, basics);
    }
    for row in indexes {
        found.take_index(&row, &columns, basics);
    }
    next
}

/// The tables of a page. Where one of them is locked or vanishes at every try, the others are asked for in smaller pieces, and for that one
/// alone the catalog has to do. With them comes the oid after which the next page begins, where there may be one.
async fn tables_after(look: &mut Look<'_>, after: i64) -> Result<(Vec<TableRow>, Option<i64>), TargetError> {
    let some = |after: i64, limit: i64, lean: bool| move || with_locked(TABLES).bind(after).bind(limit).bind(lean);
    let next = |page: &[TableRow]| {
        page.last()
            .map(|last| last.oid)
            .filter(|_| i64::try_from(page.len()) == Ok(PAGE))
    };
    if let Ok(whole) = look.list::<TableRow>(some(after, PAGE, false)).await {
        let next = next(&whole);
        return Ok((whole, next));
    }
    let mut lean: Vec<TableRow> = look.list(some(after, PAGE, true)).await?;
    let next = next(&lean);
    let mut tables = Vec::with_capacity(lean.len());
    while !lean.is_empty() {
        let rest = lean.split_off(lean.len().min(PIECE));
        let piece = std::mem::replace(&mut lean, rest);
        let (Some(first), Some(last)) = (piece.first(), piece.last()) else {
            break;
        };
        let limit = i64::try_from(piece.len()).unwrap_or(PAGE);
        // Where one is gone, the first behind the piece comes in its place.
        let (before, end) = (first.oid - 1, last.oid);
        match look.list::<TableRow>(some(before, limit, false)).await {
            Ok(found) => tables.extend(found.into_iter().filter(|row| row.oid <= end)),
            Err(_) => {
                for row in piece {
                    match look.list::<TableRow>(some(row.oid - 1, 1, false)).await {
                        Ok(found) => tables.extend(found.into_iter().filter(|found| found.oid == row.oid)),
                        Err(_) => tables.push(row),
                    }
                }
            }
        }
    }
    Ok((tables, next))
}

/// The indexes of tables; in smaller pieces as the tables themselves.
async fn indexes_of(look: &mut Look<'_>, oids: &[i64]) -> Result<Vec<IndexRow>, TargetError> {
    let of = |oids: &[i64], lean: bool| {
        let oids = oids.to_vec();
        move || with_locked(INDEXES).bind(oids.clone()).bind(lean)
    };
    let whole = look.list::<IndexRow>(of(oids, false)).await;
    if whole.is_ok() {
        return whole;
    }
    let mut indexes = Vec::new();
    for piece in oids.chunks(PIECE) {
        if let Ok(found) = look.list::<IndexRow>(of(piece, false)).await {
            indexes.extend(found);
            continue;
        }
        for table in piece.chunks(1) {
            indexes.extend(match look.list::<IndexRow>(of(table, false)).await {
                Ok(found) => found,
                Err(_) => look.list::<IndexRow>(of(table, true)).await?,
            });
        }
    }
    Ok(indexes)
}

impl Relations {
    fn take_table(&mut self, row: &TableRow, columns: &[WidthRow], basics: &Basics) {
        add(&mut self.heap, row.fetched, row.hit);
        self.locked += u64::from(row.hidden && !row.partitioned);
        // Rows of a partitioned table are in its partitions.
        let rows = row.rows(basics.page).filter(|_| !row.partitioned);
        let free = free_bytes(row, rows, columns, basics.page);
        let measured = row.analyzed.is_some() && free.is_none() && !row.partitioned && !row.hidden;
        self.unreadable += u64::from(measured && !basics.widths && !row.readable);
        let (vacuumed, analyzed) = (row.vacuumed.and_then(moment), row.analyzed.and_then(moment));
        self.since = [self.since, vacuumed, analyzed].into_iter().flatten().min();
        let vitals = TableVitals {
            table: TableName {
                schema: Some(row.schema.clone()),
                name: row.name.clone(),
            },
            own: OWN_SCHEMAS.contains(&row.schema.as_str()),
            rows,
            heap_bytes: row.main.zip(row.maps).map(|(main, maps)| unsigned(main + maps)),
            index_bytes: None,
            toast_bytes: row.toast.map(unsigned),
            dead_rows: Some(unsigned(row.dead)),
            free_bytes: free,
            free_precision: free.map(|_| Precision::Estimated),
            last_vacuum: vacuumed,
            last_analyze: analyzed,
            changed_since_analyze: Some(unsigned(row.changed)),
            sequential_scans: Some(unsigned(row.scans)),
            index_scans: Some(0),
            inserted: Some(unsigned(row.inserted)),
            deleted: Some(unsigned(row.deleted)),
            xid_age: row.age.map(unsigned),
        };
        let table = Table {
            vitals,
            indexes: Vec::new(),
            partitioned: row.partitioned,
        };
        self.tables.insert(row.oid, table);
    }

    fn take_index(&mut self, row: &IndexRow, columns: &BTreeMap<i64, Vec<WidthRow>>, basics: &Basics) {
        add(&mut self.index, row.fetched, row.hit);
        self.unsure += u64::from(!row.usable && row.building.is_none());
        let Some(table) = self.tables.get_mut(&row.relation) else {
            return;
        };
        let own_columns = columns.get(&row.relation).map_or(&[][..], Vec::as_slice);
        let shape = shape(row, own_columns);
        let expressions = columns.get(&row.oid).map_or(&[][..], Vec::as_slice);
        let names = shape.parts.iter().enumerate().map(|(place, part)| {
            let expression = row.expressions.as_ref().and_then(|all| all.get(place));
            part.column
                .clone()
                .or_else(|| expression.cloned())
                .unwrap_or_else(|| "(unknown)".to_owned())
        });
        let bloat_fraction = air(row, &table.vitals, own_columns, expressions, basics.page);
        let vitals = IndexVitals {
            table: table.vitals.table.clone(),
            name: row.name.clone(),
            oid: Some(unsigned(row.oid)),
            columns: names.collect(),
            method: row.method.clone(),
            condition: row.condition.clone().unwrap_or_default(),
            enforces: row.enforces,
            clustered: row.clustered,
            expression: row.columns.split(' ').any(|number| number == "0"),
            serves_key: false,
            valid: row.usable || row.building != Some(false),
            bytes: row.bytes.map(unsigned),
            scans: Some(unsigned(row.scans)),
            bloat_fraction,
            bloat_precision: bloat_fraction.map(|_| Precision::Estimated),
            duplicate_of: None,
            first_seen: None,
            definition: row.definition.clone().unwrap_or_default(),
        };
        let scans = table.vitals.index_scans.unwrap_or(0) + unsigned(row.scans);
        table.vitals.index_scans = Some(scans);
        table.indexes.push(Indexed {
            vitals,
            shape,
            partitioned: row.partitioned,
        });
    }

    /// What a snapshot shows: the largest tables first, indexes in the order of their tables.
    pub(super) fn into_vitals(self, keys: &Keys, database: &mut Vitals) -> (Vec<TableVitals>, Vec<IndexVitals>) {
        database.cache_hit_fraction = fraction(self.heap);
        database.index_hit_fraction = fraction(self.index);
        (database.heap_blocks, database.index_blocks) = (Some(self.heap), Some(self.index));
        database.statistics_since = database.statistics_since.or(self.since);
        let mut all: Vec<(TableVitals, Vec<IndexVitals>)> = Vec::new();
        for (oid, mut table) in self.tables {
            let shapes: Vec<Shape> = table.indexes.iter().map(|index| index.shape.clone()).collect();
            let others = duplicates(&shapes);
            let names: Vec<String> = table.indexes.iter().map(|index| index.vitals.name.clone()).collect();
            for (index, other) in table.indexes.iter_mut().zip(others) {
                index.vitals.duplicate_of = other.map(|other| names[other].clone());
                index.vitals.serves_key = index.vitals.duplicate_of.is_none() && keys.served_by(oid, &index.shape);
            }
            if table.partitioned {
                continue;
            }
            let stored = table.indexes.iter().filter(|index| !index.partitioned);
            table.vitals.index_bytes = stored.map(|index| index.vitals.bytes).sum();
            all.push((table.vitals, table.indexes.into_iter().map(|index| index.vitals).collect()));
        }
        let own = all.iter().filter(|(table, _)| table.own);
        database.own_bytes = Some(own.filter_map(|(table, _)| table.total_bytes()).sum());
        all.sort_by_cached_key(|(table, _)| (std::cmp::Reverse(table.total_bytes()), table.table.to_string()));
        let (tables, indexes): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        (tables, indexes.into_iter().flatten().collect())
    }
}

/// What an index is made of. One whose texts could not be read is not compared with others.
fn shape(row: &IndexRow, columns: &[WidthRow]) -> Shape {
    let numbers: Vec<i32> = row.columns.split(' ').filter_map(|number| number.parse().ok()).collect();
    let (classes, collations, options): (Vec<&str>, Vec<&str>, Vec<&str>) = (
        row.classes.split(' ').collect(),
        row.collations.split(' ').collect(),
        row.options.split(' ').collect(),
    );
    let name = |number: i32| {
        columns
            .iter()
            .find(|column| column.number == number)
            .map(|column| column.name.clone())
    };
    let class_settings = |place: usize| row.class_settings.get(place).cloned().unwrap_or_default();
    let keys = usize::try_from(row.keys).unwrap_or(0).min(numbers.len());
    let (key_numbers, included) = numbers.split_at(keys);
    let parts = key_numbers.iter().enumerate().map(|(place, number)| {
        let of = |list: &[&str]| list.get(place).copied().unwrap_or_default().to_owned();
        let expression = row.expressions.as_ref().and_then(|all| all.get(place));
        let what = if *number == 0 {
            expression.cloned().unwrap_or_default()
        } else {
            number.to_string()
        };
        Part {
            column: name(*number),
            exactly: [what, of(&classes), of(&collations), of(&options), class_settings(place)].join(" "),
        }
    });
    Shape {
        parts: parts.collect(),
        included: included.iter().filter_map(|number| name(*number)).collect(),
        condition: row.condition.clone().unwrap_or_default(),
        method: row.method.clone(),
        settings: row.settings.clone(),
        kept: row.enforces || row.clustered,
        usable: row.usable && !(row.hidden && (row.partial || numbers.contains(&0))),
        age: row.oid,
    }
}
