//! Safetensors headers: any bytes give a header or an error, and sizes are compared without overflow.
#![no_main]

use image_builder::model::safetensors;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = safetensors::size_mismatch(bytes, bytes.len() as u64);
    if let Ok(header) = safetensors::parse(bytes) {
        assert!(header.data_begin <= bytes.len() as u64);
        for tensor in header.tensors.values() {
            let _ = (tensor.elements(), tensor.bytes());
        }
    }
});
