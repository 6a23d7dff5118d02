//! `get`: the server's table of Workspaces, or the objects themselves.

mod fetch;
mod follow;
mod rows;

use serde_json::Value;

use crate::Context;
use crate::cluster::Cluster;
use crate::cluster::kinds::{self, Kind};
use crate::error::{Exit, Failure};
use crate::output::format::{self, Format, OutputFlag, READ, Shape};
use crate::output::jsonpath::Template;
use crate::output::table::Headers;

use self::fetch::Query;
use self::rows::View;

/// Why the flags ask for nothing that can be listed.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// Objects of several kinds.
    #[error("objects of one kind at a time, please")]
    Kinds,
    /// An object and a selector.
    #[error("name cannot be provided when a selector is specified")]
    NameAndSelector,
    /// A name and all namespaces.
    #[error("a resource cannot be retrieved by name across all namespaces")]
    NameEverywhere,
    /// A watch of some objects.
    #[error(
        "watch is only supported on individual resources and resource collections - more than 1 resource was found"
    )]
    WatchOfMany,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::of(&error)
    }
}

/// Flags of `get`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  # Workspaces of the namespace, and of all namespaces with more columns
  kubectl kaito get
  kubectl kaito get -A -o wide

  # One object as YAML
  kubectl kaito get phi -o yaml

  # Follow changes
  kubectl kaito get -w")]
pub struct Args {
    /// TYPE, TYPE NAME…, NAME… or TYPE/NAME…; TYPE is workspace when left out
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Output: wide, json, yaml, name, jsonpath=TEMPLATE, custom-columns=TITLE:PATH,…
    #[command(flatten)]
    pub output: OutputFlag,
    /// All namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Objects with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Objects with these fields
    #[arg(long, value_name = "SELECTOR")]
    pub field_selector: Option<String>,
    /// After listing, print changes as they happen
    #[arg(short = 'w', long)]
    pub watch: bool,
    /// Print changes only, without listing first
    #[arg(long)]
    pub watch_only: bool,
    /// Sort by the value at this path
    #[arg(long, value_name = "JSONPATH")]
    pub sort_by: Option<String>,
    /// No titles above the columns
    #[arg(long)]
    pub no_headers: bool,
    /// All labels as the last column
    #[arg(long)]
    pub show_labels: bool,
    /// These labels as columns
    #[arg(short = 'L', long, value_name = "LABEL", value_delimiter = ',')]
    pub label_columns: Vec<String>,
    /// Objects per page; 0 asks for all at once
    #[arg(long, value_name = "NUMBER", default_value_t = 500)]
    pub chunk_size: u32,
    /// Objects that do not exist are no error
    #[arg(long)]
    pub ignore_not_found: bool,
}

/// Prints objects, and with `-w` what happens to them.
///
/// # Errors
/// Bad arguments, objects that do not exist, refusals of the server.
pub async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let format = args.output.format(READ)?;
    let sort_by = args
        .sort_by
        .as_deref()
        .map(Template::parse_relaxed)
        .transpose()
        .map_err(Failure::error)?;
    let (kind, targets) = kinds::arguments(&args.names)?;
    if targets.iter().any(|target| target.kind != kind) {
        return Err(Error::Kinds.into());
    }
    let names: Vec<String> = targets.into_iter().map(|target| target.name).collect();
    if !names.is_empty() && (args.selector.is_some() || args.field_selector.is_some()) {
        return Err(Error::NameAndSelector.into());
    }
    if args.all_namespaces && !names.is_empty() {
        return Err(Error::NameEverywhere.into());
    }
    if (args.watch || args.watch_only) && names.len() > 1 {
        return Err(Error::WatchOfMany.into());
    }
    let cluster = Cluster::connect(context).await?;
    let get = Get {
        args,
        context,
        cluster: &cluster,
        kind,
        names,
        format,
        sort_by,
    };
    if args.watch || args.watch_only {
        return follow::run(&get).await;
    }
    get.list().await
}

/// One call of `get`, ready to run.
struct Get<'a> {
    args: &'a Args,
    context: &'a Context,
    cluster: &'a Cluster,
    kind: Kind,
    names: Vec<String>,
    format: Format,
    sort_by: Option<Template>,
}

