//! A real OCI registry (distribution) for tests: on a free port, with its blobs in a temporary folder, and on request
//! with TLS and a password.
//!
//! It is stopped, and its folder removed, when the value is dropped and when its owner is killed (see
//! [`crate::supervise`]). This module pushes and pulls nothing; [`Registry::oras`] is a client to do that with.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::binaries::{self, Binary, find_or_build};
use crate::control_plane::CertificateError;
use crate::control_plane::certificates::{Authority, Subject, write};
use crate::supervise::{self, Launch, Supervised, tail};

/// Limit of the start; it takes a fraction of a second.
const LIMIT: Duration = Duration::from_secs(60);
/// Time between two looks at the log.
const POLL: Duration = Duration::from_millis(20);
/// Cheapest hash that bcrypt allows: the password protects nothing but the test of passwords.
const BCRYPT_COST: u32 = 4;

/// A user of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Name, without a colon.
    pub user: String,
    /// Password.
    pub password: String,
}

/// How clients connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// HTTP.
    Plain,
    /// HTTPS, with a certificate of an authority of its own: see [`Registry::authority`].
    Tls,
}

/// What a registry is like.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address that it listens on, and that its certificate is for.
    pub address: IpAddr,
    /// How clients connect.
    pub transport: Transport,
    /// The only user; absent: everybody may do everything.
    pub credentials: Option<Credentials>,
}

impl Options {
    /// HTTP on 127.0.0.1, open to everybody.
    #[must_use]
    pub const fn open() -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            transport: Transport::Plain,
            credentials: None,
        }
    }

    /// HTTPS on 127.0.0.1, with a user and password.
    #[must_use]
    pub fn secured() -> Self {
        let credentials = Credentials {
            user: "kaito".to_owned(),
            password: "not a secret".to_owned(),
        };
        Self {
            transport: Transport::Tls,
            credentials: Some(credentials),
            ..Self::open()
        }
    }
}

/// Why the registry could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is missing.
    #[error("cannot provide the registry's program")]
    Binary(#[from] binaries::Error),
    /// A file of its folder could not be written.
    #[error("cannot {what} for the registry")]
    System {
        /// The operation, as a verb.
        what: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Its certificate could not be made.
    #[error("cannot make the registry's certificate")]
    Certificate(#[from] CertificateError),
    /// Its password could not be hashed.
    #[error("cannot hash the registry's password")]
    Password(#[source] bcrypt::BcryptError),
    /// It could not be started or stopped.
    #[error("cannot run the registry")]
    Run(#[source] Box<supervise::Error>),
    /// It ended, or said nothing, while it was waited for.
    #[error("the registry does not listen ({status}); its last lines:\n{tail}")]
    Silent {
        /// Exit status, or how long it was waited for.
        status: String,
        /// End of its log.
        tail: String,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { what, source }
}

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    // Stopped before its folder is removed.
    server: Supervised,
    host: String,
    options: Options,
    authority: Option<PathBuf>,
    folder: tempfile::TempDir,
}

impl Registry {
    /// Starts a registry and waits until it listens. Builds its program first if it is nowhere, which takes minutes.
    ///
    /// # Errors
    /// [`Error`]; what has started is stopped again.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let program = tokio::task::spawn_blocking(|| find_or_build(Binary::Registry)).await;
        let program = program.map_err(|source| Error::System {
            what: "find the program",
            source: io::Error::other(source),
        })??;
        let folder = tempfile::Builder::new().prefix("kaito-registry-").tempdir();
        let folder = folder.map_err(system("make a folder"))?;
        let authority = configure(folder.path(), &options)?;
        let log = folder.path().join("registry.log");
        let mut launch = Launch::new("registry", &program, &log)
            .with(["serve"])
            .with([folder.path().join("config.json")]);
        // Otherwise it sends traces to a collector that is not there.
        launch.environment = vec![("OTEL_TRACES_EXPORTER".to_owned(), "none".into())];
        launch.remove = Some(folder.path().to_owned());
        let mut server =
            Supervised::spawn(&launch, None).map_err(|source| Error::Run(Box::new(source)))?;
        let host = wait(&mut server).await?;
        Ok(Self {
            server,
            host,
            options,
            authority,
            folder,
        })
    }

    /// Host and port, as it stands in front of a repository's name.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Base URL, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = match self.options.transport {
            Transport::Plain => "http",
            Transport::Tls => "https",
        };
        format!("{scheme}://{}", self.host)
    }

    /// PEM file of the authority that signed its certificate; with [`Transport::Tls`] only.
    #[must_use]
    pub fn authority(&self) -> Option<&Path> {
        self.authority.as_deref()
    }

    /// Its user, if it has one.
    #[must_use]
    pub const fn credentials(&self) -> Option<&Credentials> {
        self.options.credentials.as_ref()
    }

    /// A Docker configuration with its user, as text: contents of a pull secret or of `config.json`.
    #[must_use]
    pub fn docker_config(&self) -> String {
        let entry = match self.credentials() {
            Some(Credentials { user, password }) => {
                json!({ self.host(): { "username": user, "password": password } })
            }
            None => json!({}),
        };
        json!({ "auths": entry }).to_string()
    }

    /// Folder below which its blobs are (`data`); gone after the stop.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its log, with a line per request.
    #[must_use]
    pub fn log(&self) -> &Path {
        self.server.log()
    }

    /// Process id of the server.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.server.pid()
    }

    /// oras with what it needs to talk to this registry, for a subcommand such as `["manifest", "fetch"]`; its own
    /// arguments (`HOST/NAME:TAG` and so on) follow.
    ///
    /// # Errors
    /// [`Error::Binary`] if oras is missing, [`Error::System`] if its configuration cannot be written.
    pub fn oras(&self, subcommand: &[&str]) -> Result<Command, Error> {
        let config = self.folder.path().join("oras.json");
        fs::write(&config, self.docker_config()).map_err(system("write oras' configuration"))?;
        // Copies name their ends apart.
        let prefix = if subcommand == ["cp"] { "--to-" } else { "--" };
        let mut command = Command::new(find_or_build(Binary::Oras)?);
        command
            .args(subcommand)
            .arg(format!("{prefix}registry-config={}", config.display()));
        match self.authority() {
            Some(file) => command.arg(format!("{prefix}ca-file={}", file.display())),
            None => command.arg(format!("{prefix}plain-http")),
        };
        Ok(command)
    }

    /// Stops it and waits for its end. Dropping does the same but only prints what goes wrong.
    ///
    /// # Errors
    /// [`Error::Run`] if it does not end.
    pub fn stop(mut self) -> Result<(), Error> {
        self.server
            .stop()
            .map_err(|source| Error::Run(Box::new(source)))
    }
}

