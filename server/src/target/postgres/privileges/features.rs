//! What is granted on a database as a whole, on schemas, and by membership in other roles.

use std::collections::{BTreeMap, BTreeSet};

use dbkeep_engine::{
    model::{
        TableName,
        privilege::{ArchiveNeed, Feature, Needs},
    },
    port::TargetError,
};
use sqlx::Row as _;

use super::{
    super::{error::statement, line::Line, render},
    MAINTAIN, Place, READ_ALL, Wanted, excess, find,
    held::Probe,
    tables::OfTable,
};

/// dbkeep's own schema.
const OWN: &str = "dbkeep";

/// What everything else rests on: the way in, temporary tables, and the schema of the journal.
pub(super) async fn basis(connection: &mut Line, place: &Place, chosen: &[Feature]) -> Result<Vec<Wanted>, TargetError> {
    let database = |privilege: &'static str, why: &str| Wanted {
        feature: Feature::Basis,
        object: format!("database {}", place.database),
        privilege: privilege.to_owned(),
        statement: format!(
            "GRANT {privilege} ON DATABASE {} {}",
            render::identifier(&place.database),
            place.to_role()
        ),
        why: why.to_owned(),
        probes: vec![Probe::Database(privilege)],
    };
    let mut wanted = vec![
        database("CONNECT", "to come in"),
        database(
            "TEMPORARY",
            "duplicates, circles and the proof of backups are worked out in temporary tables",
        ),
    ];
    let role = render::identifier(&place.role);
    let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace AS n WHERE n.nspname = $1)")
        .bind(OWN)
        .fetch_one(&mut *connection)
        .await
        .map_err(statement)?;
    let own = |object: String, statement: String, probes: Vec<Probe>| Wanted {
        feature: Feature::Basis,
        object,
        privilege: "OWNER".to_owned(),
        statement,
        why: "the journal, of which each batch writes a row in its own transaction; dbkeep makes its tables itself".to_owned(),
        probes,
    };
    let probes = if there {
        vec![
            Probe::Schema(OWN.to_owned(), "USAGE"),
            Probe::Schema(OWN.to_owned(), "CREATE"),
        ]
    } else {
        vec![Probe::MakeSchemas]
    };
    // Not AUTHORIZATION: that would leave one that is there to whoever has it.
    let take = format!("CREATE SCHEMA IF NOT EXISTS {OWN}; ALTER SCHEMA {OWN} OWNER TO {role}");
    wanted.push(own(format!("schema {OWN}"), take, probes));
    let tables = sqlx::query(
        "SELECT c.oid::bigint, c.relname::text, r.rolname = $1 FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
         JOIN pg_catalog.pg_roles AS r ON r.oid = c.relowner WHERE n.nspname = $2 AND c.relkind = 'r' ORDER BY c.relname",
    )
    .bind(&place.role)
    .bind(OWN)
    .fetch_all(connection)
    .await
    .map_err(statement)?;
    for row in tables {
        let (oid, name): (i64, String) = (row.try_get(0).map_err(statement)?, row.try_get(1).map_err(statement)?);
        let of_migrations = name.starts_with("migration");
        if row.try_get(2).map_err(statement)? || of_migrations && !chosen.contains(&Feature::Migrations) {
            continue;
        }
        let probes = ["SELECT", "INSERT", "UPDATE", "DELETE"].map(|privilege| Probe::Table(oid, privilege));
        wanted.push(own(
            format!("table {OWN}.{name}"),
            format!("ALTER TABLE {OWN}.{} OWNER TO {role}", render::identifier(&name)),
            probes.to_vec(),
        ));
    }
    Ok(wanted)
}

/// Schemas of types that columns of these tables have: a cast names them.
const TYPES: &str = "SELECT DISTINCT n.nspname::text FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid \
     LEFT JOIN pg_catalog.pg_type AS e ON e.oid = t.typelem AND t.typlen = -1 \
     JOIN pg_catalog.pg_namespace AS n ON n.oid = coalesce(e.typnamespace, t.typnamespace) \
     WHERE a.attrelid::bigint = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped AND n.nspname <> 'pg_catalog' ORDER BY 1";

