//! Bad input gives clear errors with a place, exit 1, and no request to any server.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Plugin, Run};

const GOOD: &str = "apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata:
  name: phi
resource:
  instanceType: Standard_NC24ads_A100_v4
  labelSelector:
    matchLabels:
      apps: phi
inference:
  preset:
    name: phi-4
";

/// A server that answers nothing and counts who calls.
struct Silent {
    url: String,
    calls: Arc<AtomicUsize>,
}

impl Silent {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&calls);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                counter.fetch_add(1, Ordering::SeqCst);
                drop(stream);
            }
        });
        Self { url, calls }
    }
}

/// Applies the content for real and as a dry run: both must refuse it in the same words without calling anybody.
fn refused(name: &str, content: impl AsRef<[u8]>) -> Vec<String> {
    let server = Silent::start();
    let plugin = Plugin::new();
    let file = plugin.file(name, content);
    let dry = plugin.run(&["apply", "-f", &file, "--dry-run=client"]);
    let real = plugin.run(&["apply", "-f", &file, "--server", &server.url]);
    for Run { code, stdout, .. } in [&dry, &real] {
        assert_eq!((*code, stdout.as_str()), (1, ""), "{dry:?} {real:?}");
    }
    assert_eq!(dry.stderr, real.stderr);
    assert_eq!(
        server.calls.load(Ordering::SeqCst),
        0,
        "somebody was called: {real:?}"
    );
    dry.stderr.lines().map(str::to_owned).collect()
}

/// The place in front of each line: `FILE:LINE:COLUMN`.
fn places(lines: &[String]) -> Vec<String> {
    lines
        .iter()
        .map(|line| line.splitn(4, ':').take(3).collect::<Vec<_>>().join(":"))
        .collect()
}

#[test]
fn a_good_workspace_is_accepted_with_no_cluster_in_reach() {
    let plugin = Plugin::new();
    let file = plugin.file("w.yaml", GOOD);
    let run = plugin.run(&["apply", "-f", &file, "--dry-run=client"]);
    assert_eq!(
        (run.code, run.stdout.as_str(), run.stderr.as_str()),
        (
            0,
            "workspace.kaito.sh/phi serverside-applied (dry run)\n",
            ""
        )
    );
    let run = plugin.run(&["apply", "-f", &file, "--dry-run=client", "-o", "yaml"]);
    assert_eq!(run.code, 0);
    let printed: serde_json::Value = serde_saphyr::from_str(&run.stdout).unwrap();
    let original: serde_json::Value = serde_saphyr::from_str(GOOD).unwrap();
    assert_eq!(printed, original);
}

#[test]
fn an_unknown_preset_is_refused_where_it_stands() {
    let lines = refused("w.yaml", GOOD.replace("phi-4", "phi4"));
    assert_eq!(places(&lines), ["w.yaml:12:11"]);
    assert!(
        lines[0].contains("inference.preset.name: ") && lines[0].contains("phi-4"),
        "{lines:?}"
    );
}

#[test]
fn wrong_types_and_unknown_fields_are_all_named() {
    let text = GOOD
        .replace(
            "resource:\n",
            "resource:\n  count: two\n  instancetype: x\n",
        )
        .replace("name: phi\n", "name: 7\n");
    let lines = refused("w.yaml", text);
    assert_eq!(
        places(&lines),
        ["w.yaml:4:9", "w.yaml:6:10", "w.yaml:7:3"],
        "{lines:?}"
    );
}

#[test]
fn ten_megabytes_are_refused_by_size() {
    let mut text = GOOD.to_owned();
    text.push_str(&"# filler\n".repeat(10 * 1024 * 1024 / 9 + 1));
    let lines = refused("w.yaml", text);
    assert_eq!(places(&lines), ["w.yaml:1:1"]);
    assert!(lines[0].contains("larger than 8 MiB"), "{lines:?}");
}

