//! `status` and `why` as text.

use std::fmt::Write as _;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;

use super::cause::{Chain, Link, Verdict};
use super::facts::{Facts, event_time};
use super::phase::{Phase, State, phases};
use super::summary::{Summary, summary};
use super::tree::{Branch, tree};
use crate::output::age;
use crate::output::escape::{multiline, single_line};
use crate::output::printer::{Printer, Tone};
use crate::output::table::{Headers, Table};

/// Events that are shown without `--details`.
const FEW_EVENTS: usize = 6;

/// Which characters may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charset {
    /// Lines and ticks.
    Unicode,
    /// ASCII only.
    Ascii,
}

/// What is shown and how.
#[derive(Clone, Copy, Debug)]
pub struct Style<'a> {
    /// Characters.
    pub charset: Charset,
    /// Whether the tree is left out.
    pub tree: Tree,
    /// Depth: 0 shows the newest events, more shows all.
    pub details: u8,
    /// Paints words, if its stdout has colours.
    pub printer: &'a Printer,
}

/// Whether the tree of objects is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tree {
    /// It is.
    Show,
    /// It is not.
    Hide,
}

/// The whole of `status`.
#[must_use]
pub fn status(facts: &Facts, now: Timestamp, style: Style<'_>) -> String {
    let summary = summary(facts);
    let mut text = head(facts, &summary, now, style);
    if style.tree == Tree::Show {
        section(&mut text, &tree_table(&tree(facts), now, style.charset));
    }
    section(&mut text, &conditions(facts, now));
    section(
        &mut text,
        &events(
            &facts.events,
            now,
            if style.details > 0 {
                usize::MAX
            } else {
                FEW_EVENTS
            },
        ),
    );
    if !facts.notes.is_empty() {
        let notes: String = facts
            .notes
            .iter()
            .map(|note| format!("note: {}\n", single_line(note)))
            .collect();
        section(&mut text, &notes);
    }
    text
}

fn section(text: &mut String, part: &str) {
    if !part.is_empty() {
        text.push('\n');
        text.push_str(part);
    }
}

fn head(facts: &Facts, summary: &Summary, now: Timestamp, style: Style<'_>) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "{:<11}{value}", format!("{label}:"));
    };
    line("Workspace", &single_line(&facts.full_name()));
    line("Model", &single_line(&model(summary)));
    line("Instance", &single_line(&instance(summary)));
    line("Nodes", &nodes(summary));
    line(
        "Phase",
        &style
            .printer
            .paint(&single_line(&summary.phase), tone(&summary.phase)),
    );
    line(
        "Age",
        &summary
            .created
            .map_or_else(|| "<unknown>".to_owned(), |then| age::between(then, now)),
    );
    line("Progress", &bar(&phases(facts, now), style));
    if let Some(training) = &facts.training {
        line("Training", &training.sentence());
    }
    if let Some(plan) = &summary.plan {
        line("Plan", &single_line(plan));
    }
    for contradiction in &summary.contradictions {
        let warning = style.printer.paint("Warning:", Tone::Warn);
        let _ = writeln!(text, "{warning} {}", single_line(contradiction));
    }
    text
}

fn model(summary: &Summary) -> String {
    let runtime = summary
        .runtime
        .as_ref()
        .map(|runtime| format!(", {runtime}"))
        .unwrap_or_default();
    format!("{} ({}{runtime})", summary.model, summary.purpose)
}

fn instance(summary: &Summary) -> String {
    let name = summary.instance_type.as_deref().unwrap_or("<any>");
    match summary.gpus_per_node {
        Some(1) => format!("{name}, 1 GPU per node"),
        Some(count) => format!("{name}, {count} GPUs per node"),
        None => name.to_owned(),
    }
}

fn nodes(summary: &Summary) -> String {
    match summary.target_nodes {
        Some(target) => format!("{}/{target}", summary.nodes),
        None => format!("{}/<not planned>", summary.nodes),
    }
}

fn tone(phase: &str) -> Tone {
    match phase {
        "Ready" | "Succeeded" => Tone::Good,
        "Failed" | "NotReady" => Tone::Bad,
        _ => Tone::Warn,
    }
}

