//! The endpoints before another server, vLLM on the same machine: requests and answers pass through unchanged, streams
//! piece by piece; `/chat` is translated.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, Uri, header, uri};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt};
use http_body_util::{BodyExt, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;
use super::openai::parse;
use super::simple::{Continued, Length, Question, SimpleBody};
use crate::engine::Refused;
use crate::metrics::{End, Metrics};

/// Seconds to reach the upstream: it is on this machine.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest wait for an answer to begin; one that is not streamed begins at its end.
const BEGIN: Duration = Duration::from_secs(900);
/// Longest wait for the upstream's health and metrics.
const PROBE: Duration = Duration::from_secs(3);
/// Most bytes of an answer that is not streamed.
const LARGEST: usize = 64 << 20;

/// Headers that belong to one connection (RFC 9110, section 7.6.1), or that are written anew.
const OWN: [header::HeaderName; 9] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
    header::CONTENT_LENGTH,
];

/// Another server as a backend.
#[derive(Debug)]
pub struct Proxy {
    client: Client<HttpConnector, Body>,
    upstream: Uri,
    model: String,
    places: Arc<Semaphore>,
    most: usize,
    metrics: Metrics,
}

/// Why an address cannot be one of an upstream.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not the address of an upstream; write http://HOST:PORT")]
pub struct BadUpstream(pub Uri);

impl Proxy {
    /// A backend with at most `most` requests at once; `model` is the name that `/chat` asks for.
    ///
    /// # Errors
    /// [`BadUpstream`] if the address is not plain HTTP with a host.
    pub fn new(
        upstream: Uri,
        model: String,
        most: usize,
        metrics: Metrics,
    ) -> Result<Self, BadUpstream> {
        if upstream.scheme() != Some(&uri::Scheme::HTTP) || upstream.authority().is_none() {
            return Err(BadUpstream(upstream));
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            upstream,
            model,
            places: Arc::new(Semaphore::new(most)),
            most,
            metrics,
        })
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map_err(|_| Refused::Full { waiting: self.most }.into())
    }

    /// Sends a request on and waits until the answer begins.
    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<hyper::body::Incoming>, ApiError> {
        let mut parts = self.upstream.clone().into_parts();
        parts.path_and_query = path.parse().ok();
        let target = Uri::from_parts(parts)
            .map_err(|_| ApiError::invalid("the path of the request is not valid"))?;
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = method;
        *request.uri_mut() = target;
        *request.headers_mut() = headers;
        for own in OWN {
            request.headers_mut().remove(own);
        }
        self.client.request(request).await.map_err(|error| {
            tracing::warn!(error = chain(&error), "the upstream does not answer");
            unreachable_upstream()
        })
    }

    /// Passes a request and its answer through.
    pub(super) async fn forward(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response, ApiError> {
        let place = self.place()?;
        let arrived = Instant::now();
        let sent = tokio::time::timeout(BEGIN, self.send(method, path, headers, body)).await;
        let answer = sent.map_err(|_| timed_out())??;
        let (mut parts, body) = answer.into_parts();
        for own in OWN {
            parts.headers.remove(own);
        }
        let kind = parts.headers.get(header::CONTENT_TYPE);
        let streamed = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if streamed {
            let passing = Passing {
                frames: Box::pin(body.into_data_stream()),
                _place: place,
                metrics: self.metrics.clone(),
                arrived,
                last: None,
            };
            return Ok(Response::from_parts(
                parts,
                Body::from_stream(passing.stream()),
            ));
        }
        let bytes = whole(body).await?;
        if parts.status.is_success() {
            self.metrics.finish(End::Stop, arrived.elapsed());
        }
        Ok(Response::from_parts(parts, Body::from(bytes)))
    }

    pub(super) async fn simple(
        &self,
        bytes: &[u8],
        headers: HeaderMap,
    ) -> Result<Response, ApiError> {
        let body: SimpleBody = parse(bytes)?;
        let question = body.question()?;
        let prompt = match &question {
            Question::Prompt(prompt) => Some(prompt.clone()),
            Question::Messages(_) => None,
        };
        let messages = match question {
            Question::Prompt(prompt) => json!([{"role": "user", "content": prompt}]),
            Question::Messages(messages) => json!(messages),
        };
        let mut ask = self.settings(&body)?;
        ask.insert("messages".to_owned(), messages);
        let answered = self
            .ask("/v1/chat/completions", &ask, headers.clone())
            .await;
        match (answered, prompt) {
            // A model without a chat template only continues texts.
            (Err(error), Some(prompt))
                if error.status == StatusCode::BAD_REQUEST
                    && error.message.contains("chat template") =>
            {
                ask.remove("messages");
                ask.insert("prompt".to_owned(), json!(prompt));
                let answer = self.ask("/v1/completions", &ask, headers).await?;
                let text = text_of(&answer, "/choices/0/text")?;
                Ok(Json(body.answer(text, Continued::Text)).into_response())
            }
            (answered, _) => {
                let answer = answered?;
                let text = text_of(&answer, "/choices/0/message/content")?;
                Ok(Json(body.answer(text, Continued::Conversation)).into_response())
            }
        }
    }

    fn settings(&self, body: &SimpleBody) -> Result<serde_json::Map<String, Value>, ApiError> {
        let sampling = body.sampling(0)?;
        let mut ask = serde_json::Map::new();
        let model = body.model.as_deref().unwrap_or(&self.model);
        ask.insert("model".to_owned(), json!(model));
        ask.insert("temperature".to_owned(), json!(sampling.temperature));
        ask.insert("top_p".to_owned(), json!(sampling.top_p));
        if sampling.top_k > 0 {
            ask.insert("top_k".to_owned(), json!(sampling.top_k));
        }
        ask.insert(
            "repetition_penalty".to_owned(),
            json!(sampling.repetition_penalty),
        );
        // The upstream counts the answer alone; how long the prompt is only it knows.
        if let Length::New(most) | Length::Total(most) = body.length() {
            ask.insert("max_tokens".to_owned(), json!(most.max(1)));
        }
        Ok(ask)
    }

    async fn ask(
        &self,
        path: &str,
        ask: &serde_json::Map<String, Value>,
        mut headers: HeaderMap,
    ) -> Result<Value, ApiError> {
        headers.insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/json"),
        );
        headers.remove(header::ACCEPT_ENCODING);
        let body = Bytes::from(Value::Object(ask.clone()).to_string());
        let answer = self.forward(Method::POST, path, headers, body).await?;
        let status = answer.status();
        let bytes = axum::body::to_bytes(answer.into_body(), LARGEST).await;
        let bytes = bytes.map_err(|_| unreachable_upstream())?;
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if status.is_success() {
            return Ok(value);
        }
        let message = ["/error/message", "/message", "/detail"]
            .iter()
            .find_map(|path| value.pointer(path)?.as_str())
            .unwrap_or("the upstream refused without a reason");
        Err(ApiError::new(status, "upstream_error", message))
    }

    /// Whether the upstream says that it is healthy.
    pub(super) async fn health(&self) -> Result<(), ApiError> {
        let (status, _) = self.probe("/health").await?;
        if status.is_success() {
            return Ok(());
        }
        let message = format!("the upstream answers {status} to /health; it may still be loading");
        Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "upstream_unhealthy",
            message,
        ))
    }

    /// The upstream's own metrics; empty if it has none to give.
    pub(super) async fn metrics(&self) -> String {
        match self.probe("/metrics").await {
            Ok((StatusCode::OK, bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
            _ => String::new(),
        }
    }

    async fn probe(&self, path: &str) -> Result<(StatusCode, Bytes), ApiError> {
        let asked = async {
            let answer = self
                .send(Method::GET, path, HeaderMap::new(), Bytes::new())
                .await?;
            let (parts, body) = answer.into_parts();
            Ok((parts.status, whole(body).await?))
        };
        tokio::time::timeout(PROBE, asked)
            .await
            .map_err(|_| timed_out())?
    }
}

fn text_of<'a>(answer: &'a Value, path: &str) -> Result<&'a str, ApiError> {
    let text = answer.pointer(path).and_then(Value::as_str);
    text.ok_or_else(|| {
        let message = "the upstream answered something that is not a completion";
        ApiError::new(StatusCode::BAD_GATEWAY, "upstream_error", message)
    })
}

