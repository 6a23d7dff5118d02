//! Several logs in one order: by time stamp, and within one log always as it was written.

use std::collections::VecDeque;

use jiff::Timestamp;

use super::Line;

/// Lines of several sources that wait for their turn.
#[derive(Debug, Default)]
pub struct Merger {
    sources: Vec<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<(Timestamp, Line)>,
    last: Timestamp,
    ended: bool,
}

impl Merger {
    /// A merger of `count` sources, numbered from 0; of equal stamps the lower source comes first.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self {
            sources: (0..count).map(|_| Queue::default()).collect(),
        }
    }

    /// Adds a source and returns its number.
    pub fn add(&mut self) -> usize {
        self.sources.push(Queue::default());
        self.sources.len() - 1
    }

    /// Adds a line of `source`. A line without a stamp, or with one older than its predecessor, keeps its place behind
    /// the predecessor.
    pub fn push(&mut self, source: usize, line: Line) {
        if let Some(queue) = self.sources.get_mut(source) {
            queue.last = queue.last.max(line.stamp.unwrap_or(queue.last));
            queue.lines.push_back((queue.last, line));
        }
    }

    /// No more lines of `source` will come.
    pub fn end(&mut self, source: usize) {
        if let Some(queue) = self.sources.get_mut(source) {
            queue.ended = true;
        }
    }

    /// The source whose next line is needed before anything can be released, or `None` if none is.
    #[must_use]
    pub fn starved(&self) -> Option<usize> {
        self.sources
            .iter()
            .position(|queue| queue.lines.is_empty() && !queue.ended)
    }

    /// The next line in order, or `None` while a source is starved or when all have ended.
    pub fn pop(&mut self) -> Option<(usize, Line)> {
        if self.starved().is_some() {
            None
        } else {
            self.pop_any()
        }
    }

    /// The oldest line that has been pushed, whatever may still come.
    pub fn pop_any(&mut self) -> Option<(usize, Line)> {
        let (source, _) = self
            .sources
            .iter()
            .enumerate()
            .filter_map(|(index, queue)| queue.lines.front().map(|(stamp, _)| (index, *stamp)))
            .min_by_key(|(index, stamp)| (*stamp, *index))?;
        let (_, line) = self.sources.get_mut(source)?.lines.pop_front()?;
        Some((source, line))
    }
}

#[cfg(test)]
mod tests {
    use super::Merger;
    use crate::logs::Line;

    fn line(text: &str) -> Line {
        Line::parse(text.as_bytes().to_vec(), true)
    }

    fn texts(merger: &mut Merger) -> String {
        let mut out = Vec::new();
        while let Some((_, line)) = merger.pop() {
            out.extend_from_slice(line.text());
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_of_two_sources_come_out_by_time() {
        let mut merger = Merger::new(2);
        merger.push(0, line("2026-01-01T00:00:01Z a"));
        merger.push(0, line("2026-01-01T00:00:04Z d"));
        assert_eq!(merger.starved(), Some(1));
        assert!(merger.pop().is_none());
        merger.push(1, line("2026-01-01T00:00:02Z b"));
        merger.push(1, line("2026-01-01T00:00:03Z c"));
        merger.end(0);
        merger.end(1);
        assert_eq!(texts(&mut merger), "abcd");
    }

    #[test]
    fn the_order_within_a_source_survives_missing_and_falling_stamps() {
        let mut merger = Merger::new(2);
        merger.push(0, line("2026-01-01T00:00:03Z a"));
        merger.push(0, line("b"));
        merger.push(0, line("2026-01-01T00:00:01Z c"));
        merger.push(1, line("2026-01-01T00:00:03Z x"));
        merger.end(0);
        merger.end(1);
        assert_eq!(texts(&mut merger), "abcx");
    }

    #[test]
    fn the_held_lines_can_be_released_in_order_before_all_sources_spoke() {
        let mut merger = Merger::new(3);
        merger.push(2, line("2026-01-01T00:00:02Z b"));
        merger.push(1, line("2026-01-01T00:00:01Z a"));
        assert_eq!(merger.pop_any().unwrap().0, 1);
        assert_eq!(merger.pop_any().unwrap().0, 2);
        assert!(merger.pop_any().is_none());
    }
}
