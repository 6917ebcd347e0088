//! Schema and data of a PostgreSQL database, to be compared. Each object is told by the server's own words for it, with an empty
//! search path, so that names are full ones; rows by a hash that their order does not change. Objects of extensions belong to their
//! extension, and those of dbkeep to nobody.

use dbkeep_engine::{
    model::{Fingerprint, SchemaObject, TableContent, TableName},
    port::TargetError,
};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::super::{error::statement, line::Line, render};

/// Text forms that do not depend on anybody's settings, and one snapshot for everything.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL row_security = off; SET LOCAL search_path = ''; \
     SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'postgres'; SET LOCAL extra_float_digits = 1; \
     SET LOCAL bytea_output = 'hex'; SET LOCAL lc_monetary = 'C'; SET LOCAL quote_all_identifiers = off; SET LOCAL statement_timeout = 0";

/// Schemas whose objects count, of an alias `n`.
const OWN: &str =
    "n.nspname NOT IN ('pg_catalog', 'information_schema', 'dbkeep', 'dbkeep_control') AND n.nspname !~ '^pg_(toast|temp)'";

/// Rights, sorted; those that nobody has given are the owner's and the world's defaults.
fn rights(acl: &str, kind: char, owner: &str) -> String {
    format!(
        "(SELECT pg_catalog.string_agg(r.right::text, ' ' ORDER BY r.right::text COLLATE \"C\") \
          FROM unnest(coalesce({acl}, pg_catalog.acldefault('{kind}', {owner}))) AS r(\"right\"))"
    )
    .replace("r.right", "r.\"right\"")
}

/// Whether an object belongs to no extension.
fn nobodys(class: &str, object: &str) -> String {
    format!(
        "NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend AS x WHERE x.classid = 'pg_catalog.{class}'::regclass AND x.objid = {object} AND x.deptype = 'e')"
    )
}

