//! Any bytes as a signature block: none is believed but the one that was made for this body and name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pvback_core::crypto::sign::SIGNATURE_BLOCK_BYTES;
use pvback_core::crypto::{Action, Role, SourceId};
use pvback_fuzz::{OBJECT_TYPES, owner};

fuzz_target!(|input: (u8, u8, u8, u8, &str, &[u8])| {
    let (kind, action, at, bits, name, bytes) = input;
    let kind = OBJECT_TYPES[usize::from(kind) % OBJECT_TYPES.len()];
    let action = match action % 3 {
        0 => Action::Add,
        1 => Action::Replace,
        _ => Action::Snapshot { source: SourceId([at; 16]), sequence: u64::from(bits) },
    };
    let verifier = owner().verifier();
    if let Some((block, body)) = bytes.split_first_chunk::<SIGNATURE_BLOCK_BYTES>() {
        assert!(verifier.verify(kind, name, action, body, block).is_err());
    }
    let Ok(mut block) = owner().sign_block(kind, name, action, bytes) else {
        return;
    };
    let signer = verifier.verify(kind, name, action, bytes, &block).unwrap();
    assert_eq!(signer.role, Role::Owner);
    block[usize::from(at) % SIGNATURE_BLOCK_BYTES] ^= bits;
    assert_eq!(verifier.verify(kind, name, action, bytes, &block).is_ok(), bits == 0);
});
