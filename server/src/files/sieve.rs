//! The set difference between the files of a root and the names that a database holds. Both sides are split by a hash of the name
//! into parts on disk, then matched part by part by their whole names: memory holds the files of one part, however many there are
//! of either. Where no name was given nothing is matched, and files come out in the order in which they went in.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::File,
    hash::{BuildHasher as _, RandomState},
    io::{self, BufRead as _, BufReader, BufWriter, Seek as _},
    path::{Path, PathBuf},
};

use dbkeep_engine::{
    model::{FileEntry, FilePath},
    port::{FilesError, Sieve, Sifted, Standing},
};

use super::beneath::failed_io;

/// Parts: with 64 a million files are 16 thousand at a time.
const PARTS: usize = 64;
/// Write buffer of a part, bytes.
const BUFFER: usize = 16 << 10;

/// A file without a name: it is gone when the process is, however that ends.
fn spill(folder: &Path) -> io::Result<BufWriter<File>> {
    tempfile::tempfile_in(folder).map(|file| BufWriter::with_capacity(BUFFER, file))
}

fn rewind(writer: BufWriter<File>) -> io::Result<BufReader<File>> {
    let mut file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    Ok(BufReader::with_capacity(BUFFER, file))
}

fn write_bytes(writer: &mut impl io::Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    writer.write_all(&length.to_le_bytes())?;
    writer.write_all(bytes)
}

