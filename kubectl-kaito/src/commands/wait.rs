//! `wait`: until objects reach a state; several at once, each with its own answer.

use std::str::FromStr;

use futures::future::join_all;
use kube::api::ListParams;
use serde_json::Value;
use tokio::time::Instant;

use crate::Context;
use crate::cli::duration::{self, GoDuration};
use crate::cluster::Cluster;
use crate::cluster::kinds::{self, Kind};
use crate::error::{Exit, Failure};
use crate::output::escape;
use crate::output::jsonpath::{Template, text_of};
use crate::output::printer::Tone;
use crate::readiness::{self, Verdict};
use crate::waiting;

/// Flags of `wait`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  # Until the model serves, or certainly will not
  kubectl kaito wait phi --for ready --timeout 20m

  # Until a condition of all Workspaces holds
  kubectl kaito wait --all --for condition=ResourceReady

  # Until it is gone
  kubectl kaito wait phi --for deleted

Exit status: 0 reached, 1 errors, 4 timed out (kubectl: 1), 5 will not become ready by waiting.")]
pub struct Args {
    /// [TYPE] NAME… or TYPE/NAME…
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// ready, deleted, create, delete, condition=NAME[=VALUE], jsonpath='{PATH}'[=VALUE]; may be repeated
    #[arg(long = "for", value_name = "STATE")]
    pub goals: Vec<String>,
    /// Longest time to wait; 0 looks once, negative waits a week
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse, allow_hyphen_values = true)]
    pub timeout: GoDuration,
    /// All objects of the namespace
    #[arg(long)]
    pub all: bool,
    /// All namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Objects with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Objects with these fields
    #[arg(long, value_name = "SELECTOR")]
    pub field_selector: Option<String>,
}

/// A state to wait for.
#[derive(Clone, Debug, PartialEq)]
pub enum Goal {
    /// The Workspace serves, or its tuning has ended well.
    Ready,
    /// The object is gone, or another one has its name.
    Deleted,
    /// The object exists.
    Created,
    /// A condition has a value; compared without case.
    Condition {
        /// Type of the condition.
        name: String,
        /// Status, in lower case.
        value: String,
    },
    /// A path has a value, or any value.
    JsonPath {
        /// The path.
        path: Template,
        /// The value to equal.
        value: Option<String>,
    },
}

impl FromStr for Goal {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let (name, rest) = text
            .split_once('=')
            .map_or((text, None), |(name, rest)| (name, Some(rest)));
        match (name.to_lowercase().as_str(), rest) {
            ("ready", None) => Ok(Self::Ready),
            ("delete" | "deleted", None) => Ok(Self::Deleted),
            ("create" | "created", None) => Ok(Self::Created),
            ("condition", Some(rest)) if !rest.is_empty() => {
                let (name, value) = rest.split_once('=').unwrap_or((rest, "true"));
                Ok(Self::Condition { name: name.to_owned(), value: value.to_lowercase() })
            }
            ("jsonpath", Some(rest)) if !rest.is_empty() => json_path(rest),
            _ => Err(Failure::error(format!("unrecognized condition: {text:?}"))
                .with_hint("Known: ready, deleted, create, delete, condition=NAME[=VALUE], jsonpath='{PATH}'[=VALUE]")),
        }
    }
}

fn json_path(text: &str) -> Result<Goal, Failure> {
    // The path may hold "==" in a filter: the value starts after the closing brace.
    let (path, value) = match text.rfind('}') {
        Some(end) => {
            let (path, rest) = text.split_at(end + 1);
            (path, rest.strip_prefix('='))
        }
        None => text
            .split_once('=')
            .map_or((text, None), |(path, value)| (path, Some(value))),
    };
    let path = Template::parse_relaxed(path).map_err(Failure::error)?;
    Ok(Goal::JsonPath {
        path,
        value: value.map(str::to_owned),
    })
}

/// Where an object stands on the way to a goal.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    Met,
    Waiting(String),
    Hopeless(String),
}

/// What waiting for one object came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// All goals were met.
    Met,
    /// Time ran out; the last reason.
    TimedOut(Failure),
    /// It will not happen.
    Hopeless(Failure),
}

