//! Every admission case that needs no other object gets its verdict offline.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
#![cfg(feature = "cel")]

mod support;

use kaito_api::admission::{Violation, validate_create, validate_update};

const CASES: &str = "tests/data/cases.jsonl";

fn judge(case: &support::Case) -> Vec<Violation> {
    match case.old_object() {
        Some(old) => validate_update(&old, &case.object()),
        None => validate_create(&case.object()),
    }
}

#[test]
fn every_case_gets_its_verdict_and_every_refusal_says_the_words() {
    let cases = support::cases();
    assert!(cases.len() > 150);
    let mut wrong = Vec::new();
    for case in &cases {
        let said: Vec<String> = judge(case).iter().map(ToString::to_string).collect();
        let said = said.join("\n");
        let refused = !said.is_empty();
        let lower = said.to_lowercase();
        let silent = case
            .error_contains
            .iter()
            .find(|word| !lower.contains(&word.to_lowercase()));
        if refused != (case.expect == "error") || (refused && silent.is_some()) {
            wrong.push(format!(
                "{} ({} {}, {}): expected {} {:?}, got:\n{said}",
                case.id, case.op, case.rule, case.name, case.expect, case.error_contains
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
}

#[test]
fn every_stored_object_of_an_update_is_one_that_could_have_been_created() {
    for case in support::cases() {
        let Some(old) = case.old_object() else {
            continue;
        };
        let violations = validate_create(&old);
        assert!(violations.is_empty(), "{}: {violations:?}", case.id);
    }
}

#[test]
fn every_example_is_admitted() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text).unwrap();
        for object in documents
            .iter()
            .filter(|object| object["kind"] == "Workspace")
        {
            seen += 1;
            let violations = validate_create(object);
            assert!(violations.is_empty(), "{}: {violations:?}", path.display());
        }
    }
    assert!(seen >= 13, "only {seen} Workspaces found");
}
