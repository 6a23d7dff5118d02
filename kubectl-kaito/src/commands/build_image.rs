//! `build-image`: the image builder's `build`, with credentials from the cluster and a Workspace at the end.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use image_builder::command::{self as builder, BuildArgs, Built, Output, VerifyArgs};
use image_builder::registry::Credential;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::Value;

use crate::Context;
use crate::cluster::Cluster;
use crate::error::{Exit, Failure};
use crate::output::printer::Printer;

/// Keys of secrets with registry credentials.
const DOCKER_CONFIG: &str = ".dockerconfigjson";

/// Why no image is made, or no Workspace of it; what goes wrong while it is made, the image builder says itself.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// A Workspace of an image that is nowhere.
    #[error("--apply needs --push: a Workspace uses an image in a registry")]
    ApplyWithoutPush,
    /// The thread of the image builder is gone.
    #[error("the image builder ended early")]
    EndedEarly(#[source] tokio::task::JoinError),
    /// A secret of another kind.
    #[error("the secret {secret} has no {DOCKER_CONFIG}")]
    OtherSecret {
        /// Its namespace and name.
        secret: String,
    },
    /// A secret that cannot be read.
    #[error("{DOCKER_CONFIG} of the secret {secret} is not what docker writes")]
    BadSecret {
        /// Its namespace and name.
        secret: String,
    },
    /// An image that no Workspace uses, such as a program.
    #[error("nothing was applied: no Workspace uses an image of this kind")]
    NothingToApply,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = Self::of(&error);
        match error {
            Error::OtherSecret { .. } => failure.with_hint(
                "Make one with: kubectl create secret docker-registry NAME --docker-server=… --docker-username=… \
                 --docker-password=…",
            ),
            _ => failure,
        }
    }
}

/// Flags of `build-image`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  # Package a directory and push it; prints the Workspace that uses it
  kubectl kaito build-image ./phi-4 -t registry.example/models/phi-4:v1 --push

  # Straight from the hub to the registry; nothing is written to disk
  kubectl kaito build-image hf://microsoft/phi-4 -t registry.example/models/phi-4:v1 --push

  # See what would be made and sent
  kubectl kaito build-image ./phi-4 -t registry.example/models/phi-4:v1 --push --dry-run

  # Read every blob of an image again and compare
  kubectl kaito build-image --verify registry.example/models/phi-4:v1

Exit status: 0 done, 1 errors, 3 not verified or refused by --deny.")]
pub struct Args {
    /// Flags of the image builder.
    #[command(flatten)]
    pub build: BuildArgs,
    /// Secret with credentials of registries, [NAMESPACE/]NAME
    #[arg(long, value_name = "SECRET", help_heading = "Registry")]
    pub registry_secret: Option<String>,
    /// Apply a Workspace of this name that uses the result
    #[arg(long, value_name = "NAME", conflicts_with = "dry_run")]
    pub apply: Option<String>,
}

/// Prints for the image builder by way of our printer.
struct Streams {
    printer: Printer,
}

impl Output for Streams {
    fn data(&self, line: &str) -> Result<(), builder::Failure> {
        self.printer
            .line(line)
            .map_err(|failure| match failure.exit {
                Exit::ClosedPipe => builder::Failure::silent(builder::Exit::ClosedPipe),
                _ => builder::Failure::message(failure),
            })
    }

    fn note(&self, line: &str) {
        // A closed stdout is found again by the next line of data.
        let _ = self.printer.note(&crate::output::escape::multiline(line));
    }

    fn draws_bars(&self) -> bool {
        self.printer.stderr_is_terminal()
    }
}

/// Builds, and applies the Workspace if asked to.
///
/// # Errors
/// Whatever keeps the image from being there; refusals of the server.
pub async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    if args.apply.is_some() && !args.build.push {
        return Err(Error::ApplyWithoutPush.into());
    }
    let credentials = match &args.registry_secret {
        Some(name) => credentials(name, context).await?,
        None => Vec::new(),
    };
    let library = builder::Context {
        variables: context.environment.variables.clone(),
        output: Arc::new(Streams {
            printer: context.printer.clone(),
        }),
        credentials,
        program: format!("{} build-image", context.program),
    };
    if let Some(reference) = &args.build.verify {
        let verify = VerifyArgs {
            reference: reference.clone(),
            key: None,
            concurrency: args.build.concurrency,
            registry: args.build.registry.clone(),
            progress: args.build.progress.clone(),
        };
        let exit = on_many_threads(move || async move { builder::verify(&verify, &library).await })
            .await?;
        return Ok(exit_of(exit));
    }
    let build = args.build.clone();
    let built =
        on_many_threads(move || async move { builder::build(&build, &library).await }).await?;
    match &args.apply {
        Some(name) => apply(name, built, context).await,
        None => Ok(Exit::Success),
    }
}

/// Runs `work` on a runtime of its own: hashing and sending several files takes several threads, and this program
/// otherwise has one.
async fn on_many_threads<T, F>(work: impl FnOnce() -> F + Send + 'static) -> Result<T, Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<T, builder::Failure>>,
{
    let thread = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| builder::Failure::message(format!("cannot start threads: {error}")))?;
        runtime.block_on(work())
    });
    match thread.await {
        Ok(result) => result.map_err(failure_of),
        Err(error) => Err(Error::EndedEarly(error).into()),
    }
}

fn failure_of(failure: builder::Failure) -> Failure {
    let exit = exit_of(failure.exit);
    if failure.lines.is_empty() {
        return Failure::silent(exit);
    }
    Failure::many(failure.lines).with_exit(exit)
}

