//! The hub's refusals in words that say what to do. Pure.

use reqwest::StatusCode;
use reqwest::header::HeaderMap;

/// Reason and remedy of a refusal. The hub says more in a header than in its status.
pub(super) fn explain(status: StatusCode, headers: &HeaderMap) -> (String, String) {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let code = header("x-error-code").unwrap_or_default();
    let said = header("x-error-message").map(|text| text.chars().take(200).collect::<String>());
    let reason = match (code, &said) {
        ("GatedRepo", _) => "the model is gated and this token has no access".to_owned(),
        (_, Some(text)) => format!("the hub answered {status}: {text}"),
        (_, None) => format!("the hub answered {status}"),
    };
    let remedy = match (code, status.as_u16()) {
        ("GatedRepo", _) => {
            "accept its terms on the model's page, then give a token of that account by HF_TOKEN or --hf-token-file"
        }
        ("RevisionNotFound", _) => "check the part behind @; without it the branch main is used",
        ("EntryNotFound", _) => "the file is not in this revision; run the command again",
        ("RepoNotFound", _) | (_, 401 | 404) => {
            "check the name; a private or gated model needs a token by HF_TOKEN or --hf-token-file"
        }
        (_, 403) => {
            "the token may not read this model; check its permissions, and accept the model's terms"
        }
        _ => {
            "try again later, or download the model with another program and package the directory"
        }
    };
    (reason, remedy.to_owned())
}
