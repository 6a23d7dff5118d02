//! Keeps a server from outliving the process that asked for it.
//!
//! Every server runs under a small supervisor (`kaito-testbed supervise`), in a process group of its own, so that a
//! terminal's Ctrl-C does not reach it out of order. The supervisor's standard input is a pipe whose other end only
//! the owner holds: its *lifeline*. When the owner ends in whatever way, the kernel closes the pipe and the
//! supervisor stops the server: SIGTERM, then SIGKILL after a grace period, for the whole group.
//!
//! Order comes from the same mechanism. A server that needs another one (the API server needs etcd) keeps a copy of
//! that one's lifeline open for as long as it lives, so etcd is told to stop only after the API server is gone.
//!
//! This module knows nothing of Kubernetes.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::programs;

pub use self::supervisor::{Arguments, supervise};

mod supervisor;

/// Time that the owner waits for a supervisor beyond the server's own grace period.
const MARGIN: Duration = Duration::from_secs(5);

/// How often [`Supervised::stop`] looks whether the supervisor has ended.
const POLL: Duration = Duration::from_millis(10);

/// What to run, and where its traces go.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Name for messages, such as `etcd`.
    pub name: String,
    /// The program's file.
    pub program: PathBuf,
    /// Its arguments, without the program's name.
    pub arguments: Vec<OsString>,
    /// Variables set on top of the inherited environment.
    pub environment: Vec<(String, OsString)>,
    /// Working directory; the owner's if absent.
    pub directory: Option<PathBuf>,
    /// File that both output streams are appended to.
    pub log: PathBuf,
    /// Time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Folder that is removed once the program has been stopped; kept if the program ends by itself.
    pub remove: Option<PathBuf>,
}

impl Launch {
    /// A launch with five seconds of grace that logs to `log`.
    #[must_use]
    pub fn new(name: &str, program: &Path, log: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program: program.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: None,
            log: log.to_owned(),
            grace: Duration::from_secs(5),
            remove: None,
        }
    }

    /// The same program started through another one, which ends by becoming it (as `nsenter` does).
    #[must_use]
    pub fn through<I: IntoIterator<Item: Into<OsString>>>(
        mut self,
        program: &Path,
        arguments: I,
    ) -> Self {
        let inner = std::mem::replace(&mut self.program, program.to_owned());
        let rest = std::mem::take(&mut self.arguments);
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self.arguments.push(inner.into());
        self.arguments.extend(rest);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn with<I: IntoIterator<Item: Into<OsString>>>(mut self, arguments: I) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }
}

/// Why a program could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The supervisor's binary is missing.
    #[error("cannot find the supervisor of {name}")]
    Supervisor {
        /// The program to be started.
        name: String,
        /// What was looked for, and where.
        #[source]
        source: programs::Error,
    },
    /// The supervisor could not be started.
    #[error("cannot start the supervisor of {name}")]
    Spawn {
        /// The program to be started.
        name: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The supervisor started, the program did not.
    #[error("cannot start {name} from {}: {reason}", program.display())]
    Program {
        /// The program to be started.
        name: String,
        /// Its file.
        program: PathBuf,
        /// What the supervisor reported.
        reason: String,
    },
    /// The program did not end in time.
    #[error(
        "{name} (pid {pid}) is still running {seconds} s after it was told to stop; end it with `kill -9 {pid}`"
    )]
    Stop {
        /// The program.
        name: String,
        /// Its process id.
        pid: i32,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A signal could not be sent.
    #[error("cannot signal {name} (pid {pid})")]
    Signal {
        /// The program.
        name: String,
        /// Its process id.
        pid: i32,
        /// The system's reason.
        #[source]
        source: nix::Error,
    },
}

/// A running program that ends with its owner. Dropping it stops it and waits for the end.
#[derive(Debug)]
pub struct Supervised {
    name: String,
    supervisor: Child,
    pid: Pid,
    lifeline: Option<ChildStdin>,
    log: PathBuf,
    grace: Duration,
}

impl Supervised {
    /// Starts a program. With `needs`, that program is stopped only after this one is gone.
    ///
    /// # Errors
    /// [`Error::Supervisor`], [`Error::Spawn`] or [`Error::Program`] if one of the two cannot be started.
    pub fn spawn(launch: &Launch, needs: Option<&Self>) -> Result<Self, Error> {
        let testbed = programs::find(programs::TESTBED).map_err(|source| Error::Supervisor {
            name: launch.name.clone(),
            source,
        })?;
        Self::start(launch, &testbed, needs)
            .map_err(|source| Error::Spawn {
                name: launch.name.clone(),
                source,
            })?
            .handshake(&launch.program)
    }

