//! Which path leads where, and what every request goes through first: keys, size, time.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header, request};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, http::HeaderValue};

use super::error::ApiError;
use super::keys::Keys;
use super::native::Native;
use super::proxy::Proxy;
use crate::metrics::Metrics;

/// What answers.
#[derive(Debug)]
pub enum Backend {
    /// Our engine.
    Native(Box<Native>),
    /// Another server.
    Proxy(Box<Proxy>),
}

/// Limits of a request.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Most bytes of a body.
    pub body_bytes: usize,
    /// Longest time for a body to arrive.
    pub body_time: Duration,
}

/// Everything that handlers share.
#[derive(Debug)]
pub struct App {
    /// What answers.
    pub backend: Backend,
    /// Counters.
    pub metrics: Metrics,
    /// Who may ask; everybody, if none.
    pub keys: Option<Keys>,
    /// Limits.
    pub settings: Settings,
    /// Set when the server is about to end.
    pub stopping: std::sync::atomic::AtomicBool,
}

/// Errors of `/chat` look as they did in KAITO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    OpenAi,
    Simple,
}

impl App {
    /// All routes.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/", get(|| async { Json("Server is running") }))
            .route("/health", get(health))
            .route("/healthz", get(health))
            .route("/metrics", get(metrics))
            .route("/chat", post(simple))
            .route("/v1/models", get(models))
            .route("/v1/chat/completions", post(chat))
            .route("/v1/completions", post(complete))
            .route("/v1/{*rest}", any(other))
            .fallback(unknown)
            .method_not_allowed_fallback(wrong_method)
            .with_state(self)
    }

    /// Takes no more requests.
    pub fn stop(&self) {
        self.stopping
            .store(true, std::sync::atomic::Ordering::Release);
        if let Backend::Native(native) = &self.backend {
            native.stop();
        }
    }

    /// Keys, readiness, and the body within its limits.
    async fn receive(&self, request: Request) -> Result<(request::Parts, Bytes), ApiError> {
        let (mut parts, body) = request.into_parts();
        if let Some(keys) = &self.keys {
            if !keys.admit(&parts.headers) {
                let message = "send a valid key as `Authorization: Bearer KEY`";
                return Err(ApiError::new(
                    StatusCode::UNAUTHORIZED,
                    "invalid_api_key",
                    message,
                ));
            }
            // The key is ours; an upstream must not see it.
            parts.headers.remove(header::AUTHORIZATION);
        }
        if self.stopping.load(std::sync::atomic::Ordering::Acquire) {
            return Err(ApiError::draining());
        }
        let length = parts.headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > self.settings.body_bytes) {
            return Err(self.too_large());
        }
        let reading = axum::body::to_bytes(body, self.settings.body_bytes);
        let read = tokio::time::timeout(self.settings.body_time, reading).await;
        let read = read.map_err(|_| {
            ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "request_timeout",
                "the body took too long to arrive",
            )
        })?;
        let bytes = read.map_err(|error| {
            let inner = std::error::Error::source(&error);
            if inner.is_some_and(|inner| inner.is::<http_body_util::LengthLimitError>()) {
                return self.too_large();
            }
            ApiError::invalid("the body could not be read to its end")
        })?;
        Ok((parts, bytes))
    }

    fn too_large(&self) -> ApiError {
        let most = self.settings.body_bytes;
        let message = format!("the body is larger than {most} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    }

    fn finish(&self, result: Result<Response, ApiError>, shape: Shape) -> Response {
        result.unwrap_or_else(|error| {
            self.metrics.refuse(error.reason());
            match shape {
                Shape::OpenAi => error.into_response(),
                Shape::Simple => error.into_simple(),
            }
        })
    }

    async fn pass(
        &self,
        proxy: &Proxy,
        parts: request::Parts,
        body: Bytes,
    ) -> Result<Response, ApiError> {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        proxy.forward(parts.method, path, parts.headers, body).await
    }
}

async fn simple(State(app): State<Arc<App>>, request: Request) -> Response {
    let work = async {
        let (parts, bytes) = app.receive(request).await?;
        match &app.backend {
            Backend::Native(native) => native.simple(&bytes).await,
            Backend::Proxy(proxy) => proxy.simple(&bytes, parts.headers).await,
        }
    };
    let result = work.await;
    app.finish(result, Shape::Simple)
}

async fn chat(State(app): State<Arc<App>>, request: Request) -> Response {
    let work = async {
        let (parts, bytes) = app.receive(request).await?;
        match &app.backend {
            Backend::Native(native) => native.chat(&bytes).await,
            Backend::Proxy(proxy) => app.pass(proxy, parts, bytes).await,
        }
    };
    let result = work.await;
    app.finish(result, Shape::OpenAi)
}

async fn complete(State(app): State<Arc<App>>, request: Request) -> Response {
    let work = async {
        let (parts, bytes) = app.receive(request).await?;
        match &app.backend {
            Backend::Native(native) => native.complete(&bytes).await,
            Backend::Proxy(proxy) => app.pass(proxy, parts, bytes).await,
        }
    };
    let result = work.await;
    app.finish(result, Shape::OpenAi)
}

async fn models(State(app): State<Arc<App>>, request: Request) -> Response {
    let work = async {
        let (parts, bytes) = app.receive(request).await?;
        match &app.backend {
            Backend::Native(native) => Ok(Json(native.models()).into_response()),
            Backend::Proxy(proxy) => app.pass(proxy, parts, bytes).await,
        }
    };
    let result = work.await;
    app.finish(result, Shape::OpenAi)
}

/// Paths that only the upstream knows.
async fn other(State(app): State<Arc<App>>, request: Request) -> Response {
    let work = async {
        let (parts, bytes) = app.receive(request).await?;
        match &app.backend {
            Backend::Native(_) => Err(not_found(parts.uri.path())),
            Backend::Proxy(proxy) => app.pass(proxy, parts, bytes).await,
        }
    };
    let result = work.await;
    app.finish(result, Shape::OpenAi)
}

async fn health(State(app): State<Arc<App>>) -> Response {
    if app.stopping.load(std::sync::atomic::Ordering::Acquire) {
        return ApiError::draining().into_response();
    }
    let healthy = match &app.backend {
        Backend::Native(native) => native.health(),
        Backend::Proxy(proxy) => proxy.health().await,
    };
    match healthy {
        Ok(()) => Json(serde_json::json!({"status": "Healthy"})).into_response(),
        Err(mut error) => {
            error.status = StatusCode::SERVICE_UNAVAILABLE;
            error.into_response()
        }
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let own = app.metrics.text();
    let (kind, text) = match &app.backend {
        Backend::Native(_) => (
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            own,
        ),
        Backend::Proxy(proxy) => {
            // The upstream speaks the older format, which has no end mark.
            let own = own.trim_end().trim_end_matches("# EOF").to_owned();
            (
                "text/plain; version=0.0.4; charset=utf-8",
                own + &proxy.metrics().await,
            )
        }
    };
    let mut response = Response::new(Body::from(text));
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

async fn unknown(request: Request) -> ApiError {
    not_found(request.uri().path())
}

fn not_found(path: &str) -> ApiError {
    let known = "/chat, /v1/chat/completions, /v1/completions, /v1/models, /health and /metrics";
    let message = format!("{path} is not served; there are {known}");
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
}

async fn wrong_method(method: Method) -> ApiError {
    let message = format!("{method} is not for this path");
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        message,
    )
}
