//! Results as JSON or as a table.

use std::fmt::Write;

use anyhow::{Context, Result};
use kaito_placement::packing::Policy;
use serde_json::{Map, Value, json};

use crate::curve::POINTS;
use crate::protocol::Run;

/// Figures that are averaged, in the order of the output: name and value per run.
type Figures = Vec<(&'static str, Option<u32>, Option<f64>)>;

fn figures(run: &Run) -> Figures {
    let mut figures: Figures = Vec::new();
    for (point, value) in POINTS.into_iter().zip(run.allocation) {
        figures.push(("allocationPercent", Some(point), value));
    }
    figures.push(("firstRejectionPercent", None, run.first_rejection));
    for (point, value) in POINTS.into_iter().zip(run.fragmentation) {
        figures.push(("fragmentationPercent", Some(point), value));
    }
    figures.push(("decisionsPerSecond", None, Some(run.decisions_per_second)));
    figures.push(("p50Micros", None, Some(run.p50_micros)));
    figures.push(("p99Micros", None, Some(run.p99_micros)));
    figures.push(("maxMicros", None, Some(run.max_micros)));
    figures.push(("peakRssMiB", None, Some(run.peak_rss_mib)));
    figures
}

fn object(figures: Figures) -> Map<String, Value> {
    let mut object = Map::new();
    for (name, point, value) in figures {
        let value = value.map_or(Value::Null, |value| json!((value * 1e4).round() / 1e4));
        match point {
            None => {
                object.insert(name.to_owned(), value);
            }
            Some(point) => {
                let points = object
                    .entry(name)
                    .or_insert_with(|| Value::Object(Map::new()));
                if let Some(points) = points.as_object_mut() {
                    points.insert(point.to_string(), value);
                }
            }
        }
    }
    object
}

/// Combines the same figure of all runs; runs that have none of it are left out.
fn combine(runs: &[Run], how: impl Fn(&[f64]) -> Option<f64>) -> Figures {
    let all: Vec<Figures> = runs.iter().map(figures).collect();
    let Some(first) = all.first() else {
        return Figures::new();
    };
    let value = |at: usize| {
        let values: Vec<f64> = all
            .iter()
            .filter_map(|figures| figures.get(at).and_then(|figure| figure.2))
            .collect();
        how(&values)
    };
    first
        .iter()
        .enumerate()
        .map(|(at, (name, point, _))| (*name, *point, value(at)))
        .collect()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Sample deviation; 0 for a single value.
fn deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some(if values.len() < 2 {
        0.0
    } else {
        (squares / (values.len() - 1) as f64).sqrt()
    })
}

/// Everything, per run and over all.
pub(crate) fn json(policy: Policy, runs: &[Run]) -> Result<String> {
    let each: Vec<Value> = runs
        .iter()
        .map(|run| {
            let mut each = Map::new();
            each.insert("seed".to_owned(), json!(run.seed));
            each.insert("arrivals".to_owned(), json!(run.arrivals));
            each.insert("placed".to_owned(), json!(run.placed));
            each.extend(object(figures(run)));
            Value::Object(each)
        })
        .collect();
    let report = json!({
        "policy": policy.name(),
        "runs": each,
        "mean": object(combine(runs, mean)),
        "sd": object(combine(runs, deviation)),
    });
    serde_json::to_string_pretty(&report).context("cannot write the report as JSON")
}

/// The same for people: one line per seed, then mean and deviation.
pub(crate) fn table(policy: Policy, runs: &[Run]) -> String {
    let mut text = format!("policy {policy}: allocated % of GPUs at arrived %\n");
    text.push_str("   seed     80     95    100    110    130  1st rejection  decisions/s  p50 µs  p99 µs  RSS MiB\n");
    for run in runs {
        line(&mut text, &run.seed.to_string(), &figures(run));
    }
    line(&mut text, "mean", &combine(runs, mean));
    line(&mut text, "sd", &combine(runs, deviation));
    text.truncate(text.trim_end().len());
    text
}

fn line(text: &mut String, name: &str, figures: &Figures) {
    let shown = |name: &str, decimals: usize, width: usize| -> String {
        let of_name = figures.iter().filter(|figure| figure.0 == name);
        of_name
            .map(|figure| match figure.2 {
                Some(value) => format!("{value:>width$.decimals$}"),
                None => format!("{:>width$}", "-"),
            })
            .collect::<Vec<_>>()
            .join(" ")
    };
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{name:>7} {} {:>14} {:>12} {:>7} {:>7} {:>8}",
        shown("allocationPercent", 2, 6),
        shown("firstRejectionPercent", 2, 6),
        shown("decisionsPerSecond", 0, 6),
        shown("p50Micros", 1, 6),
        shown("p99Micros", 1, 6),
        shown("peakRssMiB", 1, 6),
    );
}
