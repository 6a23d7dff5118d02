//! Where a build goes when it does not go to a registry: the value of `-o`.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use futures::StreamExt as _;
use tokio::io::AsyncWriteExt as _;

use super::build_flags::Args;
use super::failure::Failure;
use crate::layout::Layout;
use crate::push::PushError;
use crate::registry::Reference;

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

impl FromStr for OutputTarget {
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

/// Where the result goes.
pub(super) fn of(args: &Args, first: Option<&Reference>) -> Result<OutputTarget, Failure> {
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
    let attaches = !args.attest.is_empty() || args.sign_key.is_some();
    if attaches && target != OutputTarget::Registry {
        return Err(Failure::message(
            "--attest and --sign-key attach documents in a registry: add --push, or attach them later with attach",
        ));
    }
    Ok(target)
}

/// Nobody pushes to Microsoft's registry itself.
pub(super) fn refuse_mcr(reference: &Reference) -> Result<(), Failure> {
    if reference.host() == "mcr.microsoft.com" {
        return Err(PushError::Mcr.into());
    }
    Ok(())
}

/// `NAME.oci` in the current directory.
pub(super) fn default_directory(references: &[Reference], source: &str) -> PathBuf {
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

/// Writes a layout as a tar.
pub(super) async fn write_tar(layout: &Layout, path: &Path) -> Result<(), Failure> {
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