/// Queries of (kind, name, definition).
fn queries() -> Vec<String> {
    let full = "pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)";
    let class = format!(
        "FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace AND {OWN} AND {}",
        nobodys("pg_class", "c.oid")
    );
    let owner = |column: &str| format!("pg_catalog.pg_get_userbyid({column})");
    vec![
        format!(
            "SELECT 'schema', pg_catalog.quote_ident(n.nspname), pg_catalog.concat_ws(' ', {}, {}) FROM pg_catalog.pg_namespace AS n WHERE {OWN} AND {}",
            owner("n.nspowner"),
            rights("n.nspacl", 'n', "n.nspowner"),
            nobodys("pg_namespace", "n.oid"),
        ),
        format!(
            "SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' WHEN 'c' THEN 'composite type' ELSE 'table' END, \
               {full}, pg_catalog.concat_ws(' ', c.relkind::text, c.relpersistence::text, c.relrowsecurity, c.relforcerowsecurity, c.relreplident::text, \
                 c.reloptions::text, c.reloftype::regtype::text, (SELECT a.amname FROM pg_catalog.pg_am AS a WHERE a.oid = c.relam), \
                 (SELECT s.spcname FROM pg_catalog.pg_tablespace AS s WHERE s.oid = c.reltablespace), \
                 CASE WHEN c.relkind = 'p' THEN pg_catalog.pg_get_partkeydef(c.oid) END, pg_catalog.pg_get_expr(c.relpartbound, c.oid), \
                 (SELECT string_agg(i.inhparent::regclass::text, ', ' ORDER BY i.inhseqno) FROM pg_catalog.pg_inherits AS i WHERE i.inhrelid = c.oid), \
                 CASE WHEN c.relkind IN ('v', 'm') THEN pg_catalog.pg_get_viewdef(c.oid) END, {}, {}) \
             {class} WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')",
            owner("c.relowner"),
            rights("c.relacl", 'r', "c.relowner"),
        ),
        // The place among those that are left: a column that was dropped leaves a gap in the numbers.
        format!(
            "SELECT 'column', {full} || '.' || pg_catalog.quote_ident(a.attname), pg_catalog.concat_ws(' ', \
               pg_catalog.row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum), pg_catalog.format_type(a.atttypid, a.atttypmod), \
               CASE WHEN a.attnotnull THEN 'NOT NULL' END, 'DEFAULT ' || pg_catalog.pg_get_expr(d.adbin, d.adrelid), \
               'identity ' || nullif(a.attidentity::text, ''), 'generated ' || nullif(a.attgenerated::text, ''), \
               'COLLATE ' || nullif(a.attcollation, 0)::regcollation::text, 'storage ' || a.attstorage::text, a.attoptions::text, \
               'inherited ' || nullif(a.attinhcount, 0)::text, a.attislocal, 'rights ' || a.attacl::text) \
             {class} JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
             LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')"
        ),
        format!(
            "SELECT 'constraint', {full} || ' ' || pg_catalog.quote_ident(f.conname), \
               pg_catalog.concat_ws(' ', pg_catalog.pg_get_constraintdef(f.oid), 'validated ' || f.convalidated::text, f.connoinherit, f.conislocal) \
             {class} JOIN pg_catalog.pg_constraint AS f ON f.conrelid = c.oid"
        ),
        format!(
            "SELECT 'index', {full}, pg_catalog.concat_ws(' ', pg_catalog.pg_get_indexdef(c.oid), 'valid ' || i.indisvalid::text, \
               'clustered ' || i.indisclustered::text, 'identity ' || i.indisreplident::text, \
               (SELECT s.spcname FROM pg_catalog.pg_tablespace AS s WHERE s.oid = c.reltablespace)) \
             {class} JOIN pg_catalog.pg_index AS i ON i.indexrelid = c.oid"
        ),
        format!(
            "SELECT 'sequence', {full}, pg_catalog.concat_ws(' ', s.seqtypid::regtype::text, s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle, \
               (SELECT d.refobjid::regclass::text || '.' || a.attname || ' ' || d.deptype::text FROM pg_catalog.pg_depend AS d \
                JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
                WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i') LIMIT 1), {}, {}) \
             {class} JOIN pg_catalog.pg_sequence AS s ON s.seqrelid = c.oid",
            owner("c.relowner"),
            rights("c.relacl", 's', "c.relowner"),
        ),
        format!(
            "SELECT 'trigger', {full} || ' ' || pg_catalog.quote_ident(t.tgname), pg_catalog.concat_ws(' ', pg_catalog.pg_get_triggerdef(t.oid), t.tgenabled::text) \
             {class} JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = c.oid AND NOT t.tgisinternal"
        ),
        format!(
            "SELECT 'rule', {full} || ' ' || pg_catalog.quote_ident(r.rulename), pg_catalog.concat_ws(' ', pg_catalog.pg_get_ruledef(r.oid), r.ev_enabled::text) \
             {class} JOIN pg_catalog.pg_rewrite AS r ON r.ev_class = c.oid AND r.rulename <> '_RETURN'"
        ),
        format!(
            "SELECT 'policy', {full} || ' ' || pg_catalog.quote_ident(p.polname), pg_catalog.concat_ws(' ', p.polcmd::text, p.polpermissive, \
               (SELECT string_agg(CASE WHEN r.oid = 0 THEN 'public' ELSE {} END, ', ') FROM unnest(p.polroles) AS r(oid)), \
               'USING ' || pg_catalog.pg_get_expr(p.polqual, p.polrelid), 'CHECK ' || pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)) \
             {class} JOIN pg_catalog.pg_policy AS p ON p.polrelid = c.oid",
            owner("r.oid"),
        ),
        format!(
            "SELECT 'statistics', pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(s.stxname), pg_catalog.pg_get_statisticsobjdef(s.oid) \
             FROM pg_catalog.pg_statistic_ext AS s JOIN pg_catalog.pg_namespace AS n ON n.oid = s.stxnamespace AND {OWN}"
        ),
        format!(
            "SELECT CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END, p.oid::regprocedure::text, pg_catalog.concat_ws(' ', \
               CASE WHEN p.prokind <> 'a' THEN pg_catalog.pg_get_functiondef(p.oid) ELSE (SELECT pg_catalog.concat_ws(' ', g.aggtransfn::text, g.aggfinalfn::text, \
                 g.aggcombinefn::text, g.aggtranstype::regtype::text, g.agginitval, g.aggsortop::regoperator::text) FROM pg_catalog.pg_aggregate AS g WHERE g.aggfnoid = p.oid) END, {}, {}) \
             FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace AND {OWN} AND {}",
            owner("p.proowner"),
            rights("p.proacl", 'f', "p.proowner"),
            nobodys("pg_proc", "p.oid"),
        ),
        // Types of tables and arrays come with what they are types of.
        format!(
            "SELECT 'type', t.oid::regtype::text, pg_catalog.concat_ws(' ', t.typtype::text, \
               CASE WHEN t.typtype = 'd' THEN pg_catalog.format_type(t.typbasetype, t.typtypmod) END, CASE WHEN t.typnotnull THEN 'NOT NULL' END, \
               'DEFAULT ' || t.typdefault, 'COLLATE ' || nullif(t.typcollation, 0)::regcollation::text, \
               (SELECT string_agg(pg_catalog.quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) FROM pg_catalog.pg_enum AS e WHERE e.enumtypid = t.oid), \
               (SELECT string_agg(pg_catalog.quote_ident(f.conname) || ' ' || pg_catalog.pg_get_constraintdef(f.oid) || ' ' || f.convalidated::text, ', ' ORDER BY f.conname) \
                FROM pg_catalog.pg_constraint AS f WHERE f.contypid = t.oid), \
               (SELECT pg_catalog.format_type(r.rngsubtype, NULL) FROM pg_catalog.pg_range AS r WHERE r.rngtypid = t.oid), {}, {}) \
             FROM pg_catalog.pg_type AS t JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace AND {OWN} AND {} \
             WHERE t.typtype IN ('e', 'd', 'r') OR (t.typtype = 'b' AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_type AS e WHERE e.typarray = t.oid))",
            owner("t.typowner"),
            rights("t.typacl", 'T', "t.typowner"),
            nobodys("pg_type", "t.oid"),
        ),
        "SELECT 'extension', pg_catalog.quote_ident(e.extname), pg_catalog.concat_ws(' ', e.extversion, e.extnamespace::regnamespace::text) FROM pg_catalog.pg_extension AS e".to_owned(),
        "SELECT 'event trigger', pg_catalog.quote_ident(e.evtname), pg_catalog.concat_ws(' ', e.evtevent, e.evtfoid::regprocedure::text, e.evtenabled::text, e.evttags::text) \
         FROM pg_catalog.pg_event_trigger AS e"
            .to_owned(),
        "SELECT 'publication', pg_catalog.quote_ident(p.pubname), pg_catalog.concat_ws(' ', p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, \
           (SELECT string_agg(r.prrelid::regclass::text, ', ' ORDER BY r.prrelid::regclass::text COLLATE \"C\") FROM pg_catalog.pg_publication_rel AS r WHERE r.prpubid = p.oid)) \
         FROM pg_catalog.pg_publication AS p"
            .to_owned(),
        format!(
            "SELECT 'default privileges', pg_catalog.concat_ws(' ', {}, nullif(d.defaclnamespace, 0)::regnamespace::text, d.defaclobjtype::text), \
               (SELECT string_agg(r.\"right\"::text, ' ' ORDER BY r.\"right\"::text COLLATE \"C\") FROM unnest(d.defaclacl) AS r(\"right\")) FROM pg_catalog.pg_default_acl AS d",
            owner("d.defaclrole"),
        ),
        // Whatever the server knows by a number below this one it brought along.
        "SELECT 'comment', o.type || ' ' || o.identity, d.description FROM pg_catalog.pg_description AS d \
         CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.classoid, d.objoid, d.objsubid) AS o \
         WHERE d.objoid >= 16384 AND coalesce(o.schema, '') NOT IN ('dbkeep', 'dbkeep_control') AND o.identity IS NOT NULL \
           AND o.identity NOT IN ('dbkeep', 'dbkeep_control') AND o.identity !~ ' on (dbkeep|dbkeep_control)\\.' \
           AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend AS x WHERE x.classid = d.classoid AND x.objid = d.objoid AND x.deptype = 'e')"
            .to_owned(),
    ]
}

