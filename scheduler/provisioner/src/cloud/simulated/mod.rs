//! The simulated cloud: a cloud without machines, for laptops, tests and first steps.
//!
//! [`model`] is one synchronous state machine without clock, thread or I/O; [`Simulated`] puts it behind a lock and
//! the [`Cloud`] trait. Its memory outlives the process in the API server: claims and nodes tell what exists
//! ([`Model::adopt`]).

mod allocation;
pub mod model;
pub mod size;

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::{Cloud, Deletion, Launch, LaunchError, LaunchRequest};
pub use model::{Adoption, Model, Stage, View};

/// Annotation: which scripted fault the machine of a claim has. The cloud's memory of it across restarts.
pub const ANNOTATION_FAULT: &str = "kaito.sh/simulated-fault";

/// Provider id of the machine of the claim with this UID.
#[must_use]
pub fn provider_id(claim_uid: &str) -> String {
    format!("simulated:///{claim_uid}")
}

/// A number that depends only on its arguments: every entity has its own stream, so that another entity more or less
/// shifts no draw.
#[must_use]
pub fn draw(seed: u64, entity: &str, purpose: &str) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(seed.to_be_bytes());
    for part in [entity, purpose] {
        hasher.update(part.as_bytes());
        hasher.update([0]);
    }
    hasher
        .finalize()
        .iter()
        .take(8)
        .fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

/// The model behind a lock. Changes are announced to whoever plays the machines.
pub struct Simulated {
    model: Mutex<Model>,
    changed: Box<dyn Fn(&str) + Send + Sync>,
}

impl Simulated {
    /// Serves `model`; `changed` is called with the claim's name after its machine was created or deleted.
    pub fn new(model: Model, changed: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self {
            model: Mutex::new(model),
            changed: Box::new(changed),
        }
    }

    /// Takes over a machine that an earlier process launched.
    pub fn adopt(&self, adoption: Adoption) {
        self.lock().adopt(adoption);
    }

    /// The machine of a claim as it is at `now`, by the claim's UID.
    #[must_use]
    pub fn view(&self, claim_uid: &str, now: Timestamp) -> Option<View> {
        self.lock().view(&provider_id(claim_uid), now)
    }

    /// A poisoned lock is used on: no code panics while holding it, and the model is valid between any two calls.
    fn lock(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cloud for Simulated {
    fn provider_id(&self, claim_uid: &str) -> String {
        provider_id(claim_uid)
    }

    async fn create(&self, request: &LaunchRequest, now: Timestamp) -> Result<Launch, LaunchError> {
        let answer = self.lock().create(request, now);
        (self.changed)(&request.claim);
        answer
    }

    async fn delete(&self, provider_id: &str, now: Timestamp) -> Deletion {
        self.lock().delete(provider_id, now)
    }
}
