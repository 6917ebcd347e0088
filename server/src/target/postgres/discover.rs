//! Looking around in a PostgreSQL database, for discovery. Reads only.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use dbkeep_engine::{
    model::{Column, Row, TableKind, TableName, TableSchema, TypeClass},
    port::{DeclaredKey, Explore, Repeats, Sample, Target, TargetError, explore::SAMPLE_TEXT},
};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::{
    PostgresTarget, begin_reading, columns_of,
    error::{refused, statement},
    line::Line,
    render, text_row,
};

/// Pages that a sample reads, about; tables of up to that size are read as a whole.
const PAGES: i64 = 120;

const TABLES: &str = "SELECT CASE WHEN pg_catalog.pg_table_is_visible(c.oid) AND strpos(c.relname, '.') = 0 THEN NULL ELSE n.nspname::text END, c.relname::text \
     FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' \
       AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'dbkeep') AND n.nspname !~ '^pg_(toast|temp)' \
       AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') \
     ORDER BY n.nspname::text COLLATE \"C\", c.relname::text COLLATE \"C\"";

// Keys of single partitions repeat the key of the whole.
const KEYS: &str = "SELECT f.conname::text, cn.nspname::text, c.relname::text, pn.nspname::text, p.relname::text, f.convalidated, \
       ARRAY(SELECT a.attname::text FROM unnest(f.conkey) WITH ORDINALITY AS k(attnum, place) \
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = k.attnum ORDER BY k.place), \
       ARRAY(SELECT a.attname::text FROM unnest(f.confkey) WITH ORDINALITY AS k(attnum, place) \
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.confrelid AND a.attnum = k.attnum ORDER BY k.place) \
     FROM pg_catalog.pg_constraint AS f \
     JOIN pg_catalog.pg_class AS c ON c.oid = f.conrelid JOIN pg_catalog.pg_namespace AS cn ON cn.oid = c.relnamespace \
     JOIN pg_catalog.pg_class AS p ON p.oid = f.confrelid JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.relnamespace \
     WHERE f.contype = 'f' AND f.conparentid = 0 AND NOT c.relispartition ORDER BY cn.nspname, c.relname, f.conname";

/// Lets the database end every statement of this connection after `limit`.
pub(super) async fn arm(connection: &mut Line, limit: Duration) -> Result<(), TargetError> {
    let millis = limit.as_millis().clamp(1, 86_400_000);
    let sql = format!("SET statement_timeout = {millis}");
    connection.execute(AssertSqlSafe(sql)).await.map_err(statement)?;
    Ok(())
}

/// `FROM` of all rows: `ONLY` would see none of a partitioned table.
fn from(table: &TableSchema) -> String {
    let only = if table.kind == TableKind::Partitioned { "" } else { "ONLY " };
    format!("{only}{}", render::table(&table.name))
}

/// The type to which the text of a sampled value is cast for a comparison with this column. A length in the type would cut
/// the value, and a narrower integer would refuse it.
fn comparable_type(column: &Column) -> String {
    match column.class {
        TypeClass::Integer => "bigint".to_owned(),
        TypeClass::Text if column.type_name.starts_with("character varying") => "text".to_owned(),
        TypeClass::Text if column.type_name == "character" || column.type_name.starts_with("character(") => "bpchar".to_owned(),
        TypeClass::Real if column.type_name.starts_with("numeric") => "numeric".to_owned(),
        _ => column.type_name.clone(),
    }
}

async fn commit(connection: &mut Line) -> Result<(), TargetError> {
    connection.execute("COMMIT").await.map_err(statement)?;
    Ok(())
}

#[async_trait]
impl Explore for PostgresTarget {
    fn bounded(&self, limit: Duration) -> Arc<dyn Target> {
        Arc::new(Self {
            hosts: self.hosts.clone(),
            idle: Arc::default(),
            sessions: Arc::default(),
            silence: self.silence,
            limit: Some(limit),
            parallel: self.parallel,
            programs: self.programs.clone(),
        })
    }

    async fn tables(&self) -> Result<Vec<TableName>, TargetError> {
        let mut connection = self.connection().await?;
        let rows = sqlx::query(TABLES).fetch_all(&mut connection).await.map_err(statement)?;
        self.idle.put(connection);
        rows.iter()
            .map(|row| {
                Ok(TableName {
                    schema: row.try_get(0).map_err(statement)?,
                    name: row.try_get(1).map_err(statement)?,
                })
            })
            .collect()
    }

    async fn declared_keys(&self) -> Result<Vec<DeclaredKey>, TargetError> {
        let mut connection = self.connection().await?;
        let rows = sqlx::query(KEYS).fetch_all(&mut connection).await.map_err(statement)?;
        self.idle.put(connection);
        rows.iter()
            .map(|row| {
                let table = |schema: usize| -> Result<TableName, TargetError> {
                    Ok(TableName {
                        schema: row.try_get(schema).map_err(statement)?,
                        name: row.try_get(schema + 1).map_err(statement)?,
                    })
                };
                Ok(DeclaredKey {
                    name: row.try_get(0).map_err(statement)?,
                    child: table(1)?,
                    parent: table(3)?,
                    checked: row.try_get(5).map_err(statement)?,
                    columns: row.try_get(6).map_err(statement)?,
                    parent_columns: row.try_get(7).map_err(statement)?,
                })
            })
            .collect()
    }

