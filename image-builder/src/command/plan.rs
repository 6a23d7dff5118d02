//! `plan`: what would be made, without reading a weight or writing anything.

use clap::ValueEnum;

use super::Context;
use super::failure::{Exit, Failure};
use super::flags::{ProgressFlags, RegistryFlags, SourceFlags};
use super::prepare::{Inputs, prepare};
use super::shape::ShapeFlags;
use super::table::{render, row};
use crate::plan::Summary;
use crate::progress::Size;
use crate::push::Forecast;

/// Flags of `plan`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory, file, hf://ORG/MODEL[@REVISION], azblob://ACCOUNT/CONTAINER[/PREFIX], https://… or oci://REF
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// text or json
    #[arg(short = 'o', long, value_name = "FORMAT", value_enum, default_value_t = Format::Text, hide_possible_values = true)]
    pub(crate) output: Format,
    /// What is made.
    #[command(flatten)]
    pub(crate) shape: ShapeFlags,
    /// Where files come from.
    #[command(flatten)]
    pub(crate) files: SourceFlags,
    /// How registries are reached.
    #[command(flatten)]
    pub(crate) registry: RegistryFlags,
    /// What is told.
    #[command(flatten)]
    pub(crate) progress: ProgressFlags,
}

/// Value of `-o` of commands that answer a question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Plans.
pub(crate) async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let inputs = Inputs {
        source: &args.source,
        files: &args.files,
        shape: &args.shape,
        registry: &args.registry,
    };
    let prepared = prepare(&inputs, context).await?;
    let summary = prepared.plan.summary();
    match args.output {
        Format::Json => context
            .output
            .data(&serde_json::to_string_pretty(&summary)?)?,
        Format::Text => {
            for line in text(&summary, None) {
                context.output.data(&line)?;
            }
        }
    }
    Ok(Exit::Success)
}

/// A plan for people.
pub(crate) fn text(summary: &Summary, forecast: Option<&[Forecast]>) -> Vec<String> {
    let mut rows = vec![row([
        "BLOB",
        "SIZE",
        "ENCODING",
        "DIGEST",
        "AT THE DESTINATION",
    ])];
    for (index, blob) in summary.blobs.iter().enumerate() {
        let there = match forecast.and_then(|list| list.get(index)) {
            None => "",
            Some(Forecast::Present) => "there already",
            Some(Forecast::Absent) => "to be sent",
            Some(Forecast::Unknown) => "unknown before it is read",
        };
        rows.push(vec![
            super::failure::harmless(&blob.name),
            Size(blob.content_bytes).to_string(),
            blob.encoding.to_owned(),
            blob.digest
                .map_or_else(|| "unknown".to_owned(), |digest| digest.to_string()),
            there.to_owned(),
        ]);
    }
    for layer in &summary.mounts {
        rows.push(vec![
            "base image".to_owned(),
            Size(layer.size).to_string(),
            "as it is".to_owned(),
            layer.digest.to_string(),
            "to be mounted".to_owned(),
        ]);
    }
    let mut lines = vec![headline(summary)];
    lines.extend(render(&rows));
    lines.extend(summary.notes.iter().map(|note| format!("note: {note}")));
    lines.extend(summary.findings.iter().map(|finding| {
        format!(
            "warning: {}: {}: {}",
            finding.kind.name(),
            finding.path,
            finding.reason
        )
    }));
    lines
}

fn headline(summary: &Summary) -> String {
    let model = &summary.model;
    let facts = [
        model.family.clone(),
        model.parameters.map(|count| format!("{count} parameters")),
        model.precision.clone(),
        model.quantization.clone(),
        model.license_expression(),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().collect();
    let platforms = if summary.platforms.is_empty() {
        String::new()
    } else {
        format!(" for {}", summary.platforms.join(", "))
    };
    let facts = if facts.is_empty() {
        String::new()
    } else {
        format!(" ({})", facts.join(", "))
    };
    format!(
        "{} blobs, {}{platforms}{facts}",
        summary.blobs.len(),
        Size(summary.content_bytes)
    )
}
