//! Which files of a directory are looked at: what `--exclude` leaves out need not be fit for packaging. Pure.
//!
//! The patterns mean what they mean to the plan, which has the last word about what is packaged.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// A glob that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot read the pattern `{pattern}`: {cause}; patterns are like `*.safetensors` or `original/*`"
)]
pub struct PatternError {
    /// The pattern as typed.
    pub pattern: String,
    /// What is wrong with it.
    #[source]
    pub cause: globset::Error,
}

/// Globs as in .gitignore: `*` stops at `/` in patterns that have one, others are for names at any depth.
#[derive(Clone, Debug)]
pub struct Selection {
    include: GlobSet,
    exclude: GlobSet,
    takes_all: bool,
}

impl Selection {
    /// Takes what matches `include` (everything when it is empty) and does not match `exclude`.
    ///
    /// # Errors
    /// A pattern that cannot be read.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, PatternError> {
        Ok(Self {
            include: set(include)?,
            exclude: set(exclude)?,
            takes_all: include.is_empty(),
        })
    }

    /// Takes every file.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            include: GlobSet::empty(),
            exclude: GlobSet::empty(),
            takes_all: true,
        }
    }

    /// Whether the file at `path` is taken.
    #[must_use]
    pub fn takes(&self, path: &str) -> bool {
        (self.takes_all || self.include.is_match(path)) && !self.exclude.is_match(path)
    }
}

fn set(patterns: &[String]) -> Result<GlobSet, PatternError> {
    let mut builder = GlobSetBuilder::new();
    for pattern in patterns {
        let failed = |cause| PatternError {
            pattern: pattern.clone(),
            cause,
        };
        let text = if pattern.contains('/') {
            pattern.clone()
        } else {
            format!("**/{pattern}")
        };
        let glob = GlobBuilder::new(&text).literal_separator(true).build();
        builder.add(glob.map_err(failed)?);
    }
    builder.build().map_err(|cause| PatternError {
        pattern: patterns.join(" "),
        cause,
    })
}

#[cfg(test)]
mod tests {
    use super::Selection;

    fn taken<'a>(include: &[&str], exclude: &[&str], paths: &[&'a str]) -> Vec<&'a str> {
        let owned = |list: &[&str]| {
            list.iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        let selection = Selection::new(&owned(include), &owned(exclude)).unwrap();
        paths
            .iter()
            .copied()
            .filter(|path| selection.takes(path))
            .collect()
    }

    #[test]
    fn patterns_without_a_slash_match_at_any_depth_and_exclusion_wins() {
        let paths = ["a.safetensors", "original/b.safetensors", "c.json"];
        assert_eq!(taken(&[], &[], &paths), paths);
        assert_eq!(
            taken(&["*.safetensors"], &["original/*"], &paths),
            ["a.safetensors"]
        );
        assert_eq!(taken(&[], &["*.json"], &paths), &paths[..2]);
    }

    #[test]
    fn a_broken_pattern_is_named() {
        let error = Selection::new(&["[".to_owned()], &[]).unwrap_err();
        assert!(error.to_string().contains("`[`"), "{error}");
    }
}
