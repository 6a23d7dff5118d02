//! Measures `image-builder` beside oras and skopeo, in one run and against the same registries.
//!
//! Every client is a process of its own, so that processor time and peak memory are what the system counts for it.
//! The unit H is the processor time of sha256 over the same bytes on one core of this machine, measured in the same run.

mod client;
mod data;
mod measure;
mod server;
mod table;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kaito_tests::ending;

use client::Client;
use server::Server;
use table::Table;

/// Measures image-builder beside oras and skopeo.
#[derive(Debug, Parser)]
#[command(name = "bench-images")]
struct Arguments {
    #[command(subcommand)]
    step: Option<Step>,
    /// Trees of weights, FILESxMIB; may be repeated
    #[arg(long = "tree", value_name = "FILESxMIB", default_values = ["8x512", "1x4096"])]
    trees: Vec<data::Shape>,
    /// Size of the adapter in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    adapter: u64,
    /// A quick look: 4 × 32 MiB, an adapter of 16 MiB
    #[arg(long)]
    small: bool,
    /// Only the registries named: sink, distribution, debian
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Folder for the data, several times the size of the largest tree
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    folder: PathBuf,
}

/// Steps that run in a process of their own; this program starts them.
#[derive(Debug, Subcommand)]
enum Step {
    /// Runs a command and prints what it used
    #[command(hide = true)]
    Measure {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Hashes so many bytes of memory
    #[command(hide = true)]
    Hash { bytes: u64 },
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.step {
        Some(Step::Measure { words }) => measure::child(words),
        Some(Step::Hash { bytes }) => {
            data::hash(*bytes);
            Ok(())
        }
        None => run(&arguments).await,
    };
    ending::of_work(done)
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new()
        .prefix("bench-images-")
        .tempdir_in(&arguments.folder)?;
    let (trees, adapter) = if arguments.small {
        (
            vec![data::Shape {
                files: 4,
                mebibytes: 32,
            }],
            16,
        )
    } else {
        (arguments.trees.clone(), arguments.adapter)
    };
    let clients = client::all(folder.path())?;
    let mut out = io::stdout();
    writeln!(out, "{}", table::LEGEND)?;
    for shape in trees {
        let tree = data::tree(folder.path(), shape)?;
        let unit = measure::hash(tree.bytes)?;
        for name in ["sink", "distribution", "debian"] {
            if !arguments.only.is_empty() && !arguments.only.iter().any(|only| only == name) {
                continue;
            }
            let title = format!("{shape} against {name}");
            let Some(table) = against(name, &tree, &unit, &clients, folder.path()).await? else {
                continue;
            };
            writeln!(out, "\n{title}; H = {:.2} CPU-s\n{table}", unit.cpu)?;
        }
        std::fs::remove_dir_all(&tree.folder)?;
    }
    adapters(adapter, &clients, folder.path()).await
}

/// Push, push again and pull of one tree at one registry; none where the registry cannot be had.
async fn against(
    name: &str,
    tree: &data::Tree,
    unit: &measure::Usage,
    clients: &[Client],
    folder: &std::path::Path,
) -> anyhow::Result<Option<Table>> {
    let mut table = Table::new(unit.clone(), tree.bytes);
    for client in clients {
        // A registry of its own for each: none finds what another has pushed.
        let Some(server) = Server::start(name, folder, tree.bytes).await? else {
            return Ok(None);
        };
        client.prepare(tree)?;
        for action in ["push", "push again"] {
            let before = server.received();
            let usage = measure::run(&client.push(&server, tree), Some(&tree.folder))?;
            let sent = server.received().zip(before).map(|(now, then)| now - then);
            table.add(action, client.name(), &usage, sent);
        }
        let target = folder.join("pulled");
        let usage = measure::run(&client.pull(&server, &target), None)?;
        client.check_pulled(&target, tree)?;
        table.add("verified pull", client.name(), &usage, None);
        std::fs::remove_dir_all(&target)?;
        client.clean_up()?;
    }
    Ok(Some(table))
}

/// Build and push of an adapter.
async fn adapters(
    mebibytes: u64,
    clients: &[Client],
    folder: &std::path::Path,
) -> anyhow::Result<()> {
    let tree = data::adapter(folder, mebibytes)?;
    let unit = measure::hash(tree.bytes)?;
    let mut table = Table::new(unit.clone(), tree.bytes);
    for client in clients.iter().filter(|client| client.builds()) {
        if let Some(server) = Server::start("sink", folder, tree.bytes).await? {
            let usage = measure::run(&client.push_adapter(&server, &tree), Some(&tree.folder))?;
            table.add("adapter", client.name(), &usage, server.received());
            client.clean_up()?;
        }
    }
    let mut out = io::stdout();
    writeln!(
        out,
        "\nadapter of {mebibytes} MiB, build and push, against sink; H = {:.2} CPU-s\n{table}",
        unit.cpu
    )?;
    Ok(())
}
