//! `get -w`: the list, then every change, across watches that end.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt;
use kube::core::WatchEvent;
use serde_json::Value;

use super::{Get, fetch, typed};
use crate::error::{Exit, Failure};
use crate::output::format::{self, Format, Shape};
use crate::output::table::{Headers, ServerRow, ServerTable};

/// Pause before listing again after a watch has ended.
const PAUSE: Duration = Duration::from_millis(500);

/// What has been printed: by object, its version; and how wide the columns are by now.
struct Printed {
    versions: BTreeMap<String, String>,
    columns: ServerTable,
    widths: Vec<usize>,
    headers: Headers,
}

/// Prints until the process is stopped.
///
/// # Errors
/// The server refuses, or the connection cannot be made again.
pub(super) async fn run(get: &Get<'_>) -> Result<Exit, Failure> {
    let mut query = get.query();
    query.whole_objects =
        !matches!(get.format, Format::Human | Format::Wide) || query.whole_objects;
    if let Some(name) = get.names.first() {
        query.fields = Some(format!("metadata.name={name}"));
        // A missing object is an error at once, as in kubectl, not something to wait for.
        let api = get.kind.api(get.cluster, get.cluster.namespace());
        get.cluster
            .call(
                &format!("get {}", get.kind.resource_name()),
                api.get_metadata(name),
            )
            .await?;
    }
    let mut printed = Printed {
        versions: BTreeMap::new(),
        columns: ServerTable::default(),
        widths: Vec::new(),
        headers: get.headers(),
    };
    let mut silent = get.args.watch_only;
    loop {
        let mut table = fetch::list(get.cluster, &get.kind, &query).await?;
        let version = table
            .metadata
            .get("resourceVersion")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let rows = std::mem::take(&mut table.rows);
        if !table.column_definitions.is_empty() {
            printed.columns = table;
        }
        let news: Vec<ServerRow> = rows
            .into_iter()
            .filter(|row| printed.is_news(row))
            .collect();
        if !silent {
            printed.print(get, news)?;
        }
        silent = false;
        watch(get, &query, &version, &mut printed).await?;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn watch(
    get: &Get<'_>,
    query: &fetch::Query,
    version: &str,
    printed: &mut Printed,
) -> Result<(), Failure> {
    let more = [
        ("watch", "true"),
        ("allowWatchBookmarks", "true"),
        ("resourceVersion", version),
        ("timeoutSeconds", "290"),
    ];
    let request = fetch::table_request(&query.path(&get.kind, None, &more))?;
    let what = format!("watch {}", get.kind.resource_name());
    let events = get
        .cluster
        .call(
            &what,
            get.cluster.client().request_events::<ServerTable>(request),
        )
        .await?;
    let mut events = std::pin::pin!(events);
    // Any end of the stream, also a broken one, leads to a new list, which prints only what changed meanwhile.
    while let Ok(Some(event)) = events.try_next().await {
        let table = match event {
            WatchEvent::Added(table) | WatchEvent::Modified(table) | WatchEvent::Deleted(table) => {
                table
            }
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(_) => break,
        };
        let news: Vec<ServerRow> = table
            .rows
            .into_iter()
            .filter(|row| printed.is_news(row))
            .collect();
        printed.print(get, news)?;
    }
    Ok(())
}

impl Printed {
    /// Whether this state of an object has not been printed yet; remembers it.
    fn is_news(&mut self, row: &ServerRow) -> bool {
        let text = |pointer: &str| {
            row.object
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let key = format!("{}/{}", text("/metadata/namespace"), text("/metadata/name"));
        let version = text("/metadata/resourceVersion").to_owned();
        self.versions.insert(key, version.clone()) != Some(version)
    }

    fn print(&mut self, get: &Get<'_>, rows: Vec<ServerRow>) -> Result<(), Failure> {
        if rows.is_empty() {
            return Ok(());
        }
        let printer = &get.context.printer;
        if matches!(get.format, Format::Human | Format::Wide) {
            let table = ServerTable {
                rows,
                ..self.columns.clone()
            };
            let text = get
                .view()
                .table(&table)
                .render_with(self.headers, &mut self.widths);
            self.headers = Headers::Hide;
            printer.data(&text)?;
            return printer.flush();
        }
        for row in rows {
            let mut object = typed(row.object, &get.kind);
            if !get.args.output.show_managed_fields {
                format::strip_managed_fields(&mut object);
            }
            if get.format == Format::Yaml {
                printer.data("---\n")?;
            }
            format::print(printer, &get.format, &[object], Shape::Single, self.headers)?;
            self.headers = Headers::Hide;
        }
        Ok(())
    }
}
