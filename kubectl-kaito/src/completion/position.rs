//! Where the end of an unfinished command line stands: in which command, and what is wanted there. Pure.

use clap::{Arg, Command};

/// The end of a command line.
pub(super) struct Position<'a> {
    /// The command that has been chosen so far.
    pub(super) command: &'a Command,
    /// What may stand there.
    pub(super) wanted: Wanted<'a>,
    /// What is there of it already.
    pub(super) typed: &'a str,
}

/// What may stand somewhere.
pub(super) enum Wanted<'a> {
    /// A flag.
    Flag,
    /// The value of a flag.
    Value(&'a Arg),
    /// A word of its own, with so many before it in this command; the first may be a command.
    Word(usize),
}

/// Reads the words up to the last, which is unfinished. `root` must have been built.
pub(super) fn position<'a>(root: &'a Command, words: &'a [String]) -> Position<'a> {
    let (typed, before) = match words.split_last() {
        Some((last, before)) => (last.as_str(), before),
        None => ("", words),
    };
    let mut reader = Reader {
        command: root,
        value_of: None,
        ordinal: 0,
        flags_ended: false,
    };
    for word in before {
        reader.read(word);
    }
    reader.end(typed)
}

struct Reader<'a> {
    command: &'a Command,
    /// The flag whose value comes next.
    value_of: Option<&'a Arg>,
    ordinal: usize,
    flags_ended: bool,
}

impl<'a> Reader<'a> {
    fn read(&mut self, word: &str) {
        if self.value_of.take().is_some() {
            return;
        }
        if self.flags_ended {
            self.ordinal += 1;
        } else if word == "--" {
            self.flags_ended = true;
        } else if let Some(flag) = word.strip_prefix("--") {
            self.value_of = self.long(flag).filter(|found| value_follows(found));
        } else if let Some(letters) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) {
            self.value_of = self.short(letters).filter(|found| value_follows(found));
        } else if let (0, Some(found)) = (self.ordinal, self.command.find_subcommand(word)) {
            self.command = found;
        } else {
            self.ordinal += 1;
        }
    }

    fn end(self, typed: &'a str) -> Position<'a> {
        let flag = typed
            .strip_prefix("--")
            .and_then(|rest| rest.split_once('='));
        let (wanted, typed) = match (self.value_of, flag) {
            (Some(argument), _) => (Wanted::Value(argument), typed),
            (None, Some((name, value))) if !self.flags_ended => match self.long(name) {
                Some(argument) => (Wanted::Value(argument), value),
                None => (Wanted::Flag, typed),
            },
            _ if typed.starts_with('-') && !self.flags_ended => (Wanted::Flag, typed),
            _ => (Wanted::Word(self.ordinal), typed),
        };
        Position {
            command: self.command,
            wanted,
            typed,
        }
    }

    /// The flag of this name; in names `_` means `-`. None for `NAME=VALUE`.
    fn long(&self, name: &str) -> Option<&'a Arg> {
        let name = name.replace('_', "-");
        self.command
            .get_arguments()
            .find(|argument| argument.get_long() == Some(name.as_str()))
    }

    /// The flag at the end of a cluster such as `-Awn`, if its value is not in the same word.
    fn short(&self, letters: &str) -> Option<&'a Arg> {
        let mut letters = letters.chars();
        let with_value = letters.find_map(|letter| {
            self.command
                .get_arguments()
                .find(|argument| argument.get_short() == Some(letter))
                .filter(|argument| value_follows(argument))
        });
        with_value.filter(|_| letters.as_str().is_empty())
    }
}

/// Whether the flag's value is the next word; that of a switch comes behind an equals sign only.
fn value_follows(argument: &Arg) -> bool {
    argument.get_action().takes_values() && !argument.is_require_equals_set()
}
