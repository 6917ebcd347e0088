//! Random trees and references to their files, and the model that tells which of them go: it walks the tree by itself, knows patterns as
//! plain comparisons and references as a list of texts, and imports nothing of dbkeep.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs::{self, File, Permissions},
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::support::{Database, ROOT};

/// Names of folders; the last one is never entered, and only used beneath another.
const FOLDERS: [&[u8]; 7] = [
    b"d",
    "\u{e9}t\u{e9}".as_bytes(),
    b".deep",
    b"\xfe",
    b"a b",
    b"x.tmp",
    b".dbkeep-trash",
];
const NAMES: [&[u8]; 14] = [
    b"a",
    b"b.tmp",
    b"x.log",
    b".hidden",
    b".tmp",
    b"with space.tmp",
    "\u{65e5}\u{672c}.tmp".as_bytes(),
    b"new\nline.log",
    b"back\\slash",
    b"-rf",
    b"[x]*?.tmp",
    b"raw\xff\x80.tmp",
    b"it's %2e.log",
    b"..a",
];

/// Patterns, each with what it means for the whole name of a file.
type Pattern = (&'static str, fn(&[u8]) -> bool);
pub(crate) const PATTERNS: [Pattern; 7] = [
    ("**/*", |_| true),
    ("*", |path| !path.contains(&b'/')),
    ("*.tmp", |path| !path.contains(&b'/') && path.ends_with(b".tmp")),
    ("**/*.tmp", |path| path.ends_with(b".tmp")),
    ("d/**", |path| path.starts_with(b"d/")),
    ("**/?", |path| path == b"a" || path.ends_with(b"/a")),
    ("{d,\u{e9}t\u{e9}}/*.{tmp,log}", |path| {
        let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        parts.len() == 2
            && (parts[0] == b"d" || parts[0] == "\u{e9}t\u{e9}".as_bytes())
            && (parts[1].ends_with(b".tmp") || parts[1].ends_with(b".log"))
    }),
];

/// The tables that refer to files.
pub(crate) const TABLES: &str = "CREATE TABLE owner (id integer PRIMARY KEY, avatar text); CREATE INDEX owner_avatar ON owner (avatar); \
     CREATE TABLE page (id integer PRIMARY KEY, picture varchar(2000))";

/// Two operations for each pattern: by age, and by references.
pub(crate) fn catalog() -> String {
    let mut text = String::new();
    let mut add = |name: String, rule: String| {
        text.push_str(&format!(
            "[[operation]]\nname = \"{name}\"\ncategory = \"X\"\nseverity = \"MEDIUM\"\nbackup = true\n\
             [[operation.rule]]\nname = \"it\"\nmax_fraction = 1.0\n{rule}\n\n"
        ));
    };
    let references = [("owner", "avatar"), ("page", "picture")];
    let references = references
        .iter()
        .zip(PREFIXES)
        .map(|((table, column), prefix)| format!("{{ table = \"{table}\", column = \"{column}\", prefix = \"{prefix}\" }}"));
    let references = references.collect::<Vec<_>>().join(", ");
    for (place, (pattern, _)) in PATTERNS.iter().enumerate() {
        let beneath = format!("root = \"{ROOT}\"\nglob = '{pattern}'");
        add(
            format!("old_{place}"),
            format!("kind = \"temp_files\"\n{beneath}\nage = \"PT24H\""),
        );
        add(
            format!("unused_{place}"),
            format!("kind = \"orphan_files\"\n{beneath}\nreferences = [{references}]"),
        );
    }
    text
}

/// What comes before a name in each of the two columns.
pub(crate) const PREFIXES: [&str; 2] = ["/u/", ""];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    LinkToFile,
    LinkToFolder,
    Dangling,
    Pipe,
    Folder,
}

/// When it was last written.
#[derive(Debug, Clone, Copy)]
enum Age {
    Young,
    Old,
    /// Milliseconds from the age that a rule asks for, counted from now: the plan comes a moment later.
    Near(u64),
}

/// What somebody does to it between plan and run.
#[derive(Debug, Clone, Copy)]
enum Change {
    /// Other bytes, as many and as old as before.
    Rewritten,
    Grown,
    Closed,
    MovedAway,
    /// Away, and back to the same name.
    MovedTwice,
    SecondName,
    Removed,
    Replaced,
}

#[derive(Debug, Clone)]
struct Entry {
    folders: Vec<usize>,
    name: usize,
    kind: Kind,
    age: Age,
    mode: u32,
    change: Option<Change>,
}

/// What a row holds.
#[derive(Debug, Clone, Copy)]
enum Value {
    Null,
    Empty,
    /// The name of an entry, in one of several spellings, of which some mean something else.
    Entry(usize, usize),
    Missing(usize),
    /// The folder of an entry.
    FolderOf(usize),
    Elsewhere,
}

