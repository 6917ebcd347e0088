//! diesel: `V_name/up.sql`, `V_name/down.sql`, and `V_name/metadata.toml` with `run_in_transaction`. Dashes in V do not count.

use super::{
    SourceError,
    folder::{Folder, Found, Transaction, form},
};
use crate::{migration::version::normalise, model::MigrationId};

pub(super) fn find<'a>(folder: &mut Folder<'a>) -> Result<Vec<Found<'a>>, SourceError> {
    let mut found = Vec::new();
    for path in folder.paths() {
        let (directory, up) = match path.rsplit_once('/') {
            Some((directory, "up.sql")) => (directory, true),
            Some((directory, "down.sql")) => (directory, false),
            _ => continue,
        };
        let last = directory.rsplit('/').next().unwrap_or(directory);
        let (version, name) = last.split_once('_').unwrap_or((last, ""));
        let Some(id) = normalise(version) else {
            continue;
        };
        if !up {
            if !folder.has(&format!("{directory}/up.sql")) {
                return Err(SourceError::DownWithoutUp { file: path.to_owned() });
            }
            continue;
        }
        let transaction = transaction(folder, directory)?;
        let Some(up) = folder.part(path, transaction)? else {
            continue;
        };
        found.push(Found {
            id: MigrationId(id),
            version: version.to_owned(),
            name: name.to_owned(),
            repeatable: false,
            up,
            down: folder.part(&format!("{directory}/down.sql"), transaction)?,
            verify: None,
            sidecars: vec![format!("{directory}/dbkeep.toml")],
            depends_on: Vec::new(),
            checksums: Vec::new(),
        });
    }
    Ok(found)
}

fn transaction(folder: &mut Folder<'_>, directory: &str) -> Result<Transaction, SourceError> {
    let Some((file, _, text)) = folder.take(&format!("{directory}/metadata.toml"))? else {
        return Ok(Transaction::Whole);
    };
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default();
        let line = u32::try_from(before.matches('\n').count()).map_or(u32::MAX, |lines| lines.saturating_add(1));
        form(file, line, error.message())
    })?;
    match table.get("run_in_transaction") {
        None | Some(toml::Value::Boolean(true)) => Ok(Transaction::Whole),
        Some(toml::Value::Boolean(false)) => Ok(Transaction::Never),
        Some(_) => Err(form(file, 1, "`run_in_transaction`: expected true or false")),
    }
}
