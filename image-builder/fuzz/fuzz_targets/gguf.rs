//! GGUF headers: any bytes give a header or an error; what is incomplete stays so for every shorter beginning.
#![no_main]

use image_builder::model::gguf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = gguf::parse(bytes);
    if let Some((_, shorter)) = bytes.split_last() {
        let read = gguf::parse(shorter);
        if let Ok(read) = read {
            assert_eq!(whole.as_ref(), Ok(&read));
        }
    }
});