#[derive(Debug, Clone)]
pub(crate) struct Files {
    orphans: bool,
    pattern: usize,
    entries: Vec<Entry>,
    rows: Vec<(usize, Value)>,
    /// Rows that come between plan and run.
    late: Vec<(usize, usize, usize)>,
    pub(crate) batch_rows: u32,
}

const SPELLINGS: usize = 13;

pub(crate) fn files(orphans: bool) -> impl Strategy<Value = Files> {
    let kind = prop_oneof![
        12 => Just(Kind::File),
        1 => Just(Kind::LinkToFile),
        1 => Just(Kind::LinkToFolder),
        1 => Just(Kind::Dangling),
        1 => Just(Kind::Pipe),
        1 => Just(Kind::Folder),
    ];
    let age = prop_oneof![
        1 => Just(Age::Young),
        7 => Just(Age::Old),
        2 => (0..1_500_u64).prop_map(Age::Near),
    ];
    let change = select(
        &[
            Change::Rewritten,
            Change::Grown,
            Change::Closed,
            Change::MovedAway,
            Change::MovedTwice,
            Change::SecondName,
            Change::Removed,
            Change::Replaced,
        ][..],
    );
    let entry = (
        vec(0..FOLDERS.len(), 0..4),
        0..NAMES.len(),
        kind,
        age,
        select(&[0o644, 0o600, 0o664, 0o755][..]),
        option::weighted(0.1, change),
    )
        .prop_map(|(folders, name, kind, age, mode, change)| Entry {
            folders,
            name,
            kind,
            age,
            mode,
            change,
        });
    let value = prop_oneof![
        2 => Just(Value::Null),
        1 => Just(Value::Empty),
        12 => (0..40_usize, 0..SPELLINGS).prop_map(|(entry, spelling)| Value::Entry(entry, spelling)),
        2 => (0..SPELLINGS).prop_map(Value::Missing),
        1 => (0..40_usize).prop_map(Value::FolderOf),
        1 => Just(Value::Elsewhere),
    ];
    (
        prop_oneof![Just(0), 0..PATTERNS.len()],
        vec(entry, 5..40),
        vec((0..2_usize, value), 0..20),
        vec((0..2_usize, 0..40_usize, 0..SPELLINGS), 0..4),
        2..9_u32,
    )
        .prop_map(move |(pattern, entries, rows, late, batch_rows)| Files {
            orphans,
            pattern,
            entries,
            rows,
            late,
            batch_rows,
        })
}

/// How a name may be written. The model does not know which of them mean what.
fn spelled(path: &[u8], spelling: usize) -> Vec<u8> {
    let text = |parts: &[&[u8]]| parts.concat();
    match spelling {
        0 | 1 => path.to_vec(),
        2 => path
            .iter()
            .flat_map(|byte| if *byte == b'/' { b"//".to_vec() } else { vec![*byte] })
            .collect(),
        3 => text(&[b"./", path]),
        4 => text(&[b"/", path]),
        5 => text(&[path, b"/"]),
        6 => text(&[b"q/../", path]),
        7 => text(&[path, b"/."]),
        8 => path
            .iter()
            .flat_map(|byte| if *byte == b'/' { b"/./".to_vec() } else { vec![*byte] })
            .collect(),
        9 => path.to_ascii_uppercase(),
        10 => text(&[b"../", path]),
        11 => text(&[b"q/../../", path]),
        _ => text(&[path, b"/q/.."]),
    }
}

/// The name that a text means, found by rewriting the text until nothing changes; `None` where it leads out or means none.
fn meant(text: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = text.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
    parts.retain(|part| !part.is_empty() && part != b".");
    while let Some(place) = parts.iter().position(|part| part == b"..") {
        if place == 0 {
            return None;
        }
        parts.drain(place - 1..=place);
    }
    (!parts.is_empty()).then(|| parts.join(&b'/'))
}

/// Kind, mode, time and content of everything beneath a folder; of folders only the mode, as their times tell of every move.
pub(crate) type Tree = BTreeMap<PathBuf, String>;

pub(crate) fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(root.join(&folder)).expect("a folder") {
            let below = folder.join(entry.expect("an entry").file_name());
            if below == Path::new(".dbkeep-trash") {
                continue;
            }
            let path = root.join(&below);
            let stat = fs::symlink_metadata(&path).expect("there");
            let time = format!("{}.{:09}", stat.mtime(), stat.mtime_nsec());
            let rest = if stat.is_file() {
                format!("{time} {:?}", fs::read(&path).expect("content"))
            } else if stat.is_symlink() {
                format!("{time} {:?}", fs::read_link(&path).expect("a target"))
            } else if stat.is_dir() {
                pending.push(below.clone());
                String::new()
            } else {
                time
            };
            found.insert(below, format!("{:o} {rest}", stat.mode()));
        }
    }
    found
}

