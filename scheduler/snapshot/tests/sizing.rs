//! How big Workspaces are, from YAML as users write it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use kaito_api::Workspace;
use kaito_placement::estimate::Gpus;
use kaito_placement::snapshot::Purchase;
use kaito_snapshot::sizing::{Error, NodeMode, Surroundings, size};

fn workspace(resource: &str, rest: &str) -> Workspace {
    let yaml = format!(
        "apiVersion: kaito.sh/v1beta1\nkind: Workspace\nmetadata: {{name: w, namespace: n}}\n\
         resource: {{labelSelector: {{matchLabels: {{apps: w}}}}, {resource}}}\n{rest}\n"
    );
    serde_saphyr::from_str(&yaml).unwrap()
}

fn preset(resource: &str, model: &str) -> Workspace {
    workspace(
        resource,
        &format!("inference: {{preset: {{name: {model}}}}}"),
    )
}

const AUTO: fn() -> Surroundings = Surroundings::default;

#[test]
fn a_small_model_takes_one_of_two_gpus_so_that_another_can_have_the_other() {
    let sizing = size(
        &preset(
            "instanceType: Standard_NC48ads_A100_v4",
            "phi-4-mini-instruct",
        ),
        &AUTO(),
    );
    let sizing = sizing.unwrap();
    assert_eq!((sizing.replicas, sizing.gpus), (1, 1));
    assert_eq!(sizing.purchase, Purchase::Fixed);
}

#[test]
fn the_instance_type_is_spelled_as_the_cloud_does_whatever_the_user_wrote() {
    let sizing = size(
        &preset("instanceType: standard_nc24ads_a100_V4", "phi-4"),
        &AUTO(),
    )
    .unwrap();
    assert_eq!(
        sizing.instance_type.as_deref(),
        Some("Standard_NC24ads_A100_v4")
    );
}

#[test]
fn without_an_instance_type_the_cheapest_that_holds_the_model_is_chosen() {
    let sizing = size(&preset("", "phi-4"), &AUTO()).unwrap();
    assert_eq!(sizing.purchase, Purchase::Cheapest);
    assert_eq!(sizing.instance_type, None);
    assert_eq!(sizing.gpu_model, "NVIDIA A100");
}

#[test]
fn nodes_at_hand_decide_before_anything_is_bought() {
    let own = Gpus {
        model: "NVIDIA H100".to_owned(),
        count: 8,
        memory_bytes: 80 << 30,
    };
    let around = Surroundings {
        own_gpus: vec![own],
        ..AUTO()
    };
    let sizing = size(&preset("", "phi-4"), &around).unwrap();
    assert_eq!((sizing.gpus, sizing.gpu_model.as_str()), (1, "NVIDIA H100"));
}

#[test]
fn own_nodes_that_are_too_small_are_an_error_where_nothing_may_be_bought() {
    let own = Gpus {
        model: "NVIDIA A2".to_owned(),
        count: 1,
        memory_bytes: 2 << 30,
    };
    let around = Surroundings {
        own_gpus: vec![own],
        ..AUTO()
    };
    let only_own = Surroundings {
        mode: NodeMode::OwnNodes,
        ..around.clone()
    };
    assert!(size(&preset("", "phi-4"), &around).is_ok());
    let error = size(&preset("", "phi-4"), &only_own).unwrap_err();
    assert!(matches!(error, Error::Unfit { .. }), "{error}");
}

#[test]
fn an_unknown_instance_type_is_named() {
    let error = size(&preset("instanceType: Standard_NX1", "phi-4"), &AUTO()).unwrap_err();
    assert!(matches!(error, Error::UnknownInstanceType(ref name) if name == "Standard_NX1"));
}

#[test]
fn a_template_takes_the_gpus_that_its_containers_ask_for() {
    let object = workspace(
        "instanceType: Standard_NC96ads_A100_v4",
        "inference: {template: {spec: {containers: [\
         {name: a, resources: {limits: {nvidia.com/gpu: 1}}}, \
         {name: b, resources: {limits: {nvidia.com/gpu: 2}}}]}}}",
    );
    assert_eq!(size(&object, &AUTO()).unwrap().gpus, 3);
}

#[test]
fn the_walkthrough_tuning_fits_its_old_gpu() {
    let object: Workspace =
        serde_saphyr::from_str(include_str!("../../../examples/tuning-url-qlora.yaml")).unwrap();
    let sizing = size(&object, &AUTO()).unwrap();
    assert_eq!((sizing.replicas, sizing.gpus), (1, 1));
    assert_eq!(sizing.instance_type.as_deref(), Some("Standard_NC6s_v3"));
}

#[test]
fn requests_leave_room_for_a_pod_on_every_gpu_of_the_node() {
    let sizing = size(
        &preset("instanceType: Standard_NC4as_T4_v3", "phi-4-mini-instruct"),
        &AUTO(),
    );
    let info = kaito_api::catalogue::instance_type("Standard_NC4as_T4_v3").unwrap();
    let offer = kaito_snapshot::sizing::instance_type(info);
    assert!(offer.allocatable.holds(&sizing.unwrap().requests) >= 1);
}
