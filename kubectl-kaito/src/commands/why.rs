//! `why`: the causal chain behind a Workspace that is not ready.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;

use super::plan::landing::decide::{Decision, decide};
use super::plan::objects;
use super::status::{observe::observe, workspace_name};
use crate::Context;
use crate::cluster::Cluster;
use crate::error::{Exit, Failure};
use crate::output::format::Format;
use crate::view::cause::{Chain, Depth, Link, chain, shortened};
use crate::view::document;
use crate::view::facts::Facts;
use crate::view::text;

/// Flags of `why`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  # What is the root cause?
  kubectl kaito why phi

  # Everything that is not as it should be, with all events
  kubectl kaito why phi --all

Exit status: 0 the Workspace is ready, 3 it is not, 1 on errors.")]
pub struct Args {
    /// Workspace, as NAME or workspace/NAME
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Show every link and all events, not one link per step
    #[arg(long)]
    pub all: bool,
    /// Output format: table, json, yaml or jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<String>,
}

/// Runs `why`.
///
/// # Errors
/// The Workspace cannot be read.
pub async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let format = document::format(args.output.as_deref())?;
    let name = workspace_name(&args.name)?;
    let cluster = Cluster::connect(context).await?;
    let mut facts = observe(&cluster, name).await?;
    let now = Timestamp::now();
    let mut chain = chain(&facts);
    if needs_planner(&chain) {
        match planner_link(&cluster, &facts, now).await {
            Ok(link) => insert(&mut chain, link),
            Err(failure) => facts
                .notes
                .push(format!("the planner could not be asked: {failure}")),
        }
    }
    print(args, &format, context, &facts, &chain, now)?;
    Ok(if chain.verdict.is_good() {
        Exit::Success
    } else {
        Exit::Negative
    })
}

fn print(
    args: &Args,
    format: &Format,
    context: &Context,
    facts: &Facts,
    chain: &Chain,
    now: Timestamp,
) -> Result<(), Failure> {
    let links = if args.all {
        chain.links.clone()
    } else {
        shortened(&chain.links)
    };
    if *format == Format::Human {
        context
            .printer
            .data(&text::why(facts, chain, &links, now))?;
        if args.all && !facts.events.is_empty() {
            context.printer.data(&format!(
                "\n{}",
                text::events(&facts.events, now, usize::MAX)
            ))?;
        }
        for note in &facts.notes {
            context
                .printer
                .note(&crate::output::escape::single_line(&format!(
                    "note: {note}"
                )))?;
        }
        return Ok(());
    }
    let fields = json!({
        "workspace": document::reference("Workspace", &facts.workspace),
        "ready": chain.verdict.is_good(),
        "verdict": chain.verdict,
        "rootCause": links.first(),
        "chain": links,
        "notes": facts.notes,
    });
    document::print(
        &document::document("Why", now, &fields),
        format,
        &context.printer,
    )
}

/// The planner is asked again only where placement is what is missing: condition `Placed` may be old.
fn needs_planner(chain: &Chain) -> bool {
    chain.links.iter().any(|link| {
        link.depth == Depth::Placement
            || (link.depth == Depth::Pod && link.value == "SchedulingGated")
    })
}

/// What the scheduler's own planner says about the cluster as it is now.
async fn planner_link(
    cluster: &Cluster,
    facts: &Facts,
    now: Timestamp,
) -> Result<Option<Link>, Failure> {
    let recorded = objects::from_cluster(cluster).await?;
    let landings = decide(&recorded, &[Arc::new(facts.workspace.clone())], now).landings;
    let Some(landing) = landings.into_iter().next() else {
        return Ok(None);
    };
    let (value, message) = match landing.decision {
        Decision::Wait(waiting) => ("waits".to_owned(), waiting.message),
        Decision::Buy(bought, waiting) => (format!("buys {} nodes", bought.len()), waiting.message),
        Decision::Assign(found) => ("would be placed now".to_owned(), found.reason),
        Decision::Refused(error) => {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            (
                "cannot run as written".to_owned(),
                format!("{error}{}", source.unwrap_or_default()),
            )
        }
        Decision::Placed(_) | Decision::Incomplete => return Ok(None),
    };
    Ok(Some(Link {
        depth: Depth::Placement,
        object: format!(
            "Workspace/{}",
            facts.workspace.metadata.name.as_deref().unwrap_or_default()
        ),
        field: "planner, now".to_owned(),
        value,
        message,
        since: None,
        unblock: None,
        command: None,
    }))
}

/// Puts the planner's word behind what the condition says, unless both say the same.
fn insert(chain: &mut Chain, link: Option<Link>) {
    let Some(link) = link else { return };
    if chain
        .links
        .iter()
        .any(|known| known.depth == Depth::Placement && known.message == link.message)
    {
        return;
    }
    let place = chain
        .links
        .iter()
        .position(|known| known.depth > Depth::Placement);
    chain.links.insert(place.unwrap_or(chain.links.len()), link);
}

#[cfg(test)]
mod tests {
    use super::{insert, needs_planner};
    use crate::view::cause::{Depth, chain};
    use crate::view::facts::tests::yaml;
    use crate::view::tests::{LOADING, QUOTA};

    #[test]
    fn the_planner_is_asked_only_about_missing_places() {
        assert!(needs_planner(&chain(&yaml(QUOTA))));
        assert!(!needs_planner(&chain(&yaml(LOADING))));
    }

    #[test]
    fn the_planners_word_follows_the_condition_and_is_not_repeated() {
        let mut found = chain(&yaml(QUOTA));
        let count = found.links.len();
        let mut link = found.links[1].clone();
        insert(&mut found, Some(link.clone()));
        assert_eq!(found.links.len(), count);
        link.message = "needs 1 GPU".to_owned();
        insert(&mut found, Some(link));
        assert_eq!(found.links[2].message, "needs 1 GPU");
        assert_eq!(found.links[3].depth, Depth::Pod);
    }
}
