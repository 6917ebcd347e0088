//! The machine that the server runs on, by what the kernel tells: `/proc`, the limits of the control group, and `statvfs`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use dbkeep_engine::port::{DiskNumbers, Machine, MachineNumbers, UnreadableFolder};

/// Limits of the control group that the process sees as its own; version 2.
const CGROUP: &str = "/sys/fs/cgroup";

/// This machine.
#[derive(Debug, Clone)]
pub struct LocalMachine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    host: String,
    folders: Mutex<Vec<PathBuf>>,
    /// Ticks of the processors at the measurement before.
    ticks: Mutex<Option<Ticks>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    all: u64,
}

impl LocalMachine {
    /// This machine, with the file systems of these folders.
    #[must_use]
    pub fn new(folders: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut folders: Vec<PathBuf> = folders.into_iter().collect();
        folders.sort();
        folders.dedup();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self {
            inner: Arc::new(Inner {
                host,
                folders: Mutex::new(folders),
                ticks: Mutex::new(None),
            }),
        }
    }
}

impl Inner {
    fn folders(&self) -> Vec<PathBuf> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn disks(&self) -> (Vec<DiskNumbers>, Vec<UnreadableFolder>) {
        let (mut disks, mut unreadable) = (Vec::new(), Vec::new());
        for folder in &self.folders() {
            match disk(folder) {
                Ok(found) => disks.push(found),
                Err(why) => unreadable.push(UnreadableFolder {
                    folder: folder.display().to_string(),
                    why: why.to_string(),
                }),
            }
        }
        (disks, unreadable)
    }

    fn cpu_fraction(&self) -> Option<f64> {
        let now = ticks_of(&fs::read_to_string("/proc/stat").ok()?)?;
        let mut known = self.ticks.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.replace(now)?;
        busy_between(before, now)
    }
}

