//! Credential helpers: programs that keep credentials in the system's key store. The server's name goes in by standard
//! input, the credential comes back by standard output; nothing secret is ever an argument.

use std::process::Stdio;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{AuthError, Credential};

/// A key store may ask a person to unlock it.
const PATIENCE: Duration = Duration::from_secs(120);
/// The user name by which helpers mark an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    secret: SecretString,
}

/// Asks `docker-credential-NAME` for the credential of `server`; `None` where it has none.
pub(super) async fn get(name: &str, server: &str) -> Result<Option<Credential>, AuthError> {
    let failed = |reason: String| AuthError::Helper {
        name: name.to_owned(),
        reason,
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_name) {
        return Err(failed(
            "its name has characters that no program's name has".to_owned(),
        ));
    }
    let mut child = Command::new(format!("docker-credential-{name}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|cause| failed(cause.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that ends without reading is judged by its answer.
        let _ = input.write_all(server.as_bytes()).await;
    }
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
        .await
        .map_err(|_| failed(format!("no answer for {} seconds", PATIENCE.as_secs())))?
        .map_err(|cause| failed(cause.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        if said.contains("credentials not found") {
            return Ok(None);
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(failed(
            format!("{} {}", said.trim(), errors.trim())
                .trim()
                .to_owned(),
        ));
    }
    let answer: Answer = serde_json::from_slice(&output.stdout)
        .map_err(|_| failed("its answer is not the JSON that docker defines".to_owned()))?;
    Ok(credential(answer))
}

fn credential(answer: Answer) -> Option<Credential> {
    match answer.username.as_str() {
        _ if answer.secret.expose_secret().is_empty() => None,
        TOKEN_USER => Some(Credential::Identity(answer.secret)),
        _ => Some(Credential::Password {
            username: answer.username,
            password: answer.secret,
        }),
    }
}
