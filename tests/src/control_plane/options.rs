//! What a control plane consists of, chosen by whoever starts one.

use std::net::Ipv4Addr;
use std::time::Duration;

/// What a control plane consists of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address of the API server, 127.0.0.1 by default; any other must be reachable from nodes, and pods can then use
    /// the `kubernetes` Service.
    pub address: Ipv4Addr,
    /// Run kube-controller-manager: Deployments, Jobs, garbage collection, ServiceAccounts.
    pub controller_manager: bool,
    /// Run kube-scheduler: pods get bound.
    pub scheduler: bool,
    /// Keep an audit log, one line per request.
    pub audit: bool,
    /// Time without a sign of life after which a node counts as unreachable. An hour by default, so that Node
    /// objects without a kubelet stay Ready.
    pub node_grace: Duration,
    /// Further arguments of kube-apiserver.
    pub api_server_arguments: Vec<String>,
    /// Further arguments of kube-controller-manager.
    pub controller_manager_arguments: Vec<String>,
    /// Further arguments of kube-scheduler.
    pub scheduler_arguments: Vec<String>,
    /// A `KubeSchedulerConfiguration` for kube-scheduler; its connection is filled in.
    pub scheduler_configuration: Option<serde_json::Value>,
}

impl Options {
    /// All four servers: pods are made, bound and collected.
    #[must_use]
    pub fn full() -> Self {
        Self {
            controller_manager: true,
            scheduler: true,
            ..Self::api_only()
        }
    }

    /// etcd and kube-apiserver: objects are admitted and stored, nothing happens to them.
    #[must_use]
    pub const fn api_only() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST,
            controller_manager: false,
            scheduler: false,
            audit: false,
            node_grace: Duration::from_secs(3600),
            api_server_arguments: Vec::new(),
            controller_manager_arguments: Vec::new(),
            scheduler_arguments: Vec::new(),
            scheduler_configuration: None,
        }
    }

    /// The same with an audit log.
    #[must_use]
    pub fn audited(self) -> Self {
        Self {
            audit: true,
            ..self
        }
    }
}
