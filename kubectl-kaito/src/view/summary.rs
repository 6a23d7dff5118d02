//! What a Workspace is and where it stands, in one glance.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kaito_api::{conditions, names};
use kube::ResourceExt;
use serde::Serialize;

use super::facts::{Facts, created, node_of};
use super::pod::{self, Trouble};

/// The head of `status`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Model, or `custom template`.
    pub model: String,
    /// `inference` or `tuning`, with the tuning method.
    pub purpose: String,
    /// Inference runtime; absent for tuning and templates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Instance type asked for or chosen; absent for existing nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    /// Nodes that its pods have.
    pub nodes: usize,
    /// Nodes that it is planned on; absent before the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_nodes: Option<u32>,
    /// GPUs per pod; absent before the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus_per_node: Option<u32>,
    /// Longest context in tokens that fits; absent before the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_context: Option<u32>,
    /// Pending, Ready, NotReady, Running, Succeeded, Failed or Deleting.
    pub phase: String,
    /// The scheduler's sentence about its plan or its blocker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// States that contradict each other, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contradictions: Vec<String>,
}

/// Summarises the facts.
#[must_use]
pub fn summary(facts: &Facts) -> Summary {
    let workspace = &facts.workspace;
    let status = workspace.status.as_ref();
    let plan = status.and_then(|status| status.plan.as_ref());
    let placed: BTreeSet<String> = facts.pods.iter().filter_map(node_of).collect();
    let target = status
        .and_then(|status| status.target_node_count)
        .and_then(|count| u32::try_from(count).ok());
    Summary {
        model: model(facts),
        purpose: purpose(facts),
        runtime: runtime(facts),
        instance_type: plan
            .and_then(|plan| plan.instance_type.clone())
            .or_else(|| workspace.spec.resource.instance_type.clone())
            .filter(|name| !name.is_empty()),
        nodes: placed.len(),
        target_nodes: plan.and_then(|plan| plan.replicas).or(target),
        gpus_per_node: plan.and_then(|plan| plan.gpus_per_replica),
        max_context: plan.and_then(|plan| plan.max_context),
        phase: phase(facts),
        plan: plan.and_then(|plan| plan.reason.clone()),
        created: created(workspace.metadata.creation_timestamp.as_ref()),
        contradictions: contradictions(facts),
    }
}

fn model(facts: &Facts) -> String {
    let spec = &facts.workspace.spec;
    let inference = spec
        .inference
        .as_ref()
        .and_then(|inference| inference.preset.as_ref());
    let tuning = spec
        .tuning
        .as_ref()
        .and_then(|tuning| tuning.preset.as_ref());
    inference.or(tuning).map_or_else(
        || "custom template".to_owned(),
        |preset| preset.name.clone(),
    )
}

fn purpose(facts: &Facts) -> String {
    match &facts.workspace.spec.tuning {
        Some(tuning) => {
            let method = tuning.method.as_deref().map(str::to_lowercase);
            method.map_or_else(
                || "tuning".to_owned(),
                |method| format!("tuning ({method})"),
            )
        }
        None => "inference".to_owned(),
    }
}

fn runtime(facts: &Facts) -> Option<String> {
    facts.workspace.spec.inference.as_ref()?.preset.as_ref()?;
    let chosen = facts.workspace.annotations().get(names::ANNOTATION_RUNTIME);
    let status = facts.workspace.status.as_ref();
    let plan = status.and_then(|status| status.plan.as_ref());
    // Only the native runtime serves a preset without a GPU.
    let without_gpu = plan.and_then(|plan| plan.gpus_per_replica) == Some(0);
    let default = if without_gpu { "native" } else { "vllm" };
    Some(chosen.cloned().unwrap_or_else(|| default.to_owned()))
}

/// The word for where the Workspace stands: deletion first, then its own state.
fn phase(facts: &Facts) -> String {
    if facts.workspace.metadata.deletion_timestamp.is_some() {
        return "Deleting".to_owned();
    }
    let state = facts
        .workspace
        .status
        .as_ref()
        .and_then(|status| status.state.clone());
    state
        .filter(|state| !state.is_empty())
        .unwrap_or_else(|| "Pending".to_owned())
}

/// What cannot both be true: a Workspace that calls itself ready while its pods say otherwise, and the reverse.
fn contradictions(facts: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    if !conditions::is_true(facts.conditions(), conditions::INFERENCE_READY) {
        return found;
    }
    for pod in &facts.pods {
        let state = pod::state(pod);
        let broken = matches!(
            state.trouble,
            Some(
                Trouble::Crash(_)
                    | Trouble::OutOfMemory(_)
                    | Trouble::Image(_)
                    | Trouble::Start(_)
                    | Trouble::Failed(_)
            )
        );
        if broken {
            found.push(format!(
                "the Workspace says it is ready, but Pod/{} is in {}",
                pod.name_any(),
                state.reason
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::summary;
    use crate::view::facts::tests::yaml;

    const READY: &str = r#"
kind: Workspace
apiVersion: kaito.sh/v1beta1
metadata: {name: phi, namespace: default}
resource: {instanceType: Standard_NC24ads_A100_v4, labelSelector: {}}
inference: {preset: {name: phi-4}}
status:
  state: Ready
  targetNodeCount: 1
  conditions:
  - {type: InferenceReady, status: "True", reason: r, message: m, lastTransitionTime: 2026-01-01T00:00:00Z}
---
kind: Pod
metadata: {name: phi-a}
spec: {nodeName: n1, containers: [{name: main}]}
status:
  phase: Running
  containerStatuses:
  - name: main
    image: i
    imageID: ""
    ready: false
    restartCount: 4
    state: {waiting: {reason: CrashLoopBackOff}}
"#;

    #[test]
    fn a_ready_workspace_with_a_crashing_pod_is_called_out() {
        let found = summary(&yaml(READY));
        assert_eq!(
            (found.phase.as_str(), found.nodes, found.target_nodes),
            ("Ready", 1, Some(1))
        );
        assert_eq!(found.model, "phi-4");
        assert_eq!(found.runtime.as_deref(), Some("vllm"));
        let planned = "status:\n  plan: {replicas: 1, gpusPerReplica: 0}\n";
        let found_on_cpus = summary(&yaml(&READY.replacen("status:\n", planned, 1)));
        assert_eq!(found_on_cpus.runtime.as_deref(), Some("native"));
        assert_eq!(
            found.contradictions,
            ["the Workspace says it is ready, but Pod/phi-a is in CrashLoopBackOff"]
        );
    }
}