/// Writes everything that the server reads, and returns the authority's certificate if there is one.
fn configure(folder: &Path, options: &Options) -> Result<Option<PathBuf>, Error> {
    let mut http = json!({ "addr": format!("{}:0", options.address), "secret": "of one run" });
    let mut authority = None;
    if options.transport == Transport::Tls {
        let issuer = Authority::new(folder)?;
        let pair = issuer.sign(&Subject {
            file: "server",
            user: "registry",
            group: None,
            hosts: &[&options.address.to_string(), "localhost"],
        })?;
        let tls = json!({ "certificate": pair.certificate, "key": pair.key });
        authority = Some(issuer.files.certificate.clone());
        set(&mut http, "tls", tls);
    }
    let mut document = json!({
        "version": "0.1",
        "log": { "level": "info", "accesslog": { "disabled": false } },
        "storage": {
            "filesystem": { "rootdirectory": folder.join("data") },
            "delete": { "enabled": true },
        },
        "http": http,
    });
    if let Some(Credentials { user, password }) = &options.credentials {
        let file = folder.join("htpasswd");
        let hash = bcrypt::hash(password, BCRYPT_COST).map_err(Error::Password)?;
        write(&file, &format!("{user}:{hash}\n"))?;
        let realm = json!({ "htpasswd": { "realm": "kaito-tests", "path": file } });
        set(&mut document, "auth", realm);
    }
    // JSON is YAML, which is what the server reads.
    write(&folder.join("config.json"), &document.to_string())?;
    Ok(authority)
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(key.to_owned(), value);
    }
}

/// Waits for the line that says where it listens: the port is the kernel's choice, so no other process can have it.
async fn wait(server: &mut Supervised) -> Result<String, Error> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let text = fs::read_to_string(server.log()).unwrap_or_default();
        if let Some(host) = listening(&text) {
            return Ok(host);
        }
        let ended = server.ended().map(|status| status.to_string());
        let late = (Instant::now() >= deadline).then(|| format!("{} s passed", LIMIT.as_secs()));
        if let Some(status) = ended.or(late) {
            let tail = tail(server.log(), 10);
            return Err(Error::Silent { status, tail });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Host and port of `… msg="listening on HOST:PORT, tls" …`.
fn listening(log: &str) -> Option<String> {
    let rest = log.split_once("listening on ")?.1;
    let host: String = rest
        .chars()
        .take_while(|c| !matches!(c, ',' | '"' | ' ' | '\n'))
        .collect();
    // A line that is still being written ends early.
    (rest.len() > host.len()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::listening;

    #[test]
    fn the_address_is_read_from_the_log_once_its_line_is_whole() {
        let line = r#"level=info msg="listening on 127.0.0.1:39911, tls" version=v3"#;
        assert_eq!(listening(line).as_deref(), Some("127.0.0.1:39911"));
        let line = r#"msg="listening on [::1]:5000" go.version=go1.26"#;
        assert_eq!(listening(line).as_deref(), Some("[::1]:5000"));
        assert_eq!(listening("listening on 127.0.0.1:39"), None);
        assert_eq!(listening("nothing"), None);
    }
}
