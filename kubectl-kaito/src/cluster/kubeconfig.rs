//! Which server, as whom, in which namespace: files, flags and the pod's own account, combined as kubectl does.
//!
//! Reads files and nothing else; the result is a complete client configuration.

mod error;

use std::path::{Path, PathBuf};

use http::{HeaderName, HeaderValue, Uri};
use kube::Config;
use kube::config::{
    AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedCluster,
    NamedContext,
};

use self::error::Error;
use super::{credentials, proxy};
use crate::cli::connection::ConnectionFlags;
use crate::environment::Environment;
use crate::error::Failure;

/// A complete client configuration.
#[derive(Debug)]
pub struct Target {
    /// The client's configuration.
    pub config: Config,
    /// Namespace to act in; never empty.
    pub namespace: String,
    /// Whether the namespace was given by `-n`.
    pub namespace_is_explicit: bool,
}

/// Combines flags, files and environment.
///
/// # Errors
/// Whatever kubectl would refuse, in its words; without any configuration, the list of files that were tried.
pub async fn resolve(
    flags: &ConnectionFlags,
    environment: &Environment,
) -> Result<Target, Failure> {
    let paths = paths(flags, environment);
    let merged = merged(flags, environment)?;
    let mut selection = select(&merged, flags)?;
    overlay_cluster(&mut selection.cluster, flags)?;
    credentials::overlay(&mut selection.user, flags);
    credentials::check(&selection.user, &selection.user_name)?;
    let explicit = given(flags.namespace.as_ref());
    let (mut config, namespace) = if selection
        .cluster
        .server
        .as_deref()
        .unwrap_or_default()
        .is_empty()
    {
        if !selection.cluster_name.is_empty() {
            return Err(no_server(&selection.cluster_name));
        }
        in_cluster(selection.user, environment).ok_or_else(|| no_configuration(&paths))?
    } else {
        let namespace = selection.namespace.clone();
        (
            from_selection(selection, flags, environment).await?,
            namespace,
        )
    };
    finish(&mut config);
    let namespace_is_explicit = explicit.is_some();
    let namespace = explicit
        .or(namespace.filter(|name| !name.is_empty()))
        .unwrap_or_else(|| "default".to_owned());
    config.default_namespace.clone_from(&namespace);
    Ok(Target {
        config,
        namespace,
        namespace_is_explicit,
    })
}

/// All files together, before anything is chosen from them.
///
/// # Errors
/// A file that cannot be read, in kubectl's words.
pub fn merged(flags: &ConnectionFlags, environment: &Environment) -> Result<Kubeconfig, Failure> {
    let explicit = flags.kubeconfig.as_deref().filter(|path| !path.is_empty());
    load(&paths(flags, environment), explicit)
}

/// A flag's value, absent when it is empty.
pub(super) fn given(flag: Option<&String>) -> Option<String> {
    flag.filter(|value| !value.is_empty()).cloned()
}

/// The files that are read, in order of precedence.
fn paths(flags: &ConnectionFlags, environment: &Environment) -> Vec<PathBuf> {
    if let Some(path) = given(flags.kubeconfig.as_ref()) {
        return vec![path.into()];
    }
    if let Some(list) = environment.variable("KUBECONFIG") {
        return std::env::split_paths(list)
            .filter(|path| !path.as_os_str().is_empty())
            .collect();
    }
    environment
        .home()
        .map(|home| home.join(".kube").join("config"))
        .into_iter()
        .collect()
}

/// Reads and merges the files. Missing ones are skipped unless `explicit`: that one must be there.
fn load(paths: &[PathBuf], explicit: Option<&str>) -> Result<Kubeconfig, Failure> {
    let mut merged = Kubeconfig::default();
    for path in paths {
        match std::fs::read(path) {
            Ok(content) if content.trim_ascii().is_empty() => continue,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => match explicit {
                Some(path) => {
                    let path = path.to_owned();
                    return Err(Error::Missing { path }.into());
                }
                None => continue,
            },
            Err(error) => return Err(broken(path, &error)),
        }
        let mut next = Kubeconfig::read_from(path).map_err(|error| broken(path, &error))?;
        next.current_context = next.current_context.filter(|name| !name.is_empty());
        merged = merged.merge(next).map_err(|error| broken(path, &error))?;
    }
    Ok(merged)
}

