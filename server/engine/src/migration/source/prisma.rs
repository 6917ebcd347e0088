//! Prisma: `TIMESTAMP_name/migration.sql`, perhaps with `down.sql`. `migration_lock.toml` says nothing that matters here.

use sha2::{Digest, Sha256};

use super::{
    SourceError,
    folder::{Folder, Found, Transaction, numbered},
};
use crate::{
    migration::version::normalise,
    model::{LedgerKind, MigrationId},
};

pub(super) fn find<'a>(folder: &mut Folder<'a>) -> Result<Vec<Found<'a>>, SourceError> {
    let mut found = Vec::new();
    for path in folder.paths() {
        let Some((directory, file)) = path.rsplit_once('/') else {
            continue;
        };
        let last = directory.rsplit('/').next().unwrap_or(directory);
        let Some((version, name)) = numbered(last) else {
            continue;
        };
        if file == "down.sql" && !folder.has(&format!("{directory}/migration.sql")) {
            return Err(SourceError::DownWithoutUp { file: path.to_owned() });
        }
        if file != "migration.sql" {
            continue;
        }
        let Some(up) = folder.part(path, Transaction::Implicit)? else {
            continue;
        };
        let checksum = hex::encode(Sha256::digest(up.bytes));
        found.push(Found {
            id: MigrationId(normalise(version).unwrap_or_default()),
            version: version.to_owned(),
            name: name.to_owned(),
            repeatable: false,
            up,
            down: folder.part(&format!("{directory}/down.sql"), Transaction::Implicit)?,
            verify: None,
            sidecars: vec![format!("{directory}/dbkeep.toml")],
            depends_on: Vec::new(),
            checksums: vec![(LedgerKind::Prisma, checksum)],
        });
    }
    Ok(found)
}
