//! `wait`: until objects reach a state; several at once, each with its own answer.

mod goal;

use futures::future::join_all;
use tokio::time::Instant;

use crate::Context;
use crate::cli::duration::{self, GoDuration};
use crate::cluster::Cluster;
use crate::cluster::kinds::{self, Kind, Selection};
use crate::error::{Exit, Failure};
use crate::output::escape;
use crate::output::printer::Tone;
use crate::waiting;

use self::goal::{Progress, judge, uid};

pub use self::goal::Goal;

/// Why nothing is waited for.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// No `--for`.
    #[error("unrecognized condition: \"\"")]
    NoGoal,
    /// No object and no selector.
    #[error("resource(s) were provided, but no name was specified")]
    NoName,
    /// The selector selects nothing.
    #[error("no matching resources found")]
    NothingFound,
    /// The object is not there, in the server's words.
    #[error("Error from server (NotFound): {resource} {name:?} not found")]
    NotFound {
        /// Its resource.
        resource: String,
        /// Its name.
        name: String,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::NoGoal => {
                Self::of(&error).with_hint("Name the state with --for, for example: --for ready")
            }
            Error::NotFound { .. } => Self::verbatim(error),
            _ => Self::of(&error),
        }
    }
}

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
    /// NAME…, TYPE NAME… or TYPE/NAME…
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
        return Err(Error::NoGoal.into());
    }
    let goals: Vec<Goal> = args
        .goals
        .iter()
        .map(|goal| goal.parse())
        .collect::<Result<_, _>>()?;
    let (kind, targets) = kinds::arguments(&args.names)?;
    let selecting = args.all || args.selector.is_some() || args.field_selector.is_some();
    if targets.is_empty() && !selecting {
        return Err(Error::NoName.into());
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
        return Err(Error::NothingFound.into());
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
    let selection = Selection {
        namespace: (!args.all_namespaces).then(|| cluster.namespace()),
        labels: args.selector.as_deref(),
        fields: args.field_selector.as_deref(),
    };
    let found = kind.select(cluster, &selection).await?;
    Ok(found
        .into_iter()
        .map(|(namespace, name)| (kind.clone(), namespace, name))
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
            let name = self.name.clone();
            return Err(Error::NotFound { resource, name }.into());
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

#[cfg(test)]
mod tests {
    use super::{Answer, verdict};
    use crate::error::{Exit, Failure};

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