fn broken(path: &Path, error: &dyn std::error::Error) -> Failure {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    let path = path.display().to_string();
    Error::Broken { path, reason: text }.into()
}

/// The entries that a context or the flags point to.
#[derive(Debug)]
struct Selection {
    cluster_name: String,
    cluster: Cluster,
    user_name: String,
    user: AuthInfo,
    namespace: Option<String>,
}

fn select(merged: &Kubeconfig, flags: &ConnectionFlags) -> Result<Selection, Failure> {
    let context_name = given(flags.context.as_ref()).or_else(|| merged.current_context.clone());
    let context = match &context_name {
        None => Context::default(),
        Some(name) => merged
            .contexts
            .iter()
            .find(|entry| entry.name == *name)
            .and_then(|entry| entry.context.clone())
            .ok_or_else(|| Error::Context { name: name.clone() })?,
    };
    let cluster_name = given(flags.cluster.as_ref()).unwrap_or(context.cluster);
    let cluster = merged
        .clusters
        .iter()
        .find(|entry| entry.name == cluster_name);
    if cluster.is_none() && !cluster_name.is_empty() && given(flags.server.as_ref()).is_none() {
        return Err(no_server(&cluster_name));
    }
    let user_name = given(flags.user.as_ref())
        .or(context.user)
        .unwrap_or_default();
    let user = merged
        .auth_infos
        .iter()
        .find(|entry| entry.name == user_name);
    if user.is_none() && given(flags.user.as_ref()).is_some() {
        return Err(Error::User { name: user_name }.into());
    }
    Ok(Selection {
        cluster: cluster
            .and_then(|entry| entry.cluster.clone())
            .unwrap_or_default(),
        user: user
            .and_then(|entry| entry.auth_info.clone())
            .unwrap_or_default(),
        cluster_name,
        user_name,
        namespace: context.namespace,
    })
}

fn no_server(cluster: &str) -> Failure {
    let cluster = cluster.to_owned();
    Error::NoServer { cluster }.into()
}

fn overlay_cluster(cluster: &mut Cluster, flags: &ConnectionFlags) -> Result<(), Failure> {
    if let Some(server) = given(flags.server.as_ref()) {
        cluster.server = Some(server);
        cluster.tls_server_name = None;
    }
    if let Some(name) = given(flags.tls_server_name.as_ref()) {
        cluster.tls_server_name = Some(name);
    }
    let authority = given(flags.certificate_authority.as_ref());
    if flags.insecure_skip_tls_verify {
        if authority.is_some() {
            return Err(insecure_with_authority());
        }
        cluster.insecure_skip_tls_verify = Some(true);
        cluster.certificate_authority = None;
        cluster.certificate_authority_data = None;
    } else if let Some(path) = authority {
        cluster.insecure_skip_tls_verify = None;
        cluster.certificate_authority = Some(path);
        cluster.certificate_authority_data = None;
    }
    let has_authority = [
        &cluster.certificate_authority,
        &cluster.certificate_authority_data,
    ]
    .into_iter()
    .any(|value| value.as_deref().is_some_and(|text| !text.is_empty()));
    if cluster.insecure_skip_tls_verify == Some(true) && has_authority {
        return Err(insecure_with_authority());
    }
    if flags.disable_compression {
        cluster.disable_compression = Some(true);
    }
    Ok(())
}

fn insecure_with_authority() -> Failure {
    Error::InsecureWithAuthority.into()
}

