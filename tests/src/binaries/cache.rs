//! A folder of built binaries that several processes share.
//!
//! A binary gets its name by one rename after its build has ended well, so whoever sees the name sees the whole
//! file. Builds are serial across processes: the lock is the kernel's, and ends with its holder however that ends.
//! This module knows neither Go nor Kubernetes.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::file_error::{FileError, failed};
use crate::supervise;

/// Time between two signs of life while waiting.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);

/// How often the lock or a build is looked at.
pub(super) const POLL: Duration = Duration::from_millis(50);

/// Prefix of folders that a build writes to; whatever bears it while nobody holds the lock is left over.
const STAGING: &str = ".building-";

/// Set once this process has been asked to end.
pub(super) static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Fails once the process has been asked to end.
pub(super) fn check_interrupt() -> Result<(), Error> {
    if INTERRUPTED.load(Ordering::SeqCst) {
        Err(Error::Interrupted)
    } else {
        Ok(())
    }
}

/// Why the cache has no binary to give.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The process was asked to end.
    #[error("interrupted; run it again to go on with what is missing")]
    Interrupted,
    /// Go is not installed.
    #[error(
        "`go` is not on PATH: install Go {required} or newer (https://go.dev/dl), or set KUBEBUILDER_ASSETS to a folder that holds the binaries"
    )]
    NoGo {
        /// Oldest version that works.
        required: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Go is installed but too old.
    #[error(
        "{found} is too old: install Go {required} or newer (https://go.dev/dl), or let Go 1.21 or newer fetch it with GOTOOLCHAIN=auto"
    )]
    OldGo {
        /// What `go` says of itself.
        found: String,
        /// Oldest version that works.
        required: String,
    },
    /// The compiler could not be started.
    #[error("cannot run the Go build")]
    Run(#[source] Box<supervise::Error>),
    /// The compiler ended with an error.
    #[error("`go build` failed ({status}); its last lines:\n{tail}")]
    Build {
        /// Exit status of the build.
        status: String,
        /// End of its output.
        tail: String,
    },
}

/// A folder to build in; removed when dropped, and by the supervisor of a build whose owner has died.
#[derive(Debug)]
pub struct Staging {
    folder: tempfile::TempDir,
    name: String,
}

impl Staging {
    /// Folder of the build.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// File that the build has to leave.
    #[must_use]
    pub fn output(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }
}

/// The shared folder.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The cache in `root`, which is made when first needed.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            folder: root.join("bin"),
        }
    }

    /// Path of the binary `name` of entry `key`; if it is missing, `build` makes it, one process at a time.
    ///
    /// # Errors
    /// What `build` returns, or [`Error::File`] if the folder cannot be used.
    pub fn get_or_build(
        &self,
        key: &str,
        name: &str,
        build: impl FnOnce(&Staging) -> Result<(), Error>,
    ) -> Result<PathBuf, Error> {
        let path = self.folder.join(key).join(name);
        if path.is_file() {
            return Ok(path);
        }
        fs::create_dir_all(self.folder.join(key)).map_err(failed("create", &path))?;
        let _lock = self.lock(name)?;
        // Another process may have built it while this one waited.
        if !path.is_file() {
            self.remove_left_overs();
            let staging = self.stage(name)?;
            build(&staging)?;
            fs::rename(staging.output(), &path).map_err(failed("move the new binary to", &path))?;
        }
        Ok(path)
    }

    fn stage(&self, name: &str) -> Result<Staging, Error> {
        let folder = tempfile::Builder::new()
            .prefix(STAGING)
            .tempdir_in(&self.folder);
        let folder = folder.map_err(failed("create a folder in", &self.folder))?;
        Ok(Staging {
            folder,
            name: name.to_owned(),
        })
    }

    /// Takes the lock; while another process holds it, says so every [`HEARTBEAT`].
    fn lock(&self, name: &str) -> Result<File, Error> {
        let path = self.folder.join(".lock");
        let file = File::create(&path).map_err(failed("open", &path))?;
        let started = Instant::now();
        let mut next = Duration::ZERO;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(source)) => {
                    return Err(failed("lock", &path)(source).into());
                }
                Err(TryLockError::WouldBlock) => {}
            }
            check_interrupt()?;
            if started.elapsed() >= next {
                let seconds = started.elapsed().as_secs();
                report(&format!(
                    "{name}: waiting for another build to end ({seconds} s)"
                ));
                next += HEARTBEAT;
            }
            std::thread::sleep(POLL);
        }
    }

    fn remove_left_overs(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(STAGING) {
                // Only space is lost if it stays.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// Prints one line of progress.
pub(super) fn report(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{Cache, Error, STAGING, Staging};

    fn write(staging: &Staging) -> Result<(), Error> {
        fs::write(staging.output(), "binary").unwrap();
        Ok(())
    }

    #[test]
    fn two_that_need_the_same_binary_share_one_build() {
        let root = tempfile::tempdir().unwrap();
        let (builds, started) = (AtomicUsize::new(0), Barrier::new(2));
        let fetch = || {
            // One cache each, as two processes would have: only the lock file is shared.
            started.wait();
            Cache::new(root.path()).get_or_build("module-v1", "program", |staging| {
                builds.fetch_add(1, Ordering::SeqCst);
                write(staging)
            })
        };
        std::thread::scope(|scope| {
            let both = [scope.spawn(fetch), scope.spawn(fetch)];
            for one in both {
                assert_eq!(
                    fs::read_to_string(one.join().unwrap().unwrap()).unwrap(),
                    "binary"
                );
            }
        });
        assert_eq!(builds.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn the_second_builds_only_after_the_first_has_released_the_lock() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(root.path());
        fs::create_dir_all(&cache.folder).unwrap();
        let held = cache.lock("first").unwrap();
        let released = AtomicUsize::new(0);
        let released_at_build = std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let mut seen = 0;
                cache
                    .get_or_build("module-v1", "program", |staging| {
                        seen = released.load(Ordering::SeqCst);
                        write(staging)
                    })
                    .unwrap();
                seen
            });
            // The entry's folder is made just before the second asks for the lock.
            while !root.path().join("bin/module-v1").exists() {
                std::thread::yield_now();
            }
            released.store(1, Ordering::SeqCst);
            drop(held);
            second.join().unwrap()
        });
        assert_eq!(released_at_build, 1);
    }

    #[test]
    fn a_failed_build_leaves_nothing_behind_and_is_tried_again() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(root.path());
        let failed = cache.get_or_build("module-v1", "program", |staging| {
            fs::write(staging.output(), "half").unwrap();
            Err(Error::Build {
                status: "exit status: 1".into(),
                tail: "no space".into(),
            })
        });
        assert!(failed.unwrap_err().to_string().contains("no space"));
        let entry = root.path().join("bin/module-v1");
        assert_eq!(fs::read_dir(&entry).unwrap().count(), 0);
        let path = cache.get_or_build("module-v1", "program", write).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "binary");
    }

    #[test]
    fn what_a_killed_build_left_is_removed_by_the_next() {
        let root = tempfile::tempdir().unwrap();
        let stale = root.path().join("bin").join(format!("{STAGING}old"));
        fs::create_dir_all(&stale).unwrap();
        Cache::new(root.path())
            .get_or_build("module-v1", "program", write)
            .unwrap();
        assert!(!stale.exists());
    }
}
