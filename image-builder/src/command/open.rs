//! Opens what SOURCE names.

use std::path::Path;
use std::str::FromStr as _;
use std::sync::Arc;

use super::Context;
use super::failure::{Exit, Failure};
use super::flags::{RegistryFlags, SourceFlags, http_address};
use crate::registry::Reference;
use crate::source::Source;
use crate::source::azure::{AzureOptions, AzureSource};
use crate::source::hub::{HubOptions, HubSource};
use crate::source::image::ImageSource;
use crate::source::local::{Links, LocalSource};
use crate::source::remote::{ClientOptions, HttpSource, client};
use crate::source::select::Selection;

/// The source that `text` names: a path, `hf://`, `azblob://`, `http(s)://` or `oci://`. Only paths have `links`.
pub(crate) fn source(
    text: &str,
    links: Links,
    flags: &SourceFlags,
    registry: &RegistryFlags,
    context: &Context,
) -> Result<Arc<dyn Source>, Failure> {
    let variable = |name: &str| context.variable(name);
    let http = || {
        client(&ClientOptions {
            ca_file: registry.ca_file.clone(),
            insecure: registry.insecure,
            reach: flags.reach(),
        })
    };
    match text.split_once("://").map(|(scheme, _)| scheme) {
        None => local(text, links, flags),
        Some("file") => local(text.trim_start_matches("file://"), links, flags),
        Some("hf") => {
            let options = HubOptions::from_environment(&variable, flags.hf_token_file.as_deref())?;
            Ok(Arc::new(HubSource::new(http()?, text.parse()?, options)))
        }
        Some("azblob") => {
            let options =
                AzureOptions::from_environment(&variable, flags.azure_sas_file.as_deref())?;
            Ok(Arc::new(AzureSource::new(http()?, text.parse()?, options)?))
        }
        Some("oci" | "docker") => {
            let reference = Reference::from_str(text)?;
            let repository = registry.client(context)?.repository(&reference)?;
            Ok(Arc::new(ImageSource::new(repository, reference.selector())))
        }
        Some(scheme) => match http_address(text) {
            Some(address) => Ok(Arc::new(HttpSource::new(http()?, address, flags.reach()))),
            None => Err(Failure::message(format!(
                "sources of the kind {scheme}:// are not known; give a path, hf://ORG/MODEL, azblob://ACCOUNT/CONTAINER, \
                 https://… or oci://REGISTRY/REPOSITORY:TAG"
            ))),
        },
    }
}

fn local(text: &str, links: Links, flags: &SourceFlags) -> Result<Arc<dyn Source>, Failure> {
    if !Path::new(text).exists() {
        let hint = if looks_like_model(text) {
            format!("; for a model on the hub write hf://{text}")
        } else {
            String::new()
        };
        return Err(
            Failure::message(format!("there is no file or directory {text}{hint}"))
                .with_exit(Exit::Source),
        );
    }
    let selection = Selection::new(&flags.include, &flags.exclude)?;
    let source = LocalSource::new(text).selecting(selection);
    Ok(Arc::new(source.with_links(links)))
}

fn looks_like_model(text: &str) -> bool {
    text.split('/').count() == 2 && !text.starts_with(['/', '.'])
}
