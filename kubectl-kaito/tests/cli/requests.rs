//! Which requests commands send, and what they make of the answers.

use crate::support::Plugin;
use crate::support::server::{Answer, Request, Server};
use serde_json::json;

const WORKSPACE: &str = "apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata:
  name: phi
resource:
  labelSelector:
    matchLabels:
      apps: phi
inference:
  preset:
    name: phi-4
";

fn table(rows: &serde_json::Value) -> Answer {
    let table = json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": "1"},
        "columnDefinitions": [{"name": "Name", "type": "string"}, {"name": "State", "type": "string", "priority": 1}],
        "rows": rows,
    });
    (200, Vec::new(), table.to_string())
}

fn status(code: u16, reason: &str, message: &str) -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": message});
    (code, Vec::new(), status.to_string())
}

/// A server for `apply`: nothing is there, everything is stored as it was sent, except names in `refused`.
fn apply_server(refused: &'static str) -> Server {
    Server::start(move |request: &Request, _| {
        if request.line.starts_with("GET ") {
            return status(404, "NotFound", "not found");
        }
        if request.line.contains(&format!("/{refused}?")) {
            return status(403, "Forbidden", "not you");
        }
        (200, Vec::new(), request.body.clone())
    })
}

#[test]
fn impersonation_sends_all_four_headers_and_no_token_without_tls() {
    let server = Server::start(|_, _| table(&json!([])));
    let run = Plugin::new().run(&[
        "get",
        "--server",
        &server.url,
        "--token=secret",
        "--as=ann",
        "--as-uid=7",
        "--as-group=g1",
        "--as-group=g2",
        "--as-user-extra=k=v",
    ]);
    assert_eq!(
        (run.code, run.stderr.as_str()),
        (0, "No resources found in default namespace.\n")
    );
    let requests = server.requests();
    let headers = requests[0].headers.join("\n").to_lowercase();
    for header in [
        "impersonate-user: ann",
        "impersonate-uid: 7",
        "impersonate-group: g1",
        "impersonate-group: g2",
        "impersonate-extra-k: v",
        "user-agent: kubectl-kaito/v",
    ] {
        assert!(headers.contains(header), "{header} not in\n{headers}");
    }
    assert!(!headers.contains("secret"), "{headers}");
}

#[test]
fn lists_ask_for_a_table_page_by_page() {
    let server = Server::start(|request, _| {
        if request.line.contains("continue=") {
            return table(
                &json!([{"cells": ["b", "Ready"], "object": {"metadata": {"name": "b"}}}]),
            );
        }
        let (code, headers, body) =
            table(&json!([{"cells": ["a", null], "object": {"metadata": {"name": "a"}}}]));
        (
            code,
            headers,
            body.replace(
                "\"resourceVersion\":\"1\"",
                "\"resourceVersion\":\"1\",\"continue\":\"t\"",
            ),
        )
    });
    let run = Plugin::new().run(&[
        "get",
        "--server",
        &server.url,
        "-o",
        "wide",
        "--chunk-size=1",
    ]);
    assert_eq!(run.stdout, "NAME   STATE\na      \nb      Ready\n");
    let lines: Vec<String> = server
        .requests()
        .into_iter()
        .map(|request| request.line)
        .collect();
    assert_eq!(
        lines,
        [
            "GET /apis/kaito.sh/v1beta1/namespaces/default/workspaces?limit=1",
            "GET /apis/kaito.sh/v1beta1/namespaces/default/workspaces?limit=1&continue=t",
        ]
    );
    assert!(
        server.requests()[0]
            .headers
            .iter()
            .any(|header| header.contains("as=Table;v=v1;g=meta.k8s.io"))
    );
}

#[test]
fn apply_sends_one_strict_server_side_patch() {
    let server = apply_server("nobody");
    let plugin = Plugin::new();
    let file = plugin.file("w.yaml", WORKSPACE);
    let run = plugin.run(&["apply", "-f", &file, "--server", &server.url]);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (0, "workspace.kaito.sh/phi serverside-applied\n"),
        "{}",
        run.stderr
    );
    let requests = server.requests();
    let patch = requests
        .iter()
        .find(|request| request.line.starts_with("PATCH"))
        .unwrap();
    assert!(
        patch
            .line
            .starts_with("PATCH /apis/kaito.sh/v1beta1/namespaces/default/workspaces/phi?")
    );
    assert!(
        patch.line.contains("fieldManager=kubectl-kaito")
            && patch.line.contains("fieldValidation=Strict")
    );
    assert!(!patch.line.contains("force=true") && !patch.line.contains("dryRun"));
    assert!(
        patch
            .headers
            .iter()
            .any(|header| header == "content-type: application/apply-patch+yaml")
    );
}

#[test]
fn nothing_is_written_when_the_server_refuses_one_of_two() {
    let server = apply_server("second");
    let plugin = Plugin::new();
    let second = WORKSPACE.replace("name: phi\n", "name: second\n");
    let file = plugin.file("w.yaml", format!("{WORKSPACE}---\n{second}"));
    let run = plugin.run(&["apply", "-f", &file, "--server", &server.url]);
    assert_eq!((run.code, run.stdout.as_str()), (1, ""));
    assert_eq!(
        run.stderr,
        "Error from server (Forbidden): not you\nat w.yaml:13:1\nNothing was applied.\n"
    );
    let writes: Vec<String> = server
        .requests()
        .into_iter()
        .map(|r| r.line)
        .filter(|line| line.starts_with("PATCH"))
        .collect();
    assert_eq!(writes.len(), 2);
    assert!(
        writes.iter().all(|line| line.contains("dryRun=All")),
        "{writes:?}"
    );
}

