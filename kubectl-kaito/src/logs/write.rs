//! Lines to bytes: prefixes, time stamps, and what is escaped on a terminal.

use std::borrow::Cow;
use std::io::{self, Write};

use super::Line;

/// How lines are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Name the source before each line.
    pub prefix: bool,
    /// Keep the server's time stamps.
    pub timestamps: bool,
    /// The reader is a terminal: control sequences and broken UTF-8 are made visible instead of passed on.
    pub terminal: bool,
}

/// Writes lines of several sources so that no two of them ever share a line of output.
#[derive(Debug, Default)]
pub struct LineWriter {
    shape: Shape,
    open: Option<usize>,
}

impl LineWriter {
    /// A writer of that shape.
    #[must_use]
    pub const fn new(shape: Shape) -> Self {
        Self { shape, open: None }
    }

    /// Writes `line` of source number `source`, whose name is `prefix` (for example `[pod/p1/main] `).
    ///
    /// # Errors
    /// Those of `out`.
    pub fn line(
        &mut self,
        out: &mut dyn Write,
        source: usize,
        prefix: &str,
        line: &Line,
    ) -> io::Result<()> {
        match self.open {
            Some(open) if open == source => {}
            Some(_) => {
                out.write_all(b"\n")?;
                self.head(out, prefix)?;
            }
            None => self.head(out, prefix)?,
        }
        let bytes = if self.shape.timestamps {
            line.stamped()
        } else {
            line.text()
        };
        if self.shape.terminal {
            out.write_all(visible(bytes).as_bytes())?;
        } else {
            out.write_all(bytes)?;
        }
        self.open = if line.complete { None } else { Some(source) };
        if line.complete {
            out.write_all(b"\n")
        } else {
            Ok(())
        }
    }

    /// Ends a line that was left open.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn finish(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if self.open.take().is_some() {
            out.write_all(b"\n")
        } else {
            Ok(())
        }
    }

    fn head(&self, out: &mut dyn Write, prefix: &str) -> io::Result<()> {
        if self.shape.prefix {
            out.write_all(prefix.as_bytes())
        } else {
            Ok(())
        }
    }
}

/// The text as a terminal may show it: escape, carriage return and other control characters in caret or hexadecimal
/// form, overrides of writing direction spelled out, broken UTF-8 as replacement characters. Tabs stay.
fn visible(bytes: &[u8]) -> String {
    let text: Cow<'_, str> = String::from_utf8_lossy(bytes);
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\t' => shown.push(letter),
            '\r' => shown.push_str("\\r"),
            '\u{1b}' => shown.push_str("^["),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                shown.push_str(&format!("\\u{{{:x}}}", u32::from(letter)));
            }
            letter if letter.is_control() => {
                shown.push_str(&format!("\\x{:02x}", u32::from(letter)));
            }
            letter => shown.push(letter),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::{LineWriter, Shape};
    use crate::logs::Line;

    fn line(bytes: &[u8], complete: bool) -> Line {
        Line::parse(bytes.to_vec(), complete)
    }

    fn written(shape: Shape, lines: &[(usize, Line)]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = LineWriter::new(shape);
        for (source, line) in lines {
            writer
                .line(&mut out, *source, &format!("[pod/p{source}/main] "), line)
                .unwrap();
        }
        writer.finish(&mut out).unwrap();
        out
    }

    #[test]
    fn a_pipe_gets_the_bytes_of_the_container() {
        let lines = [(0, line(b"2026-01-01T00:00:00Z \x1b[31m\xff\r", true))];
        assert_eq!(written(Shape::default(), &lines), b"\x1b[31m\xff\r\n");
    }

    #[test]
    fn a_terminal_gets_no_control_sequences() {
        let shape = Shape {
            terminal: true,
            ..Shape::default()
        };
        let lines = [(0, line("\u{1b}[2Jhi\u{202e}\t\u{7}\r".as_bytes(), true))];
        assert_eq!(written(shape, &lines), b"^[[2Jhi\\u{202e}\t\\x07\\r\n");
    }

    #[test]
    fn stamps_and_prefixes_are_added_on_request() {
        let shape = Shape {
            prefix: true,
            timestamps: true,
            terminal: false,
        };
        let lines = [(1, line(b"2026-01-01T00:00:00Z a", true))];
        assert_eq!(
            written(shape, &lines),
            b"[pod/p1/main] 2026-01-01T00:00:00Z a\n"
        );
    }

    #[test]
    fn an_open_line_is_closed_before_another_source_speaks_and_at_the_end() {
        let shape = Shape {
            prefix: true,
            ..Shape::default()
        };
        let lines = [
            (0, line(b"a", false)),
            (0, line(b"b", false)),
            (1, line(b"c", false)),
        ];
        assert_eq!(
            written(shape, &lines),
            b"[pod/p0/main] ab\n[pod/p1/main] c\n"
        );
    }
}
