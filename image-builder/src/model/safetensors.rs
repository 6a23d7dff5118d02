//! The header of a safetensors file: eight bytes of length, then JSON with every tensor's type, shape and place.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

/// Bytes that a header may have at most, as the format's own library has it.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// Bytes before the data: eight and the JSON.
    pub data_begin: u64,
}

/// A tensor of a header.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Tensor {
    /// `BF16`, `F8_E4M3`, `I32`.
    pub dtype: String,
    /// Its dimensions.
    pub shape: Vec<u64>,
    /// Where its bytes begin and end, from [`Header::data_begin`].
    pub data_offsets: (u64, u64),
}

/// Why bytes are no safetensors header.
#[derive(Debug, thiserror::Error)]
pub enum SafetensorsError {
    /// More bytes are needed to tell.
    #[error("the header goes on for {missing} more bytes")]
    Incomplete {
        /// Bytes that are missing.
        missing: u64,
    },
    /// The length is one that no header has.
    #[error("the header would have {0} bytes; the format allows 100 000 000")]
    Length(u64),
    /// The JSON is none, or not that of a header.
    #[error("the header is not what the format prescribes")]
    Json(#[source] serde_json::Error),
}

impl Tensor {
    /// How many elements it has; `None` where that is no 64-bit number.
    #[must_use]
    pub fn elements(&self) -> Option<u64> {
        self.shape
            .iter()
            .try_fold(1_u64, |count, dimension| count.checked_mul(*dimension))
    }

    /// How many bytes it has.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.data_offsets.1.saturating_sub(self.data_offsets.0)
    }
}

/// Where the header ends, in bytes from the file's begin, by its first eight bytes.
#[must_use]
pub fn header_end(beginning: &[u8]) -> Option<u64> {
    let length = beginning.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*length).saturating_add(8))
}

/// Reads the header from a file's beginning.
///
/// # Errors
/// When the beginning is too short or is no header.
pub fn parse(beginning: &[u8]) -> Result<Header, SafetensorsError> {
    let Some(length) = beginning.first_chunk::<8>() else {
        return Err(SafetensorsError::Incomplete {
            missing: 8 - beginning.len() as u64,
        });
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(SafetensorsError::Length(length));
    }
    let end = 8 + length;
    let json = usize::try_from(end)
        .ok()
        .and_then(|end| beginning.get(8..end));
    let Some(json) = json else {
        return Err(SafetensorsError::Incomplete {
            missing: end.saturating_sub(beginning.len() as u64),
        });
    };
    let Entries(tensors) = serde_json::from_slice(json).map_err(SafetensorsError::Json)?;
    Ok(Header {
        tensors,
        data_begin: end,
    })
}

/// What does not fit between a file's header and its size; `None` where all fits or the header is not there to tell.
#[must_use]
pub fn size_mismatch(beginning: &[u8], size: u64) -> Option<String> {
    if size < 8 {
        return Some(format!(
            "it has {size} bytes, fewer than any safetensors file"
        ));
    }
    let end = header_end(beginning)?;
    if end > size {
        return Some(format!(
            "its header ends at byte {end}, the file at byte {size}"
        ));
    }
    match parse(beginning) {
        Ok(header) => {
            let data = header
                .tensors
                .values()
                .map(|tensor| tensor.data_offsets.1)
                .max();
            let expected = end.saturating_add(data.unwrap_or_default());
            (expected != size)
                .then(|| format!("its tensors end at byte {expected}, the file at byte {size}"))
        }
        Err(SafetensorsError::Incomplete { .. }) => None,
        Err(error) => Some(format!("its header cannot be read: {error}")),
    }
}

/// The tensors of a header's JSON, without `__metadata__`.
struct Entries(BTreeMap<String, Tensor>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor).map(Self)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = BTreeMap<String, Tensor>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut tensors = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                tensors.insert(name, map.next_value()?);
            }
        }
        Ok(tensors)
    }
}
