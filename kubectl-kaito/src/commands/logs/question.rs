//! What is asked, checked: flags that contradict each other are refused in kubectl's words.

use std::time::Duration;

use jiff::Timestamp;

use super::Args;
use crate::cli::duration::GoDuration;
use crate::error::Failure;
use crate::logs::write::Shape;
use crate::output::printer::Printer;

/// Why the flags ask for no logs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `--pod-running-timeout` is not positive.
    #[error("--pod-running-timeout must be higher than zero")]
    RunningTimeout,
    /// A name and `-l`.
    #[error("only a selector (-l) or a POD name is allowed")]
    NameAndSelector,
    /// Neither.
    #[error("expected a Workspace NAME, TYPE/NAME, or a selector (-l)")]
    NoTarget,
    /// No name that an object may have.
    #[error("resource name may not be empty and may not contain '/'")]
    Name,
    /// A kind without logs.
    #[error(
        "cannot get the logs from {kind}: only workspace, pod, deployment, statefulset and job have any"
    )]
    Kind {
        /// The kind.
        kind: String,
    },
    /// One container and all of them.
    #[error("--all-containers=true should not be specified with container name {name}")]
    AllAndOne {
        /// The container.
        name: String,
    },
    /// `--since` lies in the future.
    #[error("--since must be greater than 0")]
    Since,
    /// `--since` and `--since-time`.
    #[error("at most one of `sinceTime` or `sinceSeconds` may be specified")]
    TwoTimes,
    /// `--since-time` is no time.
    #[error("--since-time {text:?} is not a time in RFC 3339 form")]
    SinceTime {
        /// What was typed.
        text: String,
        /// What is wrong with it.
        #[source]
        source: jiff::Error,
    },
    /// `--tail` is below -1.
    #[error("--tail must be greater than or equal to -1")]
    Tail,
    /// `--limit-bytes` is below 0.
    #[error("--limit-bytes must be greater than 0")]
    LimitBytes,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = Self::of(&error);
        match error {
            Error::NoTarget => {
                failure.with_hint("See 'kubectl kaito logs -h' for help and examples")
            }
            _ => failure,
        }
    }
}

/// Whose logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All pods of a Workspace.
    Workspace(String),
    /// One pod.
    Pod(String),
    /// A pod, or all pods, of a workload: plural resource name and name.
    Workload(Workload, String),
    /// Pods with these labels.
    Selector(String),
}

/// Kinds that own pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Deployment.
    Deployment,
    /// StatefulSet.
    StatefulSet,
    /// Job.
    Job,
}

/// Which containers of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Containers {
    /// The default one.
    Default,
    /// This one.
    Named(String),
    /// All.
    All,
}

/// Where a log begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// At its beginning.
    Beginning,
    /// So many seconds ago.
    Seconds(u64),
    /// At a time.
    Time(Timestamp),
}

/// The whole question.
#[derive(Clone, Debug)]
pub struct Question {
    /// Whose.
    pub target: Target,
    /// Which containers.
    pub containers: Containers,
    /// Whether every pod of a workload is read.
    pub all_pods: bool,
    /// Whether to stay.
    pub follow: bool,
    /// Whether the run before the last restart is meant.
    pub previous: bool,
    /// Where to begin.
    pub since: Since,
    /// Lines from the end; all when absent.
    pub tail: Option<u64>,
    /// Bytes per log; all when absent.
    pub limit_bytes: Option<usize>,
    /// Streams at once.
    pub max_streams: usize,
    /// Whether a log that cannot be read ends the command.
    pub ignore_errors: bool,
    /// How long to wait for a running pod; without end when absent.
    pub running_timeout: Option<Duration>,
    /// Whether the node's certificate is left unchecked.
    pub insecure_backend: bool,
    /// How lines are written.
    pub shape: Shape,
}

/// kubectl's default of `--pod-running-timeout`.
const RUNNING_TIMEOUT: Duration = Duration::from_secs(20);

/// Checks the flags.
///
/// # Errors
/// What contradicts what.
pub fn parse(args: &Args, printer: &Printer) -> Result<Question, Error> {
    let target = target(args)?;
    let waits_forever = matches!(target, Target::Workspace(_)) && args.follow;
    let running_timeout = match args.pod_running_timeout {
        None if waits_forever => None,
        None => Some(RUNNING_TIMEOUT),
        Some(GoDuration::Positive(limit)) if !limit.is_zero() => Some(limit),
        Some(_) => {
            return Err(Error::RunningTimeout);
        }
    };
    Ok(Question {
        target,
        containers: containers(args)?,
        all_pods: args.all_pods,
        follow: args.follow,
        previous: args.previous,
        since: since(args)?,
        tail: tail(args)?,
        limit_bytes: limit(args)?,
        max_streams: args.max_log_requests.max(1),
        ignore_errors: args.ignore_errors,
        running_timeout,
        insecure_backend: args.insecure_skip_tls_verify_backend,
        shape: Shape {
            prefix: args.prefix || args.all_pods,
            timestamps: args.timestamps,
            terminal: printer.stdout_is_terminal(),
        },
    })
}