    fn start(launch: &Launch, testbed: &Path, needs: Option<&Self>) -> io::Result<Self> {
        // The supervisor prints nothing, so its standard output can hold the other's lifeline open.
        let held = match needs.and_then(|needed| needed.lifeline.as_ref()) {
            Some(lifeline) => Stdio::from(lifeline.as_fd().try_clone_to_owned()?),
            None => Stdio::null(),
        };
        let mut supervisor = Command::new(testbed)
            .args(supervisor_arguments(launch))
            .envs(launch.environment.iter().map(|(name, value)| (name, value)))
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(held)
            .stderr(Stdio::piped())
            .spawn()?;
        let lifeline = supervisor.stdin.take();
        Ok(Self {
            name: launch.name.clone(),
            supervisor,
            pid: Pid::from_raw(0),
            lifeline,
            log: launch.log.clone(),
            grace: launch.grace,
        })
    }

    /// Reads the process id that the supervisor reports first, or its reason for not starting.
    fn handshake(mut self, program: &Path) -> Result<Self, Error> {
        let mut line = String::new();
        if let Some(stderr) = self.supervisor.stderr.take() {
            // An unreadable report is treated like an empty one: the program did not start.
            let _ = BufReader::new(stderr).read_line(&mut line);
        }
        let pid = line
            .trim()
            .strip_prefix("pid ")
            .and_then(|pid| pid.parse().ok());
        match pid {
            Some(pid) => {
                self.pid = Pid::from_raw(pid);
                Ok(self)
            }
            None => Err(Error::Program {
                name: self.name.clone(),
                program: program.to_owned(),
                reason: line.trim().to_owned(),
            }),
        }
    }

    /// Process id of the program itself, not of its supervisor.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// File that holds the program's output.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The program's exit status once it has ended, by itself or otherwise; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.supervisor.try_wait().ok().flatten()
    }

    /// Sends the program (not its supervisor) a signal, for example SIGKILL to play a crash.
    ///
    /// # Errors
    /// [`Error::Signal`] if the program is already gone.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        kill(self.pid, signal).map_err(|source| Error::Signal {
            name: self.name.clone(),
            pid: self.pid(),
            source,
        })
    }

    /// Waits up to `limit` for the program to end by itself.
    #[must_use]
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            let status = self.ended();
            if status.is_some() || Instant::now() >= deadline {
                return status;
            }
            std::thread::sleep(POLL);
        }
    }

    /// Stops the program and waits until it and everything in its process group is gone. Doing so twice is harmless.
    ///
    /// # Errors
    /// [`Error::Stop`] if something else still holds the lifeline, or the system does not end the process.
    pub fn stop(&mut self) -> Result<(), Error> {
        self.lifeline = None;
        let limit = self.grace + MARGIN;
        match self.wait(limit) {
            Some(_) => Ok(()),
            None => Err(Error::Stop {
                name: self.name.clone(),
                pid: self.pid(),
                seconds: limit.as_secs(),
            }),
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            let _ = writeln!(io::stderr(), "warning: {error}");
        }
    }
}

/// Last `count` lines of a file, empty if it cannot be read.
#[must_use]
pub fn tail(path: &Path, count: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(count);
    lines.get(from..).unwrap_or_default().join("\n")
}

fn supervisor_arguments(launch: &Launch) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec![
        "supervise".into(),
        "--log".into(),
        launch.log.clone().into(),
        "--grace-milliseconds".into(),
        launch.grace.as_millis().to_string().into(),
    ];
    if let Some(directory) = &launch.directory {
        arguments.extend(["--directory".into(), directory.clone().into()]);
    }
    if let Some(remove) = &launch.remove {
        arguments.extend(["--remove".into(), remove.clone().into()]);
    }
    arguments.extend(["--".into(), launch.program.clone().into()]);
    arguments.extend(launch.arguments.iter().cloned());
    arguments
}

#[cfg(test)]
mod tests {
    use super::tail;

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        std::fs::write(&log, "one\ntwo\nthree\n").unwrap();
        assert_eq!(tail(&log, 2), "two\nthree");
        assert_eq!(tail(&log, 9), "one\ntwo\nthree");
        assert_eq!(tail(&folder.path().join("absent"), 2), "");
    }
}
