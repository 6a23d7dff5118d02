//! How many parameters tensors hold, and in which types: packed weights count what they stand for, scales count nothing.

use std::collections::BTreeMap;

use super::safetensors::{Header, Tensor};

/// Bits of a packed weight where the configuration does not say.
const DEFAULT_BITS: u64 = 4;

/// What a tensor is for, by the names that the libraries of each method write.
enum Role {
    /// Each element is a parameter.
    Plain,
    /// Elements of this many bits hold several parameters each.
    Packed(u64),
    /// Scales, zero points and orders of packed weights.
    Auxiliary,
}

const AUXILIARY: [&str; 19] = [
    ".qzeros",
    ".scales",
    ".g_idx",
    ".weight_scale",
    ".weight_scale_inv",
    ".weight_scale_2",
    ".input_scale",
    ".activation_scale",
    ".weight_zero_point",
    ".weight_shape",
    ".weight_g_idx",
    ".absmax",
    ".nested_absmax",
    ".quant_map",
    ".nested_quant_map",
    ".SCB",
    ".weight_format",
    "_scales",
    ".output_scale",
];

/// Parameters of all tensors; each name counts once. `bits` is how many a packed weight has.
pub(super) fn count(headers: &[Header], bits: Option<u64>) -> Option<u64> {
    let tensors: BTreeMap<&str, &Tensor> = headers
        .iter()
        .flat_map(|header| &header.tensors)
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    let bits = bits
        .filter(|bits| (1..=32).contains(bits))
        .unwrap_or(DEFAULT_BITS);
    tensors.iter().try_fold(0_u64, |sum, (name, tensor)| {
        let elements = tensor.elements()?;
        let parameters = match role(name, tensor, &tensors) {
            Role::Plain => elements,
            Role::Packed(width) => elements.checked_mul(width)? / bits,
            Role::Auxiliary => 0,
        };
        sum.checked_add(parameters)
    })
}

fn role(name: &str, tensor: &Tensor, tensors: &BTreeMap<&str, &Tensor>) -> Role {
    if AUXILIARY.iter().any(|end| name.ends_with(end)) || name.contains(".quant_state.") {
        return Role::Auxiliary;
    }
    let packed_name = [".qweight", ".weight_packed", "_blocks"]
        .iter()
        .any(|end| name.ends_with(end));
    match tensor.dtype.as_str() {
        "I32" | "U32" if packed_name => Role::Packed(32),
        "U8" | "I8" if packed_name => Role::Packed(8),
        // bitsandbytes packs two weights of four bits into a byte of a tensor that keeps its name.
        "U8" if tensors.contains_key(format!("{name}.absmax").as_str()) => Role::Packed(8),
        _ => Role::Plain,
    }
}

/// The element types, most bytes first, as ModelPack names them. Types of less than a hundredth of the bytes are left out.
pub(super) fn precision(headers: &[Header]) -> Option<String> {
    let mut bytes: BTreeMap<&str, u64> = BTreeMap::new();
    for tensor in headers.iter().flat_map(|header| header.tensors.values()) {
        let sum = bytes.entry(&tensor.dtype).or_default();
        *sum = sum.saturating_add(tensor.bytes());
    }
    let total = bytes
        .values()
        .fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
    let mut types: Vec<(&str, u64)> = bytes
        .into_iter()
        .filter(|(_, bytes)| *bytes > total / 100)
        .collect();
    types.sort_by(|left, right| right.1.cmp(&left.1).then(left.0.cmp(right.0)));
    let names: Vec<String> = types
        .into_iter()
        .map(|(dtype, _)| type_name(dtype))
        .collect();
    (!names.is_empty()).then(|| names.join(","))
}

/// The name that people know a type by.
fn type_name(dtype: &str) -> String {
    match dtype {
        "F64" => "float64",
        "F32" => "float32",
        "F16" => "float16",
        "BF16" => "bfloat16",
        "F8_E4M3" => "float8_e4m3",
        "F8_E5M2" => "float8_e5m2",
        "F8_E8M0" => "float8_e8m0",
        "I64" => "int64",
        "I32" => "int32",
        "I16" => "int16",
        "I8" => "int8",
        "U64" => "uint64",
        "U32" => "uint32",
        "U16" => "uint16",
        "U8" => "uint8",
        "BOOL" => "bool",
        _ => return dtype.to_lowercase(),
    }
    .to_owned()
}
