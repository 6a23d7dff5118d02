//! The kubelet endpoint of all simulated nodes: HTTPS, self-signed (kube-apiserver does not check a kubelet's
//! certificate unless told to). It serves nothing but the statement that nothing runs here.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{any, get};
use futures::stream;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::core::v1::Pod;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::cluster::mirror::{Chain, Mirror};

/// The endpoint could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No port.
    #[error(
        "cannot listen for simulated kubelets on {address}; give an address of this machine with --kubelet-address"
    )]
    Listen {
        /// Address.
        address: IpAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No certificate.
    #[error("cannot make the certificate of the simulated kubelets; this is a defect, report it")]
    Certificate(#[source] rcgen::Error),
    /// No TLS.
    #[error("cannot set up TLS for the simulated kubelets; this is a defect, report it")]
    Tls(#[source] rustls::Error),
}

/// The listening endpoint.
pub struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    port: u16,
}

impl Server {
    /// Listens on a free port of `address`.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn bind(address: IpAddr) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Listen { address, source };
        let listener = TcpListener::bind(SocketAddr::new(address, 0))
            .await
            .map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let names = vec![address.to_string(), "localhost".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).map_err(ServerError::Certificate)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        // The provider is named, so that this works whatever the process has installed as its default.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(ServerError::Tls)?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .map_err(ServerError::Tls)?;
        Ok(Self {
            listener,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            port,
        })
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Serves until `shutdown`. `pods` tells a followed log when its pod ends.
    pub async fn run(self, pods: Arc<Mirror<Pod>>, shutdown: CancellationToken) {
        let service = TowerToHyperService::new(routes(pods));
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let serving = serve(stream, self.acceptor.clone(), service.clone());
                    let stop = shutdown.clone();
                    tokio::spawn(async move { stop.run_until_cancelled(serving).await });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: it passes, and trying at once would spin.
                    warn!(error = %Chain(&error), "the simulated kubelets could not accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, service: TowerToHyperService<Router>) {
    let stream = match acceptor.accept(stream).await {
        Ok(stream) => TokioIo::new(stream),
        Err(error) => {
            debug!(error = %Chain(&error), "a connection to the simulated kubelets did not begin TLS");
            return;
        }
    };
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(stream, service)
        .await;
    if let Err(error) = served {
        debug!(error = %Chain(&error), "a connection to the simulated kubelets broke");
    }
}

fn routes(pods: Arc<Mirror<Pod>>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs))
        .route("/exec/{*rest}", any(refused))
        .route("/run/{*rest}", any(refused))
        .route("/attach/{*rest}", any(refused))
        .route("/portForward/{*rest}", any(refused))
        .with_state(pods)
}

/// The log of an emulated container.
fn log_text(namespace: &str, pod: &str, container: &str) -> String {
    format!(
        "emulated node: no container is started, so {namespace}/{pod} ({container}) has no output of its own.\n\
         Its node is simulated (label kaito.sh/simulated=true); run the workload on a real node to see its log.\n"
    )
}

async fn logs(
    State(pods): State<Arc<Mirror<Pod>>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    let text = log_text(&namespace, &pod, &container);
    let follow = query
        .as_deref()
        .unwrap_or_default()
        .split('&')
        .any(|pair| pair == "follow=true");
    let body = if follow {
        let first = stream::once(async move { Ok::<_, std::convert::Infallible>(text) });
        let key = format!("{namespace}/{pod}");
        let rest = stream::once(async move {
            ended(&pods, &key).await;
            Ok("emulated node: the pod has ended.\n".to_owned())
        });
        Body::from_stream(futures::StreamExt::chain(first, rest))
    } else {
        Body::from(text)
    };
    answer(StatusCode::OK, body)
}

/// Waits until the pod is gone or over.
async fn ended(pods: &Mirror<Pod>, key: &str) {
    let mut changes = pods.changes();
    loop {
        let phase = pods
            .get(key)
            .and_then(|pod| pod.status.as_ref()?.phase.clone());
        if matches!(phase.as_deref(), None | Some("Succeeded" | "Failed"))
            || changes.changed().await.is_err()
        {
            return;
        }
    }
}

async fn refused() -> Response {
    let text =
        "emulated node: no container is started, so nothing can be run in or forwarded to it\n";
    answer(StatusCode::NOT_IMPLEMENTED, Body::from(text))
}

fn answer(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let kind = axum::http::HeaderValue::from_static("text/plain; charset=utf-8");
    response
        .headers_mut()
        .insert(axum::http::header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use http_body_util::BodyExt;
    use hyper::body::Bytes;
    use hyper::service::Service;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;

    async fn ask(pods: Arc<Mirror<Pod>>, path: &str) -> Response {
        let request = hyper::Request::builder()
            .uri(path)
            .body(Body::empty())
            .unwrap();
        TowerToHyperService::new(routes(pods))
            .call(request)
            .await
            .unwrap()
    }

    async fn text(response: Response) -> String {
        let bytes: Bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn logs_say_that_they_are_emulated() {
        let answer = ask(Arc::default(), "/containerLogs/default/a/main?tailLines=5").await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(
            text(answer)
                .await
                .contains("emulated node: no container is started, so default/a (main)")
        );
    }

    #[tokio::test]
    async fn exec_is_refused_with_the_reason() {
        let answer = ask(Arc::default(), "/exec/default/a/main?command=ls").await;
        assert_eq!(answer.status(), StatusCode::NOT_IMPLEMENTED);
        assert!(text(answer).await.contains("emulated node"));
    }

    #[tokio::test]
    async fn a_followed_log_ends_with_its_pod() {
        let pods: Arc<Mirror<Pod>> = Arc::default();
        let pod = |version: &str, phase: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"namespace": "default", "name": "a", "uid": "u", "resourceVersion": version},
                "status": {"phase": phase}
            }))
            .unwrap()
        };
        pods.observe(Event::Apply(pod("1", "Running")));
        let answer = ask(pods.clone(), "/containerLogs/default/a/main?follow=true").await;
        let mut chunks = answer.into_body().into_data_stream();
        assert!(
            chunks
                .next()
                .await
                .unwrap()
                .unwrap()
                .starts_with(b"emulated node")
        );
        let last = tokio::spawn(async move { chunks.next().await.unwrap().unwrap() });
        pods.observe(Event::Apply(pod("2", "Succeeded")));
        assert!(last.await.unwrap().ends_with(b"the pod has ended.\n"));
    }
}
