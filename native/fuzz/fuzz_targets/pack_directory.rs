//! Any bytes as a pack directory or footer: what is read is written back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pvback_core::format::pack::{Footer, PackDirectory, PackKind};

fuzz_target!(|input: (bool, u32, u64, [u8; 16], &[u8])| {
    let (is_data, end, plaintext_bytes, footer, bytes) = input;
    let kind = if is_data { PackKind::Data } else { PackKind::Metadata };
    if let Ok(directory) = PackDirectory::parse(bytes, kind, end & 0x3fff_ffff) {
        assert_eq!(directory.encode().unwrap(), bytes);
    }
    if let Ok(valid) = Footer::parse(&footer, plaintext_bytes) {
        assert!(valid.signature().end <= plaintext_bytes);
        assert_eq!(valid.encode(), footer);
    }
});
