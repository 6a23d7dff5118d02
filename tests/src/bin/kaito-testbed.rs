//! Hand tool over the test harness: a control plane to play with, and the supervisor that the harness itself uses.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kaito_tests::binaries::{Binary, find_or_build, interrupt};
use kaito_tests::{ControlPlane, Options, supervise};
use tokio_util::sync::CancellationToken;

/// A real Kubernetes control plane on this machine, without nodes, root or a cluster.
#[derive(Parser)]
#[command(name = "kaito-testbed", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a control plane and keep it until Ctrl-C
    Up(Up),
    /// Find the Kubernetes binaries, or build those that are missing, and print where they are
    Binaries {
        /// Print the path of this one only
        name: Option<String>,
        /// Also those of a node (kubelet, containerd and so on), which are for Linux only
        #[arg(long)]
        node: bool,
    },
    /// Run a program that ends when this process's standard input does
    #[command(hide = true)]
    Supervise(supervise::Arguments),
}

#[derive(clap::Args)]
struct Up {
    /// Leave out kube-controller-manager and kube-scheduler
    #[arg(long)]
    api_only: bool,
    /// Keep an audit log
    #[arg(long)]
    audit: bool,
    /// Also write a kubeconfig link to this path, once the control plane is ready
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

fn main() -> ExitCode {
    let result = tokio::runtime::Runtime::new()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let result = runtime.block_on(run(Arguments::parse().command));
            // A build that was interrupted is ended by its supervisor; waiting for its thread would not.
            runtime.shutdown_background();
            result
        });
    match result {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Supervise(arguments) => return Ok(supervise::supervise(arguments).await),
        Command::Up(arguments) => up(&arguments).await?,
        Command::Binaries { name, node } => {
            search(&stop_signal()?, move || binaries(name.as_deref(), node)).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn binaries(name: Option<&str>, node: bool) -> anyhow::Result<()> {
    let Some(name) = name else {
        let wanted = Binary::all().filter(|binary| node || !Binary::NODE.contains(binary));
        for binary in wanted {
            writeln!(
                io::stdout(),
                "{binary}\t{}",
                find_or_build(binary)?.display()
            )?;
        }
        return Ok(());
    };
    let known = Binary::all().find(|binary| binary.name() == name);
    let Some(binary) = known else {
        let names: Vec<&str> = Binary::all().map(Binary::name).collect();
        anyhow::bail!("no binary is called {name}; there are {}", names.join(", "));
    };
    writeln!(io::stdout(), "{}", find_or_build(binary)?.display())?;
    Ok(())
}

async fn up(arguments: &Up) -> anyhow::Result<()> {
    let options = if arguments.api_only {
        Options::api_only()
    } else {
        Options::full()
    };
    let options = if arguments.audit {
        options.audited()
    } else {
        options
    };
    let stop = stop_signal()?;
    // Builds end at the signal and are waited for; a start is given up, which stops what has started.
    search(&stop, || {
        Binary::CONTROL_PLANE
            .into_iter()
            .try_for_each(|binary| Ok(find_or_build(binary).map(drop)?))
    })
    .await?;
    let plane = tokio::select! {
        plane = ControlPlane::start(options) => plane?,
        () = stop.cancelled() => return Ok(()),
    };
    let kubeconfig = plane.kubeconfig_path();
    if let Some(link) = &arguments.kubeconfig {
        publish(&kubeconfig, link)?;
    }
    let mut out = io::stdout();
    writeln!(out, "export KUBECONFIG={}", kubeconfig.display())?;
    writeln!(out, "# kubectl: {}", plane.kubectl().display())?;
    writeln!(out, "# logs: {}", plane.folder().display())?;
    writeln!(out, "# stop with Ctrl-C, or `kill {}`", std::process::id())?;
    stop.cancelled().await;
    writeln!(io::stderr(), "stopping")?;
    if let Some(link) = &arguments.kubeconfig {
        std::fs::remove_file(link)?;
    }
    Ok(plane.stop()?)
}

/// Runs a search for binaries, which ends soon after a stop signal.
async fn search<T: Send + 'static>(
    stop: &CancellationToken,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let mut work = tokio::task::spawn_blocking(work);
    tokio::select! {
        done = &mut work => return done?,
        () = stop.cancelled() => interrupt(),
    }
    work.await?
}

/// Puts a link in place in one step, so that a reader sees all or nothing.
fn publish(kubeconfig: &Path, link: &Path) -> io::Result<()> {
    let staged = link.with_extension("new");
    std::os::unix::fs::symlink(kubeconfig, &staged)?;
    std::fs::rename(staged, link)
}

/// Cancelled by the first SIGINT or SIGTERM.
fn stop_signal() -> io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let stop = CancellationToken::new();
    let signalled = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        signalled.cancel();
    });
    Ok(stop)
}
