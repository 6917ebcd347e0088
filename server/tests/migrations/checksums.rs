//! Checksums that other tools noted of what they applied, against the files: a file that changed since is named, one whose line ends changed
//! in the eyes of nobody is not.

use dbkeep_engine::model::{EngineKind, Layout};
use dbkeep_proto::v1::MigrationState;

use super::world::{BOTH, World, all, file, reason};

/// A tool, with one migration of `abc` in its folder, and in its ledger.
struct Tool {
    layout: Layout,
    /// Name in an answer.
    name: &'static str,
    path: &'static str,
    /// Makes its ledger; `CHECKSUM` stands for the type of a checksum.
    ledger: &'static str,
    /// Its row; `CHECKSUM` stands for the value.
    row: &'static str,
    /// What the tool makes of `abc`, by its own documentation and by published vectors of the hash.
    checksum: &'static str,
    /// The same of something else.
    other: &'static str,
    /// Whether the checksum is of bytes, kept as bytes.
    bytes: bool,
}

const SHA_384: &str = "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7";
const SHA_256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
/// CRC-32 of `abc`, 0x352441c2.
const CRC_32: &str = "891568578";

const TOOLS: [Tool; 3] = [
    Tool {
        layout: Layout::Sqlx,
        name: "sqlx",
        path: "1_a.up.sql",
        ledger: "CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL, installed_on timestamp NOT NULL, \
                 success boolean NOT NULL, checksum CHECKSUM NOT NULL, execution_time bigint NOT NULL)",
        row: "INSERT INTO _sqlx_migrations VALUES (1, 'a', '2026-01-01 00:00:00', true, CHECKSUM, 1)",
        checksum: SHA_384,
        other: "00",
        bytes: true,
    },
    Tool {
        layout: Layout::Prisma,
        name: "prisma",
        path: "1_a/migration.sql",
        ledger: "CREATE TABLE _prisma_migrations (id varchar(36) PRIMARY KEY, checksum varchar(64) NOT NULL, finished_at timestamp, \
                 migration_name varchar(255) NOT NULL, logs text, rolled_back_at timestamp, started_at timestamp NOT NULL, \
                 applied_steps_count integer NOT NULL DEFAULT 0)",
        row: "INSERT INTO _prisma_migrations VALUES ('x', CHECKSUM, '2026-01-01 00:00:00', '1_a', NULL, NULL, '2026-01-01 00:00:00', 1)",
        checksum: SHA_256,
        other: "00",
        bytes: false,
    },
    Tool {
        layout: Layout::Flyway,
        name: "flyway",
        path: "V1__a.sql",
        ledger: "CREATE TABLE flyway_schema_history (installed_rank integer PRIMARY KEY, version varchar(50), description varchar(200) NOT NULL, \
                 type varchar(20) NOT NULL, script varchar(1000) NOT NULL, checksum integer, installed_by varchar(100) NOT NULL, \
                 installed_on timestamp NOT NULL, execution_time integer NOT NULL, success boolean NOT NULL)",
        row: "INSERT INTO flyway_schema_history VALUES (1, '1', 'a', 'SQL', 'V1__a.sql', CHECKSUM, 'x', '2026-01-01 00:00:00', 1, true)",
        checksum: CRC_32,
        other: "12",
        bytes: false,
    },
];

impl Tool {
    /// A checksum as a value of the ledger.
    fn literal(&self, engine: EngineKind, checksum: &str) -> String {
        match (self.bytes, engine) {
            (true, EngineKind::Postgres) => format!("'\\x{checksum}'"),
            (true, EngineKind::Sqlite) => format!("x'{checksum}'"),
            (false, _) => format!("'{checksum}'"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_what_another_tool_applied_is_named_and_blocks() {
    for engine in BOTH {
        for tool in &TOOLS {
            let case = format!("{} on {engine:?}", tool.name);
            let files = |text: &str| [file(tool.path, text)];
            let mut world = World::new(engine, &files("abc"), Some(tool.layout)).await;
            let kind = match engine {
                EngineKind::Postgres => "bytea",
                EngineKind::Sqlite => "blob",
            };
            world
                .db
                .execute(&tool.ledger.replace("CHECKSUM", kind))
                .await
                .expect("its ledger");
            let table = tool.ledger.split(' ').nth(2).expect("a name");
            for (checksum, changed) in [(tool.other, true), (tool.checksum, false)] {
                world.db.execute(&format!("DELETE FROM {table}")).await.expect("emptied");
                let row = tool.row.replace("CHECKSUM", &tool.literal(engine, checksum));
                world.db.execute(&row).await.expect("its row");
                let adopted = world.one("1").await;
                assert_eq!(adopted.state(), MigrationState::Adopted, "{case}");
                assert_eq!(adopted.adopted_from, tool.name, "{case}");
                let problems = world.status().await.problems;
                let codes: Vec<&str> = problems.iter().map(|problem| problem.code.as_str()).collect();
                let expected: &[&str] = if changed { &["CHANGED"] } else { &[] };
                assert_eq!(codes, expected, "{case}: {problems:?}");
                for problem in &problems {
                    let told = &problem.message;
                    assert!(told.contains(tool.other) && told.contains(tool.checksum), "{case}: {told}");
                    assert!(
                        problem.blocks && problem.next_step.contains("accept-checksum"),
                        "{case}: {problem:?}"
                    );
                }
                let refused = world.apply(all()).await.expect_err("nothing to do");
                let why = if changed { "MIGRATIONS_BLOCKED" } else { "NOTHING_TO_MIGRATE" };
                assert_eq!(reason(&refused), why, "{case}");
            }
            world.rewrite(&files("abd"));
            let problems = world.status().await.problems;
            assert_eq!(problems.len(), 1, "{case}: {problems:?}");
            assert!(problems[0].message.contains(tool.checksum), "{case}: {problems:?}");
            // Whoever checks the file out with other line ends has not changed it for Flyway, and has for the others.
            world.rewrite(&files("abc\r\n"));
            let problems = world.status().await.problems;
            assert_eq!(problems.is_empty(), tool.layout == Layout::Flyway, "{case}: {problems:?}");
            world.end().await;
        }
    }
}
