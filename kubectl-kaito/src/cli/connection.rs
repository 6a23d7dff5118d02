//! The connection flags of kubectl. A plugin inherits none of them, so every command takes all of them.

use std::time::Duration;

use clap::Args;

use super::duration;

/// How to reach the cluster, as typed. Empty strings count as absent.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection flags")]
pub struct ConnectionFlags {
    /// Path to the kubeconfig file to use; only this file is read
    #[arg(long, global = true, hide = true, value_name = "PATH")]
    pub kubeconfig: Option<String>,
    /// Default cache directory
    #[arg(long, global = true, hide = true, value_name = "DIR")]
    pub cache_dir: Option<String>,
    /// Path to a client certificate file for TLS
    #[arg(long, global = true, hide = true, value_name = "PATH")]
    pub client_certificate: Option<String>,
    /// Path to a client key file for TLS
    #[arg(long, global = true, hide = true, value_name = "PATH")]
    pub client_key: Option<String>,
    /// Bearer token for authentication to the API server
    #[arg(long, global = true, hide = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Username to impersonate for the operation
    #[arg(long = "as", global = true, hide = true, value_name = "USER")]
    pub impersonate: Option<String>,
    /// UID to impersonate for the operation
    #[arg(long = "as-uid", global = true, hide = true, value_name = "UID")]
    pub impersonate_uid: Option<String>,
    /// Group to impersonate for the operation; may be repeated
    #[arg(long = "as-group", global = true, hide = true, value_name = "GROUP")]
    pub impersonate_groups: Vec<String>,
    /// User extra to impersonate for the operation, KEY=VALUE; may be repeated
    #[arg(
        long = "as-user-extra",
        global = true,
        hide = true,
        value_name = "KEY=VALUE"
    )]
    pub impersonate_user_extra: Vec<String>,
    /// Username for basic authentication to the API server
    #[arg(long, global = true, hide = true, value_name = "NAME")]
    pub username: Option<String>,
    /// Password for basic authentication to the API server
    #[arg(long, global = true, hide = true, value_name = "PASSWORD")]
    pub password: Option<String>,
    /// The name of the kubeconfig cluster to use
    #[arg(long, global = true, hide = true, value_name = "NAME")]
    pub cluster: Option<String>,
    /// The name of the kubeconfig user to use
    #[arg(long, global = true, hide = true, value_name = "NAME")]
    pub user: Option<String>,
    /// If present, the namespace scope for this request
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// The name of the kubeconfig context to use
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The address and port of the Kubernetes API server
    #[arg(short = 's', long, global = true, hide = true, value_name = "URL")]
    pub server: Option<String>,
    /// Server name to use for server certificate validation
    #[arg(long, global = true, hide = true, value_name = "NAME")]
    pub tls_server_name: Option<String>,
    /// Do not check the server's certificate; this makes HTTPS connections insecure
    #[arg(long, global = true, hide = true)]
    pub insecure_skip_tls_verify: bool,
    /// Path to a certificate file for the certificate authority
    #[arg(long, global = true, hide = true, value_name = "PATH")]
    pub certificate_authority: Option<String>,
    /// Time to wait for a single server request: seconds or a duration such as 1m; 0 means no limit
    #[arg(long, global = true, hide = true, value_name = "TIME", default_value = "0",
          value_parser = parse_request_timeout)]
    pub request_timeout: RequestTimeout,
    /// Do not ask for compressed responses
    #[arg(long, global = true, hide = true)]
    pub disable_compression: bool,
    /// Log level: 6 shows each request, 7 also headers; secrets are masked
    #[arg(
        short,
        long = "v",
        global = true,
        hide = true,
        value_name = "LEVEL",
        default_value_t = 0
    )]
    pub verbosity: u8,
    /// Treat warnings received from the server as errors and exit with a non-zero exit code
    #[arg(long, global = true, hide = true)]
    pub warnings_as_errors: bool,
    /// Accepted for kubectl's sake
    #[command(flatten)]
    pub ignored: IgnoredFlags,
}

/// Flags of kubectl's own logging and profiling: accepted, without effect.
#[derive(Debug, Clone, Default, Args)]
pub struct IgnoredFlags {
    /// Log level per file
    #[arg(long, global = true, hide = true)]
    pub vmodule: Option<String>,
    /// Time between log flushes
    #[arg(long, global = true, hide = true)]
    pub log_flush_frequency: Option<String>,
    /// Require the server's version to match
    #[arg(long, global = true, hide = true)]
    pub match_server_version: bool,
    /// Profile to capture
    #[arg(long, global = true, hide = true)]
    pub profile: Option<String>,
    /// File for the profile
    #[arg(long, global = true, hide = true)]
    pub profile_output: Option<String>,
}

/// Longest time for one request; none when absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestTimeout(pub Option<Duration>);

fn parse_request_timeout(text: &str) -> Result<RequestTimeout, String> {
    duration::parse_request_timeout(text).map(RequestTimeout)
}
