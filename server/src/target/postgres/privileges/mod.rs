//! Rights of roles in PostgreSQL: what the needs of a catalog are called here, which of them a role has, and what it has besides. `tables`
//! says which grants a table takes, `features` what a feature takes as a whole, `held` asks the server, `script` writes it all down.
//!
//! Nothing but catalogs is read, which every role may: a right that is missing must not keep anybody from being told so.

mod excess;
mod features;
mod held;
mod script;
mod tables;

use std::collections::BTreeMap;

use async_trait::async_trait;
use dbkeep_engine::{
    model::{
        TableName,
        privilege::{Access, Feature, Grant, Needs},
    },
    port::{Privileges, TargetError},
};
use sqlx::Row as _;

use self::{held::Probe, tables::OfTable};
use super::{PostgresTarget, error::statement, line::Line, render};

/// Version from which on `MAINTAIN` can be granted, which locks a table and changes none of its rows.
const MAINTAIN: i32 = 170_000;
/// Version from which on `pg_read_all_data` is there.
const READ_ALL: i32 = 140_000;

/// A right, and what tells whether it is held.
struct Wanted {
    feature: Feature,
    object: String,
    privilege: String,
    statement: String,
    why: String,
    /// All of these have to hold.
    probes: Vec<Probe>,
}

/// The role, and where it is looked at.
struct Place {
    /// The role's name.
    role: String,
    /// Whether it is there.
    exists: bool,
    database: String,
    version: i32,
}

impl Place {
    fn to_role(&self) -> String {
        format!("TO {}", render::identifier(&self.role))
    }
}

/// A table as the catalogs know it.
struct Known {
    oid: i64,
    name: TableName,
}

/// Relations of a name. One without a schema is looked for where the search path would look if the role might use those schemas.
const FIND: &str = "SELECT c.oid::bigint, n.nspname::text, c.relname::text FROM pg_catalog.pg_class AS c \
     JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     LEFT JOIN (SELECT CASE pg_catalog.btrim(p.name, ' \"') WHEN '$user' THEN current_user::text ELSE pg_catalog.btrim(p.name, ' \"') END AS name, p.place \
       FROM unnest(pg_catalog.string_to_array(pg_catalog.current_setting('search_path'), ',')) WITH ORDINALITY AS p(name, place)) AS s ON s.name = n.nspname \
     WHERE c.relname = $2 AND c.relkind IN ('r', 'p', 'f', 'v', 'm') AND CASE WHEN $1 IS NULL THEN s.name IS NOT NULL ELSE n.nspname = $1 END \
     ORDER BY s.place LIMIT 1";

async fn find(connection: &mut Line, name: &TableName) -> Result<Option<Known>, TargetError> {
    let found = sqlx::query(FIND)
        .bind(&name.schema)
        .bind(&name.name)
        .fetch_optional(connection)
        .await
        .map_err(statement)?;
    let Some(row) = found else { return Ok(None) };
    Ok(Some(Known {
        oid: row.try_get(0).map_err(statement)?,
        name: TableName {
            schema: Some(row.try_get(1).map_err(statement)?),
            name: row.try_get(2).map_err(statement)?,
        },
    }))
}

async fn place(connection: &mut Line, role: Option<&str>) -> Result<Place, TargetError> {
    let row = sqlx::query(
        "SELECT r.name, EXISTS (SELECT 1 FROM pg_catalog.pg_roles AS k WHERE k.rolname = r.name), pg_catalog.current_database()::text, \
         pg_catalog.current_setting('server_version_num')::integer FROM (SELECT coalesce($1, current_user::text) AS name) AS r",
    )
    .bind(role)
    .fetch_one(connection)
    .await
    .map_err(statement)?;
    Ok(Place {
        role: row.try_get(0).map_err(statement)?,
        exists: row.try_get(1).map_err(statement)?,
        database: row.try_get(2).map_err(statement)?,
        version: row.try_get(3).map_err(statement)?,
    })
}

#[async_trait]
impl Privileges for PostgresTarget {
    async fn access(&self, needs: &Needs, role: Option<&str>, chosen: &[Feature]) -> Result<Access, TargetError> {
        let mut connection = self.connection().await?;
        let place = place(&mut connection, role).await?;
        let mut notes = Vec::new();
        let mut tables: BTreeMap<TableName, OfTable> = BTreeMap::new();
        for need in &needs.tables {
            match find(&mut connection, &need.table).await? {
                Some(known) => tables
                    .entry(known.name.clone())
                    .or_insert_with(|| OfTable::new(known))
                    .add(need),
                None => {
                    let made = needs.archives.iter().any(|archive| archive.into == need.table);
                    let note = format!("table {} is not there, so that no right on it can be granted yet", need.table);
                    if made {
                        let of = tables
                            .entry(need.table.clone())
                            .or_insert_with(|| OfTable::absent(&need.table));
                        of.add(need);
                    } else if !notes.contains(&note) {
                        notes.push(note);
                    }
                }
            }
        }
        let mut wanted = features::basis(&mut connection, &place, chosen).await?;
        wanted.extend(features::schemas(&mut connection, &place, &tables, needs).await?);
        for archive in &needs.archives {
            wanted.push(features::archive(&mut connection, &place, archive).await?);
        }
        for table in tables.values() {
            wanted.extend(table.grants(&place));
        }
        wanted.extend(features::policies(&mut connection, &place, needs).await?);
        wanted.extend(features::sequences(&mut connection, &place, needs).await?);
        wanted.extend(features::whole(&mut connection, &place).await?);
        wanted.sort_by_key(|wanted| wanted.feature);
        let held = held::ask(&mut connection, &place, wanted.iter().map(|wanted| wanted.probes.as_slice())).await?;
        let excess = excess::of(&mut connection, &place, tables.values().filter_map(OfTable::oid), chosen).await?;
        self.idle.put(connection);
        notes.extend(features::notes(needs));
        let grants = wanted
            .into_iter()
            .zip(held)
            .map(|(wanted, held)| Grant {
                feature: wanted.feature,
                object: wanted.object,
                privilege: wanted.privilege,
                statement: wanted.statement,
                why: wanted.why,
                held,
            })
            .collect::<Vec<_>>();
        Ok(Access {
            script: script::write(&place, &grants, &notes, chosen),
            exists: place.exists,
            role: place.role,
            grants,
            excess,
            notes,
        })
    }
}
