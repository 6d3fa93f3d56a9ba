//! Any plaintext of a blob: nothing comes out that is longer than a blob may be, or not as long as it says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pvback_core::crypto::blob::RAW_BYTES_MAX;
use pvback_core::crypto::fuzzing::open_forged_blob;

fuzz_target!(|plaintext: &[u8]| {
    if let Ok(raw) = open_forged_blob(plaintext) {
        let (prefix, payload) = plaintext.split_first_chunk::<8>().unwrap();
        let said = u32::from_le_bytes(prefix[4..].try_into().unwrap());
        assert!(raw.len() <= RAW_BYTES_MAX && raw.len() == said as usize);
        assert!(prefix[0] == 1 || raw == payload);
    }
});
