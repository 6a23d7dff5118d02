//! Links from the Deployment, StatefulSet or Job: pods that cannot be made (quota, admission), a job that gave up.

use kube::ResourceExt;

use super::{Depth, Link, advice};
use crate::view::facts::{Facts, created, event_time};

/// Links of the workload.
pub(super) fn links(facts: &Facts) -> Vec<Link> {
    let refused = replica_failures(facts).or_else(|| refused_creation(facts));
    refused.into_iter().chain(failed_jobs(facts)).collect()
}

/// What a Deployment reports about pods that it may not make.
fn replica_failures(facts: &Facts) -> Option<Link> {
    facts.deployments.iter().find_map(|item| {
        let conditions = item.status.as_ref()?.conditions.as_ref()?;
        let failure = conditions
            .iter()
            .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
        Some(Link {
            depth: Depth::Workload,
            object: format!("Deployment/{}", item.name_any()),
            field: "status.conditions[ReplicaFailure]".to_owned(),
            value: format!("True, {}", failure.reason.as_deref().unwrap_or_default()),
            message: failure.message.clone().unwrap_or_default(),
            since: created(failure.last_transition_time.as_ref()),
            unblock: creation_advice(failure.message.as_deref().unwrap_or_default()),
            command: Some(format!(
                "kubectl get resourcequota{}",
                advice::namespace_flag(facts)
            )),
        })
    })
}

/// StatefulSets and Jobs have no such condition: their events tell. An event older than the youngest pod is history.
fn refused_creation(facts: &Facts) -> Option<Link> {
    let youngest = facts
        .pods
        .iter()
        .filter_map(|pod| created(pod.metadata.creation_timestamp.as_ref()))
        .max();
    let refusal = facts
        .events
        .iter()
        .filter(|event| event.reason.as_deref() == Some("FailedCreate"))
        .filter(|event| event_time(event) >= youngest)
        .max_by_key(|event| event_time(event))?;
    let about = &refusal.involved_object;
    let kind = about.kind.as_deref().unwrap_or("Workload");
    Some(Link {
        depth: Depth::Workload,
        object: format!("{kind}/{}", about.name.as_deref().unwrap_or_default()),
        field: "event FailedCreate".to_owned(),
        value: "FailedCreate".to_owned(),
        message: refusal.message.clone().unwrap_or_default(),
        since: event_time(refusal),
        unblock: creation_advice(refusal.message.as_deref().unwrap_or_default()),
        command: Some(format!(
            "kubectl get resourcequota{}",
            advice::namespace_flag(facts)
        )),
    })
}

fn creation_advice(message: &str) -> Option<String> {
    let text = message.to_lowercase();
    let advice = if text.contains("exceeded quota") {
        "raise the namespace's ResourceQuota or free what it counts"
    } else if text.contains("violates podsecurity") {
        "relax the namespace's pod security level, or change the template"
    } else if text.contains("admission webhook") {
        "an admission webhook refuses the pod: change the template or the policy"
    } else {
        return None;
    };
    Some(advice.to_owned())
}

fn failed_jobs(facts: &Facts) -> Vec<Link> {
    let mut found = Vec::new();
    for item in &facts.jobs {
        let conditions = item
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or_default();
        let failed = conditions
            .iter()
            .find(|condition| condition.type_ == "Failed" && condition.status == "True");
        if let Some(failed) = failed {
            found.push(Link {
                depth: Depth::Workload,
                object: format!("Job/{}", item.name_any()),
                field: "status.conditions[Failed]".to_owned(),
                value: format!("True, {}", failed.reason.as_deref().unwrap_or_default()),
                message: failed.message.clone().unwrap_or_default(),
                since: created(failed.last_transition_time.as_ref()),
                unblock: Some("read the log, correct the Workspace, and create it anew".to_owned()),
                command: Some(format!(
                    "kubectl kaito logs {}{}",
                    facts.workspace.name_any(),
                    advice::namespace_flag(facts)
                )),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::links;
    use crate::view::facts::tests::yaml;

    #[test]
    fn a_namespace_quota_that_stops_pods_is_found_in_events() {
        let facts = yaml(
            r#"
kind: Workspace
apiVersion: kaito.sh/v1beta1
metadata: {name: phi, namespace: team}
resource: {labelSelector: {}}
---
kind: StatefulSet
metadata: {name: phi, uid: s1}
---
kind: Event
metadata: {name: e1}
involvedObject: {kind: StatefulSet, name: phi, uid: s1}
reason: FailedCreate
type: Warning
message: "pods \"phi-0\" is forbidden: exceeded quota: gpus"
lastTimestamp: 2026-01-01T00:00:05Z
"#,
        );
        let found = links(&facts);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].object, "StatefulSet/phi");
        assert!(found[0].unblock.as_ref().unwrap().contains("ResourceQuota"));
        assert_eq!(
            found[0].command.as_deref(),
            Some("kubectl get resourcequota -n team")
        );
    }
}
