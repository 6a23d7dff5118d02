//! The client of all registries of one run, and the way that each request takes: token, answer, one renewal.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use url::Url;

use super::answer::{error_detail, retry_after};
use super::auth::{Authenticator, CredentialOptions, Registry, Scope};
use super::error::RegistryError;
use super::form::UploadForm;
use super::reference::{Reference, is_loopback};
use super::repository::Repository;
use super::retry::RetryPolicy;
use super::transport::{Call, Transport, TransportError, TransportOptions};

/// Which protocol registries are spoken to in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// HTTPS, but plain HTTP to this machine.
    #[default]
    Automatic,
    /// HTTPS to all.
    Tls,
    /// Plain HTTP to all: anyone on the way can read and change what is sent.
    Plain,
}

/// How registries are reached and who we are to them.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// Connections.
    pub transport: TransportOptions,
    /// Which protocol is spoken.
    pub scheme: Scheme,
    /// Who we are.
    pub credentials: CredentialOptions,
    /// When failures are tried again.
    pub retry: RetryPolicy,
}

/// A client of registries. Cheap to clone; clones share connections, tokens and what was learned about hosts.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    transport: Transport,
    authenticator: Authenticator,
    scheme: Scheme,
    retry: RetryPolicy,
    forms: Mutex<HashMap<String, UploadForm>>,
}

impl Client {
    /// A client that has not connected to anything yet.
    ///
    /// # Errors
    /// When a file of certificates cannot be used.
    pub fn new(options: ClientOptions) -> Result<Self, TransportError> {
        let transport = Transport::new(&options.transport)?;
        Ok(Self(Arc::new(Inner {
            authenticator: Authenticator::new(options.credentials, transport.clone()),
            transport,
            scheme: options.scheme,
            retry: options.retry,
            forms: Mutex::default(),
        })))
    }

    /// The repository that a reference names.
    ///
    /// # Errors
    /// [`TransportError::Address`] when its host is none.
    pub fn repository(&self, reference: &Reference) -> Result<Repository, TransportError> {
        let plain = match self.0.scheme {
            Scheme::Automatic => is_loopback(reference.host()),
            Scheme::Plain => true,
            Scheme::Tls => false,
        };
        let scheme = if plain { "http" } else { "https" };
        let address = format!("{scheme}://{}/v2/", reference.api_host());
        let base = Url::parse(&address).map_err(|_| TransportError::Address { address })?;
        Ok(Repository::new(
            self.clone(),
            reference.host(),
            reference.repository(),
            base,
        ))
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.0.transport
    }

    pub(crate) fn retry(&self) -> RetryPolicy {
        self.0.retry
    }

    /// The form of upload that works with a host, as far as is known.
    pub(crate) fn upload_form(&self, host: &str) -> UploadForm {
        let forms = self.0.forms.lock().unwrap_or_else(PoisonError::into_inner);
        forms
            .get(host)
            .copied()
            .unwrap_or_else(|| UploadForm::of_host(host))
    }

    /// Remembers the form of upload that works with a host.
    pub(crate) fn learn_form(&self, host: &str, form: UploadForm) {
        let mut forms = self.0.forms.lock().unwrap_or_else(PoisonError::into_inner);
        forms.insert(host.to_owned(), form);
    }

    /// Sends one request. A 401 leads to one new token and, where the body can be sent again, one repetition; with a
    /// streamed body the error says so and the next attempt has the new token.
    pub(crate) async fn call(
        &self,
        action: &str,
        registry: &Registry<'_>,
        scopes: &[Scope],
        mut call: Call,
    ) -> Result<Response<Incoming>, RegistryError> {
        // Uploads may be sent to another host, with an address that holds its own proof.
        let ours = call.url.origin() == registry.base.origin();
        let again = call.body.again().map(|body| Call {
            method: call.method.clone(),
            url: call.url.clone(),
            headers: call.headers.clone(),
            authorization: None,
            body,
        });
        if ours {
            call.authorization = self.authorization(action, registry, scopes).await?;
        }
        let response = self.send(action, registry, call).await?;
        if response.status() != StatusCode::UNAUTHORIZED || !ours {
            return Ok(response);
        }
        self.0
            .authenticator
            .refused(registry, scopes, response.headers())
            .await
            .map_err(|cause| auth_error(action, registry, cause))?;
        let Some(mut again) = again else {
            return Ok(response);
        };
        again.authorization = self.authorization(action, registry, scopes).await?;
        self.send(action, registry, again).await
    }

    async fn authorization(
        &self,
        action: &str,
        registry: &Registry<'_>,
        scopes: &[Scope],
    ) -> Result<Option<http::HeaderValue>, RegistryError> {
        self.0
            .authenticator
            .authorization(registry, scopes)
            .await
            .map_err(|cause| auth_error(action, registry, cause))
    }

    async fn send(
        &self,
        action: &str,
        registry: &Registry<'_>,
        call: Call,
    ) -> Result<Response<Incoming>, RegistryError> {
        let answer = if matches!(call.method, Method::GET | Method::HEAD) {
            self.0.transport.follow(call).await
        } else {
            self.0.transport.send(call).await
        };
        answer.map_err(|cause| transport_error(action, registry.host, cause))
    }

    /// The error that an answer stands for.
    pub(crate) async fn refusal(
        &self,
        action: &str,
        host: &str,
        response: Response<Incoming>,
    ) -> RegistryError {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        // The status says enough when the body cannot be read.
        let body = self
            .0
            .transport
            .collect(response.into_body())
            .await
            .unwrap_or_default();
        RegistryError::Answered {
            action: action.to_owned(),
            host: host.to_owned(),
            status,
            detail: error_detail(&body),
            retry_after,
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Client")
            .field("scheme", &self.0.scheme)
            .finish_non_exhaustive()
    }
}

pub(crate) fn transport_error(action: &str, host: &str, cause: TransportError) -> RegistryError {
    RegistryError::Transport {
        action: action.to_owned(),
        host: host.to_owned(),
        cause: Box::new(cause),
    }
}

fn auth_error(
    action: &str,
    registry: &Registry<'_>,
    cause: super::auth::AuthError,
) -> RegistryError {
    RegistryError::Auth {
        action: action.to_owned(),
        host: registry.host.to_owned(),
        cause: Box::new(cause),
    }
}
