//! `attach`: documents and signatures beside an image that is in a registry.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use secrecy::SecretString;

use super::Context;
use super::build_flags::Attest;
use super::failure::{Exit, Failure};
use super::flags::{ProgressFlags, RegistryFlags};
use crate::attest::{
    self, Attachment, COSIGN_SIGNATURE, EMPTY_BLOB, Facts, STATEMENT_TYPE, SigningKey, Statement,
};
use crate::digest::Digest;
use crate::oci::{Annotations, Descriptor};
use crate::registry::{Repository, RequestBody};

/// Flags of `attach`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Image to attach to
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// File to attach
    #[arg(
        value_name = "FILE",
        requires = "media_type",
        required_unless_present = "sign_key"
    )]
    pub(crate) file: Option<PathBuf>,
    /// Media type of the file, for example application/vnd.cyclonedx+json
    #[arg(long = "type", value_name = "TYPE", id = "media_type")]
    pub(crate) media_type: Option<String>,
    /// Sign the image with this private key (PEM; COSIGN_PASSWORD for encrypted ones)
    #[arg(long, value_name = "FILE")]
    pub(crate) sign_key: Option<PathBuf>,
    /// How registries are reached.
    #[command(flatten)]
    pub(crate) registry: RegistryFlags,
    /// What is told.
    #[command(flatten)]
    pub(crate) progress: ProgressFlags,
}

/// Attaches.
pub(crate) async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let (repository, reference) = args.registry.repository(&args.reference, context)?;
    let subject = repository
        .manifest(&reference.selector())
        .await?
        .descriptor();
    let mut attachments = Vec::new();
    if let (Some(path), Some(media_type)) = (&args.file, &args.media_type) {
        let content = std::fs::read(path).map_err(|error| {
            Failure::message(format!("cannot read {}: {error}", path.display()))
        })?;
        attachments.push(Attachment {
            artifact_type: media_type.clone(),
            media_type: media_type.clone(),
            content: content.into(),
            annotations: Annotations::new(),
        });
    }
    if let Some(path) = &args.sign_key {
        let key = signing_key(path, context)?;
        attachments.push(signature(repository.name(), &subject, &key)?);
    }
    for attachment in attachments {
        let attached = put(&repository, &subject, &attachment).await?;
        let (host, name) = (repository.host(), repository.name());
        context
            .output
            .data(&format!("{host}/{name}@{}", attached.digest))?;
    }
    Ok(Exit::Success)
}

/// Attaches what a build was asked for.
pub(crate) async fn attach_all(
    repository: &Repository,
    subject: &Descriptor,
    facts: &Facts,
    kinds: &[Attest],
    sign_key: Option<&Path>,
    context: &Context,
) -> Result<(), Failure> {
    let key = sign_key
        .map(|path| signing_key(path, context))
        .transpose()?;
    let mut attachments = Vec::new();
    if kinds.contains(&Attest::Sbom) {
        attachments.push(attest::sbom(facts, subject.digest)?);
    }
    if kinds.contains(&Attest::Provenance) {
        let statement = attest::provenance(facts, subject.digest);
        attachments.push(match &key {
            Some(key) => attest::sign(&statement, key)?,
            None => unsigned(&statement)?,
        });
    }
    if let Some(key) = &key {
        attachments.push(signature(&facts.repository, subject, key)?);
    }
    for attachment in &attachments {
        put(repository, subject, attachment).await?;
    }
    Ok(())
}

fn unsigned(statement: &Statement) -> Result<Attachment, Failure> {
    let predicate = (
        "in-toto.io/predicate-type".to_owned(),
        statement.predicate_type.clone(),
    );
    Ok(Attachment {
        artifact_type: STATEMENT_TYPE.to_owned(),
        media_type: STATEMENT_TYPE.to_owned(),
        content: serde_json::to_vec(statement)?.into(),
        annotations: Annotations::from([predicate]),
    })
}

fn signature(name: &str, subject: &Descriptor, key: &SigningKey) -> Result<Attachment, Failure> {
    let claim = serde_json::Value::Object(serde_json::Map::new());
    let statement = Statement::about(name, subject.digest, COSIGN_SIGNATURE, claim);
    Ok(attest::sign(&statement, key)?)
}

fn signing_key(path: &Path, context: &Context) -> Result<SigningKey, Failure> {
    let text = read_key(path)?;
    let password: Option<SecretString> = context.variable("COSIGN_PASSWORD").map(Into::into);
    SigningKey::from_pem(&text, password.as_ref()).map_err(|error| key_failure(path, &error))
}

/// The text of a key file.
pub(crate) fn read_key(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        Failure::message(format!("cannot read the key {}: {error}", path.display()))
    })
}

/// A key that cannot be used, by its file's name.
pub(crate) fn key_failure(path: &Path, error: &attest::KeyError) -> Failure {
    Failure::message(format!("cannot use the key {}: {error}", path.display()))
        .with_exit(Exit::Unauthorized)
}

/// Sends a blob that is in memory, unless it is there.
async fn put_blob(repository: &Repository, bytes: &Bytes) -> Result<(), Failure> {
    let digest = Digest::of(bytes);
    if repository.blob_size(digest).await? == Some(bytes.len() as u64) {
        return Ok(());
    }
    let upload = repository.open_upload().await?;
    Ok(repository
        .finish_upload(&upload, digest, RequestBody::Bytes(bytes.clone()))
        .await?)
}

/// Writes the blobs of an attachment, then its manifest.
async fn put(
    repository: &Repository,
    subject: &Descriptor,
    attachment: &Attachment,
) -> Result<Descriptor, Failure> {
    for bytes in [Bytes::from_static(EMPTY_BLOB), attachment.content.clone()] {
        put_blob(repository, &bytes).await?;
    }
    let manifest = attachment.manifest(subject)?;
    repository.attach(&manifest).await?;
    Ok(manifest.descriptor())
}