/// Use of the schemas in which tables, types and archives are.
pub(super) async fn schemas(
    connection: &mut Line,
    place: &Place,
    tables: &BTreeMap<TableName, OfTable>,
    needs: &Needs,
) -> Result<Vec<Wanted>, TargetError> {
    let mut schemas: BTreeSet<String> = tables.values().filter_map(OfTable::schema).map(str::to_owned).collect();
    schemas.extend(needs.archives.iter().filter_map(|archive| archive.into.schema.clone()));
    let oids: Vec<i64> = tables.values().filter_map(OfTable::oid).collect();
    let of_types: Vec<String> = sqlx::query_scalar(TYPES)
        .bind(oids)
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    schemas.extend(of_types);
    let usage = |schema: String| Wanted {
        feature: Feature::Cleanup,
        object: format!("schema {schema}"),
        privilege: "USAGE".to_owned(),
        statement: format!("GRANT USAGE ON SCHEMA {} {}", render::identifier(&schema), place.to_role()),
        why: "tables of the catalog, or the types of their columns, are in it".to_owned(),
        probes: vec![Probe::Schema(schema, "USAGE")],
    };
    Ok(schemas.into_iter().map(usage).collect())
}

/// An archive table, made beforehand, so that the role may make none.
pub(super) async fn archive(connection: &mut Line, place: &Place, archive: &ArchiveNeed) -> Result<Wanted, TargetError> {
    let there = find(connection, &archive.into).await?;
    let probes = match (&there, &archive.into.schema) {
        (Some(_), _) => Vec::new(),
        (None, Some(schema)) => vec![Probe::Schema(schema.clone(), "CREATE")],
        (None, None) => vec![Probe::Never],
    };
    Ok(Wanted {
        feature: Feature::Cleanup,
        object: format!("table {}", archive.into),
        privilege: "to be there".to_owned(),
        statement: render::archive(&archive.of, &archive.into, &archive.stamp_column),
        why: format!("{}; made here, {} needs no right to make tables", archive.why, place.role),
        probes,
    })
}

/// Row-level security: dbkeep switches it to an error, since rows that are hidden would look as if they were not there.
pub(super) async fn policies(connection: &mut Line, place: &Place, needs: &Needs) -> Result<Vec<Wanted>, TargetError> {
    let mut names = Vec::new();
    let mut probes = Vec::new();
    for table in &needs.hidden {
        if let Some(known) = find(connection, table).await? {
            names.push(known.name.to_string());
            probes.push(Probe::Unbound(known.oid));
        }
    }
    if names.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![Wanted {
        feature: Feature::Cleanup,
        object: format!("role {}", place.role),
        privilege: "BYPASSRLS".to_owned(),
        statement: format!("ALTER ROLE {} BYPASSRLS", render::identifier(&place.role)),
        why: format!(
            "policies of {} would hide rows, and a parent that is hidden makes every child look like an orphan",
            names.join(", ")
        ),
        probes,
    }])
}

/// Sequences behind defaults of archive tables, in columns that an archived row does not bring.
pub(super) async fn sequences(connection: &mut Line, place: &Place, needs: &Needs) -> Result<Vec<Wanted>, TargetError> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for archive in &needs.archives {
        let Some(known) = find(connection, &archive.into).await? else {
            continue;
        };
        let brought: Vec<String> = archive
            .of
            .captured_columns()
            .map(|column| column.name.clone())
            .chain([archive.stamp_column.clone()])
            .collect();
        let rows = sqlx::query(
            "SELECT s.oid::bigint, n.nspname::text, s.relname::text FROM pg_catalog.pg_attrdef AS d \
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum \
             JOIN pg_catalog.pg_depend AS u ON u.classid = 'pg_catalog.pg_attrdef'::regclass AND u.objid = d.oid AND u.refclassid = 'pg_catalog.pg_class'::regclass \
             JOIN pg_catalog.pg_class AS s ON s.oid = u.refobjid AND s.relkind = 'S' JOIN pg_catalog.pg_namespace AS n ON n.oid = s.relnamespace \
             WHERE d.adrelid::bigint = $1 AND a.attname::text <> ALL ($2) ORDER BY 2, 3",
        )
        .bind(known.oid)
        .bind(brought)
        .fetch_all(&mut *connection)
        .await
        .map_err(statement)?;
        for row in rows {
            let name = TableName {
                schema: Some(row.try_get(1).map_err(statement)?),
                name: row.try_get(2).map_err(statement)?,
            };
            let object = format!("sequence {name}");
            if wanted.iter().any(|known| known.object == object) {
                continue;
            }
            wanted.push(Wanted {
                feature: Feature::Cleanup,
                object,
                privilege: "USAGE".to_owned(),
                statement: format!("GRANT USAGE ON SEQUENCE {} {}", render::table(&name), place.to_role()),
                why: format!("{}: a column of {} takes its default from it", archive.why, archive.into),
                probes: vec![Probe::Sequence(row.try_get(0).map_err(statement)?)],
            });
        }
    }
    Ok(wanted)
}

