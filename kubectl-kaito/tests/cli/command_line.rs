//! What the command line says: help, usage errors, offline commands, connection errors.

use std::net::TcpListener;

use crate::support::Plugin;

const COMMANDS: [&str; 13] = [
    "apply",
    "get",
    "status",
    "why",
    "wait",
    "plan",
    "logs",
    "delete",
    "install",
    "uninstall",
    "completion",
    "version",
    "options",
];

#[test]
fn help_of_every_command_is_as_reviewed() {
    let plugin = Plugin::new();
    for command in COMMANDS {
        let run = plugin.run(&[command, "--help"]);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{command}");
        insta::assert_snapshot!(format!("help-{command}"), run.stdout);
    }
    insta::assert_snapshot!("help", plugin.run(&["--help"]).stdout);
}

#[test]
fn without_a_command_the_help_is_printed() {
    let run = Plugin::new().run(&[]);
    assert_eq!(run.code, 0);
    assert!(run.stdout.contains("Usage: kubectl kaito"), "{run:?}");
}

/// Command lines that are wrong, and what is said about each.
const WRONG: [(&[&str], &str); 11] = [
    (
        &["get", "--foo"],
        "Error: unknown flag: --foo\nSee 'kubectl kaito get --help' for usage.\n",
    ),
    (
        &["get", "-x"],
        "Error: unknown shorthand flag: 'x' in -x\nSee 'kubectl kaito get --help' for usage.\n",
    ),
    (
        &["get", "--watch=maybe"],
        "Error: invalid argument \"maybe\" for \"-w, --watch\" flag: strconv.ParseBool: parsing \"maybe\": invalid \
             syntax\nSee 'kubectl kaito get --help' for usage.\n",
    ),
    (
        &["wait", "a", "--timeout", "5"],
        "Error: invalid argument \"5\" for \"--timeout\" flag: time: missing unit in duration \"5\"\nSee 'kubectl \
             kaito wait --help' for usage.\n",
    ),
    (
        &["frob"],
        "Error: unknown command \"frob\" for \"kubectl kaito\"\nSee 'kubectl kaito --help' for usage.\n",
    ),
    (
        &["aply"],
        "Error: unknown command \"aply\" for \"kubectl kaito\"\n\nDid you mean this?\n\tapply\n\nSee 'kubectl kaito \
             --help' for usage.\n",
    ),
    (
        &["get", "-n"],
        "Error: flag needs an argument: -n, --namespace\nSee 'kubectl kaito get --help' for usage.\n",
    ),
    (
        &["get", "-o", "bogus"],
        "error: unable to match a printer suitable for the output format \"bogus\", allowed formats are: \
             custom-columns,json,jsonpath,name,wide,yaml\n",
    ),
    (
        &["apply", "-f", "x", "--dry-run=x"],
        "error: Invalid dry-run value (x). Must be \"none\", \"server\", or \"client\".\n",
    ),
    (
        &["apply", "-f", "missing.yaml"],
        "error: the path \"missing.yaml\" does not exist\n",
    ),
    (
        &["get", "rag/a"],
        "error: the server doesn't have a resource type \"rag\"\n",
    ),
];

#[test]
fn usage_errors_have_the_shape_and_exit_status_of_kubectl() {
    let plugin = Plugin::new();
    for (arguments, expected) in WRONG {
        let run = plugin.run(arguments);
        assert_eq!(
            (run.code, run.stdout.as_str(), run.stderr.as_str()),
            (1, "", expected),
            "{arguments:?}"
        );
    }
}

#[test]
fn formats_that_are_not_there_are_refused_and_those_that_are_there_named() {
    let plugin = Plugin::new();
    for (command, formats) in [
        (&["get"][..], "custom-columns,json,jsonpath,name,wide,yaml"),
        (&["status", "phi"], "json,jsonpath,table,yaml"),
        (&["why", "phi"], "json,jsonpath,table,yaml"),
        (&["version", "--client"], "json,jsonpath,yaml"),
    ] {
        for format in ["go-template={{.metadata.name}}", "go-template-file=x"] {
            let run = plugin.run(&[command, &["-o", format]].concat());
            assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{command:?}");
            let allowed = format!("allowed formats are: {formats}\n");
            assert!(run.stderr.ends_with(&allowed), "{}", run.stderr);
        }
    }
}

#[test]
fn scripts_for_shells_name_the_commands() {
    let plugin = Plugin::new();
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let run = plugin.run(&["completion", shell]);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{shell}");
        for word in ["kubectl-kaito", "build-image", "instance-type"] {
            assert!(run.stdout.contains(word), "{shell}: no {word}");
        }
    }
}

