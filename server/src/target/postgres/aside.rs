//! Places beside a target's own tables: a database of its own for whole tables, a schema of its own for captured rows. Each carries
//! the run that made it in a comment, so that a later attempt tells what is its own from what is anybody else's.

use std::{path::Path, sync::Arc};

use dbkeep_engine::{
    failpoint,
    model::{RunId, TableCount, TableName, fence},
    port::{Claim, LoadOrder, Loaded, MaintenanceError, TableLayout, Target, Watch},
};
use sqlx::{AssertSqlSafe, Executor as _};

use super::{
    CONNECT_TIMEOUT, PostgresTarget,
    contents::{contents, list_file},
    dump::{Notes, TableNotes},
    error::{self, statement},
    line::Line,
    render,
    tool::path_argument,
};

/// The comment that marks a place as a run's.
fn mark(run: RunId) -> String {
    format!("Made by dbkeep, restore {run}. Drop it when it is not needed any more.")
}

/// The same with the attempt, for a place that a later attempt makes anew.
fn mark_of_attempt(claim: Claim) -> String {
    format!("{} Attempt {}.", mark(claim.run), fence::name(claim.fence))
}

/// Whether a comment is that of this attempt or one before it. An attempt that lost its lease and wakes up late must not take the place
/// of its successor.
fn is_mine(comment: &str, claim: Claim) -> bool {
    let maker = comment
        .strip_prefix(&mark(claim.run))
        .and_then(|rest| fence::named(rest.trim().strip_prefix("Attempt ")?.strip_suffix('.')?));
    maker.is_some_and(|maker| maker <= claim.fence)
}

/// What the name of a database begins with that an attempt of this run is making.
fn making(run: RunId) -> String {
    format!("dbkeep_making_{}_", run.0.simple())
}

/// Name of the database that an attempt is making. Within the 63 bytes of a name.
fn unfinished(claim: Claim) -> String {
    format!("{}{:x}", making(claim.run), claim.fence)
}

/// Whether a database of that name is one that this attempt or one before it was making.
fn was_making(name: &str, claim: Claim) -> bool {
    let maker = name.strip_prefix(&making(claim.run));
    maker.is_some_and(|fence| u64::from_str_radix(fence, 16).is_ok_and(|fence| fence <= claim.fence))
}

fn taken(place: &str) -> MaintenanceError {
    MaintenanceError::Place {
        place: place.to_owned(),
        problem: "is there already and was not made by this restore; expected another name".to_owned(),
    }
}

/// The comment of a database of that name; `None` where there is no such database.
async fn comment_of(connection: &mut Line, name: &str) -> Result<Option<String>, MaintenanceError> {
    let sql =
        "SELECT coalesce(pg_catalog.shobj_description(oid, 'pg_database'), '') FROM pg_catalog.pg_database WHERE datname = $1";
    Ok(sqlx::query_scalar(sql)
        .bind(name)
        .fetch_optional(connection)
        .await
        .map_err(statement)?)
}

impl PostgresTarget {
    pub(super) async fn drop_database(&self, claim: Claim, name: &str) -> Result<(), MaintenanceError> {
        let mut connection = self.connection().await?;
        let sql = "SELECT datname::text FROM pg_catalog.pg_database WHERE pg_catalog.starts_with(datname::text, $1)";
        let left: Vec<String> = sqlx::query_scalar(sql)
            .bind(making(claim.run))
            .fetch_all(&mut connection)
            .await
            .map_err(statement)?;
        for unfinished in left.iter().filter(|left| was_making(left, claim)) {
            self.drop_it(&mut connection, unfinished).await?;
        }
        match comment_of(&mut connection, name).await? {
            None => {}
            Some(comment) if is_mine(&comment, claim) => self.drop_it(&mut connection, name).await?,
            Some(_) => return Err(taken(&format!("database {name}"))),
        }
        self.idle.put(connection);
        Ok(())
    }

    /// Removes a database, whoever is connected to it.
    async fn drop_it(&self, connection: &mut Line, name: &str) -> Result<(), MaintenanceError> {
        let quoted = render::identifier(name);
        let sql = if self.server_major(&mut *connection).await? >= 13 {
            format!("DROP DATABASE IF EXISTS {quoted} WITH (FORCE)")
        } else {
            // Whoever is still connected was there to look.
            sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE datname = $1")
                .bind(name)
                .execute(&mut *connection)
                .await
                .map_err(statement)?;
            format!("DROP DATABASE IF EXISTS {quoted}")
        };
        connection.execute(AssertSqlSafe(sql)).await.map_err(statement)?;
        Ok(())
    }

