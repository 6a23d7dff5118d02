//! A web server with the faults that sources must survive, and tests of plain addresses against it.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use super::{ClientOptions, HttpSource, Reach, client};
use crate::source::{Source, SourceError};

/// A body that may break.
type Body = BoxBody<Bytes, std::io::Error>;

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) range: Option<(u64, u64)>,
    pub(crate) authorization: Option<String>,
}

/// What the server does with one request instead of serving it.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Answers with this status.
    Status(u16),
    /// Breaks the connection after so many bytes of the body.
    Cut(usize),
}

/// What is served at a path.
#[derive(Clone, Debug)]
pub(crate) enum Served {
    /// A file with an entity tag; whether ranges are understood.
    File {
        bytes: Bytes,
        tag: String,
        ranges: bool,
    },
    /// A redirect.
    Redirect(String),
    /// JSON, and the address of the next page.
    Json(String, Option<String>),
    /// A refusal with headers.
    Refusal(u16, Vec<(&'static str, &'static str)>),
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) served: BTreeMap<String, Served>,
    pub(crate) faults: VecDeque<Fault>,
    pub(crate) seen: Vec<Seen>,
}

/// A web server on a port of its own; it ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<Mutex<State>>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = shared.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let response = respond(&mut state.lock().unwrap(), &request);
                        async move { Ok::<_, Infallible>(response) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, state }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn serve(&self, path: &str, served: Served) {
        self.state
            .lock()
            .unwrap()
            .served
            .insert(path.to_owned(), served);
    }

    pub(crate) fn fail_next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().unwrap().faults.extend(faults);
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }
}

fn respond(state: &mut State, request: &Request<Incoming>) -> Response<Body> {
    let path = request.uri().path_and_query().unwrap().to_string();
    let text = |name: &str| {
        let value = request.headers().get(name)?.to_str().unwrap();
        Some(value.to_owned())
    };
    let range = text("range").map(|value| {
        let (start, end) = value
            .strip_prefix("bytes=")
            .unwrap()
            .split_once('-')
            .unwrap();
        (start.parse().unwrap(), end.parse::<u64>().unwrap() + 1)
    });
    state.seen.push(Seen {
        path: path.clone(),
        range,
        authorization: text("authorization"),
    });
    let mut cut = None;
    match state.faults.pop_front() {
        Some(Fault::Status(status)) => return plain(status, &[]),
        Some(Fault::Cut(length)) => cut = Some(length),
        None => {}
    }
    match state.served.get(&path) {
        None => plain(404, &[]),
        Some(Served::Refusal(status, headers)) => plain(*status, headers),
        Some(Served::Redirect(to)) => {
            let mut response = plain(302, &[]);
            response
                .headers_mut()
                .insert("location", to.parse().unwrap());
            response
        }
        Some(Served::Json(body, next)) => {
            let mut response = full(200, Bytes::from(body.clone()), None);
            if let Some(next) = next {
                let link = format!("<{next}>; rel=\"next\"");
                response.headers_mut().insert("link", link.parse().unwrap());
            }
            response
        }
        Some(Served::File { bytes, tag, ranges }) => {
            file(bytes, tag, range.filter(|_| *ranges), cut)
        }
    }
}

fn file(bytes: &Bytes, tag: &str, range: Option<(u64, u64)>, cut: Option<usize>) -> Response<Body> {
    let total = bytes.len() as u64;
    let (status, content, start) = match range {
        Some((start, _)) if start >= total => return plain(416, &[]),
        Some((start, end)) => {
            let end = end.min(total);
            (206, bytes.slice(start as usize..end as usize), start)
        }
        None => (200, bytes.clone(), 0),
    };
    let end = start + content.len() as u64;
    let mut response = full(status, content, cut);
    response.headers_mut().insert("etag", tag.parse().unwrap());
    if status == 206 {
        let value = format!("bytes {start}-{}/{total}", end - 1);
        response
            .headers_mut()
            .insert("content-range", value.parse().unwrap());
    }
    response
}

fn plain(status: u16, headers: &[(&'static str, &'static str)]) -> Response<Body> {
    let mut response = full(status, Bytes::new(), None);
    for (name, value) in headers {
        response.headers_mut().insert(*name, value.parse().unwrap());
    }
    response
}

/// A response whose connection breaks after `cut` bytes.
fn full(status: u16, content: Bytes, cut: Option<usize>) -> Response<Body> {
    let length = content.len();
    let body = match cut {
        None => Full::new(content).map_err(|never| match never {}).boxed(),
        Some(cut) => {
            let sent = content.slice(..cut.min(length));
            let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
            let frames = [Ok(Frame::data(sent)), Err(broken)];
            // Streams have a method of that name, too.
            BodyExt::boxed(StreamBody::new(futures::stream::iter(frames)))
        }
    };
    Response::builder()
        .status(status)
        .header("content-length", length)
        .body(body)
        .unwrap()
}

