//! What a role could do besides: the attributes and memberships that turn a mistake, or a stolen password, into the loss of everything.

use dbkeep_engine::{
    model::{
        FindingLevel,
        privilege::{Excess, Feature},
    },
    port::TargetError,
};
use sqlx::Row as _;

use super::{
    super::{error::statement, line::Line, render},
    Place,
};

/// Attributes of a role, and whether any table has policies.
const ROLE: &str = "SELECT r.rolsuper, r.rolcreaterole, r.rolreplication, r.rolbypassrls, r.rolcreatedb, \
     EXISTS (SELECT 1 FROM pg_catalog.pg_class AS c WHERE c.relrowsecurity) FROM pg_catalog.pg_roles AS r WHERE r.rolname = $1";

/// Roles that it is a member of, itself or through others, and that have such attributes or are of a dangerous kind: their attributes, and
/// the roles through which it is one, where it is none itself. Whether it inherits their rights does not matter: it can take them.
const MEMBERSHIPS: &str = "SELECT m.rolname::text, m.rolsuper, m.rolcreaterole, m.rolreplication, m.rolbypassrls, \
     EXISTS (SELECT 1 FROM pg_catalog.pg_auth_members AS a WHERE a.member = r.oid AND a.roleid = m.oid), \
     ARRAY(SELECT DISTINCT t.rolname::text FROM pg_catalog.pg_auth_members AS a JOIN pg_catalog.pg_roles AS t ON t.oid = a.roleid \
       WHERE a.member = r.oid AND t.oid <> m.oid AND pg_catalog.pg_has_role(t.oid, m.oid, 'MEMBER') ORDER BY 1) \
     FROM pg_catalog.pg_roles AS r, pg_catalog.pg_roles AS m WHERE r.rolname = $1 AND m.oid <> r.oid AND pg_catalog.pg_has_role(r.oid, m.oid, 'MEMBER') \
     AND (m.rolsuper OR m.rolcreaterole OR m.rolreplication OR m.rolbypassrls OR m.rolname = ANY ($2)) ORDER BY 1";

/// Roles whose members read or write beyond their grants, and why nobody needs them here.
pub(super) const BEYOND: [(&str, &str); 4] = [
    ("pg_execute_server_program", "it runs programs on the database's machine"),
    ("pg_read_server_files", "it reads files of the database's machine"),
    (
        "pg_write_all_data",
        "it writes to every table, so that no grant holds it to those of the catalog",
    ),
    ("pg_write_server_files", "it writes files on the database's machine"),
];

/// The role whose members read every table, and why few need it.
const READER: (&str, &str) = (
    "pg_read_all_data",
    "it reads every table, also those that the catalog does not name; only whole backups and discovery need that",
);

pub(super) async fn of(
    connection: &mut Line,
    place: &Place,
    tables: impl Iterator<Item = i64>,
    chosen: &[Feature],
) -> Result<Vec<Excess>, TargetError> {
    let found = sqlx::query(ROLE)
        .bind(&place.role)
        .fetch_optional(&mut *connection)
        .await
        .map_err(statement)?;
    let Some(row) = found else { return Ok(Vec::new()) };
    let is = |column: usize| row.try_get::<bool, _>(column).map_err(statement);
    let role = render::identifier(&place.role);
    if is(0)? {
        return Ok(vec![Excess {
            what: "SUPERUSER".to_owned(),
            why: "no wall of the database's own is left: it may drop everything, and runs programs on the database's machine. `dbkeep grants` \
                  writes the statements that make a role of its own"
                .to_owned(),
            level: FindingLevel::Warn,
            statement: String::new(),
        }]);
    }
    let mut excess = Vec::new();
    let mut attribute = |what: &str, why: &str| {
        excess.push(Excess {
            what: what.to_owned(),
            why: why.to_owned(),
            level: FindingLevel::Warn,
            statement: format!("ALTER ROLE {role} NO{what}"),
        });
    };
    if is(1)? {
        attribute("CREATEROLE", "it can make roles, and give itself the rights of others");
    }
    if is(2)? {
        attribute("REPLICATION", "it can copy the whole cluster, and keep its log for ever");
    }
    if is(3)? && !is(5)? {
        attribute(
            "BYPASSRLS",
            "no table here has policies; those that are made later would not bind it",
        );
    }
    if is(4)? && !chosen.contains(&Feature::Restores) {
        attribute("CREATEDB", "only restores and proofs of whole backups make databases");
    }
    excess.extend(memberships(connection, place, chosen).await?);
    let for_owners = [Feature::Migrations, Feature::Restores, Feature::Maintenance];
    if !chosen.iter().any(|feature| for_owners.contains(feature)) {
        let owned: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_catalog.pg_class AS c WHERE c.oid::bigint = ANY ($2) AND pg_catalog.pg_has_role($1::name, c.relowner, 'USAGE')",
        )
        .bind(&place.role)
        .bind(tables.collect::<Vec<_>>())
        .fetch_one(connection)
        .await
        .map_err(statement)?;
        if owned > 0 {
            excess.push(Excess {
                what: format!("owner of {owned} tables of the catalog"),
                why: "it can drop and alter them, and grant itself what is missing; only migrations, restores into place and maintenance need that"
                    .to_owned(),
                level: FindingLevel::Info,
                statement: String::new(),
            });
        }
    }
    Ok(excess)
}

async fn memberships(connection: &mut Line, place: &Place, chosen: &[Feature]) -> Result<Vec<Excess>, TargetError> {
    let known: Vec<(&str, &str)> = BEYOND.into_iter().chain([READER]).collect();
    let rows = sqlx::query(MEMBERSHIPS)
        .bind(&place.role)
        .bind(known.iter().map(|(name, _)| *name).collect::<Vec<_>>())
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    let reads_all = [Feature::Backups, Feature::Discovery];
    let mut excess = Vec::new();
    for row in rows {
        let name: String = row.try_get(0).map_err(statement)?;
        let is_reader = name == READER.0;
        if is_reader && chosen.iter().any(|feature| reads_all.contains(feature)) {
            continue;
        }
        let mut attributes = Vec::new();
        for (column, attribute) in [(1, "SUPERUSER"), (2, "CREATEROLE"), (3, "REPLICATION"), (4, "BYPASSRLS")] {
            if row.try_get(column).map_err(statement)? {
                attributes.push(attribute);
            }
        }
        let why = known.iter().find(|(known, _)| *known == name).map_or_else(
            || {
                format!(
                    "that role has {}, and a member of it can take its rights",
                    attributes.join(", ")
                )
            },
            |(_, why)| (*why).to_owned(),
        );
        let is_direct: bool = row.try_get(5).map_err(statement)?;
        let through: Vec<String> = row.try_get(6).map_err(statement)?;
        excess.push(Excess {
            what: if is_direct {
                format!("member of {name}")
            } else {
                format!("member of {name}, through {}", through.join(", "))
            },
            why,
            level: if is_reader { FindingLevel::Info } else { FindingLevel::Warn },
            // What it is a member of in between may be needed: people have to decide which of the links goes.
            statement: if is_direct {
                format!(
                    "REVOKE {} FROM {}",
                    render::identifier(&name),
                    render::identifier(&place.role)
                )
            } else {
                String::new()
            },
        });
    }
    Ok(excess)
}
