//! Azure Container Registry: an Entra identity's token is exchanged for the registry's refresh token.
//!
//! The identity is, in this order: a workload identity (a federated token that Kubernetes mounts), a managed identity (the
//! machine's metadata service), the Azure command line. The first that gives a token is taken.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use secrecy::SecretString;
use serde::Deserialize;
use tokio::process::Command;
use url::Url;

use super::AuthError;
use super::challenge::Bearer;
use super::token::{Token, form_call, life_of, send};
use crate::registry::transport::{Call, Transport};

/// What registries accept tokens for: the resource manager, and (where that is switched off) the registry service.
const AUDIENCES: [&str; 2] = [
    "https://management.azure.com",
    "https://containerregistry.azure.net",
];
/// Host name endings of Azure's clouds.
const SUFFIXES: [&str; 3] = [".azurecr.io", ".azurecr.cn", ".azurecr.us"];
/// Off Azure nothing answers the metadata address, so it gets little time.
const METADATA_PATIENCE: Duration = Duration::from_secs(3);
/// The command line starts an interpreter and may renew its own token first.
const COMMAND_LINE_PATIENCE: Duration = Duration::from_secs(60);
/// About three hours, where the token does not say.
const REFRESH_TOKEN_LIFE_SECONDS: u64 = 3 * 3600;

/// Where Entra identities are looked for.
#[derive(Clone, Debug)]
pub struct AzureOptions {
    /// The file with the federated token (`AZURE_FEDERATED_TOKEN_FILE`).
    pub federated_token_file: Option<PathBuf>,
    /// The client to be (`AZURE_CLIENT_ID`), for workload identities and user-assigned managed identities.
    pub client_id: Option<String>,
    /// The tenant (`AZURE_TENANT_ID`).
    pub tenant_id: Option<String>,
    /// Entra's address (`AZURE_AUTHORITY_HOST`).
    pub authority: String,
    /// The metadata service of the machine.
    pub metadata: String,
    /// Whether the Azure command line is asked.
    pub command_line: CommandLine,
    /// Hosts that are Azure registries under another name, beside those that end in `azurecr.io`.
    pub hosts: Vec<String>,
}

/// Whether the Azure command line is asked for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// `az account get-access-token` is run where nothing else gave a token.
    Ask,
    /// It is not run.
    Leave,
}

impl AzureOptions {
    /// What Azure's own libraries read; `variable` reads the environment.
    #[must_use]
    pub fn from_environment(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        Self {
            federated_token_file: set("AZURE_FEDERATED_TOKEN_FILE").map(PathBuf::from),
            client_id: set("AZURE_CLIENT_ID"),
            tenant_id: set("AZURE_TENANT_ID"),
            authority: set("AZURE_AUTHORITY_HOST")
                .unwrap_or_else(|| "https://login.microsoftonline.com".to_owned()),
            metadata: set("AZURE_POD_IDENTITY_AUTHORITY_HOST")
                .unwrap_or_else(|| "http://169.254.169.254".to_owned()),
            command_line: CommandLine::Ask,
            hosts: Vec::new(),
        }
    }

    /// Whether a host is an Azure registry.
    pub(super) fn serves(&self, host: &str) -> bool {
        SUFFIXES.iter().any(|suffix| host.ends_with(suffix))
            || self.hosts.iter().any(|known| known == host)
    }
}

