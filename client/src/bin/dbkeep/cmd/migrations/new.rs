//! `dbkeep migrations new`: the files of a new migration.
//!
//! Owns the writing: below one folder, and never over a file. The plan of sqitch is the exception, since every change is a line of it; it
//! is replaced only where no line of it would be lost. What the files hold is the server's to say, which knows the folder's layout.
//! Called by `mod.rs`.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use dbkeep_client::proto::DraftFile;
use serde_json::json;

use super::Of;
use crate::{exit::Exit, output::Tone, session::Session};

/// The only file that is replaced.
const SQITCH_PLAN: &str = "sqitch.plan";

/// Arguments of `migrations new`.
#[derive(Debug, Args)]
pub(crate) struct New {
    /// What the migration is about; becomes the name of its files.
    name: String,
    #[command(flatten)]
    of: Of,
    /// Folder to write to, on this machine; it has to be there.
    #[arg(long, value_name = "DIR", default_value = "migrations")]
    folder: PathBuf,
}

impl New {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        ensure!(
            self.folder.is_dir(),
            "there is no folder {} here; expected the migrations folder of your checkout, or --folder",
            self.folder.display()
        );
        let draft = session.client.migrations().draft(self.of.target, self.name).await?;
        write(&self.folder, &draft.files)?;
        if output.is_json() {
            let files: Vec<&str> = draft.files.iter().map(|file| file.path.as_str()).collect();
            let folder = self.folder.display().to_string();
            output.json(&json!({ "draft": { "layout": draft.layout, "folder": folder, "files": files } }))?;
            return Ok(Exit::Success);
        }
        for file in &draft.files {
            let path = self.folder.join(&file.path).display().to_string();
            output.line(format_args!("Written: {}", output.paint(Tone::Strong, &path)))?;
        }
        Ok(Exit::Success)
    }
}

/// Writes all files, or none where one of them cannot be written as it should.
fn write(folder: &Path, files: &[DraftFile]) -> anyhow::Result<()> {
    let root = fs::canonicalize(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut paths = Vec::with_capacity(files.len());
    for file in files {
        let path = inside(&root, &file.path)?;
        if let Ok(found) = fs::symlink_metadata(&path) {
            ensure!(
                is_replaced(&path) && found.is_file(),
                "{} is there already; nothing was written",
                path.display()
            );
            keeps_every_line(&path, &file.text)?;
        }
        paths.push((path, &file.text));
    }
    let mut made = Vec::new();
    for (path, text) in &paths {
        if let Err(error) = put(path, text, &mut made) {
            // Half a migration would be taken for a whole one.
            let left = take_back(&made);
            let outcome = if left.is_empty() {
                "nothing was written".to_owned()
            } else {
                format!("remove what could not be taken back: {}", left.join(", "))
            };
            return Err(error).with_context(|| format!("writing {}; {outcome}", path.display()));
        }
    }
    Ok(())
}

/// Removes files and folders that were made, the newest first; those that are still there.
fn take_back(made: &[PathBuf]) -> Vec<String> {
    let mut left = Vec::new();
    for path in made.iter().rev() {
        let removed = if path.is_dir() {
            fs::remove_dir(path)
        } else {
            fs::remove_file(path)
        };
        if removed.is_err_and(|error| error.kind() != std::io::ErrorKind::NotFound) {
            left.push(path.display().to_string());
        }
    }
    left
}

/// The place of a file below a folder. What the server says is not taken on trust: a path that leads out, by its own words or by a link
/// in the folder, is refused.
fn inside(root: &Path, path: &str) -> anyhow::Result<PathBuf> {
    let relative = Path::new(path);
    let mut parts = relative.components().peekable();
    let is_plain = parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)));
    if !is_plain || path.contains('\\') || path.contains('\0') {
        bail!("the server proposed {path:?}, which leaves the folder; nothing was written");
    }
    let whole = root.join(relative);
    // The deepest folder on the way that is there already decides where the rest comes to be.
    let there = whole
        .ancestors()
        .skip(1)
        .find(|above| fs::symlink_metadata(above).is_ok())
        .unwrap_or(root);
    let real = fs::canonicalize(there).with_context(|| format!("reading {}", there.display()))?;
    ensure!(
        real.starts_with(root),
        "{} is a link that leaves the folder; nothing was written",
        there.display()
    );
    Ok(whole)
}

fn is_replaced(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == SQITCH_PLAN)
}

