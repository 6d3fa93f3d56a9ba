//! Any bytes as the journal of a restore: what is read is written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pvback_core::restore::write_journal_again;

fuzz_target!(|bytes: &[u8]| {
    let restore = [0x55; 32];
    if let Some(written) = write_journal_again(bytes, &restore) {
        assert_eq!(written, bytes);
    }
    // With the checksum that belongs to them.
    let whole = [bytes, &pvback_core::digest(bytes)].concat();
    if let Some(written) = write_journal_again(&whole, &restore) {
        assert_eq!(written, whole);
        assert!(write_journal_again(&whole, &[0x56; 32]).is_none());
        assert!(write_journal_again(bytes, &restore).is_none());
    }
});