#[test]
fn the_script_for_bash_completes_in_bash() {
    let plugin = Plugin::new();
    plugin.file("script", plugin.run(&["completion", "bash"]).stdout);
    let ask = r#"source ./script
        function=$(complete -p kubectl-kaito | sed 's/.*-F \([^ ]*\).*/\1/')
        COMP_WORDS=(kubectl-kaito sta) COMP_CWORD=1
        $function kubectl-kaito sta kubectl-kaito
        echo "${COMPREPLY[@]}""#;
    let said = std::process::Command::new("bash")
        .args(["-c", ask])
        .current_dir(plugin.home())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&said.stdout);
    assert_eq!(words, "status\n", "{said:?}");
}

#[test]
fn a_stray_boolean_is_told_how_to_be_written() {
    let run = Plugin::new().run(&["version", "--client", "false"]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("use --client=false"), "{}", run.stderr);
}

#[test]
fn the_client_version_needs_nothing() {
    let plugin = Plugin::new();
    let run = plugin.run(&["version", "--client"]);
    assert_eq!(
        (run.code, run.stdout),
        (
            0,
            format!("Client Version: v{}\n", env!("CARGO_PKG_VERSION"))
        )
    );
    let run = plugin.run(&["version", "--client", "-o", "json"]);
    let document: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        document["client"]["version"],
        format!("v{}", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(document["apiVersion"], "cli.kaito.sh/v1alpha1");
}

#[test]
fn without_configuration_the_tried_files_are_named() {
    let plugin = Plugin::new();
    let run = plugin.run(&["get"]);
    let tried = plugin.home().join(".kube/config");
    assert_eq!(run.code, 1);
    assert!(
        run.stderr.contains(&format!("Tried: {}", tried.display())),
        "{}",
        run.stderr
    );
}

#[test]
fn connection_errors_are_those_of_kubectl() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let plugin = Plugin::new();
    let config = plugin.file(
        "config",
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: k\n  cluster: {{server: \"http://{closed}\"}}\n\
             contexts:\n- name: c\n  context: {{cluster: k, user: u}}\nusers:\n- name: u\n  user: {{token: t}}\n"
        ),
    );
    let refused = format!(
        "The connection to the server {closed} was refused - did you specify the right host or port?\n"
    );
    let table: [(&[&str], &str); 8] = [
        (&[], &refused),
        (
            &["--context=x"],
            "Error in configuration: context was not found for specified context: x\n",
        ),
        (
            &["--cluster=x"],
            "error: no server found for cluster \"x\"\n",
        ),
        (&["--user=x"], "error: auth info \"x\" does not exist\n"),
        (
            &["--server=://bad"],
            "error: host must be a URL or a host:port pair: \"://bad\"\n",
        ),
        (
            &["--insecure-skip-tls-verify", "--certificate-authority=ca"],
            "error: specifying a root certificates file with the insecure flag is not allowed\n",
        ),
        (
            &["--as-group=g"],
            "error: requesting uid, groups or user-extra for u without impersonating a user\n",
        ),
        (
            &["--client-certificate=c"],
            "error: client-key-data or client-key must be specified for u to use the clientCert authentication method.\n",
        ),
    ];
    for (flags, expected) in table {
        let run = plugin.run(&[&["get", "--kubeconfig", &config], flags].concat());
        assert_eq!(
            (run.code, run.stdout.as_str(), run.stderr.as_str()),
            (1, "", expected),
            "{flags:?}"
        );
    }
}

#[test]
fn kubeconfigs_that_cannot_be_read_are_named() {
    let plugin = Plugin::new();
    let broken = plugin.file("broken", "a: [");
    let run = plugin.run(&["get", "--kubeconfig=nowhere"]);
    assert_eq!(
        run.stderr,
        "error: stat nowhere: no such file or directory\n"
    );
    let run = plugin.run(&["get", "--kubeconfig", &broken]);
    assert!(
        run.stderr
            .starts_with("error: error loading config file \"broken\": "),
        "{}",
        run.stderr
    );
}

#[test]
fn manifests_can_be_printed_without_a_cluster() {
    let plugin = Plugin::new();
    let run = plugin.run(&["install", "generate", "--image", "registry/x:1"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&run.stdout).unwrap();
    assert!(
        documents
            .iter()
            .any(|document| document["kind"] == "CustomResourceDefinition")
    );
    assert!(run.stdout.contains("image: registry/x:1"));
    let run = plugin.run(&["install", "--dry-run=client"]);
    assert_eq!(run.code, 1);
    assert!(
        run.stderr
            .starts_with("error: the Deployments need an image"),
        "{}",
        run.stderr
    );
}

#[test]
fn completed_files_of_several_kubeconfigs_are_merged_and_missing_ones_skipped() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let plugin = Plugin::new();
    plugin.file("a", "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts:\n- name: c\n  context: {cluster: k}\n");
    plugin.file("b", format!("apiVersion: v1\nkind: Config\ncurrent-context: x\nclusters:\n- name: k\n  cluster: {{server: \"{closed}\"}}\n"));
    let plugin = plugin.with("KUBECONFIG", "missing:a:b");
    let run = plugin.run(&["get"]);
    assert!(
        run.stderr.contains(&format!(
            "The connection to the server {closed} was refused"
        )),
        "{}",
        run.stderr
    );
}
