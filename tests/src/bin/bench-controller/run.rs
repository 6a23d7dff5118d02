//! The runs: one Workspace at a time, many at once, at rest, and packing onto bought nodes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Node;
use kaito_tests::Options;
use kaito_tests::fixture::{NodeShape, create_node};
use kaito_tests::player::play;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::Arguments;
use crate::bed::{Bed, CONCURRENCY, Kind, say};
use crate::recorder::Recorder;
use crate::table::{Table, median};
use crate::usage::{cpu_seconds, memory_mib};

/// Limit of each wait: far above what is expected, so that a slow machine gets a number and not an error.
const LIMIT: Duration = Duration::from_secs(300);
/// kube-controller-manager looks for new kinds every 30 s; until then it asks the API server for each owner of an
/// unknown kind anew, which no cluster that has run for a minute does.
const GARBAGE_COLLECTOR_RESYNC: Duration = Duration::from_secs(40);
/// Workspaces of a packing run, and GPUs of a node in it.
const PACKED: usize = 20;
/// Instance type of the packing runs: four GPUs.
const FOUR_GPUS: &str = "Standard_NC96ads_A100_v4";

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|index| format!("{prefix}-{index}"))
        .collect()
}

fn milliseconds(from: Instant, to: Instant) -> f64 {
    to.duration_since(from).as_secs_f64() * 1000.0
}

/// One at a time, many at once, at rest, and all deleted, on nodes that are there before.
pub(crate) async fn own_nodes(arguments: &Arguments, table: &mut Table) -> Result<()> {
    let mut options = Options::full().audited();
    let qps = arguments.controller_manager_qps;
    options.controller_manager_arguments = vec![
        format!("--kube-api-qps={qps}"),
        format!("--kube-api-burst={}", qps + qps / 2),
    ];
    if let Some(qps) = arguments.scheduler_qps {
        options.scheduler_arguments = vec![
            format!("--kube-api-qps={qps}"),
            format!("--kube-api-burst={}", qps + qps / 2),
        ];
    }
    let bed = Bed::start(options, "byo").await?;
    let installed = Instant::now();
    say(&format!("making {} nodes of one GPU", arguments.many));
    make_nodes(&bed.client, arguments.many).await?;
    let player = tokio::spawn(play(bed.client.clone()));
    let recorder = bed.recorder();
    one_at_a_time(&bed, &recorder, arguments.rounds, table).await?;
    say("waiting until the garbage collector knows the Workspace kind");
    tokio::time::sleep_until((installed + GARBAGE_COLLECTOR_RESYNC).into()).await;
    many_at_once(&bed, &recorder, arguments.many, table).await?;
    at_rest(&bed, arguments.rest, table).await?;
    delete_all(&bed, &recorder, arguments.many, table).await?;
    player.abort();
    Ok(())
}

/// Nodes with everything that a GPU node of this type shows, and no taint that keeps pods away.
async fn make_nodes(client: &Client, count: usize) -> Result<()> {
    let shape = NodeShape {
        instance_type: "Standard_NC24ads_A100_v4",
        cpu: 24,
        memory_gib: 220,
        gpus: 1,
    };
    let api: Api<Node> = Api::all(client.clone());
    let labels = json!({ "metadata": { "labels": {
        "bench": "true",
        "nvidia.com/gpu.product": "NVIDIA-A100-80GB-PCIe",
        "nvidia.com/gpu.count": "1",
        "nvidia.com/gpu.memory": "81920",
    }}});
    let nodes = names("node", count);
    futures::stream::iter(nodes.iter().map(|name| async {
        create_node(client, name, shape).await?;
        api.patch(name, &PatchParams::default(), &Patch::Merge(&labels))
            .await?;
        anyhow::Ok(())
    }))
    .buffer_unordered(CONCURRENCY)
    .try_collect::<()>()
    .await?;
    kaito_tests::wait::wait_for_all(&api, "bench=true", "nodes free of taints", LIMIT, |nodes| {
        let tainted = |node: &Node| {
            node.spec
                .as_ref()
                .and_then(|spec| spec.taints.as_ref())
                .is_some_and(|taints| !taints.is_empty())
        };
        nodes.len() == count && !nodes.iter().any(tainted)
    })
    .await?;
    Ok(())
}

async fn one_at_a_time(
    bed: &Bed,
    recorder: &Recorder,
    rounds: usize,
    table: &mut Table,
) -> Result<()> {
    say(&format!("one Workspace at a time, {rounds} times"));
    let (mut bound, mut ready) = (Vec::new(), Vec::new());
    for name in names("one", rounds) {
        let applied = Instant::now();
        bed.create(std::slice::from_ref(&name), Kind::Preset, None)
            .await?;
        let times = recorder
            .until("one Workspace ready", LIMIT, |times| {
                Some((*times.bound.get(&name)?, *times.ready.get(&name)?))
            })
            .await?;
        bound.push(milliseconds(applied, times.0));
        ready.push(milliseconds(applied, times.1));
        bed.workspaces
            .delete(&name, &DeleteParams::default())
            .await?;
        recorder
            .until("one Workspace gone", LIMIT, |times| {
                is_empty(times).then_some(())
            })
            .await?;
    }
    let show =
        |values| median(values).map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
    table.add(
        "one preset, own nodes: apply to pod bound, ms",
        show(bound),
        "1386",
    );
    table.add(
        "one preset, own nodes: apply to ready, ms",
        show(ready),
        "1721",
    );
    Ok(())
}