/// The plugin's exit codes are fewer: everything without one of its own is 1.
const fn exit_of(exit: builder::Exit) -> Exit {
    match exit {
        builder::Exit::Success => Exit::Success,
        builder::Exit::Negative => Exit::Negative,
        builder::Exit::Timeout => Exit::Timeout,
        builder::Exit::ClosedPipe => Exit::ClosedPipe,
        builder::Exit::Failure
        | builder::Exit::Source
        | builder::Exit::Unauthorized
        | builder::Exit::Network
        | builder::Exit::Refused
        | builder::Exit::Interrupted => Exit::Failure,
    }
}

/// Credentials from a secret of the type `kubernetes.io/dockerconfigjson`.
async fn credentials(
    name: &str,
    context: &Context,
) -> Result<Vec<(Option<String>, Credential)>, Failure> {
    let cluster = Cluster::connect(context).await?;
    let (namespace, name) = name
        .split_once('/')
        .unwrap_or_else(|| (cluster.namespace(), name));
    let api: Api<Secret> = Api::namespaced(cluster.client().clone(), namespace);
    let secret = cluster.call("get secrets", api.get(name)).await?;
    let config = secret
        .data
        .as_ref()
        .and_then(|data| data.get(DOCKER_CONFIG))
        .ok_or_else(|| Error::OtherSecret {
            secret: format!("{namespace}/{name}"),
        })?;
    parse_config(&config.0).ok_or_else(|| {
        let secret = format!("{namespace}/{name}");
        Error::BadSecret { secret }.into()
    })
}

/// User and password of each registry in a docker config.
fn parse_config(bytes: &[u8]) -> Option<Vec<(Option<String>, Credential)>> {
    let config: Value = serde_json::from_slice(bytes).ok()?;
    let auths = config.get("auths")?.as_object()?;
    auths
        .iter()
        .map(|(server, entry)| {
            let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
            let (username, password) = match (text("username"), text("password")) {
                (Some(username), Some(password)) => (username, password),
                _ => {
                    let decoded = BASE64.decode(text("auth")?).ok()?;
                    let (username, password) =
                        std::str::from_utf8(&decoded).ok()?.split_once(':')?;
                    (username.to_owned(), password.to_owned())
                }
            };
            let credential = Credential::Password {
                username,
                password: password.into(),
            };
            Some((Some(host_of(server)), credential))
        })
        .collect()
}

/// Docker writes servers as hosts or as addresses; Docker Hub under a name of its own.
fn host_of(server: &str) -> String {
    let bare = server.split_once("://").map_or(server, |(_, rest)| rest);
    let host = bare.split('/').next().unwrap_or_default();
    if host == "index.docker.io" {
        return "docker.io".to_owned();
    }
    host.to_owned()
}

async fn apply(name: &str, built: Built, context: &Context) -> Result<Exit, Failure> {
    let mut object = built.workspace.ok_or(Error::NothingToApply)?;
    let cluster = Cluster::connect(context).await?;
    rename(&mut object, name, cluster.namespace());
    let version = object
        .get("apiVersion")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let version = version.rsplit('/').next().unwrap_or_default().to_owned();
    let resource = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("kaito.sh", &version, "Workspace"),
        "workspaces",
    );
    let api: Api<DynamicObject> =
        Api::namespaced_with(cluster.client().clone(), cluster.namespace(), &resource);
    let parameters = PatchParams::apply(kaito_api::names::PLUGIN_MANAGER);
    cluster
        .call(
            "patch workspaces.kaito.sh",
            api.patch(name, &parameters, &Patch::Apply(&object)),
        )
        .await?;
    context
        .printer
        .note(&format!("workspace.kaito.sh/{name} serverside-applied"))?;
    Ok(Exit::Success)
}

/// Names the Workspace, in its label too.
fn rename(object: &mut Value, name: &str, namespace: &str) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("name".to_owned(), name.into());
        metadata.insert("namespace".to_owned(), namespace.into());
    }
    if let Some(label) = object.pointer_mut("/resource/labelSelector/matchLabels/apps") {
        *label = name.into();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{host_of, parse_config, rename};

    #[test]
    fn servers_are_told_as_hosts() {
        for (server, host) in [
            ("r.io", "r.io"),
            ("https://r.io:5000/v2/", "r.io:5000"),
            ("https://index.docker.io/v1/", "docker.io"),
        ] {
            assert_eq!(host_of(server), host);
        }
    }

    #[test]
    fn secrets_hold_passwords_in_two_forms() {
        let config = json!({"auths": {
            "a.io": {"username": "me", "password": "p"},
            "b.io": {"auth": "bWU6cDpx"},
        }});
        let found = parse_config(config.to_string().as_bytes()).unwrap();
        let hosts: Vec<_> = found.iter().map(|(host, _)| host.as_deref()).collect();
        assert_eq!(hosts, [Some("a.io"), Some("b.io")]);
        assert!(parse_config(b"{}").is_none());
        assert!(!format!("{found:?}").contains("p:q"));
    }

    #[test]
    fn a_workspace_gets_its_name_everywhere() {
        let mut object = json!({
            "metadata": {"name": "x"}, "resource": {"labelSelector": {"matchLabels": {"apps": "x"}}},
        });
        rename(&mut object, "phi", "ns");
        assert_eq!(
            object["metadata"],
            json!({"name": "phi", "namespace": "ns"})
        );
        assert_eq!(
            object["resource"]["labelSelector"]["matchLabels"]["apps"],
            "phi"
        );
    }
}
