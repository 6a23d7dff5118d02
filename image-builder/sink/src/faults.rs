//! What goes wrong on purpose.

use std::sync::Arc;
use std::time::Duration;

/// One way to misbehave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answer with this status and these headers instead of doing anything.
    Answer(u16, Vec<(String, String)>),
    /// Read this many bytes of the request's body, then cut the connection.
    CutRequest(u64),
    /// Send this many bytes of the answer's body, then cut the connection.
    CutAnswer(u64),
    /// Do what was asked, then cut the connection before answering.
    LoseAnswer,
    /// Say that another digest was stored.
    WrongDigest,
    /// Say that another number of bytes has arrived.
    WrongRange,
    /// Answer 202 to a mount and open an upload.
    RefuseMount,
    /// Answer 201 to a `PATCH`, as if the blob were complete.
    EarlyCreated,
    /// Send the whole blob although a range was asked for.
    IgnoreRange,
    /// Send a range of another version: another validator.
    OtherVersion,
    /// Flip one bit of what is sent.
    Tamper,
    /// Send the blob by way of this address, to which the digest is appended.
    Redirect(String),
    /// Stop for so long in the middle of the answer's body.
    Stall(Duration),
}

/// A request as faults see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its place among all requests, from 0.
    pub number: u64,
    /// `GET`, `PATCH`, …
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Bytes of the body, where they are announced.
    pub length: Option<u64>,
    /// Whether it names a range.
    pub has_range: bool,
}

/// Decides what goes wrong with a request.
pub type Faults = Arc<dyn Fn(&Seen) -> Option<Fault> + Send + Sync>;
