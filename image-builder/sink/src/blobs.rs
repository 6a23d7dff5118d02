//! `GET` and `HEAD` of blobs, with ranges.

use http::{Method, Response, StatusCode};
use std::io::{Seek as _, SeekFrom};

use crate::body::{Answer, Origin};
use crate::faults::Fault;
use crate::server::{Answered, Asked, Shared, problem, set};
use crate::state::{Blob, Content};

/// Serves a blob of a repository, or of the storage that registries redirect to.
pub(crate) fn read(
    shared: &Shared,
    asked: &Asked,
    repository: Option<&str>,
    digest: &str,
) -> Answered {
    let blob = {
        let state = shared.state();
        match repository {
            Some(repository) => state.blob(repository, digest).cloned(),
            None => state.blobs.get(digest).cloned(),
        }
    };
    let Some(blob) = blob else {
        return Ok(problem(StatusCode::NOT_FOUND, "BLOB_UNKNOWN"));
    };
    if let Some(Fault::Redirect(to)) = &asked.fault
        && asked.method == Method::GET
    {
        let mut response = problem(StatusCode::TEMPORARY_REDIRECT, "");
        set(&mut response, "location", &format!("{to}{digest}"));
        return Ok(response);
    }
    Ok(serve(asked, digest, &blob))
}

fn serve(asked: &Asked, digest: &str, blob: &Blob) -> Response<Answer> {
    let range = match &asked.fault {
        Some(Fault::IgnoreRange) => None,
        _ => asked
            .header("range")
            .and_then(|range| parse_range(range, blob.size)),
    };
    let (start, end) = range.unwrap_or((0, blob.size));
    let body = match (&asked.method, &blob.content) {
        (&Method::HEAD, _) => Some(Answer::empty()),
        (_, Content::Memory(bytes)) => {
            let slice = usize::try_from(start).ok().zip(usize::try_from(end).ok());
            slice.map(|(start, end)| Answer::memory(bytes.slice(start..end)))
        }
        (_, Content::File(path)) => std::fs::File::open(path).ok().and_then(|mut file| {
            file.seek(SeekFrom::Start(start)).ok()?;
            Some(Answer::new(Origin::File(file), end - start))
        }),
        (_, Content::Dropped) => None,
    };
    let Some(body) = body else {
        return problem(StatusCode::NOT_FOUND, "BLOB_UNKNOWN");
    };
    let body = match &asked.fault {
        Some(Fault::CutAnswer(after)) => body.cut_after((*after).min(end - start)),
        Some(Fault::Tamper) => body.tampered(),
        Some(Fault::Stall(time)) => body.stalling(*time),
        _ => body,
    };
    let mut response = Response::new(body);
    let version = if asked.fault == Some(Fault::OtherVersion) {
        "other-"
    } else {
        ""
    };
    set(&mut response, "etag", &format!("\"{version}{digest}\""));
    set(&mut response, "docker-content-digest", digest);
    set(&mut response, "accept-ranges", "bytes");
    set(&mut response, "content-type", "application/octet-stream");
    set(&mut response, "content-length", &(end - start).to_string());
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let last = end.saturating_sub(1);
        set(
            &mut response,
            "content-range",
            &format!("bytes {start}-{last}/{}", blob.size),
        );
    }
    response
}

/// `bytes=START-LAST` as start and end.
fn parse_range(range: &str, size: u64) -> Option<(u64, u64)> {
    let (start, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let start: u64 = start.parse().ok()?;
    let end = if last.is_empty() {
        size
    } else {
        last.parse::<u64>().ok()?.checked_add(1)?
    };
    (start < end && end <= size).then_some((start, end))
}
