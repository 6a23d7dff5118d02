//! Landings as text and as documents.

use std::error::Error as _;
use std::fmt::Write as _;

use jiff::Timestamp;
use kaito_api::catalogue;
use kaito_placement::explain::price;
use kaito_placement::plan::PlannedNode;
use kaito_snapshot::sizing::Sizing;
use serde_json::{Map, Value, json};

use crate::Context;
use crate::commands::plan::document::{dollars, gib};
use crate::error::Failure;
use crate::output::escape;
use crate::output::format::Format;
use crate::output::table::{Headers, Table};
use crate::view::document;

use super::decide::{Decision, Landing};

/// Prints the landings.
///
/// # Errors
/// A closed pipe or another write error.
pub fn print(
    landings: &[Landing],
    format: &Format,
    context: &Context,
    now: Timestamp,
) -> Result<(), Failure> {
    if *format == Format::Human {
        return context.printer.data(&text(landings));
    }
    let fields = match landings {
        [only] => fields(only),
        several => json!({"landings": several.iter().map(fields).collect::<Vec<_>>()}),
    };
    document::print(
        &document::document("Plan", now, &fields),
        format,
        &context.printer,
    )
}

/// All landings for people.
#[must_use]
pub fn text(landings: &[Landing]) -> String {
    let blocks: Vec<String> = landings.iter().map(block).collect();
    blocks.join("\n")
}

fn block(landing: &Landing) -> String {
    let mut text = format!("Workspace {}: {}\n", landing.workspace, headline(landing));
    if let Some(sizing) = &landing.sizing {
        let _ = writeln!(text, "Size: {}", size(sizing));
        if !sizing.explanation.is_empty() {
            let _ = writeln!(text, "      {}", sizing.explanation);
        }
        for warning in &sizing.warnings {
            let _ = writeln!(text, "Warning: {warning}");
        }
    }
    let mut text = escape::multiline(&text);
    text.push_str(&details(&landing.decision));
    text
}

fn size(sizing: &Sizing) -> String {
    let plural = |count: u32, word: &str| {
        if count == 1 {
            format!("1 {word}")
        } else {
            format!("{count} {word}s")
        }
    };
    let place = sizing
        .instance_type
        .as_ref()
        .map(|name| format!(" on {name}"))
        .unwrap_or_default();
    format!(
        "{} x {}{place}",
        plural(sizing.replicas, "pod"),
        plural(sizing.gpus, "GPU")
    )
}

fn headline(landing: &Landing) -> String {
    match &landing.decision {
        Decision::Placed(pods) => format!("runs on {} already", nodes_of(pods)),
        Decision::Assign(_) => "gets its nodes now".to_owned(),
        Decision::Buy(bought, _) => {
            let total: Option<u64> = bought.iter().map(price_of).sum();
            format!(
                "waits for {} to be bought, {}",
                count_nodes(bought.len()),
                price(total)
            )
        }
        Decision::Wait(_) if landing.fits() => "waits for nodes that are on their way".to_owned(),
        Decision::Wait(_) => "waits, nothing fits".to_owned(),
        Decision::Incomplete => {
            "its pods are not all there yet, so it is not planned now".to_owned()
        }
        Decision::Refused(_) => "cannot run as written".to_owned(),
    }
}

fn count_nodes(count: usize) -> String {
    if count == 1 {
        "1 node".to_owned()
    } else {
        format!("{count} nodes")
    }
}

