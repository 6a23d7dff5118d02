//! Command lines of the four servers.
//!
//! Everything listens on 127.0.0.1, but for the API server where [`Options::address`] says otherwise. The controller
//! manager and the scheduler serve nothing: their ports are off.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::Options;
use super::certificates::{Authority, Error, Pair, Subject, service_account_key};
use super::kubeconfig::{Identity, render};

/// First address of the Service network, where the API server expects to be reached from pods.
const SERVICE_ADDRESS: &str = "10.96.0.1";
/// The Service network.
const SERVICE_NETWORK: &str = "10.96.0.0/16";

/// What the audit log holds: one line per request, without bodies, when its answer begins (watches) or ends.
const AUDIT_POLICY: &str = r#"{
  "apiVersion": "audit.k8s.io/v1",
  "kind": "Policy",
  "omitStages": ["RequestReceived"],
  "rules": [{ "level": "Metadata" }]
}"#;

/// Files of one control plane, all in its folder.
pub(super) struct Files {
    pub(super) folder: PathBuf,
    issuer: Authority,
    pub(super) authority: Pair,
    pub(super) server: Pair,
    pub(super) admin: Pair,
    service_accounts: Pair,
    audit_policy: PathBuf,
    pub(super) audit_log: PathBuf,
}

/// Where one control plane listens; the ports were free when it was started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    /// Address of the API server.
    pub(super) address: Ipv4Addr,
    pub(super) etcd: u16,
    pub(super) etcd_peers: u16,
    pub(super) api: u16,
}

impl Ports {
    pub(super) fn endpoint(self) -> String {
        format!("https://{}:{}", self.address, self.api)
    }
}

impl Files {
    /// Makes keys, certificates and kubeconfigs.
    pub(super) fn write(folder: &Path, ports: Ports) -> Result<Self, Error> {
        let issuer = Authority::new(folder)?;
        let server = issuer.sign(&Subject {
            file: "server",
            user: "kube-apiserver",
            group: Some("system:masters"),
            hosts: &[
                "127.0.0.1",
                &ports.address.to_string(),
                SERVICE_ADDRESS,
                "localhost",
                "kubernetes.default.svc",
            ],
        })?;
        let admin = issuer.sign(&Subject {
            file: "admin",
            user: "kubernetes-admin",
            group: Some("system:masters"),
            hosts: &[],
        })?;
        let files = Self {
            folder: folder.to_owned(),
            authority: issuer.files.clone(),
            issuer,
            server,
            admin,
            service_accounts: service_account_key(folder)?,
            audit_policy: folder.join("audit-policy.json"),
            audit_log: folder.join("audit.log"),
        };
        super::certificates::write(&files.audit_policy, AUDIT_POLICY)?;
        let endpoint = ports.endpoint();
        files.write_kubeconfig("admin", &files.admin, &endpoint)?;
        for user in ["kube-controller-manager", "kube-scheduler"] {
            files.sign(
                &endpoint,
                &Subject {
                    file: user,
                    user: &format!("system:{user}"),
                    group: None,
                    hosts: &[],
                },
            )?;
        }
        Ok(files)
    }

    /// Signs a certificate and writes the kubeconfig that uses it.
    pub(super) fn sign(&self, endpoint: &str, subject: &Subject<'_>) -> Result<Pair, Error> {
        let pair = self.issuer.sign(subject)?;
        self.write_kubeconfig(subject.file, &pair, endpoint)?;
        Ok(pair)
    }

    fn write_kubeconfig(&self, user: &str, pair: &Pair, endpoint: &str) -> Result<(), Error> {
        let identity = Identity::Certificate(pair);
        let text = render(endpoint, &self.authority.certificate, &identity, "default");
        super::certificates::write(&self.kubeconfig(user), &text)
    }