/// Refuses a plan that lacks a line which is here: the server's folder may be older than this one.
fn keeps_every_line(path: &Path, text: &str) -> anyhow::Result<()> {
    let before = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let after: std::collections::HashSet<&str> = text.lines().map(str::trim_end).collect();
    let lost = before.lines().map(str::trim_end).find(|line| !after.contains(line));
    if let Some(lost) = lost {
        bail!(
            "{} has a line that the server does not know: {lost:?}; bring the server's folder up to date; nothing was written",
            path.display()
        );
    }
    Ok(())
}

/// Writes one file, with the folders above it that are missing. What of them it made is in `made`, also where it fails.
fn put(path: &Path, text: &str, made: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().skip(1).take_while(|folder| !folder.exists()).collect();
    for folder in missing.into_iter().rev() {
        fs::create_dir(folder)?;
        made.push(folder.to_owned());
    }
    if is_replaced(path) {
        // Whole or not at all: a plan that was cut short would lose changes.
        let beside = path.with_extension("plan.new");
        let mut file = OpenOptions::new().write(true).create_new(true).open(&beside)?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        return match written.and_then(|()| fs::rename(&beside, path)) {
            Ok(()) => Ok(()),
            Err(error) => {
                let _ = fs::remove_file(&beside);
                Err(error)
            }
        };
    }
    // Refused where somebody was faster.
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    made.push(path.to_owned());
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> DraftFile {
        DraftFile {
            path: path.into(),
            text: text.into(),
        }
    }

    #[test]
    fn files_and_the_folders_they_need_are_written() {
        let folder = tempfile::tempdir().unwrap();
        write(
            folder.path(),
            &[file("3_users/up.sql", "up"), file("3_users/down.sql", "down")],
        )
        .unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("3_users/down.sql")).unwrap(), "down");
    }

    #[test]
    fn nothing_is_overwritten_and_then_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("b.sql"), "mine").unwrap();
        let problem = write(folder.path(), &[file("a.sql", "a"), file("b.sql", "b")]).unwrap_err();
        assert!(problem.to_string().contains("is there already"), "{problem}");
        assert_eq!(fs::read_to_string(folder.path().join("b.sql")).unwrap(), "mine");
        assert!(!folder.path().join("a.sql").exists());
    }

    #[test]
    fn of_files_that_cannot_all_be_written_none_is() {
        let folder = tempfile::tempdir().unwrap();
        // The first name just fits into what file systems take, the second does not.
        let name = "x".repeat(248);
        let files = [
            file(&format!("made/for/it/{name}.up.sql"), "up"),
            file(&format!("made/for/it/{name}.down.sql"), "down"),
        ];
        let problem = write(folder.path(), &files).unwrap_err();
        assert!(problem.to_string().contains("nothing was written"), "{problem}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "no folder stays either");
    }

    #[test]
    fn only_the_plan_of_sqitch_is_replaced_and_loses_no_line() {
        let folder = tempfile::tempdir().unwrap();
        let plan = folder.path().join(SQITCH_PLAN);
        fs::write(&plan, "%project=a\nusers\n").unwrap();
        write(folder.path(), &[file(SQITCH_PLAN, "%project=a\nusers\norders\n")]).unwrap();
        assert_eq!(fs::read_to_string(&plan).unwrap(), "%project=a\nusers\norders\n");
        let problem = write(folder.path(), &[file(SQITCH_PLAN, "%project=a\nusers\nlogs\n")]).unwrap_err();
        assert!(problem.to_string().contains("orders"), "{problem}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_path_that_leaves_the_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("migrations");
        fs::create_dir(&root).unwrap();
        for path in ["", ".", "../a.sql", "a/../../b.sql", "/tmp/a.sql", "a\\..\\b.sql", "./a.sql"] {
            let problem = write(&root, &[file("first.sql", ""), file(path, "")]).unwrap_err();
            assert!(problem.to_string().contains("leaves the folder"), "{path}: {problem}");
        }
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leaves_the_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("migrations");
        fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink(folder.path(), root.join("out")).unwrap();
        for path in ["out/a.sql", "out/deeper/a.sql"] {
            let problem = write(&root, &[file(path, "")]).unwrap_err();
            assert!(problem.to_string().contains("leaves the folder"), "{path}: {problem}");
        }
        // A link in place of a file is a file that is there, also where it leads nowhere.
        std::os::unix::fs::symlink("nowhere", root.join("b.sql")).unwrap();
        assert!(write(&root, &[file("b.sql", "")]).is_err());
    }
}
