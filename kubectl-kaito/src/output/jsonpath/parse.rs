//! Text to template nodes. Problems are phrases that complete "error parsing jsonpath …, ".

use serde_json::Value;

use super::{Node, Operand, Operator, Step};

type Parsed<T> = Result<T, String>;

/// Reads a whole template.
pub(super) fn template(text: &str) -> Parsed<Vec<Node>> {
    let mut stack: Vec<(Vec<Step>, Vec<Node>)> = Vec::new();
    let mut nodes = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some(open) = rest.find('{') else {
            nodes.push(Node::Text(rest.to_owned()));
            break;
        };
        let (before, after) = rest.split_at(open);
        if !before.is_empty() {
            nodes.push(Node::Text(before.to_owned()));
        }
        let after = after.get(1..).unwrap_or_default();
        let length = closing(after).ok_or("unclosed action")?;
        let action = after.get(..length).unwrap_or_default().trim();
        rest = after.get(length + 1..).unwrap_or_default();
        if action == "end" {
            let (path, outer) = stack.pop().ok_or("not in range")?;
            let body = std::mem::replace(&mut nodes, outer);
            nodes.push(Node::Range(path, body));
        } else if let Some(path) = action.strip_prefix("range ") {
            stack.push((steps(path.trim())?, std::mem::take(&mut nodes)));
        } else {
            nodes.push(simple_action(action)?);
        }
    }
    if stack.is_empty() {
        Ok(nodes)
    } else {
        Err("unclosed range".to_owned())
    }
}

fn simple_action(action: &str) -> Parsed<Node> {
    if action.starts_with(['"', '\'']) {
        return quoted(action).map(Node::Text);
    }
    steps(action).map(Node::Path)
}

/// Byte length up to the brace that closes an action; braces in quotes do not count.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (index, character) in text.char_indices() {
        match (quote, character) {
            _ if escaped => escaped = false,
            (_, '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(character),
            (None, '}') => return Some(index),
            _ => {}
        }
    }
    None
}

/// Reads a quoted string, whole.
fn quoted(text: &str) -> Parsed<String> {
    let quote = text.chars().next().ok_or("empty string")?;
    let inner = text
        .strip_prefix(quote)
        .and_then(|rest| rest.strip_suffix(quote))
        .ok_or_else(|| format!("unterminated quoted string {text}"))?;
    let mut result = String::new();
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            result.push(character);
            continue;
        }
        match characters.next() {
            Some('n') => result.push('\n'),
            Some('t') => result.push('\t'),
            Some('r') => result.push('\r'),
            Some(other) => result.push(other),
            None => return Err("a backslash ends the string".to_owned()),
        }
    }
    Ok(result)
}

/// Reads a path.
fn steps(text: &str) -> Parsed<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = text;
    if let Some(after) = rest.strip_prefix('$') {
        steps.push(Step::Root);
        rest = after;
    } else if let Some(after) = rest.strip_prefix('@') {
        rest = after;
    } else if !rest.starts_with(['.', '[']) {
        return Err(format!("unrecognized identifier {text}"));
    }
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("..") {
            steps.push(Step::Descend);
            rest = if after.starts_with('[') || after.is_empty() {
                after
            } else {
                field(after, &mut steps)?
            };
        } else if let Some(after) = rest.strip_prefix('.') {
            rest = if after.starts_with('[') || after.is_empty() {
                after
            } else {
                field(after, &mut steps)?
            };
        } else if let Some(after) = rest.strip_prefix('[') {
            let length = bracket_length(after).ok_or("unterminated array")?;
            steps.push(bracket(after.get(..length).unwrap_or_default().trim())?);
            rest = after.get(length + 1..).unwrap_or_default();
        } else {
            return Err(format!("unexpected {rest}"));
        }
    }
    Ok(steps)
}

fn field<'a>(text: &'a str, steps: &mut Vec<Step>) -> Parsed<&'a str> {
    if let Some(rest) = text.strip_prefix('*') {
        steps.push(Step::Wildcard);
        return Ok(rest);
    }
    let mut name = String::new();
    let mut escaped = false;
    let mut end = text.len();
    for (index, character) in text.char_indices() {
        if escaped {
            name.push(character);
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if matches!(character, '.' | '[' | ' ' | ']' | ')') {
            end = index;
            break;
        } else {
            name.push(character);
        }
    }
    if name.is_empty() {
        return Err(format!("a field name is missing before {text:?}"));
    }
    steps.push(Step::Field(name));
    Ok(text.get(end..).unwrap_or_default())
}

