//! Command line of `kaito-scheduler`.

mod evictions;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use kaito_snapshot::sizing::NodeMode;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config as ClientConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::lease::{self, Election, LedError};
use crate::placement::record::Settings;
use crate::run::{self, Options};
use crate::shared::Config;
use crate::workspace::build::weights::Delivery;
use crate::workspace::build::{DataReach, Images};
use crate::writer::Clients;
use evictions::EvictionArgs;

/// Exit code when leadership was lost: restarting is the cure.
const EXIT_LEASE_LOST: u8 = 3;

/// Minor version of Kubernetes 1 since which image volumes are on by default (KEP-4639).
const IMAGE_VOLUMES_BY_DEFAULT: u32 = 35;

#[derive(Debug, Parser)]
#[command(
    name = "kaito-scheduler",
    version,
    about = "Kubernetes-native GPU scheduler for Workspaces"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the controllers and the placement loop
    Run(RunArgs),
    /// Turn NodeClaims into nodes
    Provisioner(ProvisionerArgs),
    /// Make a recorded plan again and show where it differs
    Replay(ReplayArgs),
    /// Print the custom resource definitions and admission policies as YAML
    Crd,
}

#[derive(Debug, Args)]
struct Connection {
    /// Kubeconfig file; without it the pod's own credentials, else the usual places
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum NodeProvisioner {
    /// Existing nodes first, NodeClaims when none fits
    Karpenter,
    /// Existing nodes only; no NodeClaim is ever made
    Byo,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WeightsDelivery {
    /// An image volume where the API server has them by default (1.35 and newer), else pull
    Auto,
    /// An image volume, fetched once per node
    ImageVolume,
    /// An init container that pulls, on every node
    Pull,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    connection: Connection,
    /// Where nodes come from
    #[arg(long, value_enum, default_value = "karpenter")]
    node_provisioner: NodeProvisioner,
    /// Seconds that a bought node is kept after its last pod has gone
    #[arg(long, default_value_t = 30)]
    idle_node_grace: u32,
    /// Image of the GPU engine
    #[arg(long, default_value_t = Images::default().engine)]
    engine_image: String,
    /// Image of our tools in pods
    #[arg(long, default_value_t = Images::default().tools)]
    tools_image: String,
    /// Image of kaito-runtime, which serves small models on CPUs
    #[arg(long, default_value_t = Images::default().runtime)]
    runtime_image: String,
    /// Image of the trainer
    #[arg(long, default_value_t = Images::default().trainer)]
    trainer_image: String,
    /// How images of weights and adapters reach pods
    #[arg(long, value_enum, default_value = "auto")]
    weights_delivery: WeightsDelivery,
    /// Fetch data sets also from addresses that are not on the public internet, such as Services of this cluster.
    /// Whoever may create a Workspace can then have a pod ask them
    #[arg(long)]
    private_data_urls: bool,
    #[command(flatten)]
    evictions: EvictionArgs,
    /// Directory to record plans in, one file for each that differs from the last
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
    /// Most recordings to keep; the oldest goes first
    #[arg(long, value_name = "N", default_value_t = 100, requires = "record")]
    record_keep: usize,
    /// Address of /healthz, /readyz and /metrics; port 0 picks a free one
    #[arg(long, default_value = "0.0.0.0:8080")]
    health_address: SocketAddr,
    #[command(flatten)]
    election: ElectionArgs,
}

#[derive(Debug, Args)]
struct ElectionArgs {
    /// Elect a leader among replicas
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    leader_elect: bool,
    /// Namespace of the leader-election Lease
    #[arg(long, env = "POD_NAMESPACE", default_value = "kaito-system")]
    lease_namespace: String,
}

impl ElectionArgs {
    /// The election for the Lease `name`, unless this instance is said to be alone.
    fn election(&self, name: &str) -> Option<Election> {
        self.leader_elect.then(|| Election {
            namespace: self.lease_namespace.clone(),
            name: name.to_owned(),
            identity: identity(),
        })
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 the same sound plan, 1 another plan or an error.")]
struct ReplayArgs {
    /// Recording, written by run --record or kubectl kaito plan --record
    file: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Cloud {
    /// Pretended machines in this process; everything else is real
    Simulated,
}

#[derive(Debug, Args)]
struct ProvisionerArgs {
    #[command(flatten)]
    connection: Connection,
    /// Cloud that nodes come from
    #[arg(long, value_enum)]
    cloud: Cloud,
    /// File with delays, quotas, capacities and failures of the simulated cloud
    #[arg(long)]
    scenario: Option<PathBuf>,
    /// How many times faster than a real cloud the simulated one is
    #[arg(long)]
    time_scale: Option<std::num::NonZeroU32>,
    #[command(flatten)]
    election: ElectionArgs,
}

/// Parses the command line and runs; the process' exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry();
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "ended");
            let lost = error.downcast_ref::<run::Error>();
            match lost {
                Some(run::Error::Lease(_)) => ExitCode::from(EXIT_LEASE_LOST),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn telemetry() {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_from_env("KAITO_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,kube=warn"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.init();
    } else {
        builder.json().init();
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match &command {
        Command::Crd => return print_manifests().map(|()| ExitCode::SUCCESS),
        Command::Replay(args) => return print_replay(&args.file),
        Command::Run(_) | Command::Provisioner(_) => {}
    }
    // Ring is the one TLS provider of the tree; a second install would only repeat it.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the async runtime")?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        stop_on_signals(shutdown.clone()).context("listening for SIGTERM and SIGINT")?;
        match command {
            Command::Run(args) => run_scheduler(args, shutdown).await,
            Command::Provisioner(args) => run_provisioner(args, shutdown).await,
            Command::Crd | Command::Replay(_) => Ok(()),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn print_manifests() -> anyhow::Result<()> {
    let crds = kaito_api::crd::crd_yaml().context("rendering the resource definitions")?;
    let policy = kaito_api::crd::admission_policy_yaml().context("rendering the policy")?;
    let mut out = std::io::stdout();
    out.write_all(crds.as_bytes())
        .context("writing to standard output")?;
    out.write_all(b"---\n")
        .context("writing to standard output")?;
    out.write_all(policy.as_bytes())
        .context("writing to standard output")
}

fn print_replay(file: &std::path::Path) -> anyhow::Result<ExitCode> {
    let (text, same) = crate::replay::replay(file)?;
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("writing to standard output")?;
    Ok(if same {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The first SIGTERM or SIGINT asks for an orderly end.
fn stop_on_signals(shutdown: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        shutdown.cancel();
    });
    Ok(())
}

async fn client(connection: &Connection) -> anyhow::Result<Client> {
    Ok(clients(connection).await?.usual)
}

async fn clients(connection: &Connection) -> anyhow::Result<Clients> {
    let mut config = match connection.kubeconfig.as_ref() {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("reading kubeconfig {}", path.display()))?;
            ClientConfig::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("using kubeconfig {}", path.display()))?
        }
        None => ClientConfig::infer()
            .await
            .context("finding cluster credentials")?,
    };
    let agent = concat!("kaito-scheduler/v", env!("CARGO_PKG_VERSION"));
    config.headers.push((
        axum::http::header::USER_AGENT,
        axum::http::HeaderValue::from_static(agent),
    ));
    let mut once = config.clone();
    once.default_retry = false;
    let connect =
        |config| Client::try_from(config).context("preparing the connection to the API server");
    Ok(Clients {
        usual: connect(config)?,
        evicting: connect(once)?,
    })
}

async fn run_scheduler(args: RunArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let clients = clients(&args.connection).await?;
    let election = args.election.election("kaito-scheduler");
    let weights = delivery(&clients.usual, args.weights_delivery).await?;
    let options = Options {
        config: Config {
            node_mode: match args.node_provisioner {
                NodeProvisioner::Karpenter => NodeMode::Auto,
                NodeProvisioner::Byo => NodeMode::OwnNodes,
            },
            images: Images {
                engine: args.engine_image,
                tools: args.tools_image,
                runtime: args.runtime_image,
                trainer: args.trainer_image,
            },
            weights,
            data_reach: if args.private_data_urls {
                DataReach::Anywhere
            } else {
                DataReach::Public
            },
            idle_grace_seconds: i64::from(args.idle_node_grace),
            record: args.record.map(|directory| Settings {
                directory,
                keep: args.record_keep,
            }),
            evictions: args.evictions.rules(),
            pause_between_moves: args.evictions.pause_between_moves(),
        },
        election,
        health_address: args.health_address,
    };
    Ok(run::run(clients, options, shutdown).await?)
}

/// The delivery that was asked for, or the one that the API server's version allows.
async fn delivery(client: &Client, asked: WeightsDelivery) -> anyhow::Result<Delivery> {
    match asked {
        WeightsDelivery::ImageVolume => return Ok(Delivery::ImageVolume),
        WeightsDelivery::Pull => return Ok(Delivery::Pull),
        WeightsDelivery::Auto => {}
    }
    let version = client.apiserver_version().await;
    let version = version.context("asking the API server for its version")?;
    let number = |text: &str| {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(0_u32)
    };
    let found = (number(&version.major), number(&version.minor));
    Ok(if found >= (1, IMAGE_VOLUMES_BY_DEFAULT) {
        Delivery::ImageVolume
    } else {
        Delivery::Pull
    })
}

/// Pod or host name, process id and start time: no two processes share it.
fn identity() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "local".to_owned());
    let started = jiff::Timestamp::now().as_nanosecond();
    format!("{host}_{}_{started}", std::process::id())
}

async fn run_provisioner(args: ProvisionerArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = client(&args.connection).await?;
    let Cloud::Simulated = args.cloud;
    let mut options = kaito_provisioner::Options::default();
    if let Some(path) = args.scenario.as_ref() {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("reading scenario {}", path.display()))?;
        options.scenario = kaito_provisioner::Scenario::parse(&text)
            .with_context(|| format!("in scenario {}", path.display()))?;
    }
    if let Some(scale) = args.time_scale {
        options.time_scale = scale;
    }
    let Some(election) = args.election.election("kaito-provisioner") else {
        return Ok(kaito_provisioner::run(client, options, shutdown).await?);
    };
    let work = |stop| kaito_provisioner::run(client.clone(), options, stop);
    match lease::lead(client.clone(), election, shutdown, work).await {
        Ok(()) => Ok(()),
        Err(LedError::Lease(lost)) => Err(run::Error::Lease(lost).into()),
        Err(LedError::Work(error)) => Err(error.into()),
    }
}
