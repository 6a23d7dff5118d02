//! Blobs that are probably equal, told by size and a sample: one of them is sent, the others are read first and then found
//! to be there. Large equal files would otherwise be on their way at the same time, each for itself.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};

use super::PushOptions;
use super::blob::{Job, Order, known};
use crate::content::Part;
use crate::digest::{Digest, Hasher};

/// Bytes of a sample, from the middle: files of one format often begin alike.
const SAMPLE: usize = 64 << 10;

/// Splits jobs, with their places, into those to do at once and those that probably repeat one of them.
pub(super) fn part(jobs: Vec<Job>, options: &PushOptions) -> [Vec<(usize, Job)>; 2] {
    let mut seen = HashSet::new();
    let mut repeated = Vec::new();
    let mut first = Vec::new();
    for (index, mut job) in jobs.into_iter().enumerate() {
        let is_known = known(&job.blob, job.source.as_ref(), options).is_some();
        let sample = if is_known { None } else { sample(&job) };
        if sample.is_some_and(|sample| !seen.insert((job.blob.content_size(), sample))) {
            job.order = Order::HashFirst;
            repeated.push((index, job));
        } else {
            first.push((index, job));
        }
    }
    [first, repeated]
}

/// The digest of a sample of a blob's largest file, where that is on this machine. A file that cannot be read has none: the
/// push will tell.
fn sample(job: &Job) -> Option<Digest> {
    let largest = job.blob.parts.iter().max_by_key(|part| part.size())?;
    let Part::File { path, size } = largest else {
        return None;
    };
    let mut file = File::open(job.source.local_path(path)?).ok()?;
    file.seek(SeekFrom::Start(size / 2)).ok()?;
    let mut bytes = Vec::with_capacity(SAMPLE);
    file.take(SAMPLE as u64).read_to_end(&mut bytes).ok()?;
    let mut hasher = Hasher::default();
    hasher.update(&bytes);
    Some(hasher.finish())
}
