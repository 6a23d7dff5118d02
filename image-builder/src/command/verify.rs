//! `verify`: every blob of an image is read again and hashed; signatures are checked.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};

use super::failure::{Exit, Failure};
use super::flags::{ProgressFlags, RegistryFlags};
use super::interrupt::interrupted;
use super::{Context, attach};
use crate::attest::{self, BUNDLE_TYPE, VerifyingKey};
use crate::digest::Digest;
use crate::digest::Hasher;
use crate::layout::Layout;
use crate::oci::{Descriptor, Document, Index, Manifest, media_type};
use crate::progress::{Event, Outcome, Phase, Progress, Size};
use crate::pull::Origin;
use crate::registry::{Reference, Repository};

/// Flags of `verify`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// Image in a registry, or the directory of an OCI layout
    #[arg(value_name = "REF")]
    pub reference: String,
    /// Public key (PEM); the image must be signed by it
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Blobs that are read at a time
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub concurrency: usize,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryFlags,
    /// What is told.
    #[command(flatten)]
    pub progress: ProgressFlags,
}

/// Verifies; exit code 3 when something is not what its name says, or is not signed.
///
/// # Errors
/// The first mismatch, or whatever keeps the image from being read.
pub async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let path = PathBuf::from(&args.reference);
    if path.join("oci-layout").is_file() {
        return verify_layout(&path, args, context).await;
    }
    let reference = Reference::from_str(&args.reference)?;
    let repository = args.registry.client(context)?.repository(&reference)?;
    let shown = args.progress.show(context);
    let work = async {
        let top = repository.manifest(&reference.selector()).await?;
        let signatures = check_signatures(args, &repository, top.digest).await?;
        let sizes = verify_image(&repository, &top, args.concurrency, &shown.progress).await?;
        Ok::<_, Failure>((top.digest, signatures, sizes))
    };
    let (digest, signatures, (count, bytes)) = tokio::select! {
        done = work => done?,
        () = interrupted() => return Err(Failure::message("interrupted").with_exit(Exit::Interrupted)),
    };
    drop(shown);
    let signed = match signatures {
        Some(count) => format!(", {count} valid signatures"),
        None => String::new(),
    };
    args.progress.note(
        context,
        &format!("{count} blobs, {} read and hashed{signed}", Size(bytes)),
    );
    context.output.data(&format!(
        "{}/{}@{digest} verified",
        reference.host(),
        reference.repository()
    ))?;
    Ok(Exit::Success)
}

async fn verify_layout(
    path: &std::path::Path,
    args: &Args,
    context: &Context,
) -> Result<Exit, Failure> {
    if args.key.is_some() {
        return Err(Failure::message(
            "signatures are looked for in registries; push the layout first",
        ));
    }
    let verified = Layout::open(path).await?.verify().await?;
    args.progress.note(
        context,
        &format!("{} blobs, {} hashed", verified.blobs, Size(verified.bytes)),
    );
    context
        .output
        .data(&format!("{} verified", path.display()))?;
    Ok(Exit::Success)
}

/// The number of valid signatures, where a key was given.
async fn check_signatures(
    args: &Args,
    repository: &Repository,
    digest: Digest,
) -> Result<Option<usize>, Failure> {
    let Some(path) = &args.key else {
        return Ok(None);
    };
    let key = VerifyingKey::from_pem(&attach::read_key(path)?)
        .map_err(|error| attach::key_failure(path, &error))?;
    let mut valid = 0;
    let mut refused = Vec::new();
    for referrer in repository.referrers(digest, Some(BUNDLE_TYPE)).await? {
        let document = repository.manifest(&referrer.digest.to_string()).await?;
        let manifest: Manifest = serde_json::from_slice(&document.bytes)?;
        for layer in &manifest.layers {
            let bundle = repository.read_document(layer).await?;
            match attest::verify(&bundle.bytes, &key, digest) {
                Ok(_) => valid += 1,
                Err(error) => refused.push(format!("{}: {error}", referrer.digest)),
            }
        }
    }
    if valid > 0 {
        return Ok(Some(valid));
    }
    let head = Failure::message(format!("{digest} is not signed by {}", path.display()));
    let failure = refused.into_iter().fold(head, Failure::with_line);
    Err(failure.with_exit(Exit::Negative))
}

/// Reads all documents and blobs below `top`; returns how many blobs and bytes there were.
async fn verify_image(
    repository: &Repository,
    top: &Document,
    concurrency: usize,
    progress: &Arc<dyn Progress>,
) -> Result<(usize, u64), Failure> {
    let origin = Origin::Repository(repository.clone());
    let mut blobs = Vec::new();
    let mut seen = BTreeSet::new();
    let mut documents = vec![top.clone()];
    while let Some(document) = documents.pop() {
        if matches!(
            document.media_type.as_str(),
            media_type::INDEX | media_type::DOCKER_INDEX
        ) {
            let index: Index = serde_json::from_slice(&document.bytes)?;
            for child in index.manifests {
                documents.push(origin.document(&child).await?);
            }
            continue;
        }
        let manifest: Manifest = serde_json::from_slice(&document.bytes)?;
        let named = [vec![manifest.config], manifest.layers].concat();
        blobs.extend(named.into_iter().filter(|blob| seen.insert(blob.digest)));
    }
    let names = blobs
        .iter()
        .map(|blob| (name_of(blob), blob.size))
        .collect();
    progress.event(Event::Planned { blobs: names });
    let bytes = blobs.iter().map(|blob| blob.size).sum();
    let checks = futures::stream::iter(blobs.iter().enumerate()).map(|(index, blob)| {
        let progress = Arc::clone(progress);
        async move { verify_blob(repository, index, blob, &progress).await }
    });
    checks
        .buffer_unordered(concurrency.max(1))
        .try_collect::<Vec<()>>()
        .await?;
    Ok((blobs.len(), bytes))
}

fn name_of(blob: &Descriptor) -> String {
    let path = blob.annotations.as_ref().and_then(|annotations| {
        annotations
            .get("org.cncf.model.filepath")
            .or_else(|| annotations.get("org.opencontainers.image.title"))
    });
    path.cloned().unwrap_or_else(|| blob.digest.to_string())
}

/// Reads one blob to its end and compares.
async fn verify_blob(
    repository: &Repository,
    index: usize,
    blob: &Descriptor,
    progress: &Arc<dyn Progress>,
) -> Result<(), Failure> {
    progress.event(Event::Started {
        blob: index,
        phase: Phase::Verify,
    });
    let mut stream = repository.read_blob(blob.digest, None, None).await?.stream;
    let mut hasher = Hasher::default();
    while let Some(bytes) = stream.try_next().await? {
        progress.event(Event::Advanced {
            blob: index,
            bytes: bytes.len() as u64,
        });
        // Hashing 64 KiB or so takes less time than handing it to another thread.
        hasher.update(&bytes);
    }
    let length = hasher.length();
    let found = hasher.finish();
    let good = found == blob.digest && length == blob.size;
    progress.event(Event::Finished {
        blob: index,
        outcome: if good {
            Outcome::Moved
        } else {
            Outcome::Failed
        },
        digest: good.then_some(found),
    });
    if good {
        return Ok(());
    }
    Err(Failure::message(format!(
        "{} is not what its name says: {} bytes with the digest {found} came, {} bytes with {} are named; it was altered in \
         the registry or on its way, do not use it",
        name_of(blob),
        length,
        blob.size,
        blob.digest
    ))
    .with_exit(Exit::Negative))
}
