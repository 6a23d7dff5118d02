//! The admission rules of a Workspace: one table, from which the CRD, the admission policy and the offline check are
//! all made. A rule is here or nowhere.
//!
//! A rule that reads only its own part of the object sits in the CRD at the smallest node that holds what it reads,
//! so that an update that leaves that node alone is not judged again. A rule that reads annotations, or holds on
//! creation only, sits in the policy. Rules that need other objects (nodes, ConfigMaps) are the scheduler's.

mod data;
mod inference;
mod object;
mod policy;
mod resource;
mod tuning;

use std::sync::LazyLock;

pub use policy::{BINDING_NAME, POLICY_NAME, policy_expression};

/// API versions that a rule holds for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// v1alpha1 and v1beta1.
    Both,
    /// v1alpha1 alone.
    Alpha,
    /// v1beta1 alone.
    Beta,
}

impl Versions {
    /// Whether `version` (`v1alpha1`, `v1beta1`) is meant.
    #[must_use]
    pub fn include(self, version: &str) -> bool {
        match self {
            Self::Both => true,
            Self::Alpha => version == "v1alpha1",
            Self::Beta => version == "v1beta1",
        }
    }
}

/// When a rule is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// On creation, and on updates that touch its node.
    Always,
    /// On updates: the expression compares `self` with `oldSelf`.
    Update,
    /// On creation; policy only.
    Create,
    /// On creation, and on updates that change the annotation; policy only.
    Annotation(&'static str),
}

/// Who judges a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The CRD, at this node of the schema: property names joined by dots, `[]` for list items; empty for the root.
    Schema(&'static str),
    /// The ValidatingAdmissionPolicy.
    Policy,
}

/// One admission rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Stable id; the part before a slash is the rule's id in KAITO's behaviour.
    pub id: &'static str,
    /// API versions it holds for.
    pub versions: Versions,
    /// When it is judged.
    pub when: When,
    /// Who judges it.
    pub place: Place,
    /// The field at fault, below the node of [`Place::Schema`] and starting with a dot, or the whole path for
    /// [`Place::Policy`]; empty for the node itself.
    pub field: &'static str,
    /// CEL expression that must be true, over `self` and `oldSelf`, or over `object`.
    pub expression: String,
    /// What is wrong and what to do about it.
    pub message: String,
    /// CEL expression that makes a better message, where the value belongs in it.
    pub message_expression: Option<String>,
}

impl Rule {
    fn new(id: &'static str, place: Place, expression: impl Into<String>, message: &str) -> Self {
        Self {
            id,
            versions: Versions::Both,
            when: When::Always,
            place,
            field: "",
            expression: expression.into(),
            message: message.to_owned(),
            message_expression: None,
        }
    }

    fn at(
        id: &'static str,
        node: &'static str,
        expression: impl Into<String>,
        message: &str,
    ) -> Self {
        Self::new(id, Place::Schema(node), expression, message)
    }

    fn of_policy(id: &'static str, expression: impl Into<String>, message: &str) -> Self {
        Self::new(id, Place::Policy, expression, message)
    }

    const fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    const fn only(mut self, versions: Versions) -> Self {
        self.versions = versions;
        self
    }

    const fn field(mut self, field: &'static str) -> Self {
        self.field = field;
        self
    }

    fn saying(mut self, expression: impl Into<String>) -> Self {
        self.message_expression = Some(expression.into());
        self
    }
}

static TABLE: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let mut table = object::rules();
    table.extend(resource::rules());
    table.extend(inference::rules());
    table.extend(tuning::rules());
    table.extend(data::rules());
    table.extend(policy::rules());
    table
});

/// Every rule, grouped by section.
#[must_use]
pub fn rules() -> &'static [Rule] {
    &TABLE
}

/// A CEL list of string literals in lower case, sorted, each once. The names may not hold quotes or backslashes.
fn literals<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    let mut names: Vec<String> = names
        .into_iter()
        .map(|name| name.as_ref().to_ascii_lowercase())
        .collect();
    names.sort_unstable();
    names.dedup();
    let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    format!("[{}]", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::{Place, When, literals, rules};

    #[test]
    fn ids_are_unique_within_a_version() {
        let mut seen = std::collections::BTreeSet::new();
        for rule in rules() {
            assert!(seen.insert(rule.id), "{} twice", rule.id);
        }
    }

    #[test]
    fn every_message_names_a_field_and_a_remedy() {
        for rule in rules() {
            assert!(rule.message.len() > 30, "{}: {}", rule.id, rule.message);
            assert!(
                rule.message.contains([':', ';']),
                "{}: no remedy: {}",
                rule.id,
                rule.message
            );
            assert!(rule.message.len() <= 2048);
        }
    }

    #[test]
    fn update_rules_and_only_they_read_the_old_object() {
        for rule in rules() {
            let reads_old = rule.expression.contains("oldSelf");
            assert_eq!(reads_old, rule.when == When::Update, "{}", rule.id);
            if matches!(rule.when, When::Create | When::Annotation(_)) {
                assert_eq!(rule.place, Place::Policy, "{}", rule.id);
            }
        }
    }

    #[test]
    fn no_expression_needs_an_escape() {
        for rule in rules() {
            assert!(!rule.expression.contains('\\'), "{}", rule.id);
        }
    }

    #[test]
    fn literal_lists_are_lower_case_sorted_and_without_doubles() {
        assert_eq!(literals(["B", "a", "b"]), "['a', 'b']");
    }
}
