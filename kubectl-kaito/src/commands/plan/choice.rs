//! Every instance type in question, judged by the estimator and ranked by what its nodes cost. Pure.

use kaito_api::catalogue::InstanceTypeInfo;
use kaito_placement::estimate::{self, Estimate, Model, Unfit};
use kaito_snapshot::sizing;

use super::question::Question;

/// Oldest compute capability (times ten) that the engine runs on (vLLM's installation page: 7.0).
const OLDEST: u32 = 70;
/// Oldest compute capability (times ten) with bfloat16 (Ampere).
const BFLOAT16: u32 = 80;

/// A layout on an instance type.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Instance type.
    pub info: &'static InstanceTypeInfo,
    /// Layout and memory account.
    pub estimate: Estimate,
    /// What the user should know: risks of overrides, old GPUs, retired types.
    pub warnings: Vec<String>,
}

impl Choice {
    /// Price of the whole nodes in micro-dollars per hour.
    #[must_use]
    pub fn price_micro_dollars(&self) -> Option<u64> {
        self.info
            .price_micro_dollars
            .map(|price| price.saturating_mul(u64::from(self.estimate.nodes)))
    }

    /// The part of the price that belongs to the GPUs used, in micro-dollars per hour; others may use the rest.
    #[must_use]
    pub fn share_micro_dollars(&self) -> Option<u64> {
        let used = u64::from(self.estimate.gpus_per_node);
        let count = u64::from(self.info.gpu_count).max(1);
        self.price_micro_dollars()
            .map(|price| price.saturating_mul(used.min(count)) / count)
    }
}

/// An instance type that does not do.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// Instance type.
    pub info: &'static InstanceTypeInfo,
    /// Why not, with the numbers.
    pub reason: Reason,
}

/// Why an instance type does not do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Reason {
    /// The estimator says no.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// The engine does not run on the GPU.
    #[error(
        "{gpu} is not supported by the engine, which needs an NVIDIA GPU of compute capability 7.0 or newer; use a newer GPU"
    )]
    Unsupported {
        /// GPU product.
        gpu: String,
    },
    /// The published size has no whole GPU.
    #[error("how much of a {gpu} it has is not published; name a size with whole GPUs")]
    UnknownShare {
        /// GPU product.
        gpu: String,
    },
}

/// Layouts that fit, best first, and the types that were refused.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// What fits, cheapest first; types without a price come last.
    pub choices: Vec<Choice>,
    /// What does not, in the order asked.
    pub rejected: Vec<Rejected>,
}

/// Judges every candidate.
#[must_use]
pub fn answer(question: &Question) -> Answer {
    let mut found = Answer::default();
    for info in question.candidates.iter().copied() {
        match judge(question, info) {
            Ok(choice) => found.choices.push(choice),
            Err(reason) => found.rejected.push(Rejected { info, reason }),
        }
    }
    found
        .choices
        .sort_by(|left, right| rank(left).cmp(&rank(right)));
    found
}

/// Cost of whole nodes, then of the share, then fewer GPUs, then the name.
fn rank(choice: &Choice) -> (bool, u64, u64, u32, &str) {
    let price = choice.price_micro_dollars();
    (
        price.is_none(),
        price.unwrap_or_default(),
        choice.share_micro_dollars().unwrap_or_default(),
        choice
            .estimate
            .nodes
            .saturating_mul(choice.estimate.gpus_per_node),
        &choice.info.name,
    )
}

fn judge(question: &Question, info: &'static InstanceTypeInfo) -> Result<Choice, Reason> {
    let gpu = info.gpu_model.clone();
    if !info.is_nvidia() || (info.compute_capability > 0 && info.compute_capability < OLDEST) {
        return Err(Reason::Unsupported { gpu });
    }
    if info.gpu_count == 0 || info.gpu_memory_gib == 0 {
        return Err(Reason::UnknownShare { gpu });
    }
    if !question.named && lacks_bfloat16(&question.model, info) {
        return Err(Reason::Unsupported { gpu });
    }
    let estimate = estimate::estimate(&question.model, &sizing::gpus(info), &question.request)?;
    let warnings = warnings(question, info, &estimate);
    Ok(Choice {
        info,
        estimate,
        warnings,
    })
}

const fn lacks_bfloat16(model: &Model, info: &InstanceTypeInfo) -> bool {
    !model.quantized && info.compute_capability > 0 && info.compute_capability < BFLOAT16
}

fn warnings(question: &Question, info: &InstanceTypeInfo, estimate: &Estimate) -> Vec<String> {
    let mut warnings = estimate.warnings.clone();
    if lacks_bfloat16(&question.model, info) {
        warnings.push(format!(
            "{} has no bfloat16: the model is served in float16",
            info.gpu_model
        ));
    }
    if info.retired {
        warnings.push(format!("{} is being retired by the cloud", info.name));
    }
    if info.price_micro_dollars.is_none() {
        warnings.push(format!("no price is known for {}", info.name));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::answer;
    use crate::commands::plan::{Args, question};

    fn asked(model: &str, types: &[&str]) -> super::Answer {
        let args = Args {
            model: Some(model.to_owned()),
            instance_type: types.iter().map(ToString::to_string).collect(),
            kv_dtype: "auto".to_owned(),
            ..Args::default()
        };
        answer(&question::parse(&args).unwrap())
    }

    #[test]
    fn choices_are_ranked_by_price_and_every_one_has_a_price() {
        let found = asked("phi-4", &[]);
        let prices: Vec<u64> = found
            .choices
            .iter()
            .map(|choice| choice.price_micro_dollars().unwrap())
            .collect();
        assert!(prices.len() > 3);
        assert!(prices.is_sorted());
    }

    #[test]
    fn a_part_of_a_node_costs_a_part_of_its_price() {
        let found = asked("phi-4", &["Standard_NC48ads_A100_v4"]);
        let choice = &found.choices[0];
        assert_eq!(choice.estimate.gpus_per_node, 1);
        assert_eq!(choice.price_micro_dollars(), Some(7_346_000));
        assert_eq!(choice.share_micro_dollars(), Some(3_673_000));
    }

    #[test]
    fn a_type_that_cannot_do_it_says_why() {
        let found = asked(
            "phi-4",
            &["Standard_ND96isr_MI300X_v5", "Standard_NC24ads_A100_v4"],
        );
        assert_eq!((found.choices.len(), found.rejected.len()), (1, 1));
        assert!(
            found.rejected[0]
                .reason
                .to_string()
                .contains("not supported by the engine")
        );
    }
}
