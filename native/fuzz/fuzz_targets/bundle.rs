//! Any JSON as a bundle: what is read is written as something that reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pvback_core::crypto::fuzzing::write_bundle_again;

fuzz_target!(|json: &[u8]| {
    if let Some(written) = write_bundle_again(json) {
        let written = written.unwrap();
        assert_eq!(write_bundle_again(&written).unwrap().unwrap(), written);
    }
});
