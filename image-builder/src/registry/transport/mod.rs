//! HTTP/1.1 to registries, token services and the storage they redirect to. Knows no registry protocol and holds no
//! credentials of its own.
//!
//! One request or blob has one connection: HTTP/1.1 rather than 2, whose flow control windows and single connection cost
//! throughput on bodies of gigabytes. There is no total timeout; what counts is whether bytes move.

mod body;
mod tls;

use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use http::header::{AUTHORIZATION, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use url::Url;

pub(crate) use body::{Item, Meter, OnSent, RequestBody, StreamBody};
pub use tls::CertificateCheck;

/// Sent with every request; says nothing about the host it runs on.
const AGENT: &str = concat!("image-builder/", env!("CARGO_PKG_VERSION"));
/// Registries redirect once, to storage; more than a few is a loop.
const MOST_REDIRECTS: u32 = 5;
/// What a registry may take to answer after the last byte of a blob, beside the stall time: it may hash or move it.
const COMMIT_BYTES_PER_SECOND: u64 = 50 << 20;
/// Bodies that are held in memory (manifests, tokens, tag lists) may not be larger.
pub(crate) const MOST_BYTES_IN_MEMORY: usize = 16 << 20;

/// How servers are reached.
#[derive(Clone, Debug)]
pub struct TransportOptions {
    /// Whether servers must prove who they are.
    pub certificate_check: CertificateCheck,
    /// PEM files of certificate authorities to trust beside the system's.
    pub ca_files: Vec<PathBuf>,
    /// How long no byte may move before a connection counts as broken. Default 60 seconds.
    pub stall: Duration,
    /// How long a connection may take to be made. Default 20 seconds.
    pub connect: Duration,
}

impl Default for TransportOptions {
    fn default() -> Self {
        Self {
            certificate_check: CertificateCheck::Verify,
            ca_files: Vec::new(),
            stall: Duration::from_secs(60),
            connect: Duration::from_secs(20),
        }
    }
}

/// Why a request got no answer, or its answer did not end.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No connection, or it broke before the answer.
    #[error("the connection failed or was cut")]
    Request {
        /// What the connection said.
        #[source]
        cause: hyper_util::client::legacy::Error,
    },
    /// It broke while the answer's body came.
    #[error("the connection was cut while the answer came")]
    Body {
        /// What the connection said.
        #[source]
        cause: hyper::Error,
    },
    /// No byte moved for too long.
    #[error("no byte moved for {seconds} seconds")]
    Stalled {
        /// How long was waited.
        seconds: u64,
    },
    /// The answer is larger than such answers may be.
    #[error("the answer is larger than {most} bytes")]
    TooLarge {
        /// The limit in bytes.
        most: usize,
    },
    /// The answer sends in circles or nowhere.
    #[error("the answer redirects to `{location}`, which leads nowhere")]
    Redirect {
        /// Where to, without its query.
        location: String,
    },
    /// The address cannot be used.
    #[error("the address `{address}` cannot be used")]
    Address {
        /// Without its query.
        address: String,
    },
    /// A file of certificates cannot be used.
    #[error("cannot use the certificates in {}: {cause}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// TLS cannot be set up at all.
    #[error("cannot set up TLS")]
    Tls {
        /// Why not.
        #[source]
        cause: rustls::Error,
    },
}

/// One request to be sent.
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) body: RequestBody,
}

impl Call {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            authorization: None,
            body: RequestBody::Empty,
        }
    }

    pub(crate) fn header(mut self, name: http::HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(crate) fn body(mut self, body: RequestBody) -> Self {
        self.body = body;
        self
    }
}

/// Sends requests. Cheap to clone; clones share connections.
#[derive(Clone)]
pub(crate) struct Transport {
    client: Client<HttpsConnector<HttpConnector>, RequestBody>,
    stall: Duration,
}

