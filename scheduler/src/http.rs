//! `/healthz`, `/readyz` and `/metrics`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;

/// Why the server did not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port could not be had.
    #[error("listening on {0} for health and metrics; choose another with --health-address")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// Serving failed.
    #[error("serving health and metrics")]
    Serve(#[source] std::io::Error),
}

struct Served {
    shared: Arc<Shared>,
    registry: Registry,
}

/// Serves until `shutdown`.
///
/// # Errors
/// [`Error`] when the address cannot be had, or the listener breaks.
pub async fn serve(
    address: SocketAddr,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|e| Error::Listen(address, e))?;
    if let Ok(bound) = listener.local_addr() {
        tracing::info!(address = %bound, "serving health and metrics");
    }
    let registry = shared.metrics.registry();
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(Served { shared, registry }));
    let served = axum::serve(listener, router);
    served
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .map_err(Error::Serve)
}

/// Ready is "the stores are filled", not "leads": a standby is ready to take over.
async fn ready(State(served): State<Arc<Served>>) -> impl IntoResponse {
    let stores = &served.shared.stores;
    let filled = [
        stores.workspaces.is_filled(),
        stores.nodes.is_filled(),
        stores.pods.is_filled(),
        stores.claims.is_filled(),
        stores.deployments.is_filled(),
        stores.stateful_sets.is_filled(),
        stores.jobs.is_filled(),
        stores.services.is_filled(),
        stores.configs.is_filled(),
    ];
    if filled.iter().all(|filled| *filled) {
        (StatusCode::OK, "ok")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the watches have not delivered their first lists",
        )
    }
}

async fn metrics(State(served): State<Arc<Served>>) -> impl IntoResponse {
    let leads = i64::from(served.shared.writer.is_leading());
    served.shared.metrics.leader.set(leads);
    let mut text = String::new();
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match encode(&mut text, &served.registry) {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, kind)], text),
        Err(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, kind)],
            text,
        ),
    }
}
