//! `chat`: talk to the model of a Workspace, through the API server, so that no port needs to be opened.

pub mod answer;
pub mod conversation;
mod exchange;
mod session;

use std::io::Read;

use serde_json::Value;

use self::conversation::{Conversation, Parameters};
use self::exchange::Exchange;
use super::status::{exit_of, workspace_name};
use crate::Context;
use crate::cli::duration::{self, GoDuration};
use crate::cluster::Cluster;
use crate::error::{Exit, Failure};
use crate::readiness::{Verdict, judge};

/// Most bytes of a prompt that are read from stdin: 1 MiB is beyond the context of any model.
const STDIN_LIMIT: u64 = 1 << 20;

/// Why nobody is asked.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// A number that no server takes.
    #[error("--{name} must be between 0 and {most}, not {value}")]
    Range {
        /// The flag.
        name: &'static str,
        /// Largest value.
        most: f64,
        /// What was typed.
        value: f64,
    },
    /// An answer of no length.
    #[error("--max-tokens must be at least 1")]
    NoTokens,
    /// Stdin failed.
    #[error("cannot read the prompt from stdin")]
    Stdin(#[source] std::io::Error),
    /// Stdin does not end.
    #[error("the text on stdin is longer than {STDIN_LIMIT} bytes")]
    LongPrompt,
    /// Nothing to ask.
    #[error("there is no prompt: give one as an argument or on stdin")]
    NoPrompt,
    /// The object is none that we know.
    #[error("cannot read workspace {name:?}")]
    Unreadable {
        /// The Workspace.
        name: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// It serves nothing.
    #[error("workspace {name:?} tunes a model; only one that serves a model can answer")]
    Tunes {
        /// The Workspace.
        name: String,
    },
    /// It serves nothing yet.
    #[error("workspace {name:?} is not ready: {reason}")]
    NotReady {
        /// The Workspace.
        name: String,
        /// Why, in its own words.
        reason: String,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = Self::of(&error);
        match error {
            Error::NotReady { name, .. } => {
                failure.with_hint(format!("To see why: kubectl kaito why {name}"))
            }
            _ => failure,
        }
    }
}

/// Flags of `chat`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  # One question; only the answer goes to stdout
  kubectl kaito chat phi \"Why is the sky blue?\"

  # A text to work on from stdin, below the prompt
  kubectl kaito chat phi \"Summarise this:\" < notes.txt

  # A conversation; /help lists what else may be typed
  kubectl kaito chat phi

Exit status: 0 answered, 3 the Workspace is not ready, 4 timed out, 5 it has failed.")]
pub struct Args {
    /// Workspace, as NAME or workspace/NAME
    #[arg(value_name = "NAME")]
    pub name: String,
    /// What to ask; without it, and with a terminal, a conversation begins
    #[arg(value_name = "PROMPT")]
    pub prompt: Option<String>,
    /// The same as PROMPT
    #[arg(short, long, value_name = "PROMPT", conflicts_with = "prompt")]
    pub message: Option<String>,
    /// Instructions that the model gets before the conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Randomness of the answer, 0 to 2; 0 always takes the likeliest token
    #[arg(long, value_name = "NUMBER", default_value_t = 0.7)]
    pub temperature: f64,
    /// Share of probability that tokens are taken from, 0 to 1
    #[arg(long, value_name = "NUMBER", default_value_t = 0.9)]
    pub top_p: f64,
    /// Longest answer in tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 1024)]
    pub max_tokens: u32,
    /// Makes a random answer repeatable
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Show the answer while it is made
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_name = "BOOL")]
    pub stream: bool,
    /// Print the server's own JSON answer
    #[arg(long, conflicts_with = "stats")]
    pub json: bool,
    /// Answer with this adapter of the Workspace
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// After the answer, say on stderr how long it took
    #[arg(long)]
    pub stats: bool,
    /// Give up when no part of an answer has come for this time; 0 waits without end
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration::parse, allow_hyphen_values = true)]
    pub timeout: GoDuration,
}

