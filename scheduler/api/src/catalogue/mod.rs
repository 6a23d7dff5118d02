//! What is known about GPU instance types and models: embedded tables, parsed once, looked up ignoring case.
//!
//! Data with source and date: `data/instance_types.csv`, `data/presets.csv`. This module may not guess: what the
//! tables do not say is absent or zero, and every field says which. Called by the rules, the estimator and the plugin.

mod instance_type;
mod nearest;
mod preset;

use std::sync::LazyLock;

pub(crate) use nearest::nearest;

pub use instance_type::{Cloud, InstanceTypeInfo};
pub use preset::{Attention, Delivery, Gated, Preset, Runtime};

const INSTANCE_TYPES: &str = include_str!("../../data/instance_types.csv");
const PRESETS: &str = include_str!("../../data/presets.csv");

static INSTANCE_TYPE_TABLE: LazyLock<Vec<InstanceTypeInfo>> =
    LazyLock::new(|| rows(INSTANCE_TYPES, InstanceTypeInfo::parse));
static PRESET_TABLE: LazyLock<Vec<Preset>> = LazyLock::new(|| rows(PRESETS, Preset::parse));

/// Every instance type of every cloud, in the order of the table.
#[must_use]
pub fn instance_types() -> &'static [InstanceTypeInfo] {
    &INSTANCE_TYPE_TABLE
}

/// The instance type called `name`, ignoring case; its `name` is the canonical spelling.
#[must_use]
pub fn instance_type(name: &str) -> Option<&'static InstanceTypeInfo> {
    instance_types()
        .iter()
        .find(|info| info.name.eq_ignore_ascii_case(name))
}

/// Every preset, retired ones included, in the order of the table.
#[must_use]
pub fn presets() -> &'static [Preset] {
    &PRESET_TABLE
}

/// The preset with the id or alias `name`, ignoring case. Retired presets are not found; see [`retired_preset`].
#[must_use]
pub fn preset(name: &str) -> Option<&'static Preset> {
    named(name).filter(|preset| preset.delivery != Delivery::Retired)
}

/// The retired preset with the id or alias `name`, ignoring case: known, and refused.
#[must_use]
pub fn retired_preset(name: &str) -> Option<&'static Preset> {
    named(name).filter(|preset| preset.delivery == Delivery::Retired)
}

/// Up to three preset names (aliases where there are any) that `name` may be a misspelling of, nearest first.
#[must_use]
pub fn nearest_presets(name: &str) -> Vec<&'static str> {
    let usable = presets()
        .iter()
        .filter(|preset| preset.delivery != Delivery::Retired);
    nearest(name, usable.flat_map(Preset::names))
}

/// Up to three instance types that `name` may be a misspelling of, nearest first.
#[must_use]
pub fn nearest_instance_types(name: &str) -> Vec<&'static str> {
    nearest(name, instance_types().iter().map(|info| info.name.as_str()))
}

fn named(name: &str) -> Option<&'static Preset> {
    presets()
        .iter()
        .find(|preset| preset.names().any(|known| known.eq_ignore_ascii_case(name)))
}

/// Rows of `text` that parse. A row that does not is left out; a test holds the tables to having none.
fn rows<T>(text: &str, parse: fn(&Row<'_>) -> Option<T>) -> Vec<T> {
    let mut reader = csv::ReaderBuilder::new()
        .comment(Some(b'#'))
        .quoting(false)
        .from_reader(text.as_bytes());
    let Ok(header) = reader.headers().cloned() else {
        return Vec::new();
    };
    reader
        .records()
        .filter_map(Result::ok)
        .filter_map(|record| {
            parse(&Row {
                header: &header,
                record: &record,
            })
        })
        .collect()
}

/// One line of a table, read by column name.
struct Row<'a> {
    header: &'a csv::StringRecord,
    record: &'a csv::StringRecord,
}

