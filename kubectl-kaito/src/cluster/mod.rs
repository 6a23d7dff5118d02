//! The connection to the API server: the only module that builds a client.
//!
//! Which server, as whom, and in which namespace is decided by [`kubeconfig`]; what happens to every request on the
//! way (warnings, retries, logging) by [`wire`]; what a failed one says by [`failures`].

mod credentials;
pub mod failures;
pub mod kinds;
pub mod kubeconfig;
pub mod proxy;
pub mod wire;

use std::future::Future;
use std::time::Duration;

use kube::api::{Api, ApiResource, DynamicObject};
use kube::client::ClientBuilder;
use kube::core::GroupVersionKind;

use crate::Context;
use crate::error::{Exit, Failure};

pub use self::wire::Warnings;

/// A connection, and the namespace that commands act in.
#[derive(Clone)]
pub struct Cluster {
    client: kube::Client,
    namespace: String,
    namespace_is_explicit: bool,
    endpoint: failures::Endpoint,
    request_timeout: Option<Duration>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Cluster")
            .field("endpoint", &self.endpoint)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Reads the configuration and prepares a client. No request is sent yet, but an exec credential plugin may run.
    ///
    /// # Errors
    /// A configuration that names no server, or cannot be read, in kubectl's words.
    pub async fn connect(context: &Context) -> Result<Self, Failure> {
        let target = kubeconfig::resolve(&context.connection, &context.environment).await?;
        let endpoint = failures::Endpoint::new(&target.config);
        // Fails when a provider is installed already, which is just as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let layer = wire::WireLayer::new(context, endpoint.url.clone());
        let builder = ClientBuilder::try_from(target.config)
            .map_err(|error| failures::failure(error, &endpoint, "connect"))?;
        Ok(Self {
            client: builder.with_layer(&layer).build(),
            namespace: target.namespace,
            namespace_is_explicit: target.namespace_is_explicit,
            endpoint,
            request_timeout: context.connection.request_timeout.0,
        })
    }

    /// The client. Requests through it should go by way of [`Self::call`].
    #[must_use]
    pub const fn client(&self) -> &kube::Client {
        &self.client
    }

    /// The namespace to act in: `-n`, else the context's, else `default`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whether the namespace was given by `-n`.
    #[must_use]
    pub const fn namespace_is_explicit(&self) -> bool {
        self.namespace_is_explicit
    }

    /// URL of the API server.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.endpoint.url
    }

    /// Runs one request within `--request-timeout` and translates its error. `what` names the request for servers
    /// that give no reason, for example `get workspaces.kaito.sh`.
    ///
    /// # Errors
    /// The server's refusal or the connection's failure, in kubectl's words.
    pub async fn call<T>(
        &self,
        what: &str,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Failure> {
        self.attempt(request)
            .await
            .map_err(|error| self.explain(error, what))
    }

    /// As [`Self::call`], but a missing object is `None`.
    ///
    /// # Errors
    /// As [`Self::call`], except NotFound of a single object.
    pub async fn find<T>(
        &self,
        what: &str,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<Option<T>, Failure> {
        match self.attempt(request).await {
            Ok(value) => Ok(Some(value)),
            Err(CallError::Request(kube::Error::Api(status)))
                if status.is_not_found() && !failures::is_unknown_resource(&status) =>
            {
                Ok(None)
            }
            Err(error) => Err(self.explain(error, what)),
        }
    }

    /// Runs one request within `--request-timeout`; the error is left for the caller to look at.
    ///
    /// # Errors
    /// The request's error, or that the time ran out.
    pub async fn attempt<T>(
        &self,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, CallError> {
        match self.request_timeout {
            None => request.await.map_err(CallError::Request),
            Some(limit) => match tokio::time::timeout(limit, request).await {
                Ok(result) => result.map_err(CallError::Request),
                Err(_) => Err(CallError::TimedOut(limit)),
            },
        }
    }

    /// The failure to print for an error of [`Self::attempt`].
    #[must_use]
    pub fn explain(&self, error: CallError, what: &str) -> Failure {
        match error {
            CallError::Request(error) => failures::failure(error, &self.endpoint, what),
            CallError::TimedOut(limit) => Failure::verbatim(format!(
                "Unable to connect to the server: {} did not answer within {}s (--request-timeout)",
                self.endpoint.url,
                limit.as_secs_f64()
            )),
        }
    }

    /// Objects of a kind in the namespace.
    #[must_use]
    pub fn namespaced<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Workspaces of the namespace, untyped so that fields of other versions survive.
    #[must_use]
    pub fn workspaces(&self) -> Api<DynamicObject> {
        self.workspaces_in(&self.namespace)
    }

    /// Workspaces of another namespace.
    #[must_use]
    pub fn workspaces_in(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &workspace_resource())
    }

    /// Workspaces of all namespaces.
    #[must_use]
    pub fn all_workspaces(&self) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &workspace_resource())
    }
}

/// What went wrong with one request.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The request failed.
    #[error("the request failed")]
    Request(#[source] kube::Error),
    /// `--request-timeout` ran out.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

/// The Workspace resource as the plugin asks for it: the stored version.
#[must_use]
pub fn workspace_resource() -> ApiResource {
    let kind = GroupVersionKind::gvk(kaito_api::names::GROUP, "v1beta1", "Workspace");
    ApiResource::from_gvk_with_plural(&kind, "workspaces")
}

/// With `--warnings-as-errors`, turns a success that came with warnings into a failure and says so.
#[must_use]
pub fn warnings_as_errors(context: &Context, exit: Exit) -> Exit {
    let count = context.warnings.count();
    if !context.connection.warnings_as_errors || count == 0 || exit != Exit::Success {
        return exit;
    }
    let plural = if count == 1 { "" } else { "s" };
    // The exit status says the same when stderr is closed.
    let _ = context
        .printer
        .note(&format!("error: {count} warning{plural} received"));
    Exit::Failure
}
