//! What a node might leave behind, found and removed.
//!
//! A node's keeper cleans up itself (see [`super::cage`]); this is for the one that was killed, and for tests that want
//! proof. Only processes with a recorded id and start time are ended, only things with a recorded name are removed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::cgroups;

/// Where the records of running nodes are.
const RECORDS: &str = "/run/kaito-tests";

/// A process that cannot be mistaken for a later one with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Process {
    pid: i32,
    /// Since the machine's start, in clock ticks.
    started: u64,
}

impl Process {
    fn find(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let started = start_time(&text)?;
        Some(Self { pid, started })
    }

    fn runs(self) -> bool {
        Self::find(self.pid) == Some(self)
    }
}

/// Field 22 of `/proc/PID/stat`; the second one, the program's name, may hold blanks and parentheses.
fn start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// What a keeper writes down before it makes anything.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    name: String,
    folder: PathBuf,
    keeper: Process,
    first: Option<Process>,
}

impl Record {
    /// Records this process as the keeper of a node.
    pub(super) fn write(name: &str, folder: &Path) -> io::Result<Self> {
        let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
        let keeper = Process::find(pid).ok_or_else(|| io::Error::other("/proc is not readable"))?;
        let record = Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            keeper,
            first: None,
        };
        fs::create_dir_all(RECORDS)?;
        record.save()?;
        Ok(record)
    }

    /// Adds the first process of the cage.
    pub(super) fn add_first(&mut self, pid: u32) -> io::Result<()> {
        self.first = Process::find(i32::try_from(pid).map_err(io::Error::other)?);
        self.save()
    }

    /// Removes the record: nothing is left.
    pub(super) fn remove(&self) -> io::Result<()> {
        fs::remove_file(self.path())
    }

    fn save(&self) -> io::Result<()> {
        fs::write(self.path(), serde_json::to_vec(self)?)
    }

    fn path(&self) -> PathBuf {
        Path::new(RECORDS).join(format!("{}.json", self.name))
    }
}

/// Ends and removes what nodes of dead keepers have left. Nodes that run are not touched.
///
/// # Errors
/// The system's, for the first thing that cannot be removed.
pub fn sweep() -> io::Result<()> {
    for entry in fs::read_dir(RECORDS).into_iter().flatten().flatten() {
        let text = fs::read(entry.path())?;
        // A keeper that was killed while it wrote its record has not made anything yet.
        let Ok(record) = serde_json::from_slice::<Record>(&text) else {
            fs::remove_file(entry.path())?;
            continue;
        };
        if !record.keeper.runs() {
            sweep_one(&record)?;
        }
    }
    Ok(())
}

fn sweep_one(record: &Record) -> io::Result<()> {
    if let Some(first) = record.first.filter(|first| first.runs()) {
        // It may have ended since.
        let _ = kill(Pid::from_raw(first.pid), Signal::SIGKILL);
    }
    cgroups::remove(&record.name)?;
    match fs::remove_dir_all(&record.folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    record.remove()
}

/// What a node's traces can be told by.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Name of its control group.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Inode of its network namespace.
    pub network: u64,
}

/// What of a node is still there.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// Processes that name its folder, are in its control group or in its network: id and command line.
    pub processes: Vec<(i32, String)>,
    /// Mount points below its folder.
    pub mounts: Vec<String>,
    /// Its control groups.
    pub groups: Vec<PathBuf>,
    /// Its folder and its record.
    pub files: Vec<PathBuf>,
}

impl Identity {
    /// Looks for traces. The calling process itself does not count.
    ///
    /// # Errors
    /// The system's, if `/proc` or a file of it cannot be read.
    pub fn traces(&self) -> io::Result<Traces> {
        let record = Path::new(RECORDS).join(format!("{}.json", self.name));
        let files = [self.folder.clone(), record];
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let folder = self.folder.display().to_string();
        Ok(Traces {
            processes: self.processes()?,
            mounts: mounts
                .lines()
                .filter(|line| line.contains(&folder))
                .map(str::to_owned)
                .collect(),
            groups: cgroups::find(&self.name)?,
            files: files.into_iter().filter(|path| path.exists()).collect(),
        })
    }

    fn processes(&self) -> io::Result<Vec<(i32, String)>> {
        let mut found = Vec::new();
        let own = std::process::id().to_string();
        for entry in fs::read_dir("/proc")?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(pid) = name.parse() else { continue };
            if name != own && self.is_of_node(&entry.path()) {
                found.push((pid, command_line(&entry.path())));
            }
        }
        Ok(found)
    }

    fn is_of_node(&self, process: &Path) -> bool {
        let groups = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
        let network = fs::metadata(process.join("ns/net")).map(|network| network.ino());
        groups.contains(&self.name)
            || network.is_ok_and(|network| network == self.network)
            || command_line(process).contains(&self.folder.display().to_string())
    }
}

fn command_line(process: &Path) -> String {
    let bytes = fs::read(process.join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

#[cfg(test)]
mod tests {
    use super::{Process, start_time};

    #[test]
    fn a_process_is_known_by_its_start_even_if_its_name_is_odd() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1000 10";
        assert_eq!(start_time(stat), Some(987_654));
        let own = Process::find(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.runs());
        let other = Process {
            started: own.started + 1,
            ..own
        };
        assert!(!other.runs());
    }
}
