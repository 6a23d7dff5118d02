//! What must fit: the request with its defaults filled in and its values checked.

use super::{Gpus, Model, Request, Unfit, gpu};

/// Context that is made room for when the user names none and the model allows more. KAITO counts 2048 and lets the
/// engine shrink the context silently; 8192 is enough for chat with documents and costs little on every model.
const DEFAULT_CONTEXT: u32 = 8192;
/// The engine refuses more, and starves below.
const UTILIZATION_RANGE: std::ops::RangeInclusive<f64> = 0.1..=0.99;
/// Utilisation is counted in millionths, so that equal input gives equal bytes.
const MILLION: u64 = 1_000_000;

/// Where the context came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContextSource {
    Given,
    Assumed,
}

/// The request, complete.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// Tokens.
    pub(super) context: u32,
    pub(super) context_source: ContextSource,
    /// Sequences at once.
    pub(super) concurrency: u32,
    /// 1 or 2.
    pub(super) kv_element_bytes: u32,
    pub(super) utilization: f64,
    pub(super) utilization_millionths: u64,
}

impl Target {
    /// Fills in defaults and refuses what no engine starts with.
    pub(super) fn new(model: &Model, gpus: &Gpus, request: &Request) -> Result<Self, Unfit> {
        at_least_one("context", request.context)?;
        at_least_one("concurrency", request.concurrency)?;
        let kv_element_bytes = request.kv_element_bytes.unwrap_or(2);
        if !(1..=2).contains(&kv_element_bytes) {
            return Err(invalid(
                "KV element size",
                kv_element_bytes,
                "it is 2 bytes, or 1 for fp8",
            ));
        }
        let utilization = request
            .utilization
            .unwrap_or_else(|| gpu::utilization(&gpus.model));
        if !UTILIZATION_RANGE.contains(&utilization) {
            return Err(invalid(
                "GPU memory utilization",
                utilization,
                "it is between 0.1 and 0.99",
            ));
        }
        let source = match request.context {
            Some(_) => ContextSource::Given,
            None => ContextSource::Assumed,
        };
        Ok(Self {
            context: request.context.unwrap_or_else(|| default_context(model)),
            context_source: source,
            concurrency: request.concurrency.unwrap_or(1),
            kv_element_bytes,
            utilization,
            utilization_millionths: millionths(utilization),
        })
    }

    /// Bytes of a GPU that the engine may take.
    pub(super) fn share_of(&self, usable: u64) -> u64 {
        let share = u128::from(usable) * u128::from(self.utilization_millionths);
        u64::try_from(share / u128::from(MILLION)).unwrap_or(u64::MAX)
    }
}

fn default_context(model: &Model) -> u32 {
    if model.context_limit == 0 {
        DEFAULT_CONTEXT
    } else {
        model.context_limit.min(DEFAULT_CONTEXT)
    }
}

/// Refuses zero.
pub(super) fn at_least_one(field: &'static str, value: Option<u32>) -> Result<(), Unfit> {
    match value {
        Some(0) => Err(invalid(field, 0, "it is at least 1")),
        _ => Ok(()),
    }
}

pub(super) fn invalid(
    field: &'static str,
    value: impl std::fmt::Display,
    rule: impl Into<String>,
) -> Unfit {
    Unfit::InvalidOverride {
        field,
        value: value.to_string(),
        rule: rule.into(),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range check leaves 100,000 to 990,000"
)]
fn millionths(utilization: f64) -> u64 {
    (utilization * MILLION as f64).round() as u64
}
