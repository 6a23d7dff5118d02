//! Manifests and indexes: any bytes give one or an error; what was read is written and read again as the same.
#![no_main]

use image_builder::oci::{Document, Index, Manifest, media_type};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) {
        let document = Document::from_value(media_type::MANIFEST, &manifest).unwrap();
        assert_eq!(
            serde_json::from_slice::<Manifest>(&document.bytes).unwrap(),
            manifest
        );
    }
    if let Ok(index) = serde_json::from_slice::<Index>(bytes) {
        let document = Document::from_value(media_type::INDEX, &index).unwrap();
        assert_eq!(
            serde_json::from_slice::<Index>(&document.bytes).unwrap(),
            index
        );
    }
});
