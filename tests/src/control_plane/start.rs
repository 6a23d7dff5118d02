//! Starting a control plane: binaries, folder, ports, credentials, servers, and the wait for them.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, Client};

use super::servers::{Files, Ports};
use super::{ControlPlane, Error, Options, client_of, needed};
use crate::binaries::{Binary, find_or_build};
use crate::supervise::{Launch, Supervised, tail};

/// Limit of each wait. A loaded two-core machine needs about ten seconds.
const LIMIT: Duration = Duration::from_secs(120);
/// Time between two questions.
const POLL: Duration = Duration::from_millis(50);
/// Starts in all: between choosing a port and using it another process may take it.
const ATTEMPTS: u32 = 3;

/// See [`ControlPlane::start`].
pub(super) async fn start(options: Options) -> Result<ControlPlane, Error> {
    let wanted: Vec<Binary> = needed(&options)
        .into_iter()
        .chain([Binary::Kubectl])
        .collect();
    // Minutes, if they have to be built: not on the runtime's own thread.
    let found = tokio::task::spawn_blocking(move || {
        wanted
            .into_iter()
            .try_for_each(|binary| find_or_build(binary).map(drop))
    });
    found.await.map_err(|source| Error::System {
        what: "find the binaries",
        source: io::Error::other(source),
    })??;
    let mut attempt = 1;
    loop {
        match start_once(&options).await {
            Err(Error::Ended { tail, .. })
                if attempt < ATTEMPTS && tail.contains("address already in use") =>
            {
                attempt += 1;
            }
            result => return result,
        }
    }
}

async fn start_once(options: &Options) -> Result<ControlPlane, Error> {
    let folder = tempfile::Builder::new()
        .prefix("kaito-control-plane-")
        .tempdir();
    let folder = folder.map_err(|source| Error::System {
        what: "make a folder",
        source,
    })?;
    let ports = free_ports(options.address).map_err(|source| Error::System {
        what: "find free ports",
        source,
    })?;
    let files = Files::write(folder.path(), ports)?;
    let etcd = launch(&files, Binary::Etcd, files.etcd(ports), None)?;
    let api_server = launch(
        &files,
        Binary::KubeApiserver,
        files.api_server(ports, options),
        Some(&etcd),
    )?;
    let mut plane = ControlPlane {
        scheduler: None,
        controller_manager: None,
        api_server,
        etcd,
        kubectl: find_or_build(Binary::Kubectl)?,
        endpoint: ports.endpoint(),
        files,
        folder,
    };
    let client = client_of(&plane.kubeconfig_path()).await?;
    wait(&mut plane, &client, Milestone::ApiReady).await?;
    if options.controller_manager {
        let arguments = plane.files.controller_manager(options);
        plane.controller_manager = Some(launch_loop(
            &plane,
            Binary::KubeControllerManager,
            arguments,
        )?);
    }
    if options.scheduler {
        plane.scheduler = Some(launch_loop(
            &plane,
            Binary::KubeScheduler,
            plane.files.scheduler(options)?,
        )?);
    }
    if options.controller_manager {
        wait(&mut plane, &client, Milestone::DefaultAccount).await?;
    }
    Ok(plane)
}

fn launch_loop(
    plane: &ControlPlane,
    binary: Binary,
    arguments: Vec<String>,
) -> Result<Supervised, Error> {
    launch(&plane.files, binary, arguments, Some(&plane.api_server))
}

fn launch(
    files: &Files,
    binary: Binary,
    arguments: Vec<String>,
    needs: Option<&Supervised>,
) -> Result<Supervised, Error> {
    let program = find_or_build(binary)?;
    let mut launch =
        Launch::new(binary.name(), &program, &files.log(binary.name())).with(arguments);
    if binary == Binary::Etcd {
        // The last to stop takes the folder with it, in case the owner can no longer do so.
        launch.remove = Some(files.folder.clone());
    }
    Supervised::spawn(&launch, needs).map_err(|source| Error::Start {
        server: binary.name(),
        source: Box::new(source),
    })
}

/// Ports that were free a moment ago. All are held until the last is chosen, so they differ.
fn free_ports(address: Ipv4Addr) -> io::Result<Ports> {
    let listen = |address| TcpListener::bind((address, 0));
    let local = Ipv4Addr::LOCALHOST;
    let (etcd, etcd_peers, api) = (listen(local)?, listen(local)?, listen(address)?);
    let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
    Ok(Ports {
        address,
        etcd: port(&etcd)?,
        etcd_peers: port(&etcd_peers)?,
        api: port(&api)?,
    })
}

/// What the start waits for.
#[derive(Debug, Clone, Copy)]
enum Milestone {
    ApiReady,
    DefaultAccount,
}

impl Milestone {
    const fn missed(self) -> &'static str {
        match self {
            Self::ApiReady => "kube-apiserver is not ready",
            Self::DefaultAccount => {
                "kube-controller-manager has not made the default ServiceAccount"
            }
        }
    }

    async fn check(self, client: &Client) -> Result<(), String> {
        match self {
            Self::ApiReady => {
                let request = http::Request::get("/readyz").body(Vec::new());
                let request = request.map_err(|error| error.to_string())?;
                client
                    .request_text(request)
                    .await
                    .map(drop)
                    .map_err(|error| error.to_string())
            }
            Self::DefaultAccount => {
                let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
                accounts
                    .get("default")
                    .await
                    .map(drop)
                    .map_err(|error| error.to_string())
            }
        }
    }
}

/// Asks until the answer is yes, a server has ended or the limit has passed.
async fn wait(
    plane: &mut ControlPlane,
    client: &Client,
    milestone: Milestone,
) -> Result<(), Error> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let answer = tokio::time::timeout(Duration::from_secs(5), milestone.check(client)).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer within 5 s".to_owned()));
        let Err(last) = answer else { return Ok(()) };
        check_running(plane)?;
        if Instant::now() >= deadline {
            return Err(Error::Late {
                what: milestone.missed(),
                seconds: LIMIT.as_secs(),
                last,
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

fn check_running(plane: &mut ControlPlane) -> Result<(), Error> {
    let loops = [
        ("kube-scheduler", plane.scheduler.as_mut()),
        ("kube-controller-manager", plane.controller_manager.as_mut()),
        ("kube-apiserver", Some(&mut plane.api_server)),
        ("etcd", Some(&mut plane.etcd)),
    ];
    for (server, process) in loops {
        let Some(process) = process else { continue };
        if let Some(status) = process.ended() {
            let tail = tail(process.log(), 10);
            return Err(Error::Ended {
                server,
                status: status.to_string(),
                tail,
            });
        }
    }
    Ok(())
}
