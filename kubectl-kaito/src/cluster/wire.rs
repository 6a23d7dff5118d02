//! What happens to every request and response: `Warning` headers, patience with a busy server, request logging.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use kube::client::Body;
use tower::{BoxError, Layer, Service, ServiceExt};

use crate::Context;
use crate::output::escape;
use crate::output::printer::Printer;

/// Most tries of one request that a busy server turned away, as in client-go.
const MAX_TRIES: u32 = 10;
/// Longest single pause; a server asking for more is treated as refusing.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Texts of the warnings received so far; clones share the set.
#[derive(Clone, Debug, Default)]
pub struct Warnings(Arc<Mutex<BTreeSet<String>>>);

impl Warnings {
    /// How many different warnings came.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Remembers a warning; false if it came before.
    fn is_new(&self, text: &str) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(text.to_owned())
    }
}

/// Puts the behaviour of this module around a client's service.
#[derive(Clone, Debug)]
pub struct WireLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    printer: Printer,
    warnings: Warnings,
    verbosity: u8,
    server: String,
    timeout: Option<Duration>,
}

impl WireLayer {
    /// A layer that reports on the context's printer.
    #[must_use]
    pub fn new(context: &Context, server: String) -> Self {
        let shared = Shared {
            printer: context.printer.clone(),
            warnings: context.warnings.clone(),
            verbosity: context.connection.verbosity,
            server,
            timeout: context.connection.request_timeout.0,
        };
        Self {
            shared: Arc::new(shared),
        }
    }
}

impl<S> Layer<S> for WireLayer {
    type Service = Wire<S>;

    fn layer(&self, inner: S) -> Wire<S> {
        Wire {
            inner: Arc::new(tokio::sync::Mutex::new(inner)),
            shared: Arc::clone(&self.shared),
        }
    }
}

/// The wrapped service. The inner one cannot be cloned, and a retry needs it again: hence the lock, which is held
/// only until the request is handed over.
#[derive(Debug)]
pub struct Wire<S> {
    inner: Arc<tokio::sync::Mutex<S>>,
    shared: Arc<Shared>,
}

impl<S, B> Service<Request<Body>> for Wire<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError> + Send + 'static,
    S::Future: Send,
    B: Send,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let inner = Arc::clone(&self.inner);
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let mut request = shared.prepare(request);
            for attempt in 1_u32.. {
                let again = copy(&request);
                let response = shared.send(&inner, request).await?;
                let Some((pause, next)) = pause_before_retry(&response, attempt).zip(again) else {
                    return Ok(response);
                };
                shared.announce(response.status(), pause, attempt);
                tokio::time::sleep(pause).await;
                request = next;
            }
            Err("the number of tries overflowed".into())
        })
    }
}

impl Shared {
    /// Tells the server how long we will wait, as kubectl does.
    fn prepare(&self, mut request: Request<Body>) -> Request<Body> {
        if let Some(uri) = self
            .timeout
            .and_then(|timeout| with_timeout(request.uri(), timeout))
        {
            *request.uri_mut() = uri;
        }
        request
    }

    async fn send<S, B>(
        &self,
        inner: &tokio::sync::Mutex<S>,
        request: Request<Body>,
    ) -> Result<Response<B>, BoxError>
    where
        S: Service<Request<Body>, Response = Response<B>, Error = BoxError> + Send,
    {
        let started = Instant::now();
        let line = format!(
            "{} {}{}",
            request.method(),
            self.server.trim_end_matches('/'),
            request.uri()
        );
        if self.verbosity >= 7 {
            self.log_headers("Request Headers", request.headers());
        }
        let future = inner.lock().await.ready().await?.call(request);
        let result = future.await;
        if self.verbosity >= 6 {
            let outcome = match &result {
                Ok(response) => response.status().to_string(),
                Err(error) => error.to_string(),
            };
            self.log(&format!(
                "{line} {outcome} in {} milliseconds",
                started.elapsed().as_millis()
            ));
        }
        let response = result?;
        if self.verbosity >= 7 {
            self.log_headers("Response Headers", response.headers());
        }
        self.report_warnings(response.headers());
        Ok(response)
    }

    fn announce(&self, status: StatusCode, pause: Duration, attempt: u32) {
        let _ = self.printer.note(&format!(
            "the server is busy ({status}); trying again in {}s ({} of {MAX_TRIES})",
            pause.as_secs_f64(),
            attempt + 1
        ));
    }