/// The phases on one line, for example `✔ queued 2s  ▶ provision 40s  · image pull  · load  · ready`.
#[must_use]
pub fn bar(phases: &[Phase], style: Style<'_>) -> String {
    let parts: Vec<String> = phases
        .iter()
        .map(|phase| {
            let (unicode, ascii, tone) = match phase.state {
                State::Done => ("✔", "+", Tone::Good),
                State::Active => ("▶", ">", Tone::Accent),
                State::Pending => ("·", ".", Tone::Dim),
                State::Skipped => ("–", "-", Tone::Dim),
                State::Failed => ("✘", "x", Tone::Bad),
            };
            let mark = if style.charset == Charset::Unicode {
                unicode
            } else {
                ascii
            };
            let time = match (phase.state, phase.seconds) {
                (State::Skipped, _) => " not needed".to_owned(),
                (_, Some(seconds)) => format!(" {}", age::of_seconds(seconds)),
                (_, None) => String::new(),
            };
            style
                .printer
                .paint(&format!("{mark} {}{time}", phase.name), tone)
        })
        .collect();
    parts.join("  ")
}

/// The tree as a table.
#[must_use]
pub fn tree_table(root: &Branch, now: Timestamp, charset: Charset) -> String {
    let mut table = Table::new(&["OBJECT", "READY", "RESTARTS", "REASON", "AGE"]);
    grow(&mut table, root, "", "", now, charset);
    table.render(Headers::Show)
}

fn grow(
    table: &mut Table,
    branch: &Branch,
    head: &str,
    below: &str,
    now: Timestamp,
    charset: Charset,
) {
    table.rows.push(vec![
        format!("{head}{}/{}", branch.kind, branch.name),
        branch.ready.clone(),
        branch
            .restarts
            .map_or_else(|| "-".to_owned(), |count| count.to_string()),
        branch.reason.clone(),
        branch
            .created
            .map_or_else(|| "<unknown>".to_owned(), |then| age::between(then, now)),
    ]);
    let (middle, last, line) = match charset {
        Charset::Unicode => ("├─", "└─", "│ "),
        Charset::Ascii => ("|-", "`-", "| "),
    };
    for (index, child) in branch.children.iter().enumerate() {
        let is_last = index + 1 == branch.children.len();
        let head = format!("{below}{}", if is_last { last } else { middle });
        let below = format!("{below}{}", if is_last { "  " } else { line });
        grow(table, child, &head, &below, now, charset);
    }
}

fn conditions(facts: &Facts, now: Timestamp) -> String {
    if facts.conditions().is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["CONDITION", "STATUS", "REASON", "AGE", "MESSAGE"]);
    for condition in facts.conditions() {
        table.rows.push(vec![
            condition.type_.clone(),
            condition.status.clone(),
            condition.reason.clone(),
            age::between(condition.last_transition_time.0, now),
            condition.message.clone(),
        ]);
    }
    table.render(Headers::Show)
}

/// The newest `most` events, oldest first.
#[must_use]
pub fn events(events: &[Event], now: Timestamp, most: usize) -> String {
    if events.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]);
    for event in events.iter().skip(events.len().saturating_sub(most)) {
        let about = &event.involved_object;
        table.rows.push(vec![
            event_time(event)
                .map_or_else(|| "<unknown>".to_owned(), |then| age::between(then, now)),
            event.type_.clone().unwrap_or_default(),
            event.reason.clone().unwrap_or_default(),
            format!(
                "{}/{}",
                about.kind.as_deref().unwrap_or_default(),
                about.name.as_deref().unwrap_or_default()
            ),
            event.message.clone().unwrap_or_default(),
        ]);
    }
    table.render(Headers::Show)
}

/// One line for a view that is not a terminal: phase, nodes, what goes on now, and the most specific reason.
#[must_use]
pub fn progress_line(facts: &Facts, reason: &str, now: Timestamp) -> String {
    let summary = summary(facts);
    let active = phases(facts, now)
        .into_iter()
        .find(|phase| phase.state == State::Active);
    let mut text = format!("{} nodes={}", summary.phase, nodes(&summary));
    if let Some(active) = active {
        let _ = write!(text, " now={:?}", active.name);
    }
    if let Some(training) = &facts.training {
        let _ = write!(text, " step={}/{}", training.step, training.steps);
        if let Some(loss) = training.loss {
            let _ = write!(text, " loss={loss:.3}");
        }
    }
    if !reason.is_empty() {
        let _ = write!(text, " reason={reason:?}");
    }
    single_line(&text)
}

