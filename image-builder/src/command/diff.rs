//! `diff`: which files differ between two images. Layers of one file are compared by digest, without reading them.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use serde_json::json;

use super::Context;
use super::failure::{Exit, Failure};
use super::flags::RegistryFlags;
use super::plan::Format;
use super::remote;
use crate::digest::Digest;
use crate::progress::Size;
use crate::pull::{self, Origin};
use crate::registry::Reference;

/// Flags of `diff`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The older image
    #[arg(value_name = "OLD")]
    pub(crate) old: String,
    /// The newer image
    #[arg(value_name = "NEW")]
    pub(crate) new: String,
    /// text or json
    #[arg(short = 'o', long, value_name = "FORMAT", value_enum, default_value_t = Format::Text, hide_possible_values = true)]
    pub(crate) output: Format,
    /// How registries are reached.
    #[command(flatten)]
    pub(crate) registry: RegistryFlags,
}

/// Files by path.
type Files = BTreeMap<String, (Digest, u64)>;

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    mark: char,
    path: String,
    old: u64,
    new: u64,
}

/// Compares; exit code 3 when there is a difference.
pub(crate) async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let (old, new) = (
        files(&args.old, args, context).await?,
        files(&args.new, args, context).await?,
    );
    let changes = changes(&old, &new);
    match args.output {
        Format::Json => {
            let list: Vec<_> = changes
                .iter()
                .map(|change| {
                    json!({
                        "path": change.path, "oldSize": change.old, "newSize": change.new,
                        "change": match change.mark { '+' => "added", '-' => "removed", _ => "changed" },
                    })
                })
                .collect();
            context.output.data(&serde_json::to_string_pretty(&list)?)?;
        }
        Format::Text => {
            for change in &changes {
                let sizes = match change.mark {
                    '+' => Size(change.new).to_string(),
                    '-' => Size(change.old).to_string(),
                    _ => format!("{} → {}", Size(change.old), Size(change.new)),
                };
                let path = super::failure::harmless(&change.path);
                context
                    .output
                    .data(&format!("{} {path}   {sizes}", change.mark))?;
            }
        }
    }
    Ok(if changes.is_empty() {
        Exit::Success
    } else {
        Exit::Negative
    })
}

async fn files(text: &str, args: &Args, context: &Context) -> Result<Files, Failure> {
    let reference = Reference::from_str(text)?;
    let repository = args.registry.client(context)?.repository(&reference)?;
    let origin = Origin::Repository(repository.clone());
    let selected = pull::select(&origin, &reference.selector(), None).await?;
    remote::files(&repository, &selected.manifest).await
}

fn changes(old: &Files, new: &Files) -> Vec<Change> {
    let paths: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    paths
        .into_iter()
        .filter_map(|path| {
            let (before, after) = (old.get(path), new.get(path));
            let mark = match (before, after) {
                (Some(before), Some(after)) if before.0 == after.0 => return None,
                (Some(_), Some(_)) => '~',
                (None, _) => '+',
                (_, None) => '-',
            };
            Some(Change {
                mark,
                path: path.clone(),
                old: before.map_or(0, |file| file.1),
                new: after.map_or(0, |file| file.1),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Files, changes};
    use crate::digest::Digest;

    #[test]
    fn files_that_came_went_or_changed_are_told_in_order() {
        let files = |list: &[(&str, &str)]| -> Files {
            list.iter()
                .map(|(path, content)| {
                    let digest = Digest::of(content.as_bytes());
                    ((*path).to_owned(), (digest, content.len() as u64))
                })
                .collect()
        };
        let old = files(&[("a", "1"), ("b", "1"), ("c", "1")]);
        let new = files(&[("a", "1"), ("b", "22"), ("d", "1")]);
        let marks: String = changes(&old, &new)
            .iter()
            .map(|change| format!("{}{}", change.mark, change.path))
            .collect();
        assert_eq!(marks, "~b-c+d");
    }
}
