//! The targets: one file each. A target reads an input as its subject would, says what came of it, and checks what must hold of whatever was
//! accepted.

mod audit;
mod catalog;
mod chunk;
mod cron;
mod folder;
mod identifiers;
mod statements;

use std::{fs, path::Path};

use anyhow::Context as _;

/// Reads one input. `Ok` is what came of it, in words; `Err` is a promise that was broken.
pub type Check = Box<dyn FnMut(&[u8]) -> Result<String, String>>;

/// Something that reads what others wrote.
pub struct Target {
    /// Its name, also that of its folder in the corpus.
    pub name: &'static str,
    /// What it reads, in one line.
    pub about: &'static str,
    /// Words of its language.
    pub words: &'static [&'static str],
    /// Inputs to begin with that are made and not kept.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Sets it up.
    pub open: fn() -> anyhow::Result<Check>,
}

/// Every target.
pub static TARGETS: [Target; 7] = [
    catalog::TARGET,
    cron::TARGET,
    statements::TARGET,
    folder::TARGET,
    chunk::TARGET,
    audit::TARGET,
    identifiers::TARGET,
];

/// None.
fn no_seeds() -> Vec<Vec<u8>> {
    Vec::new()
}

impl Target {
    /// The inputs to begin with: each file of the target's folder, or each line of one that ends in `.list`.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn corpus(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name);
        let mut seeds = (self.seeds)();
        let mut paths = Vec::new();
        if folder.is_dir() {
            for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                paths.push(entry?.path());
            }
        }
        // The order of a folder is the file system's.
        paths.sort();
        for path in paths {
            let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
            if path.extension().is_some_and(|end| end == "list") {
                let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                seeds.extend(lines.map(|line| String::from_utf8_lossy(line).replace("\\n", "\n").into_bytes()));
            } else {
                seeds.push(bytes);
            }
        }
        Ok(seeds)
    }
}

/// A promise that does not hold.
fn broken<T>(promise: impl Into<String>) -> Result<T, String> {
    Err(promise.into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_target_has_a_name_of_its_own_and_a_corpus() {
        let names: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
        assert_eq!(names.len(), TARGETS.len());
        for target in &TARGETS {
            let corpus = target.corpus().expect("a corpus");
            assert!(corpus.len() >= 3, "{}", target.name);
            let size: usize = corpus.iter().map(Vec::len).sum();
            assert!(size < 256 << 10, "{}: {size} bytes", target.name);
        }
    }

    /// A corpus of which everything is refused leads nowhere.
    #[test]
    fn inputs_to_begin_with_are_accepted() {
        for (name, accepted) in [
            ("catalog", "accepted"),
            ("cron", "accepted"),
            ("statements", "statements"),
            ("folder", " of "),
            ("chunk", "accepted"),
            ("audit", "whole"),
        ] {
            let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
            let mut check = (target.open)().expect("a target");
            let answers: Vec<String> = target
                .corpus()
                .expect("a corpus")
                .iter()
                .map(|input| check(input).expect("no promise is broken"))
                .collect();
            let good = answers.iter().filter(|answer| answer.contains(accepted)).count();
            assert!(good * 2 >= answers.len(), "{name}: {answers:?}");
        }
    }
}
