//! The kinds that commands name on the command line, and the kinds that manifests hold.

use std::collections::HashMap;

use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Scope};

use super::Cluster;
use crate::error::Failure;

/// A kind: where its objects are, and whether they live in namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Group, version, kind, plural.
    pub resource: ApiResource,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

/// One object or all objects of a kind, as named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The kind.
    pub kind: Kind,
    /// The object's name.
    pub name: String,
}

impl Kind {
    /// Workspace.
    #[must_use]
    pub fn workspace() -> Self {
        Self {
            resource: super::workspace_resource(),
            namespaced: true,
        }
    }

    /// Karpenter's NodeClaim.
    #[must_use]
    pub fn node_claim() -> Self {
        let kind = GroupVersionKind::gvk("karpenter.sh", "v1", "NodeClaim");
        Self {
            resource: ApiResource::from_gvk_with_plural(&kind, "nodeclaims"),
            namespaced: false,
        }
    }

    /// The kind that a word means: singular, plural, short name, with or without version and group.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        let word = word.to_lowercase();
        let (name, group) = word
            .split_once('.')
            .map_or((word.as_str(), None), |(name, group)| (name, Some(group)));
        let kind = match name {
            "workspace" | "workspaces" | "wk" | "wks" => Self::workspace(),
            "nodeclaim" | "nodeclaims" => Self::node_claim(),
            _ => return None,
        };
        let of_group = |group: &str| {
            group == kind.resource.group
                || group
                    .split_once('.')
                    .is_some_and(|(_, rest)| rest == kind.resource.group)
        };
        group.is_none_or(of_group).then_some(kind)
    }

    /// `workspaces.kaito.sh`, as messages name the resource.
    #[must_use]
    pub fn resource_name(&self) -> String {
        if self.resource.group.is_empty() {
            self.resource.plural.clone()
        } else {
            format!("{}.{}", self.resource.plural, self.resource.group)
        }
    }

    /// `workspace.kaito.sh`, as result lines name the kind.
    #[must_use]
    pub fn kind_name(&self) -> String {
        let kind = self.resource.kind.to_lowercase();
        if self.resource.group.is_empty() {
            kind
        } else {
            format!("{kind}.{}", self.resource.group)
        }
    }

    /// The kind's objects in `namespace`, or of the cluster.
    #[must_use]
    pub fn api(&self, cluster: &Cluster, namespace: &str) -> Api<DynamicObject> {
        if self.namespaced {
            Api::namespaced_with(cluster.client().clone(), namespace, &self.resource)
        } else {
            Api::all_with(cluster.client().clone(), &self.resource)
        }
    }

    /// The kind's objects everywhere.
    #[must_use]
    pub fn everywhere(&self, cluster: &Cluster) -> Api<DynamicObject> {
        Api::all_with(cluster.client().clone(), &self.resource)
    }

    /// Namespaces and names of the objects of this kind that a selection means.
    ///
    /// # Errors
    /// The list is refused or the server cannot be reached.
    pub async fn select(
        &self,
        cluster: &Cluster,
        selection: &Selection<'_>,
    ) -> Result<Vec<(String, String)>, Failure> {
        let api = match selection.namespace {
            Some(namespace) => self.api(cluster, namespace),
            None => self.everywhere(cluster),
        };
        let params = ListParams {
            label_selector: selection.labels.map(str::to_owned),
            field_selector: selection.fields.map(str::to_owned),
            ..ListParams::default()
        };
        let what = format!("list {}", self.resource_name());
        let list = cluster.call(&what, api.list_metadata(&params)).await?;
        let named = list.items.into_iter().map(|item| {
            let meta = item.metadata;
            (
                meta.namespace.unwrap_or_default(),
                meta.name.unwrap_or_default(),
            )
        });
        Ok(named.collect())
    }
}

/// Objects that a user means without naming them.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// Where; absent for all namespaces.
    pub namespace: Option<&'a str>,
    /// Label selector; absent for all.
    pub labels: Option<&'a str>,
    /// Field selector; absent for all.
    pub fields: Option<&'a str>,
}

