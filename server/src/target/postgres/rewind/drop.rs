//! Drops whatever the application made in a database, and says what cannot be dropped, or would not come back.
//!
//! Objects go one by one, and a table only where it was locked before the present state was saved: one that somebody made meanwhile may
//! hold rows that nobody has saved. An emptied schema goes without CASCADE, so that a table that is committed into it at the last moment
//! stops everything. The schema `public` stays, since no dump says how it is made, and so do those that extensions live in. Extensions
//! stay as they are, since no dump holds their version; those that came since go, if they hold no rows. Default privileges are reset,
//! since what is made next would inherit them; the dump brings its own back in the end. Large objects and subscriptions are refused: the
//! first come as rows of the system's own, the second act on another server.

use dbkeep_engine::port::{MaintenanceError, TargetError, TargetErrorClass};
use sqlx::{AssertSqlSafe, Executor as _};

use super::super::{
    dump::{Notes, OWN_SCHEMAS},
    error::statement,
    line::Line,
    render,
};

/// First oid that is not the system's.
const FIRST: i64 = 16_384;

/// Objects in a schema that go by a statement of their own: what PostgreSQL calls them, and how they are dropped.
const KINDS: [(&str, &str); 20] = [
    ("materialized view", "MATERIALIZED VIEW"),
    ("view", "VIEW"),
    ("foreign table", "FOREIGN TABLE"),
    ("table", "TABLE"),
    ("sequence", "SEQUENCE"),
    ("aggregate", "AGGREGATE"),
    ("function", "FUNCTION"),
    ("procedure", "PROCEDURE"),
    ("operator class", "OPERATOR CLASS"),
    ("operator family", "OPERATOR FAMILY"),
    ("operator", "OPERATOR"),
    ("type", "TYPE"),
    ("collation", "COLLATION"),
    ("conversion", "CONVERSION"),
    ("text search configuration", "TEXT SEARCH CONFIGURATION"),
    ("text search dictionary", "TEXT SEARCH DICTIONARY"),
    ("text search parser", "TEXT SEARCH PARSER"),
    ("text search template", "TEXT SEARCH TEMPLATE"),
    ("statistics object", "STATISTICS"),
    ("composite type", "TYPE"),
];

/// Objects in no schema, in the order in which they go. Event triggers first: they would watch the others go.
const OUTSIDE: [(&str, &str); 8] = [
    ("pg_event_trigger", "EVENT TRIGGER"),
    ("pg_publication", "PUBLICATION"),
    ("pg_cast", "CAST"),
    ("pg_transform", "TRANSFORM"),
    ("pg_foreign_server", "SERVER"),
    ("pg_foreign_data_wrapper", "FOREIGN DATA WRAPPER"),
    ("pg_language", "LANGUAGE"),
    ("pg_am", "ACCESS METHOD"),
];

/// Extensions of the application's with their versions.
pub(in super::super) async fn extensions(connection: &mut Line) -> Result<Vec<(String, String)>, MaintenanceError> {
    let sql = "SELECT e.extname::text, e.extversion FROM pg_catalog.pg_extension AS e WHERE e.oid::bigint >= $1 ORDER BY 1";
    Ok(sqlx::query_as(sql)
        .bind(FIRST)
        .fetch_all(connection)
        .await
        .map_err(statement)?)
}

/// Refuses what cannot be replaced.
pub(super) async fn check(connection: &mut Line) -> Result<(), MaintenanceError> {
    let unsupported = |what: &str| MaintenanceError::Unsupported {
        problem: format!(
            "the database holds {what}, which cannot be replaced in one transaction; expected none, or a restore to a scratch place and by hand"
        ),
    };
    let found: (bool, bool) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_largeobject_metadata), EXISTS (SELECT 1 FROM pg_catalog.pg_subscription AS s \
         JOIN pg_catalog.pg_database AS b ON b.oid = s.subdbid WHERE b.datname = current_database())",
    )
    .fetch_one(connection)
    .await
    .map_err(statement)?;
    match found {
        (true, _) => Err(unsupported("large objects")),
        (_, true) => Err(unsupported("a subscription")),
        (false, false) => Ok(()),
    }
}

async fn names(connection: &mut Line, sql: String) -> Result<Vec<String>, MaintenanceError> {
    Ok(sqlx::query_scalar(AssertSqlSafe(sql))
        .persistent(false)
        .fetch_all(connection)
        .await
        .map_err(statement)?)
}

async fn run(connection: &mut Line, sql: String) -> Result<(), MaintenanceError> {
    connection.execute(AssertSqlSafe(sql)).await.map_err(statement)?;
    Ok(())
}

/// Whether an object belongs to an extension, or to another object that takes it along.
fn belongs(catalog: &str, object: &str) -> String {
    format!(
        "EXISTS (SELECT 1 FROM pg_catalog.pg_depend AS x WHERE x.classid = 'pg_catalog.{catalog}'::regclass AND x.objid = {object} AND x.deptype IN ('e', 'i'))"
    )
}

