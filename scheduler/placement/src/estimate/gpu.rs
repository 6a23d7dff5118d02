//! What a GPU family really offers the engine: usable memory and utilisation.
//!
//! One table for the estimate and for the engine's flags, so that the two cannot disagree. Pure look-up by product
//! name; it may not know of instance types or prices.

use super::{GIB, Gpus};

/// Engine memory share on all families without an entry of their own (KAITO v0.12 starts vLLM with it).
const UTILIZATION: f64 = 0.84;
/// Engine memory share on an A10: KAITO v0.12 lowers it there, since a desktop-class card keeps more for itself.
const UTILIZATION_A10: f64 = 0.82;
/// An H100 with more nominal memory than this is the 94 GB variant.
const H100_LARGE_ABOVE: u64 = 85 * GIB;

const MIB: u64 = 1 << 20;

/// GPU families with figures of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    T4,
    A10,
    A10g,
    L4,
    A100,
    H100,
    H200,
    /// A slice of a GPU, and every product without figures: nominal values hold.
    Other,
}

/// Gives the share of a GPU's usable memory that the engine may take, between 0 and 1, for a product name such as
/// `NVIDIA A10` or `Tesla-A100-SXM4-80GB`. The same number belongs into the engine's `--gpu-memory-utilization`.
///
/// ```
/// use kaito_placement::estimate::utilization;
/// assert_eq!(utilization("NVIDIA A10"), 0.82);
/// assert_eq!(utilization("NVIDIA A100"), 0.84);
/// ```
#[must_use]
pub fn utilization(gpu_model: &str) -> f64 {
    match family(gpu_model) {
        Family::A10 => UTILIZATION_A10,
        _ => UTILIZATION,
    }
}

/// Gives the bytes of one GPU that its driver reports, at most the nominal ones. Slices and unknown products count
/// with their nominal memory. Whole MiB, as drivers count. More nominal memory never gives less.
///
/// Source: driver-reported sizes per product as seen in `nvidia.com/gpu.memory` labels (2026-08).
#[must_use]
pub fn usable_memory_bytes(gpus: &Gpus) -> u64 {
    let reported = match family(&gpus.model) {
        Family::T4 => tenths_of_gib(150),
        Family::A10 | Family::A10g | Family::L4 => tenths_of_gib(225),
        Family::A100 => tenths_of_gib(800),
        Family::H100 if gpus.memory_bytes > H100_LARGE_ABOVE => tenths_of_gib(936),
        Family::H100 => tenths_of_gib(796),
        Family::H200 => tenths_of_gib(1404),
        Family::Other => u64::MAX,
    };
    let usable = gpus.memory_bytes.min(reported);
    usable - usable % MIB
}

/// Tells whether a product name is that of a MIG slice (`NVIDIA-A100-SXM4-80GB-MIG-3g.40gb`): slices cannot work
/// together on one model.
#[must_use]
pub fn is_mig_slice(gpu_model: &str) -> bool {
    words(gpu_model).any(|word| word.eq_ignore_ascii_case("MIG"))
}

fn family(gpu_model: &str) -> Family {
    if is_mig_slice(gpu_model) {
        return Family::Other;
    }
    words(gpu_model)
        .find_map(family_of_word)
        .unwrap_or(Family::Other)
}

fn family_of_word(word: &str) -> Option<Family> {
    Some(match word.to_ascii_uppercase().as_str() {
        "T4" => Family::T4,
        "A10" => Family::A10,
        "A10G" => Family::A10g,
        "L4" => Family::L4,
        "A100" => Family::A100,
        "H100" => Family::H100,
        "H200" => Family::H200,
        _ => return None,
    })
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
}

const fn tenths_of_gib(tenths: u64) -> u64 {
    tenths * GIB / 10
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usable_gib(model: &str, nominal: u64) -> f64 {
        let gpus = Gpus {
            model: model.into(),
            count: 1,
            memory_bytes: nominal * GIB,
        };
        usable_memory_bytes(&gpus) as f64 / GIB as f64
    }

    #[test]
    fn known_families_offer_what_their_driver_reports() {
        let table = [
            ("NVIDIA T4", 16, 15.0),
            ("NVIDIA A10", 24, 22.5),
            ("NVIDIA-A10G", 24, 22.5),
            ("NVIDIA L4", 24, 22.5),
            ("Tesla-A100-SXM4-80GB", 80, 80.0),
            ("NVIDIA H100", 80, 79.6),
            ("NVIDIA H100 NVL", 94, 93.6),
            ("NVIDIA H200", 141, 140.4),
        ];
        for (model, nominal, expected) in table {
            assert!(
                (usable_gib(model, nominal) - expected).abs() < 0.001,
                "{model}"
            );
        }
    }

    #[test]
    fn look_alike_products_slices_and_small_variants_keep_their_nominal_memory() {
        for (model, nominal) in [
            ("NVIDIA A100", 40),
            ("NVIDIA A16", 16),
            ("NVIDIA L40S", 48),
            ("NVIDIA GH200", 96),
            ("NVIDIA-A100-SXM4-80GB-MIG-3g.40gb", 40),
            ("", 24),
        ] {
            assert!(
                (usable_gib(model, nominal) - nominal as f64).abs() < 1e-9,
                "{model}"
            );
        }
    }

    #[test]
    fn only_the_a10_runs_at_the_lower_utilisation() {
        assert!((utilization("nvidia-a10") - 0.82).abs() < 1e-9);
        for other in [
            "NVIDIA A100",
            "NVIDIA A10G",
            "NVIDIA T4",
            "NVIDIA-A10-MIG-1g.5gb",
            "?",
        ] {
            assert!((utilization(other) - 0.84).abs() < 1e-9, "{other}");
        }
    }
}
