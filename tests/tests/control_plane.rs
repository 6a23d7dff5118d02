//! The test control plane itself: it is real, isolated, and leaves nothing behind.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use kaito_tests::control_plane::{client_of, read_audit_log};
use kaito_tests::fixture::{Namespace, NodeShape, create_node};
use kaito_tests::wait::{wait_for, wait_for_all};
use kaito_tests::{ControlPlane, Options, programs};
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::{Api, ResourceExt};
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// Generous: the machine may be busy with other suites.
const LIMIT: Duration = Duration::from_secs(60);

fn is_running(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok()
}

/// Ids of processes whose command line mentions the folder.
fn processes_of(folder: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(folder)
    })
    .collect()
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        ensure!(
            Instant::now() < deadline,
            "{what}: not within {} s",
            LIMIT.as_secs()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test]
async fn stopping_ends_every_server_and_removes_the_folder() -> Result<()> {
    let plane = ControlPlane::start(Options::full()).await?;
    let (pids, folder) = (plane.pids(), plane.folder().to_owned());
    assert_eq!(pids.len(), 4);
    assert!(pids.iter().all(|pid| is_running(*pid)));
    plane.stop()?;
    assert!(!pids.iter().any(|pid| is_running(*pid)), "{pids:?}");
    assert_eq!(processes_of(&folder.to_string_lossy()), Vec::<i32>::new());
    assert!(!folder.exists());
    Ok(())
}