async fn from_selection(
    mut selection: Selection,
    flags: &ConnectionFlags,
    environment: &Environment,
) -> Result<Config, Failure> {
    let url = server_url(&selection, flags)?;
    if url.scheme_str() == Some("http") {
        credentials::forget(&mut selection.user);
    }
    credentials::read_token(&mut selection.user)?;
    credentials::tame_exec_plugin(&mut selection.user, environment)?;
    let proxy = proxy::resolve(&url, selection.cluster.proxy_url.as_deref(), environment);
    selection.cluster.server = Some(url.to_string());
    selection.cluster.proxy_url = None;
    let name = "selected".to_owned();
    let context = Context {
        cluster: name.clone(),
        user: Some(name.clone()),
        ..Context::default()
    };
    let synthetic = Kubeconfig {
        clusters: vec![NamedCluster {
            name: name.clone(),
            cluster: Some(selection.cluster),
            ..NamedCluster::default()
        }],
        auth_infos: vec![NamedAuthInfo {
            name: name.clone(),
            auth_info: Some(selection.user),
            ..NamedAuthInfo::default()
        }],
        contexts: vec![NamedContext {
            name: name.clone(),
            context: Some(context),
            ..NamedContext::default()
        }],
        current_context: Some(name),
        ..Kubeconfig::default()
    };
    let mut config = Config::from_custom_kubeconfig(synthetic, &KubeConfigOptions::default())
        .await
        .map_err(|error| Error::Configuration {
            reason: error.to_string(),
        })?;
    config.proxy_url = match proxy {
        Some(url) => Some(url.parse().map_err(|_| Error::Proxy { url: url.clone() })?),
        None => None,
    };
    Ok(config)
}

/// The server's URL, with the scheme that kubectl adds when there is none.
fn server_url(selection: &Selection, flags: &ConnectionFlags) -> Result<Uri, Failure> {
    let server = selection.cluster.server.clone().unwrap_or_default();
    let bad = || {
        let server = server.clone();
        Failure::from(Error::Host { server })
    };
    let url = if server.contains("://") {
        server.clone()
    } else {
        let cluster = &selection.cluster;
        let user = &selection.user;
        let tls = flags.insecure_skip_tls_verify
            || cluster.insecure_skip_tls_verify == Some(true)
            || cluster.certificate_authority.is_some()
            || cluster.certificate_authority_data.is_some()
            || user.client_certificate.is_some()
            || user.client_certificate_data.is_some();
        format!("{}://{server}", if tls { "https" } else { "http" })
    };
    let parsed: Uri = url.parse().map_err(|_| bad())?;
    let known = matches!(parsed.scheme_str(), Some("http" | "https"));
    if known && parsed.host().is_some_and(|host| !host.is_empty()) {
        Ok(parsed)
    } else {
        Err(bad())
    }
}

/// The pod's own service account, if we run in one.
fn in_cluster(user: AuthInfo, environment: &Environment) -> Option<(Config, Option<String>)> {
    let mut config = Config::incluster().ok()?;
    config.auth_info.impersonate = user.impersonate;
    config.auth_info.impersonate_uid = user.impersonate_uid;
    config.auth_info.impersonate_groups = user.impersonate_groups;
    config.auth_info.impersonate_user_extra = user.impersonate_user_extra;
    let namespace = environment
        .variable("POD_NAMESPACE")
        .unwrap_or(&config.default_namespace)
        .to_owned();
    Some((config, Some(namespace)))
}

fn no_configuration(paths: &[PathBuf]) -> Failure {
    let tried: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let tried = if tried.is_empty() {
        "no file (HOME is not set)".to_owned()
    } else {
        tried.join(", ")
    };
    Failure::from(Error::NoConfiguration)
        .with_hint(format!("Tried: {tried}"))
        .with_hint("Set KUBECONFIG, or pass --kubeconfig or --server.")
}

