//! Builds one binary with Go, under a supervisor so that an interrupted owner leaves no compiler running.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use super::cache::{Error, HEARTBEAT, POLL, Staging, check_interrupt, report};
use crate::file_error::failed;
use crate::supervise::{Launch, Supervised, tail};

/// Oldest Go that the pinned modules accept, as major and minor.
const REQUIRED: (u32, u32) = (1, 26);

/// One build.
#[derive(Debug)]
pub(super) struct Build<'a> {
    /// File name of the binary.
    pub(super) name: &'a str,
    /// Go package of its `main`.
    pub(super) package: &'a str,
    /// Folder with `go.mod` and `go.sum`.
    pub(super) folder: &'a Path,
    /// Version with the leading `v`.
    pub(super) version: &'a str,
}

/// Arguments of `go` before the package, for a module of the given version.
///
/// Without the version variables Kubernetes calls itself v0.0.0-master and its clients warn; etcd and krew do not
/// have them, and the linker ignores what is not there.
pub(super) fn flags(version: &str) -> Vec<String> {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"));
    let variable = "k8s.io/component-base/version.git";
    vec![
        "build".to_owned(),
        "-mod=readonly".to_owned(),
        "-trimpath".to_owned(),
        "-buildvcs=false".to_owned(),
        "-ldflags".to_owned(),
        format!(
            "-s -w -X {variable}Version={version} -X {variable}Major={major} -X {variable}Minor={minor}"
        ),
    ]
}

impl Build<'_> {
    /// Builds into the staging folder and reports progress.
    pub(super) fn run(&self, staging: &Staging) -> Result<(), Error> {
        check_go(self.folder)?;
        report(&format!(
            "{}: building {} {} with Go",
            self.name, self.package, self.version
        ));
        let started = Instant::now();
        let log = staging.folder().join("go.log");
        let mut build = Supervised::spawn(&self.launch(staging, &log), None)
            .map_err(|source| Error::Run(Box::new(source)))?;
        let status = self.follow(&mut build, started)?;
        if !status.success() {
            return Err(Error::Build {
                status: status.to_string(),
                tail: tail(&log, 15),
            });
        }
        if !staging.output().is_file() {
            let missing = std::io::ErrorKind::NotFound.into();
            return Err(failed("find", &staging.output())(missing).into());
        }
        report(&format!(
            "{}: built in {} s",
            self.name,
            started.elapsed().as_secs()
        ));
        Ok(())
    }

    /// Waits for the compiler, with a sign of life now and then.
    fn follow(&self, build: &mut Supervised, started: Instant) -> Result<ExitStatus, Error> {
        let mut next = HEARTBEAT;
        loop {
            if let Some(status) = build.wait(POLL) {
                return Ok(status);
            }
            check_interrupt()?;
            if started.elapsed() >= next {
                let seconds = started.elapsed().as_secs();
                report(&format!("{}: still building, {seconds} s", self.name));
                next += HEARTBEAT;
            }
        }
    }

    fn launch(&self, staging: &Staging, log: &Path) -> Launch {
        let output: [OsString; 3] = ["-o".into(), staging.output().into(), self.package.into()];
        let mut launch = Launch::new(self.name, Path::new("go"), log)
            .with(flags(self.version))
            .with(output);
        launch.environment = vec![("CGO_ENABLED".to_owned(), "0".into())];
        launch.directory = Some(self.folder.to_owned());
        launch.grace = Duration::from_secs(1);
        launch.remove = Some(staging.folder().to_owned());
        launch
    }
}

/// Checks the version that `go` would use in the module's folder: newer ones fetch what `go.mod` asks for.
fn check_go(folder: &Path) -> Result<(), Error> {
    let required = format!("{}.{}", REQUIRED.0, REQUIRED.1);
    let output = Command::new("go")
        .args(["env", "GOVERSION"])
        .current_dir(folder)
        .output();
    let output = output.map_err(|source| Error::NoGo {
        required: required.clone(),
        source,
    })?;
    let found = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match parse_version(&found) {
        Some(version) if version >= REQUIRED => Ok(()),
        // A Go that refuses says why on the other stream.
        None => {
            let found = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(Error::OldGo {
                found: format!("Go ({found})"),
                required,
            })
        }
        Some(_) => Err(Error::OldGo { found, required }),
    }
}

/// Major and minor of `go1.26.8` and the like.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("go")?.split(['.', '-', ' ', 'r', 'b']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{REQUIRED, parse_version};

    #[test]
    fn versions_of_go_are_compared_as_numbers() {
        assert_eq!(parse_version("go1.26.8"), Some((1, 26)));
        assert_eq!(parse_version("go1.27rc1"), Some((1, 27)));
        assert!(parse_version("go1.9.2").unwrap() < REQUIRED);
        assert!(parse_version("go1.126").unwrap() > REQUIRED);
        assert_eq!(parse_version(""), None);
    }
}