/// The whole of `why`.
#[must_use]
pub fn why(facts: &Facts, chain: &Chain, links: &[Link], now: Timestamp) -> String {
    let name = single_line(&facts.full_name());
    let mut text = match chain.verdict {
        Verdict::Ready => format!("{name} is ready\n"),
        Verdict::Succeeded => format!("{name} has succeeded\n"),
        Verdict::NotReady => format!("{name} is not ready; root cause first:\n"),
        Verdict::Deleting => format!("{name} is being deleted; root cause first:\n"),
    };
    for contradiction in summary(facts).contradictions {
        let _ = writeln!(text, "Warning: {}", single_line(&contradiction));
    }
    for (index, link) in links.iter().enumerate() {
        let _ = write!(text, "\n{}. {}", index + 1, multiline(&entry(link, now)));
    }
    text
}

fn entry(link: &Link, now: Timestamp) -> String {
    let since = link
        .since
        .map(|then| format!(" for {}", age::between(then, now)))
        .unwrap_or_default();
    let mut text = format!(
        "{}  {} = {}{since}\n",
        link.object,
        link.field,
        single_line(&link.value)
    );
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "   {label:<9}{}", single_line(value));
    };
    if !link.message.is_empty() {
        line("says", &link.message);
    }
    if let Some(unblock) = &link.unblock {
        line("unblock", unblock);
    }
    if let Some(command) = &link.command {
        line("try", command);
    }
    text
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{Charset, Style, Tree, progress_line, status, why};
    use crate::output::printer::Printer;
    use crate::view::cause::{chain, shortened};
    use crate::view::facts::tests::yaml;
    use crate::view::tests::{LOADING, QUOTA};
    use crate::view::training::Training;

    fn now() -> Timestamp {
        "2026-01-01T00:05:00Z".parse().unwrap()
    }

    fn shown(text: &str, charset: Charset, tree: Tree) -> String {
        let printer = Printer::to_writers(Box::new(Vec::new()), Box::new(Vec::new()));
        status(
            &yaml(text),
            now(),
            Style {
                charset,
                tree,
                details: 0,
                printer: &printer,
            },
        )
    }

    #[test]
    fn status_of_a_loading_workspace() {
        insta::assert_snapshot!(shown(LOADING, Charset::Unicode, Tree::Show));
    }

    #[test]
    fn status_of_a_blocked_workspace_in_ascii_without_tree() {
        let text = shown(QUOTA, Charset::Ascii, Tree::Hide);
        assert!(text.is_ascii(), "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn why_a_purchase_is_refused() {
        let facts = yaml(QUOTA);
        let chain = chain(&facts);
        insta::assert_snapshot!(why(&facts, &chain, &shortened(&chain.links), now()));
    }

    #[test]
    fn a_progress_line_has_phase_nodes_activity_and_reason() {
        assert_eq!(
            progress_line(&yaml(LOADING), "0 of 1 replicas are ready", now()),
            r#"Pending nodes=1/1 now="load" reason="0 of 1 replicas are ready""#
        );
    }

    #[test]
    fn a_training_shows_its_step_and_loss_in_both_views() {
        let mut facts = yaml(LOADING);
        let line = r#"{"kaito": "progress", "step": 7, "steps": 50, "loss": 1.5}"#;
        facts.training = Training::read(line);
        let shown = progress_line(&facts, "", now());
        assert!(shown.ends_with("step=7/50 loss=1.500"), "{shown}");
        let printer = Printer::to_writers(Box::new(Vec::new()), Box::new(Vec::new()));
        let style = Style {
            charset: Charset::Ascii,
            tree: Tree::Hide,
            details: 0,
            printer: &printer,
        };
        let shown = status(&facts, now(), style);
        assert!(
            shown.contains("Training:  step 7 of 50, loss 1.500\n"),
            "{shown}"
        );
    }

    #[test]
    fn control_characters_in_messages_are_harmless() {
        let text = QUOTA.replace("quota Standard", "\\u001b[2Jquota Standard");
        let facts = yaml(&text);
        let chain = chain(&facts);
        let shown = why(&facts, &chain, &chain.links, now());
        assert!(shown.contains("^[[2Jquota") && !shown.contains('\u{1b}'));
    }
}
