//! The config of a ModelPack artifact (model-spec 0.0.7): closed objects, so nothing is written that the schema does not
//! name. May do no I/O.

use serde::Serialize;

use super::Plan;
use crate::digest::Digest;

/// Fields that both the schema's and the specification's text of version 0.0.7 know. Data sets are not among them: the
/// schema refuses them, so they are an annotation.
#[derive(Serialize)]
pub(super) struct ModelConfig {
    descriptor: ModelDescriptor,
    modelfs: ModelFileSystem,
    config: Model,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ModelDescriptor {
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(rename = "sourceURL", skip_serializing_if = "Option::is_none")]
    source_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    licenses: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ModelFileSystem {
    #[serde(rename = "type")]
    kind: &'static str,
    diff_ids: Vec<Digest>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Model {
    #[serde(skip_serializing_if = "Option::is_none")]
    architecture: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    param_size: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    precision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quantization: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capabilities: Option<Capabilities>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Capabilities {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    input_types: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    output_types: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    languages: Vec<String>,
}

pub(super) fn write(plan: &Plan, layers: Vec<Digest>, created: Option<String>) -> ModelConfig {
    let model = &plan.description;
    let named = plan.options.name.clone();
    let capabilities = Capabilities {
        input_types: model.input_types.clone(),
        output_types: model.output_types.clone(),
        languages: model.languages.clone(),
    };
    let capable = !capabilities.input_types.is_empty()
        || !capabilities.output_types.is_empty()
        || !capabilities.languages.is_empty();
    ModelConfig {
        descriptor: ModelDescriptor {
            created_at: created,
            family: model.family.clone(),
            name: named.or_else(|| name_in(plan.url.as_deref()?)),
            source_url: plan.url.clone(),
            version: plan.options.version.clone(),
            revision: plan.revision.clone(),
            licenses: model.licenses.clone(),
        },
        modelfs: ModelFileSystem {
            kind: "layers",
            diff_ids: layers,
        },
        config: Model {
            architecture: model.architecture.clone(),
            format: model.format.clone(),
            param_size: model.parameters.map(size_name),
            precision: model.precision.clone(),
            quantization: model.quantization.clone(),
            capabilities: capable.then_some(capabilities),
        },
    }
}

/// The last name of an address's path.
fn name_in(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let (_, path) = rest.split_once('/')?;
    let path = path.split(['?', '#']).next()?;
    let name = path.split('/').rfind(|name| !name.is_empty())?;
    Some(name.to_owned())
}

/// `135M`, `8.03B`: three digits that matter.
fn size_name(parameters: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1_000_000_000_000, "T"),
        (1_000_000_000, "B"),
        (1_000_000, "M"),
        (1_000, "K"),
    ];
    for (unit, name) in UNITS {
        // What rounds to 1000 of the next smaller unit is 1 of this one.
        if parameters.saturating_add(unit / 2000) >= unit {
            return format!("{}{name}", significant(parameters, unit));
        }
    }
    parameters.to_string()
}

/// A count in units, with at most three digits that matter and no zeros at the end.
fn significant(parameters: u64, unit: u64) -> String {
    let step = match parameters / unit {
        0..10 => unit / 100,
        10..100 => unit / 10,
        _ => unit,
    };
    // Rounded once, in hundredths of the unit, so that no floating point is needed.
    let hundredths = parameters.saturating_add(step / 2) / step * (step / (unit / 100));
    let text = format!("{}.{:02}", hundredths / 100, hundredths % 100);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_counts_have_three_digits_that_matter() {
        for (count, name) in [
            (134_515_008, "135M"),
            (8_030_261_248, "8.03B"),
            (70_553_706_496, "70.6B"),
            (671_026_419_200, "671B"),
            (1_000_000_000_000, "1T"),
            (7_000_000_000, "7B"),
            (999_999_999, "1B"),
            (999_499_999, "999M"),
            (999, "999"),
            (1_500, "1.5K"),
            (u64::MAX, "18446744T"),
        ] {
            assert_eq!(size_name(count), name, "{count}");
        }
    }

    #[test]
    fn names_come_from_the_end_of_an_address() {
        assert_eq!(name_in("https://hub/org/model"), Some("model".to_owned()));
        assert_eq!(
            name_in("https://hub/org/model/?x=1"),
            Some("model".to_owned())
        );
        assert_eq!(name_in("https://hub"), None);
        assert_eq!(name_in("https://hub/"), None);
    }
}
