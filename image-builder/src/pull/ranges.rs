//! A large blob in ranges over several connections, written in place, hashed once along what has arrived without a gap.
//!
//! Only with a registry that answers 206 for the same version of the blob each time. Ranges that are whole are recorded
//! beside the file: a pull that is killed loses what was on its way.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::mpsc::Receiver;

use super::batch::{Pieces, batches};
use super::error::PullError;
use super::fetch::Context;
use super::partial::discard;
use crate::digest::{Digest, Hasher};
use crate::oci::Descriptor;
use crate::registry::{Class, RegistryError, Repository};

/// Bytes that are read back at a time to be hashed.
const CHUNK: u64 = 256 << 10;

/// Whether a blob is fetched in ranges: when it is large and connections are free, or was begun so.
pub(super) fn pays(context: &Context<'_>, descriptor: &Descriptor, path: &Path) -> bool {
    let large = descriptor.size >= context.options.range.max(1).saturating_mul(2);
    (large && context.ranges > 1) || record_path(path).exists()
}

/// Where it is recorded which ranges are whole.
pub(super) fn record_path(path: &Path) -> PathBuf {
    path.with_extension("ranges")
}

/// What all ranges of one blob share.
struct Shared<'a> {
    context: &'a Context<'a>,
    repository: &'a Repository,
    descriptor: &'a Descriptor,
    index: usize,
    what: &'a str,
    file: Arc<File>,
    path: &'a Path,
    size: u64,
    arrived: Arc<Arrived>,
    etag: Mutex<Option<String>>,
}

/// How one range ended without failing.
enum Ended {
    Whole,
    /// The registry sent the whole blob instead.
    NoRanges,
}

/// Fetches a blob; `None` where the registry serves no ranges. What had arrived is then discarded.
pub(super) async fn fetch(
    context: &Context<'_>,
    repository: &Repository,
    index: usize,
    what: &str,
    descriptor: &Descriptor,
    path: &Path,
) -> Result<Option<Digest>, PullError> {
    let record = Record::open(path, descriptor.size, context.options.range.max(1))?;
    let file = open(path, descriptor.size)?;
    let arrived = Arc::new(Arrived::new(&record, descriptor.size));
    let follower = {
        let (arrived, file) = (Arc::clone(&arrived), Arc::clone(&file));
        tokio::task::spawn_blocking(move || arrived.hash(&file))
    };
    let shared = Shared {
        context,
        repository,
        descriptor,
        index,
        what,
        file,
        path,
        size: record.size,
        arrived: Arc::clone(&arrived),
        etag: Mutex::default(),
    };
    let fetched = shared.fetch_missing(record).await;
    if !matches!(fetched, Ok(Ended::Whole)) {
        arrived.give_up();
    }
    let hashed = follower.await.map_err(|_| PullError::Writer {
        what: what.to_owned(),
    })?;
    match fetched? {
        Ended::Whole => {
            let digest = hashed.map_err(|cause| PullError::file("read", path, cause))?;
            let _ = std::fs::remove_file(record_path(path));
            digest.map(Some).ok_or_else(|| PullError::Writer {
                what: what.to_owned(),
            })
        }
        Ended::NoRanges => {
            discard(path);
            Ok(None)
        }
    }
}

fn open(path: &Path, size: u64) -> Result<Arc<File>, PullError> {
    let failed = |cause| PullError::file("create", path, cause);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(failed)?;
    file.set_len(size).map_err(failed)?;
    Ok(Arc::new(file))
}

