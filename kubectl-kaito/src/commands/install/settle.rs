//! Waits until a part of the installation really works: CRDs served, policy enforced, Deployments available.

use std::time::Duration;

use kube::api::PostParams;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::manifests::{Part, Role, crd_kind};
use crate::Context;
use crate::cluster::kinds::{Kind, Resolver};
use crate::cluster::{CallError, Cluster};
use crate::error::{Exit, Failure};
use crate::waiting;

/// Pause between two looks at something that cannot be watched.
const PAUSE: Duration = Duration::from_millis(250);

/// Waits for a part; parts that work at once are not waited for.
///
/// # Errors
/// Exit 4 when the deadline passes; refusals of the server.
pub(super) async fn wait(
    cluster: &Cluster,
    context: &Context,
    part: &Part,
    deadline: Instant,
) -> Result<(), Failure> {
    match part.role {
        Role::Namespace | Role::Rights => Ok(()),
        Role::Definitions => {
            for object in &part.objects {
                let what = "customresourcedefinitions.apiextensions.k8s.io";
                condition(
                    cluster,
                    &crd_kind(),
                    "",
                    object,
                    what,
                    "Established",
                    deadline,
                )
                .await?;
            }
            Ok(())
        }
        Role::Admission => policy(cluster, deadline).await,
        Role::Workloads => {
            context
                .printer
                .note("waiting for the Deployments to become available")?;
            let mut resolver = Resolver::default();
            for object in &part.objects {
                let kind = resolver.resolve(cluster, "apps/v1", "Deployment").await?;
                let kind =
                    kind.ok_or_else(|| Failure::error("the server does not serve Deployments"))?;
                let namespace = object
                    .pointer("/metadata/namespace")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                condition(
                    cluster,
                    &kind,
                    namespace,
                    object,
                    "deployments.apps",
                    "Available",
                    deadline,
                )
                .await?;
            }
            Ok(())
        }
    }
}

async fn condition(
    cluster: &Cluster,
    kind: &Kind,
    namespace: &str,
    object: &Value,
    what: &str,
    condition: &str,
    deadline: Instant,
) -> Result<(), Failure> {
    let name = object
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let api = kind.api(cluster, namespace);
    let holds = |object: &Value| {
        let list = object
            .pointer("/status/conditions")
            .and_then(Value::as_array);
        list.into_iter().flatten().any(|entry| {
            let text = |key: &str| entry.get(key).and_then(Value::as_str);
            text("type") == Some(condition) && text("status") == Some("True")
        })
    };
    let met = waiting::until(cluster, &api, name, what, Some(deadline), |object| {
        object.is_some_and(holds).then_some(())
    })
    .await?;
    met.ok_or_else(|| {
        Failure::error(format!(
            "timed out waiting for {condition} on {what}/{name}"
        ))
        .with_exit(Exit::Timeout)
    })
}

/// The server reads policies into a cache of its own, without saying when it is done. So ask it to judge (not to
/// store) a Workspace that the policy alone refuses, until it does.
async fn policy(cluster: &Cluster, deadline: Instant) -> Result<(), Failure> {
    let probe: DynamicObject = serde_json::from_value(probe()).map_err(Failure::error)?;
    let api = cluster.workspaces_in("default");
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    loop {
        match cluster.attempt(api.create(&params, &probe)).await {
            Err(CallError::Request(kube::Error::Api(status)))
                if status.message.contains("ValidatingAdmissionPolicy") =>
            {
                return Ok(());
            }
            Ok(_) => {}
            Err(CallError::Request(kube::Error::Api(status))) if status.is_forbidden() => {
                return Err(cluster.explain(
                    CallError::Request(kube::Error::Api(status)),
                    "create workspaces.kaito.sh",
                ));
            }
            Err(error) if Instant::now() >= deadline => {
                return Err(cluster.explain(error, "create workspaces.kaito.sh"));
            }
            Err(_) => {}
        }
        if Instant::now() >= deadline {
            return Err(Failure::error(
                "timed out waiting for the admission policy workspaces.kaito.sh to be enforced",
            )
            .with_exit(Exit::Timeout));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Good but for its runtime, which only the policy can judge, because it is an annotation.
fn probe() -> Value {
    json!({
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": "admission-probe", "annotations": {kaito_api::names::ANNOTATION_RUNTIME: "none"}},
        "resource": {"labelSelector": {"matchLabels": {"app": "probe"}}},
        "inference": {"preset": {"name": "phi-4"}},
    })
}

#[cfg(test)]
mod tests {
    use super::probe;

    #[test]
    fn only_the_policy_objects_to_the_probe() {
        let violations = kaito_api::admission::validate_create(&probe());
        assert_eq!(
            violations
                .iter()
                .filter_map(|violation| violation.rule)
                .collect::<Vec<_>>(),
            ["O11"]
        );
    }
}
