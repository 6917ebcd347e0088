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

/// Attributes of a role, its memberships of a dangerous kind, and whether any table has policies.
const ROLE: &str = "SELECT r.rolsuper, r.rolcreaterole, r.rolreplication, r.rolbypassrls, r.rolcreatedb, \
     ARRAY(SELECT m.rolname::text FROM pg_catalog.pg_roles AS m WHERE m.rolname = ANY ($2) AND pg_catalog.pg_has_role(r.oid, m.oid, 'MEMBER') ORDER BY 1), \
     EXISTS (SELECT 1 FROM pg_catalog.pg_class AS c WHERE c.relrowsecurity) FROM pg_catalog.pg_roles AS r WHERE r.rolname = $1";

/// Roles whose members read or write beyond their grants, and why nobody needs them here.
const DANGEROUS: [(&str, &str); 4] = [
    ("pg_execute_server_program", "it runs programs on the database's machine"),
    ("pg_read_server_files", "it reads files of the database's machine"),
    (
        "pg_write_all_data",
        "it writes to every table, so that no grant holds it to those of the catalog",
    ),
    ("pg_write_server_files", "it writes files on the database's machine"),
];

pub(super) async fn of(
    connection: &mut Line,
    place: &Place,
    tables: impl Iterator<Item = i64>,
    chosen: &[Feature],
) -> Result<Vec<Excess>, TargetError> {
    let names: Vec<String> = DANGEROUS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let found = sqlx::query(ROLE)
        .bind(&place.role)
        .bind(names)
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
    if is(3)? && !is(6)? {
        attribute(
            "BYPASSRLS",
            "no table here has policies; those that are made later would not bind it",
        );
    }
    if is(4)? && !chosen.contains(&Feature::Restores) {
        attribute("CREATEDB", "only restores and proofs of whole backups make databases");
    }
    let memberships: Vec<String> = row.try_get(5).map_err(statement)?;
    for (name, why) in DANGEROUS
        .iter()
        .filter(|(name, _)| memberships.iter().any(|held| held == name))
    {
        excess.push(Excess {
            what: format!("member of {name}"),
            why: (*why).to_owned(),
            level: FindingLevel::Warn,
            statement: format!("REVOKE {name} FROM {role}"),
        });
    }
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
