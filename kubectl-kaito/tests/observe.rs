//! `status`, `why`, `logs` and `chat` of the built program against scripted answers of an API server: which requests are sent,
//! what is printed, and the exit status. The script stores nothing; anything with state is tested on a real server.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// One scripted answer.
enum Answer {
    /// Status code and JSON body.
    Json(u16, Value),
    /// A log: bytes, then the end.
    Log(&'static str),
    /// A log that breaks off.
    Cut(&'static str),
    /// A watch on which nothing happens until the client leaves.
    Silence,
}

/// Request paths with queries, in order of arrival.
type Seen = Arc<Mutex<Vec<String>>>;

/// A server that answers each request by the script, told how often the same request came before.
fn server(script: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let seen = Seen::default();
    let (log, script) = (Arc::clone(&seen), Arc::new(script));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (log, script) = (Arc::clone(&log), Arc::clone(&script));
            std::thread::spawn(move || serve(stream.unwrap(), &log, script.as_ref()));
        }
    });
    (address, seen)
}

fn serve(mut stream: TcpStream, seen: &Seen, script: &(dyn Fn(&str, usize) -> Answer + Sync)) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    if reader.read_line(&mut first).unwrap_or_default() == 0 {
        return;
    }
    let (mut line, mut body) = (String::new(), 0);
    while reader.read_line(&mut line).unwrap_or_default() > 2 {
        if let Some(length) = line.to_lowercase().strip_prefix("content-length:") {
            body = length.trim().parse().unwrap();
        }
        line.clear();
    }
    reader.read_exact(&mut vec![0; body]).unwrap();
    let target = first.split(' ').nth(1).unwrap().to_owned();
    let before = {
        let mut seen = seen.lock().unwrap();
        let before = seen
            .iter()
            .filter(|known| same_request(known, &target))
            .count();
        seen.push(target.clone());
        before
    };
    let chunked = |body: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{:x}\r\n{body}\r\n",
            body.len()
        )
    };
    let text = match script(&target, before) {
        Answer::Json(code, body) => {
            let body = body.to_string();
            format!(
                "HTTP/1.1 {code} Scripted\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            )
        }
        Answer::Log(body) => chunked(body) + "0\r\n\r\n",
        Answer::Cut(body) => chunked(body),
        Answer::Silence => {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n";
            stream.write_all(head.as_bytes()).unwrap();
            let _ = reader.read(&mut [0; 1]);
            return;
        }
    };
    // A client that has left already is part of some scripts.
    let _ = stream.write_all(text.as_bytes());
}

/// Two requests for the same log count as one, whatever moment they resume from.
fn same_request(one: &str, other: &str) -> bool {
    let path = |text: &str| text.split('?').next().unwrap_or_default().to_owned();
    path(one) == path(other) && one.contains("watch=") == other.contains("watch=")
}

fn kaito(server: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kubectl-kaito"))
        .args(arguments)
        .args(["--server", server])
        .env_clear()
        .env("HOME", "/nonexistent")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn status(code: u16, reason: &str, message: &str) -> Answer {
    Answer::Json(
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
            "message": message, "metadata": {}}),
    )
}

fn list(kind: &str, items: &[Value]) -> Answer {
    Answer::Json(
        200,
        json!({"kind": format!("{kind}List"), "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}),
    )
}

fn workspace(conditions: &Value) -> Value {
    json!({"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace",
        "metadata": {"name": "phi", "namespace": "default", "uid": "w1", "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z"},
        "resource": {"labelSelector": {"matchLabels": {"apps": "phi"}}},
        "inference": {"preset": {"name": "phi-4"}},
        "status": {"state": "Pending", "conditions": conditions}})
}

fn waiting() -> Value {
    workspace(
        &json!([{"type": "Placed", "status": "False", "reason": "NoNodeFits", "observedGeneration": 1,
        "message": "needs 1 pod x 1 GPU; no nodes", "lastTransitionTime": "2026-01-01T00:00:01Z"}]),
    )
}

fn pod(name: &str, phase: &str, state: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"kaito.sh/workspace": "phi"}},
        "spec": {"nodeName": "n1", "restartPolicy": "Never", "containers": [{"name": "main"}]},
        "status": {"phase": phase, "containerStatuses": [{"name": "main", "image": "i", "imageID": "",
            "ready": true, "restartCount": 0, "state": state}]}})
}

