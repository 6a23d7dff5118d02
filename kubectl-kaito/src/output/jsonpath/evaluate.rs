//! Template nodes and a value to text.

use std::cmp::Ordering;

use serde_json::Value;

use super::{Node, Operand, Operator, Step, text_of};

/// Fills in nodes for `value`; `root` is what `$` means.
pub(super) fn render(nodes: &[Node], value: &Value, root: &Value) -> String {
    let mut text = String::new();
    for node in nodes {
        match node {
            Node::Text(plain) => text.push_str(plain),
            Node::Path(steps) => {
                let found: Vec<String> = follow(steps, value, root)
                    .into_iter()
                    .map(text_of)
                    .collect();
                text.push_str(&found.join(" "));
            }
            Node::Range(steps, body) => {
                for item in follow(steps, value, root) {
                    text.push_str(&render(body, item, root));
                }
            }
        }
    }
    text
}

/// The values that a path leads to, in order.
pub(super) fn follow<'a>(steps: &[Step], value: &'a Value, root: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![value];
    for step in steps {
        found = found
            .into_iter()
            .flat_map(|value| take(step, value, root))
            .collect();
    }
    found
}

fn take<'a>(step: &Step, value: &'a Value, root: &'a Value) -> Vec<&'a Value> {
    match step {
        Step::Root => vec![root],
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Wildcard => children(value),
        Step::Descend => descend(value),
        Step::Index(index) => element(value, *index).into_iter().collect(),
        Step::Slice { start, end, step } => slice(value, *start, *end, *step),
        Step::Union(steps) => steps
            .iter()
            .flat_map(|step| take(step, value, root))
            .collect(),
        Step::Filter { left, comparison } => children(value)
            .into_iter()
            .filter(|item| holds(left, comparison.as_ref(), item, root))
            .collect(),
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(list) => list.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

fn descend(value: &Value) -> Vec<&Value> {
    let mut found = vec![value];
    for child in children(value) {
        found.extend(descend(child));
    }
    found
}

fn element(value: &Value, index: i64) -> Option<&Value> {
    let list = value.as_array()?;
    let position = if index < 0 {
        i64::try_from(list.len()).ok()? + index
    } else {
        index
    };
    list.get(usize::try_from(position).ok()?)
}

fn slice(value: &Value, start: Option<i64>, end: Option<i64>, step: i64) -> Vec<&Value> {
    let Some(list) = value.as_array() else {
        return Vec::new();
    };
    let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
    let bound = |position: i64| {
        if position < 0 {
            position + length
        } else {
            position
        }
        .clamp(0, length)
    };
    let start = usize::try_from(bound(start.unwrap_or(0))).unwrap_or_default();
    let end = usize::try_from(bound(end.unwrap_or(length))).unwrap_or_default();
    let step = usize::try_from(step).unwrap_or(1).max(1);
    list.get(start..end.max(start))
        .unwrap_or_default()
        .iter()
        .step_by(step)
        .collect()
}

fn holds(
    left: &Operand,
    comparison: Option<&(Operator, Operand)>,
    item: &Value,
    root: &Value,
) -> bool {
    let left = operand(left, item, root);
    match comparison {
        None => !left.is_empty(),
        Some((operator, right)) => match (left.first(), operand(right, item, root).first()) {
            (Some(left), Some(right)) => compare(*operator, left, right),
            _ => false,
        },
    }
}

fn operand<'a>(operand: &'a Operand, item: &'a Value, root: &'a Value) -> Vec<&'a Value> {
    match operand {
        Operand::Path(steps) => follow(steps, item, root),
        Operand::Literal(value) => vec![value],
    }
}

fn compare(operator: Operator, left: &Value, right: &Value) -> bool {
    let order = match (left, right) {
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (Value::Number(left), Value::Number(right)) => left
            .as_f64()
            .zip(right.as_f64())
            .and_then(|(left, right)| left.partial_cmp(&right)),
        _ => (left == right).then_some(Ordering::Equal),
    };
    match (operator, order) {
        (Operator::Equal, order) => order == Some(Ordering::Equal),
        (Operator::NotEqual, order) => order != Some(Ordering::Equal),
        (_, None) => false,
        (Operator::Less, Some(order)) => order.is_lt(),
        (Operator::LessOrEqual, Some(order)) => order.is_le(),
        (Operator::Greater, Some(order)) => order.is_gt(),
        (Operator::GreaterOrEqual, Some(order)) => order.is_ge(),
    }
}
