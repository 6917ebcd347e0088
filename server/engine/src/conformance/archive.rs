//! What every archive must do.

use std::io::{Read as _, Write as _};

use crate::{
    model::RunId,
    port::{Archive, ArchiveError},
};

/// Runs the whole suite against an archive; runs of other ids in it are left alone.
///
/// # Panics
/// Where the archive does not do what the port promises.
pub fn suite(archive: &dyn Archive) {
    what_was_sealed_is_read_back(archive);
    large_files_come_back_whole(archive);
    unsealed_files_vanish(archive);
    a_leftover_is_replaced(archive);
    runs_are_kept_apart(archive);
    missing_files_are_told_apart(archive);
    removal_is_idempotent(archive);
    a_program_s_file_counts_once_it_is_published(archive);
    a_folder_goes_when_it_is_empty(archive);
}

fn write(archive: &dyn Archive, run: RunId, file: &str, bytes: &[u8]) {
    let mut chunk = archive.create(run, file).expect("a file can be begun");
    chunk.write_all(bytes).expect("it takes bytes");
    chunk.seal().expect("it can be sealed");
}

fn read(archive: &dyn Archive, run: RunId, file: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    archive
        .open(run, file)
        .expect("the file can be opened")
        .read_to_end(&mut bytes)
        .expect("it can be read");
    bytes
}

fn what_was_sealed_is_read_back(archive: &dyn Archive) {
    let run = RunId::new();
    assert_eq!(
        archive.list(run).expect("a list"),
        Vec::<String>::new(),
        "a new run has no files"
    );
    write(archive, run, "0001", b"one");
    write(archive, run, "0003", b"");
    write(archive, run, "0002", b"two");
    assert_eq!(
        archive.list(run).expect("a list"),
        ["0001", "0002", "0003"],
        "names come in order"
    );
    assert_eq!(read(archive, run, "0001"), b"one");
    assert_eq!(read(archive, run, "0002"), b"two");
    assert_eq!(read(archive, run, "0003"), b"");
}

fn large_files_come_back_whole(archive: &dyn Archive) {
    let run = RunId::new();
    let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut chunk = archive.create(run, "large").expect("a file can be begun");
    for part in bytes.chunks(7_777) {
        chunk.write_all(part).expect("it takes bytes");
    }
    chunk.flush().expect("it can be flushed");
    chunk.seal().expect("it can be sealed");
    assert!(read(archive, run, "large") == bytes, "every byte comes back");
}

fn unsealed_files_vanish(archive: &dyn Archive) {
    let run = RunId::new();
    write(archive, run, "kept", b"kept");
    let mut chunk = archive.create(run, "dropped").expect("a file can be begun");
    chunk.write_all(b"half").expect("it takes bytes");
    drop(chunk);
    assert!(
        matches!(archive.open(run, "dropped"), Err(ArchiveError::Missing { .. })),
        "what was not sealed cannot be read"
    );
    assert_eq!(archive.list(run).expect("a list"), ["kept"]);
}

fn a_leftover_is_replaced(archive: &dyn Archive) {
    let run = RunId::new();
    write(archive, run, "again", b"a long leftover of an earlier attempt");
    write(archive, run, "again", b"short");
    assert_eq!(read(archive, run, "again"), b"short");
    assert_eq!(archive.list(run).expect("a list"), ["again"]);
}

fn runs_are_kept_apart(archive: &dyn Archive) {
    let (one, other) = (RunId::new(), RunId::new());
    write(archive, one, "same", b"one");
    write(archive, other, "same", b"other");
    archive.remove(one, "same").expect("it can be removed");
    assert_eq!(read(archive, other, "same"), b"other");
    assert_eq!(archive.list(one).expect("a list"), Vec::<String>::new());
}

fn missing_files_are_told_apart(archive: &dyn Archive) {
    let Err(ArchiveError::Missing { file }) = archive.open(RunId::new(), "absent") else {
        panic!("a missing file must be told apart")
    };
    assert!(file.contains("absent"), "the error names the file: {file}");
}

fn removal_is_idempotent(archive: &dyn Archive) {
    let run = RunId::new();
    write(archive, run, "gone", b"x");
    for _ in 0..2 {
        archive.remove(run, "gone").expect("removing twice is no error");
    }
    assert!(matches!(archive.open(run, "gone"), Err(ArchiveError::Missing { .. })));
}

fn a_program_s_file_counts_once_it_is_published(archive: &dyn Archive) {
    let run = RunId::new();
    for content in [&b"the first, which is longer"[..], b"the second"] {
        let path = archive.staging(run, "dump").expect("a path");
        assert_eq!(std::fs::read(&path).expect("it is there"), b"", "it begins empty");
        std::fs::write(&path, content).expect("a program writes it");
    }
    assert!(
        matches!(archive.open(run, "dump"), Err(ArchiveError::Missing { .. })),
        "not yet"
    );
    assert!(
        matches!(archive.local(run, "dump"), Err(ArchiveError::Missing { .. })),
        "not yet"
    );
    archive.publish(run, "dump").expect("it is published");
    assert_eq!(read(archive, run, "dump"), b"the second");
    assert_eq!(archive.list(run).expect("a list"), ["dump"], "under its own name alone");
    let path = archive.local(run, "dump").expect("a path");
    assert_eq!(std::fs::read(path).expect("a program reads it"), b"the second");
}

fn a_folder_goes_when_it_is_empty(archive: &dyn Archive) {
    let run = RunId::new();
    archive.remove_folder(run).expect("one that is not there is no error");
    write(archive, run, "a", b"x");
    assert!(archive.remove_folder(run).is_err(), "a file is in it");
    archive.remove(run, "a").expect("removed");
    archive.remove_folder(run).expect("removed");
    write(archive, run, "a", b"y");
    assert_eq!(read(archive, run, "a"), b"y", "it can be made again");
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_archive_in_memory_conforms() {
        super::suite(&crate::testing::MemoryArchive::default());
    }
}