#[tokio::test]
async fn two_control_planes_run_side_by_side_and_share_nothing() -> Result<()> {
    let (first, second) = tokio::try_join!(
        ControlPlane::start(Options::api_only()),
        ControlPlane::start(Options::api_only())
    )?;
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some("only-here".into()),
            ..Default::default()
        },
        ..Default::default()
    };
    let here: Api<ConfigMap> = Api::namespaced(first.client().await?, "default");
    here.create(&PostParams::default(), &map).await?;
    let there: Api<ConfigMap> = Api::namespaced(second.client().await?, "default");
    assert!(there.get_opt("only-here").await?.is_none());
    // Each trusts its own authority only.
    let stranger = std::fs::read_to_string(first.kubeconfig_path())?
        .replace(first.endpoint(), second.endpoint());
    let path = first.folder().join("stranger.kubeconfig");
    std::fs::write(&path, stranger)?;
    let maps: Api<ConfigMap> = Api::namespaced(client_of(&path).await?, "default");
    assert!(maps.list(&ListParams::default()).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_panic_stops_the_servers() -> Result<()> {
    let (send, pids) = tokio::sync::oneshot::channel();
    let test = tokio::spawn(async move {
        let plane = ControlPlane::start(Options::api_only()).await.unwrap();
        send.send(plane.pids()).unwrap();
        panic!("as a failing test does, with the control plane in scope");
    });
    assert!(test.await.is_err_and(|error| error.is_panic()));
    let pids = pids.await?;
    assert!(!pids.iter().any(|pid| is_running(*pid)), "{pids:?}");
    Ok(())
}

/// Starts `kaito-testbed up` and returns it with the folder of its control plane.
fn testbed_up() -> Result<(std::process::Child, String)> {
    let mut testbed = Command::new(programs::find(programs::TESTBED)?)
        .args(["up", "--api-only"])
        .stdout(Stdio::piped())
        .spawn()?;
    // To its last line: the program fails if nobody reads what it still has to say.
    let mut kubeconfig = None;
    for line in BufReader::new(testbed.stdout.take().context("no output")?).lines() {
        let line = line?;
        if let Some(path) = line.strip_prefix("export KUBECONFIG=") {
            kubeconfig = Some(path.to_owned());
        }
        if line.starts_with("# stop with") {
            break;
        }
    }
    let kubeconfig = kubeconfig.context("no kubeconfig printed")?;
    let folder = Path::new(&kubeconfig).parent().context("no folder")?;
    Ok((testbed, folder.to_string_lossy().into_owned()))
}

#[tokio::test]
async fn servers_end_even_when_their_owner_is_killed() -> Result<()> {
    let (mut testbed, folder) = testbed_up()?;
    assert!(!processes_of(&folder).is_empty());
    testbed.kill()?;
    testbed.wait()?;
    eventually("servers of a killed owner are gone", || {
        processes_of(&folder).is_empty()
    })
    .await?;
    eventually("their folder is gone", || !Path::new(&folder).exists()).await
}

#[tokio::test]
async fn an_interrupt_stops_the_servers_in_order_and_ends_well() -> Result<()> {
    let (mut testbed, folder) = testbed_up()?;
    kill(
        Pid::from_raw(i32::try_from(testbed.id())?),
        nix::sys::signal::SIGINT,
    )?;
    let status = testbed.wait()?;
    assert!(status.success(), "{status}");
    assert_eq!(processes_of(&folder), Vec::<i32>::new());
    assert!(!Path::new(&folder).exists());
    Ok(())
}

#[tokio::test]
async fn a_service_account_may_do_what_its_role_says_and_no_more() -> Result<()> {
    let namespace = Namespace::create(ControlPlane::shared().await?, "rbac").await?;
    namespace
        .apply(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: reader}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reader}\n\
             rules: [{apiGroups: [''], resources: [configmaps], verbs: [list]}]\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: reader}\n\
             roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}\n\
             subjects: [{kind: ServiceAccount, name: reader}]\n",
        )
        .await?;
    let kubeconfig = namespace
        .plane()
        .service_account_kubeconfig(namespace.name(), "reader")
        .await?;
    let client = client_of(&kubeconfig).await?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace.name());
    maps.list(&ListParams::default()).await?;
    let pods: Api<Pod> = Api::namespaced(client, namespace.name());
    let refused = pods.list(&ListParams::default()).await.unwrap_err();
    assert!(
        matches!(&refused, kube::Error::Api(status) if status.is_forbidden()),
        "{refused}"
    );
    assert!(refused.to_string().contains("reader"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn an_account_that_does_not_exist_gets_no_token() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    let refused = plane
        .service_account_kubeconfig("default", "nobody")
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("default/nobody"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn kubectl_and_the_server_are_the_same_version() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    let output = plane
        .kubectl_command()
        .args(["version", "--output", "json"])
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let versions: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let server = versions["serverVersion"]["gitVersion"]
        .as_str()
        .context("no server version")?;
    assert_eq!(versions["clientVersion"]["gitVersion"], server);
    assert!(server.starts_with("v1.36."), "{server}");
    Ok(())
}

#[tokio::test]
async fn the_real_controllers_make_pods_and_the_real_scheduler_binds_them() -> Result<()> {
    let plane = ControlPlane::start(Options::full()).await?;
    let namespace = Namespace::create(&plane, "deploy").await?;
    let shape = NodeShape {
        instance_type: "test",
        cpu: 8,
        memory_gib: 64,
        gpus: 2,
    };
    create_node(&namespace.client(), "node-1", shape).await?;
    namespace
        .apply(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 3\n\
             \x20 selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n\
             \x20   spec:\n      containers:\n      - name: main\n        image: none\n\
             \x20       resources: {limits: {nvidia.com/gpu: 1}}\n",
        )
        .await?;
    let pods: Api<Pod> = namespace.api();
    let node_of = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    // The third finds no GPU, so the scheduler counts them.
    let unschedulable = |pod: &Pod| {
        let conditions = pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        conditions
            .into_iter()
            .any(|condition| condition.reason.as_deref() == Some("Unschedulable"))
    };
    wait_for_all(
        &pods,
        "app=web",
        "two pods bound, one without a GPU",
        LIMIT,
        |pods| {
            pods.iter()
                .filter(|pod| node_of(pod).as_deref() == Some("node-1"))
                .count()
                == 2
                && pods.iter().filter(|pod| unschedulable(pod)).count() == 1
        },
    )
    .await?;
    Ok(())
}

#[tokio::test]
async fn the_audit_log_tells_who_asked_for_what() -> Result<()> {
    let plane = ControlPlane::start(Options::api_only().audited()).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(plane.client().await?, "default");
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some("robot".into()),
            ..Default::default()
        },
        ..Default::default()
    };
    accounts.create(&PostParams::default(), &account).await?;
    let client = client_of(&plane.service_account_kubeconfig("default", "robot").await?).await?;
    let maps: Api<ConfigMap> = Api::namespaced(client, "kube-system");
    assert!(maps.get("secret-plan").await.is_err());
    let requests = read_audit_log(plane.audit_log())?;
    let asked: Vec<_> = requests
        .iter()
        .filter(|request| request.user == "system:serviceaccount:default:robot")
        .collect();
    assert_eq!(asked.len(), 1, "{asked:?}");
    let request = asked[0];
    assert_eq!(
        (
            request.verb.as_str(),
            request.resource.as_str(),
            request.code
        ),
        ("get", "configmaps", 403)
    );
    assert_eq!(
        (request.namespace.as_str(), request.name.as_str()),
        ("kube-system", "secret-plan")
    );
    Ok(())
}

