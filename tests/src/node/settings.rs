//! Configuration files of the node's servers.
//!
//! Each setting that differs from the server's default says why. Whatever a server would write outside the node's
//! folder is pointed into it; what cannot be is covered by the cage (see [`super::cage`]).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{ADDRESS, CNI_PROGRAMS, CONTAINER_RUNTIME, NAME, POD_NETWORK};

/// Name of the image that holds a pod's namespaces, known to containerd only.
pub(super) const PAUSE: &str = "kaito.test/pause:1";

/// Paths of one node.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) folder: PathBuf,
    /// Control group of the node.
    pub(super) group: String,
}

impl Layout {
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("containerd.sock")
    }

    pub(super) fn kubelet_root(&self) -> PathBuf {
        self.folder.join("kubelet")
    }

    pub(super) fn log(&self, server: &str) -> PathBuf {
        self.folder.join(format!("{server}.log"))
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }
}

/// Writes containerd's configuration, the pod network and the trust in the registry `host`.
pub(super) fn write_containerd(
    layout: &Layout,
    host: &str,
    authority: Option<&Path>,
) -> io::Result<PathBuf> {
    fs::create_dir_all(layout.file("cni"))?;
    fs::write(
        layout.file("cni/10-kaito.conflist"),
        network(layout).to_string(),
    )?;
    let certificates = layout.file("certs.d").join(host);
    fs::create_dir_all(&certificates)?;
    let (scheme, trust) = match authority {
        Some(file) => ("https", format!("  ca = \"{}\"\n", file.display())),
        None => ("http", String::new()),
    };
    let server = format!("{scheme}://{host}");
    let hosts = format!(
        "server = \"{server}\"\n[host.\"{server}\"]\n  capabilities = [\"pull\", \"resolve\"]\n{trust}"
    );
    fs::write(certificates.join("hosts.toml"), hosts)?;
    let path = layout.file("containerd.toml");
    fs::write(&path, containerd(layout))?;
    Ok(path)
}

fn containerd(layout: &Layout) -> String {
    let group_driver = "SystemdCgroup = false";
    let programs = CNI_PROGRAMS
        .map(|folder| format!("\"{folder}\""))
        .join(", ");
    // Where the kernel has none, containerd must not look for profiles.
    let without_profiles = !Path::new("/sys/kernel/security/apparmor").exists();
    format!(
        r#"version = 3
root = "{root}"
state = "{state}"

[grpc]
  address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{opt}"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE}"
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "{certificates}"

[plugins."io.containerd.cri.v1.runtime"]
  # Without CAP_SYS_RESOURCE a score below the caller's own would end the container.
  restrict_oom_score_adj = true
  disable_apparmor = {without_profiles}
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [{programs}]
    conf_dir = "{networks}"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "{CONTAINER_RUNTIME}"
      {group_driver}
"#,
        root = layout.text("containerd"),
        state = layout.text("containerd-state"),
        socket = layout.socket().display(),
        opt = layout.text("opt"),
        certificates = layout.text("certs.d"),
        networks = layout.text("cni"),
    )
}

/// Each pod has a wire of its own to the node and all traffic is routed. On a common bridge answers from pod to pod
/// would pass below the address translation of Services, unless the kernel filters bridges.
fn network(layout: &Layout) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "kaito",
        "plugins": [
            {
                "type": "ptp",
                "ipam": {
                    "type": "host-local",
                    "dataDir": layout.file("addresses"),
                    "ranges": [[{ "subnet": POD_NETWORK }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

/// What kubelet proves its identity with.
pub(super) struct Identity<'a> {
    pub(super) certificate: &'a Path,
    pub(super) key: &'a Path,
    pub(super) authority: &'a Path,
}

/// Writes kubelet's configuration.
pub(super) fn write_kubelet(layout: &Layout, identity: &Identity<'_>) -> io::Result<PathBuf> {
    let socket = format!("unix://{}", layout.socket().display());
    let document = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESS.to_string(),
        "readOnlyPort": 0,
        "tlsCertFile": identity.certificate,
        "tlsPrivateKeyFile": identity.key,
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": identity.authority },
        },
        "authorization": { "mode": "Webhook" },
        "containerRuntimeEndpoint": socket,
        "imageServiceEndpoint": socket,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", layout.group),
        // Machines with the old layout, with swap, and containers of CI.
        "failCgroupV1": false,
        "failSwapOn": false,
        "oomScoreAdj": 0,
        "podLogsDir": layout.file("pod-logs"),
        "volumePluginDir": layout.file("volume-plugins"),
        // There is no cluster DNS; without an address every pod would get a warning event.
        "clusterDNS": ["10.96.0.10"],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        // The disk is shared with everything else on this machine: kubelet must not take a share that others use for
        // its own want of space, and evict the pods of a test. Zero turns a signal off.
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "serializeImagePulls": false,
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
        // Default is ten seconds: how long the API server would not know of a new device.
        "nodeStatusUpdateFrequency": "1s",
    });
    let path = layout.file("kubelet.json");
    fs::write(&path, document.to_string())?;
    Ok(path)
}

/// Writes kube-proxy's configuration.
pub(super) fn write_proxy(layout: &Layout, kubeconfig: &Path) -> io::Result<PathBuf> {
    let document = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "bindAddress": ADDRESS.to_string(),
        "hostnameOverride": NAME,
        "clientConnection": { "kubeconfig": kubeconfig },
        "mode": "iptables",
        "clusterCIDR": POD_NETWORK,
        "detectLocalMode": "ClusterCIDR",
        // Zero leaves the limits of connection tracking alone, which are the host's.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpCloseWaitTimeout": "0s",
            "tcpEstablishedTimeout": "0s",
        },
    });
    let path = layout.file("kube-proxy.json");
    fs::write(&path, document.to_string())?;
    Ok(path)
}
