//! `status -w`: looks again when something moves, and ends on a state that waiting does not change.
//!
//! Watches only tell that something moved; what is shown always comes from [`super::observe`], so that a live view and
//! a single look can never disagree.

use std::time::Duration;

use futures::stream::{BoxStream, select_all};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kaito_api::{NodeClaim, Workspace, names};
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at};

use super::{Args, exit_of, observe, style, to_document};
use crate::Context;
use crate::cluster::Cluster;
use crate::error::{Exit, Failure};
use crate::output::format::Format;
use crate::readiness::Verdict;
use crate::view::document;
use crate::view::facts::Facts;
use crate::view::text::{progress_line, status};

/// Movements within this time are shown together: at most five frames a second.
const SETTLE: Duration = Duration::from_millis(200);
/// Looks again at least this often: events and nodes are not watched.
const AT_LEAST: Duration = Duration::from_secs(10);
/// As [`AT_LEAST`], for a training: its steps are in a log, which is not watched either.
const AT_LEAST_TRAINING: Duration = Duration::from_secs(2);

/// Follows the Workspace.
///
/// # Errors
/// The Workspace cannot be read, or disappears.
pub async fn run(
    args: &Args,
    name: &str,
    format: &Format,
    cluster: &Cluster,
    context: &Context,
) -> Result<Exit, Failure> {
    let deadline = args.timeout.limit().map(|limit| Instant::now() + limit);
    let mut movements = movements(cluster, name);
    let mut screen = Screen::new(args, format, context);
    loop {
        let facts = observe::observe(cluster, name).await?;
        screen.show(&facts)?;
        let verdict = facts.readiness();
        if !matches!(verdict, Verdict::Waiting(_)) {
            return Ok(exit_of(&verdict));
        }
        if let Waited::Timeout = wait(&mut movements, deadline, &mut screen, &facts).await? {
            let limit = args.timeout.limit().unwrap_or_default();
            return Err(Failure::error(format!(
                "timed out after {}s; {} is not ready",
                limit.as_secs_f64(),
                facts.full_name()
            ))
            .with_exit(Exit::Timeout));
        }
    }
}

enum Waited {
    Moved,
    Timeout,
}

/// Waits for a movement and lets it settle; on a terminal the ages tick meanwhile.
async fn wait(
    movements: &mut BoxStream<'static, ()>,
    deadline: Option<Instant>,
    screen: &mut Screen<'_>,
    facts: &Facts,
) -> Result<Waited, Failure> {
    let at_least = if facts.training.is_some() {
        AT_LEAST_TRAINING
    } else {
        AT_LEAST
    };
    let look_again = Instant::now() + at_least;
    let end = deadline.unwrap_or_else(|| look_again + AT_LEAST);
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    tick.reset();
    loop {
        tokio::select! {
            moved = movements.next() => {
                if moved.is_some() {
                    settle(movements).await;
                }
                return Ok(Waited::Moved);
            }
            () = sleep_until(end), if deadline.is_some() => return Ok(Waited::Timeout),
            () = sleep_until(look_again) => return Ok(Waited::Moved),
            _ = tick.tick() => screen.tick(facts)?,
        }
    }
}

async fn settle(movements: &mut BoxStream<'static, ()>) {
    let until = Instant::now() + SETTLE;
    while let Ok(Some(())) = timeout_at(until, movements.next()).await {}
}

/// One item whenever the Workspace, one of its pods or one of its claims changes. Watches reconnect by themselves;
/// one that is forbidden is silent, and the periodic look replaces it.
fn movements(cluster: &Cluster, name: &str) -> BoxStream<'static, ()> {
    let client = cluster.client().clone();
    let labelled = watcher::Config::default().labels(&format!("{}={name}", names::LABEL_WORKSPACE));
    let named = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let workspaces: Api<PartialObjectMeta<Workspace>> =
        Api::namespaced(client.clone(), cluster.namespace());
    let pods: Api<PartialObjectMeta<Pod>> = Api::namespaced(client.clone(), cluster.namespace());
    let claims: Api<PartialObjectMeta<NodeClaim>> = Api::all(client);
    let streams = vec![
        watcher(workspaces, named)
            .default_backoff()
            .map_ok(|_| ())
            .boxed(),
        watcher(pods, labelled.clone())
            .default_backoff()
            .map_ok(|_| ())
            .boxed(),
        watcher(claims, labelled)
            .default_backoff()
            .map_ok(|_| ())
            .boxed(),
    ];
    select_all(streams)
        .filter_map(|item| async move { item.ok() })
        .boxed()
}

