//! A file of JSON lines that several programs append to. A line that cannot be read is skipped: it is the rest of a write
//! that was cut.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::CacheError;

/// The file is written anew when it has more than this many lines, most of which say what later lines say again.
const MOST_LINES: usize = 200_000;

#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

impl Lines {
    /// Reads all lines, oldest first.
    pub(super) fn open<T: DeserializeOwned>(
        path: &Path,
        mut each: impl FnMut(T),
    ) -> Result<(Self, usize), CacheError> {
        let failed = |action| {
            move |cause| CacheError {
                action,
                path: path.to_owned(),
                cause,
            }
        };
        let mut count = 0;
        match File::open(path) {
            Ok(file) => {
                for line in BufReader::with_capacity(256 << 10, file).split(b'\n') {
                    count += 1;
                    if let Ok(value) = serde_json::from_slice(&line.map_err(failed("read"))?) {
                        each(value);
                    }
                }
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            Err(cause) => return Err(failed("read")(cause)),
        }
        Ok((
            Self {
                path: path.to_owned(),
                file: Mutex::new(None),
            },
            count,
        ))
    }

    /// Whether the file should be written anew, given how many of its lines are of use.
    pub(super) fn is_wasteful(count: usize, useful: usize) -> bool {
        count > MOST_LINES && count > 2 * useful
    }

    /// Appends one line, in one write.
    pub(super) fn append<T: Serialize>(&self, value: &T) -> Result<(), CacheError> {
        let failed = |cause| CacheError {
            action: "write",
            path: self.path.clone(),
            cause,
        };
        let mut line = serde_json::to_vec(value).map_err(|cause| failed(cause.into()))?;
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.is_none() {
            *file = Some(
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(&self.path)
                    .map_err(failed)?,
            );
        }
        match file.as_mut() {
            Some(file) => file.write_all(&line).map_err(failed),
            None => Ok(()),
        }
    }

    /// Replaces the file by these lines.
    pub(super) fn rewrite<T: Serialize>(
        &self,
        values: impl Iterator<Item = T>,
    ) -> Result<(), CacheError> {
        let failed = |cause| CacheError {
            action: "write",
            path: self.path.clone(),
            cause,
        };
        let aside = self
            .path
            .with_extension(format!("{}.new", std::process::id()));
        let mut bytes = Vec::new();
        for value in values {
            serde_json::to_writer(&mut bytes, &value).map_err(|cause| failed(cause.into()))?;
            bytes.push(b'\n');
        }
        std::fs::write(&aside, bytes).map_err(failed)?;
        std::fs::rename(&aside, &self.path).map_err(failed)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }
}
