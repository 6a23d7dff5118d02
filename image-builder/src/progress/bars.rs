//! Progress on a terminal: one bar for everything, one for each of the blobs under way.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Event, Progress, Tally};

/// Bars of blobs at a time; more would not fit a small terminal.
const MOST_BARS: usize = 8;
/// Redraws per second at most.
const REDRAWS: u8 = 10;
/// Columns for names.
const NAME_WIDTH: usize = 36;

/// Bars on stderr. Only blobs under way have one, so ten thousand files cost no more than eight.
pub struct Bars {
    screen: MultiProgress,
    state: Mutex<State>,
}

struct State {
    tally: Tally,
    total: ProgressBar,
    active: BTreeMap<usize, ProgressBar>,
}

impl Bars {
    /// Bars on stderr.
    #[must_use]
    pub fn on_stderr() -> Self {
        Self::on(ProgressDrawTarget::stderr_with_hz(REDRAWS))
    }

    /// Bars on another target; for tests.
    #[must_use]
    pub fn on(target: ProgressDrawTarget) -> Self {
        let screen = MultiProgress::with_draw_target(target);
        let total = screen.add(ProgressBar::new(0));
        total.set_style(style(
            "{prefix:36!} [{bar:24}] {bytes:>10} of {total_bytes:<10} {binary_bytes_per_sec:>12} {eta:>4} left  {msg}",
        ));
        Self {
            screen,
            state: Mutex::new(State {
                tally: Tally::default(),
                total,
                active: BTreeMap::new(),
            }),
        }
    }

    /// Removes the bars, for what is printed afterwards.
    pub fn clear(&self) {
        let state = self.lock();
        state
            .active
            .values()
            .for_each(ProgressBar::finish_and_clear);
        state.total.finish_and_clear();
        // A terminal that is gone needs no clearing.
        let _ = self.screen.clear();
    }

    /// Prints a line above the bars.
    pub fn line(&self, text: &str) {
        // As above.
        let _ = self.screen.println(text);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Bars {
    fn event(&self, event: Event) {
        let mut state = self.lock();
        state.tally.apply(&event);
        match &event {
            Event::Planned { .. } => {
                state.total.set_length(state.tally.total());
                state.total.reset();
            }
            Event::Started { blob, .. } => state.start(*blob, &self.screen),
            Event::Advanced { blob, bytes } => {
                if let Some(bar) = state.active.get(blob) {
                    bar.inc(*bytes);
                }
            }
            Event::Retried { blob, .. } => {
                if let Some(bar) = state.active.get(blob) {
                    bar.set_position(0);
                }
                state.label(*blob);
            }
            Event::Finished { blob, .. } => {
                if let Some(bar) = state.active.remove(blob) {
                    bar.finish_and_clear();
                    self.screen.remove(&bar);
                }
            }
            Event::Note(text) => {
                // As in `line`.
                let _ = self.screen.println(text);
            }
        }
        state.show_total();
    }
}

impl State {
    fn start(&mut self, blob: usize, screen: &MultiProgress) {
        let Some(found) = self.tally.blob(blob) else {
            return;
        };
        if !self.active.contains_key(&blob) && self.active.len() < MOST_BARS {
            let bar = screen.add(ProgressBar::new(found.size));
            bar.set_style(style(
                "  {prefix:34!} [{bar:24}] {bytes:>10} of {total_bytes:<10} {binary_bytes_per_sec:>12} {eta:>4} left  {msg}",
            ));
            bar.set_prefix(shortened(&found.name, NAME_WIDTH - 2));
            self.active.insert(blob, bar);
        }
        self.label(blob);
    }

    fn label(&self, blob: usize) {
        let (Some(found), Some(bar)) = (self.tally.blob(blob), self.active.get(&blob)) else {
            return;
        };
        let phase = found.phase.map_or("", super::Phase::word);
        bar.set_message(match found.attempt {
            0 | 1 => phase.to_owned(),
            attempt => format!("{phase}, attempt {attempt}"),
        });
    }

    fn show_total(&self) {
        self.total.set_prefix(format!(
            "{} of {} blobs",
            self.tally.finished(),
            self.tally.count()
        ));
        self.total.set_position(self.tally.done());
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .map(|style| style.progress_chars("=> "))
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The end of a path, which tells files apart better than its beginning; control characters are left out.
fn shortened(name: &str, width: usize) -> String {
    let clean: Vec<char> = name
        .chars()
        .filter(|character| !character.is_control())
        .collect();
    if clean.len() <= width {
        return clean.into_iter().collect();
    }
    let kept = clean.len().saturating_sub(width.saturating_sub(1));
    std::iter::once('…')
        .chain(clean.into_iter().skip(kept))
        .collect()
}

#[cfg(test)]
mod tests {
    use indicatif::ProgressDrawTarget;

    use super::{Bars, MOST_BARS, shortened};
    use crate::progress::{Event, Outcome, Phase, Progress};

    #[test]
    fn ten_thousand_files_never_have_more_bars_than_a_screen_holds() {
        let bars = Bars::on(ProgressDrawTarget::hidden());
        bars.event(Event::Planned {
            blobs: (0..10_000).map(|n| (format!("dir/file-{n}"), 10)).collect(),
        });
        for blob in 0..10_000 {
            bars.event(Event::Started {
                blob,
                phase: Phase::Upload,
            });
            assert!(bars.lock().active.len() <= MOST_BARS);
            if blob >= 20 {
                bars.event(Event::Finished {
                    blob: blob - 20,
                    outcome: Outcome::Moved,
                    digest: None,
                });
            }
        }
        assert_eq!(bars.lock().tally.finished(), 9_980);
        bars.clear();
    }

    #[test]
    fn names_keep_their_end_and_cannot_move_the_cursor() {
        assert_eq!(
            shortened("model-00001-of-00002.safetensors", 12),
            "…safetensors"
        );
        assert_eq!(shortened("a\u{1b}[2Jb", 12), "a[2Jb");
    }
}
