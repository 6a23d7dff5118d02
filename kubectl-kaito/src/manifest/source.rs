//! Where manifests come from: files, directories, URLs and stdin. Bounded, and text only.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::BodyExt;
use kube::client::{Body, ClientBuilder};

use super::{Position, Problem};
use crate::Context;
use crate::cluster::proxy;
use crate::error::Failure;

/// Most bytes of one source. The API server takes at most 3 MiB per object; this leaves room for several.
pub const MAX_BYTES: usize = 8 * 1024 * 1024;
/// Suffixes of files that a directory is searched for.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];
/// Tries of one URL, as kubectl does.
const URL_TRIES: u32 = 3;
/// Redirects that are followed.
const MAX_REDIRECTS: u32 = 5;

/// Why a manifest cannot be had.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// No file of this name.
    #[error("the path {path:?} does not exist")]
    Missing {
        /// As typed.
        path: String,
    },
    /// A file or a stream that cannot be read.
    #[error("cannot read {name:?}")]
    Unreadable {
        /// Its name.
        name: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A directory without manifests.
    #[error("error reading [{path}]: recognized file extensions are [.json .yaml .yml]")]
    NoManifest {
        /// The directory.
        path: String,
    },
    /// An address that was not even tried.
    #[error("unable to read URL {url:?}")]
    Url {
        /// As typed.
        url: String,
    },
    /// An address that gives nothing.
    #[error("unable to read URL {url:?}: {reason}")]
    NotServed {
        /// The address, perhaps one that another led to.
        url: String,
        /// What was answered, or that nothing was.
        reason: String,
    },
    /// Text that is no address.
    #[error("the URL {url:?} cannot be used")]
    BadUrl {
        /// As typed.
        url: String,
        /// What is wrong with it.
        #[source]
        source: url::ParseError,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::of(&error)
    }
}

/// Which inputs a command reads.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SourceFlags {
    /// File, directory, URL or - for stdin; may be repeated or separated by commas
    #[arg(short = 'f', long, value_name = "FILE", value_delimiter = ',')]
    pub filename: Vec<String>,
    /// Search directories in directories too
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// One input: its name in messages, and its text or what is wrong with it as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// File, URL or `-`.
    pub name: String,
    /// The text.
    pub text: Result<String, Problem>,
}

/// Reads all inputs in the order given; the files of a directory are sorted by name.
///
/// # Errors
/// A path that does not exist or cannot be read, a directory without manifests, a URL that does not answer.
pub async fn load(flags: &SourceFlags, context: &Context) -> Result<Vec<Input>, Failure> {
    let mut inputs = Vec::new();
    for name in &flags.filename {
        if name == "-" {
            inputs.push(
                bounded("-", io::stdin().lock(), None).map_err(|error| unreadable("-", error))?,
            );
        } else if name.starts_with("http://") || name.starts_with("https://") {
            inputs.push(fetch(name, context).await?);
        } else {
            for path in files(Path::new(name), flags.recursive)? {
                let shown = path.display().to_string();
                let file = std::fs::File::open(&path).map_err(|error| unreadable(&shown, error))?;
                let length = file.metadata().ok().map(|metadata| metadata.len());
                inputs.push(
                    bounded(&shown, file, length).map_err(|error| unreadable(&shown, error))?,
                );
            }
        }
    }
    Ok(inputs)
}

fn unreadable(name: &str, source: io::Error) -> Failure {
    let name = name.to_owned();
    Error::Unreadable { name, source }.into()
}

/// The path itself when it is a file, else the manifests in it.
fn files(path: &Path, recursive: bool) -> Result<Vec<PathBuf>, Failure> {
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let path = path.display().to_string();
            Error::Missing { path }.into()
        }
        _ => unreadable(&path.display().to_string(), error),
    })?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    collect(path, recursive, &mut found)?;
    found.sort();
    if found.is_empty() {
        let path = path.display().to_string();
        return Err(Error::NoManifest { path }.into());
    }
    Ok(found)
}

fn collect(directory: &Path, recursive: bool, found: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let failed = |error: io::Error| unreadable(&directory.display().to_string(), error);
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // A link to a directory could lead back here: only real ones are searched.
        let is_directory = std::fs::symlink_metadata(&path).map_err(failed)?.is_dir();
        if is_directory && recursive {
            collect(&path, recursive, found)?;
        } else if !is_directory
            && path
                .extension()
                .is_some_and(|suffix| EXTENSIONS.iter().any(|known| suffix == *known))
        {
            found.push(path);
        }
    }
    Ok(())
}

/// Reads at most [`MAX_BYTES`]; `length` is the whole size where it is known without reading.
fn bounded(name: &str, mut reader: impl Read, length: Option<u64>) -> io::Result<Input> {
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX);
    if let Some(length) = length.filter(|length| *length > limit) {
        return Ok(Input {
            name: name.to_owned(),
            text: Err(too_large(name, &mib(length))),
        });
    }
    let mut bytes = Vec::new();
    reader.by_ref().take(limit + 1).read_to_end(&mut bytes)?;
    Ok(Input {
        name: name.to_owned(),
        text: text(name, bytes),
    })
}

