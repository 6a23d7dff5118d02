//! Rules that read annotations or hold on creation only: the ValidatingAdmissionPolicy's.

use std::fmt::Write as _;

use super::{Rule, Versions, When, inference::names, literals, resource::MIG_PROFILES};
use crate::catalogue::{Gated, Runtime, instance_types, presets};
use crate::names::{
    ANNOTATION_BYPASS, ANNOTATION_IMAGE_FAMILY, ANNOTATION_LOCAL_WEIGHTS,
    ANNOTATION_PERFORMANCE_MODE, ANNOTATION_PREEMPTIBLE, ANNOTATION_RUNTIME,
};

/// Name of the policy.
pub const POLICY_NAME: &str = "workspaces.kaito.sh";
/// Name of its binding.
pub const BINDING_NAME: &str = "workspaces.kaito.sh";

/// What the policy evaluates for `rule`: its expression, bound to its versions and its occasion.
#[must_use]
pub fn policy_expression(rule: &Rule) -> String {
    let mut text = String::new();
    let version = match rule.versions {
        Versions::Both => None,
        Versions::Alpha => Some("v1alpha1"),
        Versions::Beta => Some("v1beta1"),
    };
    if let Some(version) = version {
        let _ = write!(text, "object.apiVersion != 'kaito.sh/{version}' || ");
    }
    match rule.when {
        When::Create => text.push_str("request.operation != 'CREATE' || "),
        When::Annotation(key) => {
            let _ = write!(
                text,
                "(request.operation == 'UPDATE' && {} == {}) || ",
                annotation("oldObject", key),
                annotation("object", key)
            );
        }
        When::Always | When::Update => {}
    }
    let _ = write!(text, "({})", rule.expression);
    text
}

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = vec![
        Rule::of_policy(
            "O1/length",
            "object.metadata.name.size() <= 52",
            "metadata.name is longer than 52 characters, which leaves no room for the names made from it: shorten it",
        )
        .when(When::Create)
        .field("metadata.name"),
    ];
    rules.extend(annotations());
    rules.extend(runtime());
    rules.extend(memory());
    rules
}

/// The value of an annotation, empty when absent.
fn annotation(object: &str, key: &str) -> String {
    format!(
        "({} ? {object}.metadata.annotations['{key}'] : '')",
        annotated(object, key)
    )
}

fn annotated(object: &str, key: &str) -> String {
    format!("has({object}.metadata.annotations) && '{key}' in {object}.metadata.annotations")
}

fn annotations() -> Vec<Rule> {
    let rule = |id, key: &'static str, field, values: &str, message| {
        let value = annotation("object", key);
        let value = if id == "O4" {
            format!("{value}.trim().lowerAscii()")
        } else {
            value
        };
        let expression = format!("!({}) || {value} in {values}", annotated("object", key));
        Rule::of_policy(id, expression, message)
            .when(When::Annotation(key))
            .field(field)
    };
    vec![
        rule(
            "O4",
            ANNOTATION_IMAGE_FAMILY,
            "metadata.annotations[kaito.sh/node-image-family]",
            "['ubuntu', 'azurelinux']",
            "annotation kaito.sh/node-image-family is neither ubuntu nor azurelinux: correct or remove it",
        ),
        rule(
            "O5",
            ANNOTATION_PERFORMANCE_MODE,
            "metadata.annotations[kaito.sh/performance-mode]",
            "['balanced', 'interactivity', 'throughput']",
            "annotation kaito.sh/performance-mode is none of balanced, interactivity and throughput: correct or \
             remove it",
        )
        .only(Versions::Beta),
        rule(
            "O6",
            ANNOTATION_LOCAL_WEIGHTS,
            "metadata.annotations[kaito.sh/use-local-weights]",
            "['true', 'false']",
            "annotation kaito.sh/use-local-weights is neither true nor false: correct or remove it",
        )
        .only(Versions::Beta),
        rule(
            "O11",
            ANNOTATION_RUNTIME,
            "metadata.annotations[kaito.sh/runtime]",
            "['vllm', 'transformers', 'native']",
            "annotation kaito.sh/runtime is none of vllm, transformers and native: correct it, or remove it",
        ),
        rule(
            "O12",
            ANNOTATION_PREEMPTIBLE,
            "metadata.annotations[kaito.sh/preemptible]",
            "['true', 'false']",
            "annotation kaito.sh/preemptible is neither true nor false: correct or remove it",
        ),
    ]
}

fn transformers() -> String {
    format!(
        "{} == 'transformers'",
        annotation("object", ANNOTATION_RUNTIME)
    )
}

const HAS_PRESET: &str =
    "has(object.inference) && has(object.inference.preset) && has(object.inference.preset.name)";
const PRESET_NAME: &str = "object.inference.preset.name.lowerAscii()";

