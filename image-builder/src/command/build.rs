//! `build`: from SOURCE to an image in a registry, an OCI layout or a tar; `kubectl kaito build-image` runs this too.

use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};

use clap::ValueEnum;
use futures::StreamExt as _;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use super::failure::{Exit, Failure};
use super::flags::{CacheFlags, ProgressFlags, RegistryFlags, SourceFlags};
use super::prepare::{Inputs, Prepared, ShapeFlags, prepare};
use super::workspace::{Use, object_name, workspace};
use super::{Context, attach, plan, summary};
use crate::attest::Facts;
use crate::layout::Layout;
use crate::oci::media_type;
use crate::plan::Kind;
use crate::progress::{Event, Progress, Size, Tally};
use crate::push::{self, CacheUse, Destination, Origin, PushOptions, Pushed};
use crate::registry::{DEFAULT_TAG, Reference, Repository};

/// Flags of `build`.
#[derive(Clone, Debug, Default, clap::Args)]
// A group of this name would clash with the one of whoever takes these flags as part of its own.
#[group(skip)]
pub struct Args {
    /// Directory, file, hf://ORG/MODEL[@REVISION], azblob://ACCOUNT/CONTAINER[/PREFIX], https://… or oci://REF
    #[arg(value_name = "SOURCE", required_unless_present = "verify")]
    pub source: Option<String>,
    /// Name of the result, REGISTRY/REPOSITORY[:TAG]; may be repeated; required with --push
    #[arg(short = 't', long = "tag", value_name = "REF")]
    pub tags: Vec<String>,
    /// Push to the registry of the first --tag
    #[arg(long)]
    pub push: bool,
    /// type=oci,dest=DIR (default), type=tar,dest=FILE or type=registry
    #[arg(
        short = 'o',
        long,
        value_name = "type=TYPE[,dest=PATH]",
        conflicts_with = "push"
    )]
    pub output: Option<OutputTarget>,
    /// Show what would be made and pushed; write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Blobs that are on their way at once
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub concurrency: usize,
    /// Repository of the same registry that may have blobs already; may be repeated
    #[arg(long, value_name = "REPOSITORY")]
    pub mount_from: Vec<String>,
    /// Write the digest of the image's config to a file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// Write the digest of the result to a file
    #[arg(long, value_name = "FILE")]
    pub digest_file: Option<PathBuf>,
    /// Write the Workspace that uses the result to a file (YAML)
    #[arg(long, value_name = "FILE")]
    pub workspace_file: Option<PathBuf>,
    /// Documents to attach: sbom, provenance
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_enum)]
    pub attest: Vec<Attest>,
    /// Sign the result with this private key (PEM; COSIGN_PASSWORD for encrypted ones)
    #[arg(long, value_name = "FILE")]
    pub sign_key: Option<PathBuf>,
    /// Read every blob of an image again and compare; needs no SOURCE
    #[arg(long, value_name = "REF", conflicts_with_all = ["source", "push", "output", "dry_run"])]
    pub verify: Option<String>,
    /// What is made.
    #[command(flatten)]
    pub shape: ShapeFlags,
    /// Where files come from.
    #[command(flatten)]
    pub files: SourceFlags,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryFlags,
    /// What is remembered.
    #[command(flatten)]
    pub cache: CacheFlags,
    /// What is told.
    #[command(flatten)]
    pub progress: ProgressFlags,
}

/// Documents that are attached to a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attest {
    /// The bill of materials.
    Sbom,
    /// Where it comes from.
    Provenance,
}

/// Value of `-o`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputTarget {
    /// An OCI layout in a directory; without one, named after the image.
    Oci(Option<PathBuf>),
    /// A tar of an OCI layout.
    Tar(PathBuf),
    /// The registry of the first tag.
    Registry,
}

impl std::str::FromStr for OutputTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "must be type=oci[,dest=DIR], type=tar,dest=FILE or type=registry";
        let (mut kind, mut dest) = (None, None);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("type", value)) => kind = Some(value),
                Some(("dest", value)) if !value.is_empty() => dest = Some(PathBuf::from(value)),
                _ => return Err(FORM.to_owned()),
            }
        }
        match (kind, dest) {
            (Some("oci"), dest) => Ok(Self::Oci(dest)),
            (Some("tar"), Some(dest)) => Ok(Self::Tar(dest)),
            (Some("registry"), None) => Ok(Self::Registry),
            _ => Err(FORM.to_owned()),
        }
    }
}

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
    let target = target(args, references.first())?;
    refuse_mcr(&target, &references)?;
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

