//! Any bytes as a part of marks: what is read is sorted, and comes out of the builder as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pvback_core::format::marks::{MarksBuilder, parse_marks};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(marks) = parse_marks(bytes) {
        assert!(marks.is_sorted_by(|(a, _), (b, _)| a < b));
        let mut builder = MarksBuilder::new(usize::MAX);
        let full = marks.iter().find_map(|(id, count)| builder.push(*id, *count).unwrap());
        if let Some(body) = full.or_else(|| builder.finish()) {
            assert_eq!(parse_marks(&body).unwrap(), marks);
        }
    }
});
