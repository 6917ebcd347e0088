//! sqlx: `V_name.sql`, or `V_name.up.sql` and `V_name.down.sql`. sqlx looks for `-- no-transaction` at the file's very first byte.

use std::collections::HashMap;

use sha2::{Digest, Sha384};

use super::{
    SourceError,
    folder::{Folder, Found, Transaction, numbered},
};
use crate::{
    migration::version::normalise,
    model::{LedgerKind, MigrationId},
};

pub(super) fn find<'a>(folder: &mut Folder<'a>) -> Result<Vec<Found<'a>>, SourceError> {
    pairs(folder, true, |bytes| {
        if bytes.starts_with(b"-- no-transaction") {
            Transaction::Never
        } else {
            Transaction::Whole
        }
    })
    .map(|mut found| {
        for migration in &mut found {
            let checksum = hex::encode(Sha384::digest(migration.up.bytes));
            migration.checksums.push((LedgerKind::Sqlx, checksum));
        }
        found
    })
}

/// The files of sqlx and of golang-migrate, which knows no `V_name.sql`.
pub(super) fn pairs<'a>(
    folder: &mut Folder<'a>,
    plain: bool,
    transaction: impl Fn(&[u8]) -> Transaction,
) -> Result<Vec<Found<'a>>, SourceError> {
    let (mut found, mut downs) = (Vec::new(), Vec::new());
    for path in folder.paths() {
        let Some(stem) = path.strip_suffix(".sql").filter(|stem| !stem.contains('/')) else {
            continue;
        };
        if let Some(short) = stem.strip_suffix(".down") {
            if numbered(short).is_some() {
                downs.push((path, short));
            }
            continue;
        }
        let short = stem.strip_suffix(".up");
        if short.is_none() && !plain {
            continue;
        }
        let short = short.unwrap_or(stem);
        let Some((version, name)) = numbered(short) else {
            continue;
        };
        let Some(mut up) = folder.part(path, Transaction::Whole)? else {
            continue;
        };
        up.transaction = transaction(up.bytes);
        let mut sidecars = vec![format!("{stem}.dbkeep.toml")];
        if short != stem {
            sidecars.push(format!("{short}.dbkeep.toml"));
        }
        found.push(Found {
            id: MigrationId(normalise(version).unwrap_or_default()),
            version: version.to_owned(),
            name: name.to_owned(),
            repeatable: false,
            up,
            down: None,
            verify: None,
            sidecars,
            depends_on: Vec::new(),
            checksums: Vec::new(),
        });
    }
    let mut ups: HashMap<String, usize> = HashMap::with_capacity(found.len());
    for (position, migration) in found.iter().enumerate() {
        if migration.up.file.ends_with(".up.sql") {
            ups.entry(migration.id.0.clone()).or_insert(position);
        }
    }
    for (path, short) in downs {
        // Only the version pairs them, as it does for both tools; the names may differ.
        let id = numbered(short)
            .and_then(|(version, _)| normalise(version))
            .unwrap_or_default();
        let Some(up) = ups.get(&id).and_then(|position| found.get_mut(*position)) else {
            return Err(SourceError::DownWithoutUp { file: path.to_owned() });
        };
        if let Some(first) = &up.down {
            return Err(SourceError::Duplicate {
                id: up.id.clone(),
                first: first.file.to_owned(),
                second: path.to_owned(),
            });
        }
        if let Some(mut down) = folder.part(path, Transaction::Whole)? {
            down.transaction = transaction(down.bytes);
            up.down = Some(down);
        }
    }
    Ok(found)
}
