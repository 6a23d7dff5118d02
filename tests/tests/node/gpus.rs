//! *Pretended* GPUs on a real node: counted, given to one pod at a time, and used by a Workspace.

use super::*;

#[tokio::test]
#[ignore = "needs root on Linux: tests/run --only node"]
async fn pretended_gpus_are_counted_and_our_scheduler_runs_a_workspace_on_them() {
    let before = host_settings();
    let mut node = Node::start(node::Options::default()).await.unwrap();
    let client = node.client().await.unwrap();
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let plugin = DevicePlugin::start(&node.device_plugins(), GPU, 1)
        .await
        .unwrap();
    let started = Instant::now();
    wait_for(&nodes, node::NAME, "the GPU is counted", LIMIT, |object| {
        allocatable(object, GPU) == 1
    })
    .await
    .unwrap();
    report("pretended GPU counted", started);
    let image = Image::busybox().unwrap();
    let image = node.push(&image, "tests/server", "1").unwrap();
    {
        let namespace = Namespace::create(node.plane(), "gpus").await.unwrap();
        namespace.apply(&pull_secret(&node)).await.unwrap();
        // Boxed, as what follows: together they are too large for the stack of a test.
        Box::pin(a_gpu_is_given_to_one_pod_only(&namespace, &image)).await;
    }
    Box::pin(workspace_runs(&node, &plugin, &image)).await;

    Box::pin(a_restarted_kubelet_knows_the_gpu(
        &mut node, &plugin, &image,
    ))
    .await;
    set_gpus(&node, &plugin, 0).await;
    plugin.stop().await;
    // Not stopped but dropped, as when a test panics.
    let identity = node.identity();
    drop(node);
    assert_eq!(identity.traces().unwrap(), Traces::default());
    assert_eq!(host_settings(), before);
}

/// Containers live through the restart, and the next pod gets the GPU as soon as the first is gone.
async fn a_restarted_kubelet_knows_the_gpu(node: &mut Node, plugin: &DevicePlugin, image: &str) {
    let client = node.client().await.unwrap();
    let (name, secret) = ("default", pull_secret(node));
    apply_yaml(&client, name, &secret).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), name);
    apply_yaml(&client, name, &sleeper("third", image, 1))
        .await
        .unwrap();
    let before = wait_for_ready(&pods, "third").await;
    node.restart_kubelet().unwrap();
    plugin.listed(2).await;
    apply_yaml(&client, name, &sleeper("fourth", image, 1))
        .await
        .unwrap();
    let after = wait_for_ready(&pods, "third").await;
    assert_eq!(container(&before), container(&after));
    pods.delete("third", &DeleteParams::default())
        .await
        .unwrap();
    wait_for_ready(&pods, "fourth").await;
}

/// Id of the pod's container, which changes when it is started again.
fn container(pod: &Pod) -> &str {
    let status = pod.status.as_ref().unwrap();
    let containers = status.container_statuses.as_ref().unwrap();
    containers[0].container_id.as_deref().unwrap()
}

async fn a_gpu_is_given_to_one_pod_only(namespace: &Namespace<'_>, image: &str) {
    let pods: Api<Pod> = namespace.api();
    namespace.apply(&sleeper("first", image, 1)).await.unwrap();
    wait_for_ready(&pods, "first").await;
    let log = pods.logs("first", &LogParams::default()).await.unwrap();
    assert_eq!(log, "given: pretended-0\n");

    namespace.apply(&sleeper("second", image, 1)).await.unwrap();
    let waits = |pod: Option<&Pod>| {
        let status = pod.and_then(|pod| pod.status.as_ref());
        let list = status.and_then(|status| status.conditions.as_deref());
        list.unwrap_or_default().iter().any(|condition| {
            let message = condition.message.as_deref().unwrap_or_default();
            condition.type_ == "PodScheduled"
                && condition.status == "False"
                && message.contains("Insufficient nvidia.com/gpu")
        })
    };
    wait_for(&pods, "second", "the second pod waits", LIMIT, waits)
        .await
        .unwrap();
    pods.delete("first", &DeleteParams::default())
        .await
        .unwrap();
    wait_for_ready(&pods, "second").await;
    pods.delete("second", &DeleteParams::default())
        .await
        .unwrap();
    wait_for_none(&pods, "both are gone", LIMIT).await.unwrap();
}

fn own_server(image: &str) -> String {
    format!(
        "apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {{name: own-server}}
resource: {{labelSelector: {{matchLabels: {{kubernetes.io/os: linux}}}}}}
inference:
  template:
    spec:
      terminationGracePeriodSeconds: 1
      imagePullSecrets: [{{name: registry}}]
      containers:
        - name: server
          image: {image}
          args: ['-c', 'echo given: ${VARIABLE}; exec httpd -f -p 5000 -h /www']
          ports: [{{containerPort: 5000}}]
          resources: {{limits: {{{GPU}: 1}}}}
          readinessProbe: {{httpGet: {{path: /index.html, port: 5000}}, periodSeconds: 1}}
"
    )
}

