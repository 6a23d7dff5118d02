//! The cage that a node lives in: network, mount, process, host name and IPC namespaces of its own.
//!
//! Two processes make it. The *keeper* ([`keep`]) runs outside, under a supervisor as every other server. It makes the
//! namespaces and starts the *first process* in them ([`first`]), which prepares them, reaps orphans, and ends when its
//! standard input does. With the first process the kernel ends every other process of the cage, containers included;
//! with the last process go the mounts and the network. The keeper then removes what namespaces do not hold: control
//! groups and the node's folder. So a node leaves nothing behind even if its owner is killed, and what a killed keeper
//! leaves is removed by [`super::sweep`].
//!
//! Kernel settings that kubelet wants changed for the whole host are, inside the cage, ordinary files with the wanted
//! values: the host's are never written.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use super::cgroups;
use super::leftovers::Record;

/// Network device that bears the node's address.
const DEVICE: &str = "node0";

/// What kubelet writes where it finds something else.
const SETTINGS: [(&str, &str); 6] = [
    ("/proc/sys/vm/overcommit_memory", "1"),
    ("/proc/sys/vm/panic_on_oom", "0"),
    ("/proc/sys/kernel/panic", "10"),
    ("/proc/sys/kernel/panic_on_oops", "1"),
    ("/proc/sys/kernel/keys/root_maxkeys", "1000000"),
    ("/proc/sys/kernel/keys/root_maxbytes", "25000000"),
];

/// Arguments of both processes.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The node's folder
    #[arg(long)]
    folder: PathBuf,
    /// Name of its control group
    #[arg(long)]
    name: String,
    /// Its address and the length of its network, as in 198.18.9.1/24
    #[arg(long)]
    address: String,
}

impl Arguments {
    /// The keeper's command line, after the program's name.
    pub(super) fn command_line(folder: &Path, name: &str, address: &str) -> Vec<String> {
        let folder = folder.display().to_string();
        let pairs = [
            ("--folder", folder.as_str()),
            ("--name", name),
            ("--address", address),
        ];
        let flags = pairs
            .into_iter()
            .flat_map(|(flag, value)| [flag, value])
            .map(str::to_owned);
        std::iter::once("node-cage".to_owned())
            .chain(flags)
            .collect()
    }
}

/// File with the first process's id, as the host counts.
pub(super) fn pid_file(folder: &Path) -> PathBuf {
    folder.join("first.pid")
}

/// File that is there once the cage is ready.
pub(super) fn ready_file(folder: &Path) -> PathBuf {
    folder.join("ready")
}

/// The keeper: makes the cage, and takes it away when told to end (SIGTERM).
pub async fn keep(arguments: Arguments) -> ExitCode {
    report(keep_cage(&arguments).await)
}

/// The first process in the cage.
pub async fn first(arguments: Arguments) -> ExitCode {
    report(run_first(&arguments).await)
}

fn report(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

async fn keep_cage(arguments: &Arguments) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut record = Record::write(&arguments.name, &arguments.folder)?;
    cgroups::create(&arguments.name)?;
    let mut child = spawn_first(arguments)?;
    record.add_first(child.id())?;
    fs::write(pid_file(&arguments.folder), child.id().to_string())?;
    let lifeline = child.stdin.take();
    let (sender, mut ended) = tokio::sync::oneshot::channel();
    // A thread of its own: waiting blocks until the kernel has ended every process of the cage.
    std::thread::spawn(move || sender.send(child.wait()));
    let told = tokio::select! {
        _ = &mut ended => false,
        _ = terminate.recv() => true,
    };
    if told {
        drop(lifeline);
        let _ = ended.await;
    }
    cgroups::remove(&arguments.name)?;
    if told {
        fs::remove_dir_all(&arguments.folder)?;
    }
    record.remove()?;
    if told {
        return Ok(());
    }
    // The folder stays for its owner, who will want to read the log.
    Err(io::Error::other("the first process ended by itself"))
}

