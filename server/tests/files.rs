//! The adapter of the file port on a real file system: what a walk meets, what a batch moves, what an undo brings back, and what
//! happens when somebody else changes the tree meanwhile. Ends by kill -9 are in `kill_files.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::{self, File},
    ops::ControlFlow,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime},
};

use dbkeep_engine::{
    model::{FileEntry, FilePath, RunId},
    port::{FileRoot, FilesError, PutBack, Taken, TrashTotals, Trashed, TrashedFile},
};
use dbkeep_server::files::{FolderRoot, unfit};

struct World {
    place: tempfile::TempDir,
    root: FolderRoot,
}

impl World {
    fn new() -> Self {
        let place = tempfile::tempdir().expect("a folder");
        fs::create_dir(place.path().join("root")).expect("a root");
        let root = FolderRoot::open(place.path().join("root"), place.path().join("spill")).expect("a root");
        Self { place, root }
    }

    fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.place.path().join("root").join(name.as_ref())
    }

    fn file(&self, name: impl AsRef<OsStr>, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(&path, content).expect("a file");
        age(&path);
    }

    fn list(&self) -> BTreeMap<String, FileEntry> {
        let mut found = BTreeMap::new();
        self.root
            .list(&mut |file| {
                found.insert(file.path.to_string(), file);
                Ok(ControlFlow::Continue(()))
            })
            .expect("a listing");
        found
    }

    fn entries(&self) -> Vec<FileEntry> {
        self.list().into_values().collect()
    }

    /// Everything beneath the root but its trash: kind, mode, time and content.
    fn tree(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        look(&self.path(""), Path::new(""), &mut found);
        found
    }

    fn clean(&self, run: RunId, files: &[FileEntry]) -> (Taken, TrashTotals) {
        let mut trash = self.root.trash(run, 0, 1).expect("a trash");
        let taken = trash.take(files).expect("taken");
        (taken, trash.seal().expect("sealed"))
    }

    fn undo(&self, run: RunId) -> Vec<PutBack> {
        let mut trashed = self.root.trashed(run, 0).expect("a trash");
        let files = all(trashed.as_mut());
        trashed.restore(&files, RunId::new()).expect("an undo")
    }

    fn problems(&self, run: RunId) -> (Vec<String>, u64) {
        let mut trashed = self.root.trashed(run, 0).expect("a trash");
        let files = all(trashed.as_mut());
        let problems = trashed.check(&files).expect("an answer").into_iter().flatten().collect();
        (problems, trashed.unnamed().expect("a count"))
    }
}

/// An old, odd time with nanoseconds.
fn age(path: &Path) {
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    File::options()
        .append(true)
        .open(path)
        .and_then(|file| file.set_modified(old))
        .expect("a time");
}

fn look(folder: &Path, name: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(folder.join(name)).expect("a folder") {
        let below = name.join(entry.expect("an entry").file_name());
        if below == Path::new(".dbkeep-trash") {
            continue;
        }
        let path = folder.join(&below);
        let stat = fs::symlink_metadata(&path).expect("there");
        let content = if stat.is_file() {
            fs::read(&path).expect("content")
        } else {
            Vec::new()
        };
        let time = if stat.is_file() {
            (stat.mtime(), stat.mtime_nsec())
        } else {
            (0, 0)
        };
        found.insert(below.clone(), format!("{:o} {time:?} {}", stat.mode(), hex::encode(content)));
        if stat.is_dir() {
            look(folder, &below, found);
        }
    }
}

fn all(trashed: &mut dyn Trashed) -> Vec<TrashedFile> {
    let mut files = Vec::new();
    loop {
        let some = trashed.next(3).expect("files");
        if some.is_empty() {
            return files;
        }
        files.extend(some);
    }
}

fn names(files: &[FileEntry]) -> BTreeSet<String> {
    files.iter().map(|file| file.path.to_string()).collect()
}