fn gates(pod: &Pod) -> Vec<String> {
    let gates = pod.spec.as_ref().unwrap().scheduling_gates.iter().flatten();
    gates.map(|gate| gate.name.clone()).collect()
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().unwrap().node_name.as_deref()
}

async fn set_gpus(node: &Node, plugin: &DevicePlugin, count: u64) {
    plugin.set_healthy(usize::try_from(count).unwrap());
    let nodes: Api<NodeObject> = Api::all(node.client().await.unwrap());
    let what = format!("{count} GPUs are healthy");
    wait_for(&nodes, node::NAME, &what, LIMIT, |object| {
        allocatable(object, GPU) == count
    })
    .await
    .unwrap();
}

/// Gated, placed, admitted, run, reported ready, reached through its Service, deleted.
async fn workspace_runs(node: &Node, plugin: &DevicePlugin, image: &str) {
    cluster::install(node.plane()).unwrap();
    let arguments = ["--node-provisioner=byo".to_owned()];
    let scheduler = cluster::start_scheduler(node.plane(), node.plane().endpoint(), &arguments)
        .await
        .unwrap();
    let namespace = Namespace::create(node.plane(), "own").await.unwrap();
    namespace.apply(&pull_secret(node)).await.unwrap();
    set_gpus(node, plugin, 0).await;
    namespace.apply(&own_server(image)).await.unwrap();
    is_held_back(&namespace).await;
    let started = Instant::now();
    plugin.set_healthy(1);
    gets_the_gpu(&namespace).await;
    is_reported_ready(&namespace).await;
    report("GPU there to Workspace ready", started);
    let services: Api<Service> = namespace.api();
    let service = services.get("own-server").await.unwrap().spec.unwrap();
    let url = format!("http://{}/index.html", service.cluster_ip.unwrap());
    assert_eq!(fetch(node, &url).await, "it works\n");
    let started = Instant::now();
    is_deleted(&namespace).await;
    report("Workspace deleted", started);
    drop(scheduler);
}

/// Without a GPU the Workspace says so, and its pod stays behind the gate.
async fn is_held_back(namespace: &Namespace<'_>) {
    let workspaces: Api<Workspace> = namespace.api();
    let (name, what) = ("own-server", "it waits for a GPU");
    let blocked = |workspace: Option<&Workspace>| waits_for(workspace, "NoNodeFits");
    wait_for(&workspaces, name, what, LIMIT, blocked)
        .await
        .unwrap();
    let pods: Api<Pod> = namespace.api();
    wait_for_all(&pods, "", "its pod is held back", LIMIT, |all| {
        all.len() == 1 && gates(&all[0]) == ["kaito.sh/placement"] && node_of(&all[0]).is_none()
    })
    .await
    .unwrap();
}

async fn gets_the_gpu(namespace: &Namespace<'_>) {
    let pods: Api<Pod> = namespace.api();
    let found = wait_for_all(&pods, "", "its pod is ready", LIMIT, |all| {
        all.len() == 1 && is_ready(all.first())
    })
    .await
    .unwrap();
    let pod = found.first().unwrap();
    assert_eq!(node_of(pod), Some(node::NAME));
    assert_eq!(gates(pod), Vec::<String>::new());
    let log = pods.logs(&pod.name_any(), &LogParams::default()).await;
    assert_eq!(log.unwrap(), "given: pretended-0\n");
}

async fn is_reported_ready(namespace: &Namespace<'_>) {
    let workspaces: Api<Workspace> = namespace.api();
    let ready = |workspace: Option<&Workspace>| is_true(workspace, conditions::WORKSPACE_READY);
    let found = wait_for(&workspaces, "own-server", "it is ready", LIMIT, ready).await;
    let workspace = found.unwrap().unwrap();
    let used = workspace.status.unwrap().worker_nodes.unwrap();
    assert_eq!(used, [node::NAME]);
}

async fn is_deleted(namespace: &Namespace<'_>) {
    let workspaces: Api<Workspace> = namespace.api();
    workspaces
        .delete("own-server", &DeleteParams::default())
        .await
        .unwrap();
    wait_for_none(&workspaces, "it is gone", LIMIT)
        .await
        .unwrap();
    let pods: Api<Pod> = namespace.api();
    wait_for_none(&pods, "its pod is gone", LIMIT)
        .await
        .unwrap();
    let deployments: Api<Deployment> = namespace.api();
    wait_for_none(&deployments, "its Deployment is gone", LIMIT)
        .await
        .unwrap();
}
