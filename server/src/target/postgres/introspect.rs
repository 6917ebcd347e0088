//! Reads the shape of a table from PostgreSQL's catalogs.

use dbkeep_engine::{
    model::{
        Column, Condition, ForeignKey, Generated, Index, OnDelete, Selection, TableKind, TableName, TableSchema, Trigger,
        TypeClass,
    },
    port::{Namesakes, TargetError},
    rule::filter,
};
use sqlx::{Row as _, postgres::PgRow};

use super::{
    error::{refused, statement},
    line::Line,
    render,
};

/// A digest of everything about the table of oid `$1` that decides what a deletion does. Cheap enough for every batch: three
/// index look-ups. A key of another table that points here shows as one of its internal triggers.
pub(super) const SHAPE_GUARD: &str = "md5(concat(($1)::oid, '|', \
     (SELECT string_agg(concat_ws(',', a.attname, a.atttypid, a.atttypmod, a.attgenerated, a.attnotnull), ';' ORDER BY a.attnum) \
        FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped), '|', \
     (SELECT string_agg(concat_ws(',', g.tgname, g.tgenabled, g.tgtype), ';' ORDER BY g.tgname) FROM pg_catalog.pg_trigger AS g WHERE g.tgrelid = $1), '|', \
     (SELECT string_agg(concat_ws(',', r.rulename, r.ev_enabled), ';' ORDER BY r.rulename) FROM pg_catalog.pg_rewrite AS r WHERE r.ev_class = $1)))";

const TABLE: &str = "SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text, c.relrowsecurity, \
     EXISTS (SELECT 1 FROM pg_catalog.pg_inherits AS i WHERE i.inhparent = c.oid), \
     ARRAY(SELECT r.rulename::text FROM pg_catalog.pg_rewrite AS r WHERE r.ev_class = c.oid AND r.ev_type IN ('3', '4') ORDER BY 1) \
     FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)";

const COLUMNS: &str = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), b.typname::text, b.typcategory::text, \
     NOT a.attnotnull, a.attgenerated <> '', \
     b.typname = 'bpchar' AND a.atttypmod = -1 AND t.typtypmod = -1 OR EXISTS (SELECT 1 FROM pg_catalog.pg_cast AS x WHERE x.oid >= 16384 AND x.castmethod = 'f' \
       AND 'text'::regtype IN (x.castsource, x.casttarget) AND b.oid IN (x.castsource, x.casttarget)) \
     FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid \
     JOIN pg_catalog.pg_type AS b ON b.oid = (WITH RECURSIVE d (oid, typtype, typbasetype) AS (SELECT t.oid, t.typtype, t.typbasetype \
       UNION ALL SELECT n.oid, n.typtype, n.typbasetype FROM d JOIN pg_catalog.pg_type AS n ON n.oid = d.typbasetype WHERE d.typtype = 'd') \
       SELECT d.oid FROM d WHERE d.typtype <> 'd') \
     WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

const INDEXES: &str = "SELECT i.indisprimary, i.indisunique, \
     ARRAY(SELECT coalesce(a.attname::text, '') FROM unnest(i.indkey) WITH ORDINALITY AS k(attnum, place) \
           LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND k.attnum > 0 \
           WHERE k.place <= i.indnkeyatts ORDER BY k.place) \
     FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid JOIN pg_catalog.pg_am AS m ON m.oid = c.relam \
     WHERE i.indrelid = $1 AND i.indisvalid AND i.indpred IS NULL AND m.amname IN ('btree', 'hash') ORDER BY c.relname";

const INCOMING: &str = "SELECT f.conname::text, n.nspname::text, c.relname::text, f.confdeltype::text, f.conrelid::bigint, \
     ARRAY(SELECT a.attname::text FROM unnest(f.conkey) WITH ORDINALITY AS k(attnum, place) \
           JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = k.attnum ORDER BY k.place), \
     ARRAY(SELECT a.attname::text FROM unnest(f.confkey) WITH ORDINALITY AS k(attnum, place) \
           JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.confrelid AND a.attnum = k.attnum ORDER BY k.place), \
     ARRAY(SELECT a.attname::text FROM jsonb_array_elements_text(coalesce(nullif(to_jsonb(f) -> 'confdelsetcols', 'null'), '[]')) AS k(attnum) \
           JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = k.attnum::int2 ORDER BY a.attnum), \
     EXISTS (SELECT 1 FROM pg_catalog.pg_index AS i WHERE i.indrelid = f.conrelid AND i.indisvalid AND i.indpred IS NULL \
             AND i.indnkeyatts >= cardinality(f.conkey) AND (i.indkey::int2[])[0:cardinality(f.conkey) - 1] @> f.conkey \
             AND EXISTS (SELECT 1 FROM pg_catalog.pg_class AS x JOIN pg_catalog.pg_am AS m ON m.oid = x.relam \
                         WHERE x.oid = i.indexrelid AND m.amname IN ('btree', 'hash'))) \
     FROM pg_catalog.pg_constraint AS f JOIN pg_catalog.pg_class AS c ON c.oid = f.conrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     WHERE f.contype = 'f' AND f.confrelid = $1 ORDER BY f.conname, f.oid";

