//! `plan`: what a model needs, before anything is bought.
//!
//! Two questions, one command. With `--model` (or a model of the user's own): GPUs, memory, context and price, from
//! the embedded tables, without a cluster. With NAME, `-f` or `--nodes-from`: where it would land among the nodes
//! there are, by the scheduler's own code.

pub mod choice;
pub mod document;
pub mod landing;
pub mod objects;
pub mod question;
pub mod text;

use jiff::Timestamp;

use crate::Context;
use crate::error::{Exit, Failure};
use crate::output::format::Format;
use crate::view::document::{format, print};

use self::choice::Answer;
use self::question::Question;

/// Flags of `plan`.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:
  # What does a model need on an instance type, and what does that cost?
  kubectl kaito plan --model phi-4 --instance-type Standard_NC24ads_A100_v4

  # Which instance types would do, cheapest first?
  kubectl kaito plan --model llama-3.3-70b-instruct --context-len 32768

  # A model of your own: 14 GiB of weights, 128 KiB of KV cache per token
  kubectl kaito plan --weights-gib 14 --kv-bytes-per-token 131072

  # Where would this Workspace land in the cluster?
  kubectl kaito plan -f workspace.yaml

Exit status: 0 it fits, 3 it does not, 1 on errors.")]
pub struct Args {
    /// Workspace in the cluster
    #[arg(value_name = "NAME", conflicts_with_all = ["filename", "model"])]
    pub name: Option<String>,
    /// File that holds the Workspace; - is stdin
    #[arg(short = 'f', long, value_name = "FILE", conflicts_with = "model")]
    pub filename: Option<String>,
    /// Model: catalogue id, alias, or any name together with --weights-gib
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Instance type to judge; may be repeated. Without it all that are for sale are ranked
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    pub instance_type: Vec<String>,
    /// Tokens of context that must fit
    #[arg(long, value_name = "TOKENS")]
    pub context_len: Option<u32>,
    /// Sequences of that context at once
    #[arg(long, value_name = "N")]
    pub concurrency: Option<u32>,
    /// Element type of the KV cache: auto (2 bytes) or fp8 (1 byte)
    #[arg(long, value_name = "DTYPE", default_value = "auto", value_parser = ["auto", "fp8"])]
    pub kv_dtype: String,
    /// GPUs per node to use
    #[arg(long, value_name = "N")]
    pub gpus: Option<u32>,
    /// Nodes to use
    #[arg(long, value_name = "N")]
    pub nodes: Option<u32>,
    /// Tensor-parallel size
    #[arg(long, value_name = "N")]
    pub tensor_parallel: Option<u32>,
    /// Pipeline-parallel size
    #[arg(long, value_name = "N")]
    pub pipeline_parallel: Option<u32>,
    /// Data-parallel size
    #[arg(long, value_name = "N")]
    pub data_parallel: Option<u32>,
    /// Share of GPU memory that the engine may take, 0.1 to 0.99
    #[arg(long, value_name = "SHARE")]
    pub gpu_memory_utilization: Option<f64>,
    /// Size of the weight files in GiB, for a model of your own
    #[arg(long, value_name = "GIB")]
    pub weights_gib: Option<f64>,
    /// KV-cache bytes per token over all layers at 2 bytes per element, for a model of your own
    #[arg(long, value_name = "BYTES")]
    pub kv_bytes_per_token: Option<u64>,
    /// Attention heads of a model of your own
    #[arg(long, value_name = "N")]
    pub attention_heads: Option<u32>,
    /// KV heads of a model of your own
    #[arg(long, value_name = "N")]
    pub kv_heads: Option<u32>,
    /// Layers of a model of your own
    #[arg(long, value_name = "N")]
    pub layers: Option<u32>,
    /// Nodes to place on: cluster, or a file with the output of kubectl get nodes,pods,nodeclaims -A -o json
    #[arg(long, value_name = "cluster|FILE")]
    pub nodes_from: Option<String>,
    /// File to write the planner's snapshot and plan to, for kaito-scheduler replay
    #[arg(long, value_name = "FILE")]
    pub record: Option<std::path::PathBuf>,
    /// How many choices to show; 0 shows all
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub top: usize,
    /// Output format: table, json or yaml
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<String>,
}

/// Runs `plan`.
///
/// # Errors
/// Arguments that make no question, unknown names, unreadable input, an unreachable cluster.
pub async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let format = format(args.output.as_deref())?;
    let now = Timestamp::now();
    if wants_landing(args) {
        return landing::run(args, &format, context, now).await;
    }
    let question = question::parse(args)?;
    let answer = choice::answer(&question);
    show(&question, &answer, &format, context, now)
}

/// Whether the question is where something lands, not what a model needs.
fn wants_landing(args: &Args) -> bool {
    args.name.is_some()
        || args.filename.is_some()
        || args.nodes_from.is_some()
        || args.record.is_some()
}

fn show(
    question: &Question,
    answer: &Answer,
    format: &Format,
    context: &Context,
    now: Timestamp,
) -> Result<Exit, Failure> {
    let printer = &context.printer;
    match format {
        Format::Human if answer.choices.is_empty() => {}
        Format::Human => printer.data(&text::answer(question, answer))?,
        _ => print(&document::answer(question, answer, now), format, printer)?,
    }
    if answer.choices.is_empty() {
        return Err(text::unfit(question, answer));
    }
    Ok(Exit::Success)
}