impl Row<'_> {
    fn text(&self, column: &str) -> Option<&str> {
        let index = self.header.iter().position(|name| name == column)?;
        self.record.get(index)
    }

    fn owned(&self, column: &str) -> Option<String> {
        self.text(column).map(str::to_owned)
    }

    /// Text, absent when the cell is empty.
    fn filled(&self, column: &str) -> Option<Option<String>> {
        let text = self.text(column)?;
        Some((!text.is_empty()).then(|| text.to_owned()))
    }

    /// A list separated by semicolons; empty when the cell is.
    fn list(&self, column: &str) -> Option<Vec<String>> {
        let text = self.text(column)?;
        Some(
            text.split(';')
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect(),
        )
    }

    /// A whole number; zero when the cell is empty.
    fn number<N: std::str::FromStr + Default>(&self, column: &str) -> Option<N> {
        match self.text(column)? {
            "" => Some(N::default()),
            text => text.parse().ok(),
        }
    }

    /// A decimal number with at most `digits` decimals, as an integer scaled by ten to the `digits`; absent when the
    /// cell is empty.
    fn decimal(&self, column: &str, digits: usize) -> Option<Option<u64>> {
        let text = self.text(column)?;
        if text.is_empty() {
            return Some(None);
        }
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        if fraction.len() > digits {
            return None;
        }
        format!("{whole}{fraction:0<digits$}")
            .parse()
            .ok()
            .map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Attention, Delivery, Gated, INSTANCE_TYPES, PRESETS, Runtime, instance_type,
        instance_types, nearest_instance_types, nearest_presets, preset, presets, retired_preset,
    };

    fn data_lines(text: &str) -> usize {
        text.lines().filter(|line| !line.starts_with('#')).count() - 1
    }

    #[test]
    fn every_line_of_both_tables_parses() {
        assert_eq!(instance_types().len(), data_lines(INSTANCE_TYPES));
        assert_eq!(presets().len(), data_lines(PRESETS));
        assert_eq!(instance_types().len(), 116);
        assert_eq!(presets().len(), 81);
    }

    #[test]
    fn names_and_aliases_are_unique_ignoring_case() {
        let mut seen = std::collections::BTreeSet::new();
        for name in presets().iter().flat_map(super::Preset::names) {
            assert!(seen.insert(name.to_ascii_lowercase()), "{name} twice");
        }
        let mut seen = std::collections::BTreeSet::new();
        for info in instance_types() {
            assert!(
                seen.insert(info.name.to_ascii_lowercase()),
                "{} twice",
                info.name
            );
        }
    }

    #[test]
    fn an_instance_type_is_found_in_any_case_and_spelled_canonically() {
        let info = instance_type("standard_nc48ADS_a100_v4").unwrap();
        assert_eq!(info.name, "Standard_NC48ads_A100_v4");
        assert_eq!(
            (info.gpu_count, info.gpu_memory_gib, info.compute_capability),
            (2, 80, 80)
        );
        assert_eq!(info.price_micro_dollars, Some(7_346_000));
        assert!(info.can_be_bought());
    }

    #[test]
    fn a_size_whose_gpu_share_is_unknown_is_not_for_sale() {
        let info = instance_type("Standard_NC8ads_A10_v4").unwrap();
        assert_eq!(info.gpu_count, 0);
        assert!(!info.can_be_bought());
        assert!(
            !instance_type("Standard_ND96isr_MI300X_v5")
                .unwrap()
                .is_nvidia()
        );
        assert!(!instance_type("Standard_NC6s_v3").unwrap().can_be_bought());
    }

    #[test]
    fn a_preset_is_found_by_id_and_by_alias_in_any_case() {
        let by_alias = preset("PHI-4-mini-instruct").unwrap();
        assert_eq!(by_alias.name, "microsoft/Phi-4-mini-instruct");
        assert!(std::ptr::eq(
            by_alias,
            preset("microsoft/phi-4-mini-instruct").unwrap()
        ));
        assert_eq!(by_alias.attention, Attention::Gqa);
        assert!(by_alias.tuning_capable && !by_alias.supports(Runtime::Transformers));
        assert!(preset("no-such-model").is_none());
    }

    #[test]
    fn duplicate_weight_files_are_not_counted_as_weights() {
        let model = preset("gpt-oss-120b").unwrap();
        assert_eq!(model.weight_bytes, 61 << 30);
        assert_eq!(model.upstream_weight_bytes, 12_154 * (1 << 30) / 100);
        let plain = preset("phi-4").unwrap();
        assert_eq!(plain.weight_bytes, plain.upstream_weight_bytes);
    }

    #[test]
    fn gates_latent_attention_and_delivery_are_read() {
        assert_eq!(preset("llama-3.1-8b-instruct").unwrap().gated, Gated::Yes);
        assert_eq!(preset("deepseek-v3-0324").unwrap().kv_lora_rank, 512);
        assert_eq!(
            preset("deepseek-v3-0324").unwrap().attention,
            Attention::Mla
        );
        assert_eq!(
            preset("llama-2-7b").unwrap().delivery,
            Delivery::PrivateImage
        );
        assert_eq!(preset("falcon-7b").unwrap().delivery, Delivery::Image);
        assert!(preset("qwen/qwen3-8b-awq").unwrap().is_quantized());
    }

    #[test]
    fn a_retired_preset_is_known_but_not_offered() {
        assert!(preset("phi-2").is_none());
        assert!(retired_preset("Phi-2").is_some());
        assert!(!nearest_presets("phi-2").contains(&"phi-2"));
    }

    #[test]
    fn misspellings_are_matched_to_their_nearest_names() {
        assert_eq!(nearest_presets("phi4").first(), Some(&"phi-4"));
        assert_eq!(
            nearest_instance_types("Standard_NC24ads_A100").first(),
            Some(&"Standard_NC24ads_A100_v4")
        );
        assert!(nearest_presets(&"x".repeat(10_000)).is_empty());
        assert!(nearest_presets("").is_empty());
    }
}