/// `length` bytes that differ from place to place.
pub(crate) fn pattern(length: usize) -> Bytes {
    (0..length).map(|n| (n * 31 % 251) as u8).collect()
}

pub(crate) async fn content(
    source: &dyn Source,
    path: &str,
    range: std::ops::Range<u64>,
) -> Result<Vec<u8>, SourceError> {
    let stream = source.read(path, range).await?;
    let pieces: Vec<Bytes> = stream.try_collect().await?;
    Ok(pieces.concat())
}

async fn source(server: &Server, bytes: &Bytes, ranges: bool) -> HttpSource {
    server.serve(
        "/m.gguf?sig=secret",
        Served::File {
            bytes: bytes.clone(),
            tag: "\"v1\"".to_owned(),
            ranges,
        },
    );
    let url = server.url("/m.gguf?sig=secret").parse().unwrap();
    let source = HttpSource::new(
        client(&ClientOptions::default()).unwrap(),
        url,
        Reach::Anywhere,
    );
    let tree = source.list().await.unwrap();
    assert_eq!(tree.files[0].size, bytes.len() as u64);
    assert_eq!(tree.files[0].path, "m.gguf");
    assert!(!tree.url.unwrap().contains("secret"));
    source
}

#[tokio::test]
async fn a_large_file_comes_in_parallel_parts_and_in_order() {
    let server = Server::start().await;
    let bytes = pattern((11 << 20) + 7);
    let source = source(&server, &bytes, true).await;
    let size = bytes.len() as u64;
    assert_eq!(content(&source, "m.gguf", 0..size).await.unwrap(), bytes);
    let parts = server
        .seen()
        .iter()
        .filter(|seen| seen.range.is_some_and(|(s, e)| e - s > 1))
        .count();
    assert_eq!(parts, 3);
    assert_eq!(
        content(&source, "m.gguf", 5..105).await.unwrap(),
        &bytes[5..105]
    );
}

#[tokio::test]
async fn broken_connections_and_busy_servers_are_survived_where_they_broke() {
    let server = Server::start().await;
    let bytes = pattern(2 << 20);
    let source = source(&server, &bytes, true).await;
    server.fail_next([Fault::Status(503), Fault::Cut(1 << 20), Fault::Cut(100)]);
    assert_eq!(content(&source, "m.gguf", 0..2 << 20).await.unwrap(), bytes);
    let starts: Vec<u64> = server
        .seen()
        .iter()
        .filter_map(|seen| Some(seen.range?.0))
        .collect();
    // What went over the wire before a cut is not asked for again, however much of it hyper handed on.
    assert_eq!(starts[..3], [0, 0, 0]);
    assert!(starts[3] > 0 && starts[3] <= 1 << 20, "{starts:?}");
}

#[tokio::test]
async fn a_server_without_ranges_is_read_as_one_stream() {
    let server = Server::start().await;
    let bytes = pattern(9 << 20);
    let source = source(&server, &bytes, false).await;
    let size = bytes.len() as u64;
    assert_eq!(content(&source, "m.gguf", 0..size).await.unwrap(), bytes);
    assert_eq!(
        content(&source, "m.gguf", 100..200).await.unwrap(),
        &bytes[100..200]
    );
}

#[tokio::test]
async fn a_file_that_is_replaced_between_two_parts_is_an_error() {
    let server = Server::start().await;
    let bytes = pattern(12 << 20);
    let source = source(&server, &bytes, true).await;
    assert!(content(&source, "m.gguf", 0..12 << 20).await.is_ok());
    server.serve(
        "/m.gguf?sig=secret",
        Served::File {
            bytes: pattern(12 << 20),
            tag: "\"v2\"".to_owned(),
            ranges: true,
        },
    );
    let error = content(&source, "m.gguf", 0..12 << 20).await.unwrap_err();
    assert!(matches!(error, SourceError::Changed { .. }), "{error}");
}

#[tokio::test]
async fn refusals_say_what_to_do_and_never_show_a_signature() {
    let server = Server::start().await;
    server.serve("/x?sig=secret", Served::Refusal(403, vec![]));
    let url = server.url("/x?sig=secret").parse().unwrap();
    let source = HttpSource::new(
        client(&ClientOptions::default()).unwrap(),
        url,
        Reach::Anywhere,
    );
    let error = source.list().await.unwrap_err().to_string();
    assert!(
        error.contains("403") && error.contains("signed address"),
        "{error}"
    );
    assert!(!error.contains("secret"), "{error}");
}

#[tokio::test]
async fn an_abandoned_stream_stops_asking() {
    let server = Server::start().await;
    let bytes = pattern(64 << 20);
    let source = source(&server, &bytes, true).await;
    let mut stream = source.read("m.gguf", 0..64 << 20).await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    drop(stream);
    let asked = server.seen().len();
    assert!(asked <= 2 + super::parts::PARALLEL + 2, "{asked}");
}
