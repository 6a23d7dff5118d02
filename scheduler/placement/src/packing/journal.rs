//! A record of what changed, in order, that forgets its older half when it grows too long.

/// Numbers of things that changed, latest last, and how many earlier ones were dropped.
#[derive(Debug, Default)]
pub(super) struct Journal {
    entries: Vec<u32>,
    dropped: u64,
}

impl Journal {
    /// Notes a change. Beyond `most` entries the older half is dropped: whoever is that far behind looks at everything.
    pub(super) fn note(&mut self, number: u32, most: usize) {
        self.entries.push(number);
        if self.entries.len() > most {
            let half = self.entries.len() / 2;
            self.entries.drain(..half);
            self.dropped += half as u64;
        }
    }

    /// The position after the last change.
    pub(super) fn now(&self) -> u64 {
        self.dropped + self.entries.len() as u64
    }

    /// What changed since `then`; `None` if that is too long ago to be known.
    pub(super) fn since(&self, then: u64) -> Option<&[u32]> {
        let skip = usize::try_from(then.checked_sub(self.dropped)?).ok()?;
        self.entries.get(skip..)
    }
}