/// A file as the model sees it.
struct Seen {
    written: i128,
    regular: bool,
}

impl Files {
    pub(crate) fn operation(&self) -> String {
        format!("{}_{}", if self.orphans { "unused" } else { "old" }, self.pattern)
    }

    fn path(&self, place: usize) -> Vec<u8> {
        let entry = &self.entries[place % self.entries.len()];
        let mut parts: Vec<&[u8]> = Vec::new();
        for (depth, folder) in entry.folders.iter().enumerate() {
            // The root's own trash is no place for an application's files.
            let folder = if depth == 0 { folder % (FOLDERS.len() - 1) } else { *folder };
            parts.push(FOLDERS[folder]);
        }
        parts.push(NAMES[entry.name]);
        parts.join(&b'/')
    }

    /// Makes the tree; what does not fit beside an earlier entry is left out.
    pub(crate) fn plant(&self, root: &Path) {
        let now = SystemTime::now();
        let day = Duration::from_secs(24 * 3_600);
        for (place, entry) in self.entries.iter().enumerate() {
            let path = root.join(OsStr::from_bytes(&self.path(place)));
            if fs::create_dir_all(path.parent().expect("a parent")).is_err() || fs::symlink_metadata(&path).is_ok() {
                continue;
            }
            match entry.kind {
                Kind::File => {
                    fs::write(&path, format!("content {place}")).expect("a file");
                    fs::set_permissions(&path, Permissions::from_mode(entry.mode)).expect("a mode");
                    let written = match entry.age {
                        Age::Young => now - Duration::from_secs(600),
                        Age::Old => now - 2 * day - Duration::new(place as u64, 123_456_789),
                        Age::Near(millis) => now - day + Duration::from_millis(millis),
                    };
                    set_time(&path, written);
                }
                Kind::LinkToFile => symlink(root.join(OsStr::from_bytes(&self.path(place + 1))), &path).expect("a link"),
                Kind::LinkToFolder => symlink("..", &path).expect("a link"),
                Kind::Dangling => symlink("nowhere", &path).expect("a link"),
                Kind::Pipe => {
                    let made = Command::new("mkfifo").arg(&path).status();
                    assert!(made.expect("mkfifo").success());
                }
                Kind::Folder => fs::create_dir(&path).expect("a folder"),
            }
        }
    }

    /// Changes the tree after the plan. Returns the names of files that are not what they were.
    pub(crate) fn change(&self, root: &Path) -> BTreeSet<Vec<u8>> {
        let mut changed = BTreeSet::new();
        for (place, entry) in self.entries.iter().enumerate() {
            let (Some(change), name) = (entry.change, self.path(place)) else {
                continue;
            };
            let path = root.join(OsStr::from_bytes(&name));
            let stat = fs::symlink_metadata(&path);
            let Some(stat) = stat.ok().filter(fs::Metadata::is_file) else {
                continue;
            };
            if !changed.insert(name) {
                continue;
            }
            let aside = root.join(OsString::from_vec(format!("aside {place}.tmp").into_bytes()));
            match change {
                Change::Rewritten => {
                    fs::write(&path, "C".repeat(usize::try_from(stat.len()).expect("a size"))).expect("written");
                    set_time(&path, stat.modified().expect("a time"));
                }
                Change::Grown => {
                    let content = fs::read(&path).expect("content");
                    fs::write(&path, [content, b"!".to_vec()].concat()).expect("written");
                    set_time(&path, stat.modified().expect("a time"));
                }
                Change::Closed => fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("a mode"),
                Change::MovedAway => fs::rename(&path, &aside).expect("moved"),
                Change::MovedTwice => {
                    fs::rename(&path, &aside).expect("moved");
                    fs::rename(&aside, &path).expect("moved back");
                }
                Change::SecondName => fs::hard_link(&path, &aside).expect("a name"),
                Change::Removed => fs::remove_file(&path).expect("removed"),
                Change::Replaced => {
                    fs::write(&aside, "another").expect("a file");
                    set_time(&aside, stat.modified().expect("a time"));
                    fs::rename(&aside, &path).expect("replaced");
                }
            }
        }
        changed
    }

    /// The texts of a row of a column, where the database can hold them.
    fn text(&self, column: usize, value: Value, database: Database) -> Option<Vec<u8>> {
        let prefixed = |name: Vec<u8>| [PREFIXES[column].as_bytes(), &name].concat();
        let text = match value {
            Value::Null => return None,
            Value::Empty => Vec::new(),
            Value::Entry(place, spelling) => prefixed(spelled(&self.path(place), spelling)),
            Value::Missing(spelling) => prefixed(spelled(b"d/never there", spelling)),
            Value::FolderOf(place) => {
                let path = self.path(place);
                prefixed(
                    path.iter()
                        .rposition(|byte| *byte == b'/')
                        .map_or_else(|| b"d".to_vec(), |cut| path[..cut].to_vec()),
                )
            }
            Value::Elsewhere => b"https://elsewhere/a".to_vec(),
        };
        (database == Database::Sqlite || std::str::from_utf8(&text).is_ok()).then_some(text)
    }

