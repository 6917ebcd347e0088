//! What has to read tables: counted rows, and free space by `pgstattuple`. The largest tables come first; what does not fit into the
//! time limit keeps its estimates, and is named in a gap.

use dbkeep_engine::{
    model::{
        TableName,
        monitor::{IndexVitals, Precision, RowCount, Snapshot, TableVitals},
    },
    port::{TargetError, TargetErrorClass},
};
use sqlx::{AssertSqlSafe, FromRow, Row as _};

use super::{
    super::{bloat, error::statement, render},
    session::{Look, unsigned, whole},
};

const EXTENSION: &str = "SELECT n.nspname::text FROM pg_catalog.pg_extension AS e \
     JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'pgstattuple'";

/// What was not measured, and why.
#[derive(Default)]
struct Left {
    denied: Vec<TableName>,
    no_time: Vec<TableName>,
    failed: Vec<(TableName, String)>,
}

impl Left {
    /// Sorts a failure in. A table that is gone is no failure.
    fn note(&mut self, table: &TableName, error: &TargetError) {
        match error.class {
            TargetErrorClass::SchemaChanged => {}
            TargetErrorClass::Permission => self.denied.push(table.clone()),
            TargetErrorClass::Timeout => self.no_time.push(table.clone()),
            _ => self.failed.push((table.clone(), error.message.clone())),
        }
    }

    fn tell(self, look: &mut Look<'_>, what: &str, allow: impl Fn(&TableName) -> String) {
        if let Some(first) = self.denied.first() {
            let why = format!("the role may not read {} tables, {first} for instance", self.denied.len());
            look.gap(what, why, allow(first));
        }
        if let Some(first) = self.no_time.first() {
            let why = format!("the time was over before {} tables, {first} first", self.no_time.len());
            look.gap(what, why, "");
        }
        if let Some((first, message)) = self.failed.first() {
            look.gap(what, format!("{} tables, {first} first: {message}", self.failed.len()), "");
        }
    }
}

/// Replaces estimates by what is measured.
pub(super) async fn measure(look: &mut Look<'_>, snapshot: &mut Snapshot) {
    let extension = look.one::<(String,)>(|| sqlx::query(EXTENSION)).await;
    let schema = look.or_gap("free_space_measured", extension);
    if matches!(schema, Some(None)) {
        look.gap(
            "free_space_measured",
            "the extension pgstattuple is not installed",
            "CREATE EXTENSION pgstattuple;",
        );
    }
    let schema = schema.flatten().map(|(schema,)| render::identifier(&schema));
    let (mut rows, mut space) = (Left::default(), Left::default());
    for table in &mut snapshot.tables {
        if let Err(error) = count(look, table).await {
            rows.note(&table.table, &error);
        }
        let Some(schema) = &schema else { continue };
        let mut measured = free(look, schema, table).await;
        let indexes = snapshot.indexes.iter_mut().filter(|index| index.table == table.table);
        for index in indexes.filter(|index| index.method == "btree" && index.valid) {
            if measured.is_ok() {
                measured = density(look, schema, index).await;
            }
        }
        if let Err(error) = measured {
            space.note(&table.table, &error);
        }
    }
    let role = look.role();
    rows.tell(look, "exact_rows", |table| {
        format!("GRANT SELECT ON {} TO {role};", render::table(table))
    });
    space.tell(look, "free_space_measured", |_| {
        format!("GRANT pg_stat_scan_tables TO {role};")
    });
}

async fn count(look: &mut Look<'_>, table: &mut TableVitals) -> Result<(), TargetError> {
    let sql = format!("SELECT count(*) FROM ONLY {}", render::table(&table.table));
    let found = look.reading(sqlx::query(AssertSqlSafe(sql)).persistent(false)).await?;
    if let Some(row) = found.first() {
        let rows: i64 = row.try_get(0).map_err(statement)?;
        table.rows = Some(RowCount {
            rows: unsigned(rows),
            precision: Precision::Exact,
        });
    }
    Ok(())
}

/// Pages that VACUUM found full of visible rows are not read: their free space is known from its map.
async fn free(look: &mut Look<'_>, schema: &str, table: &mut TableVitals) -> Result<(), TargetError> {
    let sql = format!("SELECT s.approx_free_space, s.dead_tuple_count FROM {schema}.pgstattuple_approx($1::regclass) AS s");
    let query = sqlx::query(AssertSqlSafe(sql)).bind(render::table(&table.table));
    let found = look.reading(query).await?;
    if let Some(row) = found.first() {
        let (free, dead) = <(i64, i64)>::from_row(row).map_err(statement)?;
        table.free_bytes = Some(unsigned(free));
        table.free_precision = Some(Precision::Exact);
        table.dead_rows = Some(unsigned(dead));
    }
    Ok(())
}

#[derive(FromRow)]
struct Density {
    leaves: f64,
    inner: f64,
    density: f64,
    size: f64,
    page: i32,
    fill: i32,
}

async fn density(look: &mut Look<'_>, schema: &str, index: &mut IndexVitals) -> Result<(), TargetError> {
    let name = TableName {
        schema: index.table.schema.clone(),
        name: index.name.clone(),
    };
    let sql = format!(
        "SELECT s.leaf_pages::float8 AS leaves, s.internal_pages::float8 AS inner, coalesce(nullif(s.avg_leaf_density, 'NaN'), 0)::float8 AS density, \
           s.index_size::float8 AS size, pg_catalog.current_setting('block_size')::int AS page, \
           coalesce((SELECT o.option_value::int FROM pg_catalog.pg_class AS c, pg_catalog.pg_options_to_table(c.reloptions) AS o \
              WHERE c.oid = $1::regclass AND o.option_name = 'fillfactor'), 90) AS fill \
         FROM {schema}.pgstatindex($1::regclass) AS s"
    );
    let query = sqlx::query(AssertSqlSafe(sql)).bind(render::table(&name));
    let found = look.reading(query).await?;
    if let Some(row) = found.first() {
        let measured = Density::from_row(row).map_err(statement)?;
        let needed =
            (measured.leaves * measured.density / f64::from(measured.fill) + measured.inner + 1.0) * f64::from(measured.page);
        index.bloat_fraction = Some(bloat::beyond(needed, measured.size));
        index.bloat_precision = Some(Precision::Exact);
        index.bytes = Some(index.bytes.unwrap_or(whole(measured.size)));
    }
    Ok(())
}