/// Starts the first process in new namespaces. On a thread of its own, since that thread cannot start others any more.
fn spawn_first(arguments: &Arguments) -> io::Result<Child> {
    let testbed = std::env::current_exe()?;
    let mut command = Command::new(testbed);
    command
        .arg("node-first")
        .arg("--folder")
        .arg(&arguments.folder)
        .args(["--name", &arguments.name, "--address", &arguments.address])
        .stdin(Stdio::piped());
    let spawned = std::thread::spawn(move || {
        unshare(
            CloneFlags::CLONE_NEWPID
                | CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWNET
                | CloneFlags::CLONE_NEWUTS
                | CloneFlags::CLONE_NEWIPC,
        )?;
        command.spawn()
    });
    spawned
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that makes the cage panicked")))
}

async fn run_first(arguments: &Arguments) -> io::Result<()> {
    prepare_mounts(&arguments.folder)?;
    prepare_network(&arguments.address)?;
    let mut children = signal(SignalKind::child())?;
    let (cut, mut lifeline) = tokio::sync::oneshot::channel();
    // A thread of its own: tokio's standard input would keep the runtime from shutting down.
    std::thread::spawn(move || {
        let mut bytes = [0_u8; 64];
        while matches!(io::stdin().read(&mut bytes), Ok(count) if count > 0) {}
        cut.send(())
    });
    fs::write(ready_file(&arguments.folder), "")?;
    loop {
        tokio::select! {
            _ = &mut lifeline => return Ok(()),
            _ = children.recv() => reap(),
        }
    }
}

/// Takes note of every orphan that has ended.
fn reap() {
    let any = Pid::from_raw(-1);
    while let Ok(status) = waitpid(any, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}

/// Gives the cage its own `/proc`, `/run` and `/var/log`, covers `/var/lib`, and covers the kernel settings.
fn prepare_mounts(folder: &Path) -> io::Result<()> {
    run("mount", &["--make-rprivate", "/"])?;
    run("mount", &["-t", "proc", "proc", "/proc"])?;
    run("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])?;
    let logs = folder.join("var-log");
    fs::create_dir_all(&logs)?;
    bind(&logs, "/var/log")?;
    cover_var_lib(folder)?;
    let settings = folder.join("settings");
    fs::create_dir_all(&settings)?;
    for (path, value) in SETTINGS {
        if Path::new(path).exists() {
            let file = settings.join(path.rsplit('/').next().unwrap_or(path));
            fs::write(&file, format!("{value}\n"))?;
            bind(&file, path)?;
        }
    }
    Ok(())
}

/// The host's `/var/lib` stays readable; what is written goes to memory. Some paths in it are fixed: libcni keeps its
/// results in `cni`, and device plugins meet kubelet in `kubelet`, which therefore is the node's own folder.
fn cover_var_lib(folder: &Path) -> io::Result<()> {
    let memory = folder.join("var-lib");
    fs::create_dir_all(&memory)?;
    let place = memory.display().to_string();
    run("mount", &["-t", "tmpfs", "tmpfs", &place])?;
    let (upper, work) = (memory.join("upper"), memory.join("work"));
    fs::create_dir(&upper)?;
    fs::create_dir(&work)?;
    let layers = format!(
        "lowerdir=/var/lib,upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    run(
        "mount",
        &["-t", "overlay", "-o", &layers, "overlay", "/var/lib"],
    )?;
    let kubelet = folder.join("kubelet");
    fs::create_dir_all(&kubelet)?;
    fs::create_dir_all("/var/lib/kubelet")?;
    bind(&kubelet, "/var/lib/kubelet")
}

fn bind(from: &Path, to: &str) -> io::Result<()> {
    run("mount", &["--bind", &from.display().to_string(), to])
}

/// A bridge without ports bears the address: it is up without a peer, which kubelet wants before there are pods.
fn prepare_network(address: &str) -> io::Result<()> {
    run("ip", &["link", "set", "lo", "up"])?;
    run("ip", &["link", "add", DEVICE, "type", "bridge"])?;
    run("ip", &["address", "add", address, "dev", DEVICE])?;
    run("ip", &["link", "set", DEVICE, "up"])?;
    // Addresses of Services are rewritten only after a route to them has been found.
    run("ip", &["route", "add", "default", "dev", DEVICE])?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")
}

fn run(program: &str, arguments: &[&str]) -> io::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run {program}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = arguments.join(" ");
    Err(io::Error::other(format!(
        "`{program} {line}` failed: {}",
        said.trim()
    )))
}
