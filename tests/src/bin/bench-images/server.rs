//! The registries: a lean one in this process, distribution's, and Debian's.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use kaito_tests::registry::{self, Registry};
use registry_sink::{Keep, Options, Sink};

/// The largest tree that the lean registry keeps in memory; of larger ones it keeps digests, and nothing can be pulled.
const MOST_IN_MEMORY: u64 = 8 << 30;
/// Longest time for Debian's registry to start.
const START: Duration = Duration::from_secs(30);

/// A running registry.
pub(crate) enum Server {
    /// In memory, in this process.
    Sink(Sink),
    /// distribution 3.
    Distribution(Registry),
    /// Debian's docker-registry.
    Debian(Debian),
}

/// Debian's docker-registry as a child process; it ends with this value.
pub(crate) struct Debian {
    child: Child,
    host: String,
    _folder: tempfile::TempDir,
}

impl Drop for Debian {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts a registry; none, with a line on stderr, where it cannot be had.
    pub(crate) async fn start(
        name: &str,
        folder: &Path,
        bytes: u64,
    ) -> anyhow::Result<Option<Self>> {
        Ok(match name {
            "sink" => {
                anyhow::ensure!(
                    bytes <= MOST_IN_MEMORY,
                    "the lean registry keeps at most 8 GiB"
                );
                let options = Options {
                    keep: Keep::Bytes,
                    ..Options::default()
                };
                Some(Self::Sink(Sink::start(options).await?))
            }
            "distribution" => Some(Self::Distribution(
                Registry::start(registry::Options::open()).await?,
            )),
            "debian" => debian(folder)?.map(Self::Debian),
            other => bail!("there is no registry {other}"),
        })
    }

    /// Host and port.
    pub(crate) fn host(&self) -> String {
        match self {
            Self::Sink(sink) => sink.host(),
            Self::Distribution(registry) => registry.host().to_owned(),
            Self::Debian(debian) => debian.host.clone(),
        }
    }

    /// Bytes of blobs that arrived, where the registry counts them.
    pub(crate) fn received(&self) -> Option<u64> {
        match self {
            Self::Sink(sink) => Some(sink.received()),
            Self::Distribution(_) | Self::Debian(_) => None,
        }
    }
}

fn debian(folder: &Path) -> anyhow::Result<Option<Debian>> {
    let Some(program) = crate::client::installed("docker-registry", "docker-registry") else {
        eprintln!(
            "Debian's docker-registry is left out: it is not installed and cannot be installed here"
        );
        return Ok(None);
    };
    let folder = tempfile::Builder::new()
        .prefix("debian-")
        .tempdir_in(folder)?;
    // It does not tell which port the kernel chose, so one that was free a moment ago is given to it.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    let host = format!("127.0.0.1:{port}");
    let config = serde_json::json!({
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": true}},
        "storage": {"filesystem": {"rootdirectory": folder.path().join("data")}},
        "http": {"addr": host, "secret": "of one run"},
    });
    let path = folder.path().join("config.yml");
    std::fs::write(&path, config.to_string())?;
    let mut child = Command::new(program)
        .arg("serve")
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start docker-registry")?;
    let deadline = Instant::now() + START;
    while std::net::TcpStream::connect(&host).is_err() {
        if let Some(status) = child.try_wait()? {
            bail!("docker-registry ended with {status}");
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            bail!(
                "docker-registry does not listen after {} s",
                START.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(Some(Debian {
        child,
        host,
        _folder: folder,
    }))
}
