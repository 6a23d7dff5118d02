use bytes::Bytes;

use super::*;

fn scan_of(files: &[(&str, &[u8])]) -> Vec<(FindingKind, String)> {
    let listed: Vec<File> = files
        .iter()
        .map(|(path, bytes)| File {
            path: (*path).to_owned(),
            size: bytes.len() as u64,
            executable: false,
            known_digest: None,
        })
        .collect();
    let mut contents = Contents::default();
    for (path, bytes) in files {
        contents.add(path, &Bytes::copy_from_slice(bytes));
    }
    let listed: Vec<&File> = listed.iter().collect();
    scan(&listed, &contents)
        .into_iter()
        .map(|finding| (finding.kind, finding.path))
        .collect()
}

fn found(kind: FindingKind, path: &str) -> Vec<(FindingKind, String)> {
    vec![(kind, path.to_owned())]
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

const HEADER: &str = r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;

#[test]
fn a_clean_model_has_no_findings() {
    let index = br#"{"weight_map":{"a":"model-00001-of-00001.safetensors"}}"#;
    assert_eq!(
        scan_of(&[
            ("config.json", br#"{"model_type":"llama","hidden_size":64}"#),
            ("tokenizer.json", br#"{"vocab":{"hf_":1,"sk-":2,"ghp_":3,"AKIA":4,"password":5}}"#),
            ("README.md", b"Log in with `huggingface-cli login --token hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx`.\n"),
            ("model-00001-of-00001.safetensors", &safetensors(HEADER, 16)),
            ("model.safetensors.index.json", index),
            ("raw.bin", b"not a pickle at all"),
            (".gitattributes", b"*.safetensors filter=lfs\n"),
            (".env.example", b"HF_TOKEN=\n"),
        ]),
        []
    );
}

#[test]
fn pickles_are_found_by_what_they_begin_with() {
    for (path, bytes) in [
        ("pytorch_model.bin", &b"PK\x03\x04archive/data.pkl"[..]),
        ("training_args.bin", b"\x80\x02c__main__\n"),
        ("model.pt", b"\x80\x04\x95"),
    ] {
        assert_eq!(scan_of(&[(path, bytes)]), found(FindingKind::Pickle, path));
    }
}

#[test]
fn truncated_and_overlong_safetensors_are_found() {
    for bytes in [
        safetensors(HEADER, 15),
        safetensors(HEADER, 17),
        safetensors(HEADER, 0),
        safetensors("not json", 0),
        b"short".to_vec(),
        1000_u64.to_le_bytes().to_vec(),
        u64::MAX.to_le_bytes().to_vec(),
    ] {
        assert_eq!(
            scan_of(&[("m.safetensors", &bytes)]),
            found(FindingKind::Truncated, "m.safetensors"),
            "{bytes:?}"
        );
    }
}

#[test]
fn shards_that_an_index_names_must_be_there() {
    let index = br#"{"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#;
    let weights = safetensors(HEADER, 16);
    assert_eq!(
        scan_of(&[
            ("sub/model.safetensors.index.json", index),
            ("sub/one.safetensors", &weights)
        ]),
        found(
            FindingKind::MissingShard,
            "sub/model.safetensors.index.json"
        )
    );
}

#[test]
fn secrets_are_found_by_name_and_by_pattern_and_never_repeated() {
    let body = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0dF3gH6kM9pR2tU5wX8zA1c";
    for (path, text) in [
        ("notes.txt", format!("token: hf_{body}")),
        ("run.sh", format!("export GITHUB_TOKEN=ghp_{body}")),
        ("config.json", format!("{{\"key\":\"sk-ant-{body}\"}}")),
        ("aws.ini", "id = AKIAJ2Q4T6V8X0Z1B3D5".to_owned()),
        ("key.pem", "-----BEGIN RSA PRIVATE KEY-----\nabc".to_owned()),
        (".env", "A=1".to_owned()),
        (".env.production", "A=1".to_owned()),
        ("sub/.netrc", "machine x".to_owned()),
        ("id_ed25519", "x".to_owned()),
    ] {
        assert_eq!(
            scan_of(&[(path, text.as_bytes())]),
            found(FindingKind::Secrets, path),
            "{path}"
        );
    }
    let file = File {
        path: "notes.txt".to_owned(),
        size: 0,
        executable: false,
        known_digest: None,
    };
    let mut contents = Contents::default();
    contents.add("notes.txt", &Bytes::from(format!("\n\nhf_{body}")));
    let finding = scan(&[&file], &contents).pop().unwrap();
    assert!(finding.reason.contains("line 3"), "{}", finding.reason);
    assert!(!finding.reason.contains(body));
}

#[test]
fn deny_names_kinds_and_picks_their_findings() {
    let findings = [FindingKind::Pickle, FindingKind::Secrets].map(|kind| Finding {
        kind,
        path: "x".to_owned(),
        reason: String::new(),
    });
    let denied = |text: &str| -> usize {
        let deny: Deny = text.parse().unwrap();
        deny.denied(&findings).len()
    };
    assert_eq!(denied("pickle,secrets,truncated,missing-shard"), 2);
    assert_eq!(denied("all"), 2);
    assert_eq!(denied(" secrets , truncated"), 1);
    assert_eq!(denied(""), 0);
    assert_eq!(
        "pickles".parse::<Deny>(),
        Err(UnknownFinding("pickles".to_owned()))
    );
}
