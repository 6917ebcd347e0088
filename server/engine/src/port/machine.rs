//! The machine that a server runs on.

use std::fmt;

use async_trait::async_trait;

/// Numbers of a machine. What cannot be read is `None`, and the system has no say in whether monitoring goes on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MachineNumbers {
    /// Part of the processors that was busy since the measurement before; `None` at the first one.
    pub cpu_fraction: Option<f64>,
    /// Memory in use, without what the system would give back at once, bytes.
    pub memory_used_bytes: Option<u64>,
    /// Memory that this server may use: the machine's, or the limit of its control group, bytes.
    pub memory_total_bytes: Option<u64>,
    /// The file systems of the folders that dbkeep or a target writes to.
    pub disks: Vec<DiskNumbers>,
    /// Those of these folders of which nothing could be found out.
    pub unreadable: Vec<UnreadableFolder>,
}

/// A folder whose file system could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableFolder {
    /// The folder.
    pub folder: String,
    /// Why.
    pub why: String,
}

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskNumbers {
    /// A folder that it holds.
    pub folder: String,
    /// Number by which the system tells file systems apart.
    pub device: u64,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes that a process without privileges can still write.
    pub free_bytes: u64,
    /// Its size, bytes.
    pub total_bytes: u64,
}

impl DiskNumbers {
    /// Part in use, as far as a process without privileges may fill it. What is kept for root counts as full.
    #[must_use]
    pub fn used_fraction(&self) -> f64 {
        let whole = self.used_bytes.saturating_add(self.free_bytes);
        crate::run::as_f64(self.used_bytes) / crate::run::as_f64(whole.max(1))
    }
}

/// Measures the machine.
#[async_trait]
pub trait Machine: fmt::Debug + Send + Sync {
    /// Its name, as servers that share a store tell each other apart.
    fn host(&self) -> &str;

    /// Looks at the file system of this folder as well, from now on: that of a database which turned out to run on this machine.
    fn watch(&self, _folder: &str) {}

    /// The file systems alone.
    async fn disks(&self) -> Vec<DiskNumbers>;

    /// Measures everything now.
    async fn measure(&self) -> MachineNumbers;
}
