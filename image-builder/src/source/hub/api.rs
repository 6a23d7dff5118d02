//! What is asked of the hub before files are read: the commit of a revision, and its files page by page.

use reqwest::Url;
use reqwest::header::LINK;
use serde::Deserialize;

use super::HubSource;
use crate::digest::Digest;
use crate::source::remote::{Refusal, chain, retry};
use crate::source::{File, SourceError};

/// Pages of a listing; the hub puts up to 1,000 files on one.
const MOST_PAGES: usize = 1_000;
/// Bytes of one answer.
const LARGEST_ANSWER: usize = 32 << 20;

#[derive(Deserialize)]
struct Model {
    sha: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    oid: String,
    size: u64,
}

/// The commit that the revision names now.
pub(super) async fn commit(hub: &HubSource) -> Result<String, SourceError> {
    let reference = &hub.reference;
    let place = ["api", "models"]
        .into_iter()
        .chain(reference.repository.split('/'))
        .chain(["revision", reference.revision.as_str()]);
    let url = hub.address(place);
    let (model, _) = get::<Model>(hub, url.clone()).await?;
    let is_commit = model.sha.len() == 40 && model.sha.bytes().all(|b| b.is_ascii_hexdigit());
    if is_commit {
        return Ok(model.sha);
    }
    Err(hub.remote(url).error(
        format!("it named `{}` as the commit, which is none", model.sha),
        "check HF_ENDPOINT".to_owned(),
    ))
}

/// All files at `commit`, sorted by path.
pub(super) async fn files(hub: &HubSource, commit: &str) -> Result<Vec<File>, SourceError> {
    let place = ["api", "models"]
        .into_iter()
        .chain(hub.reference.repository.split('/'))
        .chain(["tree", commit]);
    let mut url = hub.address(place);
    url.set_query(Some("recursive=true"));
    let mut files = Vec::new();
    for _ in 0..MOST_PAGES {
        let (entries, next) = get::<Vec<Entry>>(hub, url.clone()).await?;
        for entry in entries.into_iter().filter(|entry| entry.kind == "file") {
            files.push(file(entry)?);
        }
        match next {
            Some(next) => url = next,
            None => {
                files.sort_by(|left, right| left.path.as_bytes().cmp(right.path.as_bytes()));
                return Ok(files);
            }
        }
    }
    Err(hub.remote(url).error(
        format!("the listing has more than {MOST_PAGES} pages"),
        "check HF_ENDPOINT".to_owned(),
    ))
}

fn file(entry: Entry) -> Result<File, SourceError> {
    let refused = |reason: String| SourceError::Refused {
        path: entry.path.clone(),
        reason,
    };
    let unsafe_name = |name: &str| {
        name.is_empty() || name == "." || name == ".." || name.chars().any(char::is_control)
    };
    if entry.path.split('/').any(unsafe_name) || entry.path.contains('\\') {
        return Err(refused(
            "the hub listed it under a name that is not a relative path".to_owned(),
        ));
    }
    let known_digest = match &entry.lfs {
        Some(large) => {
            let oid = large.oid.strip_prefix("sha256:").unwrap_or(&large.oid);
            let digest = format!("sha256:{oid}").parse::<Digest>();
            Some(digest.map_err(|error| refused(error.to_string()))?)
        }
        None => None,
    };
    Ok(File {
        size: entry.lfs.as_ref().map_or(entry.size, |large| large.size),
        path: entry.path,
        executable: false,
        known_digest,
    })
}

/// An answer as JSON, and where the next page is.
async fn get<T: serde::de::DeserializeOwned>(
    hub: &HubSource,
    url: Url,
) -> Result<(T, Option<Url>), SourceError> {
    let remote = hub.remote(url.clone());
    let mut failures = 0;
    loop {
        let (reason, retry_after) = match remote.get(None).await {
            Ok(answer) => {
                let next = next_page(answer.response.headers().get(LINK), &url);
                match body(answer.response).await {
                    Ok(bytes) => {
                        let value = serde_json::from_slice(&bytes).map_err(|error| {
                            remote.error(
                                format!("its answer cannot be read: {error}"),
                                "check HF_ENDPOINT".to_owned(),
                            )
                        })?;
                        return Ok((value, next));
                    }
                    Err(reason) => (reason, None),
                }
            }
            Err(Refusal::Final(error)) => return Err(error),
            Err(Refusal::Transient {
                reason,
                retry_after,
            }) => (reason, retry_after),
        };
        failures += 1;
        if failures >= retry::ATTEMPTS {
            return Err(remote.error(
                format!("{failures} attempts failed, the last one because {reason}"),
                "check the network and the proxies, then run the command again".to_owned(),
            ));
        }
        tokio::time::sleep(retry::pause(failures + 1, retry_after)).await;
    }
}

async fn body(mut response: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| chain(&error.without_url()))?
    {
        if bytes.len() + chunk.len() > LARGEST_ANSWER {
            return Err(format!("the answer has more than {LARGEST_ANSWER} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// The address in `<…>; rel="next"`, if it is on the same host: the token goes there.
fn next_page(link: Option<&reqwest::header::HeaderValue>, url: &Url) -> Option<Url> {
    let text = link?.to_str().ok()?;
    let next = text
        .split(',')
        .find(|part| part.contains("rel=\"next\""))?
        .split_once('<')?
        .1
        .split_once('>')?
        .0;
    url.join(next)
        .ok()
        .filter(|next| next.origin() == url.origin())
}
