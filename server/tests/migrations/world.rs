//! A database, a folder of migrations, and a server between them, spoken to over gRPC.

use std::{fs, path::Path, time::Duration};

use dbkeep_engine::{
    model::{EngineKind, Layout},
    port::SourceFile,
};
use dbkeep_proto::v1::{
    self, backup_service_client::BackupServiceClient, migration_service_client::MigrationServiceClient,
    run_service_client::RunServiceClient,
};
use dbkeep_server::{Config, ServeError, serve};
use dbkeep_testkit::{Db, Proxy, fresh_database};
use futures::{Stream, StreamExt as _};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};

/// Longest wait for anything; only a failing test takes that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const BOTH: [EngineKind; 2] = [EngineKind::Postgres, EngineKind::Sqlite];

pub(crate) struct World {
    pub(crate) engine: EngineKind,
    pub(crate) url: String,
    pub(crate) db: Db,
    pub(crate) place: tempfile::TempDir,
    /// Where the server listens.
    pub(crate) address: String,
    pub(crate) migrations: MigrationServiceClient<Channel>,
    pub(crate) runs: RunServiceClient<Channel>,
    pub(crate) backups: BackupServiceClient<Channel>,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
}

/// A database of its own, in a folder of its own.
pub(crate) async fn database(engine: EngineKind, place: &Path) -> String {
    match engine {
        EngineKind::Postgres => fresh_database("migrations").await.expect("a database"),
        EngineKind::Sqlite => {
            let file = place.join("app.db");
            fs::write(&file, []).expect("an empty database");
            format!("sqlite://{}", file.display())
        }
    }
}

/// Writes files below a folder, which is made anew.
pub(crate) fn write(folder: &Path, files: &[SourceFile]) {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).expect("a folder");
    for file in files {
        let path = folder.join(&file.path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, &file.bytes).expect("a file");
    }
}

/// A file by hand.
pub(crate) fn file(path: &str, text: &str) -> SourceFile {
    SourceFile {
        path: path.to_owned(),
        bytes: text.as_bytes().to_vec(),
    }
}

impl World {
    pub(crate) async fn new(engine: EngineKind, files: &[SourceFile], layout: Option<Layout>) -> Self {
        let place = tempfile::tempdir().expect("a folder");
        let url = database(engine, place.path()).await;
        Self::serve(engine, place, url.clone(), &url, files, layout).await
    }

    /// One whose server reaches the database through a proxy, while the test does not.
    pub(crate) async fn through(files: &[SourceFile]) -> (Self, Proxy) {
        let place = tempfile::tempdir().expect("a folder");
        let url = database(EngineKind::Postgres, place.path()).await;
        let proxy = Proxy::before(&url).await.expect("a proxy");
        let world = Self::serve(EngineKind::Postgres, place, url, proxy.url(), files, Some(Layout::Sqlx)).await;
        (world, proxy)
    }

    /// One whose server comes as a role of its own that owns the database and may make others, and is no superuser.
    pub(crate) async fn as_role(role: &str, files: &[SourceFile]) -> Self {
        let place = tempfile::tempdir().expect("a folder");
        let url = database(EngineKind::Postgres, place.path()).await;
        let (_, name) = url.rsplit_once('/').expect("a database");
        let db = Db::open(&url).await.expect("a connection");
        db.execute(&format!(
            "CREATE ROLE {role} LOGIN CREATEDB; ALTER DATABASE {name} OWNER TO {role}"
        ))
        .await
        .expect("a role");
        let target = url.replacen("postgres@", &format!("{role}@"), 1);
        assert_ne!(target, url, "the cluster's own role is postgres");
        Self::serve(EngineKind::Postgres, place, url, &target, files, Some(Layout::Sqlx)).await
    }

    /// Another server for the same database, with a control store and a folder of its own.
    pub(crate) async fn beside(&self, files: &[SourceFile]) -> Self {
        let place = tempfile::tempdir().expect("a folder");
        Self::serve(self.engine, place, self.url.clone(), &self.url, files, Some(Layout::Sqlx)).await
    }

