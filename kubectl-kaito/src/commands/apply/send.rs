//! Sends checked objects: resolve, dry-run all, then apply one by one.

use kube::api::{Api, DynamicObject, Patch, PatchParams, ValidationDirective};
use serde_json::Value;

use super::{Args, check_namespace, conflict};
use crate::Context;
use crate::cli::dry_run::DryRun;
use crate::cluster::kinds::{Kind, Resolver};
use crate::cluster::{CallError, Cluster};
use crate::error::Failure;
use crate::manifest::check::Validation;
use crate::manifest::{Document, Position};
use crate::output::escape;
use crate::output::format;

/// What is needed to send.
pub(super) struct Sender<'a> {
    /// Connection.
    pub(super) cluster: &'a Cluster,
    /// Printer and flags.
    pub(super) context: &'a Context,
    /// Flags of the command.
    pub(super) args: &'a Args,
    /// What the server does about unknown fields.
    pub(super) validation: Validation,
    /// How far to go; never [`DryRun::Client`].
    pub(super) mode: DryRun,
}

/// An object as the server stored it (or would).
pub(super) struct Outcome {
    /// The object.
    pub(super) object: Value,
    /// Its kind.
    pub(super) kind: Kind,
    /// Its namespace, empty for the cluster.
    pub(super) namespace: String,
}

/// A document with its place in the cluster.
struct Target {
    document: Document,
    object: Value,
    kind: Kind,
    namespace: String,
    name: String,
    api: Api<DynamicObject>,
}

