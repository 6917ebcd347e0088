//! Which rights a role has, by the server's own judgement, which knows of owners, of memberships and of what everybody may.

use dbkeep_engine::port::TargetError;
use sqlx::Row as _;

use super::{
    super::{error::statement, line::Line},
    Place,
};

/// A question to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Probe {
    /// A privilege on the database.
    Database(&'static str),
    /// A privilege on a schema.
    Schema(String, &'static str),
    /// Whether the role may make schemas.
    MakeSchemas,
    /// Privileges on a table, any of them.
    Table(i64, &'static str),
    /// A privilege on a column.
    Column(i64, String, &'static str),
    /// A privilege on some column.
    AnyColumn(i64, &'static str),
    /// Use of a sequence.
    Sequence(i64),
    /// The rights of another role.
    Member(String),
    /// The rights of a table's owner.
    Owner(i64),
    /// Whether policies of the table do not bind the role.
    Unbound(i64),
    /// Whether every table and sequence outside of the system and of dbkeep can be read.
    Everything,
    /// Whether the role may make databases.
    MakeDatabases,
    /// Nothing of the kind is there.
    Never,
}

const ASK: &str = "SELECT CASE g.kind \
     WHEN 'database' THEN pg_catalog.has_database_privilege($1::name, pg_catalog.current_database(), g.privilege) \
     WHEN 'schema' THEN pg_catalog.has_schema_privilege($1::name, (SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname = g.name), g.privilege) \
     WHEN 'table' THEN pg_catalog.has_table_privilege($1::name, g.object::oid, g.privilege) \
     WHEN 'column' THEN pg_catalog.has_column_privilege($1::name, g.object::oid, g.name, g.privilege) \
     WHEN 'any column' THEN pg_catalog.has_any_column_privilege($1::name, g.object::oid, g.privilege) \
     WHEN 'sequence' THEN pg_catalog.has_sequence_privilege($1::name, g.object::oid, 'USAGE') \
     WHEN 'member' THEN (SELECT pg_catalog.pg_has_role($1::name, r.oid, 'USAGE') FROM pg_catalog.pg_roles AS r WHERE r.rolname = g.name) \
     WHEN 'owner' THEN (SELECT pg_catalog.pg_has_role($1::name, c.relowner, 'USAGE') FROM pg_catalog.pg_class AS c WHERE c.oid = g.object::oid) \
     WHEN 'unbound' THEN (SELECT NOT c.relrowsecurity OR r.rolsuper OR r.rolbypassrls \
       OR (NOT c.relforcerowsecurity AND pg_catalog.pg_has_role($1::name, c.relowner, 'USAGE')) \
       FROM pg_catalog.pg_class AS c, pg_catalog.pg_roles AS r WHERE c.oid = g.object::oid AND r.rolname = $1) \
     WHEN 'everything' THEN NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
       WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't' AND n.nspname NOT IN ('dbkeep', 'dbkeep_control', 'information_schema') AND n.nspname !~ '^pg_' \
         AND NOT (pg_catalog.has_schema_privilege($1::name, n.oid, 'USAGE') AND CASE c.relkind WHEN 'S' THEN pg_catalog.has_sequence_privilege($1::name, c.oid, 'SELECT') \
           ELSE pg_catalog.has_table_privilege($1::name, c.oid, 'SELECT') END)) \
     WHEN 'make databases' THEN (SELECT r.rolsuper OR r.rolcreatedb FROM pg_catalog.pg_roles AS r WHERE r.rolname = $1) \
     ELSE false END \
     FROM unnest($2::text[], $3::bigint[], $4::text[], $5::text[]) WITH ORDINALITY AS g(kind, object, name, privilege, place) ORDER BY g.place";

impl Probe {
    /// Kind, object, name and privilege, as the statement takes them.
    fn row(&self) -> (&'static str, i64, &str, &'static str) {
        match self {
            Self::Database(privilege) => ("database", 0, "", privilege),
            Self::Schema(name, privilege) => ("schema", 0, name, privilege),
            Self::MakeSchemas => ("database", 0, "", "CREATE"),
            Self::Table(oid, privileges) => ("table", *oid, "", privileges),
            Self::Column(oid, column, privilege) => ("column", *oid, column, privilege),
            Self::AnyColumn(oid, privilege) => ("any column", *oid, "", privilege),
            Self::Sequence(oid) => ("sequence", *oid, "", ""),
            Self::Member(role) => ("member", 0, role, ""),
            Self::Owner(oid) => ("owner", *oid, "", ""),
            Self::Unbound(oid) => ("unbound", *oid, "", ""),
            Self::Everything => ("everything", 0, "", ""),
            Self::MakeDatabases => ("make databases", 0, "", ""),
            Self::Never => ("never", 0, "", ""),
        }
    }
}

/// Whether all probes of each list hold, in order. A role that is not there has nothing.
pub(super) async fn ask<'a>(
    connection: &mut Line,
    place: &Place,
    lists: impl Iterator<Item = &'a [Probe]>,
) -> Result<Vec<bool>, TargetError> {
    let lists: Vec<&[Probe]> = lists.collect();
    if !place.exists {
        return Ok(vec![false; lists.len()]);
    }
    let rows: Vec<_> = lists.iter().copied().flatten().map(Probe::row).collect();
    let answers = sqlx::query(ASK)
        .bind(&place.role)
        .bind(rows.iter().map(|row| row.0).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.1).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.2).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.3).collect::<Vec<_>>())
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    let mut answers = answers.iter();
    let mut held = Vec::with_capacity(lists.len());
    for list in lists {
        let mut all = true;
        for answer in answers.by_ref().take(list.len()) {
            // NULL is a thing that is not there.
            all &= answer.try_get::<Option<bool>, _>(0).map_err(statement)?.unwrap_or(false);
        }
        held.push(all);
    }
    Ok(held)
}
