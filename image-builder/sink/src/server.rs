//! Connections and routes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::auth::{Access, Tokens};
use crate::body::Answer;
use crate::faults::{Fault, Faults, Seen};
use crate::state::{Blob, Content, Keep, Record, Referrers, State};
use crate::{blobs, manifests, uploads};

/// How the registry behaves.
#[derive(Clone, Default)]
pub struct Options {
    /// What becomes of blobs.
    pub keep: Keep,
    /// Whether referrers are listed.
    pub referrers: Referrers,
    /// Tokens that are wanted; `None` lets everyone in.
    pub access: Option<Access>,
    /// What goes wrong.
    pub faults: Option<Faults>,
    /// The smallest part of an upload, in bytes, that is announced.
    pub chunk_minimum: Option<u64>,
    /// The largest request body that is taken, in bytes: more is answered with 413.
    pub most_body: Option<u64>,
}

/// A running registry. It stops when it is dropped.
pub struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) tokens: Tokens,
    state: Mutex<State>,
    requests: AtomicU64,
    /// Bytes of uploads that have arrived, those of unfinished requests included.
    pub(crate) arrived: AtomicU64,
    host: String,
}

/// A request with all that handlers need, except its body.
pub(crate) struct Asked {
    pub(crate) method: Method,
    /// Path without query.
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) fault: Option<Fault>,
}

/// Why a request has no answer.
pub(crate) struct Cut;

pub(crate) type Answered = Result<Response<Answer>, Cut>;

impl Sink {
    /// Starts a registry on a free port of this machine.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn start(options: Options) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            options,
            tokens: Tokens::default(),
            state: Mutex::default(),
            requests: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
            host: address.to_string(),
        });
        let serving = Arc::clone(&shared);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                tokio::spawn(serve(stream, Arc::clone(&serving)));
            }
        });
        Ok(Self {
            address,
            shared,
            server,
        })
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The requests so far, in the order in which they ended.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.shared.state().records.clone()
    }

    /// Forgets the requests so far.
    pub fn forget_records(&self) {
        self.shared.state().records.clear();
    }

    /// Bytes of uploads in the requests that are on record.
    #[must_use]
    pub fn received(&self) -> u64 {
        let state = self.shared.state();
        let uploads = state
            .records
            .iter()
            .filter(|record| record.path.contains("/blobs/uploads/"));
        uploads.map(|record| record.received).sum()
    }

    /// Bytes of uploads that have arrived since the start, those of requests that go on included.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.shared.arrived.load(Ordering::Relaxed)
    }

    /// The bytes of a blob that was kept, from any repository.
    #[must_use]
    pub fn blob(&self, digest: &str) -> Option<Bytes> {
        match &self.shared.state().blobs.get(digest)?.content {
            Content::Memory(bytes) => Some(bytes.clone()),
            Content::File(_) | Content::Dropped => None,
        }
    }

    /// The type and bytes of a manifest, by tag or digest.
    #[must_use]
    pub fn manifest(&self, repository: &str, selector: &str) -> Option<(String, Bytes)> {
        let state = self.shared.state();
        let repository = state.repositories.get(repository)?;
        let digest = repository
            .tags
            .get(selector)
            .map_or(selector, String::as_str);
        let manifest = repository.manifests.get(digest)?;
        Some((manifest.media_type.clone(), manifest.bytes.clone()))
    }

    /// Whether a repository has a blob.
    #[must_use]
    pub fn has(&self, repository: &str, digest: &str) -> bool {
        self.shared.state().blob(repository, digest).is_some()
    }

    /// Puts a blob into a repository.
    pub fn add_blob(&self, repository: &str, digest: &str, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let blob = Blob {
            size: bytes.len() as u64,
            content: Content::Memory(bytes),
        };
        self.shared.state().add_blob(repository, digest, blob);
    }

    /// Lets a file of this machine be a blob: it is read when it is pulled.
    pub fn add_file(&self, repository: &str, digest: &str, path: &std::path::Path, size: u64) {
        let blob = Blob {
            size,
            content: Content::File(path.to_owned()),
        };
        self.shared.state().add_blob(repository, digest, blob);
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(stream: tokio::net::TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move {
            handle(&shared, request)
                .await
                .map_err(|Cut| std::io::Error::other("cut"))
        }
    });
    // A client that goes away is no event here.
    let _ = http1::Builder::new()
        .max_buf_size(1 << 20)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn handle(shared: &Shared, request: Request<Incoming>) -> Answered {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let mut asked = Asked {
        method: parts.method,
        path,
        query,
        headers: parts.headers,
        fault: None,
    };
    let number = shared.requests.fetch_add(1, Ordering::Relaxed);
    if let Some(faults) = &shared.options.faults {
        asked.fault = faults(&seen(&asked, number));
    }
    let mut received = 0;
    let answered = route(shared, &asked, body, &mut received).await;
    let answered = match (answered, &asked.fault) {
        (Ok(_), Some(Fault::LoseAnswer)) => Err(Cut),
        (answered, _) => answered,
    };
    shared.state().records.push(Record {
        method: asked.method.to_string(),
        path: with_query(&asked),
        status: answered
            .as_ref()
            .map_or(0, |response| response.status().as_u16()),
        length: asked.length(),
        received,
        authorized: asked.headers.contains_key("authorization"),
        range: asked.header("range").map(str::to_owned),
    });
    answered
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(self.query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }
}

