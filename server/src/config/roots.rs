//! What must hold of the declared roots: each is a folder that can be one, none lies in another, whichever target declares it, and
//! none holds what dbkeep keeps for itself. Two targets with one folder would each take the other's files for orphans.

use std::path::{Path, PathBuf};

use super::{Config, ConfigError, check_target_name, refuse};

/// Checks one root by itself.
pub(super) fn check_one(name: &str, path: &Path) -> Result<(), String> {
    check_target_name(name).map_err(|problem| format!("root: {problem}"))?;
    match crate::files::unfit(path) {
        Some(problem) => Err(format!("root {name}: {problem}")),
        None => Ok(()),
    }
}

/// Where a path leads, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for ancestor in absolute.ancestors() {
        if let Ok(found) = ancestor.canonicalize() {
            let rest = absolute.strip_prefix(ancestor).unwrap_or(Path::new(""));
            return found.join(rest);
        }
    }
    absolute
}

/// Checks all of them together.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    if let Some((target, name)) = config.stray_roots.first() {
        return Err(refuse(
            "target",
            format!("root {name} is declared for {target}, which is no target; expected the target first"),
        ));
    }
    let mut roots: Vec<(String, PathBuf)> = Vec::new();
    for target in &config.targets {
        for (name, path) in &target.roots {
            check_one(name, path).map_err(|problem| refuse(format!("target {}", target.name), problem))?;
            roots.push((format!("root {name} of target {}", target.name), resolved(path)));
        }
    }
    for (position, (name, path)) in roots.iter().enumerate() {
        for (other, other_path) in &roots[..position] {
            if path.starts_with(other_path) || other_path.starts_with(path) {
                return Err(refuse(
                    name,
                    format!("lies in {other}, or the other way round; expected folders apart from each other"),
                ));
            }
        }
    }
    let own = [
        ("the data folder", config.data_folder.clone()),
        ("the backup folder", config.backup_folder()),
    ];
    let databases = config
        .targets
        .iter()
        .filter_map(|target| target.url.sqlite_file().map(Path::to_owned));
    let store = config
        .store_url
        .iter()
        .filter_map(|url| url.sqlite_file().map(Path::to_owned));
    let databases = databases.chain(store).map(|file| ("a SQLite database", file));
    for (what, kept) in own.into_iter().chain(databases) {
        let kept = resolved(&kept);
        if let Some((name, path)) = roots.iter().find(|(_, path)| kept.starts_with(path)) {
            return Err(refuse(
                name,
                format!(
                    "{} holds {what} ({}); expected a folder of nothing but the application's files",
                    path.display(),
                    kept.display()
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_apart_and_hold_nothing_of_dbkeep() {
        let place = tempfile::tempdir().expect("a folder");
        let at = |name: &str| place.path().join(name);
        for name in ["data", "a", "a/b", "c"] {
            std::fs::create_dir_all(at(name)).expect("a folder");
        }
        std::os::unix::fs::symlink(at("a"), at("alias")).expect("a link");
        let config = || {
            Config::embedded(at("data"))
                .with_target(
                    "one",
                    format!("sqlite://{}", at("db/app.db").display()),
                    super::super::BUILTIN_CATALOG,
                )
                .with_target("two", "postgres://h/d", super::super::BUILTIN_CATALOG)
        };
        let fine = config().with_root("one", "x", at("a")).with_root("two", "x", at("c"));
        assert_eq!(fine.check(), Ok(()));
        let refusals = [
            (config().with_root("one", "x", "relative"), "is relative"),
            (config().with_root("one", "x y", at("a")), "expected 1 to 63"),
            (config().with_root("one", "x", at("missing")), "No such file"),
            (config().with_root("three", "x", at("a")), "which is no target"),
            (
                config().with_root("one", "x", at("a")).with_root("two", "y", at("a")),
                "expected folders apart",
            ),
            (
                config().with_root("one", "x", at("a")).with_root("one", "y", at("a/b")),
                "expected folders apart",
            ),
            (
                config()
                    .with_root("one", "x", at("a/b"))
                    .with_root("one", "y", at("alias/../a")),
                "has a part",
            ),
            (config().with_root("one", "x", at("data")), "holds the data folder"),
            (config().with_root("one", "x", place.path()), "holds the data folder"),
        ];
        for (config, problem) in refusals {
            let said = config.check().expect_err("must be refused").to_string();
            assert!(said.contains(problem), "{said}");
        }
        std::fs::create_dir(at("db")).expect("a folder");
        let said = config()
            .with_root("two", "x", at("db"))
            .check()
            .expect_err("must be refused")
            .to_string();
        assert!(said.contains("holds a SQLite database"), "{said}");
    }
}