impl Shared<'_> {
    async fn fetch_missing(&self, record: Record) -> Result<Ended, PullError> {
        let record = Mutex::new(record);
        let missing = {
            let record = record.lock().unwrap_or_else(PoisonError::into_inner);
            let count = self.descriptor.size.div_ceil(self.size);
            (0..count)
                .filter(|number| !record.whole.contains(number))
                .collect::<Vec<_>>()
        };
        let record = &record;
        let mut ended = futures::stream::iter(missing)
            .map(|number| async move {
                let ended = self.fetch_range(number).await?;
                if matches!(ended, Ended::Whole) {
                    record
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .add(number)?;
                }
                Ok::<Ended, PullError>(ended)
            })
            .buffer_unordered(self.context.ranges);
        while let Some(ended) = ended.try_next().await? {
            if matches!(ended, Ended::NoRanges) {
                return Ok(ended);
            }
        }
        Ok(Ended::Whole)
    }

    /// Fetches one range, and goes on within it where a connection is cut.
    async fn fetch_range(&self, number: u64) -> Result<Ended, PullError> {
        let start = number * self.size;
        let end = (start + self.size).min(self.descriptor.size);
        let retry = self.repository.client().retry();
        let mut failures = 0;
        loop {
            let from = start + self.arrived.of(number);
            if from >= end {
                return Ok(Ended::Whole);
            }
            let error = match self.fetch_part(number, from..end).await {
                Ok(Ended::NoRanges) => return Ok(Ended::NoRanges),
                Ok(Ended::Whole) if start + self.arrived.of(number) >= end => {
                    return Ok(Ended::Whole);
                }
                // It ended early without an error, as some proxies let it.
                Ok(Ended::Whole) => None,
                Err(Failure::Registry(error)) => Some(error),
                Err(Failure::Final(error)) => return Err(error),
            };
            if start + self.arrived.of(number) > from {
                failures = 0;
            }
            failures += 1;
            let class = error
                .as_ref()
                .map_or(Class::Transient(None), RegistryError::class);
            match (retry.wait(failures + 1, class), error) {
                (Some(wait), _) => tokio::time::sleep(wait).await,
                (None, Some(cause)) => {
                    return Err(PullError::Registry {
                        what: self.what.to_owned(),
                        cause,
                    });
                }
                (None, None) => {
                    return Err(PullError::Size {
                        what: self.what.to_owned(),
                        expected: self.descriptor.size,
                        actual: start + self.arrived.of(number),
                    });
                }
            }
        }
    }

    async fn fetch_part(&self, number: u64, part: Range<u64>) -> Result<Ended, Failure> {
        let etag = self
            .etag
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let answer = self
            .repository
            .read_blob(self.descriptor.digest, Some(part.clone()), etag.as_deref())
            .await
            .map_err(Failure::Registry)?;
        if !answer.is_partial || !self.is_same_version(answer.etag) {
            return Ok(Ended::NoRanges);
        }
        let (mut batches, pieces) = batches();
        let (file, arrived) = (Arc::clone(&self.file), Arc::clone(&self.arrived));
        let start = part.start;
        let writer =
            tokio::task::spawn_blocking(move || write(&file, start, pieces, &arrived, number));
        let mut stream = answer.stream;
        let mut left = part.end - part.start;
        let mut failure = None;
        while let Some(piece) = stream.next().await {
            match piece {
                Ok(mut piece) => {
                    // More than was asked for belongs to another range.
                    piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                    let length = piece.len() as u64;
                    left -= length;
                    if length == 0 || batches.add(piece).await.is_err() {
                        break;
                    }
                    self.context.received(self.index, length);
                }
                Err(error) => {
                    failure = Some(Failure::Registry(error));
                    break;
                }
            }
        }
        // A thread that has stopped has an error of its own.
        let _ = batches.end().await;
        let written = writer.await.map_err(|_| {
            Failure::Final(PullError::Writer {
                what: self.what.to_owned(),
            })
        })?;
        written.map_err(|cause| Failure::Final(PullError::file("write", self.path, cause)))?;
        failure.map_or(Ok(Ended::Whole), Err)
    }

    /// Whether an answer is of the version that the first answer was of.
    fn is_same_version(&self, etag: Option<String>) -> bool {
        let mut first = self.etag.lock().unwrap_or_else(PoisonError::into_inner);
        match (first.as_ref(), etag) {
            (Some(first), Some(etag)) => *first == etag,
            (None, Some(etag)) => {
                *first = Some(etag);
                true
            }
            // A blob's address is its digest: without a validator the hash at the end decides.
            (_, None) => true,
        }
    }
}

enum Failure {
    Registry(RegistryError),
    Final(PullError),
}

