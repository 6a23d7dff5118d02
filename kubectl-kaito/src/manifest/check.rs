//! The rules that a manifest must pass before anything is sent. Everything that is wrong is found at once.
//!
//! Workspaces are judged by the API's own schema and rules, the same ones that the server evaluates. Other kinds only
//! by what every object needs; the rest is the server's to say.

use serde_json::Value;

use super::tree::{Node, Segment, Tree, segments};
use super::{Document, Problem, reader, source};

/// What is done about fields that are not known, as `--validate` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Validation {
    /// They are errors.
    #[default]
    Strict,
    /// They are warnings.
    Warn,
    /// They are dropped in silence.
    Ignore,
}

/// What came out of the inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checked {
    /// Objects in order, `List`s taken apart.
    pub documents: Vec<Document>,
    /// Everything that is wrong, in order.
    pub problems: Vec<Problem>,
    /// Unknown fields, with [`Validation::Warn`].
    pub warnings: Vec<Problem>,
}

/// Reads all inputs and judges them by every rule.
#[must_use]
pub fn check(inputs: Vec<source::Input>, validation: Validation) -> Checked {
    check_by(inputs, validation, Depth::Everything)
}

/// Reads all inputs and judges only what names an object: version, kind, name. For commands that do not send them.
#[must_use]
pub fn identities(inputs: Vec<source::Input>) -> Checked {
    check_by(inputs, Validation::Ignore, Depth::Identity)
}

#[derive(Clone, Copy, PartialEq)]
enum Depth {
    Everything,
    Identity,
}

fn check_by(inputs: Vec<source::Input>, validation: Validation, depth: Depth) -> Checked {
    let mut checked = Checked::default();
    for input in inputs {
        let text = match input.text {
            Ok(text) => text,
            Err(problem) => {
                checked.problems.push(problem);
                continue;
            }
        };
        let reading = reader::read(&input.name, &text);
        let first = checked.problems.len();
        checked.problems.extend(reading.problems);
        for document in reading.documents.into_iter().flat_map(items) {
            checked.take(document, validation, depth);
        }
        let mut problems = checked.problems.split_off(first);
        problems.sort();
        problems.dedup();
        checked.problems.extend(problems);
    }
    checked
}

impl Checked {
    /// Judges one more object by every rule.
    pub fn add(&mut self, document: Option<Document>, validation: Validation) {
        if let Some(document) = document {
            self.take(document, validation, Depth::Everything);
        }
    }

    fn take(&mut self, document: Document, validation: Validation, depth: Depth) {
        for fault in judge(&document.tree, depth) {
            let problem = fault.problem(&document);
            match validation {
                Validation::Ignore if fault.unknown_field => {}
                Validation::Warn if fault.unknown_field => self.warnings.push(problem),
                _ => self.problems.push(problem),
            }
        }
        self.documents.push(document);
    }
}

/// The items of a `List`, or the document itself.
fn items(document: Document) -> Vec<Document> {
    let is_list = document.tree.text(&["apiVersion"]) == Some("v1")
        && document.tree.text(&["kind"]) == Some("List");
    let list = document.tree.entry("items").map(|entry| &entry.value.node);
    match list.filter(|_| is_list) {
        Some(Node::Sequence(items)) => items
            .iter()
            .map(|tree| Document {
                source: document.source.clone(),
                tree: tree.clone(),
            })
            .collect(),
        _ => vec![document],
    }
}

/// One thing that is wrong with an object.
struct Fault {
    path: String,
    message: String,
    unknown_field: bool,
}

impl Fault {
    fn new(path: &str, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            message: message.into(),
            unknown_field: false,
        }
    }

    /// The fault with its place: the key of an unknown field, else the value at fault.
    fn problem(&self, document: &Document) -> Problem {
        let segments: Vec<Segment> = segments(&self.path);
        let position = if self.unknown_field {
            document.tree.locate_key(&segments)
        } else {
            document.tree.locate(&segments)
        };
        Problem {
            source: document.source.clone(),
            position,
            path: self.path.clone(),
            message: self.message.clone(),
        }
    }
}

fn judge(tree: &Tree, depth: Depth) -> Vec<Fault> {
    if !matches!(tree.node, Node::Mapping(_)) {
        return vec![Fault::new(
            "",
            "not an object: a manifest is a map with apiVersion, kind and metadata",
        )];
    }
    let mut faults = identity(tree);
    if depth == Depth::Everything && is_workspace(tree) {
        for violation in kaito_api::admission::validate_create(&tree.to_value()) {
            // What names the object has been judged already.
            if faults
                .iter()
                .all(|fault| fault.path != violation.path || fault.path.is_empty())
            {
                let unknown_field = violation.message.starts_with("unknown field");
                faults.push(Fault {
                    path: violation.path,
                    message: violation.message,
                    unknown_field,
                });
            }
        }
    }
    faults
}

/// Whether the document is of a kind that we have rules for.
#[must_use]
pub fn is_workspace(tree: &Tree) -> bool {
    let group = tree
        .text(&["apiVersion"])
        .and_then(|version| version.split_once('/'))
        .map(|(group, _)| group);
    group == Some(kaito_api::names::GROUP) && tree.text(&["kind"]) == Some("Workspace")
}

