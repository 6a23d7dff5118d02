//! The supervisor's own process: runs one program in a process group, and stops the group when its lifeline is cut.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Arguments of `kaito-testbed supervise`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// File that the program's output is appended to
    #[arg(long)]
    log: PathBuf,
    /// Time between SIGTERM and SIGKILL
    #[arg(long, default_value_t = 5000)]
    grace_milliseconds: u64,
    /// Working directory of the program
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Folder to remove once the program has been stopped
    #[arg(long)]
    remove: Option<PathBuf>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// The supervisor: runs the program until it ends, the lifeline is cut or a signal arrives.
///
/// Writes one line to standard error, `pid N` or the reason why the program did not start, and nothing after it.
pub async fn supervise(arguments: Arguments) -> ExitCode {
    match supervised_run(&arguments).await {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::from(127)
        }
    }
}

async fn supervised_run(arguments: &Arguments) -> io::Result<ExitCode> {
    let stopped = stop_requests()?;
    let mut child = start_program(arguments)?;
    let group = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .map(Pid::from_raw);
    let group = group.ok_or_else(|| io::Error::other("the program ended at once"))?;
    writeln!(io::stderr(), "pid {group}")?;
    let code = tokio::select! {
        status = child.wait() => exit_code(status?),
        () = stopped => {
            stop_group(&mut child, group, Duration::from_millis(arguments.grace_milliseconds)).await;
            if let Some(folder) = &arguments.remove {
                // Best effort: the owner may have removed it already.
                let _ = std::fs::remove_dir_all(folder);
            }
            ExitCode::SUCCESS
        }
    };
    // Ends what the program left behind in its group; fails when there is nothing, as it should be.
    let _ = killpg(group, Signal::SIGKILL);
    Ok(code)
}

fn start_program(arguments: &Arguments) -> io::Result<tokio::process::Child> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&arguments.log)?;
    let (program, rest) = arguments
        .command
        .split_first()
        .ok_or_else(|| io::Error::other("no program given"))?;
    let mut command = tokio::process::Command::new(program);
    command
        .args(rest)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    if let Some(directory) = &arguments.directory {
        command.current_dir(directory);
    }
    command.spawn()
}

/// Completes when the owner is gone or the supervisor itself is asked to end.
fn stop_requests() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt, mut hangup) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    );
    let (cut, lifeline) = tokio::sync::oneshot::channel();
    // A thread of its own: tokio's standard input would keep the runtime from shutting down.
    std::thread::spawn(move || {
        let mut bytes = [0_u8; 64];
        while matches!(io::stdin().read(&mut bytes), Ok(count) if count > 0) {}
        let _ = cut.send(());
    });
    Ok(async move {
        tokio::select! {
            _ = lifeline => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

async fn stop_group(child: &mut tokio::process::Child, group: Pid, grace: Duration) {
    // Either signal fails only if the group is gone already, which is the aim.
    let _ = killpg(group, Signal::SIGTERM);
    if tokio::time::timeout(grace, child.wait()).await.is_err() {
        let _ = killpg(group, Signal::SIGKILL);
        let _ = child.wait().await;
    }
}

/// The shell's convention: 128 plus the signal's number for a program that a signal ended.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