    fn rows(&self, database: Database) -> Vec<(usize, Option<Vec<u8>>)> {
        let rows = self.rows.iter();
        rows.map(|(column, value)| (*column, self.text(*column, *value, database)))
            .collect()
    }

    fn late_rows(&self, database: Database) -> Vec<(usize, Option<Vec<u8>>)> {
        // What leads out of the root would be a warning that the plan did not have.
        let rows = self.late.iter().filter(|(_, _, spelling)| !matches!(spelling, 10 | 11));
        rows.map(|(column, place, spelling)| (*column, self.text(*column, Value::Entry(*place, *spelling), database)))
            .collect()
    }

    fn sql(rows: &[(usize, Option<Vec<u8>>)], first: usize, database: Database) -> String {
        let mut sql = String::new();
        for (id, (column, text)) in (first..).zip(rows) {
            let literal = match (text, database) {
                (None, _) => "NULL".to_owned(),
                // Every fifth as it is never written by hand.
                (Some(text), Database::Sqlite) if id % 5 == 0 => format!("x'{}'", hex(text)),
                (Some(text), Database::Sqlite) => format!("CAST(x'{}' AS text)", hex(text)),
                (Some(text), Database::Postgres) => {
                    format!("'{}'", std::str::from_utf8(text).expect("text").replace('\'', "''"))
                }
            };
            let table = ["owner", "page"][*column];
            sql.push_str(&format!("INSERT INTO {table} VALUES ({id}, {literal}); "));
        }
        sql
    }

    pub(crate) fn setup(&self, database: Database) -> String {
        format!(
            "DELETE FROM owner; DELETE FROM page; {}",
            Self::sql(&self.rows(database), 0, database)
        )
    }

    pub(crate) fn late_setup(&self, database: Database) -> String {
        Self::sql(&self.late_rows(database), 1_000, database)
    }

    /// Files of the root that something refers to, and how many values there are.
    fn references(&self, late: bool, database: Database) -> (BTreeSet<Vec<u8>>, usize) {
        let mut rows = self.rows(database);
        if late {
            rows.extend(self.late_rows(database));
        }
        let texts: Vec<(usize, Vec<u8>)> = rows.into_iter().filter_map(|(column, text)| Some((column, text?))).collect();
        let names = texts.iter().filter_map(|(column, text)| {
            let name = text.strip_prefix(PREFIXES[*column].as_bytes())?;
            meant(name)
        });
        (names.collect(), texts.len())
    }

    /// The model: names of files that go, given those that changed since the plan; `None` where references say that the rule is wrong.
    pub(crate) fn expected(
        &self,
        root: &Path,
        horizon: Timestamp,
        changed: Option<&BTreeSet<Vec<u8>>>,
        database: Database,
    ) -> Option<BTreeSet<Vec<u8>>> {
        let mut seen = BTreeMap::new();
        see(root, &mut Vec::new(), &mut seen);
        let (references, values) = self.references(changed.is_some(), database);
        let regular = seen.iter().filter(|(_, file)| file.regular);
        let old = regular.clone().filter(|(path, file)| {
            let new = |path: &[u8]| path.starts_with(b"aside ");
            file.written < horizon.as_nanosecond()
                && PATTERNS[self.pattern].1(path)
                && changed.is_none_or(|changed| !changed.contains(*path) && !new(path))
        });
        let old = old.map(|(path, _)| path.clone());
        if !self.orphans {
            return Some(old.collect());
        }
        let go: BTreeSet<Vec<u8>> = old.filter(|path| !references.contains(path)).collect();
        let matches = regular.filter(|(path, _)| references.contains(*path)).count();
        (go.is_empty() || (values > 0 && matches > 0)).then_some(go)
    }
}

fn see(folder: &Path, name: &mut Vec<u8>, seen: &mut BTreeMap<Vec<u8>, Seen>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        let part = entry.file_name();
        let stat = fs::symlink_metadata(entry.path()).expect("there");
        let length = name.len();
        if !name.is_empty() {
            name.push(b'/');
        }
        name.extend_from_slice(part.as_bytes());
        if stat.is_dir() && part != ".dbkeep-trash" {
            see(&entry.path(), name, seen);
        } else if !stat.is_dir() {
            let written = i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec());
            let regular = stat.is_file();
            seen.insert(name.clone(), Seen { written, regular });
        }
        name.truncate(length);
    }
}

fn set_time(path: &Path, time: SystemTime) {
    let file = File::open(path).expect("open");
    file.set_modified(time).expect("a time");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
