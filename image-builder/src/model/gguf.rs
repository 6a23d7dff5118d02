//! The beginning of a GGUF file: metadata and the list of tensors. Versions 2 and 3, little endian.

use std::collections::BTreeMap;

use super::Description;

/// Arrays may hold arrays; no file is known that nests them more than once.
const MAX_DEPTH: u32 = 4;

/// Dimensions that a tensor has at most in any version of the library.
const MAX_DIMENSIONS: u32 = 8;

/// Bytes of a text that is kept; longer ones (chat templates) are skipped.
const MAX_TEXT_BYTES: u64 = 4096;

/// The beginning of a GGUF file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Header {
    /// Metadata of numbers and short texts; arrays and long texts are left out.
    pub metadata: BTreeMap<String, Value>,
    /// Elements of all tensors, and bytes do not matter here: by tensor type.
    pub elements: BTreeMap<u32, u64>,
    /// How many tensors there are.
    pub tensors: u64,
}

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any whole number that is not negative.
    Number(u64),
    /// A negative number, a fraction, or a truth value: nothing that is read here.
    Other,
    /// A text.
    Text(String),
}

/// Why bytes are no beginning of a GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// More bytes are needed.
    #[error("the header goes on after what was read")]
    Incomplete,
    /// Not the magic number.
    #[error("the file does not begin with `GGUF`")]
    Magic,
    /// Version 1, a later one, or another byte order.
    #[error("version {0} of GGUF is not read; versions 2 and 3, little endian, are")]
    Version(u32),
    /// A value that the format does not have.
    #[error("the header is not what the format prescribes: {0}")]
    Invalid(&'static str),
}

/// Whether the header goes on after these bytes.
#[must_use]
pub fn is_incomplete(beginning: &[u8]) -> bool {
    matches!(parse(beginning), Err(GgufError::Incomplete))
}

/// Reads the header from a file's beginning.
///
/// # Errors
/// When the beginning is too short or is no header.
pub fn parse(beginning: &[u8]) -> Result<Header, GgufError> {
    let mut cursor = Cursor { rest: beginning };
    if cursor.take(4)? != b"GGUF" {
        return Err(GgufError::Magic);
    }
    let version = cursor.u32()?;
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version(version));
    }
    let tensors = cursor.u64()?;
    let pairs = cursor.u64()?;
    let mut header = Header {
        tensors,
        ..Header::default()
    };
    // Each round takes bytes or ends, so a wrong count cannot make it long.
    for _ in 0..pairs {
        let key = cursor.text()?;
        let kind = cursor.u32()?;
        if let Some(value) = cursor.value(kind, 0)? {
            let key = key.ok_or(GgufError::Invalid("a key is too long"))?;
            header.metadata.insert(key, value);
        }
    }
    for _ in 0..tensors {
        let (kind, elements) = cursor.tensor()?;
        let sum = header.elements.entry(kind).or_default();
        *sum = sum
            .checked_add(elements)
            .ok_or(GgufError::Invalid("there are too many elements"))?;
    }
    Ok(header)
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: u64) -> Result<&'a [u8], GgufError> {
        let length = usize::try_from(length).map_err(|_| GgufError::Incomplete)?;
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(GgufError::Incomplete)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let taken = self.take(N as u64)?;
        taken.first_chunk().copied().ok_or(GgufError::Incomplete)
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A text; `None` for one that is not kept.
    fn text(&mut self) -> Result<Option<String>, GgufError> {
        let length = self.u64()?;
        let bytes = self.take(length)?;
        let kept = length <= MAX_TEXT_BYTES;
        Ok(kept.then(|| String::from_utf8_lossy(bytes).into_owned()))
    }

    fn value(&mut self, kind: u32, depth: u32) -> Result<Option<Value>, GgufError> {
        let value = match kind {
            0 => Value::Number(u64::from(u8::from_le_bytes(self.array()?))),
            2 => Value::Number(u64::from(u16::from_le_bytes(self.array()?))),
            4 => Value::Number(u64::from(self.u32()?)),
            10 => Value::Number(self.u64()?),
            1 => signed(i64::from(i8::from_le_bytes(self.array()?))),
            3 => signed(i64::from(i16::from_le_bytes(self.array()?))),
            5 => signed(i64::from(i32::from_le_bytes(self.array()?))),
            11 => signed(i64::from_le_bytes(self.array()?)),
            6 | 7 | 12 => {
                self.take(scalar_bytes(kind).unwrap_or_default())?;
                Value::Other
            }
            8 => return Ok(self.text()?.map(Value::Text)),
            9 => return self.skip_array(depth).map(|()| None),
            _ => return Err(GgufError::Invalid("a value is of an unknown type")),
        };
        Ok(Some(value))
    }

    fn skip_array(&mut self, depth: u32) -> Result<(), GgufError> {
        if depth == MAX_DEPTH {
            return Err(GgufError::Invalid("arrays are nested too deeply"));
        }
        let kind = self.u32()?;
        let length = self.u64()?;
        if let Some(bytes) = scalar_bytes(kind) {
            let bytes = length.checked_mul(bytes).ok_or(GgufError::Incomplete)?;
            return self.take(bytes).map(|_| ());
        }
        for _ in 0..length {
            match kind {
                8 => {
                    let length = self.u64()?;
                    self.take(length)?;
                }
                9 => self.skip_array(depth + 1)?,
                _ => return Err(GgufError::Invalid("an array is of an unknown type")),
            }
        }
        Ok(())
    }

    /// Type and elements of a tensor.
    fn tensor(&mut self) -> Result<(u32, u64), GgufError> {
        let length = self.u64()?;
        self.take(length)?;
        let dimensions = self.u32()?;
        if dimensions > MAX_DIMENSIONS {
            return Err(GgufError::Invalid("a tensor has too many dimensions"));
        }
        let mut elements = 1_u64;
        for _ in 0..dimensions {
            elements = elements
                .checked_mul(self.u64()?)
                .ok_or(GgufError::Invalid("a tensor has too many elements"))?;
        }
        let kind = self.u32()?;
        self.u64()?;
        Ok((kind, elements))
    }
}

