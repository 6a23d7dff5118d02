//! Errors as clients see them.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::engine::Refused;
use crate::metrics::Refusal;
use crate::text;

/// Seconds after which a client that found the queue full may try again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("2");

/// An error with its status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// Short name for programs, in OpenAI's spelling.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

impl ApiError {
    /// An error of any kind.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    /// The request is not as it should be.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// The engine ended without an answer.
    #[must_use]
    pub fn engine_failed() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "engine_failed",
            "the engine failed while answering; the server restarts, try again",
        )
    }

    /// The server is about to end.
    #[must_use]
    pub fn draining() -> Self {
        Refused::Draining.into()
    }

    /// Under which reason it is counted.
    #[must_use]
    pub fn reason(&self) -> Refusal {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => Refusal::Full,
            StatusCode::SERVICE_UNAVAILABLE => Refusal::Draining,
            StatusCode::UNAUTHORIZED => Refusal::Unauthorised,
            StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => Refusal::Upstream,
            _ => Refusal::Invalid,
        }
    }

    /// The body that OpenAI's clients expect.
    #[must_use]
    pub fn body(&self) -> serde_json::Value {
        json!({"error": {"message": self.message, "type": self.code, "param": null, "code": self.code}})
    }

    /// The answer that clients of `/chat` expect: the text under `detail`.
    #[must_use]
    pub fn into_simple(self) -> Response {
        let body = json!({"detail": self.message});
        self.respond(body)
    }

    fn respond(self, body: serde_json::Value) -> Response {
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER);
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = self.body();
        self.respond(body)
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let (status, code) = match refused {
            Refused::Full { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded"),
            Refused::Draining => (StatusCode::SERVICE_UNAVAILABLE, "server_stopping"),
            Refused::TooLong { .. } => (StatusCode::BAD_REQUEST, "context_length_exceeded"),
        };
        Self::new(status, code, refused.to_string())
    }
}

impl From<text::Error> for ApiError {
    fn from(error: text::Error) -> Self {
        Self::invalid(error.to_string())
    }
}