#[test]
fn a_root_is_an_absolute_folder_and_no_link() {
    let place = tempfile::tempdir().expect("a folder");
    let at = |name: &str| place.path().join(name);
    fs::write(at("file"), "").expect("a file");
    fs::create_dir(at("folder")).expect("a folder");
    symlink(at("folder"), at("link")).expect("a link");
    assert_eq!(unfit(&at("folder")), None);
    for (path, problem) in [
        (PathBuf::from("/"), "whole system"),
        (PathBuf::from("relative"), "is relative"),
        (at("folder/.."), "\"..\""),
        (at("file"), "is no folder"),
        (at("link"), "is a link"),
        (at("missing"), "No such file"),
    ] {
        let said = unfit(&path).expect("must be refused");
        assert!(
            said.contains(problem) && said.contains("expected the absolute path"),
            "{said}"
        );
        assert!(matches!(
            FolderRoot::open(&path, at("spill")),
            Err(FilesError::Unusable { .. })
        ));
    }
}

#[test]
fn a_walk_finds_regular_files_whatever_their_names_and_follows_nothing() {
    let world = World::new();
    let outside = world.place.path().join("outside");
    fs::create_dir(&outside).expect("a folder");
    fs::write(outside.join("precious"), "x").expect("a file");
    for name in [
        "a",
        "d/e/f/g",
        ".hidden",
        "\u{e9}t\u{e9}/\u{65e5}\u{672c}",
        "with space",
        "new\nline",
        "back\\slash",
        "-rf",
    ] {
        world.file(name, "x");
    }
    world.file(OsStr::from_bytes(b"raw\xff\xfe/\x80"), "x");
    symlink(&outside, world.path("folder-link")).expect("a link");
    symlink(outside.join("precious"), world.path("file-link")).expect("a link");
    symlink("nowhere", world.path("dangling")).expect("a link");
    symlink("..", world.path("d/up")).expect("a link");
    let _socket = UnixListener::bind(world.path("socket")).expect("a socket");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        world.path("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .expect("a pipe");
    assert!(fs::symlink_metadata(world.path("pipe")).expect("there").file_type().is_fifo());
    fs::create_dir_all(world.path("d/.dbkeep-trash")).expect("a folder");
    world.file("d/.dbkeep-trash/old", "x");
    let found: Vec<String> = world.list().into_keys().collect();
    let mut expected = [
        "a",
        "d/e/f/g",
        ".hidden",
        "\u{e9}t\u{e9}/\u{65e5}\u{672c}",
        "with space",
        "new\\x0aline",
        "back\\\\slash",
        "-rf",
        "raw\\xff\\xfe/\\x80",
    ];
    expected.sort_unstable();
    assert_eq!(found, expected);

    let before = world.tree();
    let run = RunId::new();
    let (taken, totals) = world.clean(run, &world.entries());
    assert_eq!((taken.moved.len(), taken.left.len(), totals.files), (9, 0, 9));
    assert_eq!(world.list().len(), 0);
    for stays in ["folder-link", "file-link", "dangling", "socket", "pipe", "d/up", "d/e/f"] {
        assert!(fs::symlink_metadata(world.path(stays)).is_ok(), "{stays} stays");
    }
    assert_eq!(fs::read(outside.join("precious")).expect("there"), b"x");
    assert!(world.undo(run).iter().all(|outcome| *outcome == PutBack::Done));
    assert_eq!(world.tree(), before, "undone to the last bit");
}

#[test]
fn other_mounts_and_unreadable_folders_are_told_and_left() {
    let world = World::new();
    world.file("a", "x");
    world.file("m/b", "x");
    let mount = world.path("m");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "none"])
        .arg(&mount)
        .status();
    if mounted.is_ok_and(|status| status.success()) {
        fs::write(mount.join("c"), "x").expect("a file");
        let mut found = Vec::new();
        let walked = world.root.list(&mut |file| {
            found.push(file);
            Ok(ControlFlow::Continue(()))
        });
        std::process::Command::new("umount").arg(&mount).status().expect("unmounted");
        let walked = walked.expect("a listing");
        assert_eq!((walked.mounts, names(&found)), (1, BTreeSet::from(["a".to_owned()])));
    } else {
        println!("this user may not mount; the other mount was not tried");
    }
    if !rustix::process::geteuid().is_root() {
        fs::set_permissions(&mount, fs::Permissions::from_mode(0o000)).expect("closed");
        let walked = world.root.list(&mut |_| Ok(ControlFlow::Continue(()))).expect("a listing");
        fs::set_permissions(&mount, fs::Permissions::from_mode(0o700)).expect("opened");
        assert_eq!((walked.files, walked.unreadable), (1, 1));
        assert!(walked.unreadable_example.expect("one").starts_with("m: "));
    }
}

