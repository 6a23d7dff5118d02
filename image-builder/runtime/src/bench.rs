//! `kaito-runtime bench`: how fast a model runs here, and what it says to given prompts, as JSON for comparisons.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;

use crate::model::{Cache, Model, Source, Step};
use crate::text::sampling::likeliest;
use crate::text::tokenizer::Begin;
use crate::text::{Message, Tokenizer};

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Folder or GGUF file of the model
    #[arg(long, env = "KAITO_RUNTIME_MODEL")]
    model: PathBuf,
    /// Threads to compute with; by default as many as the process may use
    #[arg(long)]
    threads: Option<usize>,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 256)]
    prompt_tokens: usize,
    /// Tokens to generate after it
    #[arg(long, default_value_t = 64)]
    generate: usize,
    /// How often; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Questions to answer greedily, each put through the chat template; can be repeated
    #[arg(long = "ask", value_name = "TEXT")]
    questions: Vec<String>,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    instructions: &'static str,
    threads: usize,
    load_seconds: f64,
    prompt_tokens_per_second: f64,
    generated_tokens_per_second: f64,
    first_token_seconds: f64,
    /// The same by processor time: what one core does when others want the machine too.
    prompt_tokens_per_cpu_second: f64,
    generated_tokens_per_cpu_second: f64,
    peak_memory_bytes: u64,
    answers: Vec<Answer>,
}

/// A greedy answer.
#[derive(Debug, Serialize)]
struct Answer {
    prompt: Vec<u32>,
    tokens: Vec<u32>,
    /// Logit of each token, minus that of the runner-up.
    leads: Vec<f32>,
    text: String,
}

/// Seconds that passed, and seconds that processors worked for this program.
#[derive(Clone, Copy, Debug)]
struct Span {
    wall: f64,
    cpu: f64,
}

struct Timing {
    prompt: Span,
    generation: Span,
}

struct Clock {
    started: Instant,
    cpu: f64,
}

impl Clock {
    fn start() -> Self {
        Self {
            started: Instant::now(),
            cpu: cpu_seconds(),
        }
    }

    fn stop(&self) -> Span {
        Span {
            wall: self.started.elapsed().as_secs_f64(),
            cpu: cpu_seconds() - self.cpu,
        }
    }
}

/// Processor time of all threads, as Linux tells; 0 elsewhere.
fn cpu_seconds() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
}

/// Measures and returns the report as JSON.
///
/// # Errors
/// If the model cannot be loaded.
pub fn run(args: &BenchArgs) -> anyhow::Result<String> {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or(available);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .context("starting threads")?;
    let started = Instant::now();
    let source = Source::open(&args.model)?;
    let tokenizer = Tokenizer::load(&source)?;
    let model = source.load(None)?;
    let load_seconds = started.elapsed().as_secs_f64();
    let mut timings: Vec<Timing> = pool.install(|| {
        (0..args.rounds.max(1))
            .map(|_| time(&model, args))
            .collect()
    });
    let prompt = median(&mut timings, |timing| timing.prompt.wall);
    let generation = median(&mut timings, |timing| timing.generation.wall);
    let prompt_cpu = median(&mut timings, |timing| timing.prompt.cpu);
    let generation_cpu = median(&mut timings, |timing| timing.generation.cpu);
    let mut answers = Vec::new();
    for question in &args.questions {
        let answer = pool.install(|| answer(&model, &tokenizer, question, args.generate));
        answers.push(answer?);
    }
    let report = Report {
        instructions: crate::kernel::instructions(),
        threads,
        load_seconds,
        prompt_tokens_per_second: args.prompt_tokens as f64 / prompt,
        generated_tokens_per_second: args.generate as f64 / generation,
        first_token_seconds: prompt,
        prompt_tokens_per_cpu_second: args.prompt_tokens as f64 / prompt_cpu,
        generated_tokens_per_cpu_second: args.generate as f64 / generation_cpu,
        peak_memory_bytes: peak_memory(),
        answers,
    };
    serde_json::to_string(&report).context("writing the report")
}

fn median(timings: &mut [Timing], of: impl Fn(&Timing) -> f64) -> f64 {
    timings.sort_by(|a, b| of(a).total_cmp(&of(b)));
    timings.get(timings.len() / 2).map_or(f64::NAN, of)
}

fn step(model: &Model, cache: &mut Cache, tokens: &[u32]) -> Vec<f32> {
    let step = Step {
        cache,
        tokens,
        adapter: None,
        wants_logits: true,
    };
    model
        .forward(&mut [step])
        .pop()
        .flatten()
        .unwrap_or_default()
}

fn time(model: &Model, args: &BenchArgs) -> Timing {
    let mut cache = Cache::new(model.config());
    let vocabulary = u32::try_from(model.vocabulary()).unwrap_or(u32::MAX);
    let prompt: Vec<u32> = (0..)
        .map(|i: u32| i * 97 % vocabulary)
        .take(args.prompt_tokens)
        .collect();
    let clock = Clock::start();
    let mut token = 0;
    for part in prompt.chunks(256) {
        token = likeliest(&step(model, &mut cache, part));
    }
    let prompt = clock.stop();
    let clock = Clock::start();
    for _ in 0..args.generate {
        token = likeliest(&step(model, &mut cache, &[token]));
    }
    Timing {
        prompt,
        generation: clock.stop(),
    }
}

fn answer(
    model: &Model,
    tokenizer: &Tokenizer,
    question: &str,
    most: usize,
) -> anyhow::Result<Answer> {
    let message = Message {
        role: "user".to_owned(),
        content: question.to_owned(),
    };
    let template = tokenizer
        .template()
        .context("the model has no chat template")?;
    let prompt = tokenizer.encode(&template.render(&[message])?, Begin::Left)?;
    let mut cache = Cache::new(model.config());
    let mut logits = step(model, &mut cache, &prompt);
    let (mut tokens, mut leads) = (Vec::new(), Vec::new());
    while tokens.len() < most {
        let token = likeliest(&logits);
        let best = logits.get(token as usize).copied().unwrap_or_default();
        let others = (0..).zip(&logits).filter(|(other, _)| *other != token);
        let second = others.fold(f32::NEG_INFINITY, |second, (_, logit)| second.max(*logit));
        tokens.push(token);
        leads.push(best - second);
        if tokenizer.is_end(token) {
            break;
        }
        logits = step(model, &mut cache, &[token]);
    }
    Ok(Answer {
        text: tokenizer.decode(&tokens),
        prompt,
        tokens,
        leads,
    })
}

/// Most memory that this process ever had, as Linux tells; 0 elsewhere.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes =
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}
