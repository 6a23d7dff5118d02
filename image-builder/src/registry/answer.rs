//! What registries say in headers and error bodies. May do no I/O.

use std::time::Duration;

use http::header::{CONTENT_LENGTH, RETRY_AFTER};
use http::{HeaderMap, HeaderName};
use serde::Deserialize;

use crate::digest::Digest;

/// The digest of what an answer holds or accepted.
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// The smallest part that a registry takes in uploads by parts.
pub(crate) const CHUNK_MINIMUM: HeaderName = HeaderName::from_static("oci-chunk-min-length");
/// Present when a registry lists a pushed manifest as a referrer by itself.
pub(crate) const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// Present when a registry filtered a list of referrers as asked.
pub(crate) const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// Longest text of a registry that is repeated in an error, in characters.
const MOST_DETAIL: usize = 300;

#[derive(Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<Problem>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    error_description: Option<String>,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

/// Codes and messages of an error's body as `: CODE message; …`; empty where there are none.
pub(crate) fn error_detail(body: &[u8]) -> String {
    let parts: Vec<String> = match serde_json::from_slice::<Errors>(body) {
        Ok(errors) => {
            let oauth = [errors.error, errors.error_description]
                .into_iter()
                .flatten();
            errors
                .errors
                .into_iter()
                .map(|problem| {
                    [problem.code, problem.message]
                        .into_iter()
                        .flatten()
                        .collect::<Vec<_>>()
                        .join(" ")
                })
                .chain(oauth)
                .filter(|text| !text.is_empty())
                .collect()
        }
        Err(_) => Vec::new(),
    };
    if parts.is_empty() {
        return String::new();
    }
    let text: String = parts
        .join("; ")
        .chars()
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .take(MOST_DETAIL)
        .collect();
    format!(": {text}")
}

/// When the registry wants to be asked again. Dates are not read: registries send seconds.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    text(headers, &RETRY_AFTER)?
        .trim()
        .parse()
        .ok()
        .map(Duration::from_secs)
}

/// The last byte that an upload has, of `Range: 0-LAST`.
pub(crate) fn range_end(headers: &HeaderMap) -> Option<u64> {
    let range = text(headers, &http::header::RANGE)?;
    let range = range.trim().trim_start_matches("bytes=");
    range.split_once('-')?.1.parse().ok()
}

/// The digest that an answer names, where it names a sha256.
pub(crate) fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    text(headers, &CONTENT_DIGEST)?.trim().parse().ok()
}

/// The length that an answer announces, in bytes.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    text(headers, &CONTENT_LENGTH)?.trim().parse().ok()
}

/// A header's text; `None` where it is absent or no text.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Where the next page of a list is, of `Link: <…>; rel="next"`.
pub(crate) fn next_page(headers: &HeaderMap) -> Option<String> {
    headers
        .get_all(http::header::LINK)
        .iter()
        .find_map(|value| {
            let (address, parameters) = value
                .to_str()
                .ok()?
                .trim()
                .strip_prefix('<')?
                .split_once('>')?;
            let is_next = parameters.split(';').any(|parameter| {
                parameter
                    .trim()
                    .strip_prefix("rel=")
                    .is_some_and(|rel| rel.trim_matches('"') == "next")
            });
            is_next.then(|| address.to_owned())
        })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::{LINK, RANGE};

    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn errors_of_registries_and_of_token_services_become_one_line() {
        let body =
            br#"{"errors":[{"code":"DENIED","message":"not\nyours","detail":{}},{"code":"X"}]}"#;
        assert_eq!(error_detail(body), ": DENIED not yours; X");
        assert_eq!(
            error_detail(br#"{"error":"invalid_grant","error_description":"old"}"#),
            ": invalid_grant; old"
        );
        assert_eq!(error_detail(b"<html>"), "");
        let long = format!(r#"{{"errors":[{{"code":"{}"}}]}}"#, "x".repeat(1000));
        assert!(error_detail(long.as_bytes()).len() < 310);
    }

    #[test]
    fn ranges_pages_and_waits_are_read_from_headers() {
        assert_eq!(range_end(&headers(RANGE, "0-1023")), Some(1023));
        assert_eq!(range_end(&headers(RANGE, "bytes=0-7")), Some(7));
        assert_eq!(range_end(&HeaderMap::new()), None);
        assert_eq!(
            retry_after(&headers(RETRY_AFTER, "7")),
            Some(Duration::from_secs(7))
        );
        let link = headers(LINK, r#"</v2/a/tags/list?last=b&n=1>; rel="next""#);
        assert_eq!(
            next_page(&link).as_deref(),
            Some("/v2/a/tags/list?last=b&n=1")
        );
        assert_eq!(next_page(&headers(LINK, r#"</x>; rel="prev""#)), None);
    }
}
