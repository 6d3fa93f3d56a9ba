//! Any line as a config that its owner signed, and any bytes that nobody signed.
#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use libfuzzer_sys::fuzz_target;
use pvback_core::crypto::Config;
use pvback_core::crypto::sign::OwnerKey;

/// Stands for the owner's key in the line, since few changes would hit upon it.
const OWNER: &str = "OWNER";

fuzz_target!(|bytes: &[u8]| {
    assert!(Config::parse(bytes, None).is_err(), "a signature from nowhere");
    let Ok(line) = str::from_utf8(bytes) else {
        return;
    };
    let owner = SigningKey::from_bytes(&[9; 32]);
    let line = line.replace(OWNER, &STANDARD.encode(owner.verifying_key().as_bytes()));
    let message = [b"pvback/1 config\0".as_slice(), &pvback_core::digest(line.as_bytes())].concat();
    let signature = STANDARD.encode(owner.sign(&message).to_bytes());
    let Ok(config) = Config::parse(format!("{line}\n{signature}\n").as_bytes(), None) else {
        return;
    };
    assert!(!line.contains('\n'));
    for (at, scope) in config.scopes().iter().enumerate() {
        assert!(scope.epoch > 0);
        assert_eq!(config.scopes().iter().rposition(|other| other.id == scope.id), Some(at));
        assert!(config.scope(&scope.id).is_some());
    }
    let chunker = config.chunker();
    assert!(chunker.min < chunker.average && chunker.average < chunker.max && chunker.fixed > 0);
    let other = OwnerKey::from_bytes(SigningKey::from_bytes(&[8; 32]).verifying_key().as_bytes());
    let pinned = Config::parse(format!("{line}\n{signature}").as_bytes(), Some(&other.unwrap()));
    assert!(pinned.is_err());
});