#[tokio::test]
async fn a_wait_that_fails_shows_what_was_there() -> Result<()> {
    let namespace = Namespace::create(ControlPlane::shared().await?, "wait").await?;
    namespace
        .apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: seen}\ndata: {colour: green}\n")
        .await?;
    let maps: Api<ConfigMap> = namespace.api();
    let found = wait_for(&maps, "seen", "the map", LIMIT, |map| map.is_some()).await?;
    assert_eq!(found.map(|map| map.name_any()).as_deref(), Some("seen"));
    let late = wait_for(
        &maps,
        "seen",
        "its deletion",
        Duration::from_millis(300),
        |map| map.is_none(),
    )
    .await;
    let text = late.unwrap_err().to_string();
    assert!(
        text.contains("its deletion") && text.contains("green"),
        "{text}"
    );
    Ok(())
}

/// Runs `kaito-testbed binaries NAME` with an empty cache and the given PATH.
fn binaries(name: &str, path: &Path, assets: Option<&Path>) -> Result<std::process::Output> {
    let cache = tempfile::tempdir()?;
    let mut command = Command::new(programs::find(programs::TESTBED)?);
    command
        .args(["binaries", name])
        .env("KAITO_CACHE", cache.path())
        .env("PATH", path);
    match assets {
        Some(folder) => command.env("KUBEBUILDER_ASSETS", folder),
        None => command.env_remove("KUBEBUILDER_ASSETS"),
    };
    Ok(command.output()?)
}

fn script(folder: &Path, name: &str, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
    Ok(std::fs::set_permissions(
        &path,
        std::fs::Permissions::from_mode(0o755),
    )?)
}

#[test]
fn binaries_in_kubebuilder_assets_are_taken_as_they_are() -> Result<()> {
    let folder = tempfile::tempdir()?;
    script(folder.path(), "etcd", "exit 0")?;
    let output = binaries("etcd", Path::new("/nonexistent"), Some(folder.path()))?;
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8(output.stdout)?.trim(),
        folder.path().join("etcd").to_string_lossy()
    );
    Ok(())
}

#[test]
fn without_go_the_error_says_what_to_install() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = binaries("krew", folder.path(), None)?;
    let text = String::from_utf8(output.stderr)?;
    assert!(!output.status.success());
    assert!(
        text.contains("install Go 1.26") && text.contains("KUBEBUILDER_ASSETS"),
        "{text}"
    );
    Ok(())
}

#[test]
fn an_old_go_is_named_with_the_version_that_is_needed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    script(folder.path(), "go", "echo go1.19.8")?;
    let output = binaries("krew", folder.path(), None)?;
    let text = String::from_utf8(output.stderr)?;
    assert!(!output.status.success());
    assert!(
        text.contains("go1.19.8 is too old") && text.contains("1.26"),
        "{text}"
    );
    Ok(())
}

/// Starts `kaito-testbed binaries krew` with a compiler that never ends and has a child, as the real one has.
async fn endless_build(tools: &Path, cache: &Path) -> Result<std::process::Child> {
    script(
        tools,
        "go",
        "[ \"$1\" = env ] && echo go1.26.8 && exit\nsleep 1000 & wait",
    )?;
    let path = format!("{}:/usr/bin:/bin", tools.display());
    let testbed = Command::new(programs::find(programs::TESTBED)?)
        .args(["binaries", "krew"])
        .env("KAITO_CACHE", cache)
        .env("PATH", path)
        .env_remove("KUBEBUILDER_ASSETS")
        .stderr(Stdio::null())
        .spawn()?;
    let staging = format!("{}/bin/.building-", cache.display());
    eventually("the build runs", || processes_of(&staging).len() >= 2).await?;
    Ok(testbed)
}

fn staging_folders(cache: &Path) -> Result<usize> {
    let entries = std::fs::read_dir(cache.join("bin"))?.flatten();
    Ok(entries
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with(".building-")
        })
        .count())
}

#[tokio::test]
async fn an_interrupted_build_ends_its_compiler_before_it_ends_itself() -> Result<()> {
    let (tools, cache) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut testbed = endless_build(tools.path(), cache.path()).await?;
    kill(
        Pid::from_raw(i32::try_from(testbed.id())?),
        nix::sys::signal::SIGINT,
    )?;
    assert!(!testbed.wait()?.success());
    assert_eq!(
        processes_of(&cache.path().to_string_lossy()),
        Vec::<i32>::new()
    );
    assert_eq!(staging_folders(cache.path())?, 0);
    Ok(())
}

#[tokio::test]
async fn a_killed_build_leaves_no_compiler_and_no_file() -> Result<()> {
    let (tools, cache) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut testbed = endless_build(tools.path(), cache.path()).await?;
    testbed.kill()?;
    testbed.wait()?;
    let mentioned = cache.path().to_string_lossy().into_owned();
    eventually("the compiler is gone", || {
        processes_of(&mentioned).is_empty()
    })
    .await?;
    eventually("its folder is gone", || {
        staging_folders(cache.path()).is_ok_and(|count| count == 0)
    })
    .await
}
