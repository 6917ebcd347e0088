//! What every target must do with columns that refer to files: bring each value that is no NULL, and know which of some are there now.

use std::{collections::BTreeSet, sync::Arc};

use super::target::Fixture;
use crate::{
    model::{ColumnSource, Condition, FilePath, Literal, TableName},
    port::{Target, ValueStream},
};

/// Rows of the large table: more than one page of any adapter.
const MANY: u32 = 25_000;

async fn source(target: &dyn Target, table: &str, column: &str) -> ColumnSource {
    let schema = target
        .introspect(&TableName::parse(table))
        .await
        .expect("read")
        .expect("a table");
    ColumnSource {
        table: Arc::new(schema),
        column: column.to_owned(),
        except: Vec::new(),
    }
}

async fn values(target: &dyn Target, source: &ColumnSource) -> Vec<String> {
    drain(target.column_values(source).await.expect("a stream")).await
}

async fn drain(mut stream: Box<dyn ValueStream>) -> Vec<String> {
    let mut found = Vec::new();
    loop {
        let page = stream.next().await.expect("a page");
        if page.is_empty() {
            found.sort_unstable();
            return found;
        }
        found.extend(page.into_iter().map(|value| String::from_utf8(value).expect("text")));
    }
}

async fn present(target: &dyn Target, source: &ColumnSource, wanted: &[&[u8]]) -> Vec<usize> {
    let wanted: Vec<Vec<u8>> = wanted.iter().map(|value| value.to_vec()).collect();
    target.holds(source, &wanted).await.expect("an answer")
}

/// The whole suite.
///
/// # Panics
/// Where the target does not hold to the port's contract.
pub async fn values_conformance(fixture: &dyn Fixture) {
    let target = fixture.target();
    let target = target.as_ref();
    fixture
        .execute(
            "CREATE TABLE \"ref s\" (id integer PRIMARY KEY, \"the file\" varchar(200), state text); \
             INSERT INTO \"ref s\" VALUES (1, 'a', 'old'), (2, 'a', NULL), (3, NULL, 'old'), (4, '', NULL), (5, 'it''s', NULL), \
             (6, 'x/\u{e9} \u{65e5}.png', NULL), (7, 'only old', 'old')",
        )
        .await;
    let plain = source(target, "ref s", "the file").await;
    assert_eq!(
        values(target, &plain).await,
        ["", "a", "a", "it's", "only old", "x/\u{e9} \u{65e5}.png"],
        "NULL is no value, and nothing else is left out"
    );
    let wanted: [&[u8]; 8] = [
        b"nope",
        b"a",
        b"",
        b"A",
        b"it's",
        "x/\u{e9} \u{65e5}.png".as_bytes(),
        b"\xff\xfe",
        b"only old",
    ];
    assert_eq!(present(target, &plain, &wanted).await, [1, 2, 4, 5, 7]);
    assert_eq!(present(target, &plain, &[]).await, [] as [usize; 0]);

    // Rows that an earlier step takes do not count; a row whose deciding column is NULL is not taken.
    let less = ColumnSource {
        except: vec![Condition::OneOf {
            column: "state".to_owned(),
            values: vec![Literal::Text("old".to_owned())],
        }],
        ..plain.clone()
    };
    assert_eq!(values(target, &less).await, ["", "a", "it's", "x/\u{e9} \u{65e5}.png"]);
    assert_eq!(present(target, &less, &wanted).await, [1, 2, 4, 5]);

    // What is written between two questions is seen by the second.
    fixture.execute("INSERT INTO \"ref s\" VALUES (8, 'nope', NULL)").await;
    assert_eq!(present(target, &plain, &[b"nope"]).await, [0]);

    fixture
        .execute(&format!(
            "CREATE TABLE many (id integer PRIMARY KEY, file text); \
             INSERT INTO many WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY}) SELECT i, 'f' || i FROM n"
        ))
        .await;
    let many = source(target, "many", "file").await;
    let found = values(target, &many).await;
    assert_eq!(found.len(), MANY as usize, "no page is lost and none comes twice");
    let expected: BTreeSet<String> = (1..=MANY).map(|number| format!("f{number}")).collect();
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
    let batch: Vec<Vec<u8>> = (MANY - 99..MANY + 9_901)
        .map(|number| format!("f{number}").into_bytes())
        .collect();
    let positions = target.holds(&many, &batch).await.expect("an answer");
    assert_eq!(positions, (0..100).collect::<Vec<_>>(), "10,000 names at a time");

    roundabout_names(fixture, target).await;
}

/// Of all values with a prefix, exactly those are indirect whose name is not its own plain spelling.
async fn roundabout_names(fixture: &dyn Fixture, target: &dyn Target) {
    let names = [
        "a",
        "a/b.png",
        "/a",
        "//a",
        "./a",
        "../a",
        "a//b",
        "a/./b",
        "a/x/../b",
        "a/",
        "a/.",
        "a/..",
        ".",
        "..",
        "/",
        "",
        ".a",
        "..a",
        "a.",
        "a..",
        "a/.b",
        "a/..b",
        "a./b",
        "a../b",
        "...",
        "a/.../b",
        "%2e/a",
        "A//b",
        "\u{e9}//\u{65e5}",
    ];
    let prefixes = ["", "/u/", "https://cdn//x_%/", "\u{e9}'\u{65e5}/", "u"];
    let mut rows = vec!["(0, NULL)".to_owned()];
    for prefix in prefixes {
        for name in names {
            let value = format!("{prefix}{name}").replace('\'', "''");
            rows.push(format!("({}, '{value}')", rows.len()));
        }
    }
    fixture
        .execute(&format!(
            "CREATE TABLE roundabout (id integer PRIMARY KEY, file varchar(200)); INSERT INTO roundabout VALUES {}",
            rows.join(", ")
        ))
        .await;
    let source = source(target, "roundabout", "file").await;
    let all = values(target, &source).await;
    for prefix in prefixes {
        let stream = target.indirect_values(&source, prefix).await.expect("a stream");
        let expected = all.iter().filter(|value| {
            let name = value.strip_prefix(prefix);
            name.is_some_and(|name| FilePath::new(name).is_none())
        });
        assert_eq!(drain(stream).await, expected.cloned().collect::<Vec<_>>(), "after {prefix:?}");
    }
}