fn read_bytes(reader: &mut impl io::Read) -> io::Result<Vec<u8>> {
    let length = read_array(reader).map(u32::from_le_bytes)?;
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_array<const N: usize>(reader: &mut impl io::Read) -> io::Result<[u8; N]> {
    let mut array = [0; N];
    reader.read_exact(&mut array)?;
    Ok(array)
}

fn read_path(reader: &mut impl io::Read) -> io::Result<FilePath> {
    FilePath::new(read_bytes(reader)?).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

fn write_file(writer: &mut impl io::Write, file: &FileEntry, standing: Standing) -> io::Result<()> {
    write_bytes(writer, file.path.as_bytes())?;
    for number in [file.device, file.inode, file.size] {
        writer.write_all(&number.to_le_bytes())?;
    }
    for time in [file.modified, file.changed, file.born.unwrap_or_default()] {
        writer.write_all(&time.to_le_bytes())?;
    }
    let standing = match standing {
        Standing::Takeable => 0,
        Standing::Touched => 1,
        Standing::Other => 2,
    };
    writer.write_all(&[standing, u8::from(file.born.is_some())])
}

fn read_file(reader: &mut impl io::Read) -> io::Result<(FileEntry, Standing)> {
    let path = read_path(reader)?;
    let mut number = || read_array(reader).map(u64::from_le_bytes);
    let (device, inode, size) = (number()?, number()?, number()?);
    let mut time = || read_array(reader).map(i64::from_le_bytes);
    let (modified, changed, born) = (time()?, time()?, time()?);
    let [standing, has_born] = read_array(reader)?;
    let standing = match standing {
        0 => Standing::Takeable,
        1 => Standing::Touched,
        2 => Standing::Other,
        _ => return Err(io::Error::from(io::ErrorKind::InvalidData)),
    };
    let file = FileEntry {
        path,
        device,
        inode,
        size,
        modified,
        changed,
        born: (has_born != 0).then_some(born),
    };
    Ok((file, standing))
}

/// The intake.
pub(super) struct SpillSieve {
    folder: PathBuf,
    hasher: RandomState,
    files: Vec<BufWriter<File>>,
    names: Vec<BufWriter<File>>,
    any_name: bool,
}

impl SpillSieve {
    pub(super) fn open(folder: &Path) -> Result<Self, FilesError> {
        let parts = || (0..PARTS).map(|_| spill(folder)).collect::<io::Result<Vec<_>>>();
        let failed = || failed_io(folder.display().to_string());
        Ok(Self {
            folder: folder.to_owned(),
            hasher: RandomState::new(),
            files: parts().map_err(failed())?,
            names: parts().map_err(failed())?,
            any_name: false,
        })
    }

    fn part(&self, path: &FilePath) -> usize {
        usize::try_from(self.hasher.hash_one(path) % PARTS as u64).unwrap_or(0)
    }

    fn failed(&self, error: io::Error) -> FilesError {
        failed_io(format!("a spill file in {}", self.folder.display()))(error)
    }
}

impl Sieve for SpillSieve {
    fn file(&mut self, file: &FileEntry, standing: Standing) -> Result<(), FilesError> {
        let part = self.part(&file.path);
        write_file(&mut self.files[part], file, standing).map_err(|error| self.failed(error))
    }

    fn name(&mut self, path: &FilePath) -> Result<(), FilesError> {
        let part = self.part(path);
        self.any_name = true;
        write_bytes(&mut self.names[part], path.as_bytes()).map_err(|error| self.failed(error))
    }

    fn sift(self: Box<Self>) -> Result<Box<dyn Sifted>, FilesError> {
        let failed = || failed_io(format!("a spill file in {}", self.folder.display()));
        let mut parts = Vec::with_capacity(PARTS);
        for (files, names) in self.files.into_iter().zip(self.names) {
            parts.push((rewind(files).map_err(failed())?, rewind(names).map_err(failed())?));
        }
        Ok(Box::new(SpillSifted {
            shown: format!("a spill file in {}", self.folder.display()),
            parts: parts.into_iter(),
            matching: self.any_name,
            streaming: None,
            ready: Vec::new().into_iter(),
            referenced: 0,
            touched: 0,
        }))
    }
}

/// The outcome.
struct SpillSifted {
    shown: String,
    parts: std::vec::IntoIter<(BufReader<File>, BufReader<File>)>,
    /// Whether there is any name to match with.
    matching: bool,
    /// The part in work where there is none.
    streaming: Option<BufReader<File>>,
    /// What is left of the part in work where there is.
    ready: std::vec::IntoIter<FileEntry>,
    referenced: u64,
    touched: u64,
}

impl SpillSifted {
    /// Matches one part.
    fn match_part(&mut self, mut files: BufReader<File>, mut names: BufReader<File>) -> io::Result<()> {
        // Positions keep the order of the intake, so that the same tree gives the same order within a part.
        let mut listed: HashMap<FilePath, usize> = HashMap::new();
        let mut entries: Vec<Option<(FileEntry, Standing)>> = Vec::new();
        while !files.fill_buf()?.is_empty() {
            let (file, standing) = read_file(&mut files)?;
            // A folder that changes while it is read may show an entry twice.
            if let Entry::Vacant(place) = listed.entry(file.path.clone()) {
                place.insert(entries.len());
                entries.push(Some((file, standing)));
            }
        }
        while !names.fill_buf()?.is_empty() {
            let name = read_path(&mut names)?;
            if let Some(position) = listed.get(&name)
                && entries[*position].take().is_some()
            {
                self.referenced += 1;
            }
        }
        let mut orphans = Vec::new();
        for (file, standing) in entries.into_iter().flatten() {
            match standing {
                Standing::Takeable => orphans.push(file),
                Standing::Touched => self.touched += 1,
                Standing::Other => {}
            }
        }
        self.ready = orphans.into_iter();
        Ok(())
    }

    fn fill(&mut self, limit: usize) -> io::Result<Vec<FileEntry>> {
        let mut found = Vec::new();
        while found.len() < limit {
            if let Some(file) = self.ready.next() {
                found.push(file);
                continue;
            }
            if let Some(files) = &mut self.streaming {
                if files.fill_buf()?.is_empty() {
                    self.streaming = None;
                } else {
                    let (file, standing) = read_file(files)?;
                    match standing {
                        Standing::Takeable => found.push(file),
                        Standing::Touched => self.touched += 1,
                        Standing::Other => {}
                    }
                }
                continue;
            }
            let Some((files, names)) = self.parts.next() else { break };
            if self.matching {
                self.match_part(files, names)?;
            } else {
                self.streaming = Some(files);
            }
        }
        Ok(found)
    }
}

impl Sifted for SpillSifted {
    fn next(&mut self, limit: usize) -> Result<Vec<FileEntry>, FilesError> {
        let shown = self.shown.clone();
        self.fill(limit).map_err(failed_io(shown))
    }

    fn referenced(&self) -> u64 {
        self.referenced
    }

    fn touched(&self) -> u64 {
        self.touched
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn file(name: &str) -> FileEntry {
        FileEntry {
            path: FilePath::new(name).expect("a name"),
            device: 1,
            inode: 2,
            size: 3,
            modified: -4,
            changed: 5,
            born: None,
        }
    }

    fn standing(takeable: bool) -> Standing {
        if takeable { Standing::Takeable } else { Standing::Touched }
    }

    fn drain(sieve: SpillSieve) -> (BTreeSet<String>, u64, u64) {
        let mut sifted = Box::new(sieve).sift().expect("sifted");
        let mut names = BTreeSet::new();
        loop {
            let some = sifted.next(7).expect("files");
            assert!(some.len() <= 7);
            if some.is_empty() {
                return (names, sifted.referenced(), sifted.touched());
            }
            for file in some {
                assert_eq!((file.modified, file.born), (-4, None), "what went in comes out");
                assert!(names.insert(file.path.to_string()), "a file comes out once");
            }
        }
    }

    #[test]
    fn takes_exactly_what_no_name_refers_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut sieve = SpillSieve::open(folder.path()).expect("a sieve");
        for number in 0..5_000 {
            sieve
                .file(&file(&format!("d/{number}")), standing(number % 10 != 0))
                .expect("taken");
        }
        for number in (0..10_000).step_by(3) {
            for _ in 0..2 {
                sieve
                    .name(&FilePath::new(format!("d/{number}")).expect("a name"))
                    .expect("taken");
            }
        }
        assert_eq!(
            std::fs::read_dir(folder.path()).expect("a listing").count(),
            0,
            "spill files have no name"
        );
        let (found, referenced, touched) = drain(sieve);
        let expected: BTreeSet<String> = (0..5_000)
            .filter(|n| n % 10 != 0 && n % 3 != 0)
            .map(|n| format!("d/{n}"))
            .collect();
        assert_eq!(found, expected);
        assert_eq!(referenced, 5_000_u64.div_ceil(3), "those that are not takeable count as well");
        let unreferenced = (0..5_000).filter(|number| number % 10 == 0 && number % 3 != 0).count();
        assert_eq!(touched, unreferenced as u64);
    }

    #[test]
    fn without_names_everything_takeable_comes_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut sieve = SpillSieve::open(folder.path()).expect("a sieve");
        for number in 0..100 {
            sieve.file(&file(&number.to_string()), standing(number >= 50)).expect("taken");
        }
        let (found, referenced, touched) = drain(sieve);
        assert_eq!((found.len(), referenced, touched), (50, 0, 50));
    }

    #[test]
    fn a_folder_that_takes_no_file_is_an_error() {
        let missing = Path::new("/proc/no-such-folder");
        assert!(matches!(SpillSieve::open(missing), Err(FilesError::Io { .. })));
    }
}
