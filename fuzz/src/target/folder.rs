//! Folders of migrations in any layout, and the graph of what depends on what. An input is a folder: `== path` begins a file.

use dbkeep_engine::{
    migration::{graph, source},
    model::{EngineKind, Layout},
    port::SourceFile,
};

use super::{Check, Target, broken, no_seeds};

pub(super) const TARGET: Target = Target {
    name: "folder",
    about: "folders of migrations, and their graph",
    words: &[
        "\n== ",
        "1_a.sql\n",
        "2_b.up.sql\n",
        "2_b.down.sql\n",
        "V1__a.sql\n",
        "R__a.sql\n",
        "U1__a.sql\n",
        "3_c/up.sql\n",
        "3_c/down.sql\n",
        "3_c/metadata.toml\n",
        "3_c/migration.sql\n",
        "sqitch.plan\n",
        "deploy/a.sql\n",
        "sqitch.conf\n",
        "-- migrate:up\n",
        "-- migrate:down\n",
        "-- +goose Up\n",
        "-- +goose StatementBegin\n",
        "-- dbkeep: depends-on = ",
        "%project=x\n",
        "a [b c@tag] 2020-01-01T00:00:00Z x <x@y> # z\n",
        "../",
        "/",
        "0000000000000000000000000000000000000001",
        "-- no-transaction\n",
        "${x}",
        "\u{0}",
    ],
    seeds: no_seeds,
    open,
};

fn open() -> anyhow::Result<Check> {
    Ok(Box::new(check))
}

fn files(input: &[u8]) -> Vec<SourceFile> {
    let text = String::from_utf8_lossy(input);
    let mut files: Vec<SourceFile> = Vec::new();
    for line in text.split_inclusive('\n') {
        if let Some(path) = line.strip_prefix("== ") {
            files.push(SourceFile {
                path: path.trim_end().to_owned(),
                bytes: Vec::new(),
            });
        } else if let Some(file) = files.last_mut() {
            file.bytes.extend_from_slice(line.as_bytes());
        }
    }
    // A folder has each name once.
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files.dedup_by(|one, other| one.path == other.path);
    files
}

fn check(input: &[u8]) -> Result<String, String> {
    let files = files(input);
    let mut said = String::new();
    for wanted in std::iter::once(None).chain(Layout::ALL.map(Some)) {
        let collection = match source::read(&files, EngineKind::Postgres, wanted) {
            Ok(collection) => collection,
            Err(error) => {
                let text = error.to_string();
                if text.is_empty() {
                    return broken("a folder is refused without a word");
                }
                if error.file().is_some_and(|named| !files.iter().any(|file| file.path == named)) {
                    return broken(format!("a refusal names a file that is not there: {text}"));
                }
                said.push_str(text.split(':').next_back().unwrap_or_default());
                continue;
            }
        };
        let migrations = &collection.migrations;
        match graph::order(migrations) {
            Err(error) => said.push_str(error.to_string().split_whitespace().next().unwrap_or_default()),
            Ok(order) => {
                let mut sorted = order.clone();
                sorted.sort_unstable();
                if sorted != (0..migrations.len()).collect::<Vec<_>>() {
                    return broken(format!("the order {order:?} is not one of {} migrations", migrations.len()));
                }
                for (place, position) in order.iter().enumerate() {
                    for needs in &migrations[*position].metadata.depends_on {
                        let needed = migrations.iter().position(|migration| migration.id == *needs);
                        if needed.is_some_and(|needed| !order[..place].contains(&needed)) {
                            return broken(format!("{} comes before {needs}, which it needs", migrations[*position].id));
                        }
                    }
                }
                for migration in migrations {
                    let id = std::slice::from_ref(&migration.id);
                    let needed = graph::needed(migrations, id, &Default::default()).map_err(|error| error.to_string())?;
                    let dependents = graph::dependents(migrations, id).map_err(|error| error.to_string())?;
                    if needed.iter().any(|position| dependents.contains(position)) {
                        return broken(format!("what {} needs also needs it", migration.id));
                    }
                }
                said.push_str(&format!("{} of {:?}", migrations.len().min(3), collection.layout));
            }
        }
    }
    Ok(said)
}