/// Waits for one object.
pub struct Waiter<'a> {
    /// Connection.
    pub cluster: &'a Cluster,
    /// Printer.
    pub context: &'a Context,
    /// The object's kind.
    pub kind: Kind,
    /// The object's namespace; without meaning for cluster-wide kinds.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// When to give up; never when absent. Now means: look once.
    pub deadline: Option<Instant>,
}

/// Waits for the objects.
///
/// # Errors
/// Bad arguments, a refusal of the server, timeout (exit 4), or a state that waiting cannot change (exit 5).
pub async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    if args.goals.is_empty() {
        return Err(Failure::error("unrecognized condition: \"\"")
            .with_hint("Name the state with --for, for example: --for ready"));
    }
    let goals: Vec<Goal> = args
        .goals
        .iter()
        .map(|goal| goal.parse())
        .collect::<Result<_, _>>()?;
    let (kind, targets) = kinds::arguments(&args.names)?;
    let selecting = args.all || args.selector.is_some() || args.field_selector.is_some();
    if targets.is_empty() && !selecting {
        return Err(Failure::error(
            "resource(s) were provided, but no name was specified",
        ));
    }
    let cluster = Cluster::connect(context).await?;
    let deadline = match args.timeout {
        GoDuration::Positive(limit) => Some(Instant::now() + limit),
        GoDuration::Negative => Some(Instant::now() + GoDuration::WEEK),
    };
    let mut objects: Vec<(Kind, String, String)> = targets
        .into_iter()
        .map(|target| (target.kind, cluster.namespace().to_owned(), target.name))
        .collect();
    if selecting {
        objects.extend(selected(args, &kind, &cluster).await?);
    }
    if objects.is_empty() {
        return Err(Failure::error("no matching resources found"));
    }
    let waiting = objects.into_iter().map(|(kind, namespace, name)| {
        let waiter = Waiter {
            cluster: &cluster,
            context,
            kind,
            namespace,
            name,
            deadline,
        };
        let goals = &goals;
        async move { waiter.run(goals).await }
    });
    verdict(join_all(waiting).await)
}

async fn selected(
    args: &Args,
    kind: &Kind,
    cluster: &Cluster,
) -> Result<Vec<(Kind, String, String)>, Failure> {
    let api = if args.all_namespaces {
        kind.everywhere(cluster)
    } else {
        kind.api(cluster, cluster.namespace())
    };
    let mut params = ListParams::default();
    params.label_selector.clone_from(&args.selector);
    params.field_selector.clone_from(&args.field_selector);
    let list = cluster
        .call(
            &format!("list {}", kind.resource_name()),
            api.list_metadata(&params),
        )
        .await?;
    let object = |metadata: kube::core::ObjectMeta| {
        (
            kind.clone(),
            metadata.namespace.unwrap_or_default(),
            metadata.name.unwrap_or_default(),
        )
    };
    Ok(list
        .items
        .into_iter()
        .map(|item| object(item.metadata))
        .collect())
}

/// One exit status for several answers: errors first, then hopeless cases, then timeouts.
///
/// # Errors
/// The failure of each object that did not get there.
pub fn verdict(answers: Vec<Result<Answer, Failure>>) -> Result<Exit, Failure> {
    let mut exit = Exit::Success;
    let mut lines = Vec::new();
    for answer in answers {
        let (failure, status) = match answer {
            Ok(Answer::Met) => continue,
            Ok(Answer::TimedOut(failure)) => (failure, Exit::Timeout),
            Ok(Answer::Hopeless(failure)) => (failure, Exit::Terminal),
            Err(failure) => (failure, Exit::Failure),
        };
        lines.extend(failure.lines().iter().cloned());
        exit = match (exit, status) {
            (Exit::Failure, _) | (_, Exit::Failure) => Exit::Failure,
            (Exit::Terminal, _) | (_, Exit::Terminal) => Exit::Terminal,
            _ => status,
        };
    }
    if exit == Exit::Success {
        Ok(exit)
    } else {
        Err(Failure::many(lines).with_exit(exit))
    }
}