#[test]
fn ten_megabytes_on_stdin_are_refused_too() {
    let run = Plugin::new().run_with_input(
        &["apply", "-f", "-", "--dry-run=client"],
        &vec![b'#'; 10 * 1024 * 1024],
    );
    assert_eq!(run.code, 1);
    assert!(
        run.stderr.starts_with("-:1:1: larger than 8 MiB"),
        "{}",
        run.stderr
    );
}

#[test]
fn one_bad_document_of_two_stops_both() {
    let bad = GOOD.replace("phi-4", "nothing-like-it");
    let lines = refused("w.yaml", format!("{GOOD}---\n{bad}"));
    assert_eq!(places(&lines), ["w.yaml:25:11"]);
}

#[test]
fn a_yaml_bomb_is_refused() {
    let mut text = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    for pair in names.windows(2) {
        let list = vec![format!("*{}", pair[0]); 9].join(", ");
        text.push_str(&format!("{}: &{} [{list}]\n", pair[1], pair[1]));
    }
    let lines = refused("bomb.yaml", text);
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0].contains("aliases expand to more than"),
        "{lines:?}"
    );
}

#[test]
fn an_empty_file_holds_nothing_to_apply() {
    for content in ["", "\n\n", "---\n---\n", "# only a comment\n"] {
        assert_eq!(
            refused("w.yaml", content),
            ["error: no objects passed to apply"]
        );
    }
}

#[test]
fn binary_junk_is_refused() {
    let junk: Vec<u8> = (0..4096_u32)
        .map(|index| u8::try_from((index * 7919) % 256).unwrap())
        .collect();
    let lines = refused("w.yaml", junk);
    assert!(lines[0].starts_with("w.yaml:1:"), "{lines:?}");
    let lines = refused("w.yaml", [0_u8; 100]);
    assert!(lines[0].starts_with("w.yaml:1:"), "{lines:?}");
}

#[test]
fn tabs_are_refused_by_line() {
    let lines = refused("w.yaml", GOOD.replace("    name: phi-4", "\tname: phi-4"));
    assert!(lines[0].starts_with("w.yaml:12:"), "{lines:?}");
}

#[test]
fn duplicate_keys_are_refused_by_line() {
    let lines = refused("w.yaml", format!("{GOOD}metadata:\n  name: other\n"));
    assert_eq!(
        lines,
        ["w.yaml:13:1: key \"metadata\" is already set at line 3"]
    );
}

#[test]
fn deep_nesting_is_refused() {
    for text in [
        "[".repeat(100_000),
        "{a: ".repeat(100_000),
        "- ".repeat(100_000),
    ] {
        let lines = refused("w.yaml", text);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with("w.yaml:1:"), "{lines:?}");
    }
}

#[test]
fn broken_json_has_a_place() {
    let lines = refused(
        "w.json",
        "{\"apiVersion\": \"kaito.sh/v1beta1\",\n \"kind\": }",
    );
    assert!(
        !lines.is_empty() && lines[0].starts_with("w.json:"),
        "{lines:?}"
    );
}

#[test]
fn control_characters_of_a_file_do_not_reach_the_terminal() {
    let lines = refused(
        "w.yaml",
        GOOD.replace("name: phi-4", "name: \"\\e[31mred\""),
    );
    assert!(
        lines.iter().all(|line| !line.contains('\u{1b}')),
        "{lines:?}"
    );
}

#[test]
fn errors_of_several_files_come_together() {
    let plugin = Plugin::new();
    plugin.file("d/a.yaml", GOOD.replace("phi-4", "x"));
    plugin.file("d/b.yaml", "a: [1\n");
    plugin.file("d/c.yaml", GOOD);
    let run = plugin.run(&["apply", "-f", "d", "--dry-run=client"]);
    assert_eq!((run.code, run.stdout.as_str()), (1, ""));
    assert!(
        run.stderr.contains("d/a.yaml:12:11: ") && run.stderr.contains("d/b.yaml:"),
        "{}",
        run.stderr
    );
}
