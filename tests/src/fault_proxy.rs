//! A proxy in front of the API server that fails on purpose: what it refuses, loses or cuts, a busy or dying API server
//! and a bad network refuse, lose and cut as well.
//!
//! It listens on 127.0.0.1 without TLS and passes everything on, credentials included; it keeps nothing and decides
//! nothing but which fault comes next, by the rule that the test gives it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, BodyStream, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// What happens to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It is not passed on; the answer has this status (409, 429, 500, 503…).
    Refused(u16),
    /// It is not passed on, and the connection ends without an answer.
    Unsent,
    /// It is passed on and carried out; the connection ends without an answer.
    Unanswered,
    /// As [`Fault::Unanswered`], and from now on no write gets through until [`FaultProxy::recover`]: the test kills
    /// the client meanwhile.
    Crash,
}

/// A write on its way: what a rule decides on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    /// `POST`, `PUT`, `PATCH`, `DELETE`.
    pub method: Method,
    /// Path without the query.
    pub path: String,
    /// How often the same method and path were seen before.
    pub before: usize,
}

impl Write {
    /// Reports to people and the leader's own lease: not what a decision is made of.
    #[must_use]
    pub fn is_aside(&self) -> bool {
        self.path.contains("/events") || self.path.contains("/leases")
    }

    /// The namespace in the path, if any.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        let (_, rest) = self.path.split_once("/namespaces/")?;
        rest.split('/').next()
    }
}

/// Decides the fault of a write.
pub type Rule = Arc<dyn Fn(&Write) -> Option<Fault> + Send + Sync>;

/// How the proxy fails.
#[derive(Clone)]
pub struct Faults {
    /// Faults of writes.
    pub rule: Rule,
    /// After this time every watch is cut in the middle.
    pub watch_life: Option<Duration>,
}

struct State {
    upstream: Client,
    faults: Faults,
    seen: Mutex<HashMap<(Method, String), usize>>,
    hit: Mutex<Vec<(Write, Fault)>>,
    down: Mutex<bool>,
    crashes: mpsc::UnboundedSender<Write>,
}

/// A running proxy; it ends when it is dropped.
pub struct FaultProxy {
    address: SocketAddr,
    state: Arc<State>,
    crashed: mpsc::UnboundedReceiver<Write>,
    server: JoinHandle<()>,
}

type AnswerBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

impl FaultProxy {
    /// Starts on a free port. `upstream` reaches the API server without credentials of its own.
    ///
    /// # Errors
    /// The system's, if no port can be had.
    pub async fn start(upstream: Client, faults: Faults) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (crashes, crashed) = mpsc::unbounded_channel();
        let state = Arc::new(State {
            upstream,
            faults,
            seen: Mutex::default(),
            hit: Mutex::default(),
            down: Mutex::default(),
            crashes,
        });
        let server = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self {
            address,
            state,
            crashed,
            server,
        })
    }

    /// URL that clients use in the API server's place.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits for the next [`Fault::Crash`] and says after which write it came; never returns without one.
    pub async fn crash(&mut self) -> Write {
        match self.crashed.recv().await {
            Some(write) => write,
            None => std::future::pending().await,
        }
    }

    /// Lets writes through again.
    pub fn recover(&self) {
        *lock(&self.state.down) = false;
    }

    /// All faults so far, in order.
    #[must_use]
    pub fn hits(&self) -> Vec<(Write, Fault)> {
        lock(&self.state.hit).clone()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Dropped, and so ended, with this task.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(serve(stream, Arc::clone(&state)));
    }
}

/// One connection. A fault that gives no answer is an error of the service, which makes hyper close the connection.
async fn serve(stream: TcpStream, state: Arc<State>) {
    let service = service_fn(move |request| answer(request, Arc::clone(&state)));
    let _closed = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<State>,
) -> Result<Response<AnswerBody>, io::Error> {
    let fault = next_fault(&request, &state);
    match fault {
        Some(Fault::Refused(status)) => return Ok(refusal(status)),
        Some(Fault::Unsent) => return Err(io::ErrorKind::ConnectionReset.into()),
        Some(Fault::Unanswered | Fault::Crash) | None => {}
    }
    let crash = (fault == Some(Fault::Crash)).then(|| write_of(&request, 0));
    let watching = request
        .uri()
        .query()
        .is_some_and(|query| query.contains("watch=true"));
    let passed = pass_on(request, &state.upstream).await;
    if let Some(write) = crash {
        let _test_is_gone = state.crashes.send(write);
    }
    if fault.is_some() {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    let (parts, body) = passed?.into_parts();
    let body = match state.faults.watch_life.filter(|_| watching) {
        Some(life) => StreamBody::new(cut(BodyStream::new(body), life)).boxed_unsync(),
        None => body.map_err(Into::into).boxed_unsync(),
    };
    Ok(Response::from_parts(parts, body))
}

fn write_of(request: &Request<Incoming>, before: usize) -> Write {
    Write {
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        before,
    }
}

fn next_fault(request: &Request<Incoming>, state: &State) -> Option<Fault> {
    if request.method() == Method::GET {
        return None;
    }
    let mut down = lock(&state.down);
    if *down {
        return Some(Fault::Unsent);
    }
    let before = {
        let mut seen = lock(&state.seen);
        let key = (request.method().clone(), request.uri().path().to_owned());
        let count = seen.entry(key).or_default();
        *count += 1;
        *count - 1
    };
    let write = write_of(request, before);
    let fault = (state.faults.rule)(&write)?;
    *down = fault == Fault::Crash;
    lock(&state.hit).push((write, fault));
    Some(fault)
}

async fn pass_on(request: Request<Incoming>, upstream: &Client) -> io::Result<Response<Body>> {
    let (mut parts, body) = request.into_parts();
    parts.headers.remove(header::HOST);
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let request = Request::from_parts(parts, Body::from(body.to_vec()));
    upstream.send(request).await.map_err(io::Error::other)
}

/// The stream until `life` is over, then an error in the middle of it.
fn cut<S, E>(
    stream: S,
    life: Duration,
) -> impl Stream<Item = Result<Frame<Bytes>, Box<dyn std::error::Error + Send + Sync>>>
where
    S: Stream<Item = Result<Frame<Bytes>, E>>,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let end = Box::pin(tokio::time::sleep(life));
    let cut = futures::stream::once(async {
        Err(io::Error::from(io::ErrorKind::ConnectionReset).into())
    });
    stream
        .map(|frame| frame.map_err(Into::into))
        .take_until(end)
        .chain(cut)
}

fn refusal(status: u16) -> Response<AnswerBody> {
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let reason = match status {
        409 => "Conflict",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    let body = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "metadata": {},
        "code": status, "reason": reason, "message": "refused by the fault proxy",
    });
    let body = Full::new(Bytes::from(body.to_string()));
    let mut response = Response::new(
        body.map_err(|never: Infallible| match never {})
            .boxed_unsync(),
    );
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    if status == 429 {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
