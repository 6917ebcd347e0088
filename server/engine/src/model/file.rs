//! Files beneath a declared root: how they are named, told apart, and selected. Nothing here touches a disk.

use std::{fmt, sync::Arc};

use globset::{GlobBuilder, GlobMatcher};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{schema::TableSchema, selection::Condition};

/// Name of a file relative to its root: bytes, since a file system does not care for encodings.
///
/// It never is empty or absolute, and has no empty, `.` or `..` part, so that it cannot leave the root. Shown, stored and read
/// as text in which a backslash is doubled and a byte that is no printable UTF-8 is `\xNN`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct FilePath(Vec<u8>);

impl FilePath {
    /// Takes a relative name; `None` where it is not one, or leaves the root.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Option<Self> {
        let bytes = bytes.into();
        let plain = |part: &[u8]| !part.is_empty() && part != b"." && part != b"..";
        (!bytes.contains(&0) && bytes.split(|byte| *byte == b'/').all(plain)).then_some(Self(bytes))
    }

    /// The file that a stored reference means: superfluous separators and `.` are dropped, and `..` is resolved, as the system
    /// would when it opens that name. `None` where it names nothing beneath the root.
    #[must_use]
    pub fn of_reference(text: &[u8]) -> Option<Self> {
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in text.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    parts.pop()?;
                }
                part => parts.push(part),
            }
        }
        Self::new(parts.join(&b'/'))
    }

    /// The name as the system takes it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The folder it lies in, empty for the root itself, and its name there.
    #[must_use]
    pub fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(cut) => (&self.0[..cut], &self.0[cut + 1..]),
            None => (&[], &self.0),
        }
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                if character == '\\' {
                    formatter.write_str("\\\\")?;
                } else if character.is_control() {
                    let mut buffer = [0; 4];
                    for byte in character.encode_utf8(&mut buffer).bytes() {
                        write!(formatter, "\\x{byte:02x}")?;
                    }
                } else {
                    write!(formatter, "{character}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(formatter, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "\"{self}\"")
    }
}

impl From<FilePath> for String {
    fn from(path: FilePath) -> Self {
        path.to_string()
    }
}

impl TryFrom<String> for FilePath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no name of a file beneath a root");
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            if byte != b'\\' {
                bytes.push(byte);
            } else if let Some(after) = rest.strip_prefix(b"\\") {
                bytes.push(b'\\');
                rest = after;
            } else {
                let digits = rest.strip_prefix(b"x").and_then(|rest| rest.get(..2)).ok_or_else(wrong)?;
                let mut decoded = [0];
                hex::decode_to_slice(digits, &mut decoded).map_err(|_| wrong())?;
                bytes.push(decoded[0]);
                rest = &rest[3..];
            }
        }
        Self::new(bytes).ok_or_else(wrong)
    }
}

/// Nanoseconds since 1970-01-01T00:00:00Z, at the nearest end of the range of years 1678 to 2261 where beyond it.
pub type Nanoseconds = i64;

/// An instant as file systems count it.
#[must_use]
pub fn nanoseconds(instant: Timestamp) -> Nanoseconds {
    let exact = instant.as_nanosecond();
    Nanoseconds::try_from(exact).unwrap_or(if exact < 0 { Nanoseconds::MIN } else { Nanoseconds::MAX })
}

/// A regular file as a listing found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name.
    pub path: FilePath,
    /// Device and inode, which together tell it from every other file while the machine runs.
    pub device: u64,
    /// See `device`.
    pub inode: u64,
    /// Size, bytes.
    pub size: u64,
    /// When its content was last written, which an application may set.
    pub modified: Nanoseconds,
    /// When anything of it was last changed, its name included; the system's own, which nobody can set.
    pub changed: Nanoseconds,
    /// When it was made, where the file system tells.
    pub born: Option<Nanoseconds>,
}

impl FileEntry {
    /// Whether both are the same content under the same name: what a second look at a file must find.
    #[must_use]
    pub fn is_untouched(&self, other: &Self) -> bool {
        (self.device, self.inode, self.size, self.modified, self.changed)
            == (other.device, other.inode, other.size, other.modified, other.changed)
    }
}

/// A pattern over names of files: `*` and `?` within one part, `**` over any number of folders, `[..]` and `{..}`.
#[derive(Debug, Clone)]
pub struct FileGlob(GlobMatcher);

