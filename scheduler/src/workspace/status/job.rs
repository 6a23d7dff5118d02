//! What a tuning Job amounts to.

use k8s_openapi::api::batch::v1::Job;
use kaito_api::conditions;

use super::{Observed, Word, cause, holds, lacks, placed, placed_pods, replicas};

/// `Some(true)` when the Job has succeeded, `Some(false)` when it has failed for good.
pub(super) fn finished(job: Option<&Job>) -> Option<bool> {
    let list = job?.status.as_ref()?.conditions.as_ref()?;
    let has = |kind: &str| list.iter().any(|c| c.type_ == kind && c.status == "True");
    if has("Complete") {
        Some(true)
    } else if has("Failed") {
        Some(false)
    } else {
        None
    }
}

/// Whether the Job has started.
pub(super) fn job_started(observed: &Observed, finished: Option<bool>) -> Word {
    match finished {
        Some(true) => return holds("WorkspaceTuningJobStatusStarted", "the job has succeeded"),
        Some(false) => return lacks("WorkspaceTuningJobStatusFailed", job_failure(observed)),
        None => {}
    }
    let active = observed
        .job
        .as_ref()
        .and_then(|job| job.status.as_ref())
        .and_then(|status| status.active)
        .unwrap_or(0);
    if active > 0 && placed_pods(observed) >= replicas(observed) {
        return holds("WorkspaceTuningJobStatusStarted", "the job is running");
    }
    lacks("WorkspaceTuningJobStatusPending", placed(observed).2)
}

/// Whether the tuning has succeeded.
pub(super) fn tuning_success(observed: &Observed, finished: Option<bool>) -> Word {
    match finished {
        Some(true) => holds("workspaceSucceeded", "tuning has succeeded"),
        Some(false) => lacks("workspaceFailed", job_failure(observed)),
        None => match observed.pods.iter().find_map(|found| cause::of(found)) {
            Some((reason, message)) => lacks(reason, message),
            None => lacks("workspacePending", "tuning has not ended"),
        },
    }
}

fn job_failure(observed: &Observed) -> String {
    let list = observed
        .job
        .as_ref()
        .and_then(|job| job.status.as_ref()?.conditions.clone());
    let failed = list
        .unwrap_or_default()
        .into_iter()
        .find(|c| c.type_ == "Failed");
    let message = failed
        .and_then(|c| c.message)
        .unwrap_or_else(|| "the job has failed".to_owned());
    match last_cause(observed) {
        Some(cause) => format!("{message}; before that: {cause}"),
        None => message,
    }
}

/// What was wrong with the pods when they were last there: a Job that gives up deletes them.
fn last_cause(observed: &Observed) -> Option<&str> {
    let before = observed.before.conditions.as_deref().unwrap_or_default();
    let found = before
        .iter()
        .find(|c| c.type_ == conditions::WORKSPACE_SUCCEEDED)?;
    if found.reason == "workspaceFailed" {
        return found
            .message
            .split_once("; before that: ")
            .map(|(_, cause)| cause);
    }
    let of_a_pod = found.status == "False" && found.reason != "workspacePending";
    of_a_pod.then_some(found.message.as_str())
}
