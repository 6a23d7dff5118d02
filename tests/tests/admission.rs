//! The real API server accepts our CRDs and policy, and judges as the offline check does.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use http::Request;
use kaito_api::admission::{validate_create, validate_update};
use kaito_api::crd;
use kaito_tests::fixture::apply_yaml;
use kaito_tests::{ControlPlane, Options};
use kube::Client;
use serde_json::{Value, json};
use support::Case;

#[path = "../../scheduler/api/tests/support/mod.rs"]
mod support;

const CASES: &str = "../scheduler/api/tests/data/cases.jsonl";
/// Generous: the machine may be busy with other suites.
const LIMIT: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "default";

/// What the server answers: nothing when it accepts, its message when it refuses.
type Verdict = Option<String>;

async fn send(
    client: &Client,
    method: &str,
    path: &str,
    body: &Value,
) -> Result<Result<Value, String>> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(serde_json::to_vec(body)?)?;
    match client.request::<Value>(request).await {
        Ok(answer) => Ok(Ok(answer)),
        Err(kube::Error::Api(status)) => Ok(Err(status.message.clone())),
        Err(error) => Err(error).context("no answer from the API server"),
    }
}

fn collection(object: &Value) -> String {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    format!("/apis/{version}/namespaces/{NAMESPACE}/workspaces")
}

fn item(object: &Value) -> String {
    format!(
        "{}/{}",
        collection(object),
        object["metadata"]["name"].as_str().unwrap_or_default()
    )
}

async fn create(client: &Client, object: &Value, dry_run: &str) -> Result<Result<Value, String>> {
    let path = format!("{}?fieldValidation=Strict{dry_run}", collection(object));
    send(client, "POST", &path, object).await
}

async fn judge_create(client: &Client, object: &Value) -> Result<Verdict> {
    Ok(create(client, object, "&dryRun=All").await?.err())
}

async fn judge_update(client: &Client, old: &Value, new: &Value) -> Result<Verdict> {
    let stored = match create(client, old, "").await? {
        Ok(stored) => stored,
        Err(message) => bail!("the old object is refused: {message}"),
    };
    let mut new = new.clone();
    new["metadata"]["name"] = old["metadata"]["name"].clone();
    new["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"].clone();
    let path = format!("{}?fieldValidation=Strict&dryRun=All", item(old));
    let verdict = send(client, "PUT", &path, &new).await?.err();
    let deleted = send(client, "DELETE", &item(old), &json!({})).await?;
    ensure!(deleted.is_ok(), "{deleted:?}");
    Ok(verdict)
}

async fn judge(client: &Client, case: &Case) -> Result<Verdict> {
    match case.old_object() {
        Some(old) => judge_update(client, &old, &case.object()).await,
        None => judge_create(client, &case.object()).await,
    }
}

