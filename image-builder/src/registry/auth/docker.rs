//! Files of credentials as docker, podman and Kubernetes write them. Read when they are needed, never written here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use super::{AuthError, Credential, helper};

/// The key under which docker keeps Docker Hub's credentials.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// Files larger than this are not docker configs.
const MOST_BYTES: u64 = 4 << 20;
/// Some programs write the `auth` field without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Files to search, in this order. Files that do not exist are skipped.
#[derive(Clone, Debug, Default)]
pub struct DockerFiles {
    /// `config.json`, `auth.json`, `.dockerconfigjson` or `.dockercfg` files.
    pub paths: Vec<PathBuf>,
    /// Directories whose files are all searched, in the order of their names (KAITO mounts pull secrets so).
    pub directories: Vec<PathBuf>,
}

impl DockerFiles {
    /// Where docker and podman keep them; `variable` reads the environment.
    #[must_use]
    pub fn from_environment(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| {
            variable(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let home = set("HOME").or_else(|| set("USERPROFILE"));
        let docker = set("DOCKER_CONFIG").or_else(|| home.map(|home| home.join(".docker")));
        let runtime = set("XDG_RUNTIME_DIR").map(|path| path.join("containers").join("auth.json"));
        Self {
            paths: [
                set("REGISTRY_AUTH_FILE"),
                docker.as_ref().map(|path| path.join("config.json")),
                runtime,
            ]
            .into_iter()
            .flatten()
            .collect(),
            directories: docker
                .map(|path| path.join("config.d"))
                .into_iter()
                .collect(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    auth: Option<SecretString>,
    username: Option<String>,
    password: Option<SecretString>,
    identitytoken: Option<SecretString>,
    registrytoken: Option<SecretString>,
}

/// The first credential for a repository that any of the files has.
pub(super) async fn find(
    files: &DockerFiles,
    host: &str,
    repository: &str,
) -> Result<Option<Credential>, AuthError> {
    let mut paths = files.paths.clone();
    for directory in &files.directories {
        paths.extend(files_of(directory)?);
    }
    for path in paths {
        let Some(config) = read(&path)? else { continue };
        if let Some(found) = find_in(&config, &path, host, repository).await? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// A helper for the host wins over what the file holds, as with docker; the general store comes last.
async fn find_in(
    config: &Config,
    path: &Path,
    host: &str,
    repository: &str,
) -> Result<Option<Credential>, AuthError> {
    let server = if host == "docker.io" {
        DOCKER_HUB_KEY
    } else {
        host
    };
    let by_host = config
        .cred_helpers
        .iter()
        .find(|(key, _)| normalise(key) == normalise(server));
    if let Some((_, name)) = by_host {
        return helper::get(name, server).await;
    }
    let best = config
        .auths
        .iter()
        .filter(|(key, _)| covers(&normalise(key), host, repository))
        .max_by_key(|(key, _)| normalise(key).len());
    if let Some((_, entry)) = best
        && let Some(found) = credential(entry, path)?
    {
        return Ok(Some(found));
    }
    match &config.creds_store {
        Some(name) if !name.is_empty() => helper::get(name, server).await,
        _ => Ok(None),
    }
}

/// Keys are hosts, old-style addresses, or (podman) a host and the beginning of a repository.
fn normalise(key: &str) -> String {
    let bare = key
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let bare = bare.trim_end_matches('/');
    let bare = bare
        .strip_suffix("/v1")
        .or_else(|| bare.strip_suffix("/v2"))
        .unwrap_or(bare);
    match bare {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => {
            "docker.io".to_owned()
        }
        other => other.to_owned(),
    }
}

fn covers(key: &str, host: &str, repository: &str) -> bool {
    match key.strip_prefix(host) {
        Some("") => true,
        Some(rest) => rest.strip_prefix('/').is_some_and(|prefix| {
            repository
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }),
        None => false,
    }
}

fn credential(entry: &Entry, path: &Path) -> Result<Option<Credential>, AuthError> {
    let present = |secret: &Option<SecretString>| {
        secret
            .clone()
            .filter(|secret| !secret.expose_secret().is_empty())
    };
    if let Some(token) = present(&entry.identitytoken) {
        return Ok(Some(Credential::Identity(token)));
    }
    if let Some(token) = present(&entry.registrytoken) {
        return Ok(Some(Credential::Bearer(token)));
    }
    if let (Some(username), Some(password)) = (&entry.username, present(&entry.password)) {
        return Ok(Some(Credential::Password {
            username: username.clone(),
            password,
        }));
    }
    present(&entry.auth)
        .map(|auth| decode(&auth, path))
        .transpose()
}

/// `auth` is the base64 of `USER:PASSWORD`.
fn decode(auth: &SecretString, path: &Path) -> Result<Credential, AuthError> {
    let broken = || AuthError::Format {
        path: path.to_owned(),
        reason: "an `auth` field is not the base64 of USER:PASSWORD".to_owned(),
    };
    let bytes = LENIENT
        .decode(auth.expose_secret().trim())
        .map_err(|_| broken())?;
    let text = String::from_utf8(bytes).map_err(|_| broken())?;
    let (username, password) = text.split_once(':').ok_or_else(broken)?;
    Ok(Credential::Password {
        username: username.to_owned(),
        password: password.trim_end_matches('\0').to_owned().into(),
    })
}

fn read(path: &Path) -> Result<Option<Config>, AuthError> {
    let failed = |cause| AuthError::File {
        path: path.to_owned(),
        cause,
    };
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => return Ok(None),
        Ok(found) if found.len() > MOST_BYTES => {
            return Err(AuthError::Format {
                path: path.to_owned(),
                reason: "it is too large".to_owned(),
            });
        }
        Ok(_) => {}
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(failed(cause)),
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    parse(&bytes, path).map(Some)
}

fn parse(bytes: &[u8], path: &Path) -> Result<Config, AuthError> {
    // The message of the JSON parser may quote what it read, so only its place is told.
    let broken = |cause: serde_json::Error| AuthError::Format {
        path: path.to_owned(),
        reason: format!("line {}, column {}", cause.line(), cause.column()),
    };
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(broken)?;
    let is_config = ["auths", "credHelpers", "credsStore"]
        .iter()
        .any(|key| value.get(key).is_some());
    if is_config {
        return serde_json::from_value(value).map_err(broken);
    }
    // `.dockercfg`: the entries without anything around them. Other files have no credentials.
    Ok(Config {
        auths: serde_json::from_value(value).unwrap_or_default(),
        ..Config::default()
    })
}

fn files_of(directory: &Path) -> Result<Vec<PathBuf>, AuthError> {
    let failed = |cause| AuthError::File {
        path: directory.to_owned(),
        cause,
    };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(failed(cause)),
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    paths.sort();
    // Kubernetes puts a mounted secret's files one directory down, behind links.
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let inside = [".dockerconfigjson", "config.json", ".dockercfg"];
            files.extend(
                inside
                    .iter()
                    .map(|name| path.join(name))
                    .filter(|path| path.is_file()),
            );
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        parse(text.as_bytes(), Path::new("config.json")).unwrap()
    }

    async fn look_up(text: &str, host: &str, repository: &str) -> Option<Credential> {
        find_in(&config(text), Path::new("config.json"), host, repository)
            .await
            .unwrap()
    }

    fn user(credential: Option<Credential>) -> Option<String> {
        match credential {
            Some(Credential::Password { username, password }) => {
                Some(format!("{username}/{}", password.expose_secret()))
            }
            Some(Credential::Identity(token)) => {
                Some(format!("identity/{}", token.expose_secret()))
            }
            Some(Credential::Bearer(token)) => Some(format!("bearer/{}", token.expose_secret())),
            None => None,
        }
    }

    #[tokio::test]
    async fn entries_are_found_by_host_by_old_address_and_by_the_longest_repository() {
        let text = r#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"aHViOnB3"},
            "r.io":{"auth":"aG9zdDpwdw"},
            "r.io/team":{"auth":"dGVhbTpwdzpjb2xvbg=="},
            "id.io":{"auth":"eDp5","identitytoken":"secret"},
            "empty.io":{}
        }}"#;
        assert_eq!(
            user(look_up(text, "docker.io", "library/x").await).as_deref(),
            Some("hub/pw")
        );
        assert_eq!(
            user(look_up(text, "r.io", "teams/x").await).as_deref(),
            Some("host/pw")
        );
        assert_eq!(
            user(look_up(text, "r.io", "team/x").await).as_deref(),
            Some("team/pw:colon")
        );
        assert_eq!(
            user(look_up(text, "id.io", "x").await).as_deref(),
            Some("identity/secret")
        );
        assert_eq!(user(look_up(text, "empty.io", "x").await), None);
        assert_eq!(user(look_up(text, "r.io.evil.io", "x").await), None);
    }

    #[tokio::test]
    async fn of_several_files_the_first_that_knows_the_host_counts() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let usual = file("usual", r#"{"auths":{"c.io":{"auth":"dXN1YWw6cHc="}}}"#);
        let given = [
            file("1", r#"{"auths":{"a.io":{"auth":"Zmlyc3Q6cHc="}}}"#),
            file(
                "2",
                r#"{"auths":{"a.io":{"auth":"c2Vjb25kOnB3"},"b.io":{"auth":"c2Vjb25kOnB3"}}}"#,
            ),
        ];
        let options = crate::registry::CredentialOptions {
            files: DockerFiles {
                paths: vec![usual],
                directories: Vec::new(),
            },
            ..Default::default()
        }
        .with_files(&given);
        for (host, expected) in [
            ("a.io", Some("first/pw")),
            ("b.io", Some("second/pw")),
            ("c.io", Some("usual/pw")),
            ("d.io", None),
        ] {
            let found = find(&options.files, host, "x").await.unwrap();
            assert_eq!(user(found).as_deref(), expected, "{host}");
        }
    }

    #[tokio::test]
    async fn the_older_file_of_kubernetes_secrets_is_read_too() {
        let text = r#"{"r.io":{"username":"u","password":"p","email":"e"}}"#;
        assert_eq!(
            user(look_up(text, "r.io", "x").await).as_deref(),
            Some("u/p")
        );
    }

    #[test]
    fn a_broken_file_is_named_without_showing_what_is_in_it() {
        let Err(error) = parse(
            br#"{"auths":{"r.io":{"auth":"hunter2"#,
            Path::new("/c.json"),
        ) else {
            panic!("was read")
        };
        let shown = error.to_string();
        assert!(
            shown.contains("/c.json") && !shown.contains("hunter2"),
            "{shown}"
        );
        let Err(error) = decode(&"!hunter2".to_owned().into(), Path::new("/c.json")) else {
            panic!("was decoded")
        };
        assert!(!format!("{error:?}").contains("hunter2"));
    }

    #[test]
    fn the_environment_says_where_the_files_are() {
        let variables = |name: &str| match name {
            "HOME" => Some("/home/me".to_owned()),
            "REGISTRY_AUTH_FILE" => Some("/run/auth.json".to_owned()),
            _ => None,
        };
        let files = DockerFiles::from_environment(&variables);
        assert_eq!(
            files.paths,
            [
                PathBuf::from("/run/auth.json"),
                PathBuf::from("/home/me/.docker/config.json")
            ]
        );
        assert_eq!(
            files.directories,
            [PathBuf::from("/home/me/.docker/config.d")]
        );
    }
}
