use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

use super::*;
use crate::digest::Digest;

fn pem(kind: &str, bytes: &[u8]) -> String {
    format!(
        "-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n",
        BASE64.encode(bytes)
    )
}

fn pkcs8() -> Vec<u8> {
    let random = SystemRandom::new();
    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
        .unwrap()
        .as_ref()
        .to_vec()
}

fn key() -> SigningKey {
    SigningKey::from_pem(&pem("PRIVATE KEY", &pkcs8()), None).unwrap()
}

fn facts() -> Facts {
    Facts {
        name: "SmolLM2-135M-Instruct".to_owned(),
        repository: "models/smollm2".to_owned(),
        source: "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct".to_owned(),
        revision: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
        artifact: "modelpack".to_owned(),
        licenses: vec!["apache-2.0".to_owned()],
        architecture: Some("transformer".to_owned()),
        precision: Some("bfloat16".to_owned()),
        materials: vec![Material {
            path: "model.safetensors".to_owned(),
            size: 7,
            digest: Digest::of(b"weights"),
        }],
        ..Facts::default()
    }
}

#[test]
fn a_bundle_is_valid_for_its_key_and_its_image_only() {
    let (key, other) = (key(), key().verifying());
    let digest = Digest::of(b"manifest");
    let statement = Statement::about("models/x", digest, COSIGN_SIGNATURE, json!({}));
    let bundle = sign(&statement, &key).unwrap();
    assert_eq!(
        verify(&bundle.content, &key.verifying(), digest)
            .unwrap()
            .statement,
        statement
    );
    assert!(matches!(
        verify(&bundle.content, &other, digest),
        Err(BundleError::Signature)
    ));
    assert!(matches!(
        verify(&bundle.content, &key.verifying(), Digest::of(b"other")),
        Err(BundleError::Subject(_))
    ));
}

#[test]
fn a_tampered_statement_or_signature_is_refused() {
    let (key, digest) = (key(), Digest::of(b"manifest"));
    let statement = Statement::about("models/x", digest, COSIGN_SIGNATURE, json!({}));
    let bundle: Value = serde_json::from_slice(&sign(&statement, &key).unwrap().content).unwrap();
    let forged = Statement::about("models/x", Digest::of(b"evil"), COSIGN_SIGNATURE, json!({}));
    let mut swapped = bundle.clone();
    swapped["dsseEnvelope"]["payload"] = json!(BASE64.encode(serde_json::to_vec(&forged).unwrap()));
    let mut retyped = bundle.clone();
    retyped["dsseEnvelope"]["payloadType"] = json!("text/plain");
    let mut unsigned = bundle;
    unsigned["dsseEnvelope"]["signatures"] = json!([]);
    for bad in [swapped, retyped, unsigned, json!({})] {
        let bytes = serde_json::to_vec(&bad).unwrap();
        assert!(
            verify(&bytes, &key.verifying(), Digest::of(b"evil")).is_err(),
            "{bad}"
        );
    }
}

#[test]
fn public_keys_survive_pem() {
    let verifying = key().verifying();
    let again = VerifyingKey::from_pem(&verifying.to_pem()).unwrap();
    assert!(again == verifying);
    assert_eq!(BASE64.decode(again.hint()).unwrap().len(), 32);
}

#[test]
fn openssl_and_this_program_read_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let openssl = |arguments: &[&str]| {
        let done = std::process::Command::new("openssl")
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    };
    openssl(&[
        "ecparam",
        "-name",
        "prime256v1",
        "-genkey",
        "-out",
        &file("sec1.pem"),
    ]);
    openssl(&[
        "pkcs8",
        "-topk8",
        "-nocrypt",
        "-in",
        &file("sec1.pem"),
        "-out",
        &file("pkcs8.pem"),
    ]);
    openssl(&[
        "ec",
        "-in",
        &file("sec1.pem"),
        "-pubout",
        "-out",
        &file("public.pem"),
    ]);
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let public = VerifyingKey::from_pem(&read("public.pem")).unwrap();
    for name in ["sec1.pem", "pkcs8.pem"] {
        let key = SigningKey::from_pem(&read(name), None).unwrap();
        let signature = key.sign(b"message").unwrap();
        assert!(public.verifies(b"message", &signature), "{name}");
        std::fs::write(folder.path().join("message"), b"message").unwrap();
        std::fs::write(folder.path().join("signature"), signature).unwrap();
        openssl(&[
            "dgst",
            "-sha256",
            "-verify",
            &file("public.pem"),
            "-signature",
            &file("signature"),
            &file("message"),
        ]);
    }
}

