//! Services of an inference Workspace.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kaito_api::{Workspace, names};
use kaito_snapshot::sizing::Sizing;

use super::{RENDEZVOUS_PORT, SERVER_PORT, SERVICE_PORT, labels, metadata, name};

/// The front Service, and for several nodes the headless one by which pods find each other.
#[must_use]
pub fn services(workspace: &Workspace, sizing: &Sizing) -> Vec<Service> {
    let mut services = vec![front(workspace, sizing.replicas > 1)];
    if sizing.replicas > 1 {
        services.push(headless(workspace));
    }
    services
}

fn front(workspace: &Workspace, several_nodes: bool) -> Service {
    let mut selector = labels(workspace);
    if several_nodes {
        // Only the leader serves.
        let leader = format!("{}-0", name(workspace));
        selector.insert("statefulset.kubernetes.io/pod-name".to_owned(), leader);
    }
    let balanced = workspace
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(names::ANNOTATION_ENABLE_LB))
        .is_some_and(|value| value == "True");
    Service {
        metadata: metadata(workspace, name(workspace)),
        spec: Some(ServiceSpec {
            type_: Some(
                if balanced {
                    "LoadBalancer"
                } else {
                    "ClusterIP"
                }
                .to_owned(),
            ),
            selector: Some(selector),
            ports: Some(vec![
                port("http", SERVICE_PORT, SERVER_PORT),
                port("torch", RENDEZVOUS_PORT, RENDEZVOUS_PORT),
            ]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn headless(workspace: &Workspace) -> Service {
    Service {
        metadata: metadata(workspace, format!("{}-headless", name(workspace))),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            selector: Some(labels(workspace)),
            // Pods must find each other before any of them can be ready.
            publish_not_ready_addresses: Some(true),
            ports: Some(vec![port("torch", RENDEZVOUS_PORT, RENDEZVOUS_PORT)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn port(name: &str, port: i32, target: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port,
        target_port: Some(IntOrString::Int(target)),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}
