//! Requests of `get`: tables and objects, page by page.

use kube::Resource;
use kube::api::{DynamicObject, ListParams};
use serde_json::{Value, json};
use url::form_urlencoded::Serializer;

use super::typed;
use crate::cluster::Cluster;
use crate::cluster::kinds::Kind;
use crate::error::Failure;
use crate::output::table::{ACCEPT, ServerColumn, ServerRow, ServerTable};

/// Which objects, and how.
#[derive(Clone, Debug, Default)]
pub(super) struct Query {
    /// Namespace; none for all of them or for cluster-wide kinds.
    pub(super) namespace: Option<String>,
    /// Label selector.
    pub(super) labels: Option<String>,
    /// Field selector.
    pub(super) fields: Option<String>,
    /// Objects per page; 0 for all at once.
    pub(super) limit: u32,
    /// Whether rows carry whole objects.
    pub(super) whole_objects: bool,
}

impl Query {
    /// Path and query string of a list, of one object, or of a watch.
    pub(super) fn path(&self, kind: &Kind, name: Option<&str>, more: &[(&str, &str)]) -> String {
        let base = DynamicObject::url_path(&kind.resource, self.namespace.as_deref());
        let base = name.map_or_else(|| base.clone(), |name| format!("{base}/{name}"));
        let mut query = Serializer::new(String::new());
        if let Some(labels) = &self.labels {
            query.append_pair("labelSelector", labels);
        }
        if let Some(fields) = &self.fields {
            query.append_pair("fieldSelector", fields);
        }
        if self.whole_objects {
            query.append_pair("includeObject", "Object");
        }
        for (key, value) in more {
            query.append_pair(key, value);
        }
        let query = query.finish();
        if query.is_empty() {
            base
        } else {
            format!("{base}?{query}")
        }
    }
}

/// A request for a table.
pub(super) fn table_request(path: &str) -> Result<http::Request<Vec<u8>>, Failure> {
    http::Request::get(path)
        .header(http::header::ACCEPT, ACCEPT)
        .body(Vec::new())
        .map_err(|error| Failure::error(format!("cannot ask for {path}: {error}")))
}

/// The table of all objects, all pages together.
pub(super) async fn list(
    cluster: &Cluster,
    kind: &Kind,
    query: &Query,
) -> Result<ServerTable, Failure> {
    let mut whole: Option<ServerTable> = None;
    let mut next = String::new();
    loop {
        let limit = query.limit.to_string();
        let mut more = Vec::new();
        if query.limit > 0 {
            more.push(("limit", limit.as_str()));
        }
        if !next.is_empty() {
            more.push(("continue", next.as_str()));
        }
        let page = table(cluster, kind, &query.path(kind, None, &more), "list").await?;
        let token = page
            .metadata
            .get("continue")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        match &mut whole {
            None => whole = Some(page),
            Some(whole) => whole.rows.extend(page.rows),
        }
        if token.is_empty() {
            return Ok(whole.unwrap_or_default());
        }
        next = token;
    }
}

/// The rows of single objects in one table, and what could not be read.
pub(super) async fn named(
    cluster: &Cluster,
    kind: &Kind,
    query: &Query,
    names: &[String],
) -> (ServerTable, Vec<Failure>) {
    let mut whole = ServerTable::default();
    let mut failures = Vec::new();
    for name in names {
        match table(cluster, kind, &query.path(kind, Some(name), &[]), "get").await {
            Ok(mut page) => {
                whole.column_definitions = page.column_definitions;
                whole.rows.append(&mut page.rows);
            }
            Err(failure) => failures.push(failure),
        }
    }
    (whole, failures)
}

async fn table(
    cluster: &Cluster,
    kind: &Kind,
    path: &str,
    verb: &str,
) -> Result<ServerTable, Failure> {
    let request = table_request(path)?;
    let what = format!("{verb} {}", kind.resource_name());
    let answer: Value = cluster
        .call(&what, cluster.client().request(request))
        .await?;
    Ok(from_answer(answer))
}

/// A server that has no tables answers with the objects: they get their name and age.
pub(super) fn from_answer(answer: Value) -> ServerTable {
    if answer.get("kind").and_then(Value::as_str) == Some("Table") {
        return serde_json::from_value(answer).unwrap_or_default();
    }
    let objects = match answer.get("items").and_then(Value::as_array) {
        Some(items) => items.clone(),
        None => vec![answer.clone()],
    };
    let column = |name: &str| ServerColumn {
        name: name.to_owned(),
        priority: 0,
    };
    let row = |object: Value| {
        let at = |pointer: &str| object.pointer(pointer).cloned().unwrap_or_default();
        let created = at("/metadata/creationTimestamp");
        let age = created
            .as_str()
            .map(|text| crate::output::age::since(text, jiff::Timestamp::now()));
        ServerRow {
            cells: vec![at("/metadata/name"), json!(age)],
            object,
        }
    };
    ServerTable {
        column_definitions: vec![column("Name"), column("Age")],
        rows: objects.into_iter().map(row).collect(),
        metadata: answer
            .get("metadata")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default(),
    }
}

/// All objects, all pages together.
pub(super) async fn objects(
    cluster: &Cluster,
    kind: &Kind,
    query: &Query,
) -> Result<Vec<Value>, Failure> {
    let api = match &query.namespace {
        Some(namespace) => kind.api(cluster, namespace),
        None => kind.everywhere(cluster),
    };
    let mut params = ListParams::default();
    params.label_selector.clone_from(&query.labels);
    params.field_selector.clone_from(&query.fields);
    params.limit = (query.limit > 0).then_some(query.limit);
    let mut found = Vec::new();
    loop {
        let page = cluster
            .call(&format!("list {}", kind.resource_name()), api.list(&params))
            .await?;
        for object in page.items {
            found.push(typed(
                serde_json::to_value(object).map_err(Failure::error)?,
                kind,
            ));
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(found),
        }
    }
}