#[derive(Deserialize)]
struct AccessToken {
    access_token: SecretString,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CommandLineToken {
    access_token: SecretString,
}

#[derive(Deserialize)]
struct RefreshToken {
    refresh_token: SecretString,
}

/// The registry's refresh token. Where a registry refuses one audience the next is tried.
pub(super) async fn exchange(
    transport: &Transport,
    options: &AzureOptions,
    host: &str,
    bearer: &Bearer,
) -> Result<Token, AuthError> {
    let mut refused = None;
    for audience in AUDIENCES {
        let identity = identity_token(transport, options, host, audience).await?;
        match exchange_one(transport, options, bearer, &identity).await {
            Err(AuthError::Refused {
                service,
                status,
                detail,
            }) if status.is_client_error() => {
                refused = Some(AuthError::Refused {
                    service,
                    status,
                    detail,
                });
            }
            answer => return answer,
        }
    }
    Err(refused.unwrap_or_else(|| AuthError::Azure {
        host: host.to_owned(),
        tried: "nothing".to_owned(),
    }))
}

async fn exchange_one(
    transport: &Transport,
    options: &AzureOptions,
    bearer: &Bearer,
    identity: &SecretString,
) -> Result<Token, AuthError> {
    use secrecy::ExposeSecret as _;

    let url = bearer
        .realm
        .join("/oauth2/exchange")
        .map_err(|_| AuthError::Challenge {
            what: bearer.realm.to_string(),
        })?;
    let service = bearer.service.clone().unwrap_or_default();
    let mut form = vec![
        ("grant_type", "access_token".to_owned()),
        ("service", service),
        ("access_token", identity.expose_secret().to_owned()),
    ];
    if let Some(tenant) = &options.tenant_id {
        form.push(("tenant", tenant.clone()));
    }
    let bytes = send(transport, form_call(url.clone(), &form)).await?;
    let answer: RefreshToken = serde_json::from_slice(&bytes).map_err(|_| AuthError::NoToken {
        service: url.to_string(),
    })?;
    let life = life_of(&answer.refresh_token).unwrap_or(REFRESH_TOKEN_LIFE_SECONDS);
    Ok(Token::new(answer.refresh_token, life))
}

/// A token of the first identity that gives one.
async fn identity_token(
    transport: &Transport,
    options: &AzureOptions,
    host: &str,
    audience: &str,
) -> Result<SecretString, AuthError> {
    let mut tried = Vec::new();
    match workload_identity(transport, options, audience).await {
        Ok(token) => return Ok(token),
        Err(reason) => tried.push(format!("workload identity: {reason}")),
    }
    match managed_identity(transport, options, audience).await {
        Ok(token) => return Ok(token),
        Err(reason) => tried.push(format!("managed identity: {reason}")),
    }
    match command_line(options, audience).await {
        Ok(token) => return Ok(token),
        Err(reason) => tried.push(format!("az: {reason}")),
    }
    Err(AuthError::Azure {
        host: host.to_owned(),
        tried: tried.join("; "),
    })
}

async fn workload_identity(
    transport: &Transport,
    options: &AzureOptions,
    audience: &str,
) -> Result<SecretString, String> {
    let (Some(file), Some(client), Some(tenant)) = (
        &options.federated_token_file,
        &options.client_id,
        &options.tenant_id,
    ) else {
        return Err(
            "AZURE_FEDERATED_TOKEN_FILE, AZURE_CLIENT_ID or AZURE_TENANT_ID is not set".to_owned(),
        );
    };
    // Kubernetes renews the file; it is read each time.
    let assertion = tokio::fs::read_to_string(file)
        .await
        .map_err(|cause| format!("cannot read {}: {cause}", file.display()))?;
    let authority = options.authority.trim_end_matches('/');
    let url = Url::parse(&format!("{authority}/{tenant}/oauth2/v2.0/token"))
        .map_err(|_| format!("{authority} is no address"))?;
    let form = [
        ("grant_type", "client_credentials".to_owned()),
        ("client_id", client.clone()),
        (
            "client_assertion_type",
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned(),
        ),
        ("client_assertion", assertion.trim().to_owned()),
        ("scope", format!("{audience}/.default")),
    ];
    access_token(transport, form_call(url, &form)).await
}

async fn managed_identity(
    transport: &Transport,
    options: &AzureOptions,
    audience: &str,
) -> Result<SecretString, String> {
    let metadata = options.metadata.trim_end_matches('/');
    let mut url = Url::parse(&format!("{metadata}/metadata/identity/oauth2/token"))
        .map_err(|_| format!("{metadata} is no address"))?;
    url.query_pairs_mut()
        .append_pair("api-version", "2018-02-01")
        .append_pair("resource", audience);
    if let Some(client) = &options.client_id {
        url.query_pairs_mut().append_pair("client_id", client);
    }
    let call = Call::new(Method::GET, url).header(
        HeaderName::from_static("metadata"),
        HeaderValue::from_static("true"),
    );
    tokio::time::timeout(METADATA_PATIENCE, access_token(transport, call))
        .await
        .map_err(|_| "no metadata service answers here".to_owned())?
}

async fn access_token(transport: &Transport, call: Call) -> Result<SecretString, String> {
    let bytes = send(transport, call)
        .await
        .map_err(|error| error.to_string())?;
    serde_json::from_slice::<AccessToken>(&bytes)
        .map(|answer| answer.access_token)
        .map_err(|_| "the answer holds no token".to_owned())
}

async fn command_line(options: &AzureOptions, audience: &str) -> Result<SecretString, String> {
    if options.command_line == CommandLine::Leave {
        return Err("not asked".to_owned());
    }
    let mut command = Command::new("az");
    command.args([
        "account",
        "get-access-token",
        "--output",
        "json",
        "--resource",
        audience,
    ]);
    if let Some(tenant) = &options.tenant_id {
        command.args(["--tenant", tenant]);
    }
    let output = tokio::time::timeout(COMMAND_LINE_PATIENCE, command.kill_on_drop(true).output())
        .await
        .map_err(|_| "no answer".to_owned())?
        .map_err(|cause| cause.to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(said.lines().next().unwrap_or("it failed").to_owned());
    }
    serde_json::from_slice::<CommandLineToken>(&output.stdout)
        .map(|answer| answer.access_token)
        .map_err(|_| "its answer holds no token".to_owned())
}
