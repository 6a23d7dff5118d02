//! One run: a fresh control plane, its nodes, the pods, and what came of them.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use kaito_tests::cluster::{Cluster, Parts};
use kaito_tests::fixture::{NodeShape, create_node};
use kaito_tests::player::play;
use kaito_tests::{ControlPlane, Options};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::Arguments;
use crate::outcome::Outcome;
use crate::pods::{Ask, asks, pod};
use crate::watched::Watched;

/// GPUs of a node.
pub(crate) const GPUS: u32 = 8;
/// Requests of the bench itself that are under way at once.
const CONCURRENCY: usize = 32;
/// Limit of waiting for the nodes: far above what is expected.
const LIMIT: Duration = Duration::from_secs(300);

/// Who places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Our scheduler lifts gates, kube-scheduler binds.
    Kaito,
    /// kube-scheduler decides and binds.
    KubeSchedulerAlone,
}

impl Side {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kaito => "kaito",
            Self::KubeSchedulerAlone => "kube-scheduler alone",
        }
    }
}

/// What runs; stopped when it is dropped.
enum Bed {
    Ours(Box<Cluster>),
    Theirs(Box<ControlPlane>),
}

impl Bed {
    async fn start(side: Side, options: Options) -> Result<Self> {
        Ok(match side {
            Side::Kaito => {
                let parts = Parts {
                    scheduler_arguments: vec!["--node-provisioner=byo".to_owned()],
                    ..Parts::default()
                };
                Self::Ours(Box::new(Cluster::start(options, parts).await?))
            }
            Side::KubeSchedulerAlone => Self::Theirs(Box::new(ControlPlane::start(options).await?)),
        })
    }

    fn plane(&self) -> &ControlPlane {
        match self {
            Self::Ours(cluster) => cluster.plane(),
            Self::Theirs(plane) => plane,
        }
    }
}

fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// kube-scheduler fills up nodes by GPUs, and is held up by the machine rather than by its own limit.
fn configuration(requests_per_second: u32) -> Value {
    json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": { "qps": requests_per_second, "burst": requests_per_second },
        "profiles": [{
            "schedulerName": "default-scheduler",
            "pluginConfig": [{
                "name": "NodeResourcesFit",
                "args": { "scoringStrategy": {
                    "type": "MostAllocated",
                    "resources": [{ "name": "nvidia.com/gpu", "weight": 1 }],
                }},
            }],
        }],
    })
}

/// Runs one side from an empty cluster to rest.
pub(crate) async fn run(side: Side, arguments: &Arguments) -> Result<Outcome> {
    say(&format!("{}: starting a control plane", side.name()));
    let options = Options {
        scheduler_configuration: Some(configuration(arguments.scheduler_qps)),
        // Only so that the nodes lose their first taint soon: it makes none of the pods.
        controller_manager_arguments: vec![
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=500".to_owned(),
        ],
        ..Options::full()
    };
    let bed = Bed::start(side, options).await?;
    let client = bed.plane().client().await?;
    say(&format!(
        "{}: making {} nodes",
        side.name(),
        arguments.nodes
    ));
    make_nodes(&client, arguments.nodes).await?;
    let player = tokio::spawn(play(client.clone()));
    let pods: Api<Pod> = Api::default_namespaced(client);
    let watched = Watched::start(pods.clone());
    let asks = asks(arguments);
    say(&format!("{}: making {} pods", side.name(), asks.len()));
    let started = Instant::now();
    let quiet = Duration::from_secs(arguments.quiet);
    let gated = side == Side::Kaito;
    make_pods(&pods, &asks, arguments.gang_size, gated).await?;
    let places = watched.settled(asks.len(), quiet).await?;
    let ended = Instant::now();
    player.abort();
    Ok(Outcome::new(side, &asks, &places, (started, ended)))
}

/// Nodes that stay Ready, without the taint that keeps pods away at first.
async fn make_nodes(client: &Client, count: usize) -> Result<()> {
    let shape = NodeShape {
        instance_type: "eight-gpus",
        cpu: 128,
        memory_gib: 1024,
        gpus: GPUS,
    };
    let names: Vec<String> = (0..count).map(|index| format!("node-{index}")).collect();
    futures::stream::iter(names.iter().map(|name| create_node(client, name, shape)))
        .buffer_unordered(CONCURRENCY)
        .map_ok(drop)
        .try_collect::<()>()
        .await?;
    // Asked for now and then: following every change of every node would keep this process busier than the servers.
    let api: Api<Node> = Api::all(client.clone());
    let deadline = Instant::now() + LIMIT;
    loop {
        let nodes = api.list(&ListParams::default()).await?.items;
        let free = nodes.iter().filter(|node| !is_tainted(node)).count();
        if free == count {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{free} of {count} nodes are free of taints after {} s",
            LIMIT.as_secs()
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn is_tainted(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    spec.and_then(|spec| spec.taints.as_ref())
        .is_some_and(|taints| !taints.is_empty())
}

async fn make_pods(api: &Api<Pod>, asks: &[Ask], gang_size: usize, gated: bool) -> Result<()> {
    futures::stream::iter(asks.iter().map(|ask| async move {
        let object = pod(ask, gang_size, gated)?;
        api.create(&PostParams::default(), &object).await?;
        anyhow::Ok(())
    }))
    .buffer_unordered(CONCURRENCY)
    .try_collect()
    .await
}