fn is_empty(times: &crate::recorder::Times) -> bool {
    times.pods.is_empty() && times.workspaces.is_empty()
}

async fn many_at_once(
    bed: &Bed,
    recorder: &Recorder,
    count: usize,
    table: &mut Table,
) -> Result<()> {
    say(&format!("{count} Workspaces at once"));
    let pid = bed.scheduler.pid();
    let (requests, cpu) = (bed.requests()?.len(), cpu_seconds(pid)?);
    let names = names("many", count);
    let applied = Instant::now();
    bed.create(&names, Kind::Preset, None).await?;
    let bound = recorder
        .until("all bound", LIMIT, |times| last(&times.bound, &names))
        .await?;
    let ready = recorder
        .until("all ready", LIMIT, |times| last(&times.ready, &names))
        .await?;
    let requests = (bed.requests()?.len() - requests) as f64 / count as f64;
    let cpu = cpu_seconds(pid)? - cpu;
    let theirs = Theirs::of(count);
    let seconds = |at: Instant| format!("{:.1}", at.duration_since(applied).as_secs_f64());
    table.add(
        format!("{count} presets, own nodes: all bound, s"),
        seconds(bound),
        "-",
    );
    table.add(
        format!("{count} presets, own nodes: all ready, s"),
        seconds(ready),
        theirs.ready,
    );
    table.add("requests per Workspace", format!("{requests:.1}"), "11.4");
    table.add(
        format!("CPU for {count}, s"),
        format!("{cpu:.2}"),
        theirs.cpu,
    );
    table.add(
        "peak RSS, MiB",
        format!("{:.0}", memory_mib(pid, "VmHWM")?),
        "66",
    );
    Ok(())
}

/// KAITO's figures for many at once, which exist for 50 and, from its rate, for 100.
struct Theirs {
    ready: &'static str,
    cpu: &'static str,
    delete: &'static str,
}

impl Theirs {
    const fn of(count: usize) -> Self {
        match count {
            50 => Self {
                ready: "18.0",
                cpu: "1.3",
                delete: "1.0",
            },
            100 => Self {
                ready: "about 36",
                cpu: "-",
                delete: "-",
            },
            _ => Self {
                ready: "-",
                cpu: "-",
                delete: "-",
            },
        }
    }
}

/// The latest of the times of these Workspaces, once each has one.
fn last(times: &std::collections::BTreeMap<String, Instant>, names: &[String]) -> Option<Instant> {
    let all: Option<Vec<Instant>> = names.iter().map(|name| times.get(name).copied()).collect();
    all?.into_iter().max()
}

async fn at_rest(bed: &Bed, seconds: u64, table: &mut Table) -> Result<()> {
    say(&format!("at rest for {seconds} s"));
    let pid = bed.scheduler.pid();
    let (before, cpu) = (bed.requests()?.len(), cpu_seconds(pid)?);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let requests = bed.requests()?;
    let new = requests.get(before..).unwrap_or_default();
    let (writes, reads): (Vec<_>, Vec<_>) = new
        .iter()
        .partition(|request| !matches!(request.verb.as_str(), "get" | "list"));
    let share = (cpu_seconds(pid)? - cpu) / Duration::from_secs(seconds).as_secs_f64() * 100.0;
    table.add(format!("at rest, {seconds} s: reads"), reads.len(), "0");
    table.add(format!("at rest, {seconds} s: writes"), writes.len(), "0");
    table.add("at rest: share of a core, %", format!("{share:.2}"), "0.09");
    table.add(
        "at rest: RSS, MiB",
        format!("{:.0}", memory_mib(pid, "VmRSS")?),
        "75",
    );
    Ok(())
}

async fn delete_all(bed: &Bed, recorder: &Recorder, count: usize, table: &mut Table) -> Result<()> {
    say("deleting all");
    let started = Instant::now();
    bed.workspaces
        .delete_collection(&DeleteParams::default(), &ListParams::default())
        .await?;
    recorder
        .until("all gone", LIMIT, |times| {
            times.workspaces.is_empty().then_some(())
        })
        .await?;
    let seconds = format!("{:.1}", started.elapsed().as_secs_f64());
    table.add(
        format!("deleting {count}, s"),
        seconds,
        Theirs::of(count).delete,
    );
    Ok(())
}

/// Twenty Workspaces of one GPU each on an instance type with four: how many nodes are bought?
pub(crate) async fn packing(kind: Kind, table: &mut Table) -> Result<()> {
    let mut bed = Bed::start(Options::full(), "karpenter").await?;
    bed.start_cloud().await?;
    let label = match kind {
        Kind::Preset => "preset",
        Kind::Template => "template",
    };
    say(&format!("packing {PACKED} Workspaces ({label})"));
    let recorder = bed.recorder();
    let names = names("packed", PACKED);
    bed.create(&names, kind, Some(FOUR_GPUS)).await?;
    recorder
        .until("all packed and ready", LIMIT, |times| {
            last(&times.ready, &names)
        })
        .await?;
    let claims: Api<DynamicObject> = Api::all_with(
        bed.client.clone(),
        &ApiResource::erase::<kaito_api::NodeClaim>(&()),
    );
    let bought = claims
        .list(&ListParams::default())
        .await
        .context("counting NodeClaims")?
        .items
        .len();
    table.add(
        format!("{PACKED} one-GPU Workspaces ({label}), 4-GPU type: nodes bought"),
        bought,
        "20",
    );
    Ok(())
}