const TRIGGERS: &str = "SELECT tgname::text, tgtype & 8 <> 0, tgtype & 4 <> 0, tgtype & 66 <> 0, tgtype & 16 <> 0 FROM pg_catalog.pg_trigger \
     WHERE tgrelid = $1 AND NOT tgisinternal AND tgenabled <> 'D' ORDER BY tgname";

/// Relations of a name, and where their schemas stand in the search path. Whatever the path reaches takes the name, also an
/// index; elsewhere only what could be meant is of interest.
const NAMESAKES: &str = "SELECT n.nspname::text, p.place IS NOT NULL \
     FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     LEFT JOIN unnest(current_schemas(true)) WITH ORDINALITY AS p(name, place) ON p.name = n.nspname \
     WHERE c.relname = $1 AND (p.place IS NOT NULL OR c.relkind IN ('r', 'p', 'f', 'v', 'm') \
       AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_t%') ORDER BY p.place, n.nspname";

pub(super) async fn namesakes(connection: &mut Line, name: &TableName) -> Result<Namesakes, TargetError> {
    if name.schema.is_some() {
        return Ok(Namesakes {
            reached: vec![name.clone()],
            elsewhere: Vec::new(),
            made: name.clone(),
        });
    }
    let of_schema = |schema: Option<String>| TableName {
        schema,
        name: name.name.clone(),
    };
    let schema: Option<String> = sqlx::query_scalar("SELECT current_schema()::text")
        .fetch_one(&mut *connection)
        .await
        .map_err(statement)?;
    let mut namesakes = Namesakes {
        reached: Vec::new(),
        elsewhere: Vec::new(),
        made: of_schema(schema),
    };
    let found = sqlx::query(NAMESAKES)
        .bind(&name.name)
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    for row in found {
        let table = of_schema(Some(get(&row, 0)?));
        if get(&row, 1)? {
            namesakes.reached.push(table);
        } else {
            namesakes.elsewhere.push(table);
        }
    }
    Ok(namesakes)
}

/// Functions of these names, each with its schema where one is named, that need not return the same from one moment to the next. Of
/// PostgreSQL's own the stable ones depend on settings, which do not change; whatever else is called stable may look at anything.
const UNSTABLE: &str = "SELECT p.proname::text, p.provolatile = 'v' FROM unnest($1::text[], $2::text[]) AS f(schema, name) \
     JOIN pg_catalog.pg_proc AS p ON p.proname = f.name JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace \
     WHERE CASE WHEN f.schema IS NULL THEN pg_catalog.pg_function_is_visible(p.oid) ELSE n.nspname = f.schema END \
       AND (p.provolatile = 'v' OR p.provolatile = 's' AND n.nspname <> 'pg_catalog') ORDER BY 1 LIMIT 1";

/// Whether the functions of conditions in SQL return the same to the plan and to the run.
///
/// # Errors
/// Class `Refused` with the name of one that may not.
pub(super) async fn check_functions(connection: &mut Line, selection: &Selection) -> Result<(), TargetError> {
    let mut called = Vec::new();
    selection.matches.visit(&mut |part| {
        if let Condition::Sql { text, .. } = part {
            called.extend(filter::functions(text));
        }
    });
    if called.is_empty() {
        return Ok(());
    }
    let (schemas, names): (Vec<_>, Vec<_>) = called.into_iter().unzip();
    let found = sqlx::query(UNSTABLE)
        .bind(schemas)
        .bind(names)
        .fetch_optional(connection)
        .await
        .map_err(statement)?;
    let Some(found) = found else { return Ok(()) };
    let (name, volatile): (String, bool) = (get(&found, 0)?, get(&found, 1)?);
    let declared = if volatile { "VOLATILE" } else { "STABLE" };
    Err(refused(format!(
        "function {name} is declared {declared}, so that a run could find other rows than its plan; expected one that is IMMUTABLE"
    )))
}