impl Waiter<'_> {
    /// Waits for all goals, in order, and prints the result line.
    ///
    /// # Errors
    /// The server refuses or cannot be reached.
    pub async fn run(&self, goals: &[Goal]) -> Result<Answer, Failure> {
        for goal in goals {
            match self.reach(goal).await? {
                Answer::Met => {}
                other => return Ok(other),
            }
        }
        let verb = if goals.last() == Some(&Goal::Ready) {
            "ready"
        } else {
            "condition met"
        };
        let line = format!("{}/{} {verb}", self.kind.kind_name(), self.name);
        self.context.printer.line(&escape::single_line(&line))?;
        Ok(Answer::Met)
    }

    async fn reach(&self, goal: &Goal) -> Result<Answer, Failure> {
        let api = self.kind.api(self.cluster, &self.namespace);
        let resource = self.kind.resource_name();
        let first = waiting::once(self.cluster, &api, &self.name, &resource).await?;
        let uid = uid(first.as_ref());
        if first.is_none() && !matches!(goal, Goal::Deleted | Goal::Created) {
            return Err(Failure::verbatim(format!(
                "Error from server (NotFound): {resource} {:?} not found",
                self.name
            )));
        }
        let mut last = String::new();
        match judge(goal, first.as_ref(), &uid) {
            Progress::Met => return Ok(Answer::Met),
            Progress::Hopeless(reason) => return Ok(self.hopeless(&reason)),
            Progress::Waiting(reason) => self.progress(&mut last, reason)?,
        }
        if self
            .deadline
            .is_some_and(|deadline| deadline <= Instant::now())
        {
            return Ok(Answer::TimedOut(
                self.failed("condition not met for", &last),
            ));
        }
        let mut printed = Ok(());
        let answer = waiting::until(
            self.cluster,
            &api,
            &self.name,
            &resource,
            self.deadline,
            |object| match judge(goal, object, &uid) {
                Progress::Met => Some(None),
                Progress::Hopeless(reason) => Some(Some(reason)),
                Progress::Waiting(reason) => {
                    printed = self.progress(&mut last, reason);
                    None
                }
            },
        )
        .await?;
        printed?;
        Ok(match answer {
            Some(None) => Answer::Met,
            Some(Some(reason)) => self.hopeless(&reason),
            None => Answer::TimedOut(self.failed("timed out waiting for the condition on", &last)),
        })
    }

    /// Says a reason once, when it is new.
    fn progress(&self, last: &mut String, reason: String) -> Result<(), Failure> {
        if reason == *last || reason.is_empty() {
            return Ok(());
        }
        let text = escape::single_line(&format!(
            "{}/{}: {reason}",
            self.kind.kind_name(),
            self.name
        ));
        *last = reason;
        self.context
            .printer
            .note(&self.context.printer.paint_note(&text, Tone::Dim))
    }

    fn hopeless(&self, reason: &str) -> Answer {
        Answer::Hopeless(self.failed("waiting is of no use for", reason))
    }

    fn failed(&self, head: &str, reason: &str) -> Failure {
        let failure = Failure::error(format!(
            "{head} {}/{}",
            self.kind.resource.plural, self.name
        ));
        let failure = if reason.is_empty() {
            failure
        } else {
            failure.with_hint(reason)
        };
        if self.kind.resource.kind == "Workspace" {
            failure.with_hint(format!(
                "Next: {} why {} -n {}",
                self.context.program, self.name, self.namespace
            ))
        } else {
            failure
        }
    }
}

