//! Disruption budgets: which pods each covers, and how many of them it lets go.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::{Selector, SelectorExt};

use crate::cluster::{Memory, Objects};
use crate::leaving::was_evicted_by_us;

/// All budgets, by what they cover.
pub(crate) struct Budgets<'a> {
    by_namespace: BTreeMap<&'a str, Vec<Budget<'a>>>,
}

struct Budget<'a> {
    /// `namespace/name`.
    name: String,
    covers: Covers,
    budget: &'a PodDisruptionBudget,
}

/// Which pods of its namespace a budget covers.
enum Covers {
    /// None: it has no selector.
    Nobody,
    /// Those that match.
    Matching(Selector),
    /// Its selector cannot be read; to be safe, all.
    Everybody,
}

impl<'a> Budgets<'a> {
    /// Sorts budgets by namespace.
    pub(crate) fn new(budgets: &'a [Arc<PodDisruptionBudget>]) -> Self {
        let mut by_namespace: BTreeMap<&str, Vec<Budget<'a>>> = BTreeMap::new();
        for budget in budgets {
            let namespace = budget.metadata.namespace.as_deref().unwrap_or_default();
            let name = budget.metadata.name.as_deref().unwrap_or_default();
            by_namespace.entry(namespace).or_default().push(Budget {
                name: format!("{namespace}/{name}"),
                covers: covers(budget),
                budget,
            });
        }
        Self { by_namespace }
    }

    /// Names of the budgets that cover a pod.
    pub(crate) fn of(&self, pod: &Pod) -> Vec<String> {
        let covering = self.covering(pod);
        covering.map(|one| one.name.clone()).collect()
    }

    /// How many pods each budget still lets go. Those that were evicted a moment ago are taken off, because the budget's
    /// status may be as old as theirs.
    pub(crate) fn allowed(&self, objects: &Objects, memory: &Memory) -> BTreeMap<String, u64> {
        let all = self.by_namespace.values().flatten();
        let mut allowed: BTreeMap<String, u64> = all
            .map(|one| (one.name.clone(), allowed_now(one.budget)))
            .collect();
        let evicted = objects.pods.iter();
        for pod in evicted.filter(|pod| was_evicted_by_us(pod, memory)) {
            for one in self.covering(pod) {
                if let Some(left) = allowed.get_mut(&one.name) {
                    *left = left.saturating_sub(1);
                }
            }
        }
        allowed
    }

    fn covering(&self, pod: &Pod) -> impl Iterator<Item = &Budget<'a>> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let here = self.by_namespace.get(namespace).into_iter().flatten();
        let none = BTreeMap::new();
        let labels = pod.metadata.labels.clone().unwrap_or(none);
        here.filter(move |one| match &one.covers {
            Covers::Nobody => false,
            Covers::Matching(selector) => selector.matches(&labels),
            Covers::Everybody => true,
        })
    }
}

fn covers(budget: &PodDisruptionBudget) -> Covers {
    let Some(selector) = budget.spec.as_ref().and_then(|spec| spec.selector.clone()) else {
        return Covers::Nobody;
    };
    Selector::try_from(selector).map_or(Covers::Everybody, Covers::Matching)
}

/// A budget whose status was not made from what it says now allows none: the API server would not let anybody go either.
fn allowed_now(budget: &PodDisruptionBudget) -> u64 {
    let Some(status) = budget.status.as_ref() else {
        return 0;
    };
    let seen = status.observed_generation.unwrap_or(0);
    if seen < budget.metadata.generation.unwrap_or(0) {
        return 0;
    }
    let allowed = status.disruptions_allowed.unwrap_or(0);
    u64::try_from(allowed).unwrap_or(0)
}
