//! Manifests, tags and referrers.

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::body::Answer;
use crate::faults::Fault;
use crate::server::{Asked, Shared, answer, problem, set};
use crate::state::{Manifest, Referrers, Repository, State, digest_of};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub(crate) fn handle(
    shared: &Shared,
    asked: &Asked,
    repository: &str,
    selector: &str,
    bytes: Bytes,
) -> Response<Answer> {
    match asked.method {
        Method::PUT => put(shared, asked, repository, selector, bytes),
        Method::DELETE => delete(shared, repository, selector),
        _ => read(shared, asked, repository, selector),
    }
}

fn put(
    shared: &Shared,
    asked: &Asked,
    name: &str,
    selector: &str,
    bytes: Bytes,
) -> Response<Answer> {
    let digest = digest_of(&bytes);
    let Ok(value) = serde_json::from_slice::<Value>(&bytes) else {
        return problem(StatusCode::BAD_REQUEST, "MANIFEST_INVALID");
    };
    let mut state = shared.state();
    if let Some(missing) = missing(&state, name, &value) {
        return problem(StatusCode::BAD_REQUEST, missing);
    }
    let media_type = asked.header("content-type").unwrap_or_default().to_owned();
    let repository = state.repositories.entry(name.to_owned()).or_default();
    if let Some(refusal) = condition(asked, repository, selector) {
        return refusal;
    }
    repository
        .manifests
        .insert(digest.clone(), Manifest { media_type, bytes });
    if !selector.starts_with("sha256:") {
        repository.tags.insert(selector.to_owned(), digest.clone());
    } else if selector != digest {
        return problem(StatusCode::BAD_REQUEST, "DIGEST_INVALID");
    }
    drop(state);
    let mut response = answer(StatusCode::CREATED, "");
    let said = match asked.fault {
        Some(Fault::WrongDigest) => digest_of(b"something else"),
        _ => digest,
    };
    set(&mut response, "docker-content-digest", &said);
    if let (Some(subject), Referrers::Listed) = (
        value.pointer("/subject/digest").and_then(Value::as_str),
        shared.options.referrers,
    ) {
        set(&mut response, "oci-subject", subject);
    }
    response
}

/// `If-Match` and `If-None-Match`, which some registries honour.
fn condition(asked: &Asked, repository: &Repository, selector: &str) -> Option<Response<Answer>> {
    let present = repository
        .tags
        .get(selector)
        .map(|digest| format!("\"{digest}\""));
    let broken = match (asked.header("if-match"), asked.header("if-none-match")) {
        (Some(wanted), _) => present.as_deref() != Some(wanted),
        (None, Some("*")) => present.is_some(),
        _ => false,
    };
    let honoured = asked.header("x-sink-ignores-conditions").is_none();
    (broken && honoured).then(|| problem(StatusCode::PRECONDITION_FAILED, "DENIED"))
}

/// What a manifest names that is not there.
fn missing(state: &State, repository: &str, value: &Value) -> Option<&'static str> {
    let digests = |pointer: &str| -> Vec<String> {
        let found = value.pointer(pointer);
        let one = |value: &Value| {
            value
                .get("digest")
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        match found {
            Some(Value::Array(all)) => all.iter().filter_map(one).collect(),
            Some(value) => one(value).into_iter().collect(),
            None => Vec::new(),
        }
    };
    let blobs = digests("/config").into_iter().chain(digests("/layers"));
    if blobs
        .into_iter()
        .any(|digest| state.blob(repository, &digest).is_none())
    {
        return Some("MANIFEST_BLOB_UNKNOWN");
    }
    let manifests = state
        .repositories
        .get(repository)
        .map(|repository| &repository.manifests);
    let is_unknown =
        |digest: &String| manifests.is_none_or(|manifests| !manifests.contains_key(digest));
    // Listings of referrers may name what is gone.
    let is_list = value.get("config").is_none() && value.get("manifests").is_some();
    let unknown = is_list && digests("/manifests").iter().any(is_unknown);
    unknown.then_some("MANIFEST_UNKNOWN")
}