#[test]
fn a_file_that_is_not_as_listed_stays() {
    let world = World::new();
    for name in [
        "grown",
        "rewritten",
        "replaced",
        "linked",
        "gone",
        "turned",
        "moved/away",
        "same",
    ] {
        world.file(name, "12345");
    }
    let listed = world.entries();
    fs::write(world.path("grown"), "123456").expect("written");
    fs::write(world.path("rewritten"), "54321").expect("written");
    // As old as before: only the time of change tells.
    age(&world.path("rewritten"));
    world.file("new", "12345");
    fs::rename(world.path("new"), world.path("replaced")).expect("replaced");
    fs::remove_file(world.path("linked")).expect("removed");
    symlink("same", world.path("linked")).expect("a link");
    fs::remove_file(world.path("gone")).expect("removed");
    fs::remove_file(world.path("turned")).expect("removed");
    fs::create_dir(world.path("turned")).expect("a folder");
    fs::rename(world.path("moved"), world.path("elsewhere")).expect("moved");
    let (taken, totals) = world.clean(RunId::new(), &listed);
    assert_eq!(names(&taken.moved), BTreeSet::from(["same".to_owned()]));
    assert_eq!((taken.left.len(), totals.files, totals.bytes), (7, 1, 5));
    let vanished: BTreeSet<String> = taken
        .left
        .iter()
        .filter(|left| left.vanished)
        .map(|left| left.path.to_string())
        .collect();
    assert_eq!(vanished, BTreeSet::from(["gone".to_owned(), "moved/away".to_owned()]));
    for (name, content) in [
        ("grown", "123456"),
        ("rewritten", "54321"),
        ("replaced", "12345"),
        ("elsewhere/away", "12345"),
    ] {
        assert_eq!(fs::read_to_string(world.path(name)).expect(name), content);
    }
}

#[test]
fn what_is_referred_to_meanwhile_goes_back() {
    let world = World::new();
    for name in ["d/a", "d/b", "c"] {
        world.file(name, name);
    }
    let before = world.tree();
    let run = RunId::new();
    let mut trash = world.root.trash(run, 0, 1).expect("a trash");
    let listed = world.entries();
    assert_eq!(trash.take(&listed).expect("taken").moved.len(), 3);
    fs::remove_dir(world.path("d")).expect("an empty folder");
    // Somebody has put a new file under one of the names: it is what the reference means now.
    world.file("c", "new");
    let wanted = ["d/a", "c"].map(|name| FilePath::new(name).expect("a name"));
    assert_eq!(trash.put_back(&wanted).expect("put back"), 1);
    assert_eq!(trash.seal().expect("sealed").files, 2);
    assert_eq!(fs::read_to_string(world.path("d/a")).expect("there"), "d/a");
    assert_eq!(fs::read_to_string(world.path("c")).expect("there"), "new");
    assert_eq!(world.problems(run), (Vec::new(), 0));
    fs::remove_file(world.path("c")).expect("removed");
    assert_eq!(world.undo(run), [PutBack::Done, PutBack::Done]);
    assert_eq!(world.tree(), before);
}

#[test]
fn an_undo_reports_conflicts_and_can_be_repeated() {
    let world = World::new();
    for name in ["a", "b", "d/c", "e/f"] {
        world.file(name, name);
    }
    let run = RunId::new();
    world.clean(run, &world.entries());
    fs::write(world.path("a"), "taken").expect("written");
    fs::remove_dir(world.path("d")).expect("removed");
    symlink(world.place.path(), world.path("d")).expect("a link");
    let outcomes = world.undo(run);
    assert!(
        matches!(&outcomes[0], PutBack::Conflict(why) if why.contains("has its name")),
        "{outcomes:?}"
    );
    assert_eq!(outcomes[1], PutBack::Done);
    assert!(matches!(&outcomes[2], PutBack::Conflict(_)), "{outcomes:?}");
    assert_eq!(outcomes[3], PutBack::Done);
    assert_eq!(fs::read_to_string(world.path("a")).expect("there"), "taken");
    assert!(!world.place.path().join("c").exists(), "nothing went through the link");
    assert_eq!(world.problems(run), (Vec::new(), 0));
    fs::remove_file(world.path("a")).expect("removed");
    fs::remove_file(world.path("d")).expect("removed");
    assert!(world.undo(run).iter().all(|outcome| *outcome == PutBack::Done));
    assert!(
        world.undo(run).iter().all(|outcome| *outcome == PutBack::Done),
        "a second time changes nothing"
    );
    assert_eq!(world.list().len(), 4);
}