fn write(
    file: &File,
    mut offset: u64,
    mut batches: Receiver<Pieces>,
    arrived: &Arrived,
    number: u64,
) -> io::Result<()> {
    while let Some(pieces) = batches.blocking_recv() {
        for piece in pieces {
            write_at(file, &piece, offset)?;
            offset += piece.len() as u64;
            arrived.add(number, piece.len() as u64);
        }
    }
    Ok(())
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        bytes = bytes.get(written..).unwrap_or_default();
        offset += written as u64;
    }
    Ok(())
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, bytes, offset)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes = bytes.get_mut(read..).unwrap_or_default();
        offset += read as u64;
    }
    Ok(())
}

/// How much of each range has arrived, and a hash that follows.
struct Arrived {
    state: Mutex<State>,
    changed: Condvar,
    size: u64,
    total: u64,
}

struct State {
    /// Bytes at the beginning of each range that are written.
    written: Vec<u64>,
    given_up: bool,
}

impl Arrived {
    fn new(record: &Record, total: u64) -> Self {
        let written = (0..total.div_ceil(record.size))
            .map(|number| {
                let whole = record.size.min(total - number * record.size);
                if record.whole.contains(&number) {
                    whole
                } else {
                    0
                }
            })
            .collect();
        Self {
            state: Mutex::new(State {
                written,
                given_up: false,
            }),
            changed: Condvar::new(),
            size: record.size,
            total,
        }
    }

    fn of(&self, number: u64) -> u64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        written(&state, number)
    }

    fn add(&self, number: u64, bytes: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(written) = state.written.get_mut(at) {
            *written += bytes;
        }
        drop(state);
        self.changed.notify_one();
    }

    fn give_up(&self) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .given_up = true;
        self.changed.notify_one();
    }

    /// The end of what is there without a gap from `position` on; `None` when nothing more will come.
    fn wait_beyond(&self, position: u64) -> Option<u64> {
        let number = position / self.size;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let end = number * self.size + written(&state, number);
            if end > position {
                return Some(end);
            }
            if state.given_up {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Hashes everything in order, as it arrives. It was written a moment ago and is read back from memory.
    fn hash(&self, file: &File) -> io::Result<Option<Digest>> {
        let mut hasher = Hasher::default();
        let mut chunk = vec![0; usize::try_from(CHUNK).unwrap_or_default()];
        let mut position = 0;
        while position < self.total {
            let Some(end) = self.wait_beyond(position) else {
                return Ok(None);
            };
            while position < end {
                let length = usize::try_from(CHUNK.min(end - position)).unwrap_or_default();
                let room = chunk.get_mut(..length).unwrap_or_default();
                read_at(file, room, position)?;
                hasher.update(room);
                position += length as u64;
            }
        }
        Ok(Some(hasher.finish()))
    }
}

fn written(state: &State, number: u64) -> u64 {
    usize::try_from(number)
        .ok()
        .and_then(|at| state.written.get(at))
        .copied()
        .unwrap_or_default()
}

/// Which ranges are whole, on disk: the first line is their size, each other one the number of a range.
struct Record {
    size: u64,
    whole: BTreeSet<u64>,
    path: PathBuf,
    file: File,
}

impl Record {
    fn open(partial: &Path, total: u64, size: u64) -> Result<Self, PullError> {
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

    fn add(&mut self, number: u64) -> Result<(), PullError> {
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

    #[test]
    fn the_hash_follows_what_arrives_in_any_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.partial");
        let bytes: Vec<u8> = (0..25).collect();
        let record = Record::open(&path, 25, 10).unwrap();
        let file = open(&path, 25).unwrap();
        let arrived = Arc::new(Arrived::new(&record, 25));
        let follower = {
            let (arrived, file) = (Arc::clone(&arrived), Arc::clone(&file));
            std::thread::spawn(move || arrived.hash(&file))
        };
        for (number, part) in [(2, 20..25), (0, 0..4), (1, 10..20), (0, 4..10)] {
            write_at(&file, &bytes[part.clone()], part.start as u64).unwrap();
            arrived.add(number, part.len() as u64);
        }
        assert_eq!(follower.join().unwrap().unwrap(), Some(Digest::of(&bytes)));
    }
}
