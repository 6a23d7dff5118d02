//! Follows one container until it will write no more: over restarts of the container and cuts of the connection.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::Api;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::cluster::{CallError, Cluster};
use crate::commands::logs::question::Question;
use crate::commands::logs::stream::{From, Lines, open};
use crate::error::Failure;
use crate::logs::select::{container_status, has_ended};
use crate::logs::{Cursor, Line, Source};

/// First and longest pause before a connection is made again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// What a follower tells; the number is the source's.
#[derive(Debug)]
pub(super) enum Message {
    /// A new line.
    Line(usize, Line),
    /// Something the user should know.
    Note(String),
    /// No more lines will come, with the reason if it is worth telling.
    Ended(usize, Option<String>),
    /// The log cannot be read.
    Failed(usize, Failure),
}

/// Follows one container.
pub(super) struct Follower {
    /// Number of the source.
    pub(super) index: usize,
    /// The container.
    pub(super) source: Source,
    /// The question.
    pub(super) question: Question,
    /// The connection.
    pub(super) cluster: Cluster,
    /// Where lines go; a closed one ends the follower.
    pub(super) sender: mpsc::Sender<Message>,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// As the server meant it: the container ended, or its log was rotated.
    Clean,
    /// The connection broke.
    Cut,
    /// The byte limit is reached, or nobody listens.
    Enough,
}

/// What the pod says about the container after an answer has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    /// It runs, or will be started again.
    Lives,
    /// It will not run again; the text says how it ended.
    Over(Option<String>),
}

impl Follower {
    /// Follows to the end.
    pub(super) async fn run(self) {
        let mut cursor = Cursor::default();
        let mut left = self.question.limit_bytes.unwrap_or(usize::MAX);
        let mut pause = PAUSES.0;
        let mut told = String::new();
        loop {
            let from = cursor.restart().map_or(From::Asked, From::Resumed);
            let (end, progressed, rest) =
                match open(&self.question, &self.cluster, &self.source, from).await {
                    Ok(mut lines) => {
                        let (end, progressed) =
                            self.forward(&mut lines, &mut cursor, &mut left).await;
                        (end, progressed, lines.rest())
                    }
                    Err(error) if is_final(&error) => return self.refused(error).await,
                    Err(error) => {
                        self.tell_once(&mut told, error).await;
                        (End::Cut, false, None)
                    }
                };
            if end == End::Enough {
                return self.tell(Message::Ended(self.index, None)).await;
            }
            let fate = self.fate().await;
            if let (End::Clean, Fate::Over(note)) = (end, &fate) {
                if let Some(line) = rest.filter(|line| cursor.accept(line)) {
                    self.tell(Message::Line(self.index, line)).await;
                }
                return self.tell(Message::Ended(self.index, note.clone())).await;
            }
            pause = if progressed {
                PAUSES.0
            } else {
                (pause * 2).min(PAUSES.1)
            };
            if self.sender.is_closed() {
                return;
            }
            sleep(pause).await;
        }
    }

    /// Passes new lines on. Returns how the answer ended and whether it brought anything.
    async fn forward(
        &self,
        lines: &mut Lines,
        cursor: &mut Cursor,
        left: &mut usize,
    ) -> (End, bool) {
        let mut progressed = false;
        let told_before = cursor.went_back();
        loop {
            let line = match lines.next().await {
                Ok(Some(line)) => line,
                Ok(None) => return (End::Clean, progressed),
                Err(_) => return (End::Cut, progressed),
            };
            if !cursor.accept(&line) {
                continue;
            }
            progressed = true;
            if cursor.went_back() && !told_before {
                self.tell(Message::Note(format!(
                    "{}the node's clock went back; lines are compared verbatim after a cut",
                    self.source.prefix()
                )))
                .await;
            }
            let line = if line.cost() > *left {
                line.truncated(*left)
            } else {
                line
            };
            *left = left.saturating_sub(line.cost());
            if self
                .sender
                .send(Message::Line(self.index, line))
                .await
                .is_err()
                || *left == 0
            {
                return (End::Enough, progressed);
            }
        }
    }

