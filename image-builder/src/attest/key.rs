//! Keys for signatures: ECDSA over P-256, from PEM as openssl and cosign write it, encrypted or not. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use crypto_secretbox::aead::Aead as _;
use crypto_secretbox::{KeyInit as _, Nonce, XSalsa20Poly1305};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use crate::digest::Digest;

/// What a public key for P-256 begins with in DER; the point follows.
const PUBLIC_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The algorithm of a P-256 key in DER: two object identifiers.
const ALGORITHM: [u8; 21] = [
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];
/// Largest scrypt cost (log2 N) that is accepted: 1 GiB at r = 8 would be 20.
const LARGEST_COST: u8 = 18;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No PEM block of a kind that is read.
    #[error(
        "there is no key in it; it must be PEM with `PRIVATE KEY`, `EC PRIVATE KEY`, `ENCRYPTED SIGSTORE PRIVATE KEY` or `PUBLIC KEY`"
    )]
    NoKey,
    /// A kind that is not read.
    #[error(
        "keys of the kind `{0}` are not read; write it as an unencrypted `PRIVATE KEY` with `openssl pkcs8 -topk8 -nocrypt`"
    )]
    Kind(String),
    /// The content is broken.
    #[error("the key is damaged: {0}")]
    Damaged(String),
    /// Another kind of key.
    #[error(
        "it is no ECDSA key for P-256, the only kind that is used here; make one with `openssl ecparam -name prime256v1 -genkey -noout`"
    )]
    Algorithm,
    /// A password is needed.
    #[error("the key is encrypted; set COSIGN_PASSWORD to its password")]
    PasswordNeeded,
    /// The password does not fit.
    #[error("the password does not open the key")]
    Password,
}

/// A key that signs.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

/// A key that checks signatures.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    point: Vec<u8>,
}

impl SigningKey {
    /// Reads a key from PEM; `password` is for encrypted ones.
    ///
    /// # Errors
    /// Text that holds no usable key, or a password that does not open it.
    pub fn from_pem(text: &str, password: Option<&SecretString>) -> Result<Self, KeyError> {
        let (kind, bytes) = pem(text)?;
        let pkcs8 = match kind.as_str() {
            "PRIVATE KEY" => bytes,
            "EC PRIVATE KEY" => wrapped(&bytes),
            "ENCRYPTED COSIGN PRIVATE KEY" | "ENCRYPTED SIGSTORE PRIVATE KEY" => {
                decrypted(&bytes, password.ok_or(KeyError::PasswordNeeded)?)?
            }
            "PUBLIC KEY" => return Err(KeyError::NoKey),
            other => return Err(KeyError::Kind(other.to_owned())),
        };
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8, &random)
            .map_err(|_| KeyError::Algorithm)?;
        Ok(Self { pair, random })
    }

    /// The signature of `message`, in ASN.1.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self.pair.sign(&self.random, message);
        signature
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| KeyError::Damaged("the system has no random numbers".to_owned()))
    }

    /// The public half.
    #[must_use]
    pub fn verifying(&self) -> VerifyingKey {
        VerifyingKey {
            point: self.pair.public_key().as_ref().to_vec(),
        }
    }
}

impl VerifyingKey {
    /// Reads a public key from PEM.
    ///
    /// # Errors
    /// Text that holds no P-256 public key.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let (kind, bytes) = pem(text)?;
        match kind.as_str() {
            "PUBLIC KEY" => {}
            "CERTIFICATE" => return Err(KeyError::Kind(kind)),
            _ => return Err(KeyError::NoKey),
        }
        let point = bytes
            .strip_prefix(&PUBLIC_PREFIX)
            .ok_or(KeyError::Algorithm)?;
        if point.len() != 65 || point.first() != Some(&4) {
            return Err(KeyError::Algorithm);
        }
        Ok(Self {
            point: point.to_vec(),
        })
    }

    /// Whether `signature` is this key's over `message`.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point)
            .verify(message, signature)
            .is_ok()
    }

    /// The key in PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let text = BASE64.encode(self.der());
        let lines: Vec<&str> = text
            .as_bytes()
            .chunks(64)
            .filter_map(|line| std::str::from_utf8(line).ok())
            .collect();
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            lines.join("\n")
        )
    }

    /// How bundles name the key: its sha256 in base64.
    #[must_use]
    pub fn hint(&self) -> String {
        let digest = hex::decode(Digest::of(&self.der()).hex());
        BASE64.encode(digest.unwrap_or_default())
    }

    fn der(&self) -> Vec<u8> {
        [PUBLIC_PREFIX.as_slice(), &self.point].concat()
    }
}