    fn report_warnings(&self, headers: &HeaderMap) {
        for value in headers.get_all(http::header::WARNING) {
            let Some(text) = String::from_utf8(value.as_bytes().to_vec())
                .ok()
                .and_then(|v| warning_text(&v))
            else {
                continue;
            };
            if self.warnings.is_new(&text) {
                let _ = self.printer.warning(&escape::single_line(&text));
            }
        }
    }

    fn log_headers(&self, title: &str, headers: &HeaderMap) {
        self.log(&format!("{title}:"));
        for (name, value) in headers {
            let shown = match name.as_str() {
                "authorization" | "proxy-authorization" | "cookie" | "set-cookie" => "<masked>",
                _ => value.to_str().unwrap_or("<binary>"),
            };
            self.log(&format!("    {name}: {}", escape::single_line(shown)));
        }
    }

    fn log(&self, text: &str) {
        let _ = self.printer.note(text);
    }
}

/// The same request again; none when its body is a stream.
fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let mut copied = Request::new(request.body().try_clone()?);
    *copied.method_mut() = request.method().clone();
    *copied.uri_mut() = request.uri().clone();
    *copied.headers_mut() = request.headers().clone();
    *copied.extensions_mut() = request.extensions().clone();
    Some(copied)
}

/// How long to wait before trying again: a busy server (429) always, an erring one only when it names a time.
fn pause_before_retry<B>(response: &Response<B>, attempt: u32) -> Option<Duration> {
    let named = response
        .headers()
        .get(http::header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(Duration::from_secs);
    let pause = match response.status() {
        StatusCode::TOO_MANY_REQUESTS => named.unwrap_or(Duration::from_secs(1)),
        status if status.is_server_error() => named?,
        _ => return None,
    };
    (attempt < MAX_TRIES && pause <= MAX_PAUSE).then_some(pause)
}

fn with_timeout(uri: &Uri, timeout: Duration) -> Option<Uri> {
    let separator = if uri.query().is_some() { '&' } else { '?' };
    format!("{uri}{separator}timeout={}s", timeout.as_secs().max(1))
        .parse()
        .ok()
}

/// Text of a header value `299 - "text"`; other codes are not ours to show.
fn warning_text(value: &str) -> Option<String> {
    let rest = value.strip_prefix("299 ")?;
    let quoted = rest.split_once('"')?.1;
    let mut text = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.extend(characters.next()),
            '"' => return Some(text),
            _ => text.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Response;

    use super::{pause_before_retry, warning_text, with_timeout};

    #[test]
    fn warning_headers_are_unquoted() {
        assert_eq!(
            warning_text(r#"299 - "say \"no\"" "date""#).as_deref(),
            Some(r#"say "no""#)
        );
        assert_eq!(warning_text(r#"199 - "other""#), None);
        assert_eq!(warning_text(r#"299 - "open"#), None);
    }

    #[test]
    fn only_a_busy_server_is_asked_again_and_not_for_ever() {
        let response = |status: u16, after: Option<&str>| {
            let builder = Response::builder().status(status);
            match after {
                Some(after) => builder.header("retry-after", after),
                None => builder,
            }
            .body(())
            .unwrap()
        };
        assert_eq!(
            pause_before_retry(&response(429, Some("3")), 1),
            Some(Duration::from_secs(3))
        );
        assert_eq!(
            pause_before_retry(&response(429, None), 1),
            Some(Duration::from_secs(1))
        );
        assert_eq!(
            pause_before_retry(&response(503, Some("2")), 1),
            Some(Duration::from_secs(2))
        );
        assert_eq!(pause_before_retry(&response(503, None), 1), None);
        assert_eq!(pause_before_retry(&response(200, Some("2")), 1), None);
        assert_eq!(pause_before_retry(&response(429, Some("3")), 10), None);
        assert_eq!(pause_before_retry(&response(429, Some("3600")), 1), None);
    }

    #[test]
    fn the_time_limit_is_told_to_the_server() {
        let with = |uri: &str| {
            with_timeout(&uri.parse().unwrap(), Duration::from_secs(5))
                .unwrap()
                .to_string()
        };
        assert_eq!(with("/api/v1/pods"), "/api/v1/pods?timeout=5s");
        assert_eq!(with("/api?limit=1"), "/api?limit=1&timeout=5s");
    }
}
