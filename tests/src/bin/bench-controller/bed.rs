//! What a run happens on: a control plane with our parts in it, and the Workspaces that are sent to it.

use std::io::{self, Write};

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kaito_api::Workspace;
use kaito_tests::control_plane::{Request, read_audit_log};
use kaito_tests::supervise::Supervised;
use kaito_tests::{ControlPlane, Options, programs};
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::recorder::Recorder;

/// User name of the scheduler under test.
const USER: &str = "system:serviceaccount:kaito-system:kaito-scheduler";
/// Requests of the bench itself that are under way at once.
pub(crate) const CONCURRENCY: usize = 16;
/// What a Workspace of the bench asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// A preset that fits one GPU.
    Preset,
    /// A pod template that asks for one GPU.
    Template,
}

/// A control plane with our parts in it.
pub(crate) struct Bed {
    // Dropped first: the scheduler ends before the API server.
    pub(crate) scheduler: Supervised,
    pub(crate) provisioner: Option<Supervised>,
    pub(crate) plane: ControlPlane,
    pub(crate) client: Client,
    pub(crate) workspaces: Api<DynamicObject>,
}

pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn workspace_api(client: &Client) -> Api<DynamicObject> {
    Api::default_namespaced_with(client.clone(), &ApiResource::erase::<Workspace>(&()))
}

impl Bed {
    pub(crate) async fn start(options: Options, provisioner: &str) -> Result<Self> {
        say("starting a control plane");
        let plane = ControlPlane::start(options).await?;
        let installed = plane
            .kubectl_command()
            .args(["kaito", "install", "--without-workloads"])
            .output()?;
        ensure!(
            installed.status.success(),
            "install: {}",
            String::from_utf8_lossy(&installed.stderr)
        );
        let client = plane.client().await?;
        let kubeconfig = plane
            .service_account_kubeconfig("kaito-system", "kaito-scheduler")
            .await?;
        let scheduler = plane.run(
            programs::SCHEDULER,
            "scheduler",
            [
                "run".as_ref(),
                "--health-address=127.0.0.1:0".as_ref(),
                "--node-provisioner".as_ref(),
                provisioner.as_ref(),
                "--kubeconfig".as_ref(),
                kubeconfig.as_os_str(),
            ],
        )?;
        let workspaces = workspace_api(&client);
        Ok(Self {
            scheduler,
            provisioner: None,
            plane,
            client,
            workspaces,
        })
    }

    pub(crate) async fn start_cloud(&mut self) -> Result<()> {
        let kubeconfig = self
            .plane
            .service_account_kubeconfig("kaito-system", "kaito-provisioner")
            .await?;
        let arguments = [
            "provisioner".as_ref(),
            "--cloud=simulated".as_ref(),
            "--time-scale=120".as_ref(),
            "--kubeconfig".as_ref(),
            kubeconfig.as_os_str(),
        ];
        self.provisioner = Some(
            self.plane
                .run(programs::SCHEDULER, "provisioner", arguments)?,
        );
        Ok(())
    }

    pub(crate) fn recorder(&self) -> Recorder {
        Recorder::start(
            Api::<Pod>::default_namespaced(self.client.clone()),
            self.workspaces.clone(),
        )
    }

    pub(crate) async fn create(
        &self,
        names: &[String],
        kind: Kind,
        instance_type: Option<&str>,
    ) -> Result<()> {
        futures::stream::iter(names.iter().map(|name| async move {
            let object = workspace(name, kind, instance_type)?;
            self.workspaces
                .create(&PostParams::default(), &object)
                .await?;
            anyhow::Ok(())
        }))
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await
    }

    /// Requests of the scheduler so far. Watches and the lease are left out: they cost the same without Workspaces.
    pub(crate) fn requests(&self) -> Result<Vec<Request>> {
        let mut requests = read_audit_log(self.plane.audit_log())?;
        requests.retain(|request| {
            request.user == USER && request.verb != "watch" && request.resource != "leases"
        });
        Ok(requests)
    }
}

fn workspace(name: &str, kind: Kind, instance_type: Option<&str>) -> Result<DynamicObject> {
    let inference = match kind {
        Kind::Preset => json!({ "preset": { "name": "phi-4-mini-instruct" } }),
        Kind::Template => json!({ "template": { "spec": { "containers": [{
            "name": "main",
            "image": "example.com/server:1",
            "resources": { "requests": { "nvidia.com/gpu": "1" }, "limits": { "nvidia.com/gpu": "1" } },
        }]}}}),
    };
    let mut resource = json!({ "labelSelector": { "matchLabels": { "bench": "true" } } });
    if let Some(instance_type) = instance_type {
        resource["instanceType"] = json!(instance_type);
    }
    Ok(serde_json::from_value(json!({
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": { "name": name },
        "resource": resource,
        "inference": inference,
    }))?)
}
