//! How much of each range of a blob has arrived, and the hash that follows it.

use std::fs::File;
use std::io;
use std::sync::{Condvar, Mutex, PoisonError};

use super::record::Record;
use crate::digest::{Digest, Hasher};

/// Bytes that are read back at a time to be hashed.
const CHUNK: u64 = 256 << 10;

/// How much of each range has arrived, and a hash that follows.
pub(super) struct Arrived {
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
    pub(super) fn new(record: &Record, total: u64) -> Self {
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

    pub(super) fn of(&self, number: u64) -> u64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        written(&state, number)
    }

    pub(super) fn add(&self, number: u64, bytes: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(written) = state.written.get_mut(at) {
            *written += bytes;
        }
        drop(state);
        self.changed.notify_one();
    }

    pub(super) fn give_up(&self) {
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
    pub(super) fn hash(&self, file: &File) -> io::Result<Option<Digest>> {
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

#[cfg(unix)]
pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
pub(super) fn write_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_hash_follows_what_arrives_in_any_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.partial");
        let bytes: Vec<u8> = (0..25).collect();
        let record = Record::open(&path, 25, 10).unwrap();
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .unwrap();
        file.set_len(25).unwrap();
        let file = Arc::new(file);
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
