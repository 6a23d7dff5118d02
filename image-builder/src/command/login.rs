//! `login`: stores a password for a registry where docker, podman and this program look for it.
//!
//! The password comes from stdin only: arguments and variables are seen by others.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};

use super::Context;
use super::failure::{Exit, Failure};
use super::flags::RegistryFlags;
use crate::registry::{Credential, Reference};

/// The key under which docker keeps Docker Hub's credentials.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// Longest password that is read, in bytes; tokens have some thousand.
const LONGEST_PASSWORD: u64 = 64 << 10;

/// Flags of `login`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The registry's host
    #[arg(value_name = "REGISTRY")]
    pub(crate) host: String,
    /// User name
    #[arg(short = 'u', long, value_name = "USER")]
    pub(crate) username: String,
    /// Read the password from stdin; the only way to give one
    #[arg(long, required = true)]
    pub(crate) password_stdin: bool,
    /// Store without asking the registry whether the password is right
    #[arg(long)]
    pub(crate) no_check: bool,
    /// Longest time for the registry to answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) wait_seconds: u64,
    /// How registries are reached.
    #[command(flatten)]
    pub(crate) registry: RegistryFlags,
}

/// Logs in.
pub(crate) async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let host = args
        .host
        .trim_start_matches("https://")
        .trim_end_matches('/');
    let password = read_password()?;
    if !args.no_check {
        let limit = Duration::from_secs(args.wait_seconds);
        in_time(host, limit, check(args, host, &password, context)).await?;
    }
    let path = config_path(args, context)?;
    let key = if host == "docker.io" {
        DOCKER_HUB_KEY
    } else {
        host
    };
    store(&path, key, &args.username, &password)?;
    context.output.note(&format!(
        "Stored the password for {host} in {}.",
        path.display()
    ));
    Ok(Exit::Success)
}

fn read_password() -> Result<SecretString, Failure> {
    if std::io::stdin().is_terminal() {
        return Err(Failure::message(
            "the password comes from stdin: … | image-builder login HOST -u USER --password-stdin",
        ));
    }
    let mut text = String::new();
    std::io::stdin()
        .take(LONGEST_PASSWORD)
        .read_to_string(&mut text)
        .map_err(|error| {
            Failure::message(format!("cannot read the password from stdin: {error}"))
        })?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Failure::message("stdin held no password"));
    }
    Ok(password.into())
}

/// Ends an attempt that takes too long: a person waits, and a server that takes connections and never answers is not the
/// one that was meant. Pushes and pulls are more patient.
async fn in_time(
    host: &str,
    limit: Duration,
    attempt: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    match tokio::time::timeout(limit, attempt).await {
        Ok(done) => done,
        Err(_elapsed) => Err(Failure::message(format!(
            "cannot log in to {host}: it did not answer within {} s, so nothing was stored; check the name and the port, \
             or store the password unasked with --no-check",
            limit.as_secs()
        ))
        .with_exit(Exit::Timeout)),
    }
}