#[test]
fn damage_in_the_trash_is_found() {
    let world = World::new();
    for name in ["a", "b", "c", "d"] {
        world.file(name, "12345");
    }
    let run = RunId::new();
    world.clean(run, &world.entries());
    let batch = world.path(format!(".dbkeep-trash/{run}/0/1"));
    assert_eq!(
        fs::metadata(world.path(".dbkeep-trash"))
            .expect("a trash")
            .permissions()
            .mode()
            & 0o777,
        0o700
    );
    fs::remove_file(batch.join("1")).expect("removed");
    fs::write(batch.join("2"), "1234").expect("cut");
    fs::write(batch.join("3"), "54321").expect("rewritten");
    fs::write(batch.join("77"), "").expect("added");
    fs::write(batch.join("../stray"), "").expect("added");
    let (problems, unnamed) = world.problems(run);
    assert_eq!((problems.len(), unnamed), (3, 2), "{problems:?}");
    let outcomes = world.undo(run);
    assert_eq!(
        outcomes
            .iter()
            .filter(|outcome| matches!(outcome, PutBack::Damaged(_)))
            .count(),
        3
    );
    assert_eq!(outcomes[3], PutBack::Done);
}

#[test]
fn a_newer_attempt_shuts_an_older_one_out() {
    let world = World::new();
    for name in ["a", "b", "c", "d"] {
        world.file(name, name);
    }
    let run = RunId::new();
    let listed = world.entries();
    let mut older = world.root.trash(run, 0, 1).expect("a trash");
    older.take(&listed[..1]).expect("taken");
    older.seal().expect("sealed");
    let mut newer = world.root.trash(run, 0, 2).expect("a trash");
    assert_eq!(newer.totals().files, 1);
    assert!(matches!(older.take(&listed[1..2]), Err(FilesError::Fenced { .. })));
    newer.take(&listed[1..2]).expect("taken");
    // In the midst of a batch nobody else is let in.
    let began = Instant::now();
    assert!(matches!(world.root.trash(run, 0, 3), Err(FilesError::Busy { .. })));
    assert!(began.elapsed() >= Duration::from_secs(5), "it was waited for");
    assert!(matches!(world.root.prune(run), Err(FilesError::Busy { .. })));
    newer.seal().expect("sealed");
    assert!(matches!(world.root.trash(run, 0, 1), Err(FilesError::Fenced { .. })));
    assert_eq!(world.list().len(), 2);
}

/// An attempt that was cut off between its moves and the seal: the next one finds each file, wherever it is.
#[test]
fn an_unsealed_batch_is_settled() {
    let world = World::new();
    for name in ["a", "b", "c"] {
        world.file(name, name);
    }
    let before = world.tree();
    let run = RunId::new();
    let mut first = world.root.trash(run, 0, 1).expect("a trash");
    first.take(&world.entries()).expect("taken");
    drop(first);
    // One of the moves never reached the disk.
    fs::rename(world.path(format!(".dbkeep-trash/{run}/0/1/2")), world.path("b")).expect("moved");
    let mut second = world.root.trash(run, 0, 2).expect("a trash");
    assert_eq!(names(&second.unsealed()), BTreeSet::from(["a".to_owned(), "c".to_owned()]));
    assert_eq!(second.put_back(&[FilePath::new("c").expect("a name")]).expect("back"), 1);
    assert_eq!(
        second.seal().expect("sealed"),
        TrashTotals {
            batches: 1,
            files: 1,
            bytes: 1
        }
    );
    let left = world.entries();
    assert_eq!(names(&left), BTreeSet::from(["b".to_owned(), "c".to_owned()]));
    second.take(&left).expect("taken");
    assert_eq!(
        second.seal().expect("sealed"),
        TrashTotals {
            batches: 2,
            files: 3,
            bytes: 3
        }
    );
    assert_eq!(world.problems(run), (Vec::new(), 0));
    assert!(world.undo(run).iter().all(|outcome| *outcome == PutBack::Done));
    assert_eq!(world.tree(), before);
}