fn read(shared: &Shared, asked: &Asked, name: &str, selector: &str) -> Response<Answer> {
    let found = {
        let state = shared.state();
        state.repositories.get(name).and_then(|repository| {
            let digest = repository
                .tags
                .get(selector)
                .map_or(selector, String::as_str);
            let manifest = repository.manifests.get(digest)?;
            Some((digest.to_owned(), manifest.clone()))
        })
    };
    let Some((digest, manifest)) = found else {
        return problem(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN");
    };
    let length = manifest.bytes.len();
    let body = match (&asked.method, &asked.fault) {
        (&Method::HEAD, _) => Answer::empty(),
        (_, Some(Fault::Tamper)) => Answer::memory(manifest.bytes).tampered(),
        _ => Answer::memory(manifest.bytes),
    };
    let mut response = Response::new(body);
    set(&mut response, "content-type", &manifest.media_type);
    set(&mut response, "docker-content-digest", &digest);
    set(&mut response, "etag", &format!("\"{digest}\""));
    set(&mut response, "content-length", &length.to_string());
    response
}

fn delete(shared: &Shared, name: &str, selector: &str) -> Response<Answer> {
    let mut state = shared.state();
    let Some(repository) = state.repositories.get_mut(name) else {
        return problem(StatusCode::NOT_FOUND, "NAME_UNKNOWN");
    };
    let had = repository.manifests.remove(selector).is_some();
    let tag = repository.tags.remove(selector).is_some();
    repository.tags.retain(|_, digest| digest != selector);
    if had || tag {
        answer(StatusCode::ACCEPTED, "")
    } else {
        problem(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN")
    }
}

pub(crate) fn tags(shared: &Shared, name: &str) -> Response<Answer> {
    let state = shared.state();
    let Some(repository) = state.repositories.get(name) else {
        return problem(StatusCode::NOT_FOUND, "NAME_UNKNOWN");
    };
    let tags: Vec<&String> = repository.tags.keys().collect();
    answer(
        StatusCode::OK,
        json!({"name": name, "tags": tags}).to_string(),
    )
}

pub(crate) fn referrers(
    shared: &Shared,
    asked: &Asked,
    name: &str,
    subject: &str,
) -> Response<Answer> {
    if shared.options.referrers == Referrers::Unknown {
        return problem(StatusCode::NOT_FOUND, "UNSUPPORTED");
    }
    let wanted = asked.parameter("artifactType");
    let state = shared.state();
    let manifests = state
        .repositories
        .get(name)
        .map(|repository| &repository.manifests);
    let found: Vec<Value> = manifests
        .into_iter()
        .flatten()
        .filter_map(|(digest, manifest)| referrer(digest, manifest, subject))
        .filter(|entry| {
            wanted
                .as_ref()
                .is_none_or(|wanted| entry.get("artifactType") == Some(&json!(wanted)))
        })
        .collect();
    let body = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": found});
    let mut response = answer(StatusCode::OK, body.to_string());
    set(&mut response, "content-type", INDEX);
    if wanted.is_some() {
        set(&mut response, "oci-filters-applied", "artifactType");
    }
    response
}

fn referrer(digest: &str, manifest: &Manifest, subject: &str) -> Option<Value> {
    let value: Value = serde_json::from_slice(&manifest.bytes).ok()?;
    if value.pointer("/subject/digest").and_then(Value::as_str) != Some(subject) {
        return None;
    }
    let kind = value
        .get("artifactType")
        .or_else(|| value.pointer("/config/mediaType"))
        .cloned();
    let mut entry = json!({
        "mediaType": manifest.media_type,
        "digest": digest,
        "size": manifest.bytes.len(),
        "artifactType": kind,
    });
    if let (Some(entry), Some(annotations)) = (entry.as_object_mut(), value.get("annotations")) {
        entry.insert("annotations".to_owned(), annotations.clone());
    }
    Some(entry)
}