    async fn serve(
        engine: EngineKind,
        place: tempfile::TempDir,
        url: String,
        target: &str,
        files: &[SourceFile],
        layout: Option<Layout>,
    ) -> Self {
        write(&place.path().join("migrations"), files);
        let config = Config::embedded(place.path().join("data"))
            .with_target(
                "app",
                target,
                dbkeep_server::CatalogSource::Text {
                    name: "none.toml".into(),
                    text: String::new(),
                },
            )
            .with_migrations("app", place.path().join("migrations"), layout);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, config, shutdown.clone()));
        let channel = Channel::from_shared(address.clone()).expect("an address").connect_lazy();
        Self {
            engine,
            db: Db::open(&url).await.expect("a connection"),
            url,
            place,
            address,
            migrations: MigrationServiceClient::new(channel.clone()).max_decoding_message_size(16 << 20),
            runs: RunServiceClient::new(channel.clone()),
            backups: BackupServiceClient::new(channel),
            shutdown,
            serving,
        }
    }

    /// Replaces the folder.
    pub(crate) fn rewrite(&self, files: &[SourceFile]) {
        write(&self.place.path().join("migrations"), files);
    }

    pub(crate) async fn end(self) {
        self.shutdown.cancel();
        self.serving.await.expect("no panic").expect("an end in order");
    }

    pub(crate) async fn status(&mut self) -> v1::MigrationStatus {
        let answer = self
            .migrations
            .get_migration_status(v1::GetMigrationStatusRequest::default())
            .await;
        answer.expect("a status").into_inner().status.expect("a status")
    }

    pub(crate) async fn list(&mut self) -> Vec<v1::Migration> {
        let request = v1::ListMigrationsRequest {
            page_size: 1_000,
            ..v1::ListMigrationsRequest::default()
        };
        let answer = self.migrations.list_migrations(request).await;
        answer.expect("a list").into_inner().migrations
    }

    pub(crate) async fn one(&mut self, id: &str) -> v1::Migration {
        let migrations = self.list().await;
        migrations
            .into_iter()
            .find(|migration| migration.id == id)
            .expect("the migration")
    }

    pub(crate) async fn plan(
        &mut self,
        direction: v1::MigrationDirection,
        selection: v1::MigrationSelection,
    ) -> Result<v1::MigrationPlan, Status> {
        let request = v1::PlanMigrationsRequest {
            direction: direction.into(),
            selection: Some(selection),
            ..v1::PlanMigrationsRequest::default()
        };
        let answer = self.migrations.plan_migrations(request).await?;
        Ok(answer.into_inner().plan.expect("a plan"))
    }

    /// Plans, applies with the plan's token, and waits for the end.
    pub(crate) async fn apply(&mut self, selection: v1::MigrationSelection) -> Result<v1::Run, Status> {
        let plan = self.plan(v1::MigrationDirection::Up, selection.clone()).await?;
        self.apply_planned(selection, plan.token).await
    }

    pub(crate) async fn apply_planned(
        &mut self,
        selection: v1::MigrationSelection,
        plan_token: String,
    ) -> Result<v1::Run, Status> {
        let request = v1::ApplyMigrationsRequest {
            selection: Some(selection),
            dry_run: Some(false),
            plan_token,
            ..v1::ApplyMigrationsRequest::default()
        };
        self.apply_as(request).await
    }

    pub(crate) async fn apply_as(&mut self, request: v1::ApplyMigrationsRequest) -> Result<v1::Run, Status> {
        let stream = self.migrations.apply_migrations(request).await?.into_inner();
        let events = stream.filter_map(async |message| message.map(|message| message.event).transpose());
        self.end_of(events).await
    }

    pub(crate) async fn rollback(&mut self, selection: v1::MigrationSelection, unproven: bool) -> Result<v1::Run, Status> {
        let plan = self.plan(v1::MigrationDirection::Down, selection.clone()).await?;
        let request = v1::RollbackMigrationsRequest {
            selection: Some(selection),
            dry_run: Some(false),
            plan_token: plan.token,
            unproven,
            ..v1::RollbackMigrationsRequest::default()
        };
        let stream = self.migrations.rollback_migrations(request).await?.into_inner();
        let events = stream.filter_map(async |message| message.map(|message| message.event).transpose());
        self.end_of(events).await
    }

    pub(crate) async fn test(&mut self, selection: v1::MigrationSelection) -> Result<v1::Run, Status> {
        let request = v1::TestMigrationRequest {
            selection: Some(selection),
            ..v1::TestMigrationRequest::default()
        };
        let stream = self.migrations.test_migration(request).await?.into_inner();
        let events = stream.filter_map(async |message| message.map(|message| message.event).transpose());
        self.end_of(events).await
    }

    pub(crate) async fn repair(&mut self, id: &str, action: v1::RepairAction) -> Result<v1::RepairLedgerResponse, Status> {
        let request = v1::RepairLedgerRequest {
            id: id.to_owned(),
            action: action.into(),
            ..v1::RepairLedgerRequest::default()
        };
        Ok(self.migrations.repair_ledger(request).await?.into_inner())
    }

    /// Approves a run on behalf of somebody.
    pub(crate) async fn approve(&mut self, run: &str, principal: &'static str) -> Result<v1::Run, Status> {
        let mut request = tonic::Request::new(v1::ApproveRunRequest {
            id: run.to_owned(),
            ..v1::ApproveRunRequest::default()
        });
        let name = tonic::metadata::MetadataValue::from_static(principal);
        request.metadata_mut().insert("dbkeep-principal", name);
        Ok(self.runs.approve_run(request).await?.into_inner().run.expect("a run"))
    }

    /// Reads a run's events to the end, whose order is checked, and returns the run.
    pub(crate) async fn end_of(&mut self, events: impl Stream<Item = Result<v1::RunEvent, Status>>) -> Result<v1::Run, Status> {
        let mut events = std::pin::pin!(events);
        let (mut run, mut newest) = (String::new(), 0);
        while let Some(event) = timeout(PATIENCE, events.next()).await.expect("the next event in time") {
            let event = event?;
            assert_eq!(event.sequence, newest + 1 + event.coalesced, "events come without a gap");
            newest = event.sequence;
            run = event.run_id;
        }
        let answer = self.runs.get_run(v1::GetRunRequest { id: run }).await?;
        Ok(answer.into_inner().run.expect("a run"))
    }

    /// All there is in the database, read without dbkeep: schema text and rows of every table but dbkeep's own.
    pub(crate) async fn contents(&self) -> Vec<String> {
        match self.engine {
            EngineKind::Postgres => postgres_contents(&self.db).await,
            EngineKind::Sqlite => sqlite_contents(&self.db).await,
        }
    }

    /// What is left of the copy of a rehearsal: other tests rehearse in the same cluster.
    pub(crate) async fn left_of(&self, run: &v1::Run) -> Vec<String> {
        let digits = run.id.replace('-', "")[20..].to_owned();
        let mut places: Vec<String> = match self.engine {
            EngineKind::Postgres => text(&self.db, "SELECT datname FROM pg_database").await,
            EngineKind::Sqlite => text(&self.db, "SELECT name FROM sqlite_schema").await,
        };
        let files = fs::read_dir(self.place.path()).expect("the folder");
        places.extend(files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned()));
        places.retain(|name| name.contains(&digits));
        places
    }
}

