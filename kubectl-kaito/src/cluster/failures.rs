//! What a failed request says: kubectl's words for refusals and for servers that cannot be reached.

use std::error::Error as StdError;
use std::io::ErrorKind;

use kube::core::Status;

use crate::error::{self, Failure};

/// Where requests go, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// URL of the API server.
    pub url: String,
    /// `host:port` of the API server.
    pub host: String,
    /// `host:port` of the proxy in between.
    pub proxy: Option<String>,
}

impl Endpoint {
    /// The endpoint that a configuration leads to.
    #[must_use]
    pub fn new(config: &kube::Config) -> Self {
        Self {
            url: config
                .cluster_url
                .to_string()
                .trim_end_matches('/')
                .to_owned(),
            host: authority(&config.cluster_url),
            proxy: config.proxy_url.as_ref().map(authority),
        }
    }
}

fn authority(uri: &http::Uri) -> String {
    let port = uri
        .port_u16()
        .map_or_else(String::new, |port| format!(":{port}"));
    format!("{}{port}", uri.host().unwrap_or_default())
}

/// Translates a client error. `what` names the request, for example `get workspaces.kaito.sh`.
#[must_use]
pub fn failure(error: kube::Error, endpoint: &Endpoint, what: &str) -> Failure {
    match error {
        kube::Error::Api(status) if is_unknown_resource(&status) => unknown_resource(what),
        kube::Error::Api(status) => error::from_status(&status, what),
        kube::Error::Auth(error) => {
            Failure::error(format!("getting credentials: {}", chain(&error)))
        }
        kube::Error::SerdeError(error) => Failure::error(format!(
            "cannot read the server's answer to {what}: {error}"
        )),
        other => unreachable(&other, endpoint),
    }
}

/// Whether the server does not know the resource at all, as opposed to not having the object.
#[must_use]
pub fn is_unknown_resource(status: &Status) -> bool {
    status.code == 404
        && (status
            .message
            .contains("could not find the requested resource")
            || status.message.contains("404 page not found"))
}

fn unknown_resource(what: &str) -> Failure {
    let resource = what.rsplit(' ').next().unwrap_or(what);
    let plural = resource.split('.').next().unwrap_or(resource);
    let failure = Failure::error(format!(
        "the server doesn't have a resource type {plural:?}"
    ));
    if resource.ends_with(kaito_api::names::GROUP) {
        failure.with_hint(
            "The kaito CRDs are not installed in this cluster; run: kubectl kaito install",
        )
    } else {
        failure
    }
}

fn unreachable(error: &kube::Error, endpoint: &Endpoint) -> Failure {
    let refused = sources(error)
        .filter_map(|source| source.downcast_ref::<std::io::Error>())
        .any(|source| source.kind() == ErrorKind::ConnectionRefused);
    if refused {
        let failure = Failure::verbatim(format!(
            "The connection to the server {} was refused - did you specify the right host or port?",
            endpoint.host
        ));
        return match &endpoint.proxy {
            Some(proxy) => {
                failure.with_hint(format!("The request went through the proxy {proxy}."))
            }
            None => failure,
        };
    }
    let failure = Failure::verbatim(format!("Unable to connect to the server: {}", cause(error)));
    match &endpoint.proxy {
        Some(proxy) => failure.with_hint(format!("The request went through the proxy {proxy}.")),
        None => failure,
    }
}

fn sources<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| {
        (*error).source()
    })
}

/// The innermost cause, which is the one a person can act on.
fn cause(error: &(dyn StdError + 'static)) -> String {
    sources(error)
        .last()
        .map_or_else(|| error.to_string(), ToString::to_string)
}

/// All causes, outermost first, each once.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for source in sources(error) {
        let text = source.to_string();
        if !texts.iter().any(|earlier| earlier.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use serde_json::json;

    use super::{Endpoint, failure};

    fn endpoint(proxy: Option<&str>) -> Endpoint {
        Endpoint {
            url: "https://a:6443".to_owned(),
            host: "a:6443".to_owned(),
            proxy: proxy.map(str::to_owned),
        }
    }

    #[test]
    fn a_refused_connection_names_the_server_and_the_proxy() {
        let refused = || {
            kube::Error::Service(Box::new(std::io::Error::from(
                std::io::ErrorKind::ConnectionRefused,
            )))
        };
        assert_eq!(
            failure(refused(), &endpoint(None), "get x").lines(),
            [
                "The connection to the server a:6443 was refused - did you specify the right host or port?"
            ]
        );
        assert_eq!(
            failure(refused(), &endpoint(Some("p:1")), "get x").lines()[1],
            "The request went through the proxy p:1."
        );
    }

    #[test]
    fn missing_crds_come_with_the_command_that_installs_them() {
        let status: Status = serde_json::from_value(json!({"code": 404, "reason": "NotFound",
            "message": "the server could not find the requested resource"}))
        .unwrap();
        let lines = failure(
            kube::Error::Api(Box::new(status)),
            &endpoint(None),
            "list workspaces.kaito.sh",
        );
        assert_eq!(
            lines.lines()[0],
            "error: the server doesn't have a resource type \"workspaces\""
        );
        assert!(lines.lines()[1].contains("kubectl kaito install"));
    }
}