/// A server with the CRDs and the policy in force.
async fn server() -> Result<(ControlPlane, Client)> {
    let plane = ControlPlane::start(Options::api_only()).await?;
    let client = plane.client().await?;
    apply_yaml(&client, NAMESPACE, &crd::crd_yaml()?).await?;
    apply_yaml(&client, NAMESPACE, &crd::admission_policy_yaml()?).await?;
    // The policy is in force once it refuses what only it refuses.
    let mut probe = workspace("probe");
    probe["metadata"]["annotations"] = json!({"kaito.sh/runtime": "none"});
    let deadline = Instant::now() + LIMIT;
    loop {
        let verdict = judge_create(&client, &probe).await;
        if matches!(&verdict, Ok(Some(message)) if message.contains("kaito.sh/runtime")) {
            return Ok((plane, client));
        }
        ensure!(
            Instant::now() < deadline,
            "the policy is not in force: {verdict:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn workspace(name: &str) -> Value {
    json!({
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": name},
        "resource": {"labelSelector": {"matchLabels": {"app": name}}},
        "inference": {"preset": {"name": "phi-4"}},
    })
}

#[tokio::test]
async fn the_server_judges_every_case_as_kaito_and_as_the_offline_check_does() -> Result<()> {
    let (_plane, client) = server().await?;
    let mut wrong = Vec::new();
    for case in support::cases() {
        let verdict = judge(&client, &case)
            .await
            .with_context(|| case.id.clone())?;
        let said = verdict.clone().unwrap_or_default().to_lowercase();
        let silent = case
            .error_contains
            .iter()
            .find(|word| !said.contains(&word.to_lowercase()));
        if verdict.is_some() != (case.expect == "error") || (verdict.is_some() && silent.is_some())
        {
            wrong.push(format!(
                "{} ({} {}, {}): expected {} {:?}, got {verdict:?}",
                case.id, case.op, case.rule, case.name, case.expect, case.error_contains
            ));
        }
        let offline = match case.old_object() {
            Some(old) => validate_update(&old, &case.object()),
            None => validate_create(&case.object()),
        };
        if offline.is_empty() != verdict.is_none() {
            wrong.push(format!(
                "{}: offline {offline:?}, server {verdict:?}",
                case.id
            ));
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
    Ok(())
}

#[tokio::test]
async fn the_server_admits_every_example_unchanged() -> Result<()> {
    let (_plane, client) = server().await?;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let documents: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(&path)?)?;
        for object in documents
            .iter()
            .filter(|object| object["kind"] == "Workspace")
        {
            seen += 1;
            let verdict = judge_create(&client, object).await?;
            ensure!(verdict.is_none(), "{}: {verdict:?}", path.display());
        }
    }
    ensure!(seen >= 13, "only {seen} Workspaces found");
    Ok(())
}

/// Objects beyond the cases: each is judged both ways.
fn strange_objects() -> Vec<Value> {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut object = workspace("strange");
        change(&mut object);
        object
    };
    vec![
        with(&|object| object["spec"] = json!({})),
        with(&|object| object["resource"]["instancetype"] = json!("x")),
        with(&|object| object["resource"]["count"] = json!("1")),
        with(&|object| object["resource"]["count"] = Value::Null),
        with(&|object| object["resource"]["gpus"] = json!(0)),
        with(&|object| object["resource"]["instanceType"] = json!("G6.48XLARGE")),
        with(&|object| object["resource"]["labelSelector"] = json!({"matchLabels": {"a": 1}})),
        with(&|object| object["inference"]["preset"] = json!({})),
        with(&|object| object["inference"]["template"] = json!([])),
        with(&|object| object["inference"]["template"] = Value::Null),
        with(&|object| object["inference"]["adapters"] = json!({})),
        with(&|object| object["inference"]["preset"]["accessMode"] = json!("secret")),
        with(&|object| object["inference"]["preset"]["name"] = json!("x".repeat(300))),
        with(&|object| object["inference"]["preset"]["name"] = json!("some-org/some-model")),
        with(&|object| object["inference"]["preset"]["name"] = json!("llama-3.1-8b-instruct")),
        with(&|object| object["inference"]["preset"]["name"] = json!("google/gemma-3-4b-it")),
        with(&|object| object["metadata"] = json!({"generateName": "made-"})),
        with(&|object| object["metadata"]["name"] = json!("a".repeat(53))),
        with(&|object| object["metadata"]["name"] = json!("a".repeat(64))),
        with(&|object| object["metadata"]["name"] = json!("a.b")),
        with(&|object| object["metadata"]["labels"] = json!({"a": "-"})),
        with(&|object| {
            object["metadata"]["annotations"] = json!({"kaito.sh/node-image-family": " Ubuntu "});
        }),
        with(&|object| object["status"] = json!({"state": "Ready"})),
        with(&|object| {
            object["resource"]["partition"] = json!({"mode": "mig", "profile": "9g.9gb"});
        }),
        with(&|object| {
            object["resource"]["partition"] = json!({"mode": "mig", "profile": "1g.10gb"});
        }),
        with(&|object| {
            object["apiVersion"] = json!("kaito.sh/v1alpha1");
            object["resource"]["partition"] = json!({"mode": "accelerator", "count": 1});
        }),
    ]
}

#[tokio::test]
async fn the_offline_check_agrees_with_the_server_about_strange_objects() -> Result<()> {
    let (_plane, client) = server().await?;
    let mut wrong = Vec::new();
    for object in strange_objects() {
        let verdict = judge_create(&client, &object).await?;
        let offline = validate_create(&object);
        if offline.is_empty() != verdict.is_none() {
            wrong.push(format!("{object}: offline {offline:?}, server {verdict:?}"));
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
    Ok(())
}

#[tokio::test]
async fn get_shows_the_columns_that_users_of_kaito_know() -> Result<()> {
    let (plane, client) = server().await?;
    let created = create(&client, &workspace("columns"), "").await?;
    ensure!(created.is_ok(), "{created:?}");
    let header = |wide: &[&str]| -> Result<String> {
        let mut arguments = vec!["get", "workspace", "columns"];
        arguments.extend(wide);
        let output = plane.kubectl_command().args(arguments).output()?;
        let text = String::from_utf8(output.stdout)?;
        Ok(text
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" "))
    };
    assert_eq!(
        header(&[])?,
        "NAME INSTANCE RESOURCEREADY INFERENCEREADY JOBSTARTED WORKSPACEREADY AGE"
    );
    assert_eq!(
        header(&["-o", "wide"])?,
        "NAME INSTANCE RESOURCEREADY INFERENCEREADY JOBSTARTED WORKSPACEREADY TARGETNODECOUNT STATE AGE"
    );
    Ok(())
}

#[tokio::test]
async fn what_is_written_as_v1alpha1_reads_as_v1beta1() -> Result<()> {
    let (_plane, client) = server().await?;
    let mut object = workspace("old-client");
    object["apiVersion"] = json!("kaito.sh/v1alpha1");
    object["resource"]["gpus"] = json!(1);
    object["scheduling"] = json!({"priority": 7});
    let created = create(&client, &object, "").await?;
    ensure!(created.is_ok(), "{created:?}");
    object["apiVersion"] = json!("kaito.sh/v1beta1");
    let read = send(&client, "GET", &item(&object), &json!({})).await?;
    let read = read.map_err(anyhow::Error::msg)?;
    assert_eq!(read["apiVersion"], "kaito.sh/v1beta1");
    assert_eq!(read["resource"]["gpus"], 1);
    assert_eq!(read["scheduling"]["priority"], 7);
    assert_eq!(read["resource"]["count"], 1);
    assert_eq!(read["inference"]["preset"]["name"], "phi-4");
    Ok(())
}

#[tokio::test]
async fn a_claim_is_held_to_karpenters_rules() -> Result<()> {
    let (_plane, client) = server().await?;
    let path = "/apis/karpenter.sh/v1/nodeclaims?fieldValidation=Strict&dryRun=All";
    let claim = |change: &dyn Fn(&mut Value)| {
        let mut object = json!({
            "apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "metadata": {"name": "one"},
            "spec": {
                "nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"},
                "requirements": [{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["a"]}],
                "resources": {"requests": {"storage": "100Gi", "nvidia.com/gpu": 1}},
                "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
            },
        });
        change(&mut object);
        object
    };
    let accepted = send(&client, "POST", path, &claim(&|_| {}))
        .await?
        .map_err(anyhow::Error::msg)?;
    assert_eq!(accepted["spec"]["expireAfter"], "720h");
    let never = claim(&|object| object["spec"]["expireAfter"] = json!("Never"));
    ensure!(send(&client, "POST", path, &never).await?.is_ok());
    let refused: [&dyn Fn(&mut Value); 7] = [
        &|object| object["spec"]["requirements"][0]["values"] = json!([]),
        &|object| object["spec"]["requirements"][0]["operator"] = json!("Is"),
        &|object| object["spec"]["requirements"][0]["key"] = json!("karpenter.sh/other"),
        &|object| object["spec"]["requirements"][0]["key"] = json!("kubernetes.io/hostname"),
        &|object| object["spec"]["requirements"][0]["minValues"] = json!(2),
        &|object| object["spec"]["nodeClassRef"]["name"] = json!(""),
        &|object| object["spec"]["expireAfter"] = json!("a month"),
    ];
    for change in refused {
        let object = claim(change);
        ensure!(
            send(&client, "POST", path, &object).await?.is_err(),
            "{object} passed"
        );
    }
    Ok(())
}