    pub(super) async fn open_database(&self, name: &str) -> Result<Arc<dyn Target>, MaintenanceError> {
        let mut connection = self.connection().await?;
        let there = comment_of(&mut connection, name).await?.is_some();
        self.idle.put(connection);
        if !there {
            return Err(MaintenanceError::Place {
                place: format!("database {name}"),
                problem: "is not there; expected one that a restore made".to_owned(),
            });
        }
        Ok(Arc::new(Self {
            hosts: self.hosts.in_database(name),
            programs: self.programs.in_database(name),
            idle: Arc::default(),
            sessions: Arc::default(),
            silence: self.silence,
            limit: self.limit,
            parallel: self.parallel,
        }))
    }

    pub(super) async fn load_database(&self, order: &LoadOrder, name: &str, watch: &Watch) -> Result<Loaded, MaintenanceError> {
        watch.or_stop(self.fill_database(order, name, watch)).await
    }

    async fn fill_database(&self, order: &LoadOrder, name: &str, watch: &Watch) -> Result<Loaded, MaintenanceError> {
        let notes: Notes = serde_json::from_value(order.notes.clone()).map_err(|error| MaintenanceError::Damaged {
            problem: format!("its manifest: {error}"),
        })?;
        let mut inside = self.make_database(order.claim, name).await?;
        let mut warnings = Vec::new();
        if !notes.whole {
            // A dump of tables does not hold their schemas.
            for table in &order.tables {
                if let Some(schema) = &table.table.schema {
                    let sql = format!("CREATE SCHEMA IF NOT EXISTS {}", render::identifier(schema));
                    inside.execute(AssertSqlSafe(sql)).await.map_err(statement)?;
                }
            }
        }
        let listing = self.programs.script(&order.path, &["--list"], None).await?;
        let chosen: Vec<&TableNotes> = notes
            .tables
            .iter()
            .filter(|notes| order.tables.iter().any(|table| table.table == notes.table))
            .collect();
        let part = !order.whole && chosen.len() < notes.tables.len();
        let own = part.then(|| contents(&listing, &chosen, |_| true));
        let total = std::fs::metadata(&order.path).map_or(0, |found| found.len());
        watch.say("restoring", "", 0, total, "bytes");
        // Everything before the rows comes whole, because a table may need any type or function.
        self.restore_into(name, &order.path, "--section=pre-data", None, true, &mut warnings)
            .await?;
        self.restore_into(name, &order.path, "--section=data", own.as_deref(), true, &mut warnings)
            .await?;
        // Keys of a part name tables that are not there, or hold no rows here.
        let strict = notes.whole && !part;
        self.restore_into(
            name,
            &order.path,
            "--section=post-data",
            own.as_deref(),
            strict,
            &mut warnings,
        )
        .await?;
        let mut tables = Vec::with_capacity(order.tables.len());
        for table in &order.tables {
            watch.say("counting", &table.table.to_string(), 0, 0, "rows");
            let sql = format!("SELECT count(*) FROM ONLY {}", render::table(&table.table));
            let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
                .fetch_one(&mut inside)
                .await
                .map_err(statement)?;
            tables.push(TableCount {
                table: table.table.clone(),
                rows: u64::try_from(rows).unwrap_or(0),
            });
        }
        // Nobody is left connected, so that the operator can drop it at once.
        inside.close().await.map_err(statement)?;
        Ok(Loaded {
            place: format!("database {name}"),
            tables,
            warnings,
        })
    }

    /// Makes an empty database like this one, and connects to it.
    pub(super) async fn make_database(&self, claim: Claim, name: &str) -> Result<Line, MaintenanceError> {
        let mut connection = self.connect().await?;
        let major = self.server_major(&mut connection).await?;
        self.programs.check("pg_restore", major).await?;
        self.drop_database(claim, name).await?;
        let quoted = render::identifier(name);
        let (encoding, collate, ctype): (String, String, String) = sqlx::query_as(
            "SELECT pg_catalog.pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text FROM pg_catalog.pg_database \
             WHERE datname = current_database()",
        )
        .fetch_one(&mut connection)
        .await
        .map_err(statement)?;
        let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
        // Its comment cannot come with it in one transaction, so that until then its name alone says whose it is.
        let unfinished = render::identifier(&unfinished(claim));
        let create = format!(
            "CREATE DATABASE {unfinished} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
            literal(&encoding),
            literal(&collate),
            literal(&ctype)
        );
        connection.execute(AssertSqlSafe(create)).await.map_err(statement)?;
        failpoint!("scratch-created");
        let comment = format!("COMMENT ON DATABASE {unfinished} IS {}", literal(&mark_of_attempt(claim)));
        connection.execute(AssertSqlSafe(comment)).await.map_err(statement)?;
        let rename = format!("ALTER DATABASE {unfinished} RENAME TO {quoted}");
        connection.execute(AssertSqlSafe(rename)).await.map_err(statement)?;
        failpoint!("scratch-made");
        let inside = self.hosts.in_database(name);
        let opening = Line::open(&inside, CONNECT_TIMEOUT, self.silence, "");
        Ok(opening.await.map_err(error::connecting)?)
    }