impl Transport {
    pub(crate) fn new(options: &TransportOptions) -> Result<Self, TransportError> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(options.connect));
        connector.set_keepalive(Some(Duration::from_secs(30)));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls::configuration(
                options.certificate_check,
                &options.ca_files,
            )?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(15))
            .pool_max_idle_per_host(16)
            .build(connector);
        Ok(Self {
            client,
            stall: options.stall,
        })
    }

    /// Sends one request and follows no redirect.
    pub(crate) async fn send(&self, call: Call) -> Result<Response<Incoming>, TransportError> {
        let meter = call.body.meter();
        let request = request(call)?;
        let mut response = std::pin::pin!(self.client.request(request));
        let mut watch = Watch {
            seen: 0,
            idle: Duration::ZERO,
        };
        loop {
            match tokio::time::timeout(self.stall, &mut response).await {
                Ok(answer) => return answer.map_err(|cause| TransportError::Request { cause }),
                Err(_elapsed) => watch.check(&meter, self.stall)?,
            }
        }
    }

    /// Sends a GET or HEAD and follows redirects: every header goes along, but `Authorization` only to the same origin.
    pub(crate) async fn follow(&self, call: Call) -> Result<Response<Incoming>, TransportError> {
        let Call {
            method,
            mut url,
            headers,
            mut authorization,
            ..
        } = call;
        for _ in 0..=MOST_REDIRECTS {
            let response = self
                .send(Call {
                    method: method.clone(),
                    url: url.clone(),
                    headers: headers.clone(),
                    authorization: authorization.clone(),
                    body: RequestBody::Empty,
                })
                .await?;
            if !is_redirect(response.status()) {
                return Ok(response);
            }
            let target = redirect_target(&url, response.headers())?;
            if target.origin() != url.origin() {
                authorization = None;
            }
            url = target;
        }
        Err(TransportError::Redirect {
            location: without_query(&url),
        })
    }

    /// The body of an answer as it comes; an error when nothing comes for the stall time.
    pub(crate) fn stream(
        &self,
        body: Incoming,
    ) -> impl Stream<Item = Result<Bytes, TransportError>> + Send + use<> {
        let stall = self.stall;
        futures::stream::try_unfold(body, move |mut body| async move {
            loop {
                let frame = match tokio::time::timeout(stall, body.frame()).await {
                    Ok(Some(Ok(frame))) => frame,
                    Ok(Some(Err(cause))) => return Err(TransportError::Body { cause }),
                    Ok(None) => return Ok(None),
                    Err(_elapsed) => {
                        return Err(TransportError::Stalled {
                            seconds: stall.as_secs(),
                        });
                    }
                };
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some((bytes, body)));
                }
            }
        })
    }

    /// The whole body of an answer, up to [`MOST_BYTES_IN_MEMORY`].
    pub(crate) async fn collect(&self, body: Incoming) -> Result<Bytes, TransportError> {
        use futures::TryStreamExt as _;

        let mut stream = std::pin::pin!(self.stream(body));
        let mut all = BytesMut::new();
        while let Some(bytes) = stream.try_next().await? {
            if all.len() + bytes.len() > MOST_BYTES_IN_MEMORY {
                return Err(TransportError::TooLarge {
                    most: MOST_BYTES_IN_MEMORY,
                });
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }
}

/// Tells a slow request from a dead one.
struct Watch {
    seen: u64,
    idle: Duration,
}

impl Watch {
    fn check(&mut self, meter: &Meter, waited: Duration) -> Result<(), TransportError> {
        let sent = meter.sent();
        if sent != self.seen {
            self.seen = sent;
            self.idle = Duration::ZERO;
            return Ok(());
        }
        self.idle += waited;
        let commit = Duration::from_secs(sent / COMMIT_BYTES_PER_SECOND);
        let allowed = if meter.is_complete() {
            waited + commit
        } else {
            waited
        };
        if self.idle >= allowed {
            return Err(TransportError::Stalled {
                seconds: self.idle.as_secs(),
            });
        }
        Ok(())
    }
}

fn request(call: Call) -> Result<Request<RequestBody>, TransportError> {
    let address = || TransportError::Address {
        address: without_query(&call.url),
    };
    let uri: http::Uri = call.url.as_str().parse().map_err(|_| address())?;
    if uri.host().is_none() {
        return Err(address());
    }
    let mut request = Request::new(call.body);
    *request.method_mut() = call.method;
    *request.uri_mut() = uri;
    *request.headers_mut() = call.headers;
    request.headers_mut().remove(HOST);
    request
        .headers_mut()
        .insert(USER_AGENT, HeaderValue::from_static(AGENT));
    if let Some(authorization) = call.authorization {
        request.headers_mut().insert(AUTHORIZATION, authorization);
    }
    Ok(request)
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn redirect_target(from: &Url, headers: &HeaderMap) -> Result<Url, TransportError> {
    let location = headers
        .get(LOCATION)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let target = from
        .join(location)
        .ok()
        .filter(|target| matches!(target.scheme(), "http" | "https") && !location.is_empty());
    // A registry behind TLS that sends its reader to an open connection would let others read what was asked for.
    match target {
        Some(target) if from.scheme() == "http" || target.scheme() == "https" => Ok(target),
        Some(target) => Err(TransportError::Redirect {
            location: without_query(&target),
        }),
        None => Err(TransportError::Redirect {
            location: location.split('?').next().unwrap_or_default().to_owned(),
        }),
    }
}

/// An address that may be shown: queries of upload and storage addresses hold signatures.
pub(crate) fn without_query(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    // Cannot fail for http and https, which have a host.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_from_tls_to_plain_http_is_refused() {
        let from = Url::parse("https://r.io/v2/a/blobs/x").unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(
            LOCATION,
            HeaderValue::from_static("http://storage.io/x?signature=1"),
        );
        let error = redirect_target(&from, &headers).unwrap_err().to_string();
        assert!(
            error.contains("http://storage.io/x") && !error.contains("signature"),
            "{error}"
        );
        headers.insert(LOCATION, HeaderValue::from_static("/elsewhere"));
        assert_eq!(
            redirect_target(&from, &headers).unwrap().as_str(),
            "https://r.io/elsewhere"
        );
    }

    #[test]
    fn a_request_that_waits_for_a_commit_gets_more_time_the_larger_the_blob() {
        let wait = Duration::from_secs(60);
        let meter = RequestBody::Empty.meter();
        let mut watch = Watch {
            seen: 0,
            idle: Duration::ZERO,
        };
        assert!(watch.check(&meter, wait).is_err());

        let (_sender, receiver) = tokio::sync::mpsc::channel(1);
        let body =
            RequestBody::Stream(StreamBody::new(receiver, None, std::sync::Arc::new(|_| {})));
        let mut watch = Watch {
            seen: 1,
            idle: Duration::ZERO,
        };
        assert!(
            watch.check(&body.meter(), wait).is_ok(),
            "bytes moved since the last look"
        );
        assert!(watch.check(&body.meter(), wait).is_err());
    }
}
