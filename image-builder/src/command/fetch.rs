//! `fetch`: the files of a source that is no image come to a directory: data sets by address, models from the hub.
//!
//! A file gets its name when it is whole; one that is there with the size that the source tells is left alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt as _;
use tokio::fs;
use tokio::io::AsyncWriteExt as _;

use super::Context;
use super::failure::{Exit, Failure};
use super::flags::{ProgressFlags, RegistryFlags, SourceFlags};
use super::open;
use crate::digest::Hasher;
use crate::progress::{Event, Outcome, Phase, Progress};
use crate::source::local::Links;
use crate::source::{File, Source};

/// Flags of `fetch`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory for the files
    #[arg(short = 'o', long, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// hf://ORG/MODEL[@REVISION], azblob://ACCOUNT/CONTAINER[/PREFIX] or https://…; several are fetched one by one
    #[arg(value_name = "SOURCE", required = true)]
    pub(crate) sources: Vec<String>,
    /// Refuse to fetch more than this many bytes in all
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_bytes: Option<u64>,
    /// Where files come from.
    #[command(flatten)]
    pub(crate) files: SourceFlags,
    /// How registries are reached.
    #[command(flatten)]
    pub(crate) registry: RegistryFlags,
    /// What is told.
    #[command(flatten)]
    pub(crate) progress: ProgressFlags,
}

/// Fetches.
pub(crate) async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let mut found: Vec<(Arc<dyn Source>, File)> = Vec::new();
    for text in &args.sources {
        let source = open::source(text, Links::Follow, &args.files, &args.registry, context)?;
        let tree = source.list().await?;
        found.extend(
            tree.files
                .into_iter()
                .map(|file| (Arc::clone(&source), file)),
        );
    }
    let planned = distinct(&found)?;
    let total: u64 = planned.iter().map(|(_, size)| size).sum();
    if let Some(most) = args.max_bytes.filter(|most| total > *most) {
        let text = format!("the sources have {total} bytes, and --max-bytes allows {most}");
        return Err(Failure::message(text).with_exit(Exit::Source));
    }
    let shown = args.progress.show(context);
    shown.progress.event(Event::Planned { blobs: planned });
    for (blob, (source, file)) in found.iter().enumerate() {
        one(
            source.as_ref(),
            file,
            &args.output,
            blob,
            shown.progress.as_ref(),
        )
        .await?;
    }
    drop(shown);
    let text = format!(
        "{} files, {total} bytes in {}",
        found.len(),
        args.output.display()
    );
    args.progress.note(context, &text);
    Ok(Exit::Success)
}

/// Names and sizes; two sources with a file of the same name would overwrite each other.
fn distinct(found: &[(Arc<dyn Source>, File)]) -> Result<Vec<(String, u64)>, Failure> {
    let mut names = std::collections::BTreeSet::new();
    for (_, file) in found {
        if !names.insert(&file.path) {
            let text = format!("two of the sources have a file {}", file.path);
            return Err(Failure::message(text).with_exit(Exit::Source));
        }
    }
    Ok(found
        .iter()
        .map(|(_, file)| (file.path.clone(), file.size))
        .collect())
}

async fn one(
    source: &dyn Source,
    file: &File,
    directory: &Path,
    blob: usize,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let target = directory.join(&file.path);
    if fs::metadata(&target)
        .await
        .is_ok_and(|there| there.len() == file.size)
    {
        let outcome = Outcome::Present;
        progress.event(Event::Finished {
            blob,
            outcome,
            digest: file.known_digest,
        });
        return Ok(());
    }
    progress.event(Event::Started {
        blob,
        phase: Phase::Download,
    });
    let folder = target.parent().unwrap_or(directory);
    fs::create_dir_all(folder)
        .await
        .map_err(|error| unwritable(folder, &error))?;
    let mut part = target.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let digest = copy(source, file, &part, blob, progress).await?;
    fs::rename(&part, &target)
        .await
        .map_err(|error| unwritable(&target, &error))?;
    let outcome = Outcome::Moved;
    progress.event(Event::Finished {
        blob,
        outcome,
        digest: Some(digest),
    });
    Ok(())
}

async fn copy(
    source: &dyn Source,
    file: &File,
    part: &Path,
    blob: usize,
    progress: &dyn Progress,
) -> Result<crate::digest::Digest, Failure> {
    let failed = |error: std::io::Error| unwritable(part, &error);
    let mut out = fs::File::create(part).await.map_err(failed)?;
    let mut bytes = source.read(&file.path, 0..file.size).await?;
    let mut hasher = Hasher::default();
    while let Some(chunk) = bytes.try_next().await? {
        hasher.update(&chunk);
        out.write_all(&chunk).await.map_err(failed)?;
        progress.event(Event::Advanced {
            blob,
            bytes: chunk.len() as u64,
        });
    }
    out.sync_all().await.map_err(failed)?;
    let digest = hasher.finish();
    match file.known_digest {
        Some(known) if known != digest => {
            let text = format!("{} has digest {digest}, the source says {known}", file.path);
            Err(Failure::message(text).with_exit(Exit::Source))
        }
        _ => Ok(digest),
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::message(format!("cannot write {}: {error}", path.display()))
}