fn target(args: &Args) -> Result<Target, Error> {
    let selector = args.selector.as_deref().filter(|text| !text.is_empty());
    let name = match (&args.name, selector) {
        (Some(_), Some(_)) => {
            return Err(Error::NameAndSelector);
        }
        (None, Some(selector)) => return Ok(Target::Selector(selector.to_owned())),
        (None, None) => {
            return Err(Error::NoTarget);
        }
        (Some(name), None) => name,
    };
    let (kind, name) = name.split_once('/').unwrap_or(("workspace", name));
    if name.is_empty() || name.contains('/') {
        return Err(Error::Name);
    }
    let owned = name.to_owned();
    let kind = kind.split('.').next().unwrap_or(kind).to_lowercase();
    match kind.as_str() {
        "workspace" | "workspaces" | "wk" | "wks" => Ok(Target::Workspace(owned)),
        "pod" | "pods" | "po" => Ok(Target::Pod(owned)),
        "deployment" | "deployments" | "deploy" => {
            Ok(Target::Workload(Workload::Deployment, owned))
        }
        "statefulset" | "statefulsets" | "sts" => {
            Ok(Target::Workload(Workload::StatefulSet, owned))
        }
        "job" | "jobs" => Ok(Target::Workload(Workload::Job, owned)),
        _ => Err(Error::Kind { kind }),
    }
}

fn containers(args: &Args) -> Result<Containers, Error> {
    match (&args.container, args.all_containers) {
        (Some(name), true) => Err(Error::AllAndOne { name: name.clone() }),
        (Some(name), false) if !name.is_empty() => Ok(Containers::Named(name.clone())),
        (_, true) => Ok(Containers::All),
        (_, false) => Ok(Containers::Default),
    }
}

fn since(args: &Args) -> Result<Since, Error> {
    let time = args.since_time.as_deref().filter(|text| !text.is_empty());
    match (args.since.unwrap_or(GoDuration::ZERO), time) {
        (GoDuration::Negative, _) => Err(Error::Since),
        (GoDuration::Positive(ago), Some(_)) if !ago.is_zero() => Err(Error::TwoTimes),
        (_, Some(text)) => text
            .parse()
            .map(Since::Time)
            .map_err(|source| Error::SinceTime {
                text: text.to_owned(),
                source,
            }),
        (GoDuration::Positive(ago), None) if ago.is_zero() => Ok(Since::Beginning),
        // The server takes whole seconds and refuses 0; kubectl rounds up.
        (GoDuration::Positive(ago), None) => Ok(Since::Seconds(
            ago.as_secs() + u64::from(ago.subsec_nanos() > 0),
        )),
    }
}

fn tail(args: &Args) -> Result<Option<u64>, Error> {
    if args.tail < -1 {
        return Err(Error::Tail);
    }
    Ok(u64::try_from(args.tail).ok())
}

fn limit(args: &Args) -> Result<Option<usize>, Error> {
    match usize::try_from(args.limit_bytes) {
        Ok(0) => Ok(None),
        Ok(limit) => Ok(Some(limit)),
        Err(_) => Err(Error::LimitBytes),
    }
}

#[cfg(test)]
mod tests {
    use super::{Containers, Since, Target, Workload, containers, limit, since, tail, target};
    use crate::cli::duration;
    use crate::commands::logs::Args;

    fn args(name: &str) -> Args {
        Args {
            name: Some(name.to_owned()),
            tail: -1,
            ..Args::default()
        }
    }

    fn refusal<T: std::fmt::Debug>(result: Result<T, super::Error>) -> String {
        crate::error::Failure::from(result.unwrap_err()).lines()[0].clone()
    }

    #[test]
    fn a_bare_name_is_a_workspace_and_types_have_short_names() {
        assert_eq!(
            target(&args("phi")).unwrap(),
            Target::Workspace("phi".to_owned())
        );
        assert_eq!(target(&args("po/a")).unwrap(), Target::Pod("a".to_owned()));
        let job = Target::Workload(Workload::Job, "j".to_owned());
        assert_eq!(target(&args("jobs.batch/j")).unwrap(), job);
        assert!(refusal(target(&args("secret/x"))).contains("cannot get the logs from secret"));
        assert!(target(&args("pod/")).is_err());
    }

    #[test]
    fn contradictions_are_refused_in_kubectls_words() {
        let both = Args {
            selector: Some("a=b".to_owned()),
            ..args("phi")
        };
        assert_eq!(
            refusal(target(&both)),
            "error: only a selector (-l) or a POD name is allowed"
        );
        assert_eq!(
            refusal(tail(&Args {
                tail: -2,
                ..args("phi")
            })),
            "error: --tail must be greater than or equal to -1"
        );
        let twice = Args {
            since: Some(duration::parse("5s").unwrap()),
            since_time: Some("2026-01-01T00:00:00Z".to_owned()),
            ..args("phi")
        };
        assert_eq!(
            refusal(since(&twice)),
            "error: at most one of `sinceTime` or `sinceSeconds` may be specified"
        );
        let named = Args {
            container: Some("c".to_owned()),
            all_containers: true,
            ..args("phi")
        };
        assert!(refusal(containers(&named)).contains("--all-containers=true should not be"));
        assert!(
            limit(&Args {
                limit_bytes: -1,
                ..args("phi")
            })
            .is_err()
        );
    }

    #[test]
    fn parts_of_a_second_are_rounded_up_and_a_selector_keeps_all_lines() {
        let half = Args {
            since: Some(duration::parse("1.5s").unwrap()),
            ..args("phi")
        };
        assert_eq!(since(&half).unwrap(), Since::Seconds(2));
        let selected = Args {
            selector: Some("a=b".to_owned()),
            name: None,
            ..args("")
        };
        assert_eq!(
            target(&selected).unwrap(),
            Target::Selector("a=b".to_owned())
        );
        assert_eq!(tail(&selected).unwrap(), None);
        assert_eq!(containers(&selected).unwrap(), Containers::Default);
    }
}
