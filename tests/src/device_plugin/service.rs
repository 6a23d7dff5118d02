//! The gRPC ends of the plugin: its own service, and the call that registers it.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use http::uri::PathAndQuery;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::messages::{
    AllocateRequest, AllocateResponse, ContainerRequest, ContainerResponse, Device, Empty,
    ListAndWatchResponse, Options, RegisterRequest,
};
use super::{Error, VARIABLE, device_ids};

/// Version of the interface.
const VERSION: &str = "v1beta1";

/// What the service needs to answer.
#[derive(Debug)]
pub(super) struct State {
    pub(super) count: usize,
    /// How many devices are healthy; the others are at the end of the list.
    pub(super) healthy: watch::Receiver<usize>,
    /// How often kubelet has asked for the list.
    pub(super) lists: watch::Sender<usize>,
}

/// Serves until `until` completes; then open streams are cut.
pub(super) async fn serve(
    listener: UnixListener,
    state: Arc<State>,
    until: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let connections = stream::unfold(listener, |listener| async {
        let accepted: io::Result<_> = listener.accept().await.map(|(socket, _)| socket);
        Some((accepted, listener))
    });
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(answer(&state, request).await) }
    });
    let serving = Server::builder().serve_with_incoming(service, Box::pin(connections));
    tokio::select! {
        result = serving => result,
        () = until => Ok(()),
    }
}

async fn answer(state: &Arc<State>, request: http::Request<Body>) -> http::Response<Body> {
    let path = request.uri().path().to_owned();
    let method = path.strip_prefix("/v1beta1.DevicePlugin/");
    match method {
        Some("GetDevicePluginOptions") => {
            let codec = ProstCodec::<Options, Empty>::default();
            let options = service_fn(|_: Request<Empty>| async { Ok(Response::new(Options {})) });
            tonic::server::Grpc::new(codec)
                .unary(options, request)
                .await
        }
        Some("ListAndWatch") => {
            let codec = ProstCodec::<ListAndWatchResponse, Empty>::default();
            let state = Arc::clone(state);
            let list = service_fn(move |_: Request<Empty>| {
                let devices = devices(&state);
                async { Ok(Response::new(devices)) }
            });
            let mut grpc = tonic::server::Grpc::new(codec);
            grpc.server_streaming(list, request).await
        }
        Some("Allocate") => {
            let codec = ProstCodec::<AllocateResponse, AllocateRequest>::default();
            let known: BTreeSet<String> = device_ids(state.count).collect();
            let allocate = service_fn(move |request: Request<AllocateRequest>| {
                let answer = allocate(&known, request.get_ref());
                async { answer.map(Response::new) }
            });
            tonic::server::Grpc::new(codec)
                .unary(allocate, request)
                .await
        }
        _ => Status::unimplemented(path).into_http(),
    }
}

/// The list now and after each change of what is healthy.
fn devices(state: &State) -> impl Stream<Item = Result<ListAndWatchResponse, Status>> + use<> {
    let (count, mut healthy) = (state.count, state.healthy.clone());
    healthy.mark_changed();
    state.lists.send_modify(|lists| *lists += 1);
    let changes = stream::unfold(healthy, |mut healthy| async {
        healthy.changed().await.ok()?;
        let now = *healthy.borrow_and_update();
        Some((now, healthy))
    });
    changes.map(move |healthy| Ok(list(count, healthy)))
}

fn list(count: usize, healthy: usize) -> ListAndWatchResponse {
    let health = |index| {
        if index < healthy {
            "Healthy"
        } else {
            "Unhealthy"
        }
    };
    let devices = device_ids(count).enumerate().map(|(index, id)| Device {
        id,
        health: health(index).to_owned(),
    });
    ListAndWatchResponse {
        devices: devices.collect(),
    }
}

fn allocate(
    known: &BTreeSet<String>,
    request: &AllocateRequest,
) -> Result<AllocateResponse, Status> {
    let containers = request.containers.iter();
    let containers = containers.map(|container| one_container(known, container));
    Ok(AllocateResponse {
        containers: containers.collect::<Result<_, _>>()?,
    })
}

fn one_container(
    known: &BTreeSet<String>,
    request: &ContainerRequest,
) -> Result<ContainerResponse, Status> {
    let unknown = request.devices.iter().find(|id| !known.contains(*id));
    if let Some(id) = unknown {
        return Err(Status::not_found(format!("there is no device {id}")));
    }
    let variables = HashMap::from([(VARIABLE.to_owned(), request.devices.join(","))]);
    Ok(ContainerResponse { variables })
}

/// Announces the plugin that listens on the socket `endpoint` to the kubelet whose socket is `kubelet`.
pub(super) async fn register(kubelet: &Path, endpoint: &str, resource: &str) -> Result<(), Error> {
    let channel = Endpoint::from_shared(format!("unix://{}", kubelet.display()))
        .map_err(Error::Connect)?
        .connect()
        .await
        .map_err(Error::Connect)?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(Error::Connect)?;
    let request = Request::new(RegisterRequest {
        version: VERSION.to_owned(),
        endpoint: endpoint.to_owned(),
        resource_name: resource.to_owned(),
        options: Some(Options {}),
    });
    let path = PathAndQuery::from_static("/v1beta1.Registration/Register");
    let codec = ProstCodec::<RegisterRequest, Empty>::default();
    let answered = client.unary(request, path, codec).await;
    answered
        .map(drop)
        .map_err(|status| Error::Refused(Box::new(status)))
}

#[cfg(test)]
mod tests {
    use super::{AllocateRequest, ContainerRequest, allocate, device_ids, list};

    #[test]
    fn what_is_not_healthy_is_listed_as_such() {
        let all = list(3, 1).devices;
        let health: Vec<&str> = all.iter().map(|device| device.health.as_str()).collect();
        assert_eq!(health, ["Healthy", "Unhealthy", "Unhealthy"]);
    }

    #[test]
    fn each_container_is_told_its_devices_and_an_unknown_one_is_refused() {
        let known = device_ids(2).collect();
        let request = |ids: &[&str]| AllocateRequest {
            containers: vec![ContainerRequest {
                devices: ids.iter().map(|id| (*id).to_owned()).collect(),
            }],
        };
        let answer = allocate(&known, &request(&["pretended-0", "pretended-1"])).unwrap();
        let told = &answer.containers[0].variables[super::VARIABLE];
        assert_eq!(told, "pretended-0,pretended-1");
        let status = allocate(&known, &request(&["pretended-2"])).unwrap_err();
        assert!(status.message().contains("pretended-2"), "{status}");
    }
}
