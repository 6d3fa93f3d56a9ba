//! Any bytes as a key file: what is read is written as something that reads the same, and unlocks nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pvback_core::crypto::slot::SlotKind;
use pvback_core::crypto::{KeyFile, UnlockSecret};
use pvback_fuzz::key;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(secret) = UnlockSecret::from_bytes(bytes) {
        assert_eq!(secret.to_bytes().as_slice(), bytes);
    }
    let Ok(file) = KeyFile::parse(bytes) else {
        return;
    };
    let written = file.to_bytes().unwrap();
    let again = KeyFile::parse(&written).unwrap();
    assert_eq!(again.to_bytes().unwrap(), written);
    assert_eq!(again.name(), file.name());
    assert_eq!((again.serial(), again.slots().len()), (file.serial(), file.slots().len()));
    for (slot, again) in file.slots().iter().zip(again.slots()) {
        assert_eq!(slot.kind(), again.kind());
        assert_eq!(slot.command_bytes().is_some(), matches!(slot.kind(), SlotKind::Command(_)));
    }
    assert!(file.unlock_x25519(&key()).is_err());
});
