//! The program from outside: what it says of itself, and how it refuses.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

fn runtime(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kaito-runtime"))
        .args(arguments)
        .env_clear()
        .output()
        .unwrap()
}

#[test]
fn help_names_both_engines() {
    let output = runtime(&["serve", "--help"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("native") && text.contains("proxy"), "{text}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_model_that_is_not_there_is_named_and_the_server_ends() {
    let output = runtime(&["serve", "--model", "/nonexistent/model", "--port", "0"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("/nonexistent/model"), "{text}");
    assert_eq!(output.status.code(), Some(1));
}
