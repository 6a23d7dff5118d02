//! Text to documents with positions: YAML (of which JSON is a part), several documents per text.
//!
//! Bounded on purpose: nesting, and what aliases may expand to, so that a small file cannot become a large object.
//! Duplicate keys, unknown tags, tabs and syntax errors are problems with a position; after a broken document the
//! next one is read, so that all problems show at once.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use serde_json::Value;

use super::tree::{Entry, Node, Position, Tree};
use super::{Document, Problem, scalar};

/// Deepest nesting of maps and lists; the API server's own limit for JSON is far above what real objects use.
const MAX_DEPTH: usize = 100;
/// Most nodes that aliases may add to one source. The largest published CRDs have a tenth of it and no aliases.
const MAX_ALIAS_NODES: usize = 100_000;

/// What a text holds: the documents that could be read, and everything that is wrong.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Documents in order; empty ones are left out.
    pub documents: Vec<Document>,
    /// Problems in order.
    pub problems: Vec<Problem>,
}

/// Reads all documents of a text. `source` is its name in messages.
#[must_use]
pub fn read(source: &str, text: &str) -> Reading {
    let mut reading = Reading::default();
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        expanded: 0,
    };
    loop {
        match reader.next_document() {
            Ok(None) => return reading,
            Ok(Some(tree)) => {
                if tree.node != Node::Scalar(Value::Null) {
                    reading.documents.push(Document {
                        source: source.to_owned(),
                        tree,
                    });
                }
            }
            Err(fault) => {
                let Fault { position, message } = fault;
                reading.problems.push(Problem {
                    source: source.to_owned(),
                    position,
                    path: String::new(),
                    message,
                });
                if !matches!(reader.parser.proceed_next_document(), Ok(true)) {
                    return reading;
                }
            }
        }
    }
}

/// Why a document cannot be read.
struct Fault {
    position: Position,
    message: String,
}

impl Fault {
    fn new(position: Position, message: impl Into<String>) -> Self {
        Self {
            position,
            message: message.into(),
        }
    }
}

impl From<ScanError> for Fault {
    fn from(error: ScanError) -> Self {
        let marker = error.marker();
        let position = Position {
            line: marker.line().max(1),
            column: marker.col() + 1,
        };
        Self::new(position, format!("cannot parse: {}", error.info()))
    }
}

/// An anchored node, and how much it would add where it is used.
struct Anchored {
    tree: Tree,
    nodes: usize,
    height: usize,
}

struct Reader<'text> {
    parser: Parser<'text, StrInput<'text>>,
    anchors: HashMap<usize, Anchored>,
    expanded: usize,
}

type Next<'text> = (Event<'text>, Position);

impl<'text> Reader<'text> {
    /// The next document; none at the end of the text.
    fn next_document(&mut self) -> Result<Option<Tree>, Fault> {
        self.anchors.clear();
        let mut document = None;
        loop {
            let Some((event, position)) = self.next_event()? else {
                return Ok(None);
            };
            match event {
                Event::StreamStart | Event::DocumentStart(..) => {}
                Event::StreamEnd => return Ok(None),
                Event::DocumentEnd => {
                    return Ok(Some(document.unwrap_or(Tree {
                        position,
                        node: Node::Scalar(Value::Null),
                    })));
                }
                other => document = Some(self.node((other, position), 0)?),
            }
        }
    }