/// Byte length up to the bracket that closes; nested brackets and quotes are skipped.
fn bracket_length(text: &str) -> Option<usize> {
    let mut depth = 0_u32;
    let mut quote = None;
    for (index, character) in text.char_indices() {
        match (quote, character) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(character),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(index),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Parsed<Step> {
    if text == "*" {
        return Ok(Step::Wildcard);
    }
    if let Some(condition) = text
        .strip_prefix("?(")
        .and_then(|rest| rest.strip_suffix(')'))
    {
        return filter(condition.trim());
    }
    let parts = split_outside_quotes(text, ',');
    match parts.as_slice() {
        [only] => single(only.trim()),
        several => several
            .iter()
            .map(|part| single(part.trim()))
            .collect::<Parsed<Vec<_>>>()
            .map(Step::Union),
    }
}

fn single(text: &str) -> Parsed<Step> {
    if text.starts_with(['"', '\'']) {
        return quoted(text).map(Step::Field);
    }
    let number = |part: &str| -> Parsed<Option<i64>> {
        if part.is_empty() {
            Ok(None)
        } else {
            part.parse()
                .map(Some)
                .map_err(|_| format!("invalid array index {text}"))
        }
    };
    let parts: Vec<&str> = text.split(':').map(str::trim).collect();
    match parts.as_slice() {
        [index] => number(index)?
            .map(Step::Index)
            .ok_or_else(|| "empty array index".to_owned()),
        [start, end] => Ok(Step::Slice {
            start: number(start)?,
            end: number(end)?,
            step: 1,
        }),
        [start, end, step] => match number(step)?.unwrap_or(1) {
            step if step > 0 => Ok(Step::Slice {
                start: number(start)?,
                end: number(end)?,
                step,
            }),
            _ => Err("step must be > 0".to_owned()),
        },
        _ => Err(format!("invalid array index {text}")),
    }
}

fn filter(text: &str) -> Parsed<Step> {
    const OPERATORS: [(&str, Operator); 6] = [
        ("==", Operator::Equal),
        ("!=", Operator::NotEqual),
        ("<=", Operator::LessOrEqual),
        (">=", Operator::GreaterOrEqual),
        ("<", Operator::Less),
        (">", Operator::Greater),
    ];
    let mut quote = None;
    for (index, character) in text.char_indices() {
        match (quote, character) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => continue,
            (None, '"' | '\'') => quote = Some(character),
            _ => {}
        }
        let rest = text.get(index..).unwrap_or_default();
        let found = OPERATORS
            .iter()
            .find_map(|(sign, operator)| Some((rest.strip_prefix(sign)?, *operator)));
        if let (None, Some((right, operator))) = (quote, found) {
            let left = operand(text.get(..index).unwrap_or_default().trim())?;
            return Ok(Step::Filter {
                left,
                comparison: Some((operator, operand(right.trim())?)),
            });
        }
    }
    Ok(Step::Filter {
        left: operand(text)?,
        comparison: None,
    })
}

fn operand(text: &str) -> Parsed<Operand> {
    if text.starts_with(['@', '$', '.']) {
        return steps(text).map(Operand::Path);
    }
    if text.starts_with(['"', '\'']) {
        return quoted(text).map(|value| Operand::Literal(Value::String(value)));
    }
    match serde_json::from_str(text) {
        Ok(value @ (Value::Bool(_) | Value::Number(_) | Value::Null)) => {
            Ok(Operand::Literal(value))
        }
        _ => Err(format!("cannot read {text:?} in a filter")),
    }
}

fn split_outside_quotes(text: &str, separator: char) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut quote = None;
    let mut start = 0;
    for (index, character) in text.char_indices() {
        match (quote, character) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(character),
            (None, c) if c == separator => {
                parts.push(text.get(start..index).unwrap_or_default());
                start = index + separator.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(text.get(start..).unwrap_or_default());
    parts
}