fn text(name: &str, bytes: Vec<u8>) -> Result<String, Problem> {
    if bytes.len() > MAX_BYTES {
        return Err(too_large(name, "more than that"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error
            .as_bytes()
            .get(..error.utf8_error().valid_up_to())
            .unwrap_or_default();
        let before = String::from_utf8_lossy(valid);
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            + 1;
        Problem {
            source: name.to_owned(),
            position: Position { line, column },
            path: String::new(),
            message: "not valid UTF-8; a manifest is text in YAML or JSON".to_owned(),
        }
    })
}

fn too_large(name: &str, size: &str) -> Problem {
    Problem {
        source: name.to_owned(),
        position: Position::START,
        path: String::new(),
        message: format!(
            "larger than {} MiB ({size}); a manifest this size is not applied, split it",
            MAX_BYTES / 1_048_576
        ),
    }
}

fn mib(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) / 1_048_576;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

async fn fetch(url: &str, context: &Context) -> Result<Input, Failure> {
    let mut last = Error::Url {
        url: url.to_owned(),
    }
    .into();
    for attempt in 1..=URL_TRIES {
        match follow(url, context).await {
            Ok(bytes) => {
                return Ok(Input {
                    name: url.to_owned(),
                    text: text(url, bytes),
                });
            }
            Err(Fetch::Final(failure)) => return Err(failure),
            Err(Fetch::Again(failure)) => last = failure,
        }
        if attempt < URL_TRIES {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    Err(last)
}

enum Fetch {
    /// Trying again may help.
    Again(Failure),
    /// It will not.
    Final(Failure),
}

async fn follow(url: &str, context: &Context) -> Result<Vec<u8>, Fetch> {
    let mut current = url::Url::parse(url).map_err(|error| Fetch::Final(bad_url(url, error)))?;
    for _ in 0..=MAX_REDIRECTS {
        let response = get(&current, context).await?;
        let status = response.status();
        if status.is_redirection() {
            let target = response
                .headers()
                .get(http::header::LOCATION)
                .and_then(|value| value.to_str().ok());
            let target =
                target.ok_or_else(|| Fetch::Final(not_served(url, &status.to_string())))?;
            current = current
                .join(target)
                .map_err(|error| Fetch::Final(bad_url(target, error)))?;
            continue;
        }
        if !status.is_success() {
            let failure = not_served(url, &status.to_string());
            return Err(if status.is_server_error() {
                Fetch::Again(failure)
            } else {
                Fetch::Final(failure)
            });
        }
        return body(url, response.into_body()).await;
    }
    Err(Fetch::Final(not_served(url, "too many redirects")))
}

/// One request, without any credentials: a manifest's server is not the API server.
async fn get(url: &url::Url, context: &Context) -> Result<http::Response<Body>, Fetch> {
    let fail = |reason: String| Fetch::Again(not_served(url.as_str(), &reason));
    let origin: http::Uri = url
        .origin()
        .ascii_serialization()
        .parse()
        .map_err(|_| fail("the URL cannot be used".to_owned()))?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = kube::Config::new(origin.clone());
    config.default_retry = false;
    config.proxy_url =
        proxy::resolve(&origin, None, &context.environment).and_then(|proxy| proxy.parse().ok());
    let client = ClientBuilder::try_from(config)
        .map_err(|error| fail(error.to_string()))?
        .build();
    let path = url.query().map_or_else(
        || url.path().to_owned(),
        |query| format!("{}?{query}", url.path()),
    );
    let request = http::Request::get(path)
        .body(Body::empty())
        .map_err(|error| fail(error.to_string()))?;
    let limit = context
        .connection
        .request_timeout
        .0
        .unwrap_or(Duration::from_secs(60));
    match tokio::time::timeout(limit, client.send(request)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(fail(error.to_string())),
        Err(_) => Err(fail(format!("no answer within {}s", limit.as_secs()))),
    }
}

async fn body(url: &str, mut body: Body) -> Result<Vec<u8>, Fetch> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Fetch::Again(not_served(url, &error.to_string())))?;
        if let Some(data) = frame.data_ref() {
            bytes.extend_from_slice(data);
        }
        if bytes.len() > MAX_BYTES {
            break;
        }
    }
    Ok(bytes)
}

fn not_served(url: &str, reason: &str) -> Failure {
    let (url, reason) = (url.to_owned(), reason.to_owned());
    Error::NotServed { url, reason }.into()
}

fn bad_url(url: &str, source: url::ParseError) -> Failure {
    let url = url.to_owned();
    Error::BadUrl { url, source }.into()
}

#[cfg(test)]
mod tests {
    use super::{bounded, files, text};

    #[test]
    fn a_directory_is_searched_by_suffix_and_only_as_deep_as_asked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        std::fs::create_dir(path.join("deep")).unwrap();
        for name in ["b.yaml", "a.json", "c.txt", "deep/d.yml"] {
            std::fs::write(path.join(name), "").unwrap();
        }
        let names = |recursive| -> Vec<String> {
            files(path, recursive)
                .unwrap()
                .iter()
                .map(|file| file.strip_prefix(path).unwrap().display().to_string())
                .collect()
        };
        assert_eq!(names(false), ["a.json", "b.yaml"]);
        assert_eq!(names(true), ["a.json", "b.yaml", "deep/d.yml"]);
    }

    #[test]
    fn too_much_is_refused_without_reading_it() {
        let input = bounded("f", std::io::repeat(b'a'), None).unwrap();
        assert!(
            input
                .text
                .unwrap_err()
                .to_string()
                .starts_with("f:1:1: larger than 8 MiB")
        );
        let input = bounded("f", std::io::empty(), Some(10_000_000)).unwrap();
        assert!(input.text.unwrap_err().to_string().contains("(9.5 MiB)"));
    }

    #[test]
    fn bytes_that_are_no_text_are_found_by_line_and_column() {
        let problem = text("f", b"ab\ncd\xff".to_vec()).unwrap_err();
        assert!(
            problem.to_string().starts_with("f:2:3: not valid UTF-8"),
            "{problem}"
        );
    }
}