fn target(args: &Args, first: Option<&Reference>) -> Result<OutputTarget, Failure> {
    let target = match &args.output {
        Some(target) => target.clone(),
        None if args.push => OutputTarget::Registry,
        None => OutputTarget::Oci(None),
    };
    if target == OutputTarget::Registry && first.is_none() {
        return Err(Failure::message(
            "--push needs a name: -t REGISTRY/REPOSITORY:TAG",
        ));
    }
    if !args.attest.is_empty() || args.sign_key.is_some() {
        if target != OutputTarget::Registry {
            return Err(Failure::message(
                "--attest and --sign-key attach documents in a registry: add --push, or attach them later with attach",
            ));
        }
    }
    Ok(target)
}

fn refuse_mcr(target: &OutputTarget, references: &[Reference]) -> Result<(), Failure> {
    if *target == OutputTarget::Registry
        && references.iter().any(|r| r.host() == "mcr.microsoft.com")
    {
        return Err(push::PushError::Mcr.into());
    }
    Ok(())
}

/// `NAME.oci` in the current directory.
fn default_directory(references: &[Reference], source: &str) -> PathBuf {
    let name = match references.first() {
        Some(reference) => reference.repository(),
        None => source.trim_end_matches('/'),
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    let last = last.split(['@', ':']).next().unwrap_or_default();
    let name = if matches!(last, "" | "." | "..") {
        "image"
    } else {
        last
    };
    PathBuf::from(format!("{name}.oci"))
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

async fn write_tar(layout: &Layout, path: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::message(format!("cannot write {}: {error}", path.display()))
    };
    let mut file = tokio::fs::File::create(path).await.map_err(failed)?;
    let mut bytes = layout.tar().await?;
    while let Some(piece) = bytes.next().await {
        file.write_all(&piece?).await.map_err(failed)?;
    }
    file.sync_all().await.map_err(failed)
}

/// Shows progress and counts it, to tell at an interruption what is finished.
pub(crate) struct Counted {
    shown: Mutex<Option<super::flags::Shown>>,
    progress: Arc<dyn Progress>,
    tally: Mutex<Tally>,
}

impl Counted {
    pub(crate) fn new(shown: super::flags::Shown) -> Self {
        Self {
            progress: shown.progress.clone(),
            shown: Mutex::new(Some(shown)),
            tally: Mutex::default(),
        }
    }

    /// Takes bars off the screen.
    pub(crate) fn end(&self) {
        self.shown
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    pub(crate) fn interruption(&self) -> Failure {
        self.end();
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = Failure::message("interrupted").with_exit(Exit::Interrupted);
        if tally.count() == 0 {
            return failure.with_line("Nothing was written.");
        }
        let finished = tally.moved() + tally.mounted() + tally.present();
        failure.with_line(format!(
            "{} of {} blobs ({} of {}) are finished and stay; nothing was tagged. Run the same command again to go on with \
             the rest.",
            tally.finished(),
            tally.count(),
            Size(finished),
            Size(tally.total()),
        ))
    }
}

impl Progress for Counted {
    fn event(&self, event: Event) {
        self.tally
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .apply(&event);
        self.progress.event(event);
    }
}

/// Resolves at Ctrl-C or SIGTERM.
pub(crate) async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut interrupt), Ok(mut terminate)) = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        ) {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::str::FromStr as _;

    use super::{OutputTarget, default_directory};

    #[test]
    fn outputs_name_a_type_and_where_it_goes() {
        let parsed = |text| OutputTarget::from_str(text);
        assert_eq!(parsed("type=oci"), Ok(OutputTarget::Oci(None)));
        assert_eq!(
            parsed("type=tar,dest=a.tar"),
            Ok(OutputTarget::Tar("a.tar".into()))
        );
        assert_eq!(parsed("type=registry"), Ok(OutputTarget::Registry));
        for bad in [
            "oci",
            "type=tar",
            "type=zip,dest=x",
            "type=oci,x=y",
            "type=oci,dest=",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_layout_is_named_after_the_image_or_the_source() {
        let tag = "r.io/models/phi:v1".parse().unwrap();
        assert_eq!(default_directory(&[tag], "x"), PathBuf::from("phi.oci"));
        assert_eq!(
            default_directory(&[], "hf://org/name@main"),
            PathBuf::from("name.oci")
        );
        assert_eq!(default_directory(&[], "."), PathBuf::from("image.oci"));
    }
}
