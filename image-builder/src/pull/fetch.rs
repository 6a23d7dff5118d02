//! All layers of a manifest into a directory: what is there is skipped, what is missing fetched, what is whole put in place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt as _, TryStreamExt as _};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::error::{PullError, free_space};
use super::extract::{self, Staged};
use super::files;
use super::partial;
use super::resolve::{Layer, Selected, layers};
use super::{PullOptions, Pulled, PulledFile};
use crate::archive::Whiteouts;
use crate::content::Encoding;
use crate::digest::Digest;
use crate::oci::{Descriptor, media_type};
use crate::progress::{Event, Outcome, Phase, Progress};
use crate::push::Origin;

/// Where files are until they are whole, below the directory that is pulled to. Removed when it is empty.
const WORK: &str = ".image-builder";

/// What all blobs of a pull share.
pub(super) struct Context<'a> {
    pub(super) origin: &'a Origin,
    pub(super) directory: &'a Path,
    pub(super) work: PathBuf,
    pub(super) options: &'a PullOptions,
    pub(super) progress: Arc<dyn Progress>,
    pub(super) include: Option<GlobSet>,
    pub(super) whiteouts: Whiteouts,
    /// Ranges of one blob that are fetched at once.
    pub(super) ranges: usize,
    pub(super) received: Arc<AtomicU64>,
}

/// One blob to fetch.
struct Task {
    index: usize,
    name: String,
    descriptor: Descriptor,
    goal: Goal,
}

enum Goal {
    /// The blob as it is, under each of these paths.
    Files(Vec<String>),
    /// What is in the archive.
    Extract(Encoding),
}

/// What became of one blob.
enum Fetched {
    Files(Vec<PulledFile>),
    Staged(Staged),
}

pub(super) async fn all(
    origin: &Origin,
    selected: &Selected,
    directory: &Path,
    options: &PullOptions,
    progress: Arc<dyn Progress>,
) -> Result<Pulled, PullError> {
    let include = globs(&options.include)?;
    let tasks = tasks(layers(selected)?, include.as_ref());
    let work = directory.join(WORK);
    files::create_directory(&work)?;
    let is_image = selected.manifest.config.media_type == media_type::IMAGE_CONFIG;
    let context = Context {
        origin,
        directory,
        work,
        options,
        include,
        whiteouts: if is_image {
            Whiteouts::Refuse
        } else {
            Whiteouts::Keep
        },
        ranges: (options.streams / tasks.len().clamp(1, options.streams.max(1))).max(1),
        received: Arc::default(),
        progress,
    };
    context.check_space(&tasks)?;
    context.announce(&tasks);
    let files = context.fetch_all(tasks).await?;
    // Not empty while another pull works here, or where this one left something to go on with.
    let _ = std::fs::remove_dir(&context.work);
    if files.is_empty() && !options.include.is_empty() {
        return Err(PullError::Include {
            glob: options.include.join(", "),
            reason: "no file matches".to_owned(),
        });
    }
    Ok(Pulled {
        manifest: selected.document.descriptor(),
        files,
        received: context.received.load(Ordering::Relaxed),
    })
}

