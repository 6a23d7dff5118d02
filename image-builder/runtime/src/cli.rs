//! Command line of `kaito-runtime`.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::http::Uri;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::bench::{self, BenchArgs};
use crate::engine::{Ended, Engine, Limits};
use crate::http::server::{self, Connections, Drained};
use crate::http::{App, Backend, Keys, Native, Proxy, Served, Settings};
use crate::kernel;
use crate::metrics::Metrics;
use crate::model::{Adapter, Config, Source};
use crate::text::Tokenizer;

#[derive(Debug, Parser)]
#[command(
    name = "kaito-runtime",
    version,
    about = "HTTP inference server that images carry"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer requests over HTTP until told to stop
    Serve(Box<ServeArgs>),
    /// Measure how fast a model runs here, and print it as JSON
    Bench(BenchArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// The engine in this program, on the CPU
    Native,
    /// Another server on this machine, such as vLLM
    Proxy,
}

/// A name and a folder.
#[derive(Clone, Debug)]
struct Named {
    name: String,
    folder: PathBuf,
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// What answers
    #[arg(
        long,
        env = "KAITO_RUNTIME_ENGINE",
        value_enum,
        default_value = "native"
    )]
    engine: Kind,
    /// Folder with config.json, tokenizer.json and *.safetensors, or a GGUF file or a folder with one
    #[arg(long, env = "KAITO_RUNTIME_MODEL", required_if_eq("engine", "native"))]
    model: Option<PathBuf>,
    /// LoRA adapter in PEFT's format, asked for by its name as the model; can be repeated
    #[arg(long = "adapter", value_name = "NAME=DIR", env = "KAITO_RUNTIME_ADAPTERS", value_delimiter = ',', value_parser = named)]
    adapters: Vec<Named>,
    /// Folder of which every folder with an adapter_config.json is an adapter of that name
    #[arg(long, env = "KAITO_RUNTIME_ADAPTER_DIR")]
    adapter_dir: Option<PathBuf>,
    /// Name of the model in requests; the first is the default, by default the last part of --model. Can be repeated
    #[arg(
        long = "served-model-name",
        value_name = "NAME",
        env = "KAITO_RUNTIME_SERVED_MODEL_NAME",
        value_delimiter = ','
    )]
    names: Vec<String>,
    /// Server to stand in front of
    #[arg(
        long,
        env = "KAITO_RUNTIME_UPSTREAM",
        default_value = "http://127.0.0.1:8000"
    )]
    upstream: Uri,
    /// Address to listen on
    #[arg(long, env = "KAITO_RUNTIME_ADDRESS", default_value = "0.0.0.0")]
    address: IpAddr,
    /// Port to listen on; 0 picks a free one
    #[arg(long, env = "KAITO_RUNTIME_PORT", default_value_t = 80)]
    port: u16,
    /// File with the keys of clients, one a line; without it everybody may ask
    #[arg(long, env = "KAITO_RUNTIME_API_KEY_FILE")]
    api_key_file: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Most tokens of prompt and answer together; by default what the model was made for, and the cache holds
    #[arg(long, env = "KAITO_RUNTIME_MAX_MODEL_LEN")]
    max_model_len: Option<usize>,
    /// Sequences that are computed together
    #[arg(long, env = "KAITO_RUNTIME_MAX_SEQUENCES", default_value = "16", value_parser = at_least_one)]
    max_sequences: usize,
    /// Requests that may wait; more get status 429
    #[arg(long, env = "KAITO_RUNTIME_MAX_QUEUE", default_value = "64")]
    max_queue: usize,
    /// Tokens that are computed in one step
    #[arg(long, env = "KAITO_RUNTIME_STEP_TOKENS", default_value = "256", value_parser = at_least_one)]
    step_tokens: usize,
    /// Memory for keys and values of all sequences, in MiB
    #[arg(long, env = "KAITO_RUNTIME_KV_CACHE_MIB", default_value = "1024", value_parser = at_least_one)]
    kv_cache_mib: usize,
    /// Tokens of an answer where the request tells no limit
    #[arg(long, env = "KAITO_RUNTIME_DEFAULT_TOKENS", default_value = "512", value_parser = at_least_one)]
    default_tokens: usize,
    /// Most tokens of an answer that may be asked for
    #[arg(long, env = "KAITO_RUNTIME_MAX_TOKENS", default_value = "8192", value_parser = at_least_one)]
    max_tokens: usize,
    /// Most bytes of a request
    #[arg(long, env = "KAITO_RUNTIME_MAX_BODY_BYTES", default_value = "1048576")]
    max_body_bytes: usize,
    /// Most connections at once
    #[arg(long, env = "KAITO_RUNTIME_MAX_CONNECTIONS", default_value = "512", value_parser = at_least_one)]
    max_connections: usize,
    /// Seconds that answers in progress have to end after SIGTERM
    #[arg(long, env = "KAITO_RUNTIME_DRAIN_SECONDS", default_value = "25")]
    drain_seconds: u64,
    /// Threads to compute with; by default as many as the process may use
    #[arg(long, env = "KAITO_RUNTIME_THREADS", value_parser = at_least_one)]
    threads: Option<usize>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("has to be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

fn named(text: &str) -> Result<Named, String> {
    match text.split_once('=') {
        Some((name, folder)) if !name.is_empty() && !folder.is_empty() => Ok(Named {
            name: name.to_owned(),
            folder: folder.into(),
        }),
        _ => Err("write NAME=DIR".to_owned()),
    }
}

/// Parses the command line and runs; the process' exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry();
    let ended = match cli.command {
        Command::Serve(args) => run(*args),
        Command::Bench(args) => bench(&args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "ended");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &BenchArgs) -> anyhow::Result<()> {
    let report = bench::run(args)?;
    writeln!(std::io::stdout(), "{report}").context("writing to standard output")
}

fn telemetry() {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_from_env("KAITO_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.init();
    } else {
        builder.json().init();
    }
}

fn run(args: ServeArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .context("starting the async runtime")?;
    let shutdown = CancellationToken::new();
    runtime.block_on(async {
        stop_on_signals(shutdown.clone()).context("listening for SIGTERM and SIGINT")?;
        serve(args, shutdown).await
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
        shutdown.cancel();
    });
    Ok(())
}

async fn serve(args: ServeArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    // The port first: a probe is refused until the model is there, and a port that is taken is told at once.
    let listener = server::listen(SocketAddr::new(args.address, args.port)).await?;
    let address = listener.local_addr().context("asking for the port")?;
    let metrics = Metrics::default();
    let (backend, ended) = match args.engine {
        Kind::Native => {
            let (native, ended) = native(&args, metrics.clone())?;
            (Backend::Native(Box::new(native)), Some(ended))
        }
        Kind::Proxy => (
            Backend::Proxy(Box::new(proxy(&args, metrics.clone())?)),
            None,
        ),
    };
    let keys = match &args.api_key_file {
        Some(path) => {
            let keys = Keys::read(path)?;
            tokio::spawn(keys.clone().refresh(path.clone()));
            Some(keys)
        }
        None => None,
    };
    let app = Arc::new(App {
        backend,
        metrics,
        keys,
        settings: Settings {
            body_bytes: args.limits.max_body_bytes,
            body_time: Duration::from_secs(30),
        },
        stopping: AtomicBool::new(false),
    });
    let connections = Connections {
        most: args.limits.max_connections,
        header_time: Duration::from_secs(30),
        drain_time: Duration::from_secs(args.limits.drain_seconds),
    };
    tracing::info!(%address, "serving");
    let served = server::serve(listener, app, connections, shutdown.clone());
    tokio::select! {
        drained = served => {
            if drained == Drained::Some {
                tracing::warn!("some answers were cut off; raise --drain-seconds");
            }
            Ok(())
        }
        () = failure(ended, shutdown) => anyhow::bail!("the engine failed; see the message above"),
    }
}

/// Resolves when the engine ends although nobody told it to.
async fn failure(ended: Option<Ended>, shutdown: CancellationToken) {
    if let Some(ended) = ended {
        drop(ended.await);
        if !shutdown.is_cancelled() {
            return;
        }
    }
    std::future::pending::<()>().await;
}

fn proxy(args: &ServeArgs, metrics: Metrics) -> anyhow::Result<Proxy> {
    let limits = &args.limits;
    let name = args.names.first().cloned().unwrap_or_default();
    let most = limits.max_sequences + limits.max_queue;
    Ok(Proxy::new(args.upstream.clone(), name, most, metrics)?)
}

fn native(args: &ServeArgs, metrics: Metrics) -> anyhow::Result<(Native, Ended)> {
    let started = Instant::now();
    let path = args.model.as_ref().context("--model is missing")?;
    let source = Source::open(path)?;
    let tokenizer = Arc::new(Tokenizer::load(&source)?);
    let model = Arc::new(source.load(args.limits.max_model_len)?);
    let served = served(args, path, model.config())?;
    let limits = limits(&args.limits);
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!(
        model = %path.display(), family = ?model.config().family, seconds, threads = limits.threads,
        instructions = kernel::instructions(), adapters = served.iter().filter(|s| s.adapter.is_some()).count(),
        "the model is loaded"
    );
    let (engine, ended) = Engine::start(model, Arc::clone(&tokenizer), limits, metrics)?;
    let LimitArgs {
        default_tokens,
        max_tokens,
        ..
    } = args.limits;
    Ok((
        Native::new(engine, tokenizer, served, default_tokens, max_tokens),
        ended,
    ))
}

fn limits(args: &LimitArgs) -> Limits {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    Limits {
        sequences: args.max_sequences,
        queue: args.max_queue,
        step_tokens: args.step_tokens,
        cache_bytes: args.kv_cache_mib.saturating_mul(1 << 20),
        threads: args.threads.unwrap_or(available),
    }
}

/// All names that can be asked for: the model's, then those of the adapters.
fn served(args: &ServeArgs, path: &Path, config: &Config) -> anyhow::Result<Vec<Served>> {
    let mut names = args.names.clone();
    if names.is_empty() {
        let stem = if path.is_file() {
            path.file_stem()
        } else {
            path.file_name()
        };
        let name = stem.and_then(|stem| stem.to_str()).unwrap_or("model");
        names.push(name.to_owned());
    }
    let base = names.into_iter().map(|name| Served {
        name,
        adapter: None,
    });
    let mut all: Vec<Served> = base.collect();
    let mut adapters = args.adapters.clone();
    if let Some(folder) = &args.adapter_dir {
        adapters.extend(
            found(folder)
                .with_context(|| format!("looking for adapters in {}", folder.display()))?,
        );
    }
    for Named { name, folder } in adapters {
        if all.iter().any(|served| served.name == name) {
            anyhow::bail!("two models are called {name}; rename the adapter");
        }
        let adapter = Arc::new(Adapter::load(&name, &folder, config)?);
        tracing::info!(name, bytes = adapter.bytes(), "an adapter is loaded");
        all.push(Served {
            name,
            adapter: Some(adapter),
        });
    }
    Ok(all)
}

/// Folders with an adapter, in order of their names.
fn found(folder: &Path) -> std::io::Result<Vec<Named>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .map(str::to_owned);
        if let Some(name) = name.filter(|_| path.join("adapter_config.json").is_file()) {
            all.push(Named { name, folder: path });
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}