    /// The next event that is not a comment.
    fn next_event(&mut self) -> Result<Option<Next<'text>>, Fault> {
        loop {
            match self.parser.next_event() {
                None => return Ok(None),
                Some(Err(error)) => return Err(error.into()),
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok((event, span))) => return Ok(Some((event, place(&span)))),
            }
        }
    }

    fn required_event(&mut self, position: Position) -> Result<Next<'text>, Fault> {
        self.next_event()?
            .ok_or_else(|| Fault::new(position, "cannot parse: the document ends too early"))
    }

    fn node(&mut self, (event, position): Next<'text>, depth: usize) -> Result<Tree, Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::new(
                position,
                format!("nested more than {MAX_DEPTH} levels deep"),
            ));
        }
        let (node, anchor) = match event {
            Event::Alias(anchor) => return self.alias(anchor, position, depth),
            Event::Scalar(text, style, anchor, tag) => (
                Node::Scalar(scalar_value(&text, style, tag.as_deref(), position)?),
                anchor,
            ),
            Event::SequenceStart(_, anchor, _) => (self.sequence(position, depth)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.mapping(position, depth)?, anchor),
            other => {
                return Err(Fault::new(
                    position,
                    format!("cannot parse: unexpected {other:?}"),
                ));
            }
        };
        let tree = Tree { position, node };
        if anchor != 0 {
            let (nodes, height) = size(&tree);
            self.anchors.insert(
                anchor,
                Anchored {
                    tree: tree.clone(),
                    nodes,
                    height,
                },
            );
        }
        Ok(tree)
    }

    fn sequence(&mut self, position: Position, depth: usize) -> Result<Node, Fault> {
        let mut items = Vec::new();
        loop {
            match self.required_event(position)? {
                (Event::SequenceEnd, _) => return Ok(Node::Sequence(items)),
                next => items.push(self.node(next, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, position: Position, depth: usize) -> Result<Node, Fault> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen: HashMap<String, Position> = HashMap::new();
        let mut merged = Vec::new();
        loop {
            let (event, place) = self.required_event(position)?;
            if event == Event::MappingEnd {
                break;
            }
            let is_merge =
                matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let key = self.node((event, place), depth + 1)?;
            let next = self.required_event(place)?;
            let value = self.node(next, depth + 1)?;
            if is_merge {
                merged.extend(merge_sources(value)?);
                continue;
            }
            let key = key_text(key)?;
            if let Some(earlier) = seen.insert(key.clone(), place) {
                return Err(Fault::new(
                    place,
                    format!("key {key:?} is already set at line {}", earlier.line),
                ));
            }
            entries.push(Entry {
                key,
                position: place,
                value,
            });
        }
        // Keys of the mapping itself win over merged ones, earlier merged ones over later.
        for entry in merged {
            if seen.insert(entry.key.clone(), entry.position).is_none() {
                entries.push(entry);
            }
        }
        Ok(Node::Mapping(entries))
    }

    /// The anchored node once more, if that is still within bounds.
    fn alias(&mut self, anchor: usize, position: Position, depth: usize) -> Result<Tree, Fault> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err(Fault::new(
                position,
                "an alias inside the node that it refers to",
            ));
        };
        self.expanded = self.expanded.saturating_add(anchored.nodes);
        if self.expanded > MAX_ALIAS_NODES {
            return Err(Fault::new(
                position,
                format!(
                    "aliases expand to more than {MAX_ALIAS_NODES} nodes; write the values out"
                ),
            ));
        }
        if depth + anchored.height > MAX_DEPTH {
            return Err(Fault::new(
                position,
                format!("nested more than {MAX_DEPTH} levels deep"),
            ));
        }
        Ok(anchored.tree.clone())
    }
}

/// Nodes and levels of a tree.
fn size(tree: &Tree) -> (usize, usize) {
    let children: Vec<&Tree> = match &tree.node {
        Node::Scalar(_) => return (1, 0),
        Node::Sequence(items) => items.iter().collect(),
        Node::Mapping(entries) => entries.iter().map(|entry| &entry.value).collect(),
    };
    children
        .into_iter()
        .map(size)
        .fold((1, 1), |(nodes, height), (more, below)| {
            (nodes + more, height.max(below + 1))
        })
}

fn place(span: &Span) -> Position {
    Position {
        line: span.start.line().max(1),
        column: span.start.col() + 1,
    }
}

fn scalar_value(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Tag>,
    position: Position,
) -> Result<Value, Fault> {
    match tag.map(|tag| tag.core_suffix().ok_or_else(|| tag.original())) {
        None | Some(Ok("")) if style == ScalarStyle::Plain => Ok(scalar::plain(text)),
        None | Some(Ok("str" | "binary" | "timestamp" | "")) => Ok(Value::String(text.to_owned())),
        Some(Ok("null" | "bool" | "int" | "float")) => Ok(scalar::plain(text)),
        Some(Ok(other)) => Err(Fault::new(
            position,
            format!("the tag !!{other} does not fit a scalar"),
        )),
        Some(Err(tag)) => Err(Fault::new(position, format!("unknown tag {tag}"))),
    }
}