/// A batch that cannot be sealed is taken back: the manifest forgets it, whichever attempt began it, and the next one goes as ever.
#[test]
fn a_batch_is_taken_back() {
    let world = World::new();
    for name in ["a", "b", "d/c", "d/e"] {
        world.file(name, name);
    }
    let before = world.tree();
    let run = RunId::new();
    let listed = world.entries();
    let mut first = world.root.trash(run, 0, 1).expect("a trash");
    first.take(&listed[..1]).expect("taken");
    let sealed = first.seal().expect("sealed");
    let manifest = || fs::read_to_string(world.path(format!(".dbkeep-trash/{run}/0/manifest"))).expect("text");
    let text = manifest();
    first.take(&listed[1..]).expect("taken");
    assert_eq!(first.retract().expect("taken back"), sealed);
    assert_eq!(manifest(), text);
    assert_eq!(world.list().len(), 3);

    // Begun by an attempt that ended: the later one stays in charge.
    let listed = world.entries();
    first.take(&listed).expect("taken");
    drop(first);
    let mut older = world.root.trash(run, 0, 1).expect("a trash");
    assert_eq!(older.unsealed().len(), 3);
    older.seal().expect("sealed");
    let mut older = world.root.trash(run, 1, 1).expect("a trash");
    assert_eq!(older.retract().expect("nothing is open"), TrashTotals::default());
    world.undo(run);
    assert_eq!(world.tree(), before);

    let run = RunId::new();
    let listed = world.entries();
    let mut older = world.root.trash(run, 0, 1).expect("a trash");
    older.take(&listed[..1]).expect("taken");
    older.seal().expect("sealed");
    let mut cut_off = world.root.trash(run, 0, 1).expect("a trash");
    cut_off.take(&listed[1..]).expect("taken");
    drop(cut_off);
    let mut newer = world.root.trash(run, 0, 2).expect("a trash");
    newer.retract().expect("taken back");
    assert!(matches!(older.take(&listed[1..]), Err(FilesError::Fenced { .. })));
    // Their time of change tells of both moves.
    newer.take(&world.entries()).expect("taken");
    assert_eq!(newer.seal().expect("sealed").files, 4);
    assert_eq!(world.problems(run), (Vec::new(), 0));
    assert!(world.undo(run).iter().all(|outcome| *outcome == PutBack::Done));
    assert_eq!(world.tree(), before);

    // A file whose name is taken cannot go back, and the batch stays open.
    let run = RunId::new();
    let mut trash = world.root.trash(run, 0, 1).expect("a trash");
    trash.take(&world.entries()).expect("taken");
    world.file("b", "new");
    assert!(matches!(trash.retract(), Err(FilesError::Stranded { .. })));
    drop(trash);
    let mut trash = world.root.trash(run, 0, 1).expect("a trash");
    assert_eq!(trash.seal().expect("sealed").files, 3);
    fs::remove_file(world.path("b")).expect("removed");
    world.undo(run);
    assert_eq!(world.tree(), before);
}

#[test]
fn a_trash_is_measured_and_pruned() {
    let world = World::new();
    let (first, second) = (RunId::new(), RunId::new());
    world.file("a", "12345");
    world.file("d/b", "1");
    world.clean(first, &world.entries());
    world.file("c", "12");
    world.clean(second, &world.entries());
    let usage = world.root.usage().expect("a list");
    let found: Vec<_> = usage.iter().map(|usage| (usage.run, usage.files, usage.bytes)).collect();
    assert_eq!(found, [(first, 2, 6), (second, 1, 2)]);
    let precious = world.place.path().join("precious");
    fs::write(&precious, "x").expect("a file");
    symlink(&precious, world.path(format!(".dbkeep-trash/{first}/0/1/9"))).expect("a link");
    symlink(world.place.path(), world.path(format!(".dbkeep-trash/{first}/0/link"))).expect("a link");
    world.root.prune(first).expect("pruned");
    assert!(precious.exists(), "links are unlinked, not followed");
    assert_eq!(world.root.usage().expect("a list").len(), 1);
    assert_eq!(world.root.prune(first).expect("nothing left to prune").files, 0);
    assert!(world.undo(first).is_empty());
    assert_eq!(world.undo(second), [PutBack::Done]);
}

