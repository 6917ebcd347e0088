use super::*;
use crate::model::LedgerKind;
use EngineKind::{Postgres, Sqlite};

fn file(path: &str, text: &str) -> SourceFile {
    SourceFile {
        path: path.to_owned(),
        bytes: text.as_bytes().to_vec(),
    }
}

fn folder(files: &[(&str, &str)]) -> Vec<SourceFile> {
    files.iter().map(|(path, text)| file(path, text)).collect()
}

fn collection(files: &[(&str, &str)]) -> Collection {
    read(&folder(files), Postgres, None).unwrap()
}

fn refused(files: &[(&str, &str)], wanted: Option<Layout>) -> String {
    read(&folder(files), Postgres, wanted).unwrap_err().to_string()
}

fn ids(collection: &Collection) -> Vec<&str> {
    collection
        .migrations
        .iter()
        .map(|migration| migration.id.0.as_str())
        .collect()
}

fn atomic(script: &crate::model::Script) -> Vec<(bool, usize)> {
    script
        .groups
        .iter()
        .map(|group| (group.atomic, group.statements.len()))
        .collect()
}

#[test]
fn an_empty_folder_is_an_empty_collection() {
    let empty = collection(&[]);
    assert_eq!((empty.layout, empty.migrations.len()), (Layout::Sqlx, 0));
    assert!(empty.evidence[0].contains("empty"));
    let wanted = read(&folder(&[("README.md", "x"), (".keep", "")]), Sqlite, Some(Layout::Goose)).unwrap();
    assert_eq!(
        (wanted.layout, wanted.migrations.len(), wanted.warnings.len()),
        (Layout::Goose, 0, 0)
    );
}

#[test]
fn layouts_are_told_by_what_is_there() {
    let goose = "-- +goose Up\nSELECT 1;\n";
    let dbmate = "-- migrate:up\nSELECT 1;\n";
    for (files, layout, evidence) in [
        (vec![("1_a.sql", "SELECT 1")], Layout::Sqlx, "1 file match V_name.sql"),
        (vec![("20240101000000_a.up.sql", "")], Layout::Sqlx, "14 digits"),
        (
            vec![("1_a.up.sql", "-- no-transaction\nVACUUM")],
            Layout::Sqlx,
            "no-transaction",
        ),
        (
            vec![("1_a.up.sql", ""), ("2_b.sql", "")],
            Layout::Sqlx,
            "1 file match V_name.up.sql",
        ),
        (
            vec![("000001_a.up.sql", ""), ("000001_a.down.sql", "")],
            Layout::GolangMigrate,
            "padded",
        ),
        (
            vec![("1_a.up.sql", ""), ("embed.go", "//go:embed *.sql")],
            Layout::GolangMigrate,
            "Go file",
        ),
        (vec![("2024-01-01-000000_a/up.sql", "")], Layout::Diesel, "V_name/up.sql"),
        (
            vec![("20240101000000_a/migration.sql", ""), ("migration_lock.toml", "")],
            Layout::Prisma,
            "migration_lock.toml",
        ),
        (vec![("1_a.sql", dbmate)], Layout::Dbmate, "migrate:up"),
        (vec![("1_a.sql", goose)], Layout::Goose, "+goose Up"),
        (vec![("V1__a.sql", ""), ("R__b.sql", "")], Layout::Flyway, "2 files match"),
        (
            vec![("sqitch.plan", "a"), ("deploy/a.sql", "")],
            Layout::Sqitch,
            "sqitch.plan",
        ),
    ] {
        let found = collection(&files);
        assert_eq!(found.layout, layout, "{files:?}");
        assert!(
            found.evidence.iter().any(|why| why.contains(evidence)),
            "{:?}",
            found.evidence
        );
        assert_eq!(found.warnings, Vec::<String>::new());
    }
    let alike = collection(&[("1_a.up.sql", "SELECT 1")]);
    assert_eq!(alike.layout, Layout::Sqlx);
    assert!(alike.warnings[0].contains("sqlx and golang-migrate"), "{:?}", alike.warnings);
    let mixed = refused(&[("1_a.sql", goose), ("2_b.sql", dbmate), ("V1__a.sql", "")], None);
    for part in ["flyway (1 file", "goose (1 file", "dbmate (1 file", "`migrations_layout`"] {
        assert!(mixed.contains(part), "{mixed}");
    }
    let unknown = refused(&[("schema.sql", "")], None);
    assert!(
        unknown.contains("schema.sql") && unknown.contains("`migrations_layout`"),
        "{unknown}"
    );
    let stated = read(&folder(&[("1_a.sql", goose)]), Postgres, Some(Layout::Flyway)).unwrap();
    assert!(stated.warnings.iter().any(|warning| warning.contains("looks like goose")));
    assert!(
        stated
            .warnings
            .iter()
            .any(|warning| warning.starts_with("1_a.sql has no name of the layout flyway"))
    );
}

