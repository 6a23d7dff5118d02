//! What is asked for: pods and gangs in the order in which they are made.

use k8s_openapi::api::core::v1::Pod;
use kaito_api::names;
use serde_json::{Value, json};

use crate::Arguments;

/// A pod to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Its name.
    pub(crate) name: String,
    /// Position of its gang, if it has one.
    pub(crate) gang: Option<usize>,
    /// GPUs.
    pub(crate) gpus: u32,
}

/// All pods, gangs spread evenly between single pods: both sides are asked for the same in the same order.
pub(crate) fn asks(arguments: &Arguments) -> Vec<Ask> {
    let mut order: Vec<(f64, Option<usize>, usize)> = Vec::new();
    let at = |index: usize, of: usize| (index as f64 + 0.5) / of as f64;
    order.extend((0..arguments.pods).map(|index| (at(index, arguments.pods), None, index)));
    order
        .extend((0..arguments.gangs).map(|index| (at(index, arguments.gangs), Some(index), index)));
    order.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
    order
        .into_iter()
        .flat_map(|(_, gang, index)| match gang {
            None => vec![Ask {
                name: format!("pod-{index}"),
                gang,
                gpus: 1,
            }],
            Some(_) => (0..arguments.gang_size)
                .map(|member| Ask {
                    name: format!("gang-{index}-{member}"),
                    gang,
                    gpus: arguments.gang_gpus,
                })
                .collect(),
        })
        .collect()
}

/// The object. Both sides get the same, but for the gate.
pub(crate) fn pod(ask: &Ask, gang_size: usize, gated: bool) -> serde_json::Result<Pod> {
    let mut labels = json!({ names::LABEL_GANG: "none" });
    if let Some(gang) = ask.gang {
        labels[names::LABEL_GANG] = format!("gang-{gang}").into();
        labels[names::LABEL_GANG_SIZE] = gang_size.to_string().into();
    }
    let gates = if gated {
        json!([{ "name": names::GATE }])
    } else {
        Value::Null
    };
    serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": ask.name, "labels": labels },
        "spec": {
            "schedulingGates": gates,
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main",
                "image": "example.com/work:1",
                "resources": { "limits": { names::RESOURCE_GPU: ask.gpus.to_string() } },
            }],
        },
    }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{asks, pod};
    use crate::Arguments;

    #[test]
    fn gangs_come_whole_and_between_the_pods() {
        let words = ["bench", "--pods=4", "--gangs=2", "--gang-size=2"];
        let asks = asks(&Arguments::parse_from(words));
        let names: Vec<&str> = asks.iter().map(|ask| ask.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "pod-0", "gang-0-0", "gang-0-1", "pod-1", "pod-2", "gang-1-0", "gang-1-1", "pod-3"
            ]
        );
    }

    #[test]
    fn only_the_gate_differs_between_the_sides() {
        let asks = asks(&Arguments::parse_from(["bench", "--pods=0", "--gangs=1"]));
        let mut ours = pod(&asks[0], 8, true).unwrap();
        let theirs = pod(&asks[0], 8, false).unwrap();
        assert_ne!(ours, theirs);
        ours.spec.as_mut().unwrap().scheduling_gates = None;
        assert_eq!(ours, theirs);
    }
}
