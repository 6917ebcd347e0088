//! Which layout a folder has, by its names and the marks in its files, with the evidence for it.

use std::collections::BTreeSet;

use super::{SourceError, flyway, folder::numbered, sections};
use crate::{model::Layout, port::SourceFile};

/// What a folder looks like.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) layout: Layout,
    pub(super) evidence: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// Counts of what tells layouts apart.
#[derive(Debug, Default)]
struct Signs {
    plan: bool,
    prisma: usize,
    prisma_lock: bool,
    diesel: usize,
    flyway: usize,
    pairs: usize,
    plain: usize,
    goose: usize,
    dbmate: usize,
    no_transaction: bool,
    go_migrations: usize,
    go_embed: bool,
    /// Versions of pairs, as they are written.
    versions: BTreeSet<String>,
}

impl Signs {
    fn of(files: &[SourceFile]) -> Self {
        let mut signs = Self::default();
        for file in files {
            signs.look_at(file);
        }
        signs
    }

    fn look_at(&mut self, file: &SourceFile) {
        let path = file.path.as_str();
        if path == "sqitch.plan" {
            self.plan = true;
        } else if path == "migration_lock.toml" {
            self.prisma_lock = true;
        }
        let name = path.rsplit('/').next().unwrap_or(path);
        if flyway::is_named(name) {
            self.flyway += 1;
            return;
        }
        if let Some((folder, name)) = path.split_once('/') {
            match name {
                "migration.sql" if !folder.is_empty() => self.prisma += 1,
                "up.sql" if !folder.is_empty() => self.diesel += 1,
                _ => {}
            }
            return;
        }
        if let Some(stem) = name.strip_suffix(".go") {
            if numbered(stem).is_some() && !stem.ends_with("_test") {
                self.go_migrations += 1;
            } else {
                self.go_embed |= holds(&file.bytes, "//go:embed");
            }
            return;
        }
        let Some(stem) = name.strip_suffix(".sql") else {
            return;
        };
        let Some((version, _)) = numbered(
            stem.strip_suffix(".up")
                .or_else(|| stem.strip_suffix(".down"))
                .unwrap_or(stem),
        ) else {
            return;
        };
        self.no_transaction |= file.bytes.starts_with(b"-- no-transaction");
        if stem.ends_with(".up") || stem.ends_with(".down") {
            self.pairs += 1;
            self.versions.insert(version.to_owned());
        } else if sections::has_mark(&file.bytes, "+goose") {
            self.goose += 1;
        } else if sections::has_mark(&file.bytes, "migrate:up") {
            self.dbmate += 1;
        } else {
            self.plain += 1;
        }
    }

    fn candidates(&self) -> Vec<(Layout, String)> {
        let mut found = Vec::new();
        let mut add = |layout, yes: bool, why: String| {
            if yes {
                found.push((layout, why));
            }
        };
        add(Layout::Sqitch, self.plan, "there is a sqitch.plan".to_owned());
        // Everything that a plan names lies in folders, which other layouts have too.
        let alone = !self.plan;
        let lock = if self.prisma_lock { " and a migration_lock.toml" } else { "" };
        add(
            Layout::Prisma,
            self.prisma > 0 && alone,
            format!("{} match NAME/migration.sql{lock}", files(self.prisma)),
        );
        add(
            Layout::Diesel,
            self.diesel > 0 && alone,
            format!("{} match V_name/up.sql", files(self.diesel)),
        );
        add(
            Layout::Flyway,
            self.flyway > 0,
            format!("{} match V1__name.sql, U1__name.sql or R__name.sql", files(self.flyway)),
        );
        let go = if self.go_migrations > 0 {
            format!(", {} match V_name.go", files(self.go_migrations))
        } else {
            String::new()
        };
        add(
            Layout::Goose,
            self.goose > 0 || (self.go_migrations > 0 && self.pairs == 0),
            format!("{} have `-- +goose Up`{go}", files(self.goose)),
        );
        add(
            Layout::Dbmate,
            self.dbmate > 0,
            format!("{} have `-- migrate:up`", files(self.dbmate)),
        );
        if self.plain > 0 {
            let pairs = if self.pairs > 0 {
                format!(", {} match V_name.up.sql or V_name.down.sql", files(self.pairs))
            } else {
                String::new()
            };
            add(
                Layout::Sqlx,
                true,
                format!(
                    "{} match V_name.sql without marks of goose or dbmate{pairs}",
                    files(self.plain)
                ),
            );
        } else if self.pairs > 0 {
            let (layout, why) = self.of_pairs();
            add(
                layout,
                true,
                format!("{} match V_name.up.sql or V_name.down.sql{why}", files(self.pairs)),
            );
        }
        found
    }

