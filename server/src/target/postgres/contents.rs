//! What a dump says of itself: its table of contents, and which entries of it belong to a table; and the scripts that `pg_restore` makes
//! of chosen entries. Loads nothing.

use std::path::Path;

use dbkeep_engine::port::MaintenanceError;

use super::{
    dump::TableNotes,
    tool::{Programs, path_argument},
};

/// A script as a connection takes it.
pub(super) fn own_sql(text: &str) -> String {
    // Commands of psql that newer versions put around a script, and a setting that older servers do not know; each on a line of its own.
    let commands = ["\\restrict ", "\\unrestrict ", "SET transaction_timeout = 0;"];
    let lines = text
        .lines()
        .filter(|line| !commands.iter().any(|command| line.starts_with(command)));
    lines.collect::<Vec<_>>().join("\n")
}

/// Which entries of a dump's table of contents belong to some tables.
pub(super) fn contents(listing: &str, tables: &[&TableNotes], wanted: impl Fn(&str) -> bool) -> String {
    let mut chosen = String::new();
    for line in listing.lines() {
        // "3201; 2606 16390 CONSTRAINT public child child_pkey postgres"
        let Some((_, rest)) = line.split_once("; ") else { continue };
        let mut words = rest.splitn(3, ' ');
        let (Some(catalog), Some(object), Some(entry)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let (Ok(catalog), Ok(object)) = (catalog.parse::<i64>(), object.parse::<i64>()) else {
            continue;
        };
        let belongs = tables.iter().any(|notes| {
            if (catalog, object) == (0, 0) {
                return nameless(entry, notes);
            }
            notes.objects.contains(&(catalog, object))
        });
        if belongs && wanted(entry) {
            chosen.push_str(line);
            chosen.push('\n');
        }
    }
    chosen
}

/// Entries without an oid are told by what they name.
fn nameless(entry: &str, notes: &TableNotes) -> bool {
    let schema = notes.table.schema.as_deref().unwrap_or_default();
    let table = &notes.table.name;
    let of_table = [
        format!("ACL {schema} TABLE {table} "),
        format!("COMMENT {schema} TABLE {table} "),
        format!("COMMENT {schema} COLUMN {table}."),
    ];
    let of_sequence = notes.sequences.iter().flat_map(|sequence| {
        let (schema, name) = sequence.split_once(' ').unwrap_or_default();
        [
            format!("SEQUENCE OWNED BY {sequence} "),
            format!("SEQUENCE SET {sequence} "),
            format!("ACL {schema} SEQUENCE {name} "),
        ]
    });
    of_table.into_iter().chain(of_sequence).any(|begin| entry.starts_with(&begin))
}

impl Programs {
    /// What `pg_restore` writes for a dump.
    pub(super) async fn script(
        &self,
        path: &Path,
        arguments: &[&str],
        contents: Option<&str>,
    ) -> Result<String, MaintenanceError> {
        let mut all = arguments.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>();
        let list = contents.map(list_file).transpose()?;
        if let Some(list) = &list {
            all.push(path_argument("--use-list=", list.path())?);
        }
        all.push(path_argument("", path)?);
        self.run("pg_restore", None, &all)
            .await?
            .map_err(|said| MaintenanceError::Damaged {
                problem: format!("pg_restore: {said}"),
            })
    }
}

/// A table of contents as a file, which goes when it is dropped.
pub(super) fn list_file(contents: &str) -> Result<tempfile::NamedTempFile, MaintenanceError> {
    let io = |source| MaintenanceError::Io {
        path: "a temporary file".to_owned(),
        source,
    };
    let mut file = tempfile::NamedTempFile::new().map_err(io)?;
    std::io::Write::write_all(&mut file, contents.as_bytes()).map_err(io)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use dbkeep_engine::model::TableName;

    use super::*;

    #[test]
    fn a_table_s_entries_are_found_by_oid_and_by_name() {
        let listing = "; Archive created at ..\n;\n215; 1259 16385 TABLE public child postgres\n216; 1259 16400 TABLE public children postgres\n\
                       3344; 0 16385 TABLE DATA public child postgres\n3201; 2606 16390 CONSTRAINT public child child_pkey postgres\n\
                       3202; 1259 16391 INDEX public odd name postgres\n3356; 0 0 SEQUENCE SET public child_id_seq postgres\n\
                       3357; 0 0 ACL public TABLE child postgres\n3358; 0 0 ACL public TABLE children postgres\n\
                       3359; 0 0 COMMENT public COLUMN child.note postgres\n";
        let notes = TableNotes {
            table: TableName::parse("public.child"),
            partition: false,
            objects: vec![(1_259, 16_385), (0, 16_385), (2_606, 16_390), (1_259, 16_391)],
            sequences: vec!["public child_id_seq".to_owned()],
        };
        let chosen = contents(listing, &[&notes], |_| true);
        let numbers = chosen
            .lines()
            .map(|line| line.split_once(';').expect("a number").0)
            .collect::<Vec<_>>();
        assert_eq!(numbers, ["215", "3344", "3201", "3202", "3356", "3357", "3359"]);
        assert_eq!(
            contents(listing, &[&notes], |entry| entry.starts_with("SEQUENCE SET "))
                .lines()
                .count(),
            1
        );
    }

    #[test]
    fn commands_of_psql_are_left_out() {
        assert_eq!(own_sql("\\restrict abc\nSELECT 1;\n\\unrestrict abc\n"), "SELECT 1;");
    }
}
