//! Who we are to a registry: credentials are found, exchanged for tokens, and tokens renewed before they end.
//!
//! Secrets live in [`SecretString`] and in headers marked sensitive; no error, log line, argument list or `Debug` output
//! holds one. Credentials are given to the registry they are for and to the token service that it names, to nobody else.

mod azure;
mod challenge;
mod docker;
mod error;
mod helper;
mod token;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Mutex;
use url::Url;

pub use azure::{AzureOptions, CommandLine};
pub use docker::DockerFiles;
pub use error::AuthError;

use self::challenge::Challenge;
use self::token::Token;
use super::transport::{Call, Transport, without_query};

/// What proves who we are.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A user and a password or access token.
    Password {
        /// The user.
        username: String,
        /// The password or access token.
        password: SecretString,
    },
    /// A token that a token service exchanges for access tokens (docker's `identitytoken`, an ACR refresh token).
    Identity(SecretString),
    /// A token to be sent as it is (docker's `registrytoken`).
    Bearer(SecretString),
}

/// Where credentials are looked for, in this order.
#[derive(Clone, Debug, Default)]
pub struct CredentialOptions {
    /// Given by flags, standard input or a secret: for every registry, or for one host.
    pub given: Vec<(Option<String>, Credential)>,
    /// Files and helpers as docker, podman and Kubernetes secrets have them.
    pub files: DockerFiles,
    /// Entra identities, for Azure Container Registry only; `None` switches them off.
    pub azure: Option<AzureOptions>,
}

impl CredentialOptions {
    /// The places that docker, podman and Azure's tools use; `variable` reads the environment.
    #[must_use]
    pub fn from_environment(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            given: Vec::new(),
            files: DockerFiles::from_environment(variable),
            azure: Some(AzureOptions::from_environment(variable)),
        }
    }

    /// Adds files that are searched before all others, in their order, such as mounted `.dockerconfigjson` files.
    #[must_use]
    pub fn with_files(mut self, paths: &[PathBuf]) -> Self {
        self.files.paths.splice(..0, paths.iter().cloned());
        self
    }
}

/// What a request may do to a repository; tokens are asked for exactly that.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    Pull(String),
    Push(String),
    Delete(String),
}

impl Scope {
    fn text(&self) -> String {
        match self {
            Self::Pull(name) => format!("repository:{name}:pull"),
            Self::Push(name) => format!("repository:{name}:pull,push"),
            Self::Delete(name) => format!("repository:{name}:delete,pull"),
        }
    }
}

/// Proves who we are, to all registries of one run.
pub(crate) struct Authenticator {
    options: CredentialOptions,
    transport: Transport,
    hosts: Mutex<HashMap<String, Arc<Mutex<HostState>>>>,
}

/// What is known about one registry.
#[derive(Default)]
struct HostState {
    /// `None` until the registry was asked; then how it wants proof, if at all.
    challenge: Option<Option<Challenge>>,
    credential: Option<Option<Credential>>,
    /// The refresh token that an Entra token was exchanged for.
    exchanged: Option<Token>,
    tokens: HashMap<String, Token>,
}

/// A registry as the authenticator sees it.
pub(crate) struct Registry<'a> {
    /// The host as people write it, for credentials.
    pub(crate) host: &'a str,
    /// `https://HOST/v2/`.
    pub(crate) base: &'a Url,
    /// The repository, for credentials that are kept by repository.
    pub(crate) repository: &'a str,
}

impl Authenticator {
    pub(crate) fn new(options: CredentialOptions, transport: Transport) -> Self {
        Self {
            options,
            transport,
            hosts: Mutex::default(),
        }
    }

