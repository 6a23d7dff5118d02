//! Suggestions for misspelt names.

/// Longest name that is compared; no name in the tables is longer, and the comparison is quadratic.
const LONGEST: usize = 80;
/// Most suggestions.
const SUGGESTIONS: usize = 3;

/// Up to three of `candidates` within a third of `name`'s length in edits, nearest first, then by name. Case and the
/// separators `-`, `_` and `.` count for nothing.
pub(crate) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted = plain(name);
    if wanted.is_empty() || wanted.len() > LONGEST {
        return Vec::new();
    }
    let limit = (wanted.len() / 3).max(1);
    let mut found: Vec<(usize, &str)> = candidates
        .map(|candidate| (distance(&wanted, &plain(candidate)), candidate))
        .filter(|(edits, _)| *edits <= limit)
        .collect();
    found.sort_unstable();
    found.truncate(SUGGESTIONS);
    found.into_iter().map(|(_, candidate)| candidate).collect()
}

fn plain(name: &str) -> Vec<char> {
    name.chars()
        .take(LONGEST + 1)
        .filter(|character| !matches!(character, '-' | '_' | '.'))
        .map(|character| character.to_ascii_lowercase())
        .collect()
}

/// Levenshtein distance.
fn distance(left: &[char], right: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, one) in left.iter().enumerate() {
        let mut above_left = index;
        let mut before = index + 1;
        for (cell, other) in row.iter_mut().skip(1).zip(right) {
            let substituted = above_left + usize::from(one != other);
            above_left = *cell;
            *cell = substituted.min(*cell + 1).min(before + 1);
            before = *cell;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};

    #[test]
    fn distance_counts_edits() {
        let of = |a: &str, b: &str| {
            distance(
                &a.chars().collect::<Vec<_>>(),
                &b.chars().collect::<Vec<_>>(),
            )
        };
        assert_eq!(of("kitten", "sitting"), 3);
        assert_eq!(of("", "abc"), 3);
        assert_eq!(of("abc", "abc"), 0);
        assert_eq!(of("abcd", "acd"), 1);
    }

    #[test]
    fn separators_and_case_count_for_nothing() {
        assert_eq!(
            nearest("PHI_4", ["phi-4", "phi-4x", "other"].into_iter())[0],
            "phi-4"
        );
    }
}
