//! Names of images as people write them: `HOST/REPOSITORY[:TAG][@DIGEST]`. May do no I/O.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// Docker Hub's name in references.
const DOCKER_HUB: &str = "docker.io";
/// The host that serves Docker Hub's registry protocol.
const DOCKER_HUB_API: &str = "registry-1.docker.io";
/// The tag that is meant when neither tag nor digest is given.
pub const DEFAULT_TAG: &str = "latest";

/// A parsed name of an image.
///
/// ```
/// use image_builder::registry::Reference;
/// let reference: Reference = "localhost:5000/models/phi:v1".parse()?;
/// assert_eq!(reference.host(), "localhost:5000");
/// assert_eq!(reference.repository(), "models/phi");
/// assert_eq!(reference.tag(), Some("v1"));
/// # Ok::<(), image_builder::registry::ReferenceError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not the name of an image.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The repository is missing or has a character that registries refuse.
    #[error(
        "`{text}` names no repository: `{repository}` must be lower-case letters and digits, with `.`, `_`, `-` and `/` \
         between them (HOST/REPOSITORY[:TAG][@sha256:…])"
    )]
    Repository {
        /// What was given.
        text: String,
        /// The part that is wrong.
        repository: String,
    },
    /// The tag has a character that registries refuse, or is too long.
    #[error(
        "`{text}` has the tag `{tag}`: a tag is up to 128 letters, digits, `_`, `.` and `-` and begins with neither `.` \
         nor `-`"
    )]
    Tag {
        /// What was given.
        text: String,
        /// The part that is wrong.
        tag: String,
    },
    /// The host has a character that no host has.
    #[error("`{text}` begins with `{host}`, which is no host name")]
    Host {
        /// What was given.
        text: String,
        /// The part that is wrong.
        host: String,
    },
    /// The part after `@` is no digest.
    #[error("`{text}` does not end in a digest: {cause}")]
    Digest {
        /// What was given.
        text: String,
        /// What is wrong with it.
        #[source]
        cause: crate::digest::DigestError,
    },
}

impl Reference {
    /// The registry's host as written, with its port where one was given; `docker.io` for Docker Hub.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host that answers the registry protocol; differs from [`host`](Self::host) for Docker Hub only.
    #[must_use]
    pub fn api_host(&self) -> &str {
        api_host(&self.host)
    }

    /// The repository, `library/` included for Docker Hub's own.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag as given; `None` with a digest alone, or where nothing was given (see [`selector`](Self::selector)).
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest as given.
    #[must_use]
    pub const fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What to ask the registry for: the digest, else the tag, else `latest`.
    #[must_use]
    pub fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// The same repository with another tag and no digest.
    ///
    /// # Errors
    /// [`ReferenceError::Tag`] when `tag` is none.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Tag {
                text: self.to_string(),
                tag: tag.to_owned(),
            });
        }
        Ok(Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// The same repository by digest, without a tag: what image volumes and Workspaces should name.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// Another repository of the same registry.
    ///
    /// # Errors
    /// [`ReferenceError::Repository`] when `repository` is no name.
    pub fn with_repository(&self, repository: &str) -> Result<Self, ReferenceError> {
        if !is_repository(repository) {
            return Err(ReferenceError::Repository {
                text: self.to_string(),
                repository: repository.to_owned(),
            });
        }
        Ok(Self {
            host: self.host.clone(),
            repository: repository.to_owned(),
            tag: None,
            digest: None,
        })
    }
}

/// The host that answers the registry protocol for a host as people write it.
#[must_use]
pub fn api_host(host: &str) -> &str {
    if host == DOCKER_HUB {
        DOCKER_HUB_API
    } else {
        host
    }
}

