//! What is told at the end: how many bytes went which way, and how to use the result.

use super::Context;
use super::failure::Failure;
use super::flags::ProgressFlags;
use super::table::{render, row};
use super::workspace::{Use, image_volume, object_name, workspace, yaml};
use crate::plan::Kind;
use crate::progress::{Outcome, Size};
use crate::push::Pushed;
use crate::registry::{DEFAULT_TAG, Reference};

/// Bytes per second of a link of 1 Gbit/s, for the estimate of a pull.
const GIGABIT: u64 = 125_000_000;

/// The table of a finished push or build.
pub(crate) fn table(pushed: &Pushed, name: &str) -> Vec<String> {
    let mut rows = vec![row(["RESULT", "BLOBS", "SIZE"])];
    let kinds = [
        (Outcome::Moved, "pushed"),
        (Outcome::Mounted, "mounted"),
        (Outcome::Present, "skipped"),
    ];
    for (outcome, word) in kinds {
        let count = pushed
            .blobs
            .iter()
            .filter(|blob| blob.outcome == outcome)
            .count();
        rows.push(vec![
            word.to_owned(),
            count.to_string(),
            Size(pushed.bytes(outcome)).to_string(),
        ]);
    }
    let mut lines = render(&rows);
    lines.push(format!("digest: {}  {name}", pushed.top.digest));
    lines
}

/// Tells what stands at a registry now: a table for people; the name, or its digest alone if they want quiet, as data.
///
/// # Errors
/// Standard output cannot be written to.
pub(crate) fn stands(
    pushed: &Pushed,
    at: &Reference,
    flags: &ProgressFlags,
    context: &Context,
) -> Result<(), Failure> {
    let digest = pushed.top.digest.to_string();
    let tag = at.tag().unwrap_or(DEFAULT_TAG);
    let name = format!("{}/{}:{tag}@{digest}", at.host(), at.repository());
    for line in table(pushed, &name) {
        flags.note(context, &line);
    }
    context
        .output
        .data(if flags.quiet { &digest } else { &name })?;
    Ok(())
}

/// How the image is used: volume and Workspace.
pub(crate) fn usage(
    image: &Reference,
    kind: Kind,
    model: Option<&str>,
    bytes: u64,
    flags: &ProgressFlags,
    context: &Context,
) {
    let mut lines = vec![
        String::new(),
        format!(
            "Each node that uses it needs {} of disk; over 1 Gbit/s that takes {} s to pull.",
            Size(bytes),
            (bytes / GIGABIT).max(1)
        ),
    ];
    if kind != Kind::Program {
        lines.push(
            "As a volume of a pod (Kubernetes 1.35 or newer; readOnly by nature):".to_owned(),
        );
        lines.push(String::new());
        lines.extend(yaml(&image_volume(image)).lines().map(str::to_owned));
    }
    let name = object_name(image);
    if let Some(object) = workspace(&Use { image, kind, model }, &name) {
        lines.push(String::new());
        lines.push("As a Workspace:".to_owned());
        lines.push(String::new());
        lines.extend(yaml(&object).lines().map(str::to_owned));
        if model.is_none() {
            lines.push(String::new());
            lines.push(
                "The preset's name is a guess: give --preset, or build from hf://ORG/MODEL."
                    .to_owned(),
            );
        }
    }
    for line in lines {
        flags.note(context, &line);
    }
}