#[test]
fn versions_order_as_numbers_and_collide_as_numbers() {
    let found = collection(&[("10_b.sql", ""), ("9_a.sql", ""), ("100000000000000000000000_c.sql", "")]);
    assert_eq!(ids(&found), ["9", "10", "100000000000000000000000"]);
    for files in [
        [("1_a.sql", ""), ("01_b.sql", "")],
        [("1_a.sql", ""), ("1_a.up.sql", "")],
        [("V1__a.sql", ""), ("db/V1.0__b.sql", "")],
        [("R__a.sql", ""), ("db/R__a.sql", "")],
        [("2024-01-01-000000_a/up.sql", ""), ("20240101000000_b/up.sql", "")],
        [("20240101000000_a/migration.sql", ""), ("20240101000000_b/migration.sql", "")],
    ] {
        let error = refused(&files, None);
        assert!(files.iter().all(|(path, _)| error.contains(path)), "{error}");
    }
    let downs = refused(&[("1_a.up.sql", ""), ("1_a.down.sql", ""), ("01_b.down.sql", "")], None);
    assert!(downs.contains("1_a.down.sql") && downs.contains("01_b.down.sql"), "{downs}");
}

#[test]
fn a_down_script_needs_an_up_script() {
    for (layout, files) in [
        (Layout::Sqlx, [("1_a.up.sql", ""), ("2_a.down.sql", "")]),
        (Layout::GolangMigrate, [("1_a.up.sql", ""), ("2_a.down.sql", "")]),
        (Layout::Diesel, [("1_a/up.sql", ""), ("2_a/down.sql", "")]),
        (Layout::Prisma, [("1_a/migration.sql", ""), ("2_a/down.sql", "")]),
        (Layout::Flyway, [("V1__a.sql", ""), ("U2__a.sql", "")]),
    ] {
        assert_eq!(
            refused(&files, Some(layout)),
            format!("{}: there is no up script to this", files[1].0)
        );
    }
    let plan = [("sqitch.plan", "a"), ("deploy/a.sql", ""), ("revert/b.sql", "")];
    assert_eq!(refused(&plan, None), "revert/b.sql: there is no up script to this");
}

#[test]
fn encodings_other_than_utf_8_are_refused() {
    for (bytes, offset, found) in [
        (b"\xff\xfeS\0".to_vec(), 0, "the mark of UTF-16"),
        (b"\xfe\xff\0S".to_vec(), 0, "the mark of UTF-16"),
        (b"SELECT '\xe4'".to_vec(), 8, "a byte that is not UTF-8"),
        (b"S\0E".to_vec(), 1, "a zero byte"),
    ] {
        let files = [SourceFile {
            path: "1_a.sql".to_owned(),
            bytes,
        }];
        let error = read(&files, Sqlite, None).unwrap_err();
        assert_eq!(
            error,
            SourceError::Encoding {
                file: "1_a.sql".to_owned(),
                offset,
                found
            }
        );
    }
    let marked = collection(&[("1_a.sql", "\u{feff}-- dbkeep: description = x\r\nSELECT 1;\r\n")]);
    assert_eq!(marked.migrations[0].metadata.description, "x");
    assert_eq!(marked.migrations[0].up.groups[0].statements[0].sql, "SELECT 1");
}

#[test]
fn checksums_are_those_of_the_tools() {
    let sqlx = collection(&[("1_a.sql", "abc")]);
    assert_eq!(
        sqlx.migrations[0].foreign_checksums,
        [(
            LedgerKind::Sqlx,
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7".to_owned()
        )]
    );
    let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(sqlx.migrations[0].up.sha256, sha);
    let prisma = collection(&[("1_a/migration.sql", "abc")]);
    assert_eq!(prisma.migrations[0].foreign_checksums, [(LedgerKind::Prisma, sha.to_owned())]);
    let flyway = collection(&[("V1__a.sql", "1234\n56789\n")]);
    assert_eq!(
        flyway.migrations[0].foreign_checksums,
        [(LedgerKind::Flyway, "-873187034".to_owned())]
    );
}