pub(super) async fn table(connection: &mut Line, name: &TableName) -> Result<Option<TableSchema>, TargetError> {
    let found = sqlx::query(TABLE)
        .bind(render::table(name))
        .fetch_optional(&mut *connection)
        .await
        .map_err(statement)?;
    let Some(found) = found else { return Ok(None) };
    let oid: i64 = get(&found, 0)?;
    let guard = format!("SELECT {}", SHAPE_GUARD.replace("$1", "$1::bigint::oid"));
    let shape_guard: String = sqlx::query_scalar(sqlx::AssertSqlSafe(guard))
        .bind(oid)
        .fetch_one(&mut *connection)
        .await
        .map_err(statement)?;
    let mut schema = TableSchema {
        name: TableName {
            schema: Some(get(&found, 1)?),
            name: get(&found, 2)?,
        },
        kind: kind(&get::<String>(&found, 3)?, get(&found, 5)?),
        columns: Vec::new(),
        primary_key: Vec::new(),
        row_key: Vec::new(),
        indexes: Vec::new(),
        incoming: Vec::new(),
        triggers: Vec::new(),
        rewrite_rules: get(&found, 6)?,
        row_security: get(&found, 4)?,
        lossy_columns: Vec::new(),
        shape_guard,
    };
    for row in rows(connection, COLUMNS, oid).await? {
        let column = Column {
            name: get(&row, 0)?,
            type_name: get(&row, 1)?,
            class: class(&get::<String>(&row, 2)?, &get::<String>(&row, 3)?),
            nullable: get(&row, 4)?,
            generated: if get(&row, 5)? { Generated::Yes } else { Generated::No },
        };
        if get(&row, 6)? {
            schema.lossy_columns.push(column.name.clone());
        }
        schema.columns.push(column);
    }
    for row in rows(connection, INDEXES, oid).await? {
        let columns: Vec<String> = get(&row, 2)?;
        if get(&row, 0)? {
            schema.primary_key.clone_from(&columns);
        }
        schema.indexes.push(Index {
            columns,
            unique: get(&row, 1)?,
        });
    }
    schema.row_key.clone_from(&schema.primary_key);
    for row in rows(connection, INCOMING, oid).await? {
        let child_columns: Vec<String> = get(&row, 5)?;
        // `ON DELETE SET NULL (columns)`, from version 15 on.
        let chosen: Vec<String> = get(&row, 7)?;
        schema.incoming.push(ForeignKey {
            name: get(&row, 0)?,
            child: TableName {
                schema: Some(get(&row, 1)?),
                name: get(&row, 2)?,
            },
            null_columns: if chosen.is_empty() { child_columns.clone() } else { chosen },
            child_columns,
            parent_columns: get(&row, 6)?,
            on_delete: on_delete(&get::<String>(&row, 3)?),
            indexed: get(&row, 8)?,
        });
    }
    for row in rows(connection, TRIGGERS, oid).await? {
        schema.triggers.push(Trigger {
            name: get(&row, 0)?,
            on_delete: get(&row, 1)?,
            on_insert: get(&row, 2)?,
            before: get(&row, 3)?,
            on_update: get(&row, 4)?,
        });
    }
    Ok(Some(schema))
}

async fn rows(connection: &mut Line, sql: &'static str, oid: i64) -> Result<Vec<PgRow>, TargetError> {
    // The oid travels as bigint, since the driver has no wider unsigned type than PostgreSQL's own.
    let sql = sql.replace("$1", "$1::bigint::oid");
    sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(oid)
        .fetch_all(connection)
        .await
        .map_err(statement)
}

fn get<'r, T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>>(
    row: &'r PgRow,
    column: usize,
) -> Result<T, TargetError> {
    row.try_get(column).map_err(statement)
}

fn kind(relkind: &str, has_children: bool) -> TableKind {
    match relkind {
        "r" if has_children => TableKind::Inherited,
        "r" => TableKind::Table,
        "p" => TableKind::Partitioned,
        "f" => TableKind::Foreign,
        _ => TableKind::View,
    }
}

fn class(type_name: &str, category: &str) -> TypeClass {
    match (type_name, category) {
        ("int2" | "int4" | "int8", _) => TypeClass::Integer,
        ("float4" | "float8" | "numeric", _) => TypeClass::Real,
        ("timestamptz", _) => TypeClass::Instant,
        ("timestamp", _) => TypeClass::CivilTime,
        ("date", _) => TypeClass::Date,
        (_, "S") => TypeClass::Text,
        _ => TypeClass::Other,
    }
}

fn on_delete(code: &str) -> OnDelete {
    match code {
        "c" => OnDelete::Cascade,
        "n" => OnDelete::SetNull,
        "d" => OnDelete::SetDefault,
        "r" => OnDelete::Restrict,
        _ => OnDelete::NoAction,
    }
}
