//! What is wrong or dangerous in the files: pickles, secrets, truncated or missing weights. May do no I/O.

use std::collections::BTreeSet;
use std::str::FromStr;

use serde::Serialize;

use crate::model::{safetensors, shards};
use crate::plan::{Contents, files};
use crate::source::File;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which kind of finding.
    pub kind: FindingKind,
    /// The file.
    pub path: String,
    /// Why it is one; never the secret itself.
    pub reason: String,
}

/// The kinds of findings, as `--deny` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A file that runs code when it is loaded.
    Pickle,
    /// A file that holds a token or key.
    Secrets,
    /// Weights that are shorter or longer than their header says.
    Truncated,
    /// Weights that an index names and that are not there.
    MissingShard,
}

/// The kinds of findings that make a build fail: `pickle,secrets`, `all`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deny(BTreeSet<FindingKind>);

/// A kind of finding that is not known.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no kind of finding; known are pickle, secrets, truncated, missing-shard and all")]
pub struct UnknownFinding(String);

const ALL: [FindingKind; 4] = [
    FindingKind::Pickle,
    FindingKind::Secrets,
    FindingKind::Truncated,
    FindingKind::MissingShard,
];

impl FindingKind {
    /// The name that `--deny` takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pickle => "pickle",
            Self::Secrets => "secrets",
            Self::Truncated => "truncated",
            Self::MissingShard => "missing-shard",
        }
    }
}

impl FromStr for Deny {
    type Err = UnknownFinding;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut kinds = BTreeSet::new();
        for name in text
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
        {
            if name == "all" {
                kinds.extend(ALL);
                continue;
            }
            let kind = ALL.into_iter().find(|kind| kind.name() == name);
            kinds.insert(kind.ok_or_else(|| UnknownFinding(name.to_owned()))?);
        }
        Ok(Self(kinds))
    }
}

impl Deny {
    /// The findings that are denied.
    #[must_use]
    pub fn denied<'a>(&self, findings: &'a [Finding]) -> Vec<&'a Finding> {
        findings
            .iter()
            .filter(|finding| self.0.contains(&finding.kind))
            .collect()
    }

    /// Adds what another denies.
    pub fn extend(&mut self, other: &Self) {
        self.0.extend(&other.0);
    }
}

/// Looks at names and at what was read of the files. Sorted by path, then kind.
pub(crate) fn scan(files: &[&File], contents: &Contents) -> Vec<Finding> {
    let mut findings: Vec<Finding> = files
        .iter()
        .flat_map(|file| {
            [
                pickle(file, contents),
                secret(file, contents),
                truncated(file, contents),
            ]
        })
        .flatten()
        .chain(
            shards::missing(files, contents)
                .into_iter()
                .map(|(index, shard)| Finding {
                    kind: FindingKind::MissingShard,
                    reason: format!("it names {shard}, which is not there"),
                    path: index,
                }),
        )
        .collect();
    findings.sort_by(|left, right| (&left.path, left.kind).cmp(&(&right.path, right.kind)));
    findings
}

fn pickle(file: &File, contents: &Contents) -> Option<Finding> {
    if !files::is_pickle_name(&file.path) {
        return None;
    }
    let beginning = contents.beginning(&file.path);
    let reason = match beginning.map(|bytes| &bytes[..]) {
        Some([b'P', b'K', 3, 4, ..]) => {
            "a zip as PyTorch writes it, with a pickle inside: loading it can run code"
        }
        Some([0x80, 2..=5, ..]) => "a pickle: loading it can run code",
        None => "named like a pickle: loading it can run code",
        Some(_) => return None,
    };
    Some(Finding {
        kind: FindingKind::Pickle,
        path: file.path.clone(),
        reason: reason.to_owned(),
    })
}

fn truncated(file: &File, contents: &Contents) -> Option<Finding> {
    if files::reading(&file.path) != files::Reading::Safetensors {
        return None;
    }
    let beginning = contents.beginning(&file.path)?;
    let reason = safetensors::size_mismatch(beginning, file.size)?;
    Some(Finding {
        kind: FindingKind::Truncated,
        path: file.path.clone(),
        reason,
    })
}

