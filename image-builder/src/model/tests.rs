use super::*;

#[test]
fn safetensors_headers_say_how_many_bytes_are_missing() {
    let header = br#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    let read = safetensors::parse(&bytes).unwrap();
    assert_eq!(read.data_begin, bytes.len() as u64);
    assert_eq!(read.tensors["a"].elements(), Some(4));
    assert_eq!(read.tensors["a"].bytes(), 16);
    for end in 8..bytes.len() {
        let missing = (bytes.len() - end) as u64;
        assert!(
            matches!(safetensors::parse(&bytes[..end]), Err(safetensors::SafetensorsError::Incomplete { missing: found }) if found == missing)
        );
    }
    assert!(matches!(
        safetensors::parse(&u64::MAX.to_le_bytes()),
        Err(safetensors::SafetensorsError::Length(u64::MAX))
    ));
}

#[test]
fn shapes_that_overflow_have_no_count() {
    let tensor = safetensors::Tensor {
        dtype: "F32".to_owned(),
        shape: vec![1 << 63, 2],
        data_offsets: (9, 1),
    };
    assert_eq!(tensor.elements(), None);
    assert_eq!(tensor.bytes(), 0);
}

#[test]
fn gguf_of_other_versions_and_forged_counts_is_refused() {
    use gguf::GgufError;
    let header = |version: u32, tensors: u64, pairs: u64| {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&tensors.to_le_bytes());
        bytes.extend_from_slice(&pairs.to_le_bytes());
        bytes
    };
    assert!(gguf::parse(&header(3, 0, 0)).is_ok());
    assert_eq!(gguf::parse(&header(1, 0, 0)), Err(GgufError::Version(1)));
    assert_eq!(
        gguf::parse(&header(3_u32.swap_bytes(), 0, 0)),
        Err(GgufError::Version(3 << 24))
    );
    assert_eq!(gguf::parse(b"GGML\0\0\0\0"), Err(GgufError::Magic));
    for (tensors, pairs) in [(u64::MAX, 0), (0, u64::MAX)] {
        assert_eq!(
            gguf::parse(&header(3, tensors, pairs)),
            Err(GgufError::Incomplete)
        );
    }
    let mut nested = header(3, 0, 1);
    nested.extend_from_slice(&1_u64.to_le_bytes());
    nested.push(b'k');
    nested.extend_from_slice(&9_u32.to_le_bytes());
    for _ in 0..100 {
        nested.extend_from_slice(&9_u32.to_le_bytes());
        nested.extend_from_slice(&1_u64.to_le_bytes());
    }
    assert!(matches!(gguf::parse(&nested), Err(GgufError::Invalid(_))));
}

#[test]
fn adapters_keep_no_path_of_their_authors_disk() {
    let base = |name: &str| {
        let config = serde_json::json!({ "base_model_name_or_path": name });
        adapter::parse(config.to_string().as_bytes())
            .unwrap()
            .base_model
    };
    assert_eq!(base("org/model"), Some("org/model".to_owned()));
    assert_eq!(base("gpt2"), Some("gpt2".to_owned()));
    for path in [
        "/home/me/model",
        "./model",
        "../model",
        "~/model",
        "C:\\model",
        "a/b/c",
        "",
    ] {
        assert_eq!(base(path), None, "{path}");
    }
}

#[test]
fn adapters_list_their_modules_in_one_order_whatever_the_file_has() {
    let parse = |text: &str| adapter::parse(text.as_bytes()).unwrap();
    let one = parse(r#"{"r":16,"lora_alpha":32.5,"target_modules":["v_proj","q_proj"]}"#);
    let two = parse(r#"{"lora_alpha":32.5,"target_modules":["q_proj","v_proj"],"r":16}"#);
    assert_eq!(one, two);
    assert_eq!(one.alpha.as_deref(), Some("32.5"));
    assert_eq!(
        parse(r#"{"target_modules":"all-linear"}"#).target_modules,
        ["all-linear"]
    );
    assert_eq!(parse(r#"{"target_modules":7,"r":"x"}"#), Adapter::default());
    assert!(adapter::parse(b"[").is_none());
}