/// An extension that goes must not take rows along: no dump holds those of its tables.
async fn holds_nothing(connection: &mut Line, extension: &str) -> Result<(), MaintenanceError> {
    let sql = format!(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_class AS c ON c.oid = d.objid \
         JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid \
         WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e' \
         AND c.relkind IN ('r', 'p') AND e.extname = {}",
        render::literal(extension)
    );
    for table in names(connection, sql).await? {
        run(connection, format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")).await?;
        let some = names(connection, format!("SELECT 'row' FROM {table} LIMIT 1")).await?;
        if !some.is_empty() {
            return Err(MaintenanceError::Unsupported {
                problem: format!(
                    "extension {extension} came since the backup and would be dropped with the rows of its table {table}, which are in no backup; expected it empty"
                ),
            });
        }
    }
    Ok(())
}

/// The extensions must be those of the backup, with their versions: `CREATE EXTENSION` of a dump names none.
pub(super) async fn same_extensions(connection: &mut Line, notes: &Notes) -> Result<(), MaintenanceError> {
    let (then, now) = (notes.extensions.clone().unwrap_or_default(), extensions(connection).await?);
    match then.iter().find(|extension| !now.contains(extension)) {
        None => Ok(()),
        Some((name, version)) => Err(MaintenanceError::Unsupported {
            problem: format!(
                "extension {name} had version {version} when the backup was made, and this server brings another; expected {version} to be installed before"
            ),
        }),
    }
}

/// Drops everything; returns the schemas that stayed.
pub(super) async fn everything(connection: &mut Line, notes: &Notes) -> Result<Vec<String>, MaintenanceError> {
    let Some(saved) = &notes.extensions else {
        return Err(MaintenanceError::Unsupported {
            problem: "the backup does not say which extensions there were: a version of dbkeep made it that did not note them"
                .to_owned(),
        });
    };
    let present = extensions(connection).await?;
    for (name, version) in &present {
        if let Some((_, then)) = saved.iter().find(|(known, _)| known == name)
            && then != version
        {
            return Err(MaintenanceError::Unsupported {
                problem: format!(
                    "extension {name} has version {version} now and had {then} when the backup was made, and no dump brings a version back; expected {then}"
                ),
            });
        }
    }
    for (catalog, verb) in OUTSIDE {
        let sql = format!(
            "SELECT i.identity FROM pg_catalog.{catalog} AS o CROSS JOIN LATERAL pg_catalog.pg_identify_object('pg_catalog.{catalog}'::regclass, o.oid, 0) AS i \
             WHERE o.oid::bigint >= {FIRST} AND NOT {}",
            belongs(catalog, "o.oid")
        );
        for identity in names(connection, sql).await? {
            let cascade = if matches!(verb, "PUBLICATION") { "" } else { " CASCADE" };
            run(connection, format!("DROP {verb} IF EXISTS {identity}{cascade}")).await?;
        }
    }
    let own = OWN_SCHEMAS.map(render::literal).join(", ");
    let users = format!("n.nspname NOT IN ({own}, 'information_schema') AND n.nspname !~ '^pg_'");
    let kept = format!(
        "(n.nspname = 'public' OR EXISTS (SELECT 1 FROM pg_catalog.pg_extension AS e WHERE e.extnamespace = n.oid) OR {})",
        belongs("pg_namespace", "n.oid")
    );
    let going = format!("SELECT n.nspname::text FROM pg_catalog.pg_namespace AS n WHERE {users} AND NOT {kept} ORDER BY 1");
    let going = names(connection, going).await?;
    objects(connection, &users).await?;
    for schema in going {
        // Waits for whoever is making something in it, and fails where that was committed.
        run(
            connection,
            format!("DROP SCHEMA IF EXISTS {} RESTRICT", render::identifier(&schema)),
        )
        .await?;
    }
    for (name, _) in &present {
        if !saved.iter().any(|(known, _)| known == name) {
            holds_nothing(connection, name).await?;
            run(
                connection,
                format!("DROP EXTENSION IF EXISTS {} CASCADE", render::identifier(name)),
            )
            .await?;
        }
    }
    public_again(connection).await?;
    no_defaults(connection).await?;
    names(
        connection,
        format!("SELECT n.nspname::text FROM pg_catalog.pg_namespace AS n WHERE {users} ORDER BY 1"),
    )
    .await
}

/// Drops what is in schemas, one by one. What belongs to an extension or to another object goes with that, or stays.
///
/// # Errors
/// A conflict where a table was not locked by this transaction in the beginning.
async fn objects(connection: &mut Line, schemas: &str) -> Result<(), MaintenanceError> {
    let sql = format!(
        "SELECT i.type, i.identity, d.classid = 'pg_catalog.pg_class'::regclass AND EXISTS (SELECT 1 FROM pg_catalog.pg_locks AS l \
         WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.mode = 'ExclusiveLock' AND l.granted AND l.relation = d.objid) \
         FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_namespace AS n ON n.oid = d.refobjid \
         CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, 0) AS i \
         WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.deptype = 'n' AND {schemas} \
         AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend AS x WHERE x.classid = d.classid AND x.objid = d.objid AND x.objsubid = 0 AND x.deptype IN ('e', 'i')) \
         AND i.type NOT IN ('default acl', 'extension', 'publication namespace') ORDER BY d.objid"
    );
    let found: Vec<(String, String, bool)> = sqlx::query_as(AssertSqlSafe(sql))
        .persistent(false)
        .fetch_all(&mut *connection)
        .await
        .map_err(statement)?;
    for (kind, identity, held) in &found {
        if kind == "table" && !held {
            let message = format!("{identity} was made while the present state was saved");
            return Err(TargetError::new(TargetErrorClass::Conflict, message).into());
        }
        if !KINDS.iter().any(|(known, _)| known == kind) {
            return Err(MaintenanceError::Unsupported {
                problem: format!("the database holds the {kind} {identity}, which this version cannot replace"),
            });
        }
    }
    for (known, verb) in KINDS {
        for (_, identity, _) in found.iter().filter(|(kind, ..)| kind == known) {
            // One that went with another is no error.
            run(connection, format!("DROP {verb} IF EXISTS {identity} CASCADE")).await?;
        }
    }
    Ok(())
}

/// Default privileges as a new database has them. What is made after this would inherit others, also where the backup says nothing of its
/// privileges because they were the built-in ones.
async fn no_defaults(connection: &mut Line) -> Result<(), MaintenanceError> {
    let built_in = "CASE WHEN d.defaclnamespace = 0 THEN pg_catalog.acldefault(CASE d.defaclobjtype WHEN 'S' THEN 's'::\"char\" ELSE d.defaclobjtype END, d.defaclrole) ELSE '{}'::aclitem[] END";
    let named = "CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END";
    let change = |verb: &str, direction: &str, from: &str, without: &str| {
        format!(
            "SELECT pg_catalog.format('ALTER DEFAULT PRIVILEGES FOR ROLE %I %s {verb} %s ON %s {direction} %s', pg_catalog.pg_get_userbyid(d.defaclrole), \
             CASE WHEN d.defaclnamespace = 0 THEN '' ELSE pg_catalog.format('IN SCHEMA %I', n.nspname) END, a.privilege_type, \
             CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' WHEN 'T' THEN 'TYPES' ELSE 'SCHEMAS' END, {named}) \
             FROM pg_catalog.pg_default_acl AS d LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = d.defaclnamespace \
             CROSS JOIN LATERAL pg_catalog.aclexplode({from}) AS a WHERE d.oid::bigint >= {FIRST} AND NOT EXISTS (SELECT 1 FROM pg_catalog.aclexplode({without}) AS b \
             WHERE b.grantee = a.grantee AND b.privilege_type = a.privilege_type)"
        )
    };
    let mut changes = names(connection, change("REVOKE", "FROM", "d.defaclacl", built_in)).await?;
    changes.extend(names(connection, change("GRANT", "TO", built_in, "d.defaclacl")).await?);
    for sql in changes {
        run(connection, sql).await?;
    }
    Ok(())
}

/// The schema `public` with the privileges and the owner that a new database has; a dump says what was different.
async fn public_again(connection: &mut Line) -> Result<(), MaintenanceError> {
    let there = "SELECT pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(n.nspowner)) FROM pg_catalog.pg_namespace AS n WHERE n.nspname = 'public'";
    let Some(owner) = names(connection, there.to_owned()).await?.pop() else {
        return Ok(());
    };
    let first = "coalesce((SELECT p.initprivs FROM pg_catalog.pg_init_privs AS p WHERE p.classoid = 'pg_catalog.pg_namespace'::regclass AND p.objoid = n.oid), \
                 pg_catalog.acldefault('n', n.nspowner))";
    let present = "coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))";
    let named = "CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END";
    let difference = |from: &str, without: &str, sql: &str| {
        format!(
            "SELECT pg_catalog.format({}, a.privilege_type, {named}) || CASE WHEN a.is_grantable AND {} THEN ' WITH GRANT OPTION' ELSE '' END \
             FROM pg_catalog.pg_namespace AS n CROSS JOIN LATERAL pg_catalog.aclexplode({from}) AS a WHERE n.nspname = 'public' AND NOT EXISTS ( \
             SELECT 1 FROM pg_catalog.aclexplode({without}) AS b WHERE b.grantee = a.grantee AND b.privilege_type = a.privilege_type AND b.is_grantable = a.is_grantable)",
            render::literal(sql),
            sql.starts_with("GRANT")
        )
    };
    let mut changes = names(connection, difference(present, first, "REVOKE %s ON SCHEMA public FROM %s")).await?;
    changes.extend(names(connection, difference(first, present, "GRANT %s ON SCHEMA public TO %s")).await?);
    let newer: bool = sqlx::query_scalar("SELECT current_setting('server_version_num')::integer >= 150000")
        .fetch_one(&mut *connection)
        .await
        .map_err(statement)?;
    if newer && owner != "pg_database_owner" {
        changes.insert(0, "ALTER SCHEMA public OWNER TO pg_database_owner".to_owned());
    }
    for sql in changes {
        run(connection, sql).await?;
    }
    Ok(())
}