fn runtime() -> Vec<Rule> {
    let transformers_models = literals(names(|preset| preset.supports(Runtime::Transformers)));
    let native_models = literals(names(|preset| preset.supports(Runtime::Native)));
    let gated = literals(names(|preset| preset.gated == Gated::Yes));
    vec![
        Rule::of_policy(
            "I3",
            format!(
                "!({HAS_PRESET}) || {} != 'transformers' || {PRESET_NAME} in {transformers_models}",
                annotation("object", ANNOTATION_RUNTIME)
            ),
            "inference.preset.name is no preset that the transformers runtime can run: remove the annotation \
             kaito.sh/runtime, or choose another preset",
        )
        .when(When::Annotation(ANNOTATION_RUNTIME))
        .field("inference.preset.name"),
        Rule::of_policy(
            "I3/native",
            format!(
                "!({HAS_PRESET}) || {} != 'native' || {PRESET_NAME} in {native_models}",
                annotation("object", ANNOTATION_RUNTIME)
            ),
            "inference.preset.name is no preset that the native runtime can run: remove the annotation \
             kaito.sh/runtime, or choose a small preset",
        )
        .when(When::Annotation(ANNOTATION_RUNTIME))
        .field("inference.preset.name"),
        Rule::of_policy(
            "I4",
            format!(
                "!(has(object.inference) && has(object.inference.adapters)) || {} || \
                 object.inference.adapters.all(a, !has(a.strength) || a.strength == '')",
                transformers()
            ),
            "inference.adapters.strength does not work with the vLLM runtime: remove strength, or set the annotation \
             kaito.sh/runtime: transformers",
        )
        .when(When::Create)
        .field("inference.adapters"),
        Rule::of_policy(
            "I5/missing",
            format!(
                "!({HAS_PRESET}) || !({PRESET_NAME} in {gated}) || {} == 'true' || \
                 (has(object.inference.preset.presetOptions) && \
                 ((has(object.inference.preset.presetOptions.modelAccessSecret) && \
                 object.inference.preset.presetOptions.modelAccessSecret != '') || \
                 (has(object.inference.preset.presetOptions.image) && \
                 object.inference.preset.presetOptions.image != '')))",
                annotation("object", ANNOTATION_LOCAL_WEIGHTS)
            ),
            "inference.preset.presetOptions.modelAccessSecret is missing: the model is gated; name a secret whose key \
             HF_TOKEN holds a token that may download it, or presetOptions.image, an image with the weights",
        )
        .only(Versions::Beta)
        .when(When::Create)
        .field("inference.preset.presetOptions.modelAccessSecret"),
    ]
}

/// Weight sizes and GPU memories are compared in hundredths of a GiB, as the tables give them.
fn memory() -> Vec<Rule> {
    let weights = weights();
    let sizes = memories();
    let bypass = annotated("object", ANNOTATION_BYPASS);
    let known = format!(
        "({bypass}) || !({HAS_PRESET}) || !({PRESET_NAME} in {weights}) || !has(object.resource) || \
         !has(object.resource.instanceType) || !(object.resource.instanceType.lowerAscii() in {sizes})"
    );
    let fits = |nodes: &str| {
        format!(
            "{weights}[{PRESET_NAME}] <= {sizes}[object.resource.instanceType.lowerAscii()]{nodes}"
        )
    };
    let count = " * (has(object.resource.count) ? object.resource.count : 1)";
    vec![
        Rule::of_policy(
            "R5",
            format!("{known} || {}", fits(count)),
            "the weights need more GPU memory than resource.count nodes of this instance type have: raise count, \
             choose a larger resource.instanceType, or annotate kaito.sh/bypass-resource-checks",
        )
        .only(Versions::Alpha)
        .when(When::Create)
        .field("resource.instanceType"),
        Rule::of_policy(
            "R6",
            format!("{known} || !({}) || {}", transformers(), fits("")),
            "the weights need more GPU memory than one node of this instance type has, and the transformers runtime \
             uses one: choose a larger resource.instanceType, or annotate kaito.sh/bypass-resource-checks",
        )
        .only(Versions::Beta)
        .when(When::Create)
        .field("resource.instanceType"),
        slice(&weights, &bypass),
    ]
}

fn slice(weights: &str, bypass: &str) -> Rule {
    let slices = slices();
    Rule::of_policy(
        "R12",
        format!(
            "({bypass}) || !({HAS_PRESET}) || !({PRESET_NAME} in {weights}) || !has(object.resource) || \
             !has(object.resource.partition) || !has(object.resource.partition.profile) || \
             !(object.resource.partition.profile in {slices}) || \
             {weights}[{PRESET_NAME}] <= {slices}[object.resource.partition.profile]"
        ),
        "the weights need more GPU memory than the MIG slice has: choose a larger resource.partition.profile, or \
         annotate kaito.sh/bypass-resource-checks",
    )
    .only(Versions::Beta)
    .when(When::Create)
    .field("resource.partition.profile")
}

/// CEL map from preset name to weights in hundredths of a GiB, rounded up.
fn weights() -> String {
    map(presets().iter().flat_map(|preset| {
        let hundredths = preset.weight_bytes.saturating_mul(100).div_ceil(1 << 30);
        preset.names().map(move |name| (name, hundredths))
    }))
}

/// CEL map from instance type to GPU memory of one machine in hundredths of a GiB; unknown memories left out.
fn memories() -> String {
    map(instance_types()
        .iter()
        .filter(|info| info.total_gpu_memory_gib() > 0)
        .map(|info| {
            (
                info.name.as_str(),
                u64::from(info.total_gpu_memory_gib()) * 100,
            )
        }))
}

/// CEL map from MIG profile to memory in hundredths of a GiB.
fn slices() -> String {
    map(MIG_PROFILES.iter().filter_map(|profile| {
        let gigabytes = profile.split_once('.')?.1.strip_suffix("gb")?;
        Some((*profile, gigabytes.parse::<u64>().ok()? * 100))
    }))
}

fn map<'a>(entries: impl Iterator<Item = (&'a str, u64)>) -> String {
    let mut entries: Vec<String> = entries
        .map(|(name, value)| format!("'{}': {value}", name.to_ascii_lowercase()))
        .collect();
    entries.sort_unstable();
    format!("{{{}}}", entries.join(", "))
}
