//! Where a stream was cut, and which lines of the next answer have been printed before.
//!
//! The rule: skip what is older than the last stamp printed, then as many lines at that very stamp as were printed
//! at it. When the node's clock is known to have gone backwards, stamps mean nothing, and the last lines are compared
//! verbatim instead.

use std::collections::VecDeque;

use jiff::Timestamp;

use super::Line;

/// How many lines are kept to be compared verbatim.
const KEPT: usize = 256;

/// What has been printed of one container's log.
#[derive(Debug, Default)]
pub struct Cursor {
    last: Option<Timestamp>,
    printed_at_last: usize,
    recent: VecDeque<(Option<Timestamp>, Vec<u8>)>,
    went_back: bool,
    replay: Replay,
}

/// What is still to be skipped in the current answer.
#[derive(Debug, Default)]
enum Replay {
    /// Nothing: a first answer, or one past the overlap.
    #[default]
    Past,
    /// Lines older than the stamp, then this many at it.
    Stamps(Timestamp, usize),
    /// Lines that equal one of these, each once.
    Verbatim(Vec<Vec<u8>>),
}

impl Cursor {
    /// Begins the next answer: what to ask the server for, or `None` to ask as for the first time.
    pub fn restart(&mut self) -> Option<Timestamp> {
        let last = self.last?;
        if self.went_back {
            self.replay =
                Replay::Verbatim(self.recent.iter().map(|(_, line)| line.clone()).collect());
            return self
                .recent
                .iter()
                .filter_map(|(stamp, _)| *stamp)
                .min()
                .map(whole_second);
        }
        self.replay = Replay::Stamps(last, self.printed_at_last);
        Some(whole_second(last))
    }

    /// Whether the clock of the node has been seen to go backwards.
    #[must_use]
    pub const fn went_back(&self) -> bool {
        self.went_back
    }

    /// Whether `line` is new. A new line counts as printed.
    pub fn accept(&mut self, line: &Line) -> bool {
        if self.is_repeat(line) {
            return false;
        }
        self.remember(line);
        true
    }

    fn is_repeat(&mut self, line: &Line) -> bool {
        match &mut self.replay {
            Replay::Past => false,
            Replay::Verbatim(known) => known
                .iter()
                .position(|seen| seen == line.stamped())
                .is_some_and(|found| {
                    known.swap_remove(found);
                    true
                }),
            Replay::Stamps(last, left) => {
                let Some(stamp) = line.stamp else {
                    return false;
                };
                if stamp < *last {
                    return true;
                }
                if stamp == *last && *left > 0 {
                    *left -= 1;
                    return true;
                }
                self.replay = Replay::Past;
                false
            }
        }
    }

    fn remember(&mut self, line: &Line) {
        if self.recent.len() == KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back((line.stamp, line.stamped().to_vec()));
        let Some(stamp) = line.stamp else { return };
        match self.last {
            Some(last) if stamp < last => self.went_back = true,
            Some(last) if stamp == last => self.printed_at_last += 1,
            _ => {
                self.last = Some(stamp);
                self.printed_at_last = 1;
            }
        }
    }
}

/// The server compares whole seconds only.
fn whole_second(stamp: Timestamp) -> Timestamp {
    Timestamp::from_second(stamp.as_second()).unwrap_or(stamp)
}

#[cfg(test)]
mod tests {
    use super::Cursor;
    use crate::logs::Line;

    fn line(text: &str) -> Line {
        Line::parse(text.as_bytes().to_vec(), true)
    }

    fn accepted(cursor: &mut Cursor, lines: &[&str]) -> Vec<String> {
        lines
            .iter()
            .map(|text| line(text))
            .filter(|line| cursor.accept(line))
            .map(|line| String::from_utf8(line.text().to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn a_first_answer_is_printed_whole() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.restart(), None);
        assert_eq!(
            accepted(&mut cursor, &["2026-01-01T00:00:01Z a", "no stamp"]),
            ["a", "no stamp"]
        );
    }

    #[test]
    fn after_a_cut_nothing_is_printed_twice_and_nothing_is_lost() {
        let mut cursor = Cursor::default();
        let first = [
            "2026-01-01T00:00:01.1Z a",
            "2026-01-01T00:00:01.5Z b",
            "2026-01-01T00:00:01.5Z b",
        ];
        assert_eq!(accepted(&mut cursor, &first).len(), 3);
        assert_eq!(
            cursor.restart().unwrap().to_string(),
            "2026-01-01T00:00:01Z"
        );
        let again = [
            "2026-01-01T00:00:01.1Z a",
            "2026-01-01T00:00:01.5Z b",
            "2026-01-01T00:00:01.5Z b",
            "2026-01-01T00:00:01.5Z b",
            "2026-01-01T00:00:02Z c",
        ];
        assert_eq!(accepted(&mut cursor, &again), ["b", "c"]);
    }

    #[test]
    fn two_cuts_in_a_row_skip_what_either_answer_showed() {
        let mut cursor = Cursor::default();
        accepted(&mut cursor, &["2026-01-01T00:00:01Z a"]);
        cursor.restart();
        assert_eq!(
            accepted(
                &mut cursor,
                &["2026-01-01T00:00:01Z a", "2026-01-01T00:00:01Z b"]
            ),
            ["b"]
        );
        cursor.restart();
        let third = [
            "2026-01-01T00:00:01Z a",
            "2026-01-01T00:00:01Z b",
            "2026-01-01T00:00:01Z c",
        ];
        assert_eq!(accepted(&mut cursor, &third), ["c"]);
    }

    #[test]
    fn a_clock_that_went_back_is_met_by_comparing_lines() {
        let mut cursor = Cursor::default();
        accepted(
            &mut cursor,
            &["2026-01-01T00:00:09Z a", "2026-01-01T00:00:05Z b"],
        );
        assert!(cursor.went_back());
        assert_eq!(
            cursor.restart().unwrap().to_string(),
            "2026-01-01T00:00:05Z"
        );
        let again = [
            "2026-01-01T00:00:09Z a",
            "2026-01-01T00:00:05Z b",
            "2026-01-01T00:00:06Z c",
        ];
        assert_eq!(accepted(&mut cursor, &again), ["c"]);
    }
}