/// A trash that somebody has made a link of is not written to.
#[test]
fn a_trash_that_is_a_link_is_refused() {
    let world = World::new();
    world.file("a", "x");
    let outside = world.place.path().join("outside");
    fs::create_dir(&outside).expect("a folder");
    symlink(&outside, world.path(".dbkeep-trash")).expect("a link");
    let refused = world
        .root
        .trash(RunId::new(), 0, 1)
        .and_then(|mut trash| trash.take(&world.entries()));
    assert!(matches!(refused, Err(FilesError::Io { .. })), "{refused:?}");
    assert_eq!(
        (world.list().len(), fs::read_dir(&outside).expect("a folder").count()),
        (1, 0)
    );
}

/// Whatever changes a file after the call is seen to be later.
#[test]
fn the_present_lies_between_two_changes() {
    let world = World::new();
    for _ in 0..20 {
        world.file("before", "x");
        let now = dbkeep_engine::model::nanoseconds(world.root.now());
        world.file("after", "x");
        let list = world.list();
        assert!(list["before"].changed <= now, "{} {now}", list["before"].changed);
        assert!(list["after"].changed > now, "{} {now}", list["after"].changed);
    }
}

/// A thread swaps a folder for a link to one outside, as fast as it can, while files are listed and moved: nothing outside
/// vanishes, whatever the listing saw. `DBKEEP_RACE_SECONDS=60` makes it a minute.
#[test]
fn swapping_a_folder_for_a_link_leads_nobody_out() {
    let seconds = std::env::var("DBKEEP_RACE_SECONDS").map_or(3, |text| text.parse().expect("a number of seconds"));
    let world = World::new();
    let outside = world.place.path().join("outside");
    fs::create_dir(&outside).expect("a folder");
    for number in 0..20 {
        fs::write(outside.join(number.to_string()), "precious").expect("a file");
        age(&outside.join(number.to_string()));
    }
    let (inside, aside, link) = (world.path("swapped"), world.path("aside"), world.path("link"));
    symlink(&outside, &link).expect("a link");
    let fill = |folder: &Path| {
        for number in 0..20 {
            let path = folder.join(number.to_string());
            if !path.exists() {
                fs::write(&path, "temporary").expect("a file");
                age(&path);
            }
        }
    };
    fs::create_dir(&inside).expect("a folder");
    fill(&inside);
    let stop = AtomicBool::new(false);
    let (mut rounds, mut moved) = (0_u64, 0);
    let until = Instant::now() + Duration::from_secs(seconds);
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let mut swaps = 0_u64;
            // Also where the other thread has failed meanwhile.
            while !stop.load(Ordering::Relaxed) && Instant::now() < until + Duration::from_secs(1) {
                fs::rename(&inside, &aside).expect("aside");
                fs::rename(&link, &inside).expect("a link in its place");
                fs::rename(&inside, &link).expect("the link away");
                fs::rename(&aside, &inside).expect("back");
                swaps += 1;
            }
            swaps
        });
        while Instant::now() < until {
            let (taken, _) = world.clean(RunId::new(), &world.entries());
            for file in &taken.moved {
                assert_ne!(file.size, 8, "a file from outside was taken: {}", file.path);
            }
            moved += taken.moved.len();
            rounds += 1;
            // Only where the folder is in its place just now; the race over that is part of the game.
            if let Ok(folder) = fs::symlink_metadata(&inside)
                && folder.is_dir()
            {
                for number in 0..20 {
                    let _ = File::options()
                        .create_new(true)
                        .write(true)
                        .open(inside.join(number.to_string()));
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        println!(
            "{} swaps, {rounds} rounds, {moved} files moved",
            swapper.join().expect("the swapper ends")
        );
    });
    assert!(moved > 0, "something was moved");
    for number in 0..20 {
        let path = outside.join(number.to_string());
        assert_eq!(
            fs::read_to_string(&path).expect("nothing outside vanishes"),
            "precious",
            "{}",
            path.display()
        );
    }
    assert_eq!(fs::read_dir(&outside).expect("a folder").count(), 20);
}
