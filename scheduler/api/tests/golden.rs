//! The checked-in manifests are exactly what the code generates. `UPDATE_GOLDEN=1` rewrites them; review the diff.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::path::PathBuf;

use kaito_api::crd;

fn assert_golden(relative: &str, generated: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(relative);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, generated).unwrap();
    }
    let checked_in = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; run with UPDATE_GOLDEN=1", path.display()));
    assert!(
        checked_in == generated,
        "{} is stale; run with UPDATE_GOLDEN=1",
        path.display()
    );
}

#[test]
fn the_workspace_crd_is_the_checked_in_one() {
    assert_golden("crds/workspaces.yaml", &crd::workspace_crd_yaml().unwrap());
}

#[test]
fn the_nodeclaim_crd_is_the_checked_in_one() {
    assert_golden("crds/nodeclaims.yaml", &crd::nodeclaim_crd_yaml().unwrap());
}

#[test]
fn the_admission_policy_is_the_checked_in_one() {
    assert_golden(
        "admission/workspaces.yaml",
        &crd::admission_policy_yaml().unwrap(),
    );
}

#[test]
fn both_crds_come_as_two_documents() {
    let text = crd::crd_yaml().unwrap();
    assert_eq!(text.matches("kind: CustomResourceDefinition").count(), 2);
    assert_eq!(text.lines().filter(|line| *line == "---").count(), 1);
}
