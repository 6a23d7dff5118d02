//! *Pretended* devices on a real node: a device plugin that advertises GPUs which are not there.
//!
//! It speaks kubelet's real interface (gRPC on a unix socket, v1beta1), so kubelet, kube-scheduler and containers treat
//! the devices as they would real ones: counted, handed out one by one, withdrawn when unhealthy. A container learns
//! the ids that it was given from the variable [`VARIABLE`]; nothing else of a GPU is imitated.

mod messages;
mod service;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use service::State;

/// Name of a GPU as NVIDIA's plugin advertises it.
pub const GPU: &str = "nvidia.com/gpu";
/// Variable that holds the ids of a container's devices, separated by commas.
pub const VARIABLE: &str = "KAITO_PRETENDED_DEVICES";

/// kubelet's own socket in the folder of plugins.
const KUBELET: &str = "kubelet.sock";
/// Limit of the first registration: kubelet may only just be starting.
const LIMIT: Duration = Duration::from_secs(60);
/// Time between two looks at a socket.
const POLL: Duration = Duration::from_millis(100);

/// Why devices could not be advertised.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plugin's socket could not be made.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// kubelet does not listen.
    #[error("cannot connect to kubelet's socket for device plugins; is kubelet running?")]
    Connect(#[source] tonic::transport::Error),
    /// kubelet does not want the plugin.
    #[error("kubelet refuses the device plugin")]
    Refused(#[source] Box<tonic::Status>),
}

/// A running plugin. The devices become unhealthy, then vanish, some time after it is dropped.
#[derive(Debug)]
pub struct DevicePlugin {
    healthy: watch::Sender<usize>,
    state: Arc<State>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl DevicePlugin {
    /// Advertises `count` devices called `resource` to the kubelet whose folder of plugins is `folder`. Does so again
    /// whenever kubelet has been restarted.
    ///
    /// # Errors
    /// [`Error`] if kubelet does not take it within a minute.
    pub async fn start(folder: &Path, resource: &str, count: usize) -> Result<Self, Error> {
        let (healthy, receiver) = watch::channel(count);
        let state = Arc::new(State {
            count,
            healthy: receiver,
            lists: watch::Sender::new(0),
        });
        let plugin = Plugin {
            folder: folder.to_owned(),
            resource: resource.to_owned(),
            endpoint: format!("{}.sock", resource.replace('/', "-")),
            state: Arc::clone(&state),
        };
        let stop = CancellationToken::new();
        let first = plugin.advertise(&stop).await?;
        let stopped = stop.clone();
        let task = tokio::spawn(async move { plugin.keep(first, &stopped).await });
        Ok(Self {
            healthy,
            state,
            stop,
            task,
        })
    }

    /// Makes the first `count` devices healthy and the others not.
    pub fn set_healthy(&self, count: usize) {
        self.healthy.send_replace(count);
    }

    /// Waits until kubelet has asked for the list of devices `count` times in all: once after each of its starts.
    pub async fn listed(&self, count: usize) {
        let mut lists = self.state.lists.subscribe();
        // The sender lives as long as this does.
        let _ = lists.wait_for(|lists| *lists >= count).await;
    }

    /// Stops advertising.
    pub async fn stop(self) {
        self.stop.cancel();
        // Fails only if the task panicked, which has been printed.
        let _ = self.task.await;
    }
}

/// Ids of the devices, in order.
fn device_ids(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|index| format!("pretended-{index}"))
}

struct Plugin {
    folder: PathBuf,
    resource: String,
    /// File name of the plugin's socket.
    endpoint: String,
    state: Arc<State>,
}

impl Plugin {
    /// Listens and registers; tries again until the limit while kubelet does not answer.
    async fn advertise(&self, stop: &CancellationToken) -> Result<JoinHandle<()>, Error> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let result = self.advertise_once(stop).await;
            let error = match result {
                Err(error @ (Error::Connect(_) | Error::Listen { .. })) => error,
                result => return result,
            };
            if Instant::now() >= deadline {
                return Err(error);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn advertise_once(&self, stop: &CancellationToken) -> Result<JoinHandle<()>, Error> {
        let path = self.folder.join(&self.endpoint);
        // What an earlier plugin has left would be in the way.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(|source| Error::Listen {
            path: path.clone(),
            source,
        })?;
        let (state, stopped) = (Arc::clone(&self.state), stop.clone());
        let server = tokio::spawn(async move {
            let gone = async {
                tokio::select! {
                    () = stopped.cancelled() => {}
                    // kubelet empties the folder when it starts, and then wants to hear from its plugins again.
                    () = removal(&path) => {}
                }
            };
            // A connection that breaks is kubelet's end of it: nothing to report.
            let _ = service::serve(listener, state, gone).await;
        });
        let kubelet = self.folder.join(KUBELET);
        match service::register(&kubelet, &self.endpoint, &self.resource).await {
            Ok(()) => Ok(server),
            Err(error) => {
                server.abort();
                Err(error)
            }
        }
    }

    /// Advertises anew each time the server has ended, until told to stop.
    async fn keep(&self, first: JoinHandle<()>, stop: &CancellationToken) {
        let mut server = first;
        loop {
            let _ = server.await;
            if stop.is_cancelled() {
                return;
            }
            match self.advertise(stop).await {
                Ok(next) => server = next,
                Err(_) => return,
            }
        }
    }
}

/// Completes when the file is gone.
async fn removal(path: &Path) {
    while path.exists() {
        tokio::time::sleep(POLL).await;
    }
}
