//! What the registry has.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// What becomes of the bytes of blobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// They are hashed and kept, to be pulled again.
    #[default]
    Bytes,
    /// They are hashed and dropped: the registry knows that it has the blob.
    Digests,
    /// They are dropped unread: what is measured is the client alone. Uploads are taken for what they say they are.
    Nothing,
}

/// Whether the registry lists referrers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Referrers {
    /// It does, and says so when a manifest with a subject is pushed.
    #[default]
    Listed,
    /// It answers 404: clients keep a tag.
    Unknown,
}

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `GET`, `PATCH`, …
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The answer's status; 0 where the connection was cut.
    pub status: u16,
    /// Bytes of the request's body, where they were announced.
    pub length: Option<u64>,
    /// Bytes of the request's body that arrived.
    pub received: u64,
    /// Whether it had an `Authorization` header.
    pub authorized: bool,
    /// The range it asked for.
    pub range: Option<String>,
}

/// The content of a blob.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Memory(Bytes),
    File(PathBuf),
    /// Known by name and size only.
    Dropped,
}

#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) size: u64,
    pub(crate) content: Content,
}

#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) media_type: String,
    pub(crate) bytes: Bytes,
}

#[derive(Debug, Default)]
pub(crate) struct Repository {
    pub(crate) blobs: BTreeSet<String>,
    pub(crate) manifests: BTreeMap<String, Manifest>,
    pub(crate) tags: BTreeMap<String, String>,
}

/// A blob that is arriving.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    pub(crate) repository: String,
    pub(crate) length: u64,
    pub(crate) hasher: Sha256,
    pub(crate) pieces: Vec<Bytes>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) repositories: BTreeMap<String, Repository>,
    pub(crate) blobs: HashMap<String, Blob>,
    pub(crate) uploads: HashMap<u64, Upload>,
    pub(crate) next: u64,
    pub(crate) records: Vec<Record>,
}

impl State {
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn blob(&self, repository: &str, digest: &str) -> Option<&Blob> {
        let there = self.repositories.get(repository)?.blobs.contains(digest);
        there.then(|| self.blobs.get(digest)).flatten()
    }

    pub(crate) fn add_blob(&mut self, repository: &str, digest: &str, blob: Blob) {
        self.blobs.insert(digest.to_owned(), blob);
        self.link(repository, digest);
    }

    pub(crate) fn link(&mut self, repository: &str, digest: &str) {
        let repository = self.repositories.entry(repository.to_owned()).or_default();
        repository.blobs.insert(digest.to_owned());
    }
}

pub(crate) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}