fn busy_between(before: Ticks, now: Ticks) -> Option<f64> {
    let all = now.all.checked_sub(before.all).filter(|all| *all > 0)?;
    let busy = now.busy.saturating_sub(before.busy).min(all);
    Some(dbkeep_engine::share(busy, all))
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal; guests are in user.
fn ticks_of(stat: &str) -> Option<Ticks> {
    let line = stat.lines().find(|line| line.starts_with("cpu "))?;
    let numbers: Vec<u64> = line
        .split_ascii_whitespace()
        .skip(1)
        .take(8)
        .map_while(|number| number.parse().ok())
        .collect();
    let all = numbers.iter().sum();
    let idle = numbers.get(3)? + numbers.get(4).copied().unwrap_or(0);
    Some(Ticks { busy: all - idle, all })
}

/// Used and total, bytes.
fn memory_of(meminfo: &str, group: Option<GroupMemory>) -> Option<(u64, u64)> {
    let kib = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    let total = kib("MemTotal")? * 1_024;
    let available = kib("MemAvailable")? * 1_024;
    match group {
        Some(group) if group.most < total => Some((group.used, group.most)),
        _ => Some((total.saturating_sub(available), total)),
    }
}

#[derive(Debug, Clone, Copy)]
struct GroupMemory {
    used: u64,
    most: u64,
}

/// Memory of the control group, where it has a limit. What its files are cached in is given back at once.
fn group_memory(group: &Path) -> Option<GroupMemory> {
    let number = |file: &str| -> Option<u64> { fs::read_to_string(group.join(file)).ok()?.trim().parse().ok() };
    let most = number("memory.max")?;
    let current = number("memory.current")?;
    let stat = fs::read_to_string(group.join("memory.stat")).ok()?;
    let cached = stat
        .lines()
        .find_map(|line| line.strip_prefix("inactive_file "))
        .and_then(|number| number.trim().parse::<u64>().ok())
        .unwrap_or(0);
    Some(GroupMemory {
        used: current.saturating_sub(cached),
        most,
    })
}

fn disk(folder: &Path) -> std::io::Result<DiskNumbers> {
    let found = rustix::fs::statvfs(folder)?;
    let device = rustix::fs::stat(folder)?.st_dev;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(DiskNumbers {
        folder: folder.display().to_string(),
        device,
        used_bytes: bytes(found.f_blocks.saturating_sub(found.f_bfree)),
        free_bytes: bytes(found.f_bavail),
        total_bytes: bytes(found.f_blocks),
    })
}

#[async_trait]
impl Machine for LocalMachine {
    fn host(&self) -> &str {
        &self.inner.host
    }

    fn watch(&self, folder: &str) {
        let mut folders = self.inner.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(place) = folders.binary_search(&PathBuf::from(folder)) {
            folders.insert(place, PathBuf::from(folder));
        }
    }

    async fn disks(&self) -> Vec<DiskNumbers> {
        let inner = Arc::clone(&self.inner);
        // A file system behind a network may take its time.
        let found = tokio::task::spawn_blocking(move || inner.disks()).await;
        found.map(|(disks, _)| disks).unwrap_or_default()
    }

    async fn measure(&self) -> MachineNumbers {
        let inner = Arc::clone(&self.inner);
        let measured = tokio::task::spawn_blocking(move || {
            let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
            let memory = memory_of(&meminfo, group_memory(Path::new(CGROUP)));
            let (disks, unreadable) = inner.disks();
            MachineNumbers {
                cpu_fraction: inner.cpu_fraction(),
                memory_used_bytes: memory.map(|(used, _)| used),
                memory_total_bytes: memory.map(|(_, total)| total),
                disks,
                unreadable,
            }
        });
        match measured.await {
            Ok(measured) => measured,
            Err(error) => {
                tracing::error!(%error, "the machine could not be measured");
                let folders = self.inner.folders();
                let folders = folders.iter().map(|folder| UnreadableFolder {
                    folder: folder.display().to_string(),
                    why: "it could not be looked at".to_owned(),
                });
                MachineNumbers {
                    unreadable: folders.collect(),
                    ..MachineNumbers::default()
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_ticks_are_all_but_idle_and_waiting() {
        let before = ticks_of("cpu  10 0 10 70 10 0 0 0 5 0\ncpu0 1 2 3 4\n").expect("a line");
        assert_eq!(before, Ticks { busy: 20, all: 100 });
        let now = ticks_of("cpu  60 0 10 120 10 0 0 0 5 0\n").expect("a line");
        assert_eq!(busy_between(before, now), Some(0.5));
        assert_eq!(busy_between(now, now), None, "no time has passed");
        assert_eq!(busy_between(now, before), None, "the counters began anew");
        assert_eq!(ticks_of("intr 5\n"), None);
    }

    #[test]
    fn the_limit_of_the_group_counts_where_it_is_lower() {
        let meminfo = "MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    400 kB\n";
        assert_eq!(memory_of(meminfo, None), Some((600 * 1_024, 1_000 * 1_024)));
        let group = |most| Some(GroupMemory { used: 7, most });
        assert_eq!(memory_of(meminfo, group(500)), Some((7, 500)));
        assert_eq!(memory_of(meminfo, group(u64::MAX)), Some((600 * 1_024, 1_000 * 1_024)));
        assert_eq!(memory_of("", None), None);
        let folder = tempfile::tempdir().expect("a folder");
        for (file, text) in [
            ("memory.max", "max\n"),
            ("memory.current", "9\n"),
            ("memory.stat", "inactive_file 4\n"),
        ] {
            fs::write(folder.path().join(file), text).expect("a file");
        }
        assert!(group_memory(folder.path()).is_none(), "no limit");
        fs::write(folder.path().join("memory.max"), "100\n").expect("a file");
        let group = group_memory(folder.path()).expect("a limit");
        assert_eq!((group.used, group.most), (5, 100));
    }

    #[tokio::test]
    async fn this_machine_has_numbers() {
        let folder = tempfile::tempdir().expect("a folder");
        let machine = LocalMachine::new([
            folder.path().to_owned(),
            folder.path().to_owned(),
            PathBuf::from("/no/such/folder"),
        ]);
        let numbers = machine.measure().await;
        assert_eq!(numbers.disks.len(), 1, "{numbers:?}");
        let unreadable: Vec<&str> = numbers.unreadable.iter().map(|folder| folder.folder.as_str()).collect();
        assert_eq!(unreadable, ["/no/such/folder"]);
        assert!(numbers.unreadable[0].why.contains("No such file"), "{numbers:?}");
        let disk = &numbers.disks[0];
        assert!(
            disk.total_bytes >= disk.used_bytes && (0.0..=1.0).contains(&disk.used_fraction()),
            "{disk:?}"
        );
        assert!(numbers.memory_used_bytes <= numbers.memory_total_bytes, "{numbers:?}");
        assert!(!machine.host().is_empty());
        let later = tempfile::tempdir().expect("a folder");
        let found = later.path().display().to_string();
        machine.watch(&found);
        machine.watch(&found);
        let folders: Vec<String> = machine.disks().await.into_iter().map(|disk| disk.folder).collect();
        assert_eq!((folders.len(), folders.contains(&found)), (2, true), "{folders:?}");
    }
}
