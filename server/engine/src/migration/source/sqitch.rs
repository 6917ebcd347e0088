//! sqitch: `sqitch.plan` names changes in their order, with what they need; `deploy/`, `revert/` and `verify/` hold the scripts.
//!
//! ```text
//! %syntax-version=1.0.0
//! %project=shop
//! users 2024-01-01T00:00:00Z Ann <ann@example.org> # Adds users.
//! orders [users !old_orders] 2024-01-02T00:00:00Z Ann <ann@example.org>
//! @v1.0 2024-01-03T00:00:00Z Ann <ann@example.org>
//! ```

use std::collections::HashMap;

use super::{
    SourceError,
    folder::{Folder, Found, Transaction, form},
};
use crate::model::MigrationId;

const PLAN: &str = "sqitch.plan";

/// A line of the plan that is a change.
#[derive(Debug)]
struct Change<'a> {
    line: u32,
    name: &'a str,
    needs: Vec<&'a str>,
}

pub(super) fn find<'a>(folder: &mut Folder<'a>, plan: &mut String) -> Result<Vec<Found<'a>>, SourceError> {
    let Some((_, _, text)) = folder.take(PLAN)? else {
        return Ok(Vec::new());
    };
    text.clone_into(plan);
    let (changes, tags) = changes(text)?;
    let mut found = Vec::with_capacity(changes.len());
    let lines: HashMap<&str, u32> = changes.iter().map(|change| (change.name, change.line)).collect();
    for change in &changes {
        let deploy = format!("deploy/{}.sql", change.name);
        let Some(up) = folder.part(&deploy, Transaction::Own)? else {
            return Err(SourceError::MissingScript {
                file: PLAN.to_owned(),
                line: change.line,
                missing: deploy,
            });
        };
        let mut depends_on = Vec::new();
        for need in &change.needs {
            if let Some(conflict) = need.strip_prefix('!') {
                if lines.get(plain(conflict)).is_some_and(|line| *line < change.line) {
                    let problem = format!(
                        "{} conflicts with {conflict}, which comes before it: expected one of them",
                        change.name
                    );
                    return Err(form(PLAN, change.line, &problem));
                }
                continue;
            }
            if let Some((project, _)) = need.split_once(':').filter(|(project, _)| !project.is_empty()) {
                folder.warn(format!(
                    "{PLAN}:{}: {need} is a change of project {project}, which is not looked at",
                    change.line
                ));
                continue;
            }
            let need = need.trim_start_matches(':');
            let id = match need.strip_prefix('@') {
                Some(tag) => match tags.get(tag) {
                    Some(Some(change)) => *change,
                    Some(None) => continue,
                    None => return Err(form(PLAN, change.line, &format!("no tag @{tag} before {}", change.name))),
                },
                None => plain(need),
            };
            depends_on.push(MigrationId(id.to_owned()));
        }
        found.push(Found {
            id: MigrationId(change.name.to_owned()),
            version: String::new(),
            name: change.name.to_owned(),
            repeatable: false,
            up,
            down: folder.part(&format!("revert/{}.sql", change.name), Transaction::Own)?,
            verify: folder.part(&format!("verify/{}.sql", change.name), Transaction::Own)?,
            sidecars: vec![format!("deploy/{}.dbkeep.toml", change.name)],
            depends_on,
            checksums: Vec::new(),
        });
    }
    if let Some(path) = folder.paths().into_iter().find(|path| {
        let name = path.strip_prefix("revert/").and_then(|name| name.strip_suffix(".sql"));
        name.is_some_and(|name| !name.contains('@') && !lines.contains_key(name) && !folder.has(&format!("deploy/{name}.sql")))
    }) {
        return Err(SourceError::DownWithoutUp { file: path.to_owned() });
    }
    Ok(found)
}

/// A change without the tag that it is meant as of.
fn plain(need: &str) -> &str {
    need.split('@').next().unwrap_or(need)
}

type Tags<'a> = HashMap<&'a str, Option<&'a str>>;

/// The changes in order, and the change that each tag is on.
fn changes(text: &str) -> Result<(Vec<Change<'_>>, Tags<'_>), SourceError> {
    let mut found: Vec<Change<'_>> = Vec::new();
    let (mut tags, mut seen): (Tags<'_>, HashMap<&str, u32>) = (HashMap::new(), HashMap::new());
    for (line, content) in (1_u32..).zip(text.lines()) {
        let content = content.split('#').next().unwrap_or(content).trim();
        if content.is_empty() || content.starts_with('%') {
            continue;
        }
        let (name, rest) = content.split_once(char::is_whitespace).unwrap_or((content, ""));
        if let Some(tag) = name.strip_prefix('@') {
            if tags.insert(tag, found.last().map(|change| change.name)).is_some() {
                return Err(form(
                    PLAN,
                    line,
                    &format!("tag @{tag} stands in the plan twice: expected one"),
                ));
            }
            continue;
        }
        if name.starts_with('-') {
            return Err(form(
                PLAN,
                line,
                "a change that is to be reverted: expected only changes to be deployed",
            ));
        }
        let name = name.strip_prefix('+').unwrap_or(name);
        if name.is_empty()
            || name.contains(['@', ':', '[', ']', '!', '\\'])
            || name.split('/').any(|part| matches!(part, "" | "." | ".."))
        {
            return Err(form(PLAN, line, &format!("`{name}` is no name of a change")));
        }
        let mut needs = Vec::new();
        let mut rest = rest.trim_start();
        if let Some(list) = rest.strip_prefix('[') {
            let Some((list, after)) = list.split_once(']') else {
                return Err(form(PLAN, line, "the list of what the change needs has no `]`"));
            };
            needs.extend(list.split_whitespace());
            rest = after.trim_start();
        }
        if !rest.is_empty() && !rest.starts_with(|character: char| character.is_ascii_digit()) {
            return Err(form(
                PLAN,
                line,
                &format!("`{rest}`: expected a time such as 2024-01-01T00:00:00Z"),
            ));
        }
        if seen.insert(name, line).is_some() {
            return Err(SourceError::Rework {
                file: PLAN.to_owned(),
                line,
                change: name.to_owned(),
            });
        }
        found.push(Change { line, name, needs });
    }
    Ok((found, tags))
}