    /// A log that cannot be read now is asked for again; the user is told why, once per cause.
    async fn tell_once(&self, told: &mut String, error: CallError) {
        let text = self.cluster.explain(error, "get pods/log").to_string();
        if *told != text {
            self.tell(Message::Note(format!(
                "{}{text}; trying again",
                self.source.prefix()
            )))
            .await;
            *told = text;
        }
    }

    async fn refused(&self, error: CallError) {
        let failure = self.cluster.explain(error, "get pods/log");
        if matches!(self.fate().await, Fate::Over(_)) {
            // The pod went away while its log was asked for.
            return self.tell(Message::Ended(self.index, None)).await;
        }
        self.tell(Message::Failed(self.index, failure)).await;
    }

    async fn fate(&self) -> Fate {
        let api: Api<Pod> = self.cluster.namespaced();
        match self.cluster.attempt(api.get(&self.source.pod)).await {
            Ok(pod) => fate_of(&pod, &self.source),
            Err(CallError::Request(kube::Error::Api(status))) if status.code == 404 => {
                Fate::Over(Some(format!("- pod/{} is gone", self.source.pod)))
            }
            // An API server that is away says nothing about the container.
            Err(_) => Fate::Lives,
        }
    }

    async fn tell(&self, message: Message) {
        // Nobody listens once the command ends.
        let _ = self.sender.send(message).await;
    }
}

/// Whether asking again is pointless: the server answered and refused for good.
fn is_final(error: &CallError) -> bool {
    matches!(error, CallError::Request(kube::Error::Api(status)) if matches!(status.code, 400 | 401 | 403 | 404))
}

fn fate_of(pod: &Pod, source: &Source) -> Fate {
    if pod.uid().as_deref() != Some(source.uid.as_str()) {
        return Fate::Over(Some(format!("- pod/{} was replaced", source.pod)));
    }
    let terminated = container_status(pod, &source.container)
        .and_then(|status| status.state.as_ref())
        .and_then(|state| state.terminated.as_ref());
    let note = terminated.map(|end| {
        let reason = end.reason.as_deref().unwrap_or("ended");
        format!(
            "- pod/{}/{}: {reason} (exit code {})",
            source.pod, source.container, end.exit_code
        )
    });
    if has_ended(pod) {
        return Fate::Over(note);
    }
    let Some(end) = terminated else {
        return Fate::Lives;
    };
    let policy = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.restart_policy.as_deref())
        .unwrap_or("Always");
    let is_init = pod
        .status
        .as_ref()
        .and_then(|status| status.init_container_statuses.as_ref())
        .is_some_and(|list| list.iter().any(|status| status.name == source.container));
    let again = match policy {
        "Never" => false,
        "OnFailure" => end.exit_code != 0,
        _ => !is_init || end.exit_code != 0,
    };
    if again { Fate::Lives } else { Fate::Over(note) }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::{Fate, fate_of};
    use crate::logs::Source;

    fn fate(uid: &str, policy: &str, state: &Value) -> Fate {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": uid}, "spec": {"restartPolicy": policy, "containers": []},
            "status": {"phase": "Running", "containerStatuses": [{"name": "main", "image": "i", "imageID": "",
                "ready": false, "restartCount": 0, "state": state}]}}))
        .unwrap();
        fate_of(
            &pod,
            &Source {
                pod: "p".to_owned(),
                uid: "u".to_owned(),
                container: "main".to_owned(),
            },
        )
    }

    #[test]
    fn a_container_that_is_started_again_is_followed_on() {
        let failed = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
        let done = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
        assert_eq!(fate("u", "Always", &done), Fate::Lives);
        assert_eq!(fate("u", "OnFailure", &failed), Fate::Lives);
        assert_eq!(fate("u", "Always", &json!({"running": {}})), Fate::Lives);
        let over = |text: &str| Fate::Over(Some(format!("- pod/p/main: {text}")));
        assert_eq!(
            fate("u", "OnFailure", &done),
            over("Completed (exit code 0)")
        );
        assert_eq!(fate("u", "Never", &failed), over("Error (exit code 1)"));
    }

    #[test]
    fn a_pod_of_the_same_name_with_another_uid_is_not_the_one_followed() {
        let found = fate("other", "Always", &json!({"running": {}}));
        assert_eq!(found, Fate::Over(Some("- pod/p was replaced".to_owned())));
    }
}
