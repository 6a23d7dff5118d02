//! `build`: from SOURCE to an image in a registry, an OCI layout or a tar; `kubectl kaito build-image` runs this too.

use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;

use serde_json::Value;

use super::build_flags::Args;
use super::failure::Failure;
use super::interrupt::{Counted, interrupted};
use super::prepare::{Inputs, Prepared, prepare};
use super::target::{self, OutputTarget, default_directory, write_tar};
use super::workspace::{Use, object_name, workspace};
use super::{Context, attach, plan, summary};
use crate::attest::Facts;
use crate::layout::Layout;
use crate::oci::media_type;
use crate::plan::Kind;
use crate::progress::{Event, Progress};
use crate::push::{self, CacheUse, Destination, Origin, PushOptions, Pushed};
use crate::registry::{DEFAULT_TAG, Reference, Repository};

/// What came of a build.
#[derive(Clone, Debug)]
pub struct Built {
    /// The image by digest, where it is in a registry.
    pub image: Option<Reference>,
    /// The Workspace that uses it, where there is one.
    pub workspace: Option<Value>,
}

/// Builds. Ctrl-C and SIGTERM leave what is finished at the destination, and say so.
///
/// # Errors
/// Whatever keeps the result from being there, with the exit code of its class.
pub async fn run(args: &Args, context: &Context) -> Result<Built, Failure> {
    let counted = Arc::new(Counted::new(args.progress.show(context)));
    let work = Box::pin(build(args, context, &counted));
    tokio::select! {
        result = work => result,
        () = interrupted() => Err(counted.interruption()),
    }
}

async fn build(args: &Args, context: &Context, counted: &Arc<Counted>) -> Result<Built, Failure> {
    let references: Vec<Reference> = args
        .tags
        .iter()
        .map(|text| Reference::from_str(text))
        .collect::<Result<_, _>>()?;
    let target = target::of(args, references.first())?;
    if target == OutputTarget::Registry {
        references.iter().try_for_each(target::refuse_mcr)?;
    }
    let source = args.source.as_deref().unwrap_or_default();
    let inputs = Inputs {
        source,
        files: &args.files,
        shape: &args.shape,
        registry: &args.registry,
    };
    let prepared = prepare(&inputs, context).await?;
    for note in &prepared.plan.notes {
        counted.event(Event::Note(note.clone()));
    }
    for finding in &prepared.plan.findings {
        let text = format!(
            "warning: {}: {}: {}",
            finding.kind.name(),
            finding.path,
            finding.reason
        );
        counted.event(Event::Note(text));
    }
    let work = Work {
        args,
        context,
        counted,
        prepared: &prepared,
        references: &references,
    };
    match target {
        OutputTarget::Registry => work.to_registry().await,
        _ if args.dry_run => work.show_plan(None).await,
        OutputTarget::Oci(directory) => {
            let directory = directory.unwrap_or_else(|| default_directory(&references, source));
            work.to_layout(&directory).await
        }
        OutputTarget::Tar(file) => work.to_tar(&file).await,
    }
}

struct Work<'a> {
    args: &'a Args,
    context: &'a Context,
    counted: &'a Arc<Counted>,
    prepared: &'a Prepared,
    references: &'a [Reference],
}

