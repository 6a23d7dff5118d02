//! One broken rule and where it is broken. Shared by the rules for manifests and for archives.

use std::fmt;

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding<Rule> {
    /// The field of the manifest, such as `spec.platforms[0].sha256`, or the entry of the archive.
    pub at: String,
    /// The rule, with what was found instead.
    pub rule: Rule,
}

impl<Rule> Finding<Rule> {
    pub(crate) fn new(at: impl Into<String>, rule: Rule) -> Self {
        Self {
            at: at.into(),
            rule,
        }
    }
}

impl<Rule: fmt::Display> fmt::Display for Finding<Rule> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.at, self.rule)
    }
}