fn secret(file: &File, contents: &Contents) -> Option<Finding> {
    let finding = |reason: String| {
        Some(Finding {
            kind: FindingKind::Secrets,
            path: file.path.clone(),
            reason,
        })
    };
    if let Some(reason) = secret_name(files::file_name(&file.path)) {
        return finding(reason.to_owned());
    }
    if files::reading(&file.path) != files::Reading::Text {
        return None;
    }
    let bytes = contents.beginning(&file.path)?;
    let (line, what) = secret_in(bytes)?;
    finding(format!("line {line} looks like {what}"))
}

/// Names of files that hold secrets and nothing else.
fn secret_name(name: &str) -> Option<&'static str> {
    let lower = name.to_lowercase();
    match lower.as_str() {
        ".env" | ".netrc" | ".npmrc" | ".pypirc" | ".git-credentials" | ".dockerconfigjson" => {
            Some("files of this name hold credentials")
        }
        "id_rsa" | "id_ed25519" | "id_ecdsa" | "id_dsa" => {
            Some("files of this name hold private keys")
        }
        ".env.example" | ".env.sample" | ".env.template" => None,
        _ if lower.starts_with(".env.") => Some("files of this name hold credentials"),
        _ => None,
    }
}

/// A shape that tokens of one issuer have: a prefix, and how many characters of a set follow.
struct TokenShape {
    prefix: &'static str,
    length: usize,
    what: &'static str,
}

const TOKENS: [TokenShape; 14] = [
    TokenShape {
        prefix: "hf_",
        length: 34,
        what: "a Hugging Face token",
    },
    TokenShape {
        prefix: "ghp_",
        length: 36,
        what: "a GitHub token",
    },
    TokenShape {
        prefix: "gho_",
        length: 36,
        what: "a GitHub token",
    },
    TokenShape {
        prefix: "ghs_",
        length: 36,
        what: "a GitHub token",
    },
    TokenShape {
        prefix: "github_pat_",
        length: 60,
        what: "a GitHub token",
    },
    TokenShape {
        prefix: "glpat-",
        length: 20,
        what: "a GitLab token",
    },
    TokenShape {
        prefix: "sk-ant-",
        length: 40,
        what: "an Anthropic key",
    },
    TokenShape {
        prefix: "sk-proj-",
        length: 40,
        what: "an OpenAI key",
    },
    TokenShape {
        prefix: "AKIA",
        length: 16,
        what: "an AWS key id",
    },
    TokenShape {
        prefix: "ASIA",
        length: 16,
        what: "an AWS key id",
    },
    TokenShape {
        prefix: "AIza",
        length: 35,
        what: "a Google API key",
    },
    TokenShape {
        prefix: "xoxb-",
        length: 40,
        what: "a Slack token",
    },
    TokenShape {
        prefix: "AccountKey=",
        length: 80,
        what: "an Azure storage key",
    },
    TokenShape {
        prefix: "npm_",
        length: 36,
        what: "an npm token",
    },
];

/// The first line, from 1, that holds a secret, and what it looks like.
fn secret_in(bytes: &[u8]) -> Option<(usize, &'static str)> {
    let text = String::from_utf8_lossy(bytes);
    text.lines().enumerate().find_map(|(at, line)| {
        let found = private_key(line).or_else(|| TOKENS.iter().find_map(|token| token.find(line)));
        found.map(|what| (at + 1, what))
    })
}

fn private_key(line: &str) -> Option<&'static str> {
    let (_, rest) = line.split_once("-----BEGIN ")?;
    let (name, _) = rest.split_once("-----")?;
    name.ends_with("PRIVATE KEY").then_some("a private key")
}

impl TokenShape {
    /// Finds the shape where it is a word of its own, with letters and digits both: words and paths have no such mix.
    fn find(&self, line: &str) -> Option<&'static str> {
        line.match_indices(self.prefix).find_map(|(at, _)| {
            let before = line.get(..at)?.chars().next_back();
            let body = line.get(at + self.prefix.len()..)?;
            let body: &str = body
                .split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+' | '/')))
                .next()?;
            let alone = before.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_');
            let mixed = body.contains(|c: char| c.is_ascii_digit())
                && body.contains(|c: char| c.is_ascii_alphabetic());
            let varied = body.chars().collect::<BTreeSet<_>>().len() >= 8;
            (alone && mixed && varied && body.len() >= self.length).then_some(self.what)
        })
    }
}

#[cfg(test)]
mod tests;