/// Tables that hold rows themselves, with their columns sorted by name.
const TABLES: &str = "SELECT n.nspname::text, c.relname::text, \
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attname::text COLLATE \"C\"), \
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_index AS x JOIN pg_catalog.pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = ANY (x.indkey) \
             WHERE x.indrelid = c.oid AND x.indisprimary ORDER BY a.attname::text COLLATE \"C\") \
     FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     WHERE (c.relkind = 'r' OR (c.relkind = 'm' AND c.relispopulated)) AND OWN_SCHEMA AND NOBODYS \
     ORDER BY n.nspname::text COLLATE \"C\", c.relname::text COLLATE \"C\"";

/// Takes the fingerprint. Its connection is not to be used again after an error.
pub(super) async fn take(connection: &mut Line) -> Result<Fingerprint, TargetError> {
    connection.execute(BEGIN).await.map_err(statement)?;
    let mut objects = Vec::new();
    for query in queries() {
        let rows = sqlx::query(AssertSqlSafe(query))
            .persistent(false)
            .fetch_all(&mut *connection)
            .await
            .map_err(statement)?;
        for row in rows {
            objects.push(SchemaObject {
                kind: row.try_get(0).map_err(statement)?,
                name: row.try_get(1).map_err(statement)?,
                definition: row.try_get::<Option<String>, _>(2).map_err(statement)?.unwrap_or_default(),
            });
        }
    }
    objects.sort();
    let tables = contents(&mut *connection).await?;
    let bytes: i64 = sqlx::query_scalar("SELECT pg_catalog.pg_database_size(pg_catalog.current_database())")
        .fetch_one(&mut *connection)
        .await
        .map_err(statement)?;
    connection.execute("COMMIT").await.map_err(statement)?;
    Ok(Fingerprint {
        objects,
        tables,
        bytes: u64::try_from(bytes).unwrap_or(0),
    })
}

