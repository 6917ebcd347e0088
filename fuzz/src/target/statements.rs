//! Scripts of migrations: headers, sidecars, and the cut into statements.

use dbkeep_engine::{
    migration::{
        metadata::{of_header, of_sidecar, refuse_header},
        statement::{groups, split},
    },
    model::EngineKind,
};

use super::{Check, Target, broken, no_seeds};

pub(super) const TARGET: Target = Target {
    name: "statements",
    about: "headers of migrations, and scripts cut into statements",
    words: &[
        "-- dbkeep: ",
        "depends-on = ",
        "transaction = false",
        "estimated-duration = 1h",
        "lock-timeout = 5s",
        "check-before = SELECT 1",
        "version = 007",
        "/*",
        "*/",
        "/*/*",
        "$$",
        "$body$",
        "$1",
        "E'\\'",
        "U&\"",
        "''",
        "\"\"",
        "BEGIN;",
        "COMMIT;",
        "ROLLBACK;",
        "BEGIN ATOMIC",
        "CREATE TRIGGER t AFTER INSERT ON a BEGIN ",
        "END;",
        "CASE ",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql ",
        "COPY t FROM STDIN;",
        "\\copy ",
        "CREATE INDEX CONCURRENTLY i ON t (a);",
        "\u{feff}",
        ";;",
        "[x]",
        "`x`",
        "--",
        "\r\n",
        "\u{85}",
    ],
    seeds: no_seeds,
    open,
};

fn open() -> anyhow::Result<Check> {
    Ok(Box::new(check))
}

fn check(input: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(input);
    let mut said = Vec::new();
    for engine in [EngineKind::Postgres, EngineKind::Sqlite] {
        for stated in [
            of_header("f.sql", &text, engine, 1).map(drop),
            refuse_header("f.sql", &text, engine, 1),
        ] {
            if let Err(error) = stated {
                let lines = u32::try_from(text.matches('\n').count())
                    .unwrap_or(u32::MAX)
                    .saturating_add(1);
                if !(1..=lines).contains(&error.line) || error.problem.is_empty() {
                    return broken(format!(
                        "a header is refused in line {} of {lines}: {}",
                        error.line, error.problem
                    ));
                }
                said.push(error.problem);
            }
        }
        match split(&text, engine, 1) {
            Err(error) => said.push(error.problem.to_string()),
            Ok(statements) => {
                in_place(&text, &statements)?;
                for statement in &statements {
                    // At the begin of a text a byte order mark is none of it; within one it is.
                    let alone = split(&format!(" {}", statement.sql), engine, 1);
                    if alone
                        .as_ref()
                        .map(|alone| alone.iter().map(|one| one.sql.as_str()).collect::<Vec<_>>())
                        != Ok(vec![statement.sql.as_str()])
                    {
                        return broken(format!(
                            "a statement is cut otherwise by itself: {:?} => {alone:?}",
                            statement.sql
                        ));
                    }
                }
                said.push(format!("{} statements", statements.len().min(3)));
                let count = statements.len();
                for transaction in [true, false] {
                    match groups(statements.clone(), engine, transaction) {
                        Ok((groups, _)) => {
                            let grouped: usize = groups.iter().map(|group| group.statements.len()).sum();
                            if grouped > count {
                                return broken("groups hold more statements than the script");
                            }
                        }
                        Err(error) => said.push(error.problem.to_string()),
                    }
                }
            }
        }
    }
    if let Err(error) = of_sidecar("f.toml", &text) {
        said.push(error.problem);
    }
    Ok(said.join(" | "))
}

/// Every statement stands in the text where it says, after the one before it.
fn in_place(text: &str, statements: &[dbkeep_engine::model::Statement]) -> Result<(), String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = text.split('\n').collect();
    let mut from = 0;
    for statement in statements {
        let line = usize::try_from(statement.line).unwrap_or(0);
        let column = usize::try_from(statement.column).unwrap_or(0);
        let start = lines
            .get(line.wrapping_sub(1))
            .and_then(|found| found.chars().nth(column.wrapping_sub(1)));
        if start != statement.sql.chars().next() {
            return broken(format!("{:?} is not in line {line}, column {column}", statement.sql));
        }
        match text[from..].find(&statement.sql) {
            Some(at) => from += at + statement.sql.len(),
            None => return broken(format!("{:?} is not in the text, or not in order", statement.sql)),
        }
    }
    Ok(())
}