fn uid(object: Option<&Value>) -> String {
    object
        .and_then(|object| object.pointer("/metadata/uid"))
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// Where an object stands; `first_uid` is the UID of the object that was there at first.
fn judge(goal: &Goal, object: Option<&Value>, first_uid: &str) -> Progress {
    let Some(object) = object else {
        return match goal {
            Goal::Deleted => Progress::Met,
            Goal::Created => Progress::Waiting(String::new()),
            _ => Progress::Hopeless("it was deleted".to_owned()),
        };
    };
    match goal {
        Goal::Created => Progress::Met,
        Goal::Deleted if uid(Some(object)) != first_uid => Progress::Met,
        Goal::Deleted => Progress::Waiting(finalizers(object)),
        Goal::Ready => match readiness::judge(object) {
            Verdict::Ready => Progress::Met,
            Verdict::Waiting(reason) => Progress::Waiting(reason),
            Verdict::Failed(reason) => Progress::Hopeless(reason),
        },
        Goal::Condition { name, value } => condition(object, name, value),
        Goal::JsonPath { path, value } => {
            let found = path.values(object);
            let met = match value {
                None => !found.is_empty(),
                Some(value) => found.iter().any(|found| text_of(found) == *value),
            };
            if met {
                Progress::Met
            } else {
                Progress::Waiting(String::new())
            }
        }
    }
}

fn condition(object: &Value, name: &str, value: &str) -> Progress {
    let conditions = readiness::current_conditions(object);
    let found = conditions
        .iter()
        .find(|condition| condition.kind.eq_ignore_ascii_case(name));
    match found {
        Some(condition) if condition.status.to_lowercase() == value => Progress::Met,
        Some(condition) => Progress::Waiting(format!("{}: {}", condition.kind, condition.message)),
        None => Progress::Waiting(String::new()),
    }
}

/// What a deletion waits for.
fn finalizers(object: &Value) -> String {
    let list = object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array);
    let names: Vec<&str> = list
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let deleting = object.pointer("/metadata/deletionTimestamp").is_some();
    if deleting && !names.is_empty() {
        format!("being deleted, held by {}", names.join(", "))
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Answer, Goal, Progress, judge, verdict};
    use crate::error::{Exit, Failure};

    fn goal(text: &str) -> Goal {
        text.parse().unwrap()
    }

    #[test]
    fn states_are_read_as_kubectl_reads_them() {
        assert_eq!(
            goal("condition=Ready"),
            Goal::Condition {
                name: "Ready".to_owned(),
                value: "true".to_owned()
            }
        );
        assert_eq!(
            goal("condition=Ready=False"),
            Goal::Condition {
                name: "Ready".to_owned(),
                value: "false".to_owned()
            }
        );
        assert_eq!(goal("deleted"), Goal::Deleted);
        assert!(
            matches!(goal("jsonpath={.a[?(@.b==\"c\")].d}=e"), Goal::JsonPath { value: Some(value), .. } if value == "e")
        );
        let failure = "bogus".parse::<Goal>().unwrap_err();
        assert_eq!(
            failure.lines()[0],
            "error: unrecognized condition: \"bogus\""
        );
    }

    #[test]
    fn a_namesake_made_later_means_deleted() {
        let object = json!({"metadata": {"uid": "2"}});
        assert_eq!(judge(&Goal::Deleted, Some(&object), "1"), Progress::Met);
        assert_eq!(
            judge(&Goal::Deleted, Some(&object), "2"),
            Progress::Waiting(String::new())
        );
        assert_eq!(judge(&Goal::Deleted, None, "2"), Progress::Met);
    }

    #[test]
    fn conditions_of_an_older_generation_do_not_count() {
        let object = |observed: i64| {
            json!({"metadata": {"generation": 2}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "observedGeneration": observed}]}})
        };
        assert_eq!(
            judge(&goal("condition=ready"), Some(&object(2)), ""),
            Progress::Met
        );
        assert_eq!(
            judge(&goal("condition=ready"), Some(&object(1)), ""),
            Progress::Waiting(String::new())
        );
    }

    #[test]
    fn a_path_is_met_by_its_value_or_by_being_there() {
        let object = json!({"status": {"state": "Ready"}});
        for (text, met) in [
            ("jsonpath={.status.state}=Ready", true),
            ("jsonpath=.status.state", true),
            ("jsonpath={.status.state}=Failed", false),
            ("jsonpath={.status.x}", false),
        ] {
            assert_eq!(
                judge(&goal(text), Some(&object), "") == Progress::Met,
                met,
                "{text}"
            );
        }
    }

    #[test]
    fn the_worst_answer_decides_the_exit_status() {
        let timeout = || Ok(Answer::TimedOut(Failure::error("t")));
        let hopeless = || Ok(Answer::Hopeless(Failure::error("h")));
        assert_eq!(verdict(vec![Ok(Answer::Met)]), Ok(Exit::Success));
        assert_eq!(
            verdict(vec![timeout(), Ok(Answer::Met)]).unwrap_err().exit,
            Exit::Timeout
        );
        assert_eq!(
            verdict(vec![timeout(), hopeless()]).unwrap_err().exit,
            Exit::Terminal
        );
        assert_eq!(
            verdict(vec![hopeless(), Err(Failure::error("e"))])
                .unwrap_err()
                .exit,
            Exit::Failure
        );
    }
}