#[test]
fn sqlx_looks_for_its_mark_at_the_first_byte() {
    let text = "-- no-transaction\nCREATE INDEX CONCURRENTLY a ON t (b);\nSELECT 1;";
    let found = collection(&[("1_a.sql", text)]);
    assert_eq!(atomic(&found.migrations[0].up), [(false, 1), (true, 1)]);
    assert_eq!(found.migrations[0].metadata.transaction, Some(false));
    let late = refused(&[("1_a.sql", &format!("\n{text}"))], None);
    assert!(late.starts_with("1_a.sql:3:1: CREATE INDEX CONCURRENTLY"), "{late}");
    let said = refused(
        &[("1_a.sql", "-- no-transaction\n-- dbkeep: transaction = true\nVACUUM;")],
        None,
    );
    assert!(said.starts_with("1_a.sql:2: `transaction` = true"), "{said}");
}

#[test]
fn diesel_has_a_file_for_its_transaction() {
    let found = collection(&[
        ("2024-01-01-000000_a_b/up.sql", "SELECT 1; VACUUM;"),
        ("2024-01-01-000000_a_b/down.sql", "VACUUM; SELECT 1"),
        ("2024-01-01-000000_a_b/metadata.toml", "run_in_transaction = false"),
        ("2024-01-01-000000_a_b/dbkeep.toml", "requires-backup = true"),
    ]);
    let migration = &found.migrations[0];
    assert_eq!(
        (migration.id.0.as_str(), migration.version.as_str()),
        ("20240101000000", "2024-01-01-000000")
    );
    assert_eq!(migration.name, "a_b");
    assert!(migration.metadata.requires_backup);
    assert_eq!(atomic(&migration.up), [(true, 1), (false, 1)]);
    assert_eq!(found.warnings, Vec::<String>::new());
    let wrong = refused(&[("1_a/up.sql", ""), ("1_a/metadata.toml", "\nx = ")], None);
    assert!(wrong.starts_with("1_a/metadata.toml:2: "), "{wrong}");
}

#[test]
fn golang_migrate_leaves_transactions_to_scripts() {
    let found = collection(&[
        ("000001_a.up.sql", "BEGIN; SELECT 1; SELECT 2; COMMIT;"),
        ("000002_b.up.sql", "SELECT 1; BEGIN; SELECT 2; COMMIT; SELECT 3;"),
        ("000003_c.up.sql", "SELECT 1; SELECT 2"),
        ("000004_d.up.sql", "CREATE INDEX CONCURRENTLY a ON t (b)"),
    ]);
    let shapes: Vec<_> = found.migrations.iter().map(|migration| atomic(&migration.up)).collect();
    assert_eq!(
        shapes,
        [vec![(true, 2)], vec![(true, 1); 3], vec![(true, 2)], vec![(false, 1)]]
    );
}