    /// The `Authorization` header for a request, or `None` where the registry wants none.
    pub(crate) async fn authorization(
        &self,
        registry: &Registry<'_>,
        scopes: &[Scope],
    ) -> Result<Option<HeaderValue>, AuthError> {
        let state = self.state(registry).await;
        let mut state = state.lock().await;
        let challenge = match &state.challenge {
            Some(challenge) => challenge.clone(),
            None => {
                let challenge = self.ask(registry).await?;
                state.challenge = Some(challenge.clone());
                challenge
            }
        };
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => self.basic(registry, &mut state).await,
            Some(Challenge::Bearer(bearer)) => self
                .bearer(registry, &mut state, &bearer, scopes)
                .await
                .map(Some),
        }
    }

    /// Takes note that the registry refused what was sent: the next header is made anew, by the challenge in `headers`.
    pub(crate) async fn refused(
        &self,
        registry: &Registry<'_>,
        scopes: &[Scope],
        headers: &HeaderMap,
    ) -> Result<(), AuthError> {
        let challenge = challenge::parse(headers)?;
        let state = self.state(registry).await;
        let mut state = state.lock().await;
        state.tokens.remove(&scope_key(scopes));
        if challenge.is_some() {
            state.challenge = Some(challenge);
        }
        Ok(())
    }

    async fn state(&self, registry: &Registry<'_>) -> Arc<Mutex<HostState>> {
        let mut hosts = self.hosts.lock().await;
        Arc::clone(hosts.entry(registry.host.to_owned()).or_default())
    }

    /// Asks the registry how it wants proof, with a request that has no body to lose.
    async fn ask(&self, registry: &Registry<'_>) -> Result<Option<Challenge>, AuthError> {
        let response = self
            .transport
            .follow(Call::new(Method::GET, registry.base.clone()))
            .await
            .map_err(|cause| AuthError::Transport {
                service: without_query(registry.base),
                cause,
            })?;
        match response.status() {
            StatusCode::UNAUTHORIZED => challenge::parse(response.headers()),
            _ => Ok(None),
        }
    }

    async fn basic(
        &self,
        registry: &Registry<'_>,
        state: &mut HostState,
    ) -> Result<Option<HeaderValue>, AuthError> {
        Ok(match self.credential(registry, state).await? {
            Some(Credential::Password { username, password }) => {
                Some(basic_header(&username, &password))
            }
            Some(Credential::Bearer(token) | Credential::Identity(token)) => {
                Some(token::bearer_header(&token))
            }
            None => None,
        })
    }

    async fn bearer(
        &self,
        registry: &Registry<'_>,
        state: &mut HostState,
        bearer: &challenge::Bearer,
        scopes: &[Scope],
    ) -> Result<HeaderValue, AuthError> {
        let key = scope_key(scopes);
        if let Some(token) = state.tokens.get(&key).filter(|token| token.is_fresh()) {
            return Ok(token.header());
        }
        let credential = self.credential(registry, state).await?;
        let credential = match (credential, &self.options.azure) {
            (None, Some(azure)) if azure.serves(registry.host) => {
                Some(self.exchange(registry, state, bearer, azure).await?)
            }
            (credential, _) => credential,
        };
        if let Some(Credential::Bearer(token)) = &credential {
            return Ok(token::bearer_header(token));
        }
        if credential.is_some()
            && registry.base.scheme() == "https"
            && bearer.realm.scheme() != "https"
        {
            return Err(AuthError::Insecure {
                service: without_query(&bearer.realm),
            });
        }
        let scopes: Vec<String> = scopes.iter().map(Scope::text).collect();
        let token = token::fetch(&self.transport, bearer, &scopes, credential.as_ref()).await?;
        let header = token.header();
        state.tokens.insert(key, token);
        Ok(header)
    }

    /// The refresh token of an Azure registry, from an Entra identity.
    async fn exchange(
        &self,
        registry: &Registry<'_>,
        state: &mut HostState,
        bearer: &challenge::Bearer,
        azure: &AzureOptions,
    ) -> Result<Credential, AuthError> {
        if let Some(token) = state.exchanged.as_ref().filter(|token| token.is_fresh()) {
            return Ok(Credential::Identity(token.secret()));
        }
        let token = azure::exchange(&self.transport, azure, registry.host, bearer).await?;
        let secret = token.secret();
        state.exchanged = Some(token);
        Ok(Credential::Identity(secret))
    }

    async fn credential(
        &self,
        registry: &Registry<'_>,
        state: &mut HostState,
    ) -> Result<Option<Credential>, AuthError> {
        if let Some(known) = &state.credential {
            return Ok(known.clone());
        }
        let given = self.options.given.iter().find_map(|(host, credential)| {
            host.as_deref()
                .is_none_or(|host| host == registry.host)
                .then(|| credential.clone())
        });
        let found = match given {
            Some(credential) => Some(credential),
            None => docker::find(&self.options.files, registry.host, registry.repository).await?,
        };
        state.credential = Some(found.clone());
        Ok(found)
    }
}

fn scope_key(scopes: &[Scope]) -> String {
    scopes.iter().map(Scope::text).collect::<Vec<_>>().join(" ")
}

/// `Basic` and the base64 of user and password.
pub(crate) fn basic_header(username: &str, password: &SecretString) -> HeaderValue {
    let encoded = BASE64.encode(format!("{username}:{}", password.expose_secret()));
    sensitive(&format!("Basic {encoded}"))
}

/// A header that is never printed. Tokens are ASCII; what is not cannot be sent and becomes an empty header, which the
/// registry refuses.
fn sensitive(text: &str) -> HeaderValue {
    let mut header = HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    header.set_sensitive(true);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_debug_output_shows_a_secret() {
        let options = CredentialOptions {
            given: vec![(
                None,
                Credential::Password {
                    username: "me".into(),
                    password: "hunter2".to_owned().into(),
                },
            )],
            ..CredentialOptions::default()
        };
        let header = basic_header("me", &"hunter2".to_owned().into());
        let shown = format!("{options:?} {header:?}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("aHVudGVy"),
            "{shown}"
        );
        assert_eq!(header.as_bytes(), b"Basic bWU6aHVudGVyMg==");
    }
}