impl Context<'_> {
    /// Blobs are fetched in parallel and put in place in the order of their layers: a later layer wins.
    async fn fetch_all(&self, tasks: Vec<Task>) -> Result<Vec<PulledFile>, PullError> {
        let mut files = BTreeMap::new();
        let mut fetched = futures::stream::iter(tasks)
            .map(|task| self.fetch(task))
            .buffered(self.options.streams.max(1));
        while let Some(layer) = fetched.try_next().await? {
            let placed = match layer {
                Fetched::Files(placed) => placed,
                Fetched::Staged(staged) => extract::put_in_place(self, staged)?,
            };
            files.extend(placed.into_iter().map(|file| (file.path.clone(), file)));
        }
        Ok(files.into_values().collect())
    }

    async fn fetch(&self, task: Task) -> Result<Fetched, PullError> {
        let Task {
            index,
            name,
            descriptor,
            goal,
        } = task;
        let (fetched, present) = match goal {
            Goal::Files(paths) => {
                let files = self.fetch_files(index, &name, &descriptor, &paths).await;
                let present = files
                    .as_ref()
                    .is_ok_and(|files| files.iter().all(|file| file.present));
                (files.map(Fetched::Files), present)
            }
            Goal::Extract(encoding) => {
                let staged = extract::stage(self, index, &name, &descriptor, encoding).await;
                let present = staged.as_ref().is_ok_and(Staged::is_present);
                (staged.map(Fetched::Staged), present)
            }
        };
        let (outcome, digest) = match (&fetched, present) {
            (Ok(_), true) => (Outcome::Present, Some(descriptor.digest)),
            (Ok(_), false) => (Outcome::Moved, Some(descriptor.digest)),
            (Err(_), _) => (Outcome::Failed, None),
        };
        self.progress.event(Event::Finished {
            blob: index,
            outcome,
            digest,
        });
        fetched
    }

    async fn fetch_files(
        &self,
        index: usize,
        name: &str,
        descriptor: &Descriptor,
        paths: &[String],
    ) -> Result<Vec<PulledFile>, PullError> {
        let mut found = None;
        let mut missing = Vec::new();
        for path in paths {
            files::check_parents(self.directory, path)?;
            let target = self.directory.join(path);
            self.started(index, Phase::Verify);
            if files::is_there(&target, descriptor, self.options.cache.as_ref()).await? {
                found = Some(target);
            } else {
                missing.push(path);
            }
        }
        let mut missing_files = missing.iter();
        if found.is_none()
            && let Some(path) = missing_files.next()
        {
            self.started(index, Phase::Download);
            let whole = partial::fetch(self, index, name, descriptor).await?;
            let target = self.directory.join(path);
            files::rename(&whole, &target)?;
            files::remember(&target, descriptor.digest, self.options.cache.as_ref());
            found = Some(target);
        }
        for path in missing_files {
            let target = self.directory.join(path);
            let Some(from) = &found else { break };
            files::copy(
                from,
                &self.work.join(format!("{}.copy", descriptor.digest.hex())),
                &target,
            )?;
            files::remember(&target, descriptor.digest, self.options.cache.as_ref());
        }
        Ok(paths
            .iter()
            .map(|path| PulledFile {
                path: PathBuf::from(path),
                size: descriptor.size,
                digest: Some(descriptor.digest),
                present: !missing.contains(&path),
            })
            .collect())
    }

    fn announce(&self, tasks: &[Task]) {
        let blobs = tasks
            .iter()
            .map(|task| (task.name.clone(), task.descriptor.size))
            .collect();
        self.progress.event(Event::Planned { blobs });
    }

    /// A pull that cannot end is better not begun. What is there already may need less: that is found out file by file.
    fn check_space(&self, tasks: &[Task]) -> Result<(), PullError> {
        let needed: u64 = tasks.iter().map(|task| self.needed(task)).sum();
        match free_space(&self.work) {
            Some(free) if free < needed => Err(PullError::DiskFull {
                path: self.directory.to_owned(),
                needed,
                free,
            }),
            _ => Ok(()),
        }
    }

    fn needed(&self, task: &Task) -> u64 {
        let size = task.descriptor.size;
        let there = match &task.goal {
            Goal::Files(paths) => paths
                .iter()
                .map(|path| self.directory.join(path))
                .chain([self.work.join(partial::name(task.descriptor.digest))])
                .filter_map(|path| std::fs::metadata(path).ok())
                .map(|metadata| metadata.len())
                .max()
                .unwrap_or_default(),
            // Whether an archive was extracted before is found out later; its files may be anywhere.
            Goal::Extract(_) => size,
        };
        size.saturating_sub(there)
    }

    pub(super) fn started(&self, blob: usize, phase: Phase) {
        self.progress.event(Event::Started { blob, phase });
    }

    pub(super) fn received(&self, blob: usize, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        self.progress.event(Event::Advanced { blob, bytes });
    }
}

/// Layers with equal content are fetched once. Files that are not wanted are left out.
fn tasks(layers: Vec<Layer>, include: Option<&GlobSet>) -> Vec<Task> {
    let mut tasks: Vec<Task> = Vec::new();
    let mut by_digest: BTreeMap<Digest, usize> = BTreeMap::new();
    for layer in layers {
        let (name, descriptor) = (layer.name(), layer.descriptor().clone());
        let index = tasks.len();
        match layer {
            Layer::Raw { path, .. } => {
                if include.is_some_and(|globs| !globs.is_match(&path)) {
                    continue;
                }
                let same = by_digest
                    .get(&descriptor.digest)
                    .and_then(|at| tasks.get_mut(*at));
                if let Some(Task {
                    goal: Goal::Files(paths),
                    ..
                }) = same
                {
                    paths.push(path);
                    continue;
                }
                by_digest.insert(descriptor.digest, index);
                tasks.push(Task {
                    index,
                    name,
                    descriptor,
                    goal: Goal::Files(vec![path]),
                });
            }
            Layer::Tar { encoding, .. } => {
                tasks.push(Task {
                    index,
                    name,
                    descriptor,
                    goal: Goal::Extract(encoding),
                });
            }
        }
    }
    tasks
}

fn globs(patterns: &[String]) -> Result<Option<GlobSet>, PullError> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let failed = |glob: &str, cause: globset::Error| PullError::Include {
        glob: glob.to_owned(),
        reason: cause.to_string(),
    };
    let mut builder = GlobSetBuilder::new();
    for pattern in patterns {
        // `*.json` means files in the top directory only; `**/*.json` means all.
        let glob = GlobBuilder::new(pattern)
            .literal_separator(true)
            .build()
            .map_err(|cause| failed(pattern, cause))?;
        builder.add(glob);
    }
    builder
        .build()
        .map(Some)
        .map_err(|cause| failed(&patterns.join(", "), cause))
}