/// What every configuration of ours has in common.
fn finish(config: &mut Config) {
    // We retry ourselves, and say so; the client would do it silently for minutes.
    config.default_retry = false;
    config.read_timeout = None;
    let agent = format!(
        "kubectl-kaito/v{} ({}/{})",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    );
    if let Ok(agent) = HeaderValue::from_str(&agent) {
        config
            .headers
            .push((HeaderName::from_static("user-agent"), agent));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Target, resolve};
    use crate::cli::connection::ConnectionFlags;
    use crate::environment::Environment;
    use crate::error::Failure;

    const CONFIG: &str = "apiVersion: v1
kind: Config
current-context: one
clusters:
- name: secure
  cluster: {server: \"https://a:6443\", tls-server-name: inner, insecure-skip-tls-verify: true}
- name: plain
  cluster: {server: \"b:8080\"}
contexts:
- name: one
  context: {cluster: secure, user: token, namespace: team}
- name: two
  context: {cluster: plain, user: token, namespace: \"\"}
- name: three
  context: {cluster: secure, user: file}
- name: four
  context: {cluster: secure, user: nobody}
users:
- name: token
  user: {token: secret}
- name: file
  user: {tokenFile: token.txt}
";

    async fn resolved(directory: &Path, flags: ConnectionFlags) -> Result<Target, Failure> {
        std::fs::write(directory.join("config"), CONFIG).unwrap();
        std::fs::write(directory.join("token.txt"), "rotated\n").unwrap();
        let list = format!("{0}/missing:{0}/config", directory.display());
        let variables = [("KUBECONFIG".to_owned(), list)].into();
        resolve(
            &flags,
            &Environment {
                variables,
                ..Environment::default()
            },
        )
        .await
    }

    fn token(target: &Target) -> Option<String> {
        let user = serde_json::to_value(&target.config.auth_info).unwrap();
        user.get("token")
            .and_then(|token| token.as_str().map(str::to_owned))
    }

    fn text(value: &str) -> Option<String> {
        Some(value.to_owned())
    }

    #[tokio::test]
    async fn contexts_give_server_user_and_namespace() {
        let directory = tempfile::tempdir().unwrap();
        let target = resolved(directory.path(), ConnectionFlags::default())
            .await
            .unwrap();
        assert_eq!(target.config.cluster_url.to_string(), "https://a:6443/");
        assert_eq!(
            (target.namespace.as_str(), target.namespace_is_explicit),
            ("team", false)
        );
        assert_eq!(token(&target), text("secret"));
        assert_eq!(target.config.tls_server_name, text("inner"));
        assert!(!target.config.default_retry);
    }

    #[tokio::test]
    async fn an_empty_namespace_is_default_and_no_secret_goes_over_plain_http() {
        let directory = tempfile::tempdir().unwrap();
        let flags = ConnectionFlags {
            context: text("two"),
            impersonate: text("ann"),
            ..ConnectionFlags::default()
        };
        let target = resolved(directory.path(), flags).await.unwrap();
        assert_eq!(target.config.cluster_url.to_string(), "http://b:8080/");
        assert_eq!(target.namespace, "default");
        assert_eq!(token(&target), None);
        assert_eq!(target.config.auth_info.impersonate, text("ann"));
    }

    #[tokio::test]
    async fn token_files_are_read_without_their_last_newline() {
        let directory = tempfile::tempdir().unwrap();
        let flags = ConnectionFlags {
            context: text("three"),
            ..ConnectionFlags::default()
        };
        assert_eq!(
            token(&resolved(directory.path(), flags).await.unwrap()),
            text("rotated")
        );
    }

    #[tokio::test]
    async fn flags_win_over_files() {
        let directory = tempfile::tempdir().unwrap();
        let flags = ConnectionFlags {
            server: text("https://c/prefix"),
            token: text("typed"),
            namespace: text("mine"),
            ..ConnectionFlags::default()
        };
        let target = resolved(directory.path(), flags).await.unwrap();
        assert_eq!(target.config.cluster_url.to_string(), "https://c/prefix");
        assert_eq!(target.config.tls_server_name, None);
        assert_eq!(
            (target.namespace.as_str(), target.namespace_is_explicit),
            ("mine", true)
        );
        assert_eq!(token(&target), text("typed"));
    }

    #[tokio::test]
    async fn a_context_may_name_a_user_that_does_not_exist_but_a_flag_may_not() {
        let directory = tempfile::tempdir().unwrap();
        let flags = ConnectionFlags {
            context: text("four"),
            ..ConnectionFlags::default()
        };
        assert_eq!(
            token(&resolved(directory.path(), flags).await.unwrap()),
            None
        );
        let flags = ConnectionFlags {
            user: text("nobody"),
            ..ConnectionFlags::default()
        };
        let failure = resolved(directory.path(), flags).await.unwrap_err();
        assert_eq!(
            failure.lines(),
            ["error: auth info \"nobody\" does not exist"]
        );
    }

    #[tokio::test]
    async fn two_ways_to_authenticate_are_one_too_many() {
        let directory = tempfile::tempdir().unwrap();
        let flags = ConnectionFlags {
            token: text("t"),
            username: text("u"),
            password: text("p"),
            ..ConnectionFlags::default()
        };
        let failure = resolved(directory.path(), flags).await.unwrap_err();
        assert_eq!(
            failure.lines(),
            [
                "error: more than one authentication method found for token; found [token basicAuth], only one is allowed"
            ]
        );
    }
}
