//! The grants as a script for whoever administers the database. What was not asked for stands in comments, so that a reader sees what it
//! would take.

use dbkeep_engine::model::privilege::{Feature, Grant};

use super::{super::render, Place};

/// Text for a comment. A name may hold anything, also a line break, behind which it would be a statement.
fn comment(text: &str) -> String {
    let plain = text.chars().map(|character| {
        if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
            ' '
        } else {
            character
        }
    });
    format!("-- {}", plain.collect::<String>().trim_end())
}

/// A statement in a comment: each of its lines.
fn out_of_effect(text: &str) -> String {
    text.split(['\n', '\r']).map(comment).collect::<Vec<_>>().join("\n")
}

/// The statement that makes the role where it is missing. The quotes of the block are such as do not occur in it.
fn make(place: &Place) -> String {
    let body = format!(
        "BEGIN\n  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {}) THEN\n    \
         CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;\n  END IF;\nEND",
        render::literal(&place.role),
        render::identifier(&place.role)
    );
    let tag = (0..)
        .map(|number| format!("$dbkeep{number}$"))
        .find(|tag| !body.contains(tag.as_str()))
        .unwrap_or_default();
    format!("DO {tag}\n{body}\n{tag};")
}

/// Writes the script.
pub(super) fn write(place: &Place, grants: &[Grant], notes: &[String], chosen: &[Feature]) -> String {
    let names: Vec<&str> = chosen.iter().map(|feature| feature.name()).collect();
    let mut lines = vec![
        comment(&format!(
            "Rights of role {} in database {}, as dbkeep needs them for: {}.",
            place.role,
            place.database,
            names.join(", ")
        )),
        comment(
            "To be run in this database by a superuser. Grants that are there already are granted again, which changes nothing.",
        ),
        comment("What stands in comments below is for features that were not asked for."),
    ];
    lines.extend(notes.iter().map(|note| comment(&format!("Note: {note}."))));
    lines.push(String::new());
    lines.push(make(place));
    lines.push(comment(&format!(
        "A new role has no password. In psql, so that it does not stand in any log:  \\password {}",
        render::identifier(&place.role)
    )));
    for feature in Feature::ALL {
        let of_feature: Vec<&Grant> = grants.iter().filter(|grant| grant.feature == feature).collect();
        if of_feature.is_empty() {
            continue;
        }
        let in_effect = chosen.contains(&feature);
        lines.push(String::new());
        lines.push(comment(&format!(
            "{}: {}.{}",
            feature.name(),
            feature.describe(),
            if in_effect { "" } else { " Not asked for." }
        )));
        for grant in of_feature {
            lines.push(comment(&format!("  {}", grant.why)));
            if grant.statement.is_empty() {
                continue;
            }
            let text = format!("{};", grant.statement);
            lines.push(if in_effect { text } else { out_of_effect(&text) });
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(feature: Feature, statement: &str, why: &str) -> Grant {
        Grant {
            feature,
            object: "table x".into(),
            privilege: "DELETE".into(),
            statement: statement.into(),
            why: why.into(),
            held: false,
        }
    }

    fn place(role: &str) -> Place {
        Place {
            role: role.into(),
            exists: false,
            database: "d\nDROP DATABASE d;".into(),
            version: 150_000,
        }
    }

    /// The lines of a script that are in effect, without the block that makes the role.
    fn effective(script: &str) -> Vec<&str> {
        let after = script.split_once("$;\n").expect("the block ends").1;
        let is_text = |line: &&str| !line.is_empty() && !line.starts_with("--");
        after.lines().filter(is_text).collect()
    }

    #[test]
    fn what_was_not_asked_for_is_out_of_effect() {
        let grants = [
            grant(Feature::Basis, "GRANT A", "one"),
            grant(Feature::Cleanup, "GRANT B", "two"),
            grant(Feature::Cleanup, "", "nothing grants this"),
            grant(Feature::Backups, "GRANT C", "three"),
        ];
        let script = write(&place("r"), &grants, &[], &[Feature::Basis, Feature::Cleanup]);
        assert_eq!(effective(&script), ["GRANT A;", "GRANT B;"]);
        assert!(script.contains("-- GRANT C;") && script.contains("Not asked for"), "{script}");
        assert!(
            script.contains("--   nothing grants this\n") && !script.contains("\n;"),
            "{script}"
        );
    }

    #[test]
    fn a_name_cannot_leave_its_comment_or_its_quotes() {
        let evil = "x\nDROP TABLE y;\r\nDROP TABLE z;\u{2028}";
        let grants = [
            grant(Feature::Basis, "GRANT A", evil),
            grant(
                Feature::Backups,
                &format!("GRANT SELECT ON {}", render::identifier(evil)),
                evil,
            ),
        ];
        let script = write(&place("r"), &grants, &[evil.to_owned()], &[Feature::Basis]);
        assert_eq!(effective(&script), ["GRANT A;"], "{script}");
        let script = make(&place("$dbkeep0$; DROP ROLE postgres; '\\"));
        assert!(
            script.starts_with("DO $dbkeep1$") && script.ends_with("$dbkeep1$;"),
            "{script}"
        );
        assert!(script.contains(r#"E'$dbkeep0$; DROP ROLE postgres; ''\\'"#), "{script}");
    }
}