impl Get<'_> {
    fn query(&self) -> Query {
        Query {
            namespace: (self.kind.namespaced && !self.args.all_namespaces)
                .then(|| self.cluster.namespace().to_owned()),
            labels: self.args.selector.clone(),
            fields: self.args.field_selector.clone(),
            // Sorting needs all objects, and the fields to sort by.
            limit: if self.sort_by.is_some() {
                0
            } else {
                self.args.chunk_size
            },
            whole_objects: self.sort_by.is_some(),
        }
    }

    fn view(&self) -> View<'_> {
        View {
            wide: self.format == Format::Wide,
            namespaces: self.kind.namespaced && self.args.all_namespaces,
            label_columns: &self.args.label_columns,
            all_labels: self.args.show_labels,
        }
    }

    fn headers(&self) -> Headers {
        if self.args.no_headers {
            Headers::Hide
        } else {
            Headers::Show
        }
    }

    async fn list(&self) -> Result<Exit, Failure> {
        match self.format {
            Format::Human | Format::Wide => self.print_table().await?,
            _ => self.print_objects().await?,
        }
        Ok(Exit::Success)
    }

    async fn print_table(&self) -> Result<(), Failure> {
        let (mut table, failures) = if self.names.is_empty() {
            (
                fetch::list(self.cluster, &self.kind, &self.query()).await?,
                Vec::new(),
            )
        } else {
            fetch::named(self.cluster, &self.kind, &self.query(), &self.names).await
        };
        if let Some(path) = &self.sort_by {
            rows::sort(&mut table.rows, path);
        }
        if table.rows.is_empty() && failures.is_empty() {
            self.say_empty()?;
        } else if !table.rows.is_empty() {
            let text = self.view().table(&table).render(self.headers());
            self.context.printer.data(&text)?;
            self.context.printer.flush()?;
        }
        self.conclude(failures)
    }

    fn say_empty(&self) -> Result<(), Failure> {
        if self.args.ignore_not_found {
            return Ok(());
        }
        match self.query().namespace {
            Some(namespace) => self
                .context
                .printer
                .note(&format!("No resources found in {namespace} namespace.")),
            None => self.context.printer.note("No resources found"),
        }
    }

    async fn print_objects(&self) -> Result<(), Failure> {
        let mut failures = Vec::new();
        let mut objects = Vec::new();
        if self.names.is_empty() {
            objects = fetch::objects(self.cluster, &self.kind, &self.query()).await?;
        }
        let api = self.kind.api(self.cluster, self.cluster.namespace());
        for name in &self.names {
            match self
                .cluster
                .call(&format!("get {}", self.kind.resource_name()), api.get(name))
                .await
            {
                Ok(object) => objects.push(serde_json::to_value(&object).map_err(Failure::error)?),
                Err(failure) => failures.push(failure),
            }
        }
        if !self.args.output.show_managed_fields {
            objects.iter_mut().for_each(format::strip_managed_fields);
        }
        if let Some(path) = &self.sort_by {
            rows::sort_objects(&mut objects, path);
        }
        let shape = if self.names.len() == 1 {
            Shape::Single
        } else {
            Shape::List
        };
        let nothing = objects.is_empty() && !self.names.is_empty();
        if !nothing {
            format::print(
                &self.context.printer,
                &self.format,
                &objects,
                shape,
                self.headers(),
            )?;
        }
        self.conclude(failures)
    }

    /// Failures of single objects, after what could be printed.
    fn conclude(&self, failures: Vec<Failure>) -> Result<(), Failure> {
        let ignored = |failure: &Failure| {
            self.args.ignore_not_found
                && failure
                    .lines()
                    .first()
                    .is_some_and(|line| line.starts_with("Error from server (NotFound)"))
        };
        let lines: Vec<String> = failures
            .iter()
            .filter(|failure| !ignored(failure))
            .flat_map(|failure| failure.lines().iter().cloned())
            .collect();
        if lines.is_empty() {
            Ok(())
        } else {
            Err(Failure::many(lines))
        }
    }
}

/// The object with its version and kind, which lists leave out.
fn typed(mut object: Value, kind: &Kind) -> Value {
    if let Some(map) = object.as_object_mut() {
        map.insert(
            "apiVersion".to_owned(),
            Value::String(kind.resource.api_version.clone()),
        );
        map.insert("kind".to_owned(), Value::String(kind.resource.kind.clone()));
    }
    object
}
