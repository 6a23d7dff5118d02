//! Connections: a bounded number of them, each with a time limit for its headers, ended in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::router::App;

/// Limits of connections.
#[derive(Clone, Copy, Debug)]
pub struct Connections {
    /// Most at once; more wait to be accepted.
    pub most: usize,
    /// Longest time for the headers of a request to arrive.
    pub header_time: Duration,
    /// Longest time for answers to end once the server is told to.
    pub drain_time: Duration,
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port could not be had.
    #[error("listening on {0}; choose another with --address and --port")]
    Listen(SocketAddr, #[source] std::io::Error),
}

/// How the server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every answer was given to its end.
    All,
    /// Some were cut off at the time limit.
    Some,
}

/// Takes a port.
///
/// # Errors
/// [`Error::Listen`] if it cannot be had.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| Error::Listen(address, source))
}

/// Serves until `shutdown`, then refuses new requests and lets those in progress end.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    connections: Connections,
    shutdown: CancellationToken,
) -> Drained {
    let places = Arc::new(Semaphore::new(connections.most));
    let graceful = GracefulShutdown::new();
    let router = Arc::clone(&app).router();
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = shutdown.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely; a pause lets some connections end.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        drop(stream.set_nodelay(true));
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(connections.header_time)
            .serve_connection(
                TokioIo::new(stream),
                TowerToHyperService::new(router.clone()),
            );
        let served = graceful.watch(served);
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    app.stop();
    tracing::info!("finishing the answers in progress");
    match tokio::time::timeout(connections.drain_time, graceful.shutdown()).await {
        Ok(()) => Drained::All,
        Err(_) => Drained::Some,
    }
}