/// What every object needs to be found: version, kind, name.
fn identity(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for key in ["apiVersion", "kind"] {
        if tree.text(&[key]).is_none_or(str::is_empty) {
            let is = tree
                .entry(key)
                .map_or_else(|| "missing".to_owned(), |entry| described(&entry.value));
            faults.push(Fault::new(
                key,
                format!(
                    "required, but is {is}: set it, for example {}",
                    example(key)
                ),
            ));
        }
    }
    let metadata = tree.entry("metadata").map(|entry| &entry.value);
    if let Some(wrong) = metadata.filter(|tree| !matches!(tree.node, Node::Mapping(_))) {
        faults.push(Fault::new(
            "metadata",
            format!("must be a map, but is {}", described(wrong)),
        ));
        return faults;
    }
    let name = metadata
        .and_then(|tree| tree.entry("name"))
        .map(|entry| &entry.value);
    match name {
        None => faults.push(Fault::new("metadata.name", nameless(tree))),
        Some(Tree {
            node: Node::Scalar(Value::String(text)),
            ..
        }) if !text.is_empty() => {}
        Some(other) => {
            faults.push(Fault::new(
                "metadata.name",
                format!(
                    "must be a string, but is {}: put it in quotes",
                    described(other)
                ),
            ));
        }
    }
    if metadata
        .and_then(|tree| tree.entry("managedFields"))
        .is_some()
    {
        faults.push(Fault::new(
            "metadata.managedFields",
            "must not be set in an object that is applied; remove it",
        ));
    }
    faults
}

fn nameless(tree: &Tree) -> String {
    match tree.text(&["metadata", "generateName"]) {
        Some(prefix) => {
            format!("from {prefix}: cannot use generate name with apply; set metadata.name")
        }
        None => "required: resource name may not be empty".to_owned(),
    }
}

fn example(key: &str) -> &'static str {
    if key == "kind" {
        "kind: Workspace"
    } else {
        "apiVersion: kaito.sh/v1beta1"
    }
}

fn described(tree: &Tree) -> String {
    match &tree.node {
        Node::Mapping(_) => "a map".to_owned(),
        Node::Sequence(_) => "a list".to_owned(),
        Node::Scalar(Value::Null) => "empty".to_owned(),
        Node::Scalar(Value::String(text)) => format!("the string {text:?}"),
        Node::Scalar(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Checked, Validation, check};
    use crate::manifest::source::Input;

    const GOOD: &str = "apiVersion: kaito.sh/v1beta1\nkind: Workspace\nmetadata:\n  name: phi\nresource:\n  \
                        labelSelector:\n    matchLabels: {apps: phi}\ninference:\n  preset:\n    name: phi-4\n";

    fn checked(text: &str, validation: Validation) -> Checked {
        check(
            vec![Input {
                name: "f".to_owned(),
                text: Ok(text.to_owned()),
            }],
            validation,
        )
    }

    fn problems(text: &str) -> Vec<String> {
        checked(text, Validation::Strict)
            .problems
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_good_workspace_has_no_problems() {
        assert_eq!(problems(GOOD), [""; 0]);
    }

    #[test]
    fn every_error_of_every_document_is_found_with_its_place() {
        let bad = GOOD.replace("name: phi-4", "name: phi4").replace(
            "resource:\n",
            "resource:\n  count: two\n  instancetype: x\n",
        );
        let found = problems(&format!("{bad}---\nkind: ConfigMap\nmetadata: {{}}\n"));
        let starts: Vec<&str> = found
            .iter()
            .map(|line| line.split_inclusive(": ").next().unwrap())
            .collect();
        assert_eq!(
            starts,
            ["f:6:10: ", "f:7:3: ", "f:12:11: ", "f:14:1: ", "f:15:1: "],
            "{found:#?}"
        );
        assert!(found[1].contains("did you mean instanceType"), "{found:#?}");
        assert!(found[2].contains("phi-4"), "{found:#?}");
    }

    #[test]
    fn unknown_fields_can_be_warnings_or_nothing() {
        let text = GOOD.replace("resource:\n", "resource:\n  extra: 1\n");
        assert_eq!(checked(&text, Validation::Strict).problems.len(), 1);
        let warned = checked(&text, Validation::Warn);
        assert_eq!((warned.problems.len(), warned.warnings.len()), (0, 1));
        let ignored = checked(&text, Validation::Ignore);
        assert_eq!((ignored.problems.len(), ignored.warnings.len()), (0, 0));
    }

    #[test]
    fn lists_are_taken_apart_and_generated_names_refused() {
        let found = problems(
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Secret\n  metadata: {generateName: a-}\n",
        );
        assert_eq!(
            found,
            [
                "f:6:3: metadata.name: from a-: cannot use generate name with apply; set metadata.name"
            ]
        );
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert_eq!(problems("just text\n").len(), 1);
        assert_eq!(problems("- a\n- b\n").len(), 1);
        assert_eq!(problems("apiVersion: 1\nkind:\nmetadata: []\n").len(), 3);
    }
}