async fn whole(body: hyper::body::Incoming) -> Result<Bytes, ApiError> {
    let collected = Limited::new(body, LARGEST).collect().await;
    collected
        .map(http_body_util::Collected::to_bytes)
        .map_err(|_| broken_off())
}

fn unreachable_upstream() -> ApiError {
    let message = "the model server behind this one does not answer; it may be starting";
    ApiError::new(StatusCode::BAD_GATEWAY, "upstream_unreachable", message)
}

fn broken_off() -> ApiError {
    let message = "the model server behind this one broke off its answer; try again";
    ApiError::new(StatusCode::BAD_GATEWAY, "upstream_broken_off", message)
}

fn timed_out() -> ApiError {
    let message = "the model server behind this one took too long";
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", message)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// A stream on its way through; it holds its place until it ends or its client goes.
struct Passing {
    frames: Pin<Box<dyn Stream<Item = Result<Bytes, hyper::Error>> + Send>>,
    _place: OwnedSemaphorePermit,
    metrics: Metrics,
    arrived: Instant,
    last: Option<Instant>,
}

impl Passing {
    fn stream(self) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Send {
        stream::unfold(Some(self), |state| async move {
            let mut passing = state?;
            match passing.frames.next().await {
                Some(Ok(bytes)) => {
                    passing.measure();
                    Some((Ok(bytes), Some(passing)))
                }
                Some(Err(error)) => {
                    tracing::warn!(error = chain(&error), "the upstream broke off a stream");
                    passing
                        .metrics
                        .finish(End::Failed, passing.arrived.elapsed());
                    // A blank line first: the break may lie in the middle of an event.
                    let event = format!("\n\ndata: {}\n\n", broken_off().body());
                    Some((Ok(Bytes::from(event)), None))
                }
                None => {
                    passing.metrics.finish(End::Stop, passing.arrived.elapsed());
                    None
                }
            }
        })
    }

    fn measure(&mut self) {
        let now = Instant::now();
        match self.last.replace(now) {
            None => self
                .metrics
                .first_token
                .observe((now - self.arrived).as_secs_f64()),
            Some(last) => self
                .metrics
                .between_tokens
                .observe((now - last).as_secs_f64()),
        }
    }
}
