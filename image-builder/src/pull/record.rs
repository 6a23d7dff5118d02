//! Which ranges of a blob are whole, kept beside its file.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::error::PullError;

/// Where it is recorded which ranges are whole.
pub(super) fn record_path(path: &Path) -> PathBuf {
    path.with_extension("ranges")
}

/// Which ranges are whole, on disk: the first line is their size, each other one the number of a range.
pub(super) struct Record {
    /// Bytes of a range.
    pub(super) size: u64,
    /// Numbers of the ranges that are whole.
    pub(super) whole: BTreeSet<u64>,
    path: PathBuf,
    file: File,
}

impl Record {
    pub(super) fn open(partial: &Path, total: u64, size: u64) -> Result<Self, PullError> {
        let path = record_path(partial);
        let failed = |cause| PullError::file("write", &path, cause);
        let old = std::fs::read_to_string(&path)
            .ok()
            .and_then(|text| parse(&text, total));
        let is_usable = std::fs::metadata(partial).is_ok_and(|found| found.len() == total);
        let (size, whole) = old.filter(|_| is_usable).unwrap_or((size, BTreeSet::new()));
        let mut text = format!("{size}\n");
        for number in &whole {
            text.push_str(&format!("{number}\n"));
        }
        std::fs::write(&path, text).map_err(failed)?;
        let file = OpenOptions::new()
            .append(true)
            .open(&path)
            .map_err(failed)?;
        Ok(Self {
            size,
            whole,
            path,
            file,
        })
    }

    pub(super) fn add(&mut self, number: u64) -> Result<(), PullError> {
        self.whole.insert(number);
        self.file
            .write_all(format!("{number}\n").as_bytes())
            .map_err(|cause| PullError::file("write", &self.path, cause))
    }
}

/// A record that makes sense for a blob of `total` bytes. A torn last line has no newline and is left out.
fn parse(text: &str, total: u64) -> Option<(u64, BTreeSet<u64>)> {
    let (lines, _torn) = text.rsplit_once('\n')?;
    let mut lines = lines.lines();
    let size: u64 = lines.next()?.parse().ok().filter(|size| *size > 0)?;
    let whole = lines
        .map(|line| {
            line.parse()
                .ok()
                .filter(|number| *number < total.div_ceil(size))
        })
        .collect::<Option<BTreeSet<u64>>>()?;
    Some((size, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_used_up_to_a_torn_line_and_not_at_all_when_it_makes_no_sense() {
        assert_eq!(parse("10\n0\n2\n", 25), Some((10, BTreeSet::from([0, 2]))));
        assert_eq!(parse("10\n0\n2", 25), Some((10, BTreeSet::from([0]))));
        assert_eq!(parse("10\n3\n", 25), None);
        assert_eq!(parse("0\n", 25), None);
        assert_eq!(parse("1", 25), None);
        assert_eq!(parse("x\n", 25), None);
    }
}
