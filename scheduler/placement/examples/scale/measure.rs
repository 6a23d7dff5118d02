//! Latencies, memory, and how they are shown.
#![expect(
    clippy::disallowed_methods,
    reason = "an example measures time and its own memory"
)]

use std::fmt::Write;
use std::time::Instant;

use serde_json::{Value, json};

/// The kernel accounts time on a core in ticks of up to ten milliseconds; less says nothing.
const SHORTEST_CPU_NANOS: u64 = 50_000_000;

/// Collects how long each of many calls took.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    nanos: Vec<u64>,
    cpu_nanos: u64,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self {
            nanos: Vec::new(),
            cpu_nanos: cpu_nanos(),
        }
    }

    pub(crate) fn time<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = call();
        self.nanos
            .push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        result
    }

    pub(crate) fn row(mut self, shape: &str, nodes: usize, note: String) -> Row {
        let total: u64 = self.nanos.iter().sum();
        let cpu = cpu_nanos().saturating_sub(self.cpu_nanos);
        self.nanos.sort_unstable();
        let last = self.nanos.len().saturating_sub(1);
        let micros = |thousandths: usize| {
            self.nanos
                .get(last * thousandths / 1000)
                .copied()
                .unwrap_or(0) as f64
                / 1e3
        };
        Row {
            shape: shape.to_owned(),
            nodes,
            calls: self.nanos.len(),
            per_second: self.nanos.len() as f64 * 1e9 / total.max(1) as f64,
            per_cpu_second: if cpu < SHORTEST_CPU_NANOS {
                0.0
            } else {
                self.nanos.len() as f64 * 1e9 / cpu as f64
            },
            p50_micros: micros(500),
            p99_micros: micros(990),
            max_micros: micros(1000),
            rss_mib: rss_mib(),
            note,
        }
    }
}

/// One line of the result.
#[derive(Debug)]
pub(crate) struct Row {
    shape: String,
    nodes: usize,
    calls: usize,
    per_second: f64,
    /// Per second that the thread was on a core, on a busy machine the figure that counts; 0 if that was too short.
    per_cpu_second: f64,
    p50_micros: f64,
    p99_micros: f64,
    max_micros: f64,
    rss_mib: f64,
    note: String,
}

impl Row {
    pub(crate) fn json(&self) -> Value {
        json!({
            "shape": self.shape,
            "nodes": self.nodes,
            "decisions": self.calls,
            "decisionsPerSecond": self.per_second.round(),
            "decisionsPerCpuSecond": self.per_cpu_second.round(),
            "p50Micros": self.p50_micros,
            "p99Micros": self.p99_micros,
            "maxMicros": self.max_micros,
            "rssMiB": (self.rss_mib * 10.0).round() / 10.0,
            "note": self.note,
        })
    }
}

/// All rows for people.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<22} {:>7} {:>9} {:>12} {:>12} {:>8} {:>9} {:>9} {:>8}  note\n",
        "shape",
        "nodes",
        "decisions",
        "per second",
        "per CPU s",
        "p50 µs",
        "p99 µs",
        "max µs",
        "RSS MiB"
    );
    for row in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<22} {:>7} {:>9} {:>12.0} {:>12.0} {:>8.1} {:>9.1} {:>9.1} {:>8.1}  {}",
            row.shape,
            row.nodes,
            row.calls,
            row.per_second,
            row.per_cpu_second,
            row.p50_micros,
            row.p99_micros,
            row.max_micros,
            row.rss_mib,
            row.note,
        );
    }
    text.truncate(text.trim_end().len());
    text
}

/// Memory resident now, in MiB; 0 where the kernel does not say.
fn rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// Time this thread has been on a core, in nanoseconds; 0 where the kernel does not say.
fn cpu_nanos() -> u64 {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = statistics.split_whitespace().next();
    first.and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
}
