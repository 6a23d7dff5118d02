//! Plays the machines: a bound pod is Ready at once, a deleted one is gone at once.

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

/// Plays until the task is aborted. A failed write is not repeated: the pod's next change brings another chance.
pub async fn play(client: Client) {
    let pods: Api<Pod> = Api::default_namespaced(client);
    let events = watcher(pods.clone(), watcher::Config::default()).applied_objects();
    events
        .for_each_concurrent(32, |event| async {
            if let Ok(pod) = event {
                play_one(&pods, &pod).await;
            }
        })
        .await;
}

async fn play_one(pods: &Api<Pod>, pod: &Pod) {
    let bound = pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.node_name.is_some());
    if !bound {
        return;
    }
    if pod.metadata.deletion_timestamp.is_some() {
        let now = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        let _ = pods.delete(&pod.name_any(), &now).await;
    } else if pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        != Some("Running")
    {
        let status = Patch::Merge(json!({ "status": ready_status(pod) }));
        let _ = pods
            .patch_status(&pod.name_any(), &PatchParams::default(), &status)
            .await;
    }
}

fn ready_status(pod: &Pod) -> serde_json::Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let containers: Vec<_> = containers
        .map(|container| {
            json!({
                "name": container.name, "image": container.image, "imageID": "", "ready": true,
                "restartCount": 0, "started": true, "state": { "running": { "startedAt": now } },
            })
        })
        .collect();
    let condition =
        |kind: &str| json!({ "type": kind, "status": "True", "lastTransitionTime": now });
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"]
        .map(condition)
        .to_vec();
    json!({
        "phase": "Running",
        "startTime": now,
        "podIP": "10.0.0.1",
        "podIPs": [{ "ip": "10.0.0.1" }],
        "conditions": conditions,
        "containerStatuses": containers,
    })
}