/// Columns of the table behind `pg_stats`, none of which holds a value; see docs/monitoring-role.sql.
const WIDTHS: [&str; 5] = ["starelid", "staattnum", "stainherit", "stanullfrac", "stawidth"];

/// Owners of tables outside of the system and of dbkeep, with one of their tables each, the schemas of those, and whether they are, or may
/// become, what no role of dbkeep's should: of such an owner nobody is made a member.
const OWNERS: &str = "SELECT r.rolname::text, min(c.oid::bigint), array_agg(DISTINCT n.nspname::text), \
     r.rolname ~ '^pg_' OR EXISTS (SELECT 1 FROM pg_catalog.pg_roles AS m WHERE pg_catalog.pg_has_role(r.oid, m.oid, 'MEMBER') \
       AND (m.rolsuper OR m.rolcreaterole OR m.rolreplication OR m.rolbypassrls OR m.rolname = ANY ($1))) FROM pg_catalog.pg_class AS c \
     JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_catalog.pg_roles AS r ON r.oid = c.relowner \
     WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname NOT IN ('dbkeep', 'dbkeep_control', 'information_schema') AND n.nspname !~ '^pg_' \
     GROUP BY r.oid, r.rolname ORDER BY 1";

/// An owner of tables.
struct Owner {
    name: String,
    /// One of its tables.
    table: i64,
    schemas: Vec<String>,
    /// Whether whoever is a member of it can do more than anything here needs.
    powerful: bool,
}

/// What whole features take, whatever the catalog says.
pub(super) async fn whole(connection: &mut Line, place: &Place) -> Result<Vec<Wanted>, TargetError> {
    let mut wanted = vec![
        member(
            place,
            Feature::Monitoring,
            "pg_monitor",
            "what sessions do, replicas, files of the write-ahead log, statements of others",
        ),
        Wanted {
            feature: Feature::Monitoring,
            object: "table pg_catalog.pg_statistic".to_owned(),
            privilege: format!("SELECT ({})", WIDTHS.join(", ")),
            statement: format!(
                "GRANT SELECT ({}) ON pg_catalog.pg_statistic {}",
                WIDTHS.join(", "),
                place.to_role()
            ),
            why: "how wide columns are, for estimates of free space; none of these columns holds a value".to_owned(),
            probes: statistics(connection).await?,
        },
    ];
    let owners = owners(connection).await?;
    let of_owner = |feature: Feature, why: &str| {
        owners
            .iter()
            .filter(|owner| owner.name != place.role)
            .map(|owner| Wanted {
                probes: vec![Probe::Owner(owner.table)],
                ..if owner.powerful {
                    another_owner(feature, &owner.name, why)
                } else {
                    member(place, feature, &owner.name, why)
                }
            })
            .collect::<Vec<_>>()
    };
    wanted.extend(of_owner(
        Feature::Migrations,
        "only an owner may alter its tables; what a migration makes belongs to the role that ran it",
    ));
    let schemas: BTreeSet<&String> = owners.iter().flat_map(|owner| &owner.schemas).collect();
    wanted.extend(schemas.iter().map(|schema| Wanted {
        feature: Feature::Migrations,
        object: format!("schema {schema}"),
        privilege: "CREATE".to_owned(),
        statement: format!(
            "GRANT USAGE, CREATE ON SCHEMA {} {}",
            render::identifier(schema),
            place.to_role()
        ),
        why: "migrations make tables".to_owned(),
        probes: vec![Probe::Schema((*schema).clone(), "CREATE")],
    }));
    if place.version >= READ_ALL {
        wanted.push(Wanted {
            probes: vec![Probe::Everything],
            ..member(
                place,
                Feature::Backups,
                "pg_read_all_data",
                "pg_dump reads every table and sequence; tables with policies need BYPASSRLS besides, and large objects their owner",
            )
        });
    } else {
        wanted.extend(schemas.iter().flat_map(|schema| {
            let quoted = render::identifier(schema);
            let grant = |privilege: &str, on: String| Wanted {
                feature: Feature::Backups,
                object: format!("schema {schema}"),
                privilege: privilege.to_owned(),
                statement: format!("GRANT {privilege} ON {on} {}", place.to_role()),
                why: "pg_dump reads every table and sequence".to_owned(),
                probes: vec![Probe::Everything],
            };
            [
                grant("USAGE", format!("SCHEMA {quoted}")),
                grant("SELECT", format!("ALL TABLES IN SCHEMA {quoted}")),
                grant("SELECT", format!("ALL SEQUENCES IN SCHEMA {quoted}")),
            ]
        }));
    }
    wanted.push(Wanted {
        feature: Feature::Restores,
        object: format!("role {}", place.role),
        privilege: "CREATEDB".to_owned(),
        statement: format!("ALTER ROLE {} CREATEDB", render::identifier(&place.role)),
        why: "backups are restored into, and proven in, a database of their own".to_owned(),
        probes: vec![Probe::MakeDatabases],
    });
    wanted.extend(of_owner(
        Feature::Restores,
        "a restore into place empties the tables, which is the owner's to do",
    ));
    if place.version >= MAINTAIN {
        wanted.push(member(
            place,
            Feature::Maintenance,
            "pg_maintain",
            "VACUUM and ANALYZE of every table",
        ));
    }
    wanted.extend(of_owner(
        Feature::Maintenance,
        if place.version >= MAINTAIN {
            "indexes are rebuilt: what a rebuild that was cut short leaves behind is only its owner's to drop"
        } else {
            "before version 17 only the owner of a table may VACUUM, ANALYZE or REINDEX it"
        },
    ));
    if place.version >= READ_ALL {
        wanted.push(Wanted {
            probes: vec![Probe::Everything],
            ..member(
                place,
                Feature::Discovery,
                "pg_read_all_data",
                "samples of every table are looked at",
            )
        });
    }
    Ok(wanted)
}

