//! Reads node and pod lists. Columns are found by their names; those not needed are ignored.
#![expect(
    clippy::disallowed_methods,
    reason = "an example reads the files it is given"
)]

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use csv::{ByteRecord, Reader, ReaderBuilder};
use kaito_placement::packing::{Amounts, GpuRequest, MAX_DEVICES, NodeShape, Request, WHOLE_MILLI};

/// Pods that one node may hold (the protocol's filter).
const PODS_PER_NODE: u64 = 1001;

/// A pod of the list.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) request: Request,
    /// Devices asked.
    pub(crate) count: u64,
    /// Thousandths of each.
    pub(crate) milli: u64,
}

/// Nodes, sorted by name.
pub(crate) fn read_nodes(path: &Path) -> Result<Vec<NodeShape>> {
    let mut table = Table::open(path, &["sn", "cpu_milli", "memory_mib", "gpu", "model"])?;
    let mut nodes = Vec::new();
    while let Some(row) = table.next_row()? {
        let devices: u8 = row.number("gpu")?;
        if devices > MAX_DEVICES {
            bail!(
                "{}: column gpu: {devices} GPUs, but a node has at most {MAX_DEVICES}",
                row.place
            );
        }
        nodes.push(NodeShape {
            name: row.text("sn")?,
            model: row.text("model")?,
            devices,
            capacity: Amounts {
                milli_cpu: row.number("cpu_milli")?,
                memory_mib: row.number("memory_mib")?,
                ephemeral_mib: 0,
                pods: PODS_PER_NODE,
            },
            ..NodeShape::default()
        });
    }
    if nodes.iter().all(|node| node.devices == 0) {
        bail!(
            "{}: no node has a GPU, so there is nothing to measure",
            path.display()
        );
    }
    nodes.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(nodes)
}

/// Pods, sorted by name.
pub(crate) fn read_pods(path: &Path) -> Result<Vec<Pod>> {
    let columns = ["name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli"];
    let mut table = Table::open(path, &columns)?;
    let mut pods = Vec::new();
    while let Some(row) = table.next_row()? {
        let (count, gpu) = gpu_of(&row)?;
        let milli = if let GpuRequest::Devices { milli, .. } = gpu {
            u64::from(milli)
        } else {
            0
        };
        let spec = row.optional("gpu_spec")?;
        let models: BTreeSet<String> = spec
            .split('|')
            .filter(|model| !model.is_empty())
            .map(str::to_owned)
            .collect();
        let amounts = Amounts {
            milli_cpu: row.number("cpu_milli")?,
            memory_mib: row.number("memory_mib")?,
            ephemeral_mib: 0,
            pods: 1,
        };
        let request = Request {
            amounts,
            gpu,
            models,
            ..Request::default()
        };
        pods.push(Pod {
            name: row.text("name")?,
            request,
            count,
            milli,
        });
    }
    if pods.iter().all(|pod| pod.count == 0) {
        bail!(
            "{}: no pod asks for a GPU, so there is nothing to measure",
            path.display()
        );
    }
    pods.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(pods)
}

fn gpu_of(row: &Row<'_>) -> Result<(u64, GpuRequest)> {
    let count: u8 = row.number("num_gpu")?;
    let milli: u16 = row.number("gpu_milli")?;
    if count == 0 {
        if milli != 0 {
            bail!(
                "{}: column gpu_milli: {milli} of no GPU; num_gpu is 0",
                row.place
            );
        }
        return Ok((0, GpuRequest::Nothing));
    }
    if count > MAX_DEVICES {
        bail!(
            "{}: column num_gpu: {count} is more than {MAX_DEVICES}",
            row.place
        );
    }
    if milli == 0 || milli > WHOLE_MILLI {
        bail!(
            "{}: column gpu_milli: {milli} is not between 1 and {WHOLE_MILLI}",
            row.place
        );
    }
    Ok((u64::from(count), GpuRequest::Devices { count, milli }))
}

/// A CSV file whose rows know where they are.
struct Table {
    file: String,
    columns: Vec<String>,
    reader: Reader<File>,
    record: ByteRecord,
}

impl Table {
    fn open(path: &Path, needed: &[&str]) -> Result<Self> {
        let file = path.display().to_string();
        let handle = File::open(path).with_context(|| format!("cannot open {file}"))?;
        let mut reader = ReaderBuilder::new().flexible(true).from_reader(handle);
        let header = reader
            .byte_headers()
            .with_context(|| format!("{file}:1: cannot read the header"))?;
        let columns: Vec<String> = header
            .iter()
            .map(|name| {
                String::from_utf8_lossy(name)
                    .trim()
                    .trim_start_matches('\u{feff}')
                    .to_owned()
            })
            .collect();
        for name in needed {
            if !columns.iter().any(|column| column == name) {
                bail!(
                    "{file}:1: no column {name}; there are {}",
                    columns.join(", ")
                );
            }
        }
        Ok(Self {
            file,
            columns,
            reader,
            record: ByteRecord::new(),
        })
    }

    fn next_row(&mut self) -> Result<Option<Row<'_>>> {
        let more = self.reader.read_byte_record(&mut self.record);
        if !more.with_context(|| format!("{}: cannot read a row", self.file))? {
            return Ok(None);
        }
        let line = self.record.position().map_or(0, csv::Position::line);
        let place = format!("{}:{line}", self.file);
        Ok(Some(Row {
            place,
            columns: &self.columns,
            record: &self.record,
        }))
    }
}

struct Row<'a> {
    place: String,
    columns: &'a [String],
    record: &'a ByteRecord,
}

impl Row<'_> {
    fn optional(&self, column: &str) -> Result<String> {
        let at = self.columns.iter().position(|name| name == column);
        let field = at.and_then(|at| self.record.get(at)).unwrap_or_default();
        let text = std::str::from_utf8(field)
            .with_context(|| format!("{}: column {column} is not UTF-8", self.place))?;
        Ok(text.trim().to_owned())
    }

    fn text(&self, column: &str) -> Result<String> {
        let text = self.optional(column)?;
        if text.is_empty() {
            bail!("{}: column {column} is empty", self.place);
        }
        Ok(text)
    }

    fn number<T: FromStr>(&self, column: &str) -> Result<T> {
        let text = self.text(column)?;
        let wrong = || {
            format!(
                "{}: column {column}: {text:?} is not a whole number in range",
                self.place
            )
        };
        text.parse().ok().with_context(wrong)
    }
}