/// Asks the registry for something that any account may do, with this password.
async fn check(
    args: &Args,
    host: &str,
    password: &SecretString,
    context: &Context,
) -> Result<(), Failure> {
    let mut context = context.clone();
    let credential = Credential::Password {
        username: args.username.clone(),
        password: password.clone(),
    };
    context.credentials = vec![(Some(host.to_owned()), credential)];
    let reference: Reference = format!("{host}/login/check").parse()?;
    let repository = args.registry.client(&context)?.repository(&reference)?;
    match repository.find_manifest("latest").await {
        Ok(_) => Ok(()),
        // The repository does not exist; that the account may not see it says nothing about the password.
        Err(error) if error.status().is_some_and(|status| status.as_u16() == 403) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn config_path(args: &Args, context: &Context) -> Result<PathBuf, Failure> {
    match args.registry.registry_config.as_slice() {
        [] => {}
        [path] => return Ok(path.clone()),
        _ => {
            return Err(Failure::message(
                "a password is stored in one file; name only one with --registry-config",
            ));
        }
    }
    let directory = context
        .variable("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| {
            let home = context
                .variable("HOME")
                .or_else(|| context.variable("USERPROFILE"))?;
            Some(Path::new(&home).join(".docker"))
        });
    directory
        .map(|directory| directory.join("config.json"))
        .ok_or_else(|| {
            Failure::message("there is no home directory; name a file with --registry-config")
        })
}

/// Writes the entry and leaves the rest of the file as it is. The file appears whole, readable by its owner only.
fn store(path: &Path, key: &str, username: &str, password: &SecretString) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::message(format!("cannot write {}: {error}", path.display()))
    };
    let mut config: Map<String, Value> = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
            Failure::message(format!(
                "{} is not a docker config ({error}); nothing was changed",
                path.display()
            ))
        })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Map::new(),
        Err(error) => return Err(failed(error)),
    };
    if config.contains_key("credsStore") || helper_for(&config, key) {
        return Err(Failure::message(format!(
            "{} gives the passwords of this registry to a credential helper; log in with docker login",
            path.display()
        )));
    }
    let encoded = BASE64.encode(format!("{username}:{}", password.expose_secret()));
    let auths = config.entry("auths").or_insert_with(|| json!({}));
    match auths.as_object_mut() {
        Some(auths) => auths.insert(key.to_owned(), json!({"auth": encoded})),
        None => {
            return Err(Failure::message(format!(
                "auths in {} is no object",
                path.display()
            )));
        }
    };
    write_private(path, &serde_json::to_vec_pretty(&config)?).map_err(failed)
}

fn helper_for(config: &Map<String, Value>, key: &str) -> bool {
    let helpers = config.get("credHelpers").and_then(Value::as_object);
    helpers.is_some_and(|helpers| helpers.contains_key(key))
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if let Some(directory) = directory {
        std::fs::create_dir_all(directory)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let mut file = options.open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Args, check, in_time, store};
    use crate::command::flags::RegistryFlags;
    use crate::command::{Context, Exit, Failure, Output};

    /// Prints nothing.
    struct Nothing;

    impl Output for Nothing {
        fn data(&self, _line: &str) -> Result<(), Failure> {
            Ok(())
        }

        fn note(&self, _line: &str) {}

        fn draws_bars(&self) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn a_server_that_takes_the_connection_and_never_answers_is_given_up() {
        // The system takes the connection; nobody ever reads from it.
        let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let host = deaf.local_addr().unwrap().to_string();
        let args = Args {
            host: host.clone(),
            username: "me".to_owned(),
            password_stdin: true,
            no_check: false,
            wait_seconds: 0,
            registry: RegistryFlags::default(),
        };
        let context = Context {
            variables: std::collections::BTreeMap::default(),
            output: Arc::new(Nothing),
            credentials: Vec::new(),
            program: "test".to_owned(),
        };
        let password = "pass".into();
        let attempt = check(&args, &host, &password, &context);
        let limit = Duration::from_millis(300);
        let failure = in_time(&host, limit, attempt).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Timeout);
        let text = failure.to_string();
        assert!(
            text.contains(&host) && text.contains("did not answer"),
            "{text}"
        );
        assert!(text.contains("--no-check"), "{text}");
    }

    #[test]
    fn the_rest_of_the_file_stays_and_others_cannot_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker/config.json");
        store(&path, "a.io", "me", &"old".into()).unwrap();
        let before = std::fs::read_to_string(&path)
            .unwrap()
            .replace("\"auths\"", "\"other\": 1, \"auths\"");
        std::fs::write(&path, before).unwrap();
        store(&path, "b.io", "me", &"pass".into()).unwrap();
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(config["other"], 1);
        assert_eq!(config["auths"]["a.io"]["auth"], "bWU6b2xk");
        assert_eq!(config["auths"]["b.io"]["auth"], "bWU6cGFzcw==");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(
                std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
    }

    #[test]
    fn a_file_that_is_no_config_or_has_a_helper_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        for content in [
            "not json",
            r#"{"credsStore": "desktop"}"#,
            r#"{"credHelpers": {"a.io": "x"}}"#,
        ] {
            std::fs::write(&path, content).unwrap();
            assert!(
                store(&path, "a.io", "me", &"pass".into()).is_err(),
                "{content}"
            );
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
    }
}
