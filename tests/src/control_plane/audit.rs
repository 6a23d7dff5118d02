//! Reading an audit log: who asked the API server for what.

use std::io;
use std::path::Path;

use serde::Deserialize;

/// One request that the API server has answered, or begun to answer if it is a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// User name, such as `system:serviceaccount:kaito-system:kaito-scheduler`.
    pub user: String,
    /// The client's own name.
    pub user_agent: String,
    /// Verb as RBAC knows it: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, …
    pub verb: String,
    /// Path and query.
    pub uri: String,
    /// API group, empty for the core group and for requests without an object.
    pub group: String,
    /// Resource in the plural, empty for requests without an object.
    pub resource: String,
    /// Subresource, empty if none.
    pub subresource: String,
    /// Namespace, empty if none.
    pub namespace: String,
    /// Name, empty if none.
    pub name: String,
    /// HTTP status of the answer.
    pub code: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    stage: String,
    #[serde(default)]
    verb: String,
    #[serde(default, rename = "requestURI")]
    request_uri: String,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    user: User,
    #[serde(default)]
    object_ref: ObjectRef,
    #[serde(default)]
    response_status: ResponseStatus,
}

#[derive(Deserialize, Default)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ObjectRef {
    resource: String,
    namespace: String,
    name: String,
    api_group: String,
    subresource: String,
}

#[derive(Deserialize, Default)]
struct ResponseStatus {
    #[serde(default)]
    code: u16,
}

/// Requests in an audit log, oldest first; a watch counts once, when it begins. A last line that is still being
/// written is left out.
///
/// # Errors
/// The system's, if the file cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<Request>> {
    Ok(parse(&std::fs::read_to_string(path)?))
}

fn parse(text: &str) -> Vec<Request> {
    let events = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Event>(line).ok());
    events.filter(is_counted).map(Request::from).collect()
}

/// A watch is logged when it begins and again when it ends; everything else when it ends.
fn is_counted(event: &Event) -> bool {
    let stage = if event.verb == "watch" {
        "ResponseStarted"
    } else {
        "ResponseComplete"
    };
    event.stage == stage
}

impl From<Event> for Request {
    fn from(event: Event) -> Self {
        let object = event.object_ref;
        Self {
            user: event.user.username,
            user_agent: event.user_agent,
            verb: event.verb,
            uri: event.request_uri,
            group: object.api_group,
            resource: object.resource,
            subresource: object.subresource,
            namespace: object.namespace,
            name: object.name,
            code: event.response_status.code,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_watch_counts_once_and_a_torn_last_line_not_at_all() {
        let log = concat!(
            r#"{"stage":"ResponseStarted","verb":"watch","requestURI":"/api/v1/pods?watch=1","user":{"username":"a"}}"#,
            "\n",
            r#"{"stage":"ResponseComplete","verb":"watch","requestURI":"/api/v1/pods?watch=1","user":{"username":"a"}}"#,
            "\n",
            r#"{"stage":"ResponseComplete","verb":"patch","user":{"username":"b"},"objectRef":{"resource":"pods","name":"x","subresource":"status"},"responseStatus":{"code":409}}"#,
            "\n",
            r#"{"stage":"ResponseComplete","verb":"get","us"#,
        );
        let requests = parse(log);
        assert_eq!(requests.len(), 2);
        assert_eq!(
            (requests[0].verb.as_str(), requests[0].user.as_str()),
            ("watch", "a")
        );
        assert_eq!(
            (requests[1].subresource.as_str(), requests[1].code),
            ("status", 409)
        );
    }
}