impl Work<'_> {
    async fn to_registry(&self) -> Result<Built, Failure> {
        let client = self.args.registry.client(self.context)?;
        let first = self
            .references
            .first()
            .ok_or_else(|| Failure::message("--push needs -t"))?;
        let repository = client.repository(first)?;
        let destination = Destination::Repository(repository.clone());
        if self.args.dry_run {
            return self.show_plan(Some(&destination)).await;
        }
        let pushed = self.push(&destination, self.tags_in(first)).await?;
        self.copy_to_others(first, &repository, &pushed, &client)
            .await?;
        self.attach(&repository, &pushed).await?;
        let image = first.with_digest(pushed.top.digest);
        let name = format!("{}@{}", tagged(first), pushed.top.digest);
        self.finish(&pushed, &name, Some(image)).await
    }

    async fn to_layout(&self, directory: &Path) -> Result<Built, Failure> {
        let layout = Layout::create(directory).await?;
        let tags = self.layout_tags();
        let pushed = self.push(&Destination::Layout(layout), tags).await?;
        let name = format!("{}@{}", directory.display(), pushed.top.digest);
        self.finish(&pushed, &name, None).await
    }

    /// The layout is made in a directory beside the file, which is removed afterwards.
    async fn to_tar(&self, file: &Path) -> Result<Built, Failure> {
        let mut partial = file.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let layout = Layout::create(&partial).await?;
        let tags = self.layout_tags();
        let pushed = self
            .push(&Destination::Layout(layout.clone()), tags)
            .await?;
        write_tar(&layout, file).await?;
        tokio::fs::remove_dir_all(&partial).await?;
        let name = format!("{}@{}", file.display(), pushed.top.digest);
        self.finish(&pushed, &name, None).await
    }

    async fn push(&self, destination: &Destination, tags: Vec<String>) -> Result<Pushed, Failure> {
        let options = self.options(tags);
        let progress: Arc<dyn Progress> = self.counted.clone();
        let pushed = push::push(
            &self.prepared.plan,
            self.prepared.source.clone(),
            destination,
            &options,
            progress,
        );
        Ok(pushed.await?)
    }

    fn options(&self, tags: Vec<String>) -> PushOptions {
        PushOptions {
            streams: self.args.concurrency.max(1),
            tags,
            mount_from: self.args.mount_from.clone(),
            base: self.prepared.base.clone(),
            cache: self
                .args
                .cache
                .open(self.context.output.as_ref(), self.context),
            digests: if self.args.cache.no_digest_cache {
                CacheUse::Ignore
            } else {
                CacheUse::Believe
            },
            form: None,
        }
    }

    /// Tags for the repository of `first`.
    fn tags_in(&self, first: &Reference) -> Vec<String> {
        self.references
            .iter()
            .filter(|other| same_repository(first, other))
            .map(|other| other.tag().unwrap_or(DEFAULT_TAG).to_owned())
            .collect()
    }

    fn layout_tags(&self) -> Vec<String> {
        self.references
            .iter()
            .map(|reference| reference.tag().unwrap_or(DEFAULT_TAG).to_owned())
            .collect()
    }

    /// The same image in the other repositories that were named.
    async fn copy_to_others(
        &self,
        first: &Reference,
        repository: &Repository,
        pushed: &Pushed,
        client: &crate::registry::Client,
    ) -> Result<(), Failure> {
        let origin = Origin::Repository(repository.clone());
        let selector = pushed.top.digest.to_string();
        for other in self
            .references
            .iter()
            .filter(|other| !same_repository(first, other))
        {
            let destination = Destination::Repository(client.repository(other)?);
            let tags = vec![other.tag().unwrap_or(DEFAULT_TAG).to_owned()];
            let options = self.options(tags);
            let progress: Arc<dyn Progress> = self.counted.clone();
            push::copy(&origin, &selector, &destination, &options, progress).await?;
        }
        Ok(())
    }

    async fn attach(&self, repository: &Repository, pushed: &Pushed) -> Result<(), Failure> {
        let facts = self.facts(repository.name(), pushed);
        attach::attach_all(
            repository,
            &pushed.top,
            &facts,
            &self.args.attest,
            self.args.sign_key.as_deref(),
            self.context,
        )
        .await
    }

    fn facts(&self, repository: &str, pushed: &Pushed) -> Facts {
        let description = &self.prepared.plan.description;
        let materials = pushed.blobs.iter().map(|blob| crate::attest::Material {
            path: blob.name.clone(),
            size: blob.made.descriptor.size,
            digest: blob.made.content_digest,
        });
        Facts {
            name: self
                .args
                .shape
                .model_name
                .clone()
                .or_else(|| self.model())
                .unwrap_or_else(|| repository.to_owned()),
            repository: repository.to_owned(),
            source: self
                .prepared
                .url
                .clone()
                .unwrap_or_else(|| "local files".to_owned()),
            revision: self.prepared.revision.clone(),
            artifact: format!("{:?}", self.args.shape.artifact).to_lowercase(),
            licenses: description.licenses.clone(),
            architecture: description.architecture.clone(),
            format: description.format.clone(),
            parameters: description.parameters.map(|count| count.to_string()),
            precision: description.precision.clone(),
            quantization: description.quantization.clone(),
            base_model: description
                .adapter
                .as_ref()
                .and_then(|adapter| adapter.base_model.clone()),
            materials: materials.collect(),
        }
    }

    /// `org/model` or a preset, where known.
    fn model(&self) -> Option<String> {
        if let Some(preset) = &self.args.shape.preset {
            return Some(preset.clone());
        }
        let adapter = self.prepared.plan.description.adapter.as_ref();
        if self.prepared.kind == Kind::Adapter {
            let given = self.args.shape.base_model.as_deref();
            let given = given
                .and_then(|text| text.split('@').next())
                .map(str::to_owned);
            return given.or_else(|| adapter?.base_model.clone());
        }
        let url = self.prepared.url.as_deref()?;
        let path = url.split_once("://")?.1.split_once('/')?.1;
        (path.split('/').count() == 2).then(|| path.to_owned())
    }

    async fn show_plan(&self, destination: Option<&Destination>) -> Result<Built, Failure> {
        let forecast = match destination {
            Some(destination) => {
                let options = self.options(Vec::new());
                let source = self.prepared.source.as_ref();
                Some(push::forecast(&self.prepared.plan, source, destination, &options).await?)
            }
            None => None,
        };
        for line in plan::text(&self.prepared.plan.summary(), forecast.as_deref()) {
            self.context.output.data(&line)?;
        }
        Ok(Built {
            image: None,
            workspace: None,
        })
    }

    /// Files, the table, the snippets, and last the result.
    async fn finish(
        &self,
        pushed: &Pushed,
        name: &str,
        image: Option<Reference>,
    ) -> Result<Built, Failure> {
        self.counted.end();
        let digest = pushed.top.digest.to_string();
        if let Some(path) = &self.args.digest_file {
            write_file(path, &digest).await?;
        }
        if let Some(path) = &self.args.iidfile {
            let config = pushed
                .documents
                .iter()
                .find(|document| document.media_type == media_type::IMAGE_CONFIG);
            let identity =
                config.map_or_else(|| digest.clone(), |config| config.digest.to_string());
            write_file(path, &identity).await?;
        }
        for line in summary::table(pushed, name) {
            self.args.progress.note(self.context, &line);
        }
        let model = self.model();
        let workspace = image.as_ref().and_then(|image| {
            let using = Use {
                image,
                kind: self.prepared.kind,
                model: model.as_deref(),
            };
            workspace(&using, &object_name(image))
        });
        if let (Some(path), Some(object)) = (&self.args.workspace_file, &workspace) {
            write_file(path, &format!("{}\n", super::workspace::yaml(object))).await?;
        }
        if let Some(image) = &image {
            let bytes = pushed
                .blobs
                .iter()
                .map(|blob| blob.made.descriptor.size)
                .sum();
            summary::usage(
                image,
                self.prepared.kind,
                model.as_deref(),
                bytes,
                &self.args.progress,
                self.context,
            );
        }
        self.context.output.data(if self.args.progress.quiet {
            &digest
        } else {
            name
        })?;
        Ok(Built { image, workspace })
    }
}

fn same_repository(left: &Reference, right: &Reference) -> bool {
    (left.host(), left.repository()) == (right.host(), right.repository())
}

/// `HOST/REPOSITORY:TAG`.
fn tagged(reference: &Reference) -> String {
    format!(
        "{}/{}:{}",
        reference.host(),
        reference.repository(),
        reference.tag().unwrap_or(DEFAULT_TAG)
    )
}

async fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    tokio::fs::write(path, text)
        .await
        .map_err(|error| Failure::message(format!("cannot write {}: {error}", path.display())))
}