#[test]
fn cosigns_encrypted_keys_open_with_their_password() {
    use crypto_secretbox::aead::Aead as _;
    use crypto_secretbox::{KeyInit as _, Nonce, XSalsa20Poly1305};
    let (salt, nonce) = ([7; 32], [9; 24]);
    let mut secret = [0; 32];
    scrypt::scrypt(
        b"pass",
        &salt,
        &scrypt::Params::new(10, 8, 1, 32).unwrap(),
        &mut secret,
    )
    .unwrap();
    let sealed = XSalsa20Poly1305::new(&secret.into())
        .encrypt(&Nonce::from(nonce), pkcs8().as_slice())
        .unwrap();
    let container = json!({
        "kdf": {"name": "scrypt", "params": {"N": 1024, "r": 8, "p": 1}, "salt": BASE64.encode(salt)},
        "cipher": {"name": "nacl/secretbox", "nonce": BASE64.encode(nonce)},
        "ciphertext": BASE64.encode(sealed),
    });
    let text = pem(
        "ENCRYPTED SIGSTORE PRIVATE KEY",
        container.to_string().as_bytes(),
    );
    let open = |password: Option<&str>| {
        SigningKey::from_pem(&text, password.map(Into::into).as_ref()).map(|_| ())
    };
    assert!(open(Some("pass")).is_ok());
    assert!(matches!(open(Some("wrong")), Err(KeyError::Password)));
    assert!(matches!(open(None), Err(KeyError::PasswordNeeded)));
}

#[test]
fn other_texts_are_refused_with_a_reason() {
    for text in [
        "",
        "-----BEGIN X-----",
        "-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----",
    ] {
        assert!(SigningKey::from_pem(text, None).is_err(), "{text}");
        assert!(VerifyingKey::from_pem(text).is_err(), "{text}");
    }
    assert!(matches!(
        SigningKey::from_pem(&pem("PRIVATE KEY", &[1, 2, 3]), None),
        Err(KeyError::Algorithm)
    ));
}

#[test]
fn the_bill_of_materials_names_every_file_by_its_digest_and_is_the_same_each_time() {
    let digest = Digest::of(b"manifest");
    let made = sbom(&facts(), digest).unwrap();
    assert_eq!(made, sbom(&facts(), digest).unwrap());
    let document: Value = serde_json::from_slice(&made.content).unwrap();
    assert_eq!(
        document["metadata"]["component"]["type"],
        "machine-learning-model"
    );
    assert_eq!(
        document["components"][0]["hashes"][0]["content"],
        Digest::of(b"weights").hex()
    );
    assert_eq!(
        document["dependencies"][0]["dependsOn"][0],
        document["components"][0]["bom-ref"]
    );
}

#[test]
fn provenance_names_commit_files_and_tool() {
    let digest = Digest::of(b"manifest");
    let statement = provenance(&facts(), digest);
    assert!(statement.is_about(digest) && !statement.is_about(Digest::of(b"x")));
    let definition = &statement.predicate["buildDefinition"];
    assert_eq!(
        definition["resolvedDependencies"][0]["digest"]["gitCommit"],
        "0123456789abcdef0123456789abcdef01234567"
    );
    assert_eq!(
        definition["resolvedDependencies"][1],
        json!({"name": "model.safetensors", "digest": {"sha256": Digest::of(b"weights").hex()}})
    );
    assert_eq!(
        statement.predicate["runDetails"]["builder"]["version"]["image-builder"],
        env!("CARGO_PKG_VERSION")
    );
}

#[test]
fn an_attachment_is_tied_to_its_image() {
    let image = Document::new(media_type::MANIFEST, Bytes::from_static(b"{}")).descriptor();
    let attachment = sbom(&facts(), image.digest).unwrap();
    let manifest: Manifest =
        serde_json::from_slice(&attachment.manifest(&image).unwrap().bytes).unwrap();
    assert_eq!(manifest.subject.as_ref(), Some(&image));
    assert_eq!(manifest.artifact_type.as_deref(), Some(SBOM_TYPE));
    assert_eq!(manifest.config.digest, Digest::of(EMPTY_BLOB));
    assert_eq!(manifest.layers[0].digest, Digest::of(&attachment.content));
}