    /// Kubeconfig of `admin` or one of the servers.
    pub(super) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.folder.join(format!("{user}.kubeconfig"))
    }

    /// Output of a server.
    pub(super) fn log(&self, server: &str) -> PathBuf {
        self.folder.join(format!("{server}.log"))
    }

    /// Durability is off: the data lives as long as the control plane.
    pub(super) fn etcd(&self, ports: Ports) -> Vec<String> {
        let (clients, peers) = (
            format!("https://127.0.0.1:{}", ports.etcd),
            format!("http://127.0.0.1:{}", ports.etcd_peers),
        );
        vec![
            "--name=default".into(),
            flag("--data-dir", &self.folder.join("etcd")),
            format!("--listen-client-urls={clients}"),
            format!("--advertise-client-urls={clients}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=default={peers}"),
            "--unsafe-no-fsync".into(),
            "--client-cert-auth".into(),
            flag("--trusted-ca-file", &self.authority.certificate),
            flag("--cert-file", &self.server.certificate),
            flag("--key-file", &self.server.key),
            "--log-level=warn".into(),
        ]
    }

    pub(super) fn api_server(&self, ports: Ports, options: &Options) -> Vec<String> {
        let mut arguments = self.api_server_storage(ports);
        arguments.extend(self.api_server_identity());
        if !options.controller_manager {
            // Nobody would take the taint off new nodes, nor make the account that pods need.
            arguments
                .push("--disable-admission-plugins=TaintNodesByCondition,ServiceAccount".into());
        }
        if options.audit {
            arguments.push(flag("--audit-policy-file", &self.audit_policy));
            arguments.push(flag("--audit-log-path", &self.audit_log));
        }
        arguments.extend(options.api_server_arguments.iter().cloned());
        arguments
    }

    fn api_server_storage(&self, ports: Ports) -> Vec<String> {
        let mut arguments = vec![
            format!("--etcd-servers=https://127.0.0.1:{}", ports.etcd),
            flag("--etcd-cafile", &self.authority.certificate),
            flag("--etcd-certfile", &self.server.certificate),
            flag("--etcd-keyfile", &self.server.key),
            format!("--bind-address={}", ports.address),
            format!("--advertise-address={}", ports.address),
            format!("--secure-port={}", ports.api),
            format!("--service-cluster-ip-range={SERVICE_NETWORK}"),
        ];
        if ports.address.is_loopback() {
            // A loopback address is no valid endpoint of the `kubernetes` Service.
            arguments.push("--endpoint-reconciler-type=none".into());
        }
        arguments
    }

    fn api_server_identity(&self) -> Vec<String> {
        vec![
            flag("--tls-cert-file", &self.server.certificate),
            flag("--tls-private-key-file", &self.server.key),
            flag("--client-ca-file", &self.authority.certificate),
            flag(
                "--service-account-key-file",
                &self.service_accounts.certificate,
            ),
            flag(
                "--service-account-signing-key-file",
                &self.service_accounts.key,
            ),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--allow-privileged=true".into(),
            // No authority for kubelets: the simulated ones sign their own certificates.
            flag("--kubelet-client-certificate", &self.server.certificate),
            flag("--kubelet-client-key", &self.server.key),
            "--kubelet-preferred-address-types=InternalIP".into(),
        ]
    }

    pub(super) fn controller_manager(&self, options: &Options) -> Vec<String> {
        let mut arguments = self.control_loop("kube-controller-manager");
        arguments.extend([
            "--use-service-account-credentials".into(),
            flag("--service-account-private-key-file", &self.service_accounts.key),
            flag("--root-ca-file", &self.authority.certificate),
            flag("--cluster-signing-cert-file", &self.authority.certificate),
            flag("--cluster-signing-key-file", &self.authority.key),
            "--controllers=*,-nodeipam,-cloud-node-lifecycle-controller,-service-lb-controller,-node-route-controller"
                .into(),
            format!("--node-monitor-grace-period={}s", options.node_grace.as_secs()),
        ]);
        arguments.extend(options.controller_manager_arguments.iter().cloned());
        arguments
    }

    pub(super) fn scheduler(&self, options: &Options) -> Result<Vec<String>, Error> {
        let mut arguments = self.control_loop("kube-scheduler");
        if let Some(configuration) = options.scheduler_configuration.as_ref() {
            // With a configuration the flags of the connection count no more.
            let mut configuration = configuration.clone();
            configuration["clientConnection"]["kubeconfig"] = self
                .kubeconfig("kube-scheduler")
                .display()
                .to_string()
                .into();
            configuration["leaderElection"] = serde_json::json!({ "leaderElect": false });
            let path = self.folder.join("kube-scheduler.json");
            super::certificates::write(&path, &configuration.to_string())?;
            arguments.push(flag("--config", &path));
        }
        arguments.extend(options.scheduler_arguments.iter().cloned());
        Ok(arguments)
    }

    fn control_loop(&self, server: &str) -> Vec<String> {
        let kubeconfig = self.kubeconfig(server);
        vec![
            flag("--kubeconfig", &kubeconfig),
            flag("--authentication-kubeconfig", &kubeconfig),
            flag("--authorization-kubeconfig", &kubeconfig),
            "--leader-elect=false".into(),
            "--secure-port=0".into(),
        ]
    }
}

fn flag(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}
