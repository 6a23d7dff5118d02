//! Who asks Azure: a shared access signature, else an identity of Entra.

use std::path::Path;
use std::sync::Arc;

use azure_core::credentials::TokenCredential;
use azure_identity::{AzureCliCredential, ManagedIdentityCredential, WorkloadIdentityCredential};
use reqwest::Url;
use secrecy::SecretString;

/// Settings of Azure Blob Storage.
#[derive(Clone, Debug, Default)]
pub struct AzureOptions {
    /// A shared access signature: the part of a signed address behind `?`.
    pub sas: Option<SecretString>,
    /// Address of the account instead of the public cloud's, for emulators and other clouds.
    pub address: Option<Url>,
    /// Which identity of Entra speaks when there is no signature.
    pub identity: Identity,
}

/// Identities of Entra.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// The one of the pod, by a federated token.
    Workload,
    /// The one of the machine.
    Managed,
    /// The user of the `az` program.
    #[default]
    AzureCli,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AzureError {
    /// The signature's file cannot be read.
    #[error("cannot read the shared access signature from {path}: {cause}")]
    Signature {
        /// The file.
        path: String,
        /// What the system answered.
        #[source]
        cause: std::io::Error,
    },
    /// An address that is none.
    #[error(
        "`{0}` is not the address of a storage account; AZURE_STORAGE_BLOB_ENDPOINT must be an http or https address"
    )]
    Endpoint(String),
    /// The identity cannot be used.
    #[error(
        "there are no credentials for Azure: {0}; set AZURE_STORAGE_SAS_TOKEN, or log in with `az login`"
    )]
    Identity(#[source] azure_core::Error),
}

impl AzureOptions {
    /// A signature from `sas_file` or `AZURE_STORAGE_SAS_TOKEN`, the account's address from
    /// `AZURE_STORAGE_BLOB_ENDPOINT`, else the identity that the environment provides: a federated token
    /// (`AZURE_FEDERATED_TOKEN_FILE`), the machine's (`IDENTITY_ENDPOINT`, or no `az` program), or the `az` program's.
    ///
    /// # Errors
    /// A file that cannot be read or an address that is none.
    pub fn from_environment(
        variable: &dyn Fn(&str) -> Option<String>,
        sas_file: Option<&Path>,
    ) -> Result<Self, AzureError> {
        let sas = match sas_file {
            Some(path) => {
                Some(
                    std::fs::read_to_string(path).map_err(|cause| AzureError::Signature {
                        path: path.display().to_string(),
                        cause,
                    })?,
                )
            }
            None => variable("AZURE_STORAGE_SAS_TOKEN"),
        };
        let address = match variable("AZURE_STORAGE_BLOB_ENDPOINT") {
            Some(text) => Some(address(&text)?),
            None => None,
        };
        Ok(Self {
            sas: sas
                .filter(|text| !text.trim().is_empty())
                .map(|text| text.trim().into()),
            address,
            identity: identity(variable),
        })
    }

    pub(super) fn endpoint(&self, account: &str) -> Result<Url, AzureError> {
        match &self.address {
            Some(url) => Ok(url.clone()),
            None => address(&format!("https://{account}.blob.core.windows.net")),
        }
    }

    pub(super) fn credential(
        &self,
        endpoint: &Url,
    ) -> Result<Option<Arc<dyn TokenCredential>>, AzureError> {
        // Tokens of Entra are never sent over an unprotected connection; such an account is asked anonymously.
        if self.sas.is_some() || endpoint.scheme() != "https" {
            return Ok(None);
        }
        let credential: Arc<dyn TokenCredential> = match self.identity {
            Identity::Workload => {
                WorkloadIdentityCredential::new(None).map_err(AzureError::Identity)?
            }
            Identity::Managed => {
                ManagedIdentityCredential::new(None).map_err(AzureError::Identity)?
            }
            Identity::AzureCli => AzureCliCredential::new(None).map_err(AzureError::Identity)?,
        };
        Ok(Some(credential))
    }
}

fn address(text: &str) -> Result<Url, AzureError> {
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| AzureError::Endpoint(text.to_owned()))
}

fn identity(variable: &dyn Fn(&str) -> Option<String>) -> Identity {
    if variable("AZURE_FEDERATED_TOKEN_FILE").is_some() {
        return Identity::Workload;
    }
    let path = variable("PATH").unwrap_or_default();
    let has_az = std::env::split_paths(&path)
        .any(|folder| folder.join("az").is_file() || folder.join("az.cmd").is_file());
    if variable("IDENTITY_ENDPOINT").is_some() || !has_az {
        Identity::Managed
    } else {
        Identity::AzureCli
    }
}