fn nodes_of(pods: &[(String, String)]) -> String {
    let mut names: Vec<&str> = pods.iter().map(|(_, node)| node.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

fn details(decision: &Decision) -> String {
    match decision {
        Decision::Placed(pods) => places(pods),
        Decision::Assign(assignment) => {
            let pods: Vec<(String, String)> = assignment
                .members
                .iter()
                .map(|member| (member.member.clone(), member.node.clone()))
                .collect();
            format!("Why: {}\n{}", assignment.reason, places(&pods))
        }
        Decision::Buy(bought, waiting) => {
            let mut table = Table::new(&["BUY", "PRICE", "SHARED BY", "WHY"]);
            for node in bought {
                table.rows.push(vec![
                    node.instance_type.clone(),
                    price(price_of(node)),
                    node.for_demands.join(", "),
                    node.reason.clone(),
                ]);
            }
            format!(
                "Why: {}\n{}",
                escape::single_line(&waiting.message),
                table.render(Headers::Show)
            )
        }
        Decision::Wait(waiting) => format!("Why: {}\n", escape::single_line(&waiting.message)),
        Decision::Incomplete => String::new(),
        Decision::Refused(error) => format!("Why: {}\n", escape::single_line(&reason(error))),
    }
}

fn places(pods: &[(String, String)]) -> String {
    let mut table = Table::new(&["POD", "NODE"]);
    table.rows.extend(
        pods.iter()
            .map(|(pod, node)| vec![pod.clone(), node.clone()]),
    );
    table.render(Headers::Show)
}

fn price_of(node: &PlannedNode) -> Option<u64> {
    catalogue::instance_type(&node.instance_type)?.price_micro_dollars
}

/// The error with its source: the outer text says what, the inner has the numbers.
fn reason(error: &kaito_snapshot::sizing::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// The fields of a landing.
#[must_use]
pub fn fields(landing: &Landing) -> Value {
    let mut fields = Map::new();
    let mut set = |key: &str, value: Value| {
        fields.insert(key.to_owned(), value);
    };
    set("workspace", json!(landing.workspace));
    set("fits", json!(landing.fits()));
    set("decision", json!(word(&landing.decision)));
    if let Some(sizing) = &landing.sizing {
        size_fields(sizing, &mut set);
    }
    match &landing.decision {
        Decision::Placed(pods) => set(
            "placements",
            placements(pods.iter().map(|(pod, node)| (pod, node))),
        ),
        Decision::Assign(found) => {
            set("reason", json!(found.reason));
            set(
                "placements",
                placements(
                    found
                        .members
                        .iter()
                        .map(|member| (&member.member, &member.node)),
                ),
            );
        }
        Decision::Buy(bought, waiting) => {
            set("reason", json!(waiting.message));
            set("blocker", json!(waiting.blocker));
            set(
                "purchases",
                json!(bought.iter().map(purchase).collect::<Vec<_>>()),
            );
            let total: Option<u64> = bought.iter().map(price_of).sum();
            set("purchasePricePerHour", json!(total.map(dollars)));
        }
        Decision::Wait(waiting) => {
            set("reason", json!(waiting.message));
            set("blocker", json!(waiting.blocker));
        }
        Decision::Incomplete => {}
        Decision::Refused(error) => set("reason", json!(reason(error))),
    }
    Value::Object(fields)
}

const fn word(decision: &Decision) -> &'static str {
    match decision {
        Decision::Placed(_) => "placed",
        Decision::Assign(_) => "assign",
        Decision::Buy(..) => "buy",
        Decision::Wait(_) | Decision::Incomplete => "wait",
        Decision::Refused(_) => "refused",
    }
}

fn size_fields(sizing: &Sizing, set: &mut impl FnMut(&str, Value)) {
    set("model", json!(sizing.preset.map(|preset| &preset.name)));
    set("instanceType", json!(sizing.instance_type));
    set("nodes", json!(sizing.replicas));
    set("gpusPerNode", json!(sizing.gpus));
    set("explanation", json!(sizing.explanation));
    set("warnings", json!(sizing.warnings));
    let Some(estimate) = &sizing.estimate else {
        return;
    };
    let memory = &estimate.memory_per_gpu;
    set("tensorParallel", json!(estimate.tensor_parallel));
    set("pipelineParallel", json!(estimate.pipeline_parallel));
    set("dataParallel", json!(estimate.data_parallel));
    set("maxContext", json!(estimate.max_context));
    set("maxConcurrency", json!(estimate.max_concurrency));
    set(
        "memoryPerGpuGiB",
        json!({"weights": gib(memory.weights), "kvCache": gib(memory.kv_cache),
               "overhead": gib(memory.overhead), "free": gib(memory.free)}),
    );
}

fn placements<'a>(pods: impl Iterator<Item = (&'a String, &'a String)>) -> Value {
    pods.map(|(pod, node)| json!({"pod": pod, "node": node}))
        .collect()
}

fn purchase(node: &PlannedNode) -> Value {
    json!({
        "instanceType": node.instance_type,
        "pricePerHour": price_of(node).map(dollars),
        "forWorkspaces": node.for_demands,
        "reason": node.reason,
    })
}
