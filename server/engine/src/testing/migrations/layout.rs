//! Migrations written as the files of a layout.

use super::step::Step;
use crate::{model::Layout, port::SourceFile};

pub(super) fn files(layout: Layout, steps: &[Step]) -> Vec<SourceFile> {
    let mut found: Vec<(String, String)> = Vec::with_capacity(steps.len() * 2);
    let mut plan = String::from("%syntax-version=1.0.0\n%project=generated\n\n");
    for (position, step) in steps.iter().enumerate() {
        let version = version(layout, position);
        let name = &step.name;
        let (header, up, down) = (header(layout, position, step), script(&step.up), script(&step.down));
        match layout {
            Layout::Sqlx => {
                let mark = if step.alone { "-- no-transaction\n" } else { "" };
                found.push((format!("{version}_{name}.up.sql"), format!("{mark}{header}{up}")));
                found.push((format!("{version}_{name}.down.sql"), format!("{mark}{down}")));
            }
            Layout::GolangMigrate => {
                found.push((format!("{version}_{name}.up.sql"), format!("{header}{up}")));
                found.push((format!("{version}_{name}.down.sql"), down));
            }
            Layout::Diesel => {
                found.push((format!("{version}_{name}/up.sql"), format!("{header}{up}")));
                found.push((format!("{version}_{name}/down.sql"), down));
                if step.alone {
                    found.push((
                        format!("{version}_{name}/metadata.toml"),
                        "run_in_transaction = false\n".to_owned(),
                    ));
                }
            }
            Layout::Prisma => {
                found.push((format!("{version}_{name}/migration.sql"), format!("{header}{up}")));
                found.push((format!("{version}_{name}/down.sql"), down));
            }
            Layout::Dbmate => {
                let option = if step.alone { " transaction:false" } else { "" };
                let text = format!("{header}-- migrate:up{option}\n{up}\n-- migrate:down{option}\n{down}");
                found.push((format!("{version}_{name}.sql"), text));
            }
            Layout::Goose => {
                let mark = if step.alone { "-- +goose NO TRANSACTION\n" } else { "" };
                let text = format!("{mark}{header}-- +goose Up\n{}\n-- +goose Down\n{down}", blocks(&step.up));
                found.push((format!("{version}_{name}.sql"), text));
            }
            Layout::Flyway => {
                let up_file = format!("V{version}__{name}.sql");
                if step.alone {
                    found.push((format!("{up_file}.conf"), "executeInTransaction=false\n".to_owned()));
                }
                found.push((up_file, format!("{header}{up}")));
                found.push((format!("U{version}__{name}.sql"), down));
            }
            Layout::Sqitch => {
                let name = format!("{name}_{position}");
                let wrap = |script: &str| {
                    if step.alone || script.is_empty() {
                        script.to_owned()
                    } else {
                        format!("BEGIN;\n\n{script}\nCOMMIT;\n")
                    }
                };
                // SQLite's own foreign keys are switched outside of a transaction, so that such scripts have none of their own.
                let wraps = !step.up.iter().any(|statement| statement.starts_with("PRAGMA"));
                let write = |script: &str| if wraps { wrap(script) } else { script.to_owned() };
                found.push((format!("deploy/{name}.sql"), write(&up)));
                found.push((format!("revert/{name}.sql"), write(&down)));
                found.push((format!("verify/{name}.sql"), "BEGIN;\nSELECT 1;\nROLLBACK;\n".to_owned()));
                let needs: Vec<String> = step
                    .needs
                    .iter()
                    .filter_map(|need| steps.get(*need).map(|step| format!("{}_{need}", step.name)))
                    .collect();
                let needs = if needs.is_empty() {
                    String::new()
                } else {
                    format!(" [{}]", needs.join(" "))
                };
                plan.push_str(&format!(
                    "{name}{needs} 2024-01-01T00:00:00Z Ann <ann@example.org> # {name}\n"
                ));
            }
        }
    }
    match layout {
        Layout::Sqitch => found.push(("sqitch.plan".to_owned(), plan)),
        Layout::Prisma if !steps.is_empty() => {
            found.push(("migration_lock.toml".to_owned(), "provider = \"generated\"\n".to_owned()));
        }
        _ => {}
    }
    found.sort();
    let files = found.into_iter().map(|(path, text)| SourceFile {
        path,
        bytes: text.into_bytes(),
    });
    files.collect()
}

/// As the tool of the layout numbers by habit.
fn version(layout: Layout, position: usize) -> String {
    let (day, hour, minute, second) = (
        1 + position / 86_400 % 28,
        position / 3_600 % 24,
        position / 60 % 60,
        position % 60,
    );
    match layout {
        Layout::GolangMigrate => format!("{:06}", position + 1),
        Layout::Goose => format!("{:05}", position + 1),
        Layout::Flyway => format!("{}.{}", 1 + position / 100, 1 + position % 100),
        Layout::Diesel => format!("2024-01-{day:02}-{hour:02}{minute:02}{second:02}"),
        _ => format!("202401{day:02}{hour:02}{minute:02}{second:02}"),
    }
}

/// Some migrations declare what they need, and some a little more.
fn header(layout: Layout, position: usize, step: &Step) -> String {
    if layout == Layout::Sqitch || !position.is_multiple_of(3) {
        return String::new();
    }
    let mut header = format!("-- dbkeep: description = {}\n", step.name);
    let needs: Vec<String> = step.needs.iter().map(|need| version(layout, *need)).collect();
    if !needs.is_empty() {
        header.push_str(&format!("-- dbkeep: depends-on = {}\n", needs.join(", ")));
    }
    if position.is_multiple_of(9) {
        header.push_str("-- dbkeep: estimated-duration = 5s\n");
    }
    header
}

fn script(statements: &[String]) -> String {
    statements.iter().map(|statement| format!("{statement};\n")).collect()
}

/// goose needs marks around what holds semicolons.
fn blocks(statements: &[String]) -> String {
    let write = |statement: &String| {
        if statement.contains(";\n") {
            format!("-- +goose StatementBegin\n{statement};\n-- +goose StatementEnd\n")
        } else {
            format!("{statement};\n")
        }
    };
    statements.iter().map(write).collect()
}