impl FileGlob {
    /// Reads a pattern.
    ///
    /// # Errors
    /// Where it is malformed, absolute, or has a part `..`: it could only match what lies outside of a root.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expectation = "expected a pattern beneath the root such as \"**/*\" or \"cache/**/*.tmp\"";
        if text.is_empty() || text.starts_with('/') || text.split('/').any(|part| part == "..") || text.contains('\0') {
            return Err(format!("glob is {text:?}, which is empty or leaves the root; {expectation}"));
        }
        let glob = GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build();
        let glob = glob.map_err(|error| format!("glob is {text:?}: {}; {expectation}", error.kind()))?;
        Ok(Self(glob.compile_matcher()))
    }

    /// Whether a file's whole name fits.
    #[must_use]
    pub fn matches(&self, path: &FilePath) -> bool {
        use std::os::unix::ffi::OsStrExt as _;
        self.0.is_match(std::ffi::OsStr::from_bytes(path.as_bytes()))
    }
}

/// By what a file rule takes a file, apart from references to it.
#[derive(Debug, Clone)]
pub struct FileTerms {
    /// Pattern of its name.
    pub glob: FileGlob,
    /// It was last written strictly before this.
    pub before: Nanoseconds,
}

impl FileTerms {
    /// Whether a file meets them.
    #[must_use]
    pub fn fit(&self, file: &FileEntry) -> bool {
        file.modified < self.before && self.glob.matches(&file.path)
    }
}

/// A column whose values refer to files.
#[derive(Debug, Clone)]
pub struct ColumnSource {
    /// The table.
    pub table: Arc<TableSchema>,
    /// The column.
    pub column: String,
    /// Conditions on rows that do not count, because an earlier step of the plan takes them.
    pub except: Vec<Condition>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(bytes: &[u8]) -> FilePath {
        FilePath::new(bytes).expect("a name")
    }

    #[test]
    fn names_stay_beneath_the_root() {
        for refused in [
            &b""[..],
            b"/a",
            b"a/",
            b"a//b",
            b".",
            b"..",
            b"a/..",
            b"../a",
            b"./a",
            b"a\0b",
        ] {
            assert_eq!(FilePath::new(refused), None, "{}", String::from_utf8_lossy(refused));
        }
        assert_eq!(path(b"a/b/c").split(), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(path(b"c").split(), (&b""[..], &b"c"[..]));
        assert_eq!(path(b"..a/b..").to_string(), "..a/b..");
    }

    #[test]
    fn references_are_read_as_the_system_would() {
        let named = |text: &str| FilePath::of_reference(text.as_bytes()).map(|path| path.to_string());
        for spelling in ["a/b.png", "./a//b.png", "a/./b.png", "x/../a/b.png", "/a/b.png"] {
            assert_eq!(named(spelling).as_deref(), Some("a/b.png"), "{spelling}");
        }
        for nothing in ["", "/", "..", "../a", "a/../../b", "a\0"] {
            assert_eq!(named(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn odd_names_are_shown_without_loss() {
        assert_eq!(path(b"a\\b\n\xff\xc3\xa9").to_string(), "a\\\\b\\x0a\\xff\u{e9}");
        for wrong in ["a\\", "a\\x1", "a\\q", "../a", "\\x00"] {
            assert!(FilePath::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_name_reads_back(bytes in proptest::collection::vec(any::<u8>(), 1..60)) {
            if let Some(path) = FilePath::new(bytes) {
                let json = serde_json::to_string(&path).expect("text");
                prop_assert_eq!(serde_json::from_str::<FilePath>(&json).expect("a name"), path);
            }
        }
    }

    #[test]
    fn patterns_match_whole_names() {
        let matches = |glob: &str, name: &[u8]| FileGlob::parse(glob).expect("a pattern").matches(&path(name));
        for (glob, name) in [
            ("**/*", &b"a"[..]),
            ("**/*", b"a/b/c"),
            ("**/*", b"\xff/\n"),
            ("*.tmp", b"x.tmp"),
            ("cache/**/*.tmp", b"cache/x.tmp"),
            ("cache/**/*.tmp", b"cache/a/b/x.tmp"),
            ("{a,b}/?", b"b/\n"),
            ("*", b".hidden"),
        ] {
            assert!(matches(glob, name), "{glob} {}", String::from_utf8_lossy(name));
        }
        for (glob, name) in [("*.tmp", &b"a/x.tmp"[..]), ("cache/*", b"cache2/x"), ("*.tmp", b"x.tmp2")] {
            assert!(!matches(glob, name), "{glob} {}", String::from_utf8_lossy(name));
        }
    }

    #[test]
    fn patterns_that_leave_the_root_are_refused() {
        for refused in ["", "/tmp/*", "../*", "a/../../b", "a/..", "[", "{a"] {
            let problem = FileGlob::parse(refused).map(|_| ()).expect_err("must be refused");
            assert!(problem.contains("expected a pattern beneath the root"), "{problem}");
        }
    }
}