#[test]
fn a_busy_server_is_asked_again_and_that_is_said() {
    let server = Server::start(|_, before| {
        if before < 2 {
            let (code, _, body) = status(429, "TooManyRequests", "slow down");
            return (code, vec!["retry-after: 0".to_owned()], body);
        }
        table(&json!([]))
    });
    let run = Plugin::new().run(&["get", "--server", &server.url]);
    assert_eq!(run.code, 0);
    assert_eq!(
        run.stderr
            .lines()
            .filter(|line| line.contains("the server is busy"))
            .count(),
        2,
        "{}",
        run.stderr
    );
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn warnings_are_shown_once_escaped_and_can_be_errors() {
    let server = Server::start(|_, _| {
        let (code, _, body) = table(&json!([]));
        let warning = "warning: 299 - \"old \u{202e}version\"".to_owned();
        (code, vec![warning.clone(), warning], body)
    });
    let run = Plugin::new().run(&["get", "--server", &server.url]);
    assert_eq!(run.code, 0);
    let run = Plugin::new().run(&["get", "--server", &server.url, "--warnings-as-errors"]);
    assert_eq!(run.code, 1);
    assert!(
        run.stderr.ends_with("error: 1 warning received\n"),
        "{}",
        run.stderr
    );
    assert_eq!(run.stderr.matches("Warning: ").count(), 1);
    assert!(
        run.stderr.contains("old \\u{202e}version"),
        "{}",
        run.stderr
    );
}

#[test]
fn errors_of_the_server_are_told_in_kubectls_words() {
    let table: [(Answer, &str); 4] = [
        (
            status(403, "Forbidden", "no"),
            "Error from server (Forbidden): no\n",
        ),
        (
            status(401, "Unauthorized", "who"),
            "error: You must be logged in to the server (Unauthorized)\n",
        ),
        (
            (404, Vec::new(), "404 page not found\n".to_owned()),
            "error: the server doesn't have a resource type \"workspaces\"\nThe kaito CRDs are not installed in this \
             cluster; run: kubectl kaito install\n",
        ),
        (
            (502, Vec::new(), "<html>\nbad gateway".to_owned()),
            "Error from server (InternalError): an error on the server (\"<html>\") has prevented the request from \
             succeeding (list workspaces.kaito.sh)\n",
        ),
    ];
    for (answer, expected) in table {
        let server = Server::start(move |_, _| answer.clone());
        let run = Plugin::new().run(&["get", "--server", &server.url]);
        assert_eq!(
            (run.code, run.stdout.as_str(), run.stderr.as_str()),
            (1, "", expected)
        );
    }
}

#[test]
fn manifests_come_from_urls_too() {
    let server = Server::start(|request, before| match (request.line.as_str(), before) {
        ("GET /moved", _) => (302, vec!["location: /w.yaml".to_owned()], String::new()),
        ("GET /w.yaml", _) => (200, Vec::new(), WORKSPACE.to_owned()),
        _ => (404, Vec::new(), String::new()),
    });
    let plugin = Plugin::new();
    let run = plugin.run(&[
        "apply",
        "-f",
        &format!("{}/moved", server.url),
        "--dry-run=client",
    ]);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (0, "workspace.kaito.sh/phi serverside-applied (dry run)\n"),
        "{}",
        run.stderr
    );
    let run = plugin.run(&[
        "apply",
        "-f",
        &format!("{}/x", server.url),
        "--dry-run=client",
    ]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("unable to read URL"), "{}", run.stderr);
}

/// What the completion of a line printed.
fn completed(line: &[&str]) -> String {
    let run = Plugin::new().run(&[&["__complete"], line].concat());
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{line:?}");
    run.stdout
}

#[test]
fn names_are_completed_from_the_server_and_namespace_of_the_line() {
    let server = Server::start(|_, _| {
        let names = json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {},
            "items": [{"metadata": {"name": "phi"}}, {"metadata": {"name": "falcon"}}, {"metadata": {"name": "phi-two"}}],
        });
        (200, Vec::new(), names.to_string())
    });
    let flags = ["-n", "team", "--server", &server.url];
    let complete =
        |command: &str, typed: &str| completed(&[&[command], &flags[..], &[typed]].concat());
    assert_eq!(complete("status", "ph"), "phi\nphi-two\n:4\n");
    assert_eq!(complete("get", "workspace/f"), "workspace/falcon\n:4\n");
    assert_eq!(
        complete("delete", "nodeclaim/p"),
        "nodeclaim/phi\nnodeclaim/phi-two\n:4\n"
    );
    let lines: Vec<String> = server.requests().into_iter().map(|one| one.line).collect();
    assert!(
        lines[0].contains("/namespaces/team/workspaces?"),
        "{lines:?}"
    );
    assert!(lines[2].contains("/nodeclaims?"), "{lines:?}");
}

#[test]
fn completion_of_a_server_that_refuses_or_never_answers_is_empty_and_silent() {
    let server = Server::start(|_, _| status(403, "Forbidden", "not you"));
    assert_eq!(completed(&["get", "--server", &server.url, ""]), ":4\n");
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", deaf.local_addr().unwrap());
    assert_eq!(completed(&["get", "--server", &url, ""]), ":4\n");
}