impl Sender<'_> {
    /// Sends all documents in order and prints a line for each.
    ///
    /// # Errors
    /// What the server refuses. With several documents none is written before the server has accepted all.
    pub(super) async fn send_all(&self, documents: Vec<Document>) -> Result<Vec<Outcome>, Failure> {
        let targets = self.resolve(documents).await?;
        if targets.len() > 1 && self.mode == DryRun::None {
            self.rehearse(&targets).await?;
        }
        let mut outcomes = Vec::new();
        for target in targets {
            outcomes.push(self.apply(target).await?);
        }
        Ok(outcomes)
    }

    async fn resolve(&self, documents: Vec<Document>) -> Result<Vec<Target>, Failure> {
        let explicit = self
            .cluster
            .namespace_is_explicit()
            .then(|| self.cluster.namespace());
        let mut resolver = Resolver::default();
        let mut targets = Vec::new();
        for document in documents {
            let version = document.tree.text(&["apiVersion"]).unwrap_or_default();
            let kind_name = document.tree.text(&["kind"]).unwrap_or_default();
            let name = document
                .tree
                .text(&["metadata", "name"])
                .unwrap_or_default()
                .to_owned();
            let Some(kind) = self
                .kind(&mut resolver, version, kind_name, &document)
                .await?
            else {
                return Err(no_match(&document, version, kind_name, &name));
            };
            let mut object = document.value();
            let namespace = if kind.namespaced {
                check_namespace(&document, explicit)?;
                let own = document
                    .tree
                    .text(&["metadata", "namespace"])
                    .filter(|name| !name.is_empty());
                own.unwrap_or_else(|| self.cluster.namespace()).to_owned()
            } else {
                String::new()
            };
            if let Some(metadata) = object
                .get_mut("metadata")
                .and_then(Value::as_object_mut)
                .filter(|_| kind.namespaced)
            {
                metadata.insert("namespace".to_owned(), Value::String(namespace.clone()));
            }
            let api = kind.api(self.cluster, &namespace);
            targets.push(Target {
                document,
                object,
                kind,
                namespace,
                name,
                api,
            });
        }
        Ok(targets)
    }

    /// The kind of a document. A kind that an earlier document defines cannot be known to the server yet; that is
    /// said like any other unknown kind, because its objects could not be checked before the first write.
    async fn kind(
        &self,
        resolver: &mut Resolver,
        version: &str,
        kind: &str,
        document: &Document,
    ) -> Result<Option<Kind>, Failure> {
        resolver
            .resolve(self.cluster, version, kind)
            .await
            .map_err(|failure| failure.with_hint(place(document, document.tree.position)))
    }

    /// Lets the server go through all objects without storing any.
    async fn rehearse(&self, targets: &[Target]) -> Result<(), Failure> {
        let new_namespaces: Vec<&str> = targets
            .iter()
            .filter(|target| {
                target.kind.resource.kind == "Namespace" && target.kind.resource.group.is_empty()
            })
            .map(|target| target.name.as_str())
            .collect();
        let mut failures = Vec::new();
        for target in targets {
            let in_new_namespace = new_namespaces.contains(&target.namespace.as_str());
            let request = self.patch(target, self.args.force_conflicts, true);
            match self.cluster.attempt(request).await {
                Ok(_) => {}
                // The namespace comes with the same files and does not exist yet: nothing in it can be rehearsed.
                Err(CallError::Request(kube::Error::Api(status)))
                    if in_new_namespace && status.is_not_found() => {}
                Err(error) => failures.push(self.refusal(target, error).await),
            }
        }
        if failures.is_empty() {
            return Ok(());
        }
        let lines = failures
            .iter()
            .flat_map(|failure| failure.lines().iter().cloned());
        Err(Failure::many(lines).with_hint("Nothing was applied."))
    }

    async fn apply(&self, target: Target) -> Result<Outcome, Failure> {
        let resource = target.kind.resource_name();
        let before = self
            .cluster
            .find(
                &format!("get {resource}"),
                target.api.get_metadata(&target.name),
            )
            .await?;
        let before = before.and_then(|object| object.metadata.resource_version);
        let stored = match self
            .cluster
            .attempt(self.patch(&target, false, false))
            .await
        {
            Ok(stored) => stored,
            Err(CallError::Request(kube::Error::Api(status)))
                if self.args.force_conflicts && conflict::is_ownership(&status) =>
            {
                let live = self
                    .cluster
                    .find(&format!("get {resource}"), target.api.get(&target.name))
                    .await?;
                let live = live
                    .and_then(|object| serde_json::to_value(object).ok())
                    .unwrap_or_default();
                let stored = self.cluster.attempt(self.patch(&target, true, false)).await;
                let stored = match stored {
                    Ok(stored) => stored,
                    Err(error) => return Err(self.refusal(&target, error).await),
                };
                for line in conflict::taken_over(&status, &live, &target.object) {
                    self.context.printer.note(&escape::single_line(&line))?;
                }
                stored
            }
            Err(error) => return Err(self.refusal(&target, error).await),
        };
        let unchanged = before.is_some() && before == stored.metadata.resource_version;
        let object = serde_json::to_value(&stored).map_err(Failure::error)?;
        self.report(&target, unchanged)?;
        Ok(Outcome {
            object,
            kind: target.kind,
            namespace: target.namespace,
        })
    }

    fn report(&self, target: &Target, unchanged: bool) -> Result<(), Failure> {
        if self
            .args
            .output
            .output
            .as_deref()
            .is_some_and(|format| !format.is_empty())
        {
            return Ok(());
        }
        let verb = if unchanged {
            "unchanged"
        } else {
            "serverside-applied"
        };
        let reference = escape::single_line(&format::reference(&target.object));
        self.context
            .printer
            .line(&format!("{reference} {verb}{}", self.mode.suffix()))
    }

    async fn patch(
        &self,
        target: &Target,
        force: bool,
        rehearsal: bool,
    ) -> Result<DynamicObject, kube::Error> {
        let mut params = PatchParams::apply(&self.args.field_manager);
        params.force = force;
        params.dry_run = rehearsal || self.mode == DryRun::Server;
        params.field_validation = Some(match self.validation {
            Validation::Strict => ValidationDirective::Strict,
            Validation::Warn => ValidationDirective::Warn,
            Validation::Ignore => ValidationDirective::Ignore,
        });
        target
            .api
            .patch(&target.name, &params, &Patch::Apply(&target.object))
            .await
    }

    /// The failure for a refused object: conflicts by field, everything else in the server's words.
    async fn refusal(&self, target: &Target, error: CallError) -> Failure {
        let resource = target.kind.resource_name();
        if let CallError::Request(kube::Error::Api(status)) = &error
            && conflict::is_ownership(status)
        {
            let live = self
                .cluster
                .find(&format!("get {resource}"), target.api.get(&target.name))
                .await;
            let live = live
                .ok()
                .flatten()
                .and_then(|object| serde_json::to_value(object).ok())
                .unwrap_or_default();
            return conflict::failure(status, &live, &target.object, &target.document);
        }
        let failure = self.cluster.explain(error, &format!("patch {resource}"));
        failure.with_hint(place(&target.document, target.document.tree.position))
    }
}

fn place(document: &Document, position: Position) -> String {
    format!(
        "at {}:{}:{}",
        document.source, position.line, position.column
    )
}

fn no_match(document: &Document, version: &str, kind: &str, name: &str) -> Failure {
    let namespace = document
        .tree
        .text(&["metadata", "namespace"])
        .unwrap_or_default();
    let failure = Failure::error(format!(
        "resource mapping not found for name: {name:?} namespace: {namespace:?} from {:?}: no matches for kind \
         {kind:?} in version {version:?}",
        document.source
    ));
    failure.with_hint("ensure CRDs are installed first")
}
