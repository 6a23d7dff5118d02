//! What differs between operating systems: reading at an offset, and what identifies a version of a file.

use std::fs::{File, Metadata};
use std::io;

use crate::source::FileIdentity;

/// Reads up to `buffer.len()` bytes at `offset`, without moving the file's own position.
#[cfg(unix)]
pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

/// Reads up to `buffer.len()` bytes at `offset`.
#[cfg(windows)]
pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

/// The version of a file.
#[cfg(unix)]
pub(super) fn identity(metadata: &Metadata) -> FileIdentity {
    use std::os::unix::fs::MetadataExt as _;
    let nanoseconds =
        |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    FileIdentity {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.len(),
        mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        ctime_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
    }
}

/// The version of a file, as far as stable interfaces tell: there is no inode and no time of the last change.
#[cfg(windows)]
pub(super) fn identity(metadata: &Metadata) -> FileIdentity {
    use std::os::windows::fs::MetadataExt as _;
    FileIdentity {
        device: 0,
        inode: 0,
        size: metadata.len(),
        mtime_ns: i128::from(metadata.last_write_time()) * 100,
        ctime_ns: i128::from(metadata.creation_time()) * 100,
    }
}

/// Whether the owner may execute the file.
#[cfg(unix)]
pub(super) fn executable(metadata: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o100 != 0
}

/// Files have no such mark here.
#[cfg(windows)]
pub(super) fn executable(_: &Metadata) -> bool {
    false
}
