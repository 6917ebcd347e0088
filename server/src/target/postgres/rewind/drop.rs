//! Drops whatever the application made in a database, and says what cannot be dropped, or would not come back.
//!
//! Schemas go with all that is in them. The schema `public` stays, since no dump says how it is made, and so do those that extensions
//! live in: their other objects go one by one. Extensions stay as they are, since no dump holds their version; those that came since
//! go. Large objects and subscriptions are refused: the first come as rows of the system's own, the second act on another server.

use dbkeep_engine::port::MaintenanceError;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use super::super::{
    dump::{Notes, OWN_SCHEMAS},
    error::statement,
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
pub(in super::super) async fn extensions(connection: &mut PgConnection) -> Result<Vec<(String, String)>, MaintenanceError> {
    let sql = "SELECT e.extname::text, e.extversion FROM pg_catalog.pg_extension AS e WHERE e.oid::bigint >= $1 ORDER BY 1";
    Ok(sqlx::query_as(sql)
        .bind(FIRST)
        .fetch_all(connection)
        .await
        .map_err(statement)?)
}

/// Refuses what cannot be replaced.
pub(super) async fn check(connection: &mut PgConnection) -> Result<(), MaintenanceError> {
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

async fn names(connection: &mut PgConnection, sql: String) -> Result<Vec<String>, MaintenanceError> {
    Ok(sqlx::query_scalar(AssertSqlSafe(sql))
        .persistent(false)
        .fetch_all(connection)
        .await
        .map_err(statement)?)
}

async fn run(connection: &mut PgConnection, sql: String) -> Result<(), MaintenanceError> {
    connection.execute(AssertSqlSafe(sql)).await.map_err(statement)?;
    Ok(())
}

/// Whether an object belongs to an extension, or to another object that takes it along.
fn belongs(catalog: &str, object: &str) -> String {
    format!(
        "EXISTS (SELECT 1 FROM pg_catalog.pg_depend AS x WHERE x.classid = 'pg_catalog.{catalog}'::regclass AND x.objid = {object} AND x.deptype IN ('e', 'i'))"
    )
}

/// Drops everything; returns the schemas that stayed. `warnings` takes what a person should know.
pub(super) async fn everything(
    connection: &mut PgConnection,
    notes: &Notes,
    warnings: &mut Vec<String>,
) -> Result<Vec<String>, MaintenanceError> {
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
    for schema in names(connection, going).await? {
        run(
            connection,
            format!("DROP SCHEMA IF EXISTS {} CASCADE", render::identifier(&schema)),
        )
        .await?;
    }
    objects(connection, &format!("{users} AND {kept}")).await?;
    for (name, _) in &present {
        if !saved.iter().any(|(known, _)| known == name) {
            run(
                connection,
                format!("DROP EXTENSION IF EXISTS {} CASCADE", render::identifier(name)),
            )
            .await?;
        }
    }
    public_again(connection).await?;
    let defaults = format!(
        "SELECT i.identity FROM pg_catalog.pg_default_acl AS o CROSS JOIN LATERAL pg_catalog.pg_identify_object('pg_catalog.pg_default_acl'::regclass, o.oid, 0) AS i \
         WHERE o.oid::bigint >= {FIRST} ORDER BY 1"
    );
    for identity in names(connection, defaults).await? {
        warnings.push(format!("default privileges stay, with those of the backup added: {identity}"));
    }
    names(
        connection,
        format!("SELECT n.nspname::text FROM pg_catalog.pg_namespace AS n WHERE {users} ORDER BY 1"),
    )
    .await
}

/// Drops what is in schemas that stay, one by one. What belongs to an extension or to another object goes with that, or stays.
async fn objects(connection: &mut PgConnection, schemas: &str) -> Result<(), MaintenanceError> {
    let sql = format!(
        "SELECT i.type, i.identity FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_namespace AS n ON n.oid = d.refobjid \
         CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, 0) AS i \
         WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.deptype = 'n' AND {schemas} \
         AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend AS x WHERE x.classid = d.classid AND x.objid = d.objid AND x.objsubid = 0 AND x.deptype IN ('e', 'i')) \
         AND i.type NOT IN ('default acl', 'extension', 'publication namespace') ORDER BY d.objid"
    );
    let found: Vec<(String, String)> = sqlx::query_as(AssertSqlSafe(sql))
        .persistent(false)
        .fetch_all(&mut *connection)
        .await
        .map_err(statement)?;
    for (kind, identity) in &found {
        if !KINDS.iter().any(|(known, _)| known == kind) {
            return Err(MaintenanceError::Unsupported {
                problem: format!("the database holds the {kind} {identity}, which this version cannot replace"),
            });
        }
    }
    for (known, verb) in KINDS {
        for (_, identity) in found.iter().filter(|(kind, _)| kind == known) {
            // One that went with another is no error.
            run(connection, format!("DROP {verb} IF EXISTS {identity} CASCADE")).await?;
        }
    }
    Ok(())
}

/// The schema `public` with the privileges and the owner that a new database has; a dump says what was different.
async fn public_again(connection: &mut PgConnection) -> Result<(), MaintenanceError> {
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
