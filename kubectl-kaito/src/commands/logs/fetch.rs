//! `logs` without `-f`: what is there now, all pods merged by time.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::question::{Question, Target};
use super::stream::{From, Lines, open};
use super::target::{self, Simulated};
use crate::cluster::Cluster;
use crate::error::{Exit, Failure};
use crate::logs::{LineWriter, Merger, Source, select};
use crate::output::printer::Printer;

/// Prints the logs.
///
/// # Errors
/// Nothing can be selected, or a log cannot be read and `--ignore-errors` is not given.
pub async fn run(
    question: &Question,
    cluster: &Cluster,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let selected = target::select(question, cluster, printer).await?;
    let pods = target::list(cluster, &selected).await?;
    if pods.is_empty() {
        return nothing(question, cluster, printer);
    }
    let Chosen { sources, emulated } = choose(question, cluster, printer, &pods).await?;
    if sources.is_empty() {
        return if emulated {
            Ok(Exit::Success)
        } else {
            Err(not_started(question, &pods))
        };
    }
    let opened = open_all(question, cluster, printer, sources).await?;
    let failed = print(question, printer, opened).await?;
    if failed && !question.ignore_errors {
        Err(Failure::silent(Exit::Failure))
    } else {
        Ok(Exit::Success)
    }
}

/// Nothing matches: an answer for a selector, an error for a name.
fn nothing(question: &Question, cluster: &Cluster, printer: &Printer) -> Result<Exit, Failure> {
    match &question.target {
        Target::Selector(_) => {
            printer.note(&format!(
                "No resources found in {} namespace.",
                cluster.namespace()
            ))?;
            Ok(Exit::Success)
        }
        Target::Pod(name) => Err(Failure::verbatim(format!(
            "Error from server (NotFound): pods {name:?} not found"
        ))),
        Target::Workspace(name) | Target::Workload(_, name) => {
            Err(Failure::error(format!("{name:?} has no pods yet"))
                .with_hint(format!("To see why: kubectl kaito why {name}")))
        }
    }
}

struct Chosen {
    sources: Vec<Source>,
    emulated: bool,
}

/// The logs that exist. Pods on simulated nodes and, among several, containers that have not started are told and left
/// out.
async fn choose(
    question: &Question,
    cluster: &Cluster,
    printer: &Printer,
    pods: &[Pod],
) -> Result<Chosen, Failure> {
    let mut chosen = Chosen {
        sources: Vec::new(),
        emulated: false,
    };
    let mut notes = BTreeMap::new();
    let mut simulated = Simulated::default();
    for pod in pods {
        if simulated.holds(cluster, pod).await {
            target::sources(question, pod, &mut BTreeMap::new())?;
            printer.note(&target::emulated_note(pod))?;
            chosen.emulated = true;
            continue;
        }
        for source in target::sources(question, pod, &mut notes)? {
            if select::has_started(pod, &source.container) {
                chosen.sources.push(source);
            } else {
                printer.note(&format!(
                    "pod/{}/{}: has not started yet",
                    source.pod, source.container
                ))?;
            }
        }
    }
    for note in notes.into_keys() {
        printer.note(&note)?;
    }
    Ok(chosen)
}

fn not_started(question: &Question, pods: &[Pod]) -> Failure {
    let waiting: Vec<String> = pods
        .iter()
        .map(|pod| {
            format!(
                "{} ({})",
                pod.name_any(),
                crate::view::pod::state(pod).reason
            )
        })
        .collect();
    let failure = Failure::error(format!(
        "no container has started yet: {}",
        waiting.join(", ")
    ));
    match &question.target {
        Target::Workspace(name) => {
            failure.with_hint(format!("To see why: kubectl kaito why {name}"))
        }
        _ => failure,
    }
}

/// Opens every log, a few at a time. A refusal ends the command, or is told with `--ignore-errors`.
async fn open_all(
    question: &Question,
    cluster: &Cluster,
    printer: &Printer,
    sources: Vec<Source>,
) -> Result<Vec<(Source, Lines)>, Failure> {
    let answers: Vec<_> = stream::iter(sources)
        .map(|source| async move {
            let answer = open(question, cluster, &source, From::Asked).await;
            (source, answer)
        })
        .buffered(question.max_streams)
        .collect()
        .await;
    let mut opened = Vec::new();
    for (source, answer) in answers {
        match answer {
            Ok(lines) => opened.push((source, lines)),
            Err(error) => {
                let failure = cluster.explain(error, "get pods/log");
                if !question.ignore_errors {
                    return Err(failure);
                }
                for line in failure.lines() {
                    printer.note(&format!("{}{line}", source.prefix()))?;
                }
            }
        }
    }
    Ok(opened)
}

/// Prints the lines by time. Returns whether one of the logs broke off.
async fn print(
    question: &Question,
    printer: &Printer,
    mut opened: Vec<(Source, Lines)>,
) -> Result<bool, Failure> {
    let mut merger = Merger::new(opened.len());
    let mut writer = LineWriter::new(question.shape);
    let mut left: Vec<usize> = vec![question.limit_bytes.unwrap_or(usize::MAX); opened.len()];
    let mut broken = false;
    loop {
        if let Some(index) = merger.starved() {
            match opened.get_mut(index) {
                Some((source, lines)) => match lines.next().await {
                    Ok(Some(line)) => merger.push(index, line),
                    Ok(None) => {
                        if let Some(line) = lines.rest() {
                            merger.push(index, line);
                        }
                        merger.end(index);
                    }
                    Err(error) => {
                        printer.note(&format!(
                            "error: {}the log broke off: {error}",
                            source.prefix()
                        ))?;
                        broken = true;
                        merger.end(index);
                    }
                },
                None => merger.end(index),
            }
            continue;
        }
        let Some((index, line)) = merger.pop() else {
            break;
        };
        let (Some((source, _)), Some(left)) = (opened.get(index), left.get_mut(index)) else {
            continue;
        };
        if *left == 0 {
            merger.end(index);
            continue;
        }
        let line = if line.cost() > *left {
            line.truncated(*left)
        } else {
            line
        };
        *left = left.saturating_sub(line.cost());
        let mut bytes = Vec::with_capacity(line.stamped().len() + 1);
        // A vector takes everything.
        let _ = writer.line(&mut bytes, index, &source.prefix(), &line);
        printer.bytes(&bytes)?;
    }
    let mut rest = Vec::new();
    let _ = writer.finish(&mut rest);
    printer.bytes(&rest)?;
    printer.flush()?;
    Ok(broken)
}
