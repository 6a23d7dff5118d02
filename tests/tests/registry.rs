//! The registry of the suites is the real one: what is pushed can be pulled, and only with the password.

use std::io::Write;
use std::process::Command;

use kaito_tests::registry::{Options, Registry};

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

fn push_and_pull(registry: &Registry) {
    let folder = tempfile::tempdir().unwrap();
    let mut file = std::fs::File::create(folder.path().join("weights")).unwrap();
    file.write_all(&[7; 100_000]).unwrap();
    let reference = format!("{}/models/small:1", registry.host());
    let mut push = registry.oras(&["push"]).unwrap();
    succeed(
        push.current_dir(folder.path())
            .arg(&reference)
            .arg("weights"),
    );

    let target = tempfile::tempdir().unwrap();
    let mut pull = registry.oras(&["pull"]).unwrap();
    succeed(pull.current_dir(target.path()).arg(&reference));
    let pulled = std::fs::read(target.path().join("weights")).unwrap();
    assert_eq!(pulled, vec![7; 100_000]);
}

#[tokio::test]
async fn an_open_registry_keeps_what_is_pushed_and_ends_with_its_folder() {
    let registry = Registry::start(Options::open()).await.unwrap();
    push_and_pull(&registry);
    let (folder, pid) = (registry.folder().to_owned(), registry.pid());
    assert!(folder.join("data").is_dir());
    registry.stop().unwrap();
    assert!(!folder.exists());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn a_secured_registry_wants_its_authority_and_its_password() {
    let registry = Registry::start(Options::secured()).await.unwrap();
    push_and_pull(&registry);
    assert!(registry.url().starts_with("https://"));
    let curl = |user: Option<&str>, authority: bool| {
        let mut command = Command::new("curl");
        command.args(["-s", "-o", "/dev/null", "-w", "%{http_code}"]);
        if let Some(user) = user {
            command.args(["--user", user]);
        }
        if authority {
            command.arg("--cacert").arg(registry.authority().unwrap());
        }
        let output = command.arg(format!("{}/v2/", registry.url())).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let credentials = registry.credentials().unwrap();
    let right = format!("{}:{}", credentials.user, credentials.password);
    assert_eq!(curl(Some(&right), true), "200");
    assert_eq!(curl(Some("kaito:wrong"), true), "401");
    assert_eq!(curl(None, true), "401");
    assert_eq!(curl(Some(&right), false), "000");
}