async fn owners(connection: &mut Line) -> Result<Vec<Owner>, TargetError> {
    let rows = sqlx::query(OWNERS)
        .bind(excess::BEYOND.map(|(name, _)| name))
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    rows.iter()
        .map(|row| {
            Ok(Owner {
                name: row.try_get(0).map_err(statement)?,
                table: row.try_get(1).map_err(statement)?,
                schemas: row.try_get(2).map_err(statement)?,
                powerful: row.try_get(3).map_err(statement)?,
            })
        })
        .collect()
}

async fn statistics(connection: &mut Line) -> Result<Vec<Probe>, TargetError> {
    let oid: i64 = sqlx::query_scalar("SELECT 'pg_catalog.pg_statistic'::regclass::oid::bigint")
        .fetch_one(connection)
        .await
        .map_err(statement)?;
    Ok(WIDTHS
        .iter()
        .map(|column| Probe::Column(oid, (*column).to_owned(), "SELECT"))
        .collect())
}

fn member(place: &Place, feature: Feature, role: &str, why: &str) -> Wanted {
    Wanted {
        feature,
        object: format!("role {role}"),
        privilege: "MEMBER".to_owned(),
        statement: format!("GRANT {} {}", render::identifier(role), place.to_role()),
        why: why.to_owned(),
        probes: vec![Probe::Member(role.to_owned())],
    }
}

/// The rights of an owner that nobody may become a member of: no statement gives them, the tables have to go to another owner first.
fn another_owner(feature: Feature, role: &str, why: &str) -> Wanted {
    Wanted {
        feature,
        object: format!("tables of role {role}"),
        privilege: "OWNER".to_owned(),
        statement: String::new(),
        why: format!(
            "{why}. Tables belong to {role}, which is a superuser, makes roles, replicates, is bound by no policy, leaves the database, or can \
             become a role that does: a member of it could do the same. Nothing is granted here; give the tables to a role without such rights \
             (ALTER TABLE .. OWNER TO ..) and write this script anew"
        ),
        probes: Vec::new(),
    }
}

/// What no grant says.
pub(super) fn notes(needs: &Needs) -> Vec<String> {
    let mut notes = Vec::new();
    if !needs.triggers.is_empty() {
        let tables: Vec<String> = needs.triggers.iter().map(ToString::to_string).collect();
        notes.push(format!(
            "triggers of {} run with the rights of this role, unless their functions are SECURITY DEFINER: what they read and write has to be granted, too",
            tables.join(", ")
        ));
    }
    for (operation, why) in &needs.unknown {
        notes.push(format!(
            "the tables of operation {operation} could not be looked at ({why}): what its keys reach is not among these rights"
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monitoring_takes_what_its_documented_role_has() {
        let documented = include_str!("../../../../../docs/monitoring-role.sql");
        assert!(documented.contains(&format!("GRANT SELECT ({}) ON pg_catalog.pg_statistic TO", WIDTHS.join(", "))));
        assert!(documented.contains("GRANT pg_monitor TO"));
    }
}
