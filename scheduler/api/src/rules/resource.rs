//! Rules R: the request for nodes.

use super::{Rule, Versions, When, literals};
use crate::catalogue::instance_types;
use crate::names::RESERVED_SELECTOR_KEYS;

/// MIG profiles of the A30, A100, H100, H200, RTX PRO 6000 and B200. Source: NVIDIA's MIG user guide.
pub(super) const MIG_PROFILES: [&str; 35] = [
    "1g.6gb", "2g.12gb", "4g.24gb", "1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb",
    "1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb", "1g.12gb", "1g.24gb",
    "2g.24gb", "3g.47gb", "4g.47gb", "7g.94gb", "3g.48gb", "4g.48gb", "7g.96gb", "1g.18gb",
    "1g.35gb", "2g.35gb", "3g.71gb", "4g.71gb", "7g.141gb", "1g.23gb", "1g.45gb", "2g.45gb",
    "3g.90gb", "4g.90gb", "7g.180gb",
];

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = vec![instance_type()];
    rules.extend(selector());
    rules.extend(immutable());
    rules.extend(partition());
    rules
}

/// Names that no prefix admits: Azure sizes beginning with `Standard_N` or `Standard_D` are taken on trust.
fn instance_type() -> Rule {
    let admitted = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.starts_with("standard_n") || name.starts_with("standard_d")
    };
    let others = literals(
        instance_types()
            .iter()
            .map(|info| info.name.as_str())
            .filter(|name| !admitted(name)),
    );
    Rule::at(
        "R3",
        "resource.instanceType",
        format!(
            "self == '' || self.lowerAscii().startsWith('standard_n') || \
             self.lowerAscii().startsWith('standard_d') || self.lowerAscii() in {others}"
        ),
        "resource.instanceType is no known instance type: name a GPU size of your cloud, or leave it out to have one \
         chosen by price",
    )
    .saying(
        "'resource.instanceType ' + self + ' is no known instance type: name a GPU size of your cloud, or leave it \
         out to have one chosen by price'",
    )
}

fn selector() -> Vec<Rule> {
    vec![
        Rule::at(
            "R1",
            "resource.labelSelector",
            "!has(self.matchExpressions) || self.matchExpressions.all(e, e.operator == 'In' && has(e.values) && \
             e.values.size() == 1)",
            "resource.labelSelector.matchExpressions allows only operator In with exactly one value: use matchLabels",
        )
        .field(".matchExpressions"),
        Rule::at(
            "R2",
            "resource.labelSelector",
            format!(
                "!has(self.matchLabels) || self.matchLabels.size() == 0 || self.matchLabels.exists(k, !(k in {}))",
                literals(RESERVED_SELECTOR_KEYS)
            ),
            "resource.labelSelector.matchLabels has only keys that kaito sets itself: add a label of your own",
        )
        .only(Versions::Beta)
        .field(".matchLabels"),
        Rule::at(
            "R18",
            "resource.labelSelector",
            format!("{} && {}", covered("self", "oldSelf"), covered("oldSelf", "self")),
            "resource.labelSelector is immutable, since nodes carry its labels: create another Workspace",
        )
        .when(When::Update),
    ]
}

/// Whether every pair of selector `part`, written either way, is in selector `whole`. An expression has one value, by
/// rule R1.
fn covered(part: &str, whole: &str) -> String {
    let within = |key: &str, value: &str| {
        format!(
            "((has({whole}.matchLabels) && {key} in {whole}.matchLabels && {whole}.matchLabels[{key}] == {value}) || \
             (has({whole}.matchExpressions) && {whole}.matchExpressions.exists(w, w.key == {key} && has(w.values) && \
             w.values.size() == 1 && w.values[0] == {value})))"
        )
    };
    format!(
        "(!has({part}.matchLabels) || {part}.matchLabels.all(k, {})) && (!has({part}.matchExpressions) || \
         {part}.matchExpressions.all(e, has(e.values) && \
         e.values.size() == 1 && {}))",
        within("k", &format!("{part}.matchLabels[k]")),
        within("e.key", "e.values[0]"),
    )
}

fn immutable() -> Vec<Rule> {
    vec![
        Rule::at(
            "R16",
            "resource",
            "!has(self.count) || !has(oldSelf.count) || self.count == oldSelf.count",
            "resource.count is immutable: create another Workspace with the new count",
        )
        .when(When::Update)
        .field(".count"),
        Rule::at(
            "R17",
            "resource",
            "has(self.partition) == has(oldSelf.partition) && (!has(self.partition) || self.partition == \
             oldSelf.partition)",
            "resource.partition is immutable: create another Workspace with the new partition",
        )
        .only(Versions::Beta)
        .when(When::Update)
        .field(".partition"),
        Rule::at(
            "R19",
            "resource",
            "!has(oldSelf.instanceType) || oldSelf.instanceType == '' || (has(self.instanceType) && \
             self.instanceType.lowerAscii() == oldSelf.instanceType.lowerAscii())",
            "resource.instanceType is immutable and, once set, required: put the old value back, or create another \
             Workspace",
        )
        .when(When::Update)
        .field(".instanceType"),
    ]
}

fn partition() -> Vec<Rule> {
    let profiles = literals(MIG_PROFILES);
    let rule = |id, field, expression: String, message| {
        Rule::at(id, "resource.partition", expression, message)
            .only(Versions::Beta)
            .field(field)
    };
    vec![
        rule(
            "R11/count",
            ".count",
            "self.mode != 'mig' || !has(self.count)".to_owned(),
            "partition.count goes with mode accelerator, not with mode mig: remove count, or change the mode",
        ),
        rule(
            "R11/profile",
            ".profile",
            format!("self.mode != 'mig' || (has(self.profile) && self.profile in {profiles})"),
            "partition.profile is no known MIG profile: name one that the GPU offers, such as 1g.10gb",
        ),
        rule(
            "R13/profile",
            ".profile",
            "self.mode != 'accelerator' || !has(self.profile) || self.profile == ''".to_owned(),
            "partition.profile goes with mode mig, not with mode accelerator: remove profile, or change the mode",
        ),
        rule(
            "R13/count",
            ".count",
            "self.mode != 'accelerator' || has(self.count)".to_owned(),
            "partition.count is missing: mode accelerator needs the number of whole GPUs",
        ),
    ]
}
