//! `status`: one Workspace with everything that hangs on it, once or live.

pub mod observe;
pub mod watch;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Context;
use crate::cli::duration::{self, GoDuration};
use crate::cluster::Cluster;
use crate::environment::Environment;
use crate::error::{Exit, Failure};
use crate::output::format::Format;
use crate::readiness::Verdict;
use crate::view::facts::{Facts, event_time};
use crate::view::phase::phases;
use crate::view::summary::summary;
use crate::view::text::{Charset, Style, Tree, status};
use crate::view::tree::tree;
use crate::view::{document, phase};

/// Flags of `status`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  # Nodes, pods, conditions and events of a Workspace
  kubectl kaito status phi

  # Follow it until it is ready or has failed
  kubectl kaito status phi -w --timeout 30m

Exit status with --exit-code or -w: 0 ready or succeeded, 3 not ready, 4 timed out, 5 failed.")]
pub struct Args {
    /// Workspace, as NAME or workspace/NAME
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Follow until the Workspace is ready or has failed
    #[arg(short, long)]
    pub watch: bool,
    /// End -w after this time; 0 waits without end
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration::parse, allow_hyphen_values = true)]
    pub timeout: GoDuration,
    /// Let the exit status tell the state
    #[arg(long)]
    pub exit_code: bool,
    /// More depth: 1 shows all events
    #[arg(long, value_name = "LEVEL", default_value_t = 0)]
    pub details: u8,
    /// Leave the tree of objects out
    #[arg(long)]
    pub no_tree: bool,
    /// Draw with ASCII characters only
    #[arg(long)]
    pub ascii: bool,
    /// Output format: table, json, yaml or jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<String>,
}

/// Runs `status`.
///
/// # Errors
/// The Workspace cannot be read.
pub async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let format = document::format(args.output.as_deref())?;
    let name = workspace_name(&args.name)?;
    let cluster = Cluster::connect(context).await?;
    if args.watch {
        return watch::run(args, name, &format, &cluster, context).await;
    }
    let facts = observe::observe(&cluster, name).await?;
    let now = Timestamp::now();
    match format {
        Format::Human => context
            .printer
            .data(&status(&facts, now, style(args, context)))?,
        _ => document::print(&to_document(&facts, now), &format, &context.printer)?,
    }
    Ok(if args.exit_code {
        exit_of(&facts.readiness())
    } else {
        Exit::Success
    })
}

/// Name in `NAME`, `workspace/NAME`, `wk/NAME` or `wks/NAME`, with or without the group.
///
/// # Errors
/// Another type, or no name.
pub fn workspace_name(argument: &str) -> Result<&str, Failure> {
    let (kind, name) = argument.split_once('/').unwrap_or(("workspace", argument));
    let kind = kind.split('.').next().unwrap_or(kind).to_lowercase();
    if name.is_empty() {
        return Err(Failure::error("resource name may not be empty"));
    }
    match kind.as_str() {
        "workspace" | "workspaces" | "wk" | "wks" => Ok(name),
        _ => Err(Failure::error(format!(
            "{argument:?} is not a Workspace; give NAME or workspace/NAME"
        ))),
    }
}

/// The exit status that a state deserves.
#[must_use]
pub const fn exit_of(verdict: &Verdict) -> Exit {
    match verdict {
        Verdict::Ready => Exit::Success,
        Verdict::Waiting(_) => Exit::Negative,
        Verdict::Failed(_) => Exit::Terminal,
    }
}

/// How `status` is drawn here.
#[must_use]
pub fn style<'a>(args: &Args, context: &'a Context) -> Style<'a> {
    let ascii = args.ascii || !is_utf8(&context.environment);
    Style {
        charset: if ascii {
            Charset::Ascii
        } else {
            Charset::Unicode
        },
        tree: if args.no_tree { Tree::Hide } else { Tree::Show },
        details: args.details,
        printer: &context.printer,
    }
}

/// Whether the locale is UTF-8; an unset one counts as UTF-8, as in containers and CI.
fn is_utf8(environment: &Environment) -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| environment.variable(name));
    locale.is_none_or(|locale| {
        let locale = locale.to_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

/// The document of `status`.
#[must_use]
pub fn to_document(facts: &Facts, now: Timestamp) -> Value {
    let (ready, reason) = match facts.readiness() {
        Verdict::Ready => (true, String::new()),
        Verdict::Waiting(reason) | Verdict::Failed(reason) => (false, reason),
    };
    let phases: Vec<phase::Phase> = phases(facts, now);
    let fields = json!({
        "workspace": document::reference("Workspace", &facts.workspace),
        "ready": ready,
        "reason": reason,
        "summary": summary(facts),
        "phases": phases,
        "training": facts.training,
        "tree": tree(facts),
        "conditions": facts.conditions(),
        "events": facts.events.iter().map(event).collect::<Vec<_>>(),
        "notes": facts.notes,
    });
    document::document("WorkspaceStatus", now, &fields)
}

fn event(event: &k8s_openapi::api::core::v1::Event) -> Value {
    let about = &event.involved_object;
    json!({
        "lastSeen": event_time(event).map(|time| time.to_string()),
        "type": event.type_,
        "reason": event.reason,
        "message": event.message,
        "object": {"kind": about.kind, "name": about.name, "uid": about.uid},
        "count": event.count,
    })
}

#[cfg(test)]
mod tests {
    use super::{exit_of, is_utf8, to_document, workspace_name};
    use crate::environment::Environment;
    use crate::error::Exit;
    use crate::readiness::Verdict;
    use crate::view::facts::tests::yaml;
    use crate::view::tests::LOADING;

    #[test]
    fn a_workspace_is_named_with_or_without_its_type() {
        for text in [
            "phi",
            "workspace/phi",
            "wk/phi",
            "wks/phi",
            "Workspaces.kaito.sh/phi",
        ] {
            assert_eq!(workspace_name(text).unwrap(), "phi", "{text}");
        }
        assert!(workspace_name("pod/phi").is_err());
        assert!(workspace_name("workspace/").is_err());
    }

    #[test]
    fn the_exit_status_tells_ready_waiting_and_failed_apart() {
        assert_eq!(exit_of(&Verdict::Ready), Exit::Success);
        assert_eq!(exit_of(&Verdict::Waiting(String::new())), Exit::Negative);
        assert_eq!(exit_of(&Verdict::Failed(String::new())), Exit::Terminal);
    }

    #[test]
    fn only_a_locale_that_says_otherwise_is_not_utf8() {
        let with = |value: &str| {
            let mut environment = Environment::default();
            environment
                .variables
                .insert("LANG".to_owned(), value.to_owned());
            environment
        };
        assert!(is_utf8(&Environment::default()));
        assert!(is_utf8(&with("de_DE.UTF-8")));
        assert!(!is_utf8(&with("C")));
    }

    #[test]
    fn the_document_has_references_phases_and_the_tree() {
        let made = to_document(&yaml(LOADING), "2026-01-01T00:05:00Z".parse().unwrap());
        assert_eq!(made["kind"], "WorkspaceStatus");
        assert_eq!(made["workspace"]["uid"], "w1");
        assert_eq!(made["phases"][1]["name"], "provision");
        assert_eq!(made["phases"][1]["seconds"], 178);
        assert_eq!(made["tree"]["children"][0]["children"][0]["name"], "node-1");
        assert_eq!(made["summary"]["gpusPerNode"], 1);
        assert_eq!(made["events"][0]["reason"], "NodeRequested");
    }
}
