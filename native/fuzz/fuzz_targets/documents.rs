//! Any body as a register, record or `gc/state`: signed, it is read as it was; with any other end, it is not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pvback_core::crypto::sign::SIGNATURE_BLOCK_BYTES;
use pvback_core::crypto::{Action, ObjectType, SourceId};
use pvback_core::documents::{open_json, open_record, seal_json, seal_record};
use pvback_fuzz::{JSON_TYPES, owner};

const NAME: &str = "snapshots/0000";

fuzz_target!(|input: (u8, [u8; 2], &[u8])| {
    let (kind, end, body) = input;
    let kind = JSON_TYPES[usize::from(kind) % JSON_TYPES.len()];
    let keys = owner();
    let seal = |plaintext: &[u8]| keys.objects().seal_object(kind, NAME, plaintext).unwrap();

    assert!(open_json(keys, kind, NAME, &seal(body)).is_err(), "a signature from nowhere");
    let action = if kind == ObjectType::SnapshotRecord {
        Action::Snapshot { source: SourceId([0; 16]), sequence: 0 }
    } else {
        Action::Replace
    };
    let block = keys.sign_block(kind, NAME, action, body).unwrap();
    let mut signed = [body, &block].concat();
    let opened = open_json(keys, kind, NAME, &seal(&signed));
    let sealed = seal_json(keys, kind, NAME, body);
    // A body of no JSON can be signed by whoever has the keys, and is refused all the same. What may be
    // sealed opens again; padding, which is white space, is no part of it.
    assert_eq!(opened.is_ok(), sealed.is_ok());
    if let (Ok(opened), Ok(sealed)) = (opened, sealed) {
        assert_eq!(opened, body.trim_ascii_end());
        assert_eq!(open_json(keys, kind, NAME, &sealed).unwrap(), opened);
        assert!(open_json(keys, kind, "snapshots/0001", &sealed).is_err());
    }
    if end[1] != 0 {
        let at = signed.len() - 1 - usize::from(end[0]) % SIGNATURE_BLOCK_BYTES;
        signed[at] ^= end[1];
        assert!(open_json(keys, kind, NAME, &seal(&signed)).is_err(), "a changed signature");
    }

    let (source, snapshot) = (SourceId([1; 16]), [2; 16]);
    let (suite, epoch, sealed) = seal_record(keys, &source, &snapshot, body).unwrap();
    let head = (suite, epoch);
    assert_eq!(open_record(keys, &source, &snapshot, head, &sealed).unwrap(), body);
    assert!(open_record(keys, &source, &[3; 16], head, &sealed).is_err());
    if let Ok(text) = str::from_utf8(body) {
        assert!(open_record(keys, &source, &snapshot, (end[0], u32::from(end[1])), text).is_err());
    }
});