async fn contents(connection: &mut Line) -> Result<Vec<TableContent>, TargetError> {
    let sql = TABLES
        .replace("OWN_SCHEMA", OWN)
        .replace("NOBODYS", &nobodys("pg_class", "c.oid"));
    let found: Vec<(String, String, Vec<String>, Vec<String>)> = sqlx::query_as(AssertSqlSafe(sql))
        .fetch_all(&mut *connection)
        .await
        .map_err(statement)?;
    let mut tables = Vec::with_capacity(found.len());
    for (schema, name, names, key) in found {
        let table = TableName {
            schema: Some(schema),
            name,
        };
        let written = |names: &[String]| -> Vec<String> {
            let names = names.iter().map(|column| format!("t.{}", render::identifier(column)));
            names.collect()
        };
        let sum = |values: &[String]| {
            format!(
                "coalesce(sum(pg_catalog.hashtextextended(ROW({})::text COLLATE \"C\", 0)::numeric), 0)::text",
                values.join(", ")
            )
        };
        let key = written(&key);
        let each: Vec<String> = written(&names)
            .into_iter()
            .map(|column| sum(&[key.as_slice(), &[column]].concat()))
            .collect();
        let sql = format!(
            "SELECT count(*), {}, ARRAY[{}]::text[] FROM ONLY {} AS t",
            sum(&written(&names)),
            each.join(", "),
            render::table(&table)
        );
        let (rows, hash, each): (i64, String, Vec<String>) = sqlx::query_as(AssertSqlSafe(sql))
            .persistent(false)
            .fetch_one(&mut *connection)
            .await
            .map_err(statement)?;
        tables.push(TableContent {
            table: table.to_string(),
            rows: u64::try_from(rows).unwrap_or(0),
            hash,
            columns: names.into_iter().zip(each).collect(),
        });
    }
    Ok(tables)
}