    /// sqlx and golang-migrate share names. What else there is tells them apart, mostly.
    fn of_pairs(&self) -> (Layout, &'static str) {
        let stamps = self.versions.iter().all(|version| version.len() == 14);
        if self.no_transaction {
            (Layout::Sqlx, ", and one begins with `-- no-transaction`")
        } else if self.go_embed {
            (Layout::GolangMigrate, ", and a Go file embeds them")
        } else if stamps {
            (Layout::Sqlx, ", with 14 digits as sqlx writes them")
        } else if self.padded() {
            (Layout::GolangMigrate, ", with padded numbers as golang-migrate writes them")
        } else {
            (Layout::Sqlx, "")
        }
    }

    fn padded(&self) -> bool {
        let width = self.versions.first().map_or(0, String::len);
        let same = self.versions.iter().all(|version| version.len() == width);
        width > 1 && same && self.versions.first().is_some_and(|version| version.starts_with('0'))
    }
}

/// Decides on the layout.
pub(super) fn detect(files: &[SourceFile], wanted: Option<Layout>) -> Result<Seen, SourceError> {
    let signs = Signs::of(files);
    let candidates = signs.candidates();
    let mut warnings = Vec::new();
    if let Some(layout) = wanted {
        let mut evidence = vec!["the configuration states it".to_owned()];
        match candidates.iter().find(|(candidate, _)| *candidate == layout) {
            Some((_, why)) => evidence.push(why.clone()),
            None if files.is_empty() => evidence.push("the folder is empty".to_owned()),
            None => {
                // The pairs of these two look alike, so that one for the other is no surprise.
                let alike = [Layout::Sqlx, Layout::GolangMigrate];
                for (other, why) in &candidates {
                    if !(alike.contains(other) && alike.contains(&layout)) {
                        warnings.push(format!(
                            "the configuration states {}, but it looks like {}: {why}",
                            layout.name(),
                            other.name()
                        ));
                    }
                }
            }
        }
        return Ok(Seen {
            layout,
            evidence,
            warnings,
        });
    }
    match candidates.as_slice() {
        [(layout, why)] => {
            if *layout == Layout::Sqlx && signs.plain == 0 && signs.of_pairs().1.is_empty() {
                warnings.push(
                    "sqlx and golang-migrate read these names alike, and nothing tells which it is: taken for sqlx; \
                     `migrations_layout` in the configuration settles it"
                        .to_owned(),
                );
            }
            Ok(Seen {
                layout: *layout,
                evidence: vec![why.clone()],
                warnings,
            })
        }
        [] => match files.iter().find(|file| file.path.to_ascii_lowercase().ends_with(".sql")) {
            Some(file) => Err(SourceError::Unrecognised { file: file.path.clone() }),
            None => Ok(Seen {
                layout: Layout::Sqlx,
                evidence: vec!["the folder is empty: it holds no SQL".to_owned()],
                warnings,
            }),
        },
        _ => Err(SourceError::Ambiguous { candidates }),
    }
}

fn files(count: usize) -> String {
    if count == 1 {
        "1 file".to_owned()
    } else {
        format!("{count} files")
    }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
