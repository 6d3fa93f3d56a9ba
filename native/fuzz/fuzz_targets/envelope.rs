//! Any bytes as an envelope: it is written as it was read, and leads to no key but its own.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pvback_core::crypto::envelope::{ENVELOPE_BYTES, Envelope};
use pvback_fuzz::owner;

fuzz_target!(|input: ([u8; ENVELOPE_BYTES], u8, u8)| {
    let (bytes, at, bits) = input;
    if let Ok(envelope) = Envelope::from_bytes(&bytes) {
        assert_eq!(envelope.to_bytes(), bytes);
        assert!(owner().open_data_key(&envelope).is_err());
        let source = owner().source_id("source").unwrap();
        let page_key = owner().source(&source).unwrap().open_page_key(&envelope);
        assert!(page_key.is_err() || envelope.is_of_metadata());
    }
    let (_, envelope) = owner().new_data_key().unwrap();
    assert!(owner().open_data_key(&envelope).is_ok());
    let mut changed = envelope.to_bytes();
    changed[usize::from(at) % ENVELOPE_BYTES] ^= bits;
    // The suite is vouched for by the blobs, which are sealed under it; all else by the envelope.
    let is_suite = usize::from(at) % ENVELOPE_BYTES == 0;
    if let Ok(changed) = Envelope::from_bytes(&changed) {
        assert!(is_suite || bits == 0 || owner().open_data_key(&changed).is_err());
    }
});