async fn postgres_contents(db: &Db) -> Vec<String> {
    let columns = "SELECT format('%s.%s %s %s %s %s', table_name, column_name, ordinal_position - (SELECT count(*) FROM information_schema.columns AS b \
         WHERE b.table_name = c.table_name AND b.table_schema = c.table_schema AND b.ordinal_position < c.ordinal_position) * 0, data_type, column_default, is_nullable) \
         FROM information_schema.columns AS c WHERE table_schema = 'public' ORDER BY table_name, ordinal_position";
    let mut lines = text(db, columns).await;
    // Positions of dropped columns stay taken: what counts is the order.
    for line in &mut lines {
        let words: Vec<&str> = line.split(' ').collect();
        *line = format!("{} {}", words[0], words[2..].join(" "));
    }
    lines.extend(
        text(
            db,
            "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY indexname",
        )
        .await,
    );
    lines.extend(
        text(
            db,
            "SELECT viewname || ' ' || definition FROM pg_views WHERE schemaname = 'public' ORDER BY 1",
        )
        .await,
    );
    lines.extend(text(db, "SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1").await);
    for definitions in [
        "SELECT pg_get_triggerdef(t.oid) FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid \
         WHERE c.relnamespace = 'public'::regnamespace AND NOT t.tgisinternal ORDER BY 1",
        "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prokind <> 'a' ORDER BY 1",
        "SELECT format('%s %s %s %s %s %s %s %s', sequencename, data_type, start_value, min_value, max_value, increment_by, cycle, cache_size) \
         FROM pg_sequences WHERE schemaname = 'public' ORDER BY 1",
    ] {
        lines.extend(text(db, definitions).await);
    }
    for table in text(db, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1").await {
        lines.extend(rows(db, &format!("SELECT t::text FROM public.\"{table}\" AS t ORDER BY 1"), &table).await);
    }
    lines
}

