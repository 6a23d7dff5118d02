//! Probes of the inference server, with a start-up window that grows with the weights.

use k8s_openapi::api::core::v1::{HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kaito_placement::estimate;

/// Seconds between two probes.
const PERIOD_SECONDS: i32 = 10;

/// The three probes of a server container.
#[derive(Clone, Debug)]
pub struct Probes {
    /// Holds the others off until the model is loaded.
    pub startup: Probe,
    /// Restarts a server that hangs.
    pub liveness: Probe,
    /// Takes a server out of the Service.
    pub readiness: Probe,
}

/// Probes for a model of `weight_bytes` (0 if unknown).
#[must_use]
pub fn probes(weight_bytes: u64) -> Probes {
    let window = estimate::startup_window_seconds(weight_bytes);
    let failures = i32::try_from(window.div_ceil(10)).unwrap_or(i32::MAX);
    Probes {
        startup: health(failures),
        liveness: health(3),
        readiness: health(3),
    }
}

fn health(failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/health".to_owned()),
            port: IntOrString::Int(super::SERVER_PORT),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(PERIOD_SECONDS),
        timeout_seconds: Some(5),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}
