//! Bytes to lines. A line is what the container wrote, with the server's time stamp in front of it.
//!
//! Lines are bytes: nothing here assumes UTF-8.

use std::str;

use jiff::Timestamp;

/// Longest piece of a line that is kept in memory, in bytes.
pub const MAX_LINE: usize = 1 << 20;

/// One line of a log, or a piece of an overlong one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Everything received, without the newline; begins with the time stamp if `stamp` is present.
    bytes: Vec<u8>,
    /// Where the container's own text begins in `bytes`.
    text_start: usize,
    /// When the node saw the line; absent in answers without time stamps and in later pieces.
    pub stamp: Option<Timestamp>,
    /// Whether the newline has been seen; `false` for a piece of an overlong line and for an unfinished last line.
    pub complete: bool,
}

impl Line {
    /// Reads the time stamp at the head of `bytes`, if one is there.
    #[must_use]
    pub fn parse(bytes: Vec<u8>, complete: bool) -> Self {
        let (stamp, text_start) =
            stamp_of(&bytes).map_or((None, 0), |(stamp, end)| (Some(stamp), end));
        Self {
            bytes,
            text_start,
            stamp,
            complete,
        }
    }

    fn continuation(bytes: Vec<u8>, complete: bool) -> Self {
        Self {
            bytes,
            text_start: 0,
            stamp: None,
            complete,
        }
    }

    /// What the container wrote.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        self.bytes.get(self.text_start..).unwrap_or_default()
    }

    /// How many bytes it is worth when output is limited: the text and its newline.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.text().len() + usize::from(self.complete)
    }

    /// Its first `length` bytes of text.
    #[must_use]
    pub fn truncated(mut self, length: usize) -> Self {
        if length < self.text().len() {
            self.bytes.truncate(self.text_start + length);
            self.complete = false;
        }
        self
    }

    /// Time stamp and text as received.
    #[must_use]
    pub fn stamped(&self) -> &[u8] {
        &self.bytes
    }
}

/// Time stamp at the head of `bytes` and where the text after it begins. The stamp is RFC 3339 and one blank.
fn stamp_of(bytes: &[u8]) -> Option<(Timestamp, usize)> {
    let longest = bytes.get(..bytes.len().min(48))?;
    let end = longest
        .iter()
        .position(|byte| *byte == b' ')
        .unwrap_or(longest.len());
    let text = str::from_utf8(longest.get(..end)?).ok()?;
    let stamp = text.parse().ok()?;
    Some((stamp, (end + 1).min(bytes.len())))
}

/// Cuts a byte stream into lines.
#[derive(Debug, Default)]
pub struct Framer {
    pending: Vec<u8>,
    within_long_line: bool,
}

impl Framer {
    /// Takes the next bytes of the stream and returns the lines that they complete.
    pub fn push(&mut self, mut bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (head, tail) = bytes.split_at(end);
            self.take(head, &mut lines);
            lines.push(self.cut(true));
            bytes = tail.get(1..).unwrap_or_default();
        }
        self.take(bytes, &mut lines);
        lines
    }

    /// The unfinished last line, if there is one.
    pub fn finish(&mut self) -> Option<Line> {
        if self.pending.is_empty() {
            None
        } else {
            Some(self.cut(false))
        }
    }

    fn take(&mut self, mut bytes: &[u8], lines: &mut Vec<Line>) {
        while self.pending.len() + bytes.len() > MAX_LINE {
            let (head, tail) = bytes.split_at(MAX_LINE - self.pending.len());
            self.pending.extend_from_slice(head);
            lines.push(self.cut(false));
            bytes = tail;
        }
        self.pending.extend_from_slice(bytes);
    }

    fn cut(&mut self, complete: bool) -> Line {
        let bytes = std::mem::take(&mut self.pending);
        let continues = std::mem::replace(&mut self.within_long_line, !complete);
        if continues {
            Line::continuation(bytes, complete)
        } else {
            Line::parse(bytes, complete)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Framer, Line, MAX_LINE};

    #[test]
    fn a_line_split_over_two_reads_comes_out_whole() {
        let mut framer = Framer::default();
        assert!(framer.push(b"2026-11-24T05:00:00.5Z he").is_empty());
        let lines = framer.push(b"llo\nnext");
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].text(), b"hello");
        assert_eq!(lines[0].stamp.unwrap().as_millisecond() % 1000, 500);
        let last = framer.finish().unwrap();
        assert_eq!((last.text(), last.complete), (&b"next"[..], false));
        assert!(framer.finish().is_none());
    }

    #[test]
    fn bytes_that_are_not_utf8_pass_through() {
        let line = Line::parse(b"2026-11-24T05:00:00Z \xff\xfe\x1b[1m".to_vec(), true);
        assert_eq!(line.text(), b"\xff\xfe\x1b[1m");
        assert_eq!(
            Line::parse(b"\xff no stamp".to_vec(), true).text(),
            b"\xff no stamp"
        );
    }

    #[test]
    fn an_empty_line_keeps_its_stamp_and_has_no_text() {
        let line = Line::parse(b"2026-11-24T05:00:00.000000001Z ".to_vec(), true);
        assert_eq!(line.text(), b"");
        assert!(line.stamp.is_some());
        let bare = Line::parse(b"2026-11-24T05:00:00.000000001Z".to_vec(), true);
        assert_eq!((bare.text(), bare.stamp.is_some()), (&b""[..], true));
    }

    #[test]
    fn overlong_lines_come_in_pieces_of_which_only_the_last_is_complete() {
        let mut framer = Framer::default();
        let mut input = b"2026-11-24T05:00:00Z ".to_vec();
        input.extend(std::iter::repeat_n(b'x', MAX_LINE));
        input.push(b'\n');
        let lines = framer.push(&input);
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].complete, lines[1].complete), (false, true));
        assert_eq!(lines[0].text().len() + lines[1].text().len(), MAX_LINE);
        assert!(lines[1].stamp.is_none());
        assert_eq!(framer.push(b"2026-11-24T05:00:01Z ok\n")[0].text(), b"ok");
    }
}
