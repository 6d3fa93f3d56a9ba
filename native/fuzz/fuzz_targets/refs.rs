//! Any bytes as a part of a reference set: what is read is sorted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pvback_core::format::refs::RefSet;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(set) = RefSet::parse(bytes.to_vec()) {
        assert_eq!(set.iter().count(), set.len());
        assert!(set.iter().is_sorted_by(|a, b| a < b));
    }
});