fn with_query(asked: &Asked) -> String {
    if asked.query.is_empty() {
        asked.path.clone()
    } else {
        format!("{}?{}", asked.path, asked.query)
    }
}

fn seen(asked: &Asked, number: u64) -> Seen {
    Seen {
        number,
        method: asked.method.to_string(),
        path: with_query(asked),
        length: asked.length(),
        has_range: asked.headers.contains_key("range"),
    }
}

async fn route(shared: &Shared, asked: &Asked, body: Incoming, received: &mut u64) -> Answered {
    if let Some(Fault::Answer(status, headers)) = &asked.fault {
        let_pass(body);
        return Ok(fault_answer(*status, headers));
    }
    if let Some(digest) = asked.path.strip_prefix("/storage/") {
        return blobs::read(shared, asked, None, digest);
    }
    if let Some(access) = &shared.options.access {
        if asked.path == "/token" && asked.method == Method::GET {
            return Ok(shared.tokens.token(access, &asked.headers, &asked.query));
        }
        if asked.path.starts_with("/oauth2/") && asked.method == Method::POST {
            let form = collect(body, received).await?;
            return Ok(shared.tokens.azure(access, &asked.path, &form));
        }
        let needed = needed(asked);
        let needed = needed
            .as_ref()
            .map(|(repository, action)| (repository.as_str(), *action));
        if let Some(refusal) = shared
            .tokens
            .check(access, &shared.host, &asked.headers, needed)
        {
            return Ok(refusal);
        }
    }
    if let (Some(most), Some(length)) = (shared.options.most_body, asked.length())
        && length > most
    {
        let_pass(body);
        return Ok(problem(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID"));
    }
    registry(shared, asked, body, received).await
}

/// Reads on while the answer is on its way, as patient servers do: a connection that is closed over unread bytes may be
/// reset before the client has seen the answer.
fn let_pass(mut body: Incoming) {
    tokio::spawn(async move { while body.frame().await.is_some_and(|frame| frame.is_ok()) {} });
}

async fn registry(shared: &Shared, asked: &Asked, body: Incoming, received: &mut u64) -> Answered {
    let Some(path) = asked.path.strip_prefix("/v2/") else {
        return Ok(problem(StatusCode::NOT_FOUND, "UNSUPPORTED"));
    };
    if path.is_empty() {
        return Ok(answer(StatusCode::OK, "{}"));
    }
    if let Some((repository, upload)) = path.split_once("/blobs/uploads/") {
        return uploads::handle(shared, asked, repository, upload, body, received).await;
    }
    if let Some((repository, digest)) = path.split_once("/blobs/") {
        return blobs::read(shared, asked, Some(repository), digest);
    }
    if let Some((repository, selector)) = path.split_once("/manifests/") {
        let bytes = collect(body, received).await?;
        return Ok(manifests::handle(
            shared, asked, repository, selector, bytes,
        ));
    }
    if let Some((repository, digest)) = path.split_once("/referrers/") {
        return Ok(manifests::referrers(shared, asked, repository, digest));
    }
    match path.strip_suffix("/tags/list") {
        Some(repository) => Ok(manifests::tags(shared, repository)),
        None => Ok(problem(StatusCode::NOT_FOUND, "UNSUPPORTED")),
    }
}

/// What a token must allow for a request.
fn needed(asked: &Asked) -> Option<(String, &'static str)> {
    let path = asked.path.strip_prefix("/v2/")?;
    let marks = ["/blobs/", "/manifests/", "/referrers/", "/tags/"];
    let at = marks.iter().filter_map(|mark| path.find(mark)).min()?;
    let repository = path.get(..at)?.to_owned();
    let action = match asked.method {
        Method::GET | Method::HEAD if !path.contains("/blobs/uploads/") => "pull",
        Method::DELETE if !path.contains("/blobs/uploads/") => "delete",
        _ => "push",
    };
    Some((repository, action))
}

async fn collect(body: Incoming, received: &mut u64) -> Result<Bytes, Cut> {
    let bytes = body.collect().await.map_err(|_| Cut)?.to_bytes();
    *received += bytes.len() as u64;
    Ok(bytes)
}

fn fault_answer(status: u16, headers: &[(String, String)]) -> Response<Answer> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = problem(status, "ON_PURPOSE");
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (name.parse::<http::HeaderName>(), value.parse()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

pub(crate) fn answer(status: StatusCode, body: impl Into<Bytes>) -> Response<Answer> {
    let mut response = Response::new(Answer::memory(body));
    *response.status_mut() = status;
    response
}

pub(crate) fn problem(status: StatusCode, code: &str) -> Response<Answer> {
    let body = json!({"errors": [{"code": code, "message": "said the sink"}]});
    answer(status, body.to_string())
}

/// Sets a header whose value is known to be valid.
pub(crate) fn set(response: &mut Response<Answer>, name: &'static str, value: &str) {
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(name, value);
    }
}
