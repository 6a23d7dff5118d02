//! A YAML node with the position of everything in it.

use serde_json::Value;

/// A place in a file; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl Position {
    /// The first character of a file.
    pub const START: Self = Self { line: 1, column: 1 };
}

/// A node and where it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    /// Where the value starts.
    pub position: Position,
    /// The value.
    pub node: Node,
}

/// The kinds of nodes.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// Null, boolean, number or string.
    Scalar(Value),
    /// List.
    Sequence(Vec<Tree>),
    /// Map, in the order of the file; keys are unique.
    Mapping(Vec<Entry>),
}

/// One entry of a mapping.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Key.
    pub key: String,
    /// Where the key starts.
    pub position: Position,
    /// Value.
    pub value: Tree,
}

/// One step from a node to a node in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Entry of a mapping.
    Key(String),
    /// Element of a sequence, from 0.
    Index(usize),
}

impl Tree {
    /// A value that stands in no file; every place in it is the start.
    #[must_use]
    pub fn from_value(value: &Value) -> Self {
        let node = match value {
            Value::Array(items) => Node::Sequence(items.iter().map(Self::from_value).collect()),
            Value::Object(map) => Node::Mapping(
                map.iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        position: Position::START,
                        value: Self::from_value(value),
                    })
                    .collect(),
            ),
            scalar => Node::Scalar(scalar.clone()),
        };
        Self {
            position: Position::START,
            node,
        }
    }

    /// The value without positions.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match &self.node {
            Node::Scalar(value) => value.clone(),
            Node::Sequence(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Node::Mapping(entries) => Value::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.value.to_value()))
                    .collect(),
            ),
        }
    }

    /// The entry of a mapping.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.node {
            Node::Mapping(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The string at the end of a chain of keys.
    #[must_use]
    pub fn text(&self, keys: &[&str]) -> Option<&str> {
        let found = keys
            .iter()
            .try_fold(self, |tree, key| tree.entry(key).map(|entry| &entry.value))?;
        match &found.node {
            Node::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// Where to point for a problem at `path`: a scalar's value, a map's or list's key, or, when part of the path
    /// does not exist, the nearest parent's key.
    #[must_use]
    pub fn locate(&self, path: &[Segment]) -> Position {
        let mut tree = self;
        let mut position = self.position;
        for segment in path {
            let next = match (segment, &tree.node) {
                (Segment::Key(key), Node::Mapping(entries)) => {
                    entries.iter().find(|entry| entry.key == *key).map(|entry| {
                        (
                            &entry.value,
                            if entry.value.is_scalar() {
                                entry.value.position
                            } else {
                                entry.position
                            },
                        )
                    })
                }
                (Segment::Index(index), Node::Sequence(items)) => {
                    items.get(*index).map(|item| (item, item.position))
                }
                _ => None,
            };
            match next {
                Some((inner, place)) => (tree, position) = (inner, place),
                None => break,
            }
        }
        position
    }

    /// Where the key at the end of `path` stands; the nearest parent's place when it does not exist.
    #[must_use]
    pub fn locate_key(&self, path: &[Segment]) -> Position {
        let Some((Segment::Key(last), parents)) = path.split_last() else {
            return self.locate(path);
        };
        let parent = parents
            .iter()
            .try_fold(self, |tree, segment| match (segment, &tree.node) {
                (Segment::Key(key), _) => tree.entry(key).map(|entry| &entry.value),
                (Segment::Index(index), Node::Sequence(items)) => items.get(*index),
                _ => None,
            });
        parent
            .and_then(|tree| tree.entry(last))
            .map_or_else(|| self.locate(path), |entry| entry.position)
    }

    const fn is_scalar(&self) -> bool {
        matches!(self.node, Node::Scalar(_))
    }
}

/// Reads a field path such as `inference.adapters[0].source` or `metadata.labels["a.b"]`; a leading dot is allowed.
/// Parts that cannot be read end the path: it then points to a parent, which is still useful.
#[must_use]
pub fn segments(path: &str) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut rest = path.trim_start_matches('.');
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let Some((content, after)) = inner.split_once(']') else {
                break;
            };
            let bare = content.trim_matches(['"', '\'']);
            segments.push(
                bare.parse()
                    .map_or_else(|_| Segment::Key(bare.to_owned()), Segment::Index),
            );
            rest = after.trim_start_matches('.');
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (key, after) = rest.split_at(end);
            segments.push(Segment::Key(key.to_owned()));
            rest = after.strip_prefix('.').unwrap_or(after);
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::{Segment, segments};

    #[test]
    fn field_paths_are_split_at_dots_and_brackets() {
        let key = |text: &str| Segment::Key(text.to_owned());
        assert_eq!(
            segments("inference.adapters[1].source"),
            [
                key("inference"),
                key("adapters"),
                Segment::Index(1),
                key("source")
            ]
        );
        assert_eq!(
            segments(".metadata.labels[\"a.b\"]"),
            [key("metadata"), key("labels"), key("a.b")]
        );
        assert_eq!(segments(""), []);
    }
}