fn running(name: &str) -> Value {
    pod(
        name,
        "Running",
        &json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}),
    )
}

fn node(simulated: &str) -> Answer {
    Answer::Json(
        200,
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {"name": "n1", "labels": {"kaito.sh/simulated": simulated}}}),
    )
}

#[test]
fn logs_of_two_pods_are_merged_by_time_and_every_byte_is_theirs() {
    let (address, seen) = server(|target, _| match target.split('?').next().unwrap() {
        path if path.ends_with("/workspaces/phi") => Answer::Json(200, waiting()),
        path if path.ends_with("/pods") => list("Pod", &[running("phi-0"), running("phi-1")]),
        path if path.ends_with("/nodes/n1") => node("false"),
        path if path.ends_with("/pods/phi-0/log") => {
            Answer::Log("2026-01-01T00:00:01Z a\n2026-01-01T00:00:03Z \u{1b}[1mc\n")
        }
        path if path.ends_with("/pods/phi-1/log") => {
            Answer::Log("2026-01-01T00:00:02Z b\n2026-01-01T00:00:04Z d")
        }
        other => status(404, "NotFound", other),
    });
    let output = kaito(&address, &["logs", "phi", "--tail", "9", "--prefix"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        "[pod/phi-0/main] a\n[pod/phi-1/main] b\n[pod/phi-0/main] \u{1b}[1mc\n[pod/phi-1/main] d\n"
    );
    let seen = seen.lock().unwrap();
    assert!(seen.iter().any(|target| {
        target == "/api/v1/namespaces/default/pods/phi-0/log?container=main&tailLines=9&timestamps=true"
    }));
    assert!(
        seen.iter()
            .any(|target| target.contains("labelSelector=kaito.sh%2Fworkspace%3Dphi"))
    );
}

#[test]
fn a_followed_log_survives_a_cut_without_loss_or_repetition() {
    let ended = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
    let (address, seen) = server(
        move |target, before| match target.split('?').next().unwrap() {
            path if path.ends_with("/pods") && target.contains("watch=") => Answer::Silence,
            path if path.ends_with("/pods") && before == 0 => list("Pod", &[running("p")]),
            path if path.ends_with("/pods") => list("Pod", &[pod("p", "Succeeded", &ended)]),
            path if path.ends_with("/nodes/n1") => node("false"),
            path if path.ends_with("/pods/p/log") && before == 0 => Answer::Cut(
                "2026-01-01T00:00:01Z one\n2026-01-01T00:00:02Z two\n2026-01-01T00:00:03Z thr",
            ),
            path if path.ends_with("/pods/p/log") => Answer::Log(
                "2026-01-01T00:00:02Z two\n2026-01-01T00:00:03Z three\n2026-01-01T00:00:04Z four\n",
            ),
            path if path.ends_with("/pods/p") && before == 0 => Answer::Json(200, running("p")),
            path if path.ends_with("/pods/p") => Answer::Json(200, pod("p", "Succeeded", &ended)),
            other => status(404, "NotFound", other),
        },
    );
    let output = kaito(&address, &["logs", "-f", "pod/p"]);
    assert_eq!(
        stdout(&output),
        "one\ntwo\nthree\nfour\n",
        "{}",
        stderr(&output)
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("- pod/p/main: Completed (exit code 0)"),
        "{}",
        stderr(&output)
    );
    let seen = seen.lock().unwrap();
    assert!(
        seen.iter()
            .any(|target| target.contains("follow=true&sinceTime=2026-01-01T00%3A00%3A02Z")),
        "{seen:?}"
    );
}

#[test]
fn a_simulated_node_has_no_logs_and_says_so() {
    let (address, seen) = server(|target, _| match target.split('?').next().unwrap() {
        path if path.ends_with("/workspaces/phi") => Answer::Json(200, waiting()),
        path if path.ends_with("/pods") && target.contains("watch=") => Answer::Silence,
        path if path.ends_with("/pods") => list("Pod", &[running("phi-0")]),
        path if path.ends_with("/nodes/n1") => node("true"),
        other => status(404, "NotFound", other),
    });
    for words in [["logs", "phi"].as_slice(), &["logs", "-f", "phi"]] {
        let output = kaito(&address, words);
        assert_eq!(
            (output.status.code(), output.stdout.len()),
            (Some(0), 0),
            "{}",
            stderr(&output)
        );
        assert!(
            stderr(&output).starts_with("pod/phi-0: emulated: node n1 is simulated"),
            "{}",
            stderr(&output)
        );
    }
    assert!(
        !seen
            .lock()
            .unwrap()
            .iter()
            .any(|target| target.contains("/log?"))
    );
}

#[test]
fn too_many_streams_and_missing_names_fail_in_kubectls_words() {
    let (address, _) = server(|target, _| match target.split('?').next().unwrap() {
        path if path.ends_with("/workspaces/phi") => Answer::Json(200, waiting()),
        path if path.ends_with("/pods") => list("Pod", &[running("phi-0"), running("phi-1")]),
        path if path.ends_with("/workspaces/gone") => {
            status(404, "NotFound", "workspaces.kaito.sh \"gone\" not found")
        }
        other => status(404, "NotFound", other),
    });
    let output = kaito(&address, &["logs", "-f", "phi", "--max-log-requests", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "error: you are attempting to follow 2 log streams, but maximum allowed concurrency is 1, use \
         --max-log-requests to increase the limit\n"
    );
    let output = kaito(&address, &["logs", "gone"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "Error from server (NotFound): workspaces.kaito.sh \"gone\" not found\nA bare name is a Workspace; for a pod \
         use pod/gone.\n"
    );
}

/// A Workspace that waits, in a cluster that lets nobody see nodes and has no NodeClaims.
fn waiting_cluster() -> String {
    let (address, _) = server(|target, _| match target.split('?').next().unwrap() {
        path if path.ends_with("/workspaces/phi") => Answer::Json(200, waiting()),
        path if path.ends_with("/pods") => list("Pod", &[running("phi-0")]),
        path if path.ends_with("/workspaces") => list("Workspace", &[waiting()]),
        path if path.ends_with("/events") => list("Event", &[]),
        path if path.contains("/nodes") => status(403, "Forbidden", "nodes is forbidden"),
        other => status(404, "NotFound", other),
    });
    address
}

#[test]
fn status_shows_what_it_may_see_and_notes_the_rest() {
    let address = waiting_cluster();
    let output = kaito(&address, &["status", "phi"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.contains("Workspace: default/phi"), "{text}");
    assert!(text.contains("└─Pod/phi-0"), "{text}");
    assert!(
        text.contains("note: nodes: forbidden (needs get and list of nodes)"),
        "{text}"
    );
    let output = kaito(&address, &["status", "phi", "--exit-code", "-o", "json"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["kind"], json!("WorkspaceStatus"));
    assert_eq!(
        document["reason"],
        json!("Placed: needs 1 pod x 1 GPU; no nodes")
    );
    assert_eq!(
        document["notes"],
        json!(["nodes: forbidden (needs get and list of nodes)"])
    );
}

#[test]
fn a_watched_status_prints_one_line_per_change_and_ends_when_ready() {
    let ready = workspace(
        &json!([{"type": "WorkspaceSucceeded", "status": "True", "reason": "r", "message": "",
        "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:01Z"}]),
    );
    let event = json!({"type": "MODIFIED", "object": ready});
    let (address, _) = server(
        move |target, before| match target.split('?').next().unwrap() {
            path if path.ends_with("/workspaces/phi") && before == 0 => {
                Answer::Json(200, waiting())
            }
            path if path.ends_with("/workspaces/phi") => Answer::Json(200, ready.clone()),
            path if path.ends_with("/workspaces") && target.contains("watch=") && before == 0 => {
                Answer::Json(200, event.clone())
            }
            _ if target.contains("watch=") => Answer::Silence,
            path if path.ends_with("/workspaces") => list("Workspace", &[waiting()]),
            path if path.ends_with("/pods") => list("Pod", &[]),
            path if path.ends_with("/nodeclaims") => list("NodeClaim", &[]),
            path if path.ends_with("/events") => list("Event", &[]),
            other => status(404, "NotFound", other),
        },
    );
    let output = kaito(&address, &["status", "phi", "-w"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].contains("reason=\"Placed: needs 1 pod x 1 GPU; no nodes\""),
        "{text}"
    );
    assert!(!lines[1].contains("reason="), "{text}");
}

#[test]
fn a_watched_status_times_out_with_4() {
    let (address, _) = server(|target, _| match target.split('?').next().unwrap() {
        _ if target.contains("watch=") => Answer::Silence,
        path if path.ends_with("/workspaces/phi") => Answer::Json(200, waiting()),
        path if path.ends_with("/workspaces") => list("Workspace", &[waiting()]),
        path if path.ends_with("/pods") => list("Pod", &[]),
        path if path.ends_with("/nodeclaims") => list("NodeClaim", &[]),
        path if path.ends_with("/events") => list("Event", &[]),
        other => status(404, "NotFound", other),
    });
    let output = kaito(&address, &["status", "phi", "-w", "--timeout", "300ms"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("timed out after 0.3s; default/phi is not ready"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn why_names_the_planners_own_words_and_exits_3() {
    let address = waiting_cluster();
    let output = kaito(&address, &["why", "phi"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.starts_with("default/phi is not ready; root cause first:\n\n1. Workspace/phi  status.conditions[Placed] = False, NoNodeFits"), "{text}");
    assert!(text.contains("needs 1 pod x 1 GPU; no nodes"), "{text}");
    assert!(
        stderr(&output).contains("note: the planner could not be asked"),
        "{}",
        stderr(&output)
    );
    let output = kaito(&address, &["why", "phi", "-o", "json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        document["rootCause"]["field"],
        json!("status.conditions[Placed]")
    );
    assert_eq!(
        (output.status.code(), &document["ready"]),
        (Some(3), &json!(false))
    );
}

const MODELS: &str = "/api/v1/namespaces/default/services/phi:80/proxy/v1/models";
const COMPLETIONS: &str = "/api/v1/namespaces/default/services/phi:80/proxy/v1/chat/completions";

fn serving() -> Value {
    workspace(
        &json!([{"type": "WorkspaceReady", "status": "True", "reason": "workspaceSucceeded", "message": ""}]),
    )
}

fn chat_server(answer: impl Fn() -> Answer + Send + Sync + 'static) -> (String, Seen) {
    server(move |target, _| match target {
        MODELS => Answer::Json(200, json!({"data": [{"id": "phi-4"}, {"id": "pirate"}]})),
        COMPLETIONS => answer(),
        _ if target.contains("/workspaces/phi") => Answer::Json(200, serving()),
        other => panic!("unexpected request {other}"),
    })
}

#[test]
fn a_question_is_answered_in_pieces_through_the_api_server_and_only_the_answer_is_on_stdout() {
    let stream = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello, \"}}]}\n\n\
                  data: {\"choices\":[{\"delta\":{\"content\":\"you.\"}}]}\n\n\
                  data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":3}}\n\n\
                  data: [DONE]\n\n";
    let (address, seen) = chat_server(move || Answer::Log(stream));
    let output = kaito(&address, &["chat", "phi", "Hello?", "--stats"]);
    assert_eq!(stdout(&output), "Hello, you.\n");
    assert!(
        stderr(&output).contains("5 tokens read, 3 made"),
        "{}",
        stderr(&output)
    );
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(seen.lock().unwrap().last().unwrap(), COMPLETIONS);
}

#[test]
fn an_answer_that_breaks_off_is_an_error_after_what_came() {
    let (address, _) =
        chat_server(|| Answer::Cut("data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n"));
    let output = kaito(&address, &["chat", "phi", "Hello?"]);
    assert!(stdout(&output).starts_with("Hel"), "{}", stdout(&output));
    assert!(stderr(&output).contains("cut off"), "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn the_servers_own_refusal_is_shown() {
    let (address, _) = chat_server(|| {
        Answer::Json(
            400,
            json!({"error": {"message": "the prompt has 9000 tokens, the model takes 8192"}}),
        )
    });
    let output = kaito(&address, &["chat", "phi", "Hello?"]);
    assert!(
        stderr(&output).contains("the model takes 8192"),
        "{}",
        stderr(&output)
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn nobody_answers_for_a_workspace_that_is_not_ready() {
    let (address, _) = server(|_, _| Answer::Json(200, waiting()));
    let output = kaito(&address, &["chat", "phi", "Hello?"]);
    assert!(
        stderr(&output).contains("kubectl kaito why phi"),
        "{}",
        stderr(&output)
    );
    assert_eq!(output.status.code(), Some(3));
}