#[test]
fn dbmate_has_options_for_each_direction() {
    let text = "-- dbkeep: depends-on = 1\n-- migrate:up transaction:false\nVACUUM;\nSELECT 1;\n-- migrate:down\nSELECT ';'; SELECT 2;\n";
    let found = collection(&[("1_x.sql", "-- migrate:up\n"), ("2_a.sql", text)]);
    let migration = &found.migrations[1];
    assert_eq!(migration.metadata.depends_on, [MigrationId("1".to_owned())]);
    assert_eq!(atomic(&migration.up), [(false, 1), (true, 1)]);
    let down = migration.down.as_ref().unwrap();
    assert_eq!(atomic(down), [(true, 2)]);
    assert_eq!(down.groups[0].statements[0].line, 6);
    assert_ne!(down.sha256, migration.up.sha256);
    for (text, expected) in [
        ("SELECT 1;\n-- migrate:up\n", "1_a.sql:1: a statement before"),
        ("-- migrate:down\n-- migrate:up\n", "1_a.sql:2: `-- migrate:up` after"),
        ("-- migrate:up\n-- migrate:up\n", "1_a.sql:2: a second"),
        ("-- migrate:up transaction:no\n", "1_a.sql:1: unknown option `transaction:no`"),
        ("SELECT 1;", "1_a.sql:1: no `-- migrate:up`"),
        (
            "-- migrate:up\n-- migrate:down\n-- dbkeep: transaction = false\n",
            "1_a.sql:3: a header here means nothing",
        ),
    ] {
        let error = refused(&[("1_a.sql", text)], Some(Layout::Dbmate));
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn goose_has_marks_around_statements() {
    let text = "-- +goose Up\n-- +goose StatementBegin\nCREATE FUNCTION f() RETURNS int AS $$\nBEGIN; END;\n$$ LANGUAGE plpgsql;\nSELECT 1;\n\
        -- +goose StatementEnd\nSELECT 2;\n\n-- +goose Down\n-- +goose StatementBegin\n  it's odd;\n  very;\n-- +goose StatementEnd\nSELECT 3;";
    let found = collection(&[("00001_a.sql", text)]);
    let migration = &found.migrations[0];
    let lines: Vec<u32> = migration.up.statements().map(|statement| statement.line).collect();
    assert_eq!(lines, [3, 6, 8]);
    let down: Vec<(&str, u32, u32)> = migration
        .down
        .as_ref()
        .unwrap()
        .statements()
        .map(|one| (one.sql.as_str(), one.line, one.column))
        .collect();
    assert_eq!(down, [("it's odd;\n  very", 12, 3), ("SELECT 3", 15, 1)]);
    let alone = collection(&[("1_a.sql", "-- +goose NO TRANSACTION\n-- +goose Up\nVACUUM;\nSELECT 1;\n")]);
    assert_eq!(atomic(&alone.migrations[0].up), [(false, 1), (true, 1)]);
    for (text, expected) in [
        (
            "-- +goose Up\n-- +goose StatementBegin\nSELECT 1;\n",
            "1_a.sql:2: StatementBegin without",
        ),
        ("-- +goose Up\n-- +goose StatementEnd\n", "1_a.sql:2: StatementEnd without"),
        ("-- +goose Up\n-- +goose ENVSUB ON\n", "1_a.sql:2: ENVSUB"),
        ("-- +goose Upp\n", "1_a.sql:1: no `-- +goose Up`"),
        (
            "-- +goose Up\n-- +goose NO TRANSACTIONS\n",
            "1_a.sql:2: unknown `+goose no transactions`",
        ),
    ] {
        let error = refused(&[("1_a.sql", text)], None);
        assert!(error.starts_with(expected), "{error}");
    }
    let go = refused(&[("1_a.sql", "-- +goose Up\n"), ("2_b.go", "package x")], None);
    assert_eq!(go, "2_b.go: migrations in Go cannot be run: expected SQL");
}

#[test]
fn flyway_has_repeatables_undo_and_placeholders() {
    let found = collection(&[
        ("R__b.sql", "SELECT 1"),
        ("R__a.sql", "SELECT 1"),
        (
            "V1_10__x.sql",
            "CREATE INDEX CONCURRENTLY a ON t (b); DROP INDEX CONCURRENTLY c",
        ),
        ("V1_2__y.sql", "SELECT 1; VACUUM"),
        ("V1_2__y.sql.conf", "executeInTransaction=false\n"),
        ("sub/U01.2__y.sql", "SELECT 2"),
        ("afterMigrate.sql", "SELECT 3"),
    ]);
    assert_eq!(ids(&found), ["1.2", "1.10", "R__a", "R__b"]);
    assert_eq!(
        found.migrations[0].down.as_ref().map(|down| down.file.as_str()),
        Some("sub/U01.2__y.sql")
    );
    assert_eq!(atomic(&found.migrations[0].up), [(true, 1), (false, 1)]);
    assert_eq!(atomic(&found.migrations[1].up), [(false, 1), (false, 1)]);
    assert!(found.migrations[2].repeatable);
    assert_eq!(
        found.warnings,
        ["afterMigrate.sql has no name of the layout flyway and is not read"]
    );
    for (text, place) in [
        ("SELECT 1;\n  SELECT '${a}';", "2:11: placeholder ${a}"),
        ("SELECT ${schema}.x", "1:8: placeholder ${schema}"),
        ("SELECT 1\n FROM pre_${x}", "2:11: placeholder ${x}"),
    ] {
        let error = refused(&[("V1__a.sql", text)], None);
        assert!(error.starts_with(&format!("V1__a.sql:{place}")), "{error}");
    }
    assert_eq!(
        collection(&[("V1__a.sql", "-- ${a}\nSELECT 1 /* ${b} */ + 1")])
            .migrations
            .len(),
        1
    );
    let off = [
        ("V1__a.sql", "SELECT '${a}'"),
        ("V1__a.sql.conf", "# x\nplaceholderReplacement=false"),
    ];
    assert_eq!(collection(&off).warnings, Vec::<String>::new());
    let conf = refused(&[("V1__a.sql", ""), ("V1__a.sql.conf", "\nshouldExecute=false")], None);
    assert!(conf.starts_with("V1__a.sql.conf:2: `shouldExecute`"), "{conf}");
    let java = refused(&[("V1__a.sql", ""), ("V2__b.java", "")], None);
    assert_eq!(java, "V2__b.java: migrations in Java cannot be run: expected SQL");
}

#[test]
fn sqitch_follows_its_plan() {
    let plan = "%syntax-version=1.0.0\n%project=p\n\n# words\nb 2024-01-01T00:00:00Z Ann <a@x> # [note]\n@v1 2024-01-01T00:00:00Z Ann <a@x>\n\
        a [b @v1 b@v1 other:z !c] 2024-01-02T00:00:00Z Ann <a@x>\nd/e [a]\n";
    let scripts = [
        ("sqitch.plan", plan),
        ("deploy/b.sql", "BEGIN;\nSELECT 1; SELECT 2;\nCOMMIT;"),
        ("revert/b.sql", "BEGIN; SELECT 3; COMMIT;"),
        ("verify/b.sql", "BEGIN; SELECT 4; ROLLBACK;"),
        ("deploy/a.sql", "CREATE INDEX CONCURRENTLY a ON t (b); SELECT 1;"),
        ("deploy/d/e.sql", "SELECT 1;"),
    ];
    let found = collection(&scripts);
    assert_eq!(ids(&found), ["b", "a", "d/e"]);
    assert_eq!(atomic(&found.migrations[0].up), [(true, 2)]);
    assert_eq!(found.migrations[0].verify.as_ref().map(atomic), Some(vec![(true, 1)]));
    assert_eq!(atomic(&found.migrations[1].up), [(false, 1), (true, 1)]);
    assert_eq!(found.migrations[1].metadata.depends_on, vec![MigrationId("b".to_owned()); 3]);
    assert_eq!(found.warnings.len(), 1);
    assert!(found.warnings[0].contains("other:z"));
    assert_eq!(found.plan, plan);
    for (plan, expected) in [
        ("b\n@v\nb [b@v] 2024-01-01T00:00:00Z\n", "sqitch.plan:3: change b is reworked"),
        ("b\nc\n", "sqitch.plan:2: deploy/c.sql is missing"),
        ("b\na [!b]\n", "sqitch.plan:2: a conflicts with b"),
        ("b [@x]\n", "sqitch.plan:1: no tag @x"),
        ("b [a\n", "sqitch.plan:1: the list"),
        ("b yesterday\n", "sqitch.plan:1: `yesterday`"),
        ("-b\n", "sqitch.plan:1: a change that is to be reverted"),
        ("../b\n", "sqitch.plan:1: `../b` is no name"),
    ] {
        let error = refused(&[&[("sqitch.plan", plan)], &scripts[1..]].concat(), None);
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn sidecars_are_read_beside_their_script() {
    let found = collection(&[
        ("1_a.up.sql", "-- no-transaction\nSELECT 1"),
        ("1_a.dbkeep.toml", "description = \"x\""),
        ("2_b.up.sql", ""),
        ("2_b.up.dbkeep.toml", "depends-on = \"a\""),
        ("3_c.dbkeep.toml", ""),
    ]);
    assert_eq!(found.migrations[0].metadata.description, "x");
    assert_eq!(found.migrations[1].metadata.depends_on, [MigrationId("1".to_owned())]);
    assert_eq!(found.warnings, ["3_c.dbkeep.toml belongs to no migration and is not read"]);
    let both = refused(
        &[("1_a.up.sql", ""), ("1_a.dbkeep.toml", ""), ("1_a.up.dbkeep.toml", "")],
        Some(Layout::Sqlx),
    );
    assert!(both.contains("1_a.up.dbkeep.toml is of the same migration"), "{both}");
    let version = refused(&[("1_a.sql", "-- dbkeep: version = 2\n")], None);
    assert_eq!(version, "1_a.sql:1: `version` = 2: expected 1, as the name of the file says");
}

#[test]
fn errors_know_their_place() {
    let files = folder(&[("1_a.sql", "SELECT 1;\n SELECT 'x")]);
    let error = read(&files, Sqlite, None).unwrap_err();
    assert_eq!((error.file(), error.place()), (Some("1_a.sql"), (Some(2), Some(9))));
}
