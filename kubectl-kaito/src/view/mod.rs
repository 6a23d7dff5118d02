//! One Workspace and everything that hangs on it, as `status` and `why` show it.
//!
//! Pure: a [`Facts`] goes in, models and text come out. Nothing here sends a request, reads the clock or prints.

pub mod cause;
pub mod document;
pub mod facts;
pub mod phase;
pub mod pod;
pub mod summary;
pub mod text;
pub mod training;
pub mod tree;

pub use facts::Facts;

#[cfg(test)]
pub(crate) mod tests {
    //! Two Workspaces as a cluster would show them.

    /// A bought node, a running pod that is not ready yet.
    pub(crate) const LOADING: &str = r#"
kind: Workspace
apiVersion: kaito.sh/v1beta1
metadata: {name: phi, namespace: default, uid: w1, creationTimestamp: 2026-01-01T00:00:00Z}
resource: {instanceType: Standard_NC24ads_A100_v4, labelSelector: {}}
inference: {preset: {name: phi-4}}
status:
  state: Pending
  targetNodeCount: 1
  plan: {replicas: 1, gpusPerReplica: 1, maxContext: 16384, reason: "1 x A100 holds 27.3 GiB of weights"}
  conditions:
  - {type: Placed, status: "True", reason: Assigned, message: all pods have nodes, lastTransitionTime: 2026-01-01T00:03:00Z}
  - {type: InferenceReady, status: "False", reason: WorkspaceInferenceStatusPending, message: 0 of 1 replicas are ready, lastTransitionTime: 2026-01-01T00:00:01Z}
---
kind: NodeClaim
apiVersion: karpenter.sh/v1
metadata:
  name: ws012345678
  uid: c1
  creationTimestamp: 2026-01-01T00:00:02Z
  labels: {kaito.sh/workspace: phi, kaito.sh/workspacenamespace: default}
spec: {nodeClassRef: {group: g, kind: k, name: default}, requirements: []}
status:
  nodeName: node-1
  conditions:
  - {type: Launched, status: "True", reason: Launched, message: "", lastTransitionTime: 2026-01-01T00:02:00Z}
  - {type: Registered, status: "True", reason: Registered, message: "", lastTransitionTime: 2026-01-01T00:02:30Z}
  - {type: Initialized, status: "True", reason: Initialized, message: "", lastTransitionTime: 2026-01-01T00:02:50Z}
  - {type: Ready, status: "True", reason: Ready, message: "", lastTransitionTime: 2026-01-01T00:02:50Z}
---
kind: Node
metadata: {name: node-1, uid: n1, creationTimestamp: 2026-01-01T00:02:30Z, labels: {kaito.sh/nodeclaim: ws012345678}}
status: {conditions: [{type: Ready, status: "True", reason: KubeletReady}]}
---
kind: Deployment
metadata: {name: phi, uid: d1, creationTimestamp: 2026-01-01T00:00:01Z}
spec: {replicas: 1, selector: {}, template: {}}
---
kind: Pod
metadata:
  name: phi-5d9-abc
  uid: p1
  creationTimestamp: 2026-01-01T00:00:01Z
  ownerReferences: [{kind: ReplicaSet, name: phi-5d9, apiVersion: apps/v1, uid: r1, controller: true}]
spec: {nodeName: node-1, containers: [{name: main}]}
status:
  phase: Running
  conditions:
  - {type: PodScheduled, status: "True", lastTransitionTime: 2026-01-01T00:03:00Z}
  - {type: Ready, status: "False", lastTransitionTime: 2026-01-01T00:03:00Z}
  containerStatuses:
  - {name: main, image: i, imageID: "", ready: false, restartCount: 0, state: {running: {startedAt: 2026-01-01T00:03:40Z}}}
---
kind: Service
metadata: {name: phi, uid: s1, creationTimestamp: 2026-01-01T00:00:01Z}
spec: {clusterIP: 10.0.0.7, ports: [{port: 80}, {port: 29500}]}
---
kind: Event
metadata: {name: phi.1, namespace: default}
involvedObject: {kind: Workspace, name: phi, uid: w1}
reason: NodeRequested
type: Normal
message: ordered 1 x Standard_NC24ads_A100_v4
lastTimestamp: 2026-01-01T00:00:02Z
"#;

    /// A purchase that the cloud refuses, and a gated pod.
    pub(crate) const QUOTA: &str = r#"
kind: Workspace
apiVersion: kaito.sh/v1beta1
metadata: {name: phi, namespace: default, uid: w1, creationTimestamp: 2026-01-01T00:00:00Z}
resource: {instanceType: Standard_NC24ads_A100_v4, labelSelector: {}}
inference: {preset: {name: phi-4}}
status:
  state: Pending
  conditions:
  - {type: Placed, status: "False", reason: NodesLaunching, message: waits for 1 node that is being bought, lastTransitionTime: 2026-01-01T00:00:02Z}
  - {type: ResourceReady, status: "False", reason: NodeClaimNotReady, message: 0 of 1 node claims are ready, lastTransitionTime: 2026-01-01T00:00:01Z}
  - {type: InferenceReady, status: "False", reason: WorkspaceInferenceStatusPending, message: 0 of 1 replicas are ready, lastTransitionTime: 2026-01-01T00:00:01Z}
---
kind: NodeClaim
apiVersion: karpenter.sh/v1
metadata:
  name: ws012345678
  uid: c1
  creationTimestamp: 2026-01-01T00:00:02Z
  labels: {kaito.sh/workspace: phi, kaito.sh/workspacenamespace: default}
spec: {nodeClassRef: {group: g, kind: k, name: default}, requirements: []}
status:
  conditions:
  - type: Launched
    status: "False"
    reason: InsufficientCapacity
    message: "quota StandardNCADSA100v4Family: 24 of 24 vCPUs are in use"
    lastTransitionTime: 2026-01-01T00:00:04Z
---
kind: Pod
metadata: {name: phi-5d9-abc, uid: p1, creationTimestamp: 2026-01-01T00:00:01Z}
spec: {containers: [{name: main}], schedulingGates: [{name: kaito.sh/placement}]}
status: {phase: Pending}
"#;
}
