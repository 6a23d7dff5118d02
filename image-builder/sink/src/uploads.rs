//! Uploads: opened, filled by `PATCH`, closed by `PUT`, or mounted.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use sha2::Digest as _;

use crate::body::Answer;
use crate::faults::Fault;
use crate::server::{Answered, Asked, Cut, Shared, answer, problem, set};
use crate::state::{Blob, Content, Keep, Upload};

pub(crate) async fn handle(
    shared: &Shared,
    asked: &Asked,
    repository: &str,
    upload: &str,
    body: Incoming,
    received: &mut u64,
) -> Answered {
    if upload.is_empty() {
        return Ok(open(shared, asked, repository));
    }
    let Ok(number) = upload.parse::<u64>() else {
        return Ok(unknown());
    };
    match asked.method {
        Method::PATCH => patch(shared, asked, repository, number, body, received).await,
        Method::PUT => put(shared, asked, repository, number, body, received).await,
        Method::GET => Ok(status(shared, repository, number)),
        Method::DELETE => {
            shared.state().uploads.remove(&number);
            Ok(answer(StatusCode::NO_CONTENT, ""))
        }
        _ => Ok(problem(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED")),
    }
}

fn open(shared: &Shared, asked: &Asked, repository: &str) -> Response<Answer> {
    let mut state = shared.state();
    if let (Some(digest), Some(from)) = (asked.parameter("mount"), asked.parameter("from"))
        && asked.fault != Some(Fault::RefuseMount)
        && state.blob(&from, &digest).is_some()
    {
        state.link(repository, &digest);
        return created(asked, repository, &digest);
    }
    let number = state.number();
    state.uploads.insert(
        number,
        Upload {
            repository: repository.to_owned(),
            ..Upload::default()
        },
    );
    drop(state);
    let mut response = accepted(asked, repository, number, 0);
    if let Some(minimum) = shared.options.chunk_minimum {
        set(&mut response, "oci-chunk-min-length", &minimum.to_string());
    }
    response
}

async fn patch(
    shared: &Shared,
    asked: &Asked,
    repository: &str,
    number: u64,
    body: Incoming,
    received: &mut u64,
) -> Answered {
    let Some(mut upload) = take(shared, repository, number) else {
        return Ok(unknown());
    };
    if let Some(start) = asked
        .header("content-range")
        .and_then(|range| range.split('-').next())
        && start.parse() != Ok(upload.length)
    {
        let length = upload.length;
        shared.state().uploads.insert(number, upload);
        let mut response = problem(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID");
        set(
            &mut response,
            "range",
            &format!("0-{}", length.saturating_sub(1)),
        );
        return Ok(response);
    }
    // Cut in the middle, the upload is lost, as with real ones.
    fill(shared, asked, &mut upload, body, received).await?;
    let length = upload.length;
    if asked.fault == Some(Fault::EarlyCreated) {
        let digest = finish(shared, repository, upload, None);
        return Ok(created(asked, repository, &digest));
    }
    shared.state().uploads.insert(number, upload);
    Ok(accepted(asked, repository, number, length))
}

async fn put(
    shared: &Shared,
    asked: &Asked,
    repository: &str,
    number: u64,
    body: Incoming,
    received: &mut u64,
) -> Answered {
    let Some(mut upload) = take(shared, repository, number) else {
        return Ok(unknown());
    };
    fill(shared, asked, &mut upload, body, received).await?;
    let Some(digest) = asked.parameter("digest") else {
        return Ok(problem(StatusCode::BAD_REQUEST, "DIGEST_INVALID"));
    };
    let is_checked = shared.options.keep != Keep::Nothing;
    let actual = format!("sha256:{}", hex::encode(upload.hasher.clone().finalize()));
    if is_checked && actual != digest {
        return Ok(problem(StatusCode::BAD_REQUEST, "DIGEST_INVALID"));
    }
    finish(shared, repository, upload, Some(&digest));
    Ok(created(asked, repository, &digest))
}

fn take(shared: &Shared, repository: &str, number: u64) -> Option<Upload> {
    let mut state = shared.state();
    let upload = state.uploads.remove(&number)?;
    if upload.repository == repository {
        return Some(upload);
    }
    state.uploads.insert(number, upload);
    None
}

async fn fill(
    shared: &Shared,
    asked: &Asked,
    upload: &mut Upload,
    mut body: Incoming,
    received: &mut u64,
) -> Result<(), Cut> {
    let cut = match asked.fault {
        Some(Fault::CutRequest(after)) => after,
        _ => u64::MAX,
    };
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(|_| Cut)?.into_data() else {
            continue;
        };
        *received += bytes.len() as u64;
        upload.length += bytes.len() as u64;
        shared
            .arrived
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        add(shared.options.keep, upload, bytes);
        if *received >= cut {
            return Err(Cut);
        }
    }
    Ok(())
}

fn add(keep: Keep, upload: &mut Upload, bytes: Bytes) {
    match keep {
        Keep::Bytes => {
            upload.hasher.update(&bytes);
            upload.pieces.push(bytes);
        }
        Keep::Digests => upload.hasher.update(&bytes),
        Keep::Nothing => {}
    }
}

/// Stores an upload, under its own digest where none is given.
fn finish(shared: &Shared, repository: &str, upload: Upload, digest: Option<&str>) -> String {
    let own = format!("sha256:{}", hex::encode(upload.hasher.finalize()));
    let digest = digest.unwrap_or(&own).to_owned();
    let content = match shared.options.keep {
        Keep::Bytes => Content::Memory(upload.pieces.concat().into()),
        Keep::Digests | Keep::Nothing => Content::Dropped,
    };
    shared.state().add_blob(
        repository,
        &digest,
        Blob {
            size: upload.length,
            content,
        },
    );
    digest
}

fn status(shared: &Shared, repository: &str, number: u64) -> Response<Answer> {
    let length = shared
        .state()
        .uploads
        .get(&number)
        .filter(|upload| upload.repository == repository)
        .map(|upload| upload.length);
    let Some(length) = length else {
        return unknown();
    };
    let mut response = answer(StatusCode::NO_CONTENT, "");
    set(
        &mut response,
        "range",
        &format!("0-{}", length.saturating_sub(1)),
    );
    set(
        &mut response,
        "location",
        &format!("/v2/{repository}/blobs/uploads/{number}"),
    );
    response
}

fn accepted(asked: &Asked, repository: &str, number: u64, length: u64) -> Response<Answer> {
    let mut response = answer(StatusCode::ACCEPTED, "");
    // Opaque, and different each time, as the state that real ones carry.
    let location = format!("/v2/{repository}/blobs/uploads/{number}?_state=s{length}%2B%2F");
    set(&mut response, "location", &location);
    let last = match asked.fault {
        Some(Fault::WrongRange) => length / 2,
        _ => length.saturating_sub(1),
    };
    set(&mut response, "range", &format!("0-{last}"));
    response
}

fn created(asked: &Asked, repository: &str, digest: &str) -> Response<Answer> {
    let mut response = answer(StatusCode::CREATED, "");
    set(
        &mut response,
        "location",
        &format!("/v2/{repository}/blobs/{digest}"),
    );
    let said = match asked.fault {
        Some(Fault::WrongDigest) => crate::state::digest_of(b"something else"),
        _ => digest.to_owned(),
    };
    set(&mut response, "docker-content-digest", &said);
    response
}

fn unknown() -> Response<Answer> {
    problem(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN")
}
