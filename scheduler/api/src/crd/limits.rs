//! Bounds, enums, defaults and required fields that the Rust types cannot say.
//!
//! Whatever a rule walks over has a bound, without which the API server refuses the CRD for its estimated cost. The
//! bounds are wider than anything valid, except where a rule's own limit is the bound.

use super::schema::Limit;

const fn limit(path: &'static str, keyword: &'static str, value: &'static str) -> Limit {
    Limit {
        path,
        keyword,
        value,
    }
}

/// Limits of both versions of the Workspace.
pub(super) const WORKSPACE: &[Limit] = &[
    limit("metadata.name", "maxLength", "63"),
    limit("resource.count", "default", "1"),
    limit("resource.instanceType", "maxLength", "64"),
    limit("resource.gpus", "minimum", "1"),
    limit("resource.gpus", "maximum", "64"),
    limit("resource.contextLength", "minimum", "1"),
    limit("resource.contextLength", "maximum", "100000000"),
    limit("resource.concurrency", "minimum", "1"),
    limit("resource.concurrency", "maximum", "100000"),
    limit(
        "resource.labelSelector",
        "x-kubernetes-map-type",
        r#""atomic""#,
    ),
    limit("resource.labelSelector.matchLabels", "maxProperties", "16"),
    limit("resource.labelSelector.matchLabels{}", "maxLength", "63"),
    limit("resource.labelSelector.matchExpressions", "maxItems", "8"),
    limit(
        "resource.labelSelector.matchExpressions[].key",
        "maxLength",
        "317",
    ),
    limit(
        "resource.labelSelector.matchExpressions[].operator",
        "maxLength",
        "16",
    ),
    limit(
        "resource.labelSelector.matchExpressions[].values",
        "maxItems",
        "4",
    ),
    limit(
        "resource.labelSelector.matchExpressions[].values[]",
        "maxLength",
        "63",
    ),
    limit("inference.preset.name", "maxLength", "256"),
    limit("inference.preset.accessMode", "default", r#""public""#),
    limit("inference.preset.presetOptions.image", "maxLength", "1024"),
    limit(
        "inference.preset.presetOptions.imagePullSecrets",
        "maxItems",
        "16",
    ),
    limit(
        "inference.preset.presetOptions.imagePullSecrets[]",
        "maxLength",
        "253",
    ),
    limit("inference.config", "maxLength", "253"),
    limit("inference.adapters", "maxItems", "10"),
    limit("inference.adapters[].strength", "maxLength", "64"),
    limit("inference.adapters[].source.name", "maxLength", "1024"),
    limit("inference.adapters[].source.image", "maxLength", "1024"),
    limit("inference.adapters[].source.urls", "maxItems", "96"),
    limit("inference.adapters[].source.urls[]", "maxLength", "2048"),
    limit(
        "inference.adapters[].source.imagePullSecrets",
        "maxItems",
        "16",
    ),
    limit(
        "inference.adapters[].source.imagePullSecrets[]",
        "maxLength",
        "253",
    ),
    limit("tuning", "required", r#"["input", "output"]"#),
    limit("tuning.method", "maxLength", "64"),
    limit("tuning.config", "maxLength", "253"),
    limit("tuning.preset.name", "maxLength", "256"),
    limit("tuning.preset.accessMode", "default", r#""public""#),
    limit("tuning.preset.presetOptions.image", "maxLength", "1024"),
    limit(
        "tuning.preset.presetOptions.imagePullSecrets",
        "maxItems",
        "16",
    ),
    limit(
        "tuning.preset.presetOptions.imagePullSecrets[]",
        "maxLength",
        "253",
    ),
    limit("tuning.input.name", "maxLength", "1024"),
    limit("tuning.input.image", "maxLength", "1024"),
    limit("tuning.input.urls", "maxItems", "96"),
    limit("tuning.input.urls[]", "maxLength", "2048"),
    limit("tuning.input.imagePullSecrets", "maxItems", "16"),
    limit("tuning.input.imagePullSecrets[]", "maxLength", "253"),
    limit("tuning.output.image", "maxLength", "1024"),
    limit("tuning.output.imagePushSecret", "maxLength", "253"),
    limit("status.conditions", "x-kubernetes-list-type", r#""map""#),
    limit(
        "status.conditions",
        "x-kubernetes-list-map-keys",
        r#"["type"]"#,
    ),
    limit("status.conditions[].type", "maxLength", "316"),
    limit(
        "status.conditions[].status",
        "enum",
        r#"["True", "False", "Unknown"]"#,
    ),
    limit("status.conditions[].reason", "minLength", "1"),
    limit("status.conditions[].reason", "maxLength", "1024"),
    limit("status.conditions[].message", "maxLength", "32768"),
    limit("status.conditions[].observedGeneration", "minimum", "0"),
];

/// Limits of v1beta1 alone.
pub(super) const WORKSPACE_BETA: &[Limit] = &[
    limit("resource.partition.profile", "maxLength", "32"),
    limit("resource.partition.count", "minimum", "1"),
    limit(
        "inference.preset.presetOptions.modelAccessSecret",
        "maxLength",
        "253",
    ),
    limit(
        "tuning.preset.presetOptions.modelAccessSecret",
        "maxLength",
        "253",
    ),
];

/// A label key, whose prefix is a DNS subdomain.
const KEY: &str = r#""^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*(\\/))?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$""#;
const EFFECTS: &str = r#"["NoSchedule", "PreferNoSchedule", "NoExecute"]"#;
const OPERATORS: &str = r#"["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Gte", "Lte"]"#;
const VALUE: &str = r#""^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$""#;
const QUANTITY: &str = r#""^(\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))))?$""#;
const NUMBER_OR_TEXT: &str = r#"[{"type": "integer"}, {"type": "string"}]"#;

/// Limits of the NodeClaim, as Karpenter's own CRD has them.
pub(super) const NODE_CLAIM: &[Limit] = &[
    limit(
        "spec",
        "x-kubernetes-validations",
        r#"[{"rule": "self == oldSelf", "message": "spec is immutable; delete the claim and make another"}]"#,
    ),
    limit("spec.nodeClassRef.group", "pattern", r#""^[^/]+$""#),
    limit("spec.nodeClassRef.kind", "minLength", "1"),
    limit("spec.nodeClassRef.name", "minLength", "1"),
    limit("spec.requirements", "maxItems", "100"),
    limit("spec.requirements", "x-kubernetes-list-type", r#""atomic""#),
    limit(
        "spec.requirements",
        "x-kubernetes-validations",
        REQUIREMENTS,
    ),
    limit("spec.requirements[].key", "maxLength", "316"),
    limit("spec.requirements[].key", "pattern", KEY),
    limit(
        "spec.requirements[].key",
        "x-kubernetes-validations",
        REQUIREMENT_KEY,
    ),
    limit("spec.requirements[].operator", "enum", OPERATORS),
    limit("spec.requirements[].values[]", "maxLength", "63"),
    limit("spec.requirements[].minValues", "minimum", "1"),
    limit("spec.requirements[].minValues", "maximum", "50"),
    limit("spec.resources.requests{}", "anyOf", NUMBER_OR_TEXT),
    limit("spec.resources.requests{}", "pattern", QUANTITY),
    limit("spec.taints[].key", "minLength", "1"),
    limit("spec.taints[].key", "pattern", KEY),
    limit("spec.taints[].value", "pattern", VALUE),
    limit("spec.taints[].effect", "enum", EFFECTS),
    limit("spec.startupTaints[].key", "minLength", "1"),
    limit("spec.startupTaints[].key", "pattern", KEY),
    limit("spec.startupTaints[].value", "pattern", VALUE),
    limit("spec.startupTaints[].effect", "enum", EFFECTS),
    limit("spec.expireAfter", "default", r#""720h""#),
    limit(
        "spec.expireAfter",
        "pattern",
        r#""^(([0-9]+(s|m|h))+|Never)$""#,
    ),
    limit(
        "spec.terminationGracePeriod",
        "pattern",
        r#""^([0-9]+(s|m|h))+$""#,
    ),
    limit("status.capacity{}", "anyOf", NUMBER_OR_TEXT),
    limit("status.capacity{}", "pattern", QUANTITY),
    limit("status.allocatable{}", "anyOf", NUMBER_OR_TEXT),
    limit("status.allocatable{}", "pattern", QUANTITY),
    limit("status.lastPodEventTime", "format", r#""date-time""#),
    limit("status.conditions", "x-kubernetes-list-type", r#""map""#),
    limit(
        "status.conditions",
        "x-kubernetes-list-map-keys",
        r#"["type"]"#,
    ),
    limit("status.conditions[].type", "maxLength", "316"),
    limit(
        "status.conditions[].status",
        "enum",
        r#"["True", "False", "Unknown"]"#,
    ),
    limit("status.conditions[].reason", "maxLength", "1024"),
    limit(
        "status.conditions[].reason",
        "pattern",
        r#""^([A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?|)$""#,
    ),
    limit("status.conditions[].message", "maxLength", "32768"),
    limit("status.conditions[].observedGeneration", "minimum", "0"),
];

const REQUIREMENTS: &str = r#"[
    {"rule": "self.all(x, x.operator != 'In' || (has(x.values) && x.values.size() > 0))",
     "message": "requirements with operator In need at least one value"},
    {"rule": "self.all(x, !(x.operator in ['Gt', 'Lt', 'Gte', 'Lte']) || (has(x.values) && x.values.size() == 1 && x.values[0].matches('^[0-9]{1,18}$')))",
     "message": "requirements with operator Gt, Lt, Gte or Lte need exactly one integer of at least 0"},
    {"rule": "self.all(x, x.operator != 'In' || !has(x.minValues) || (has(x.values) && x.values.size() >= x.minValues))",
     "message": "requirements with operator In need at least minValues values"}
]"#;

const REQUIREMENT_KEY: &str = r#"[
    {"rule": "self in ['karpenter.sh/capacity-type', 'karpenter.sh/nodepool'] || !self.matches('^([^/]*[.])?karpenter[.]sh/')",
     "message": "label domain karpenter.sh is restricted"},
    {"rule": "self != 'kubernetes.io/hostname'",
     "message": "label kubernetes.io/hostname is restricted"}
]"#;
