//! How long things take in a scenario, and how that relates to real time. Pure.

use jiff::SignedDuration;
use serde::Deserialize;

use crate::cloud::simulated::draw;
use crate::duration::parse_duration;

/// A delay: fixed (`30s`) or drawn evenly per entity from a range (`30s..80s`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Delay {
    least: SignedDuration,
    most: SignedDuration,
}

impl Delay {
    /// No delay.
    pub const ZERO: Self = Self::fixed(0);

    const fn fixed(seconds: i64) -> Self {
        Self::between(seconds, seconds)
    }

    pub(super) const fn between(least: i64, most: i64) -> Self {
        Self {
            least: SignedDuration::from_secs(least),
            most: SignedDuration::from_secs(most),
        }
    }

    /// The delay of `entity` for `purpose`, scaled. The same arguments give the same delay in every run.
    pub(crate) fn pick(self, clock: Scale, entity: &str, purpose: &str) -> SignedDuration {
        let least = micros(self.least);
        let width = micros(self.most).saturating_sub(least).max(0);
        let offset = if width == 0 {
            0
        } else {
            let drawn = draw(clock.seed, entity, purpose) % u64::try_from(width).unwrap_or(1);
            i64::try_from(drawn).unwrap_or(0)
        };
        clock.scaled(SignedDuration::from_micros(least.saturating_add(offset)))
    }
}

impl TryFrom<String> for Delay {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let read = |part: &str| parse_duration(part.trim()).map_err(|error| error.to_string());
        let (least, most) = match text.split_once("..") {
            Some((least, most)) => (read(least)?, read(most)?),
            None => (read(&text)?, read(&text)?),
        };
        if most < least {
            return Err(format!(
                "`{text}` is an empty range; put the shorter delay first"
            ));
        }
        Ok(Self { least, most })
    }
}

fn micros(duration: SignedDuration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// How simulated time relates to real time, and the seed of all draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Simulated seconds per real second.
    pub factor: std::num::NonZeroU32,
    /// Seed of all draws.
    pub seed: u64,
}

impl Scale {
    /// The real length of a simulated duration.
    #[must_use]
    pub fn scaled(self, duration: SignedDuration) -> SignedDuration {
        SignedDuration::from_micros(micros(duration) / i64::from(self.factor.get()))
    }
}

/// Delays of machines. Defaults: inside the range published for AKS GPU pools (3–8 minutes from request to Ready),
/// not measured by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Delays {
    /// Request → the cloud has accepted the machine, or refused it.
    pub launch: Delay,
    /// Accepted → its Node object appears.
    pub register: Delay,
    /// Node appears → Ready.
    pub ready: Delay,
    /// Ready → the device plugin shows the GPUs.
    pub device_plugin: Delay,
    /// Deletion accepted → the machine is gone and its quota free.
    pub delete: Delay,
}

impl Delays {
    pub(super) const NONE: Self = Self {
        launch: Delay::ZERO,
        register: Delay::ZERO,
        ready: Delay::ZERO,
        device_plugin: Delay::ZERO,
        delete: Delay::ZERO,
    };
}

impl Default for Delays {
    fn default() -> Self {
        Self {
            launch: Delay::between(30, 80),
            register: Delay::between(135, 175),
            ready: Delay::between(10, 40),
            device_plugin: Delay::between(60, 90),
            delete: Delay::between(90, 150),
        }
    }
}

/// Limits of a claim's life. `least` is real time: a real API server and controller-manager take part, and they do
/// not run faster because the cloud does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Creation → Launched.
    pub launch: Delay,
    /// Creation → Registered.
    pub registration: Delay,
    /// Registered → Initialized.
    pub initialization: Delay,
    /// Shortest limit after scaling, in real time.
    pub least: Delay,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            launch: Delay::fixed(15 * 60),
            registration: Delay::fixed(15 * 60),
            initialization: Delay::fixed(10 * 60),
            least: Delay::fixed(60),
        }
    }
}

impl Limits {
    /// A limit in real time.
    pub(crate) fn real(&self, limit: Delay, clock: Scale) -> SignedDuration {
        clock.scaled(limit.most).max(self.least.most)
    }
}

/// Delays of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Pods {
    /// Each init container.
    pub init: Delay,
    /// Containers created → running and ready (image pull, weights).
    pub start: Delay,
    /// Termination signal → stopped; never longer than the pod's grace period.
    pub stop: Delay,
    /// Life of a job's pod without the annotation `kaito.sh/simulated-duration`.
    pub job: Delay,
}

impl Pods {
    pub(super) const NONE: Self = Self {
        init: Delay::ZERO,
        start: Delay::ZERO,
        stop: Delay::ZERO,
        job: Delay::ZERO,
    };
}

impl Default for Pods {
    fn default() -> Self {
        Self {
            init: Delay::fixed(1),
            start: Delay::fixed(2),
            stop: Delay::fixed(1),
            job: Delay::fixed(60),
        }
    }
}