/// Whether a host (with or without port) is this machine: such registries speak plain HTTP unless told otherwise.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost"
        || name.ends_with(".localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = text
            .strip_prefix("docker://")
            .or_else(|| text.strip_prefix("oci://"))
            .unwrap_or(text);
        let (named, digest) = match bare.split_once('@') {
            Some((named, digest)) => {
                let digest = digest.parse().map_err(|cause| ReferenceError::Digest {
                    text: text.to_owned(),
                    cause,
                })?;
                (named, Some(digest))
            }
            None => (bare, None),
        };
        let (host, path) = split_host(named);
        let (repository, tag) = split_tag(path);
        if !is_host(host) {
            return Err(ReferenceError::Host {
                text: text.to_owned(),
                host: host.to_owned(),
            });
        }
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag {
                text: text.to_owned(),
                tag: tag.to_owned(),
            });
        }
        if !is_repository(repository) {
            return Err(ReferenceError::Repository {
                text: text.to_owned(),
                repository: repository.to_owned(),
            });
        }
        let official = host == DOCKER_HUB && !repository.contains('/');
        Ok(Self {
            host: host.to_owned(),
            repository: if official {
                format!("library/{repository}")
            } else {
                repository.to_owned()
            },
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(formatter, "@{digest}")?;
        }
        Ok(())
    }
}

/// Docker's rule: the first name is a host when it looks like one, else everything is on Docker Hub.
fn split_host(named: &str) -> (&str, &str) {
    match named.split_once('/') {
        Some(("index.docker.io" | "registry-1.docker.io", path)) => (DOCKER_HUB, path),
        Some((first, path))
            if first.contains(['.', ':']) || first == "localhost" || first.starts_with('[') =>
        {
            (first, path)
        }
        _ => (DOCKER_HUB, named),
    }
}

fn split_tag(path: &str) -> (&str, Option<&str>) {
    match path.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (path, None),
    }
}

fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte))
}

fn is_tag(tag: &str) -> bool {
    let mut bytes = tag.bytes();
    let first = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    first
        && tag.len() <= 128
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn is_repository(repository: &str) -> bool {
    repository.len() <= 255 && repository.split('/').all(is_component)
}

/// Lower-case alphanumeric runs, separated by one `.`, one or two `_`, or any number of `-`.
fn is_component(component: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let separators = component.split(|character: char| u8::try_from(character).is_ok_and(word));
    component.bytes().next().is_some_and(word)
        && component.bytes().last().is_some_and(word)
        && separators
            .filter(|separator| !separator.is_empty())
            .all(|separator| {
                matches!(separator, "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-')
            })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    fn parse(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_without_host_is_on_docker_hub_and_one_word_is_official() {
        let reference = parse("phi:v1");
        assert_eq!(reference.host(), "docker.io");
        assert_eq!(reference.api_host(), "registry-1.docker.io");
        assert_eq!(reference.repository(), "library/phi");
        assert_eq!(parse("me/phi").repository(), "me/phi");
        assert_eq!(parse("me/phi").selector(), "latest");
    }

    #[test]
    fn ports_tags_and_digests_are_told_apart() {
        let reference = parse("localhost:5000/a/b");
        assert_eq!(
            (reference.host(), reference.tag()),
            ("localhost:5000", None)
        );
        let reference = parse(&format!("[::1]:5000/a:t@{DIGEST}"));
        assert_eq!(
            (reference.host(), reference.tag()),
            ("[::1]:5000", Some("t"))
        );
        assert_eq!(reference.selector(), DIGEST);
        assert_eq!(reference.to_string(), format!("[::1]:5000/a:t@{DIGEST}"));
        assert_eq!(
            reference.with_tag("x").unwrap().to_string(),
            "[::1]:5000/a:x"
        );
    }

    #[test]
    fn what_registries_refuse_is_refused_with_the_reason() {
        assert!(matches!(
            "r.io/Upper".parse::<Reference>(),
            Err(ReferenceError::Repository { .. })
        ));
        assert!(matches!(
            "r.io/a//b".parse::<Reference>(),
            Err(ReferenceError::Repository { .. })
        ));
        assert!(matches!(
            "r.io/a___b".parse::<Reference>(),
            Err(ReferenceError::Repository { .. })
        ));
        assert!(matches!(
            "r.io/".parse::<Reference>(),
            Err(ReferenceError::Repository { .. })
        ));
        assert!(matches!(
            "r.io/a:-x".parse::<Reference>(),
            Err(ReferenceError::Tag { .. })
        ));
        assert!(matches!(
            "r.io/a@sha256:00".parse::<Reference>(),
            Err(ReferenceError::Digest { .. })
        ));
        assert!(parse("r.io/a__b/c--d/e.f").tag().is_none());
    }

    #[test]
    fn only_this_machine_is_spoken_to_in_plain_http() {
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:1",
            "[::1]:5000",
            "r.localhost:80",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["r.io", "10.0.0.1:5000", "localhost.evil.io", "127.evil.io"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