fn key_text(key: Tree) -> Result<String, Fault> {
    match key.node {
        Node::Scalar(Value::String(text)) => Ok(text),
        Node::Scalar(value @ (Value::Bool(_) | Value::Number(_))) => Ok(value.to_string()),
        _ => Err(Fault::new(key.position, "a key must be a string")),
    }
}

/// Entries that `<<` brings in: a mapping's, or those of a list of mappings.
fn merge_sources(tree: Tree) -> Result<Vec<Entry>, Fault> {
    match tree.node {
        Node::Mapping(entries) => Ok(entries),
        Node::Sequence(items) => {
            let mut all = Vec::new();
            for item in items {
                all.extend(merge_sources(item)?);
            }
            Ok(all)
        }
        Node::Scalar(_) => Err(Fault::new(
            tree.position,
            "<< must be followed by a mapping or a list of mappings",
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::read;
    use crate::manifest::tree::{Position, segments};

    fn problems(text: &str) -> Vec<String> {
        read("f", text)
            .problems
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn documents_are_read_in_order_and_empty_ones_are_skipped() {
        let reading = read(
            "f",
            "---\na: 1\n---\n# nothing\n---\n{\"b\": [true, null]}\n",
        );
        let values: Vec<_> = reading
            .documents
            .iter()
            .map(crate::manifest::Document::value)
            .collect();
        assert_eq!(values, [json!({"a": 1}), json!({"b": [true, null]})]);
        assert!(reading.problems.is_empty());
    }

    #[test]
    fn every_node_knows_its_place() {
        let reading = read("f", "a:\n  b:\n  - c: x\n  - d\n");
        let tree = &reading.documents[0].tree;
        let at = |path: &str| tree.locate(&segments(path));
        assert_eq!(at("a.b[0].c"), Position { line: 3, column: 8 });
        assert_eq!(at("a.b[1]"), Position { line: 4, column: 5 });
        assert_eq!(at("a.b"), Position { line: 2, column: 3 });
        assert_eq!(at("a.missing.x"), Position { line: 1, column: 1 });
        assert_eq!(
            tree.locate_key(&segments("a.b[0].c")),
            Position { line: 3, column: 5 }
        );
    }

    #[test]
    fn a_broken_document_does_not_hide_the_next_one() {
        let reading = read("f", "a: [1\n---\nb: 2\n---\nc: {\n");
        assert_eq!(reading.documents.len(), 1, "{reading:?}");
        assert_eq!(reading.problems.len(), 2, "{reading:?}");
    }

    #[test]
    fn duplicate_keys_tabs_and_unknown_tags_have_a_position() {
        assert_eq!(
            problems("a: 1\nb: 2\na: 3\n"),
            ["f:3:1: key \"a\" is already set at line 1"]
        );
        assert!(
            problems("a:\n\tb: 1\n")[0].starts_with("f:2:"),
            "{:?}",
            problems("a:\n\tb: 1\n")
        );
        assert_eq!(problems("a: !secret x\n"), ["f:1:12: unknown tag !secret"]);
    }

    #[test]
    fn anchors_and_merge_keys_work() {
        let reading = read(
            "f",
            "base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\nagain: *b\n",
        );
        assert_eq!(
            reading.documents[0].value(),
            json!({"base": {"x": 1, "y": 2}, "use": {"y": 3, "x": 1}, "again": {"x": 1, "y": 2}})
        );
    }

    #[test]
    fn alias_bombs_are_refused() {
        let mut text = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (name, previous) in ["b", "c", "d", "e", "f", "g", "h"]
            .iter()
            .zip(["a", "b", "c", "d", "e", "f", "g"])
        {
            let list = vec![format!("*{previous}"); 9].join(", ");
            text.push_str(&format!("{name}: &{name} [{list}]\n"));
        }
        let found = problems(&text);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].contains("aliases expand to more than"),
            "{found:?}"
        );
    }

    #[test]
    fn deep_nesting_is_refused_in_both_styles() {
        let flow = "[".repeat(5000);
        let block: String = (0..150)
            .map(|depth| format!("{}a:\n", " ".repeat(depth)))
            .collect();
        for text in [flow, block] {
            assert_eq!(problems(&text).len(), 1);
        }
    }
}
