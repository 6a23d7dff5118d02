//! The answer for people: a table, the memory account of the best choice, warnings, and the sentence for "no".

use std::fmt::Write as _;

use kaito_placement::explain::price;

use crate::error::{Exit, Failure};
use crate::output::table::{Headers, Table};

use super::choice::{Answer, Choice, Rejected};
use super::document::gib;
use super::question::Question;

/// Table of the choices and the account of the first.
#[must_use]
pub fn answer(question: &Question, answer: &Answer) -> String {
    let shown: Vec<&Choice> = answer.choices.iter().take(question.top).collect();
    let mut text = format!("Model: {}\n\n", question.model.name);
    text.push_str(&table(&shown));
    if let Some(first) = shown.first() {
        text.push('\n');
        text.push_str(&account(first));
    }
    let left_out = answer.choices.len() - shown.len();
    if left_out > 0 {
        let _ = writeln!(text, "\n{left_out} more; show all with --top 0");
    }
    if question.named {
        for item in &answer.rejected {
            let _ = writeln!(text, "\n{}: {}", item.info.name, item.reason);
        }
    }
    text
}

fn table(choices: &[&Choice]) -> String {
    let mut table = Table::new(&[
        "INSTANCE TYPE",
        "GPU",
        "NODES",
        "GPUS",
        "TP",
        "PP",
        "DP",
        "MAX CONTEXT",
        "CONCURRENCY",
        "PRICE",
        "SHARE",
    ]);
    for choice in choices {
        let estimate = &choice.estimate;
        table.rows.push(vec![
            choice.info.name.clone(),
            choice.info.gpu_model.clone(),
            estimate.nodes.to_string(),
            format!("{}/{}", estimate.gpus_per_node, choice.info.gpu_count),
            estimate.tensor_parallel.to_string(),
            estimate.pipeline_parallel.to_string(),
            estimate.data_parallel.to_string(),
            estimate.max_context.to_string(),
            estimate.max_concurrency.to_string(),
            price(choice.price_micro_dollars()),
            price(choice.share_micro_dollars()),
        ]);
    }
    table.render(Headers::Show)
}

fn account(choice: &Choice) -> String {
    let memory = &choice.estimate.memory_per_gpu;
    let mut text = format!(
        "Memory per GPU of {}: weights {:.2}, KV cache {:.2}, overhead {:.2}, free {:.2} GiB \
         (utilisation {:.2})\n{}\n",
        choice.info.name,
        gib(memory.weights),
        gib(memory.kv_cache),
        gib(memory.overhead),
        gib(memory.free),
        choice.estimate.utilization,
        choice.estimate.explanation,
    );
    for warning in &choice.warnings {
        let _ = writeln!(text, "Warning: {warning}");
    }
    text
}

/// Why nothing fits, in one sentence: the only type's reason, or that of the one that comes nearest.
#[must_use]
pub fn reason(question: &Question, answer: &Answer) -> String {
    match answer.rejected.as_slice() {
        [] => format!("no instance type is known for {}", question.model.name),
        [only] => format!("{}: {}", only.info.name, only.reason),
        several => {
            let nearest = several.iter().max_by_key(|item| capacity(item));
            let tail =
                nearest.map(|item| format!("; the largest, {}: {}", item.info.name, item.reason));
            format!(
                "none of {} instance types fits{}",
                several.len(),
                tail.unwrap_or_default()
            )
        }
    }
}

fn capacity(item: &Rejected) -> (bool, u32) {
    (item.info.is_nvidia(), item.info.total_gpu_memory_gib())
}

/// The failure for "does not fit", exit 3.
#[must_use]
pub fn unfit(question: &Question, answer: &Answer) -> Failure {
    Failure::error(format!("{} does not fit", question.model.name))
        .with_hint(reason(question, answer))
        .with_exit(Exit::Negative)
}