    async fn sample(&self, table: &TableSchema, columns: &[String], limit: u32) -> Result<Sample, TargetError> {
        let mut connection = self.connection().await?;
        begin_reading(&mut connection).await?;
        let sql = "SELECT coalesce((SELECT sum(pg_relation_size(t.relid)) FROM pg_partition_tree(c.oid) AS t), pg_relation_size(c.oid))::bigint \
                     / current_setting('block_size')::bigint FROM pg_catalog.pg_class AS c WHERE c.oid = to_regclass($1)";
        let pages: Option<i64> = sqlx::query_scalar(sql)
            .bind(render::table(&table.name))
            .fetch_optional(&mut connection)
            .await
            .map_err(statement)?;
        let pages = pages.ok_or_else(|| refused(format!("table {} vanished", table.name)))?;
        // Whole pages, of which some are taken by chance with a fixed seed; then rows of them, again as if by chance.
        let sampled = pages > PAGES;
        let tablesample = if sampled {
            let percent =
                f64::from(u32::try_from(PAGES).unwrap_or(u32::MAX)) * 100.0 / f64::from(u32::try_from(pages).unwrap_or(u32::MAX));
            format!(" TABLESAMPLE SYSTEM ({percent}) REPEATABLE (1)")
        } else {
            String::new()
        };
        let cut: Vec<String> = columns
            .iter()
            .map(|column| format!("left(t.{}::text, {SAMPLE_TEXT})", render::identifier(column)))
            .collect();
        let sql = format!(
            "SELECT {} FROM {} AS t{tablesample} ORDER BY hashtext(t.tableoid::text || t.ctid::text) LIMIT {}",
            cut.join(", "),
            from(table),
            u64::from(limit) + 1
        );
        let found = sqlx::query(AssertSqlSafe(sql))
            .persistent(false)
            .fetch_all(&mut connection)
            .await
            .map_err(statement)?;
        let mut rows = found.iter().map(text_row).collect::<Result<Vec<_>, _>>()?;
        commit(&mut connection).await?;
        self.idle.put(connection);
        let whole = !sampled && rows.len() <= limit as usize;
        rows.truncate(limit as usize);
        Ok(Sample { rows, whole })
    }

    async fn present(&self, table: &TableSchema, columns: &[String], keys: &[Row]) -> Result<Vec<bool>, TargetError> {
        let mut connection = self.connection().await?;
        begin_reading(&mut connection).await?;
        let (mut arrays, mut names, mut same) = (Vec::new(), Vec::new(), Vec::new());
        for (position, name) in columns.iter().enumerate() {
            let column = table
                .column(name)
                .ok_or_else(|| refused(format!("table {} has no column {name}", table.name)))?;
            arrays.push(format!("${}::text[]", position + 1));
            names.push(format!("k{position}"));
            same.push(format!(
                "p.{} = v.k{position}::{}",
                render::identifier(name),
                comparable_type(column)
            ));
        }
        let sql = format!(
            "SELECT v.i::bigint FROM unnest({}) WITH ORDINALITY AS v({}, i) WHERE EXISTS (SELECT 1 FROM {} AS p WHERE {})",
            arrays.join(", "),
            names.join(", "),
            from(table),
            same.join(" AND ")
        );
        let values = columns_of(keys, columns.len())?;
        let mut query = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql)).persistent(false);
        for column in values {
            query = query.bind(column);
        }
        let found = query.fetch_all(&mut connection).await.map_err(statement)?;
        commit(&mut connection).await?;
        self.idle.put(connection);
        let mut present = vec![false; keys.len()];
        for place in found {
            let place = usize::try_from(place - 1).ok().and_then(|place| present.get_mut(place));
            if let Some(place) = place {
                *place = true;
            }
        }
        Ok(present)
    }

    async fn repeats(&self, table: &TableSchema, columns: &[String]) -> Result<Repeats, TargetError> {
        let mut connection = self.connection().await?;
        begin_reading(&mut connection).await?;
        let names: Vec<String> = columns.iter().map(|column| render::identifier(column)).collect();
        let present: Vec<String> = names.iter().map(|name| format!("{name} IS NOT NULL")).collect();
        let sql = format!(
            "SELECT count(*), coalesce(sum(n - 1), 0)::bigint FROM (SELECT count(*) AS n FROM {} WHERE {} GROUP BY {} HAVING count(*) > 1) AS repeated",
            from(table),
            present.join(" AND "),
            names.join(", ")
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .fetch_one(&mut connection)
            .await
            .map_err(statement)?;
        commit(&mut connection).await?;
        self.idle.put(connection);
        let number = |column: usize| row.try_get::<i64, _>(column).map_err(statement);
        Ok(Repeats {
            keys: u64::try_from(number(0)?).unwrap_or(0),
            surplus: u64::try_from(number(1)?).unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use dbkeep_engine::model::Generated;

    use super::*;

    #[test]
    fn no_cast_cuts_or_refuses_a_value() {
        let cast = |type_name: &str, class| {
            comparable_type(&Column {
                name: "c".into(),
                type_name: type_name.into(),
                class,
                nullable: true,
                generated: Generated::No,
            })
        };
        assert_eq!(cast("smallint", TypeClass::Integer), "bigint");
        assert_eq!(cast("character varying(3)", TypeClass::Text), "text");
        assert_eq!(cast("character(3)", TypeClass::Text), "bpchar");
        assert_eq!(cast("numeric(4,1)", TypeClass::Real), "numeric");
        assert_eq!(cast("uuid", TypeClass::Other), "uuid");
    }
}