    /// A database for a program of PostgreSQL, which misses a server that is silent by what the system offers. A server
    /// that takes nothing for a while is not silent: it waits for its disk.
    fn missed(&self, database: &str) -> String {
        let quoted = database.replace('\\', "\\\\").replace('\'', "\\'");
        let seconds = self.silence.as_secs();
        if seconds == 0 {
            return format!("dbname='{quoted}'");
        }
        let (idle, interval) = (seconds.div_ceil(2), seconds.div_ceil(6));
        format!("dbname='{quoted}' keepalives_idle={idle} keepalives_interval={interval} keepalives_count=3")
    }

    pub(super) async fn restore_into(
        &self,
        database: &str,
        path: &Path,
        section: &str,
        contents: Option<&str>,
        strict: bool,
        warnings: &mut Vec<String>,
    ) -> Result<(), MaintenanceError> {
        let mut arguments = vec![
            section.to_owned(),
            "--no-owner".to_owned(),
            "--no-privileges".to_owned(),
            "--no-password".to_owned(),
            format!("--dbname={}", self.missed(database)),
        ];
        if strict {
            arguments.push("--exit-on-error".to_owned());
        }
        let list = contents.map(list_file).transpose()?;
        if let Some(list) = &list {
            arguments.push(path_argument("--use-list=", list.path())?);
        }
        arguments.push(path_argument("", path)?);
        match self.programs.run("pg_restore", Some(database), &arguments).await? {
            Ok(_) => Ok(()),
            Err(said) if strict => Err(MaintenanceError::Damaged {
                problem: format!("pg_restore: {said}"),
            }),
            Err(said) => {
                warnings.push(format!("not everything beside the rows could be made: {said}"));
                Ok(())
            }
        }
    }

    pub(super) async fn table_aside(&self, run: RunId, name: &str, layout: &TableLayout) -> Result<TableName, MaintenanceError> {
        let mut connection = self.connection().await?;
        let schema = render::identifier(name);
        let sql = "SELECT coalesce(pg_catalog.obj_description(oid, 'pg_namespace'), '') FROM pg_catalog.pg_namespace WHERE nspname = $1";
        let comment: Option<String> = sqlx::query_scalar(sql)
            .bind(name)
            .fetch_optional(&mut connection)
            .await
            .map_err(statement)?;
        match comment {
            None => {
                let comment = mark(run).replace('\'', "''");
                // One transaction: a schema without its mark would be taken for somebody else's.
                let sql = format!("BEGIN; CREATE SCHEMA {schema}; COMMENT ON SCHEMA {schema} IS '{comment}'; COMMIT");
                connection.execute(AssertSqlSafe(sql)).await.map_err(statement)?;
            }
            Some(comment) if comment == mark(run) => {}
            Some(_) => return Err(taken(&format!("schema {name}"))),
        }
        // Tables of the same name may come from several schemas.
        let own = match layout.table.schema.as_deref() {
            None | Some("public") => layout.table.name.clone(),
            Some(other) => format!("{other}_{}", layout.table.name),
        };
        let table = TableName {
            schema: Some(name.to_owned()),
            name: own.chars().take(63).collect(),
        };
        let columns = layout
            .columns
            .iter()
            .map(|(column, type_name)| format!("{} {type_name}", render::identifier(column)))
            .collect::<Vec<_>>()
            .join(", ");
        let create = format!("CREATE TABLE IF NOT EXISTS {} ({columns})", render::table(&table));
        connection
            .execute("SET client_min_messages = warning")
            .await
            .map_err(statement)?;
        connection.execute(AssertSqlSafe(create)).await.map_err(statement)?;
        self.idle.put(connection);
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_belongs_to_its_attempt_and_those_after_it() {
        let claim = |run, fence| Claim { run, fence };
        let (run, other) = (RunId::new(), RunId::new());
        let comment = mark_of_attempt(claim(run, 2));
        assert!(is_mine(&comment, claim(run, 2)) && is_mine(&comment, claim(run, 3)));
        assert!(!is_mine(&comment, claim(run, 1)), "an attempt that wakes up late");
        assert!(!is_mine(&comment, claim(other, 9)) && !is_mine("", claim(run, 9)));
        let making = unfinished(claim(run, u64::MAX >> 1));
        assert!(making.len() <= 63, "{making}");
        let making = unfinished(claim(run, fence::of(2, 5)));
        assert!(was_making(&making, claim(run, fence::of(2, 5))) && was_making(&making, claim(run, fence::of(3, 0))));
        assert!(!was_making(&making, claim(run, fence::of(2, 4))) && !was_making(&making, claim(other, u64::MAX)));
        // Two holders of one number: the larger of them, and not the other.
        let comment = mark_of_attempt(claim(run, fence::of(3, 7)));
        assert!(is_mine(&comment, claim(run, fence::of(3, 7))) && is_mine(&comment, claim(run, fence::of(3, 8))));
        assert!(!is_mine(&comment, claim(run, fence::of(3, 6))));
    }
}