/// Reads `[TYPE] [NAME…]` and `TYPE/NAME…`. Without a type, names are Workspaces; without a name, the kind alone is
/// returned.
///
/// # Errors
/// An unknown type, or both forms mixed.
pub fn arguments(words: &[String]) -> Result<(Kind, Vec<Target>), Failure> {
    let unknown =
        |word: &str| Failure::error(format!("the server doesn't have a resource type {word:?}"));
    if words.iter().any(|word| word.contains('/')) {
        let mut targets = Vec::new();
        for word in words {
            let (kind, name) = word.split_once('/').unwrap_or(("workspace", word));
            if name.is_empty() || name.contains('/') {
                return Err(Failure::error(format!(
                    "arguments in resource/name form may not have more than one slash: {word:?}"
                )));
            }
            let kind = Kind::named(kind).ok_or_else(|| unknown(kind))?;
            targets.push(Target {
                kind,
                name: name.to_owned(),
            });
        }
        let first = targets
            .first()
            .map_or_else(Kind::workspace, |target| target.kind.clone());
        return Ok((first, targets));
    }
    let (kind, names) = match words.split_first() {
        Some((first, rest)) if Kind::named(first).is_some() => {
            (Kind::named(first).ok_or_else(|| unknown(first))?, rest)
        }
        _ => (Kind::workspace(), words),
    };
    let targets = names
        .iter()
        .map(|name| Target {
            kind: kind.clone(),
            name: name.clone(),
        })
        .collect();
    Ok((kind, targets))
}

/// Finds kinds by the version and kind that manifests carry; asks the server once per kind.
#[derive(Debug, Default)]
pub struct Resolver {
    known: HashMap<GroupVersionKind, Kind>,
}

impl Resolver {
    /// The kind with this `apiVersion` and `kind`; none when the server does not serve it.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub async fn resolve(
        &mut self,
        cluster: &Cluster,
        version: &str,
        kind: &str,
    ) -> Result<Option<Kind>, Failure> {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let wanted = GroupVersionKind::gvk(group, version, kind);
        if let Some(found) = self.known.get(&wanted) {
            return Ok(Some(found.clone()));
        }
        let found = match group {
            kaito_api::names::GROUP if kind == "Workspace" => Kind {
                resource: ApiResource::from_gvk_with_plural(&wanted, "workspaces"),
                namespaced: true,
            },
            _ => match discovered(cluster, &wanted).await? {
                Some(kind) => kind,
                None => return Ok(None),
            },
        };
        self.known.insert(wanted, found.clone());
        Ok(Some(found))
    }
}

async fn discovered(cluster: &Cluster, wanted: &GroupVersionKind) -> Result<Option<Kind>, Failure> {
    match cluster
        .attempt(discovery::pinned_kind(cluster.client(), wanted))
        .await
    {
        Ok((resource, capabilities)) => Ok(Some(Kind {
            resource,
            namespaced: capabilities.scope == Scope::Namespaced,
        })),
        Err(super::CallError::Request(kube::Error::Discovery(_))) => Ok(None),
        Err(super::CallError::Request(kube::Error::Api(status))) if status.code == 404 => Ok(None),
        Err(error) => Err(cluster.explain(error, "get resources of the API group")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, arguments};

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_type_may_be_left_out_or_written_in_any_of_its_forms() {
        for word in [
            "workspace",
            "Workspaces",
            "wk",
            "wks",
            "workspace.kaito.sh",
            "workspaces.v1beta1.kaito.sh",
        ] {
            assert_eq!(Kind::named(word), Some(Kind::workspace()), "{word}");
        }
        assert_eq!(Kind::named("workspace.other.io"), None);
        let (kind, targets) = arguments(&words(&["phi", "falcon"])).unwrap();
        assert_eq!((kind, targets.len()), (Kind::workspace(), 2));
        let (kind, targets) = arguments(&words(&["nodeclaims", "ws1"])).unwrap();
        assert_eq!(
            (kind, targets[0].name.as_str()),
            (Kind::node_claim(), "ws1")
        );
        let (_, targets) = arguments(&words(&["wk/a", "nodeclaim/b"])).unwrap();
        assert_eq!(targets[1].kind, Kind::node_claim());
    }

    #[test]
    fn unknown_types_are_refused() {
        assert_eq!(
            arguments(&words(&["rag/a"])).unwrap_err().lines(),
            ["error: the server doesn't have a resource type \"rag\""]
        );
    }
}