/// Runs `chat`.
///
/// # Errors
/// The Workspace is not ready or cannot be reached, or the model refuses.
pub async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let parameters = parameters(args)?;
    let name = workspace_name(&args.name)?;
    let prompt = prompt(args, context)?;
    let cluster = Cluster::connect(context).await?;
    ready(&cluster, name).await?;
    let exchange = Exchange::new(&cluster, name, args, context).await?;
    let conversation = Conversation::new(args.system.clone(), parameters);
    match prompt {
        Some(prompt) => one_shot(&exchange, conversation, prompt).await,
        None => session::run(&exchange, conversation, context).await,
    }
}

fn parameters(args: &Args) -> Result<Parameters, Failure> {
    let within = |name: &'static str, value: f64, most: f64| {
        if (0.0..=most).contains(&value) {
            return Ok(value);
        }
        Err(Error::Range { name, most, value })
    };
    if args.max_tokens == 0 {
        return Err(Error::NoTokens.into());
    }
    Ok(Parameters {
        temperature: within("temperature", args.temperature, 2.0)?,
        top_p: within("top-p", args.top_p, 1.0)?,
        max_tokens: args.max_tokens,
        seed: args.seed,
        stop: args.stop.clone(),
        model: args.adapter.clone(),
        stream: args.stream && !args.json,
    })
}

/// The question, if this is not a conversation: the argument, and below it what stdin holds when that is not a
/// terminal.
fn prompt(args: &Args, context: &Context) -> Result<Option<String>, Failure> {
    let given = args.prompt.as_ref().or(args.message.as_ref());
    if context.environment.stdin_is_terminal {
        return Ok(given.cloned());
    }
    let mut text = String::new();
    std::io::stdin()
        .take(STDIN_LIMIT + 1)
        .read_to_string(&mut text)
        .map_err(Error::Stdin)?;
    if text.len() as u64 > STDIN_LIMIT {
        return Err(Error::LongPrompt.into());
    }
    let text = text.trim();
    match (given, text.is_empty()) {
        (None, true) => Err(Error::NoPrompt.into()),
        (Some(given), true) => Ok(Some(given.clone())),
        (None, false) => Ok(Some(text.to_owned())),
        (Some(given), false) => Ok(Some(format!("{given}\n\n{text}"))),
    }
}

async fn ready(cluster: &Cluster, name: &str) -> Result<(), Failure> {
    let workspaces = cluster.workspaces();
    let what = format!("get workspaces.kaito.sh {name}");
    let found = cluster.call(&what, workspaces.get(name)).await?;
    let object = serde_json::to_value(&found).map_err(|source| Error::Unreadable {
        name: name.to_owned(),
        source,
    })?;
    if object.get("tuning").is_some_and(|tuning| !tuning.is_null()) {
        let name = name.to_owned();
        return Err(Error::Tunes { name }.into());
    }
    let verdict = judge(&object);
    let reason = match &verdict {
        Verdict::Ready => return Ok(()),
        Verdict::Waiting(reason) | Verdict::Failed(reason) => reason,
    };
    let error = Error::NotReady {
        name: name.to_owned(),
        reason: reason.clone(),
    };
    Err(Failure::from(error).with_exit(exit_of(&verdict)))
}

async fn one_shot(
    exchange: &Exchange<'_>,
    mut conversation: Conversation,
    prompt: String,
) -> Result<Exit, Failure> {
    conversation.ask(prompt);
    exchange.answer(&conversation).await?;
    Ok(Exit::Success)
}

/// The name of the first model that `/v1/models` lists; servers name the base model first.
fn first_model(models: &Value) -> Option<String> {
    let first = models.get("data")?.as_array()?.first()?;
    Some(first.get("id")?.as_str()?.to_owned())
}