/// Kind and content of the first block that is a key; parameters of curves may stand before it.
fn pem(text: &str) -> Result<(String, Vec<u8>), KeyError> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("-----BEGIN ") {
        let (kind, after) = after.split_once("-----").ok_or(KeyError::NoKey)?;
        let (body, after) = after
            .split_once(&format!("-----END {kind}-----"))
            .ok_or_else(|| KeyError::Damaged("its last line is missing".to_owned()))?;
        if kind != "EC PARAMETERS" {
            let compact: String = body.split_whitespace().collect();
            let bytes = BASE64
                .decode(compact)
                .map_err(|error| KeyError::Damaged(error.to_string()))?;
            return Ok((kind.to_owned(), bytes));
        }
        rest = after;
    }
    Err(KeyError::NoKey)
}

/// A key in the form of openssl's `ec` commands, in the form that says which curve it is for.
fn wrapped(key: &[u8]) -> Vec<u8> {
    let mut inner = vec![0x02, 0x01, 0x00];
    inner.extend_from_slice(&ALGORITHM);
    inner.extend(der(0x04, key));
    der(0x30, &inner)
}

/// A DER element of up to 64 KiB; longer content gives an element that no reader accepts.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let [.., high, low] = content.len().to_be_bytes();
    let mut element = match (high, low) {
        (0, 0..0x80) => vec![tag, low],
        (0, _) => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    element.extend_from_slice(content);
    element
}

#[derive(Deserialize)]
struct Encrypted {
    kdf: Derivation,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Deserialize)]
struct Derivation {
    name: String,
    params: Cost,
    salt: String,
}

#[derive(Deserialize)]
struct Cost {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

/// Opens cosign's container: scrypt for the password, a NaCl secret box for the key.
fn decrypted(bytes: &[u8], password: &SecretString) -> Result<Vec<u8>, KeyError> {
    let damaged = |what: &str| KeyError::Damaged(what.to_owned());
    let container: Encrypted =
        serde_json::from_slice(bytes).map_err(|error| KeyError::Damaged(error.to_string()))?;
    if container.kdf.name != "scrypt" || container.cipher.name != "nacl/secretbox" {
        return Err(damaged("it is encrypted in a way that cosign does not use"));
    }
    let field = |text: &str| {
        BASE64
            .decode(text)
            .map_err(|_| damaged("a field is not base64"))
    };
    let cost = container.kdf.params;
    let log_n = u8::try_from(cost.n.trailing_zeros()).unwrap_or(u8::MAX);
    if !cost.n.is_power_of_two() || log_n > LARGEST_COST {
        return Err(damaged("the cost of its password is unusual"));
    }
    let parameters = scrypt::Params::new(log_n, cost.r, cost.p, 32)
        .map_err(|_| damaged("the cost of its password is unusual"))?;
    let mut key = [0; 32];
    scrypt::scrypt(
        password.expose_secret().as_bytes(),
        &field(&container.kdf.salt)?,
        &parameters,
        &mut key,
    )
    .map_err(|_| damaged("the cost of its password is unusual"))?;
    let nonce: [u8; 24] = field(&container.cipher.nonce)?
        .try_into()
        .map_err(|_| damaged("its nonce has not 24 bytes"))?;
    XSalsa20Poly1305::new(&key.into())
        .decrypt(
            &Nonce::from(nonce),
            field(&container.ciphertext)?.as_slice(),
        )
        .map_err(|_| KeyError::Password)
}