/// Where frames go: redrawn in place on a terminal, one line or document per change elsewhere.
struct Screen<'a> {
    args: &'a Args,
    format: &'a Format,
    context: &'a Context,
    drawn_lines: usize,
    last: String,
}

impl<'a> Screen<'a> {
    const fn new(args: &'a Args, format: &'a Format, context: &'a Context) -> Self {
        Self {
            args,
            format,
            context,
            drawn_lines: 0,
            last: String::new(),
        }
    }

    fn is_live(&self) -> bool {
        *self.format == Format::Human && self.context.printer.stdout_is_terminal()
    }

    fn show(&mut self, facts: &Facts) -> Result<(), Failure> {
        if self.is_live() {
            return self.draw(facts);
        }
        let now = Timestamp::now();
        let reason = match facts.readiness() {
            Verdict::Ready => String::new(),
            Verdict::Waiting(reason) | Verdict::Failed(reason) => reason,
        };
        let line = progress_line(facts, &reason, now);
        if line == self.last {
            return Ok(());
        }
        self.last.clone_from(&line);
        if *self.format == Format::Human {
            let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
            return self.context.printer.line(&format!("{second} {line}"));
        }
        document::print(&to_document(facts, now), self.format, &self.context.printer)
    }

    fn tick(&mut self, facts: &Facts) -> Result<(), Failure> {
        if self.is_live() {
            self.draw(facts)
        } else {
            Ok(())
        }
    }

    /// Redraws in place; nothing to restore at the end, and the last frame stays to be read.
    fn draw(&mut self, facts: &Facts) -> Result<(), Failure> {
        let text = status(facts, Timestamp::now(), style(self.args, self.context));
        let size = terminal_size::terminal_size();
        let (columns, rows) = size.map_or((usize::MAX, usize::MAX), |(width, height)| {
            (
                usize::from(width.0),
                usize::from(height.0).saturating_sub(1),
            )
        });
        let lines: Vec<String> = text
            .lines()
            .take(rows)
            .map(|line| clip(line, columns))
            .collect();
        let mut frame = String::new();
        if self.drawn_lines > 0 {
            frame.push_str(&format!("\u{1b}[{}A\r\u{1b}[J", self.drawn_lines));
        }
        for line in &lines {
            frame.push_str(line);
            frame.push('\n');
        }
        self.drawn_lines = lines.len();
        self.context.printer.data(&frame)?;
        self.context.printer.flush()
    }
}

/// The line, cut to the width of the terminal; colour sequences take no room.
fn clip(line: &str, columns: usize) -> String {
    use unicode_width::UnicodeWidthChar;
    let mut clipped = String::new();
    let mut width = 0;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        clipped.push(letter);
        if letter == '\u{1b}' {
            for code in letters.by_ref() {
                clipped.push(code);
                if code.is_ascii_alphabetic() {
                    break;
                }
            }
            continue;
        }
        width += letter.width().unwrap_or_default();
        if width > columns {
            clipped.pop();
            clipped.push_str("\u{1b}[0m");
            break;
        }
    }
    clipped
}

#[cfg(test)]
mod tests {
    use super::clip;

    #[test]
    fn lines_are_cut_to_the_terminal_and_colours_take_no_room() {
        assert_eq!(clip("abcdef", 3), "abc\u{1b}[0m");
        assert_eq!(clip("\u{1b}[32mabc\u{1b}[0m", 3), "\u{1b}[32mabc\u{1b}[0m");
        assert_eq!(clip("模型型", 4), "模型\u{1b}[0m");
    }
}
