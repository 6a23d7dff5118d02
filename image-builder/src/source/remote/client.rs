//! The HTTP client of all remote sources. Follows no redirect by itself: credentials must stay with their host.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Certificate, Client, redirect};

use super::reach::{PublicResolver, Reach};

/// Longest time to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest silence on a connection before it counts as broken; there is no limit on the whole transfer.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// What users may set about connections.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// A file with certificates (PEM) to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether certificates are not checked at all.
    pub insecure: bool,
    /// Which addresses names may resolve to.
    pub reach: Reach,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file of certificates cannot be used.
    #[error("cannot read certificates from {path}: {reason}")]
    Certificates {
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// The HTTP library refused.
    #[error("cannot set up HTTPS: {0}")]
    Setup(#[source] reqwest::Error),
}

/// A client for sources.
///
/// # Errors
/// Certificates that cannot be read, or a TLS set-up that fails.
pub fn client(options: &ClientOptions) -> Result<Client, ClientError> {
    // Fails when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(STALL_TIMEOUT)
        .tcp_nodelay(true)
        .user_agent(concat!("kaito-image-builder/", env!("CARGO_PKG_VERSION")));
    if let Some(path) = &options.ca_file {
        builder = builder.tls_certs_merge(certificates(path)?);
    }
    if options.reach == Reach::PublicOnly {
        builder = builder.dns_resolver(Arc::new(PublicResolver));
    }
    if options.insecure {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    builder.build().map_err(ClientError::Setup)
}

fn certificates(path: &std::path::Path) -> Result<Vec<Certificate>, ClientError> {
    let failed = |reason: String| ClientError::Certificates {
        path: path.display().to_string(),
        reason,
    };
    let pem = std::fs::read(path).map_err(|cause| failed(cause.to_string()))?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|cause| failed(cause.to_string()))?;
    if found.is_empty() {
        return Err(failed("it has no PEM certificate".to_owned()));
    }
    Ok(found)
}
