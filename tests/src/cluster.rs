//! A control plane with our parts on it, as a user would have them: installed by the plugin, the scheduler and the
//! simulated cloud running under their own ServiceAccounts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::control_plane::{self, ControlPlane};
use crate::fault_proxy::{FaultProxy, Faults};
use crate::programs;
use crate::supervise::{self, Launch, Supervised};

/// Namespace of our parts.
pub const SYSTEM_NAMESPACE: &str = "kaito-system";

/// Name of the provisioner that every cluster with a scenario has.
const FIRST_PROVISIONER: &str = "kaito-provisioner";

/// Why the cluster could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No control plane.
    #[error("starting the control plane")]
    ControlPlane(#[from] control_plane::Error),
    /// A program of ours is missing.
    #[error("looking for a program")]
    Program(#[from] programs::Error),
    /// A program of ours did not start or stop.
    #[error("running a program")]
    Supervise(#[from] supervise::Error),
    /// The plugin could not install us.
    #[error("installing with the plugin failed: {0}")]
    Install(String),
    /// The plugin could not be run.
    #[error("running the plugin")]
    Plugin(#[source] std::io::Error),
    /// A scenario file could not be written.
    #[error("writing the scenario of the simulated cloud")]
    Scenario(#[source] std::io::Error),
    /// The fault proxy could not listen.
    #[error("starting the fault proxy")]
    Proxy(#[source] std::io::Error),
}

/// What runs besides the control plane.
#[derive(Clone, Default)]
pub struct Parts {
    /// Arguments of `kaito-scheduler run` besides connection and health address.
    pub scheduler_arguments: Vec<String>,
    /// Scenario of the simulated cloud; absent: no provisioner runs.
    pub scenario: Option<String>,
    /// How the API server fails towards the scheduler; absent: it does not.
    pub faults: Option<Faults>,
}

/// A running cluster; everything stops when it is dropped.
pub struct Cluster {
    scheduler: Option<Supervised>,
    // Dropped after the scheduler and before the control plane.
    provisioner: Option<Supervised>,
    proxy: Option<FaultProxy>,
    parts: Parts,
    plane: ControlPlane,
}

impl Cluster {
    /// Starts a control plane, installs our parts and runs them.
    ///
    /// # Errors
    /// [`Error`]; whatever was started is stopped again.
    pub async fn start(options: control_plane::Options, parts: Parts) -> Result<Self, Error> {
        let plane = ControlPlane::start(options).await?;
        install(&plane)?;
        let provisioner = match parts.scenario.as_deref() {
            Some(scenario) => Some(provisioner(&plane, scenario, FIRST_PROVISIONER).await?),
            None => None,
        };
        let proxy = match parts.faults.clone() {
            Some(faults) => {
                let upstream = plane.client_without_credentials().await?;
                let started = FaultProxy::start(upstream, faults).await;
                Some(started.map_err(Error::Proxy)?)
            }
            None => None,
        };
        let mut cluster = Self {
            scheduler: None,
            provisioner,
            proxy,
            parts,
            plane,
        };
        cluster.start_scheduler().await?;
        Ok(cluster)
    }

    /// The control plane.
    #[must_use]
    pub const fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// The proxy between the scheduler and the API server, if [`Parts`] asks for faults.
    pub const fn proxy(&mut self) -> Option<&mut FaultProxy> {
        self.proxy.as_mut()
    }

    /// Process id of the scheduler's supervisor; 0 while it does not run.
    #[must_use]
    pub fn scheduler_pid(&self) -> i32 {
        self.scheduler.as_ref().map_or(0, Supervised::pid)
    }

    /// Starts the scheduler under its own ServiceAccount.
    ///
    /// # Errors
    /// [`Error`] if there is no token or no program.
    pub async fn start_scheduler(&mut self) -> Result<(), Error> {
        let endpoint = self.proxy.as_ref().map(FaultProxy::endpoint);
        let endpoint = endpoint.as_deref().unwrap_or(self.plane.endpoint());
        let arguments = &self.parts.scheduler_arguments;
        let started = start_scheduler(&self.plane, endpoint, arguments).await?;
        self.scheduler = Some(started);
        Ok(())
    }

    /// Ends the scheduler with SIGKILL, as a lost machine would.
    ///
    /// # Errors
    /// [`Error::Supervise`] if the signal cannot be sent.
    pub fn kill_scheduler(&mut self) -> Result<(), Error> {
        if let Some(mut scheduler) = self.scheduler.take() {
            scheduler.signal(Signal::SIGKILL)?;
            let _ended = scheduler.wait(Duration::from_secs(10));
        }
        Ok(())
    }

    /// Starts one more provisioner beside the first, as a rollout may; its log is `NAME.log`.
    ///
    /// # Errors
    /// [`Error`] if there is no token or no program.
    pub async fn another_provisioner(&self, name: &str) -> Result<Supervised, Error> {
        let scenario = self.parts.scenario.as_deref().unwrap_or_default();
        provisioner(&self.plane, scenario, name).await
    }

    /// Ends the first provisioner with SIGKILL: it gives its lease back to nobody.
    ///
    /// # Errors
    /// [`Error::Supervise`] if the signal cannot be sent.
    pub fn kill_provisioner(&mut self) -> Result<(), Error> {
        if let Some(mut provisioner) = self.provisioner.take() {
            provisioner.signal(Signal::SIGKILL)?;
            let _ended = provisioner.wait(Duration::from_secs(10));
        }
        Ok(())
    }

    /// The end of the scheduler's log.
    #[must_use]
    pub fn scheduler_log(&self) -> String {
        supervise::tail(&self.plane.folder().join("kaito-scheduler.log"), 80)
    }
}

/// Starts the scheduler against `plane`, which it reaches at `endpoint`, under its own ServiceAccount, which [`install`]
/// makes. Its log is `kaito-scheduler.log` in the control plane's folder.
///
/// # Errors
/// [`Error`] if there is no token or no program.
pub async fn start_scheduler(
    plane: &ControlPlane,
    endpoint: &str,
    arguments: &[String],
) -> Result<Supervised, Error> {
    let kubeconfig = plane
        .kubeconfig_by_way_of(endpoint, SYSTEM_NAMESPACE, "kaito-scheduler")
        .await?;
    let log = plane.folder().join("kaito-scheduler.log");
    let program = programs::find(programs::SCHEDULER)?;
    let launch = Launch::new("kaito-scheduler", &program, &log)
        .with(["run", "--health-address", "127.0.0.1:0", "--kubeconfig"])
        .with([kubeconfig.as_os_str()])
        .with(arguments.iter());
    Ok(Supervised::spawn(&launch, None)?)
}

/// Runs the plugin's `install` against `plane`, without workloads.
///
/// # Errors
/// [`Error::Install`] with what the plugin said.
pub fn install(plane: &ControlPlane) -> Result<(), Error> {
    let output = std::process::Command::new(programs::find(programs::PLUGIN)?)
        .args(["install", "--without-workloads", "--kubeconfig"])
        .arg(plane.kubeconfig_path())
        .output()
        .map_err(Error::Plugin)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Install(
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
}

async fn provisioner(
    plane: &ControlPlane,
    scenario: &str,
    name: &str,
) -> Result<Supervised, Error> {
    let kubeconfig = plane
        .service_account_kubeconfig(SYSTEM_NAMESPACE, "kaito-provisioner")
        .await?;
    let file = write(plane.folder(), scenario)?;
    let log = plane.folder().join(format!("{name}.log"));
    let launch = Launch::new(name, &programs::find(programs::SCHEDULER)?, &log)
        .with([
            "provisioner",
            "--cloud",
            "simulated",
            "--time-scale",
            "1000",
            "--scenario",
        ])
        .with([file.as_os_str()])
        .with(["--kubeconfig"])
        .with([kubeconfig.as_os_str()]);
    Ok(Supervised::spawn(&launch, None)?)
}

fn write(folder: &Path, scenario: &str) -> Result<PathBuf, Error> {
    let file = folder.join("scenario.yaml");
    std::fs::write(&file, scenario).map_err(Error::Scenario)?;
    Ok(file)
}