async fn sqlite_contents(db: &Db) -> Vec<String> {
    let own = "name NOT LIKE '\\_dbkeep%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    let tables = text(
        db,
        &format!("SELECT name FROM sqlite_schema WHERE type = 'table' AND {own} ORDER BY 1"),
    )
    .await;
    // Constraints are in the text of a table alone. A table that is renamed gets quotes.
    let definitions = format!(
        "SELECT type || ' ' || name || ' ' || sql FROM sqlite_schema WHERE {own} AND sql IS NOT NULL ORDER BY type, name"
    );
    let mut lines = text(db, &definitions).await;
    for line in &mut lines {
        let plain = line.replace(['"', '`', '[', ']'], "");
        *line = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    for table in tables {
        let columns = format!(
            "SELECT cid || ' ' || name || ' ' || type || ' ' || \"notnull\" || ' ' || coalesce(dflt_value, '') || ' ' || pk FROM pragma_table_info('{table}') ORDER BY cid"
        );
        let names = text(db, &format!("SELECT name FROM pragma_table_info('{table}') ORDER BY cid")).await;
        lines.extend(rows(db, &columns, &table).await);
        let keys = format!(
            "SELECT id || ' ' || seq || ' ' || \"table\" || ' ' || \"from\" || ' ' || coalesce(\"to\", '') || ' ' || on_update || ' ' || on_delete \
             FROM pragma_foreign_key_list('{table}') ORDER BY id, seq"
        );
        lines.extend(rows(db, &keys, &table).await);
        let quoted: Vec<String> = names.iter().map(|name| format!("quote(\"{name}\")")).collect();
        lines.extend(
            rows(
                db,
                &format!("SELECT {} FROM \"{table}\" ORDER BY 1", quoted.join(" || '|' || ")),
                &table,
            )
            .await,
        );
    }
    lines
}

async fn text(db: &Db, sql: &str) -> Vec<String> {
    let found = db.fetch_text(sql).await.expect("rows");
    found.into_iter().map(|row| row[0].clone().unwrap_or_default()).collect()
}

async fn rows(db: &Db, sql: &str, table: &str) -> Vec<String> {
    text(db, sql).await.into_iter().map(|row| format!("{table}: {row}")).collect()
}

pub(crate) fn all() -> v1::MigrationSelection {
    v1::MigrationSelection::default()
}

pub(crate) fn named(ids: &[&str]) -> v1::MigrationSelection {
    v1::MigrationSelection {
        migrations: ids.iter().map(|id| (*id).to_owned()).collect(),
        ..v1::MigrationSelection::default()
    }
}

pub(crate) fn newest(steps: u32) -> v1::MigrationSelection {
    v1::MigrationSelection {
        steps,
        ..v1::MigrationSelection::default()
    }
}

/// Reason of a refusal, as the API gives it.
pub(crate) fn reason(status: &Status) -> String {
    use tonic_types::StatusExt as _;
    let details = status.get_error_details();
    details
        .error_info()
        .map(|info| info.reason.clone())
        .unwrap_or_else(|| status.to_string())
}

/// Waits until a query answers with this text.
pub(crate) async fn until(db: &Db, sql: &str, wanted: &str) {
    let asked = async {
        while db.fetch_text(sql).await.expect("an answer")[0][0].as_deref() != Some(wanted) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, asked).await.expect("in time");
}

/// A session that is kept, so that what it locks stays locked.
pub(crate) struct Holder(sqlx::PgConnection);

impl Holder {
    pub(crate) async fn open(url: &str) -> Self {
        use sqlx::Connection as _;
        Self(sqlx::PgConnection::connect(url).await.expect("a connection"))
    }

    pub(crate) async fn run(&mut self, sql: &'static str) {
        use sqlx::Executor as _;
        self.0.execute(sql).await.expect("it runs");
    }
}
