//! What a command uses: a process between this program and the command has no other children, so what the system
//! counts for its children is the command's alone.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};

/// A command to run.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Program and arguments.
    pub(crate) words: Vec<String>,
    /// Variables besides the process's own.
    pub(crate) variables: Vec<(String, String)>,
}

/// What it used.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Seconds from start to end.
    pub(crate) wall: f64,
    /// Processor seconds, user and system.
    pub(crate) cpu: f64,
    /// Most memory at a time, in MiB.
    pub(crate) memory: f64,
}

/// Runs a command in `folder` and tells what it used.
pub(crate) fn run(call: &Call, folder: Option<&Path>) -> anyhow::Result<Usage> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("measure")
        .args(&call.words)
        .envs(call.variables.iter().cloned());
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(
        output.status.success(),
        "{} failed:\n{}",
        call.words.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    let line = text
        .lines()
        .last()
        .context("the measuring process said nothing")?;
    Ok(serde_json::from_str(line)?)
}

/// The unit: sha256 over so many bytes of memory.
pub(crate) fn hash(bytes: u64) -> anyhow::Result<Usage> {
    let program = std::env::current_exe()?.display().to_string();
    let words = vec![program, "hash".to_owned(), bytes.to_string()];
    run(
        &Call {
            words,
            variables: Vec::new(),
        },
        None,
    )
}

/// The measuring process: runs the command, its output to stderr, and prints what it used.
pub(crate) fn child(words: &[String]) -> anyhow::Result<()> {
    let (program, arguments) = words.split_first().context("no command")?;
    let started = Instant::now();
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    let wall = started.elapsed().as_secs_f64();
    ensure!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let used = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let usage = Usage {
        wall,
        cpu: seconds(used.user_time()) + seconds(used.system_time()),
        memory: used.max_rss() as f64 / 1024.0,
    };
    println!("{}", serde_json::to_string(&usage)?);
    Ok(())
}