fn signed(value: i64) -> Value {
    u64::try_from(value).map_or(Value::Other, Value::Number)
}

const fn scalar_bytes(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// Adds what the headers of a model's GGUF files say; the first has the metadata.
pub(super) fn describe(headers: &[Header], description: &mut Description) {
    let elements = headers.iter().flat_map(|header| header.elements.values());
    description.parameters = elements
        .copied()
        .try_fold(0_u64, u64::checked_add)
        .filter(|count| *count > 0);
    let Some(first) = headers
        .iter()
        .find(|header| header.metadata.contains_key("general.architecture"))
    else {
        return;
    };
    let number = |key: &str| match first.metadata.get(key) {
        Some(Value::Number(number)) => Some(*number),
        _ => None,
    };
    if let Some(Value::Text(family)) = first.metadata.get("general.architecture") {
        description.family = Some(family.clone());
        description.architecture = Some(architecture(family).to_owned());
        description.context_length = number(&format!("{family}.context_length"));
        description.experts =
            number(&format!("{family}.expert_count")).filter(|experts| *experts > 1);
    }
    if let (Some(Value::Text(license)), true) = (
        first.metadata.get("general.license"),
        description.licenses.is_empty(),
    ) {
        description.licenses = vec![super::card::spdx(license, None)];
    }
    let common = common_type(headers);
    let name = number("general.file_type").and_then(file_type).or(common);
    match name {
        Some("F32") => description.precision = Some("float32".to_owned()),
        Some("F16") => description.precision = Some("float16".to_owned()),
        Some("BF16") => description.precision = Some("bfloat16".to_owned()),
        Some(name) => description.quantization = Some(name.to_owned()),
        None => {}
    }
}

fn architecture(family: &str) -> &str {
    ["mamba", "rwkv"]
        .into_iter()
        .find(|known| family.starts_with(*known))
        .unwrap_or("transformer")
}

/// The type of most elements.
fn common_type(headers: &[Header]) -> Option<&'static str> {
    let mut sums: BTreeMap<u32, u64> = BTreeMap::new();
    for (kind, elements) in headers.iter().flat_map(|header| &header.elements) {
        let sum = sums.entry(*kind).or_default();
        *sum = sum.saturating_add(*elements);
    }
    let (kind, _) = sums.into_iter().max_by_key(|(_, elements)| *elements)?;
    tensor_type(kind)
}

/// Names of tensor types, as ggml numbers them.
fn tensor_type(kind: u32) -> Option<&'static str> {
    Some(match kind {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        6 => "Q5_0",
        7 => "Q5_1",
        8 => "Q8_0",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        14 => "Q6_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        29 => "IQ1_M",
        30 => "BF16",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return None,
    })
}

/// Names of file types, as llama.cpp numbers them.
fn file_type(kind: u64) -> Option<&'static str> {
    Some(match kind {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4_MOE",
        _ => return None,
    })
}
