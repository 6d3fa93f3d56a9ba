//! Sealed objects with one change: they open as what was sealed, whole or in parts, or not at all.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pvback_core::crypto::object::{HEADER_BYTES, SEGMENT_STRIDE, sealed_len};
use pvback_core::crypto::{ObjectLayout, ObjectType};
use pvback_fuzz::{OBJECT_TYPES, owner};

const NAME: &str = "meta/00/0000";

/// What is done to the object before it is opened.
#[derive(Clone, Copy)]
enum Change {
    None,
    Flip(u8),
    Cut,
    Insert(u8),
    Name,
    Kind,
}

fuzz_target!(|input: (u8, u8, u8, u32, u16, &[u8])| {
    let (kind, change, value, at, length, seed) = input;
    let kind = OBJECT_TYPES[usize::from(kind) % OBJECT_TYPES.len()];
    // Up to three segments of what is given, over and over; lengths near a segment's end are frequent.
    let length = if length % 3 == 0 {
        usize::from(length) * 3
    } else {
        65_536 * 2 - 8 + usize::from(length % 16)
    };
    let plaintext: Vec<u8> = seed.iter().copied().cycle().take(length).collect();
    let mut object = owner().objects().seal_object(kind, NAME, &plaintext).unwrap();
    assert_eq!(object.len(), sealed_len(plaintext.len()));

    let at = at as usize % object.len();
    let change = match change % 6 {
        1 if value != 0 => Change::Flip(value),
        2 => Change::Cut,
        3 => Change::Insert(value),
        4 => Change::Name,
        5 => Change::Kind,
        _ => Change::None,
    };
    let (mut name, mut opened_as) = (NAME, kind);
    match change {
        Change::None => {}
        Change::Flip(bits) => object[at] ^= bits,
        Change::Cut => object.truncate(at),
        Change::Insert(byte) => object.insert(at, byte),
        Change::Name => name = "meta/00/0001",
        Change::Kind => opened_as = OBJECT_TYPES[kind as usize % OBJECT_TYPES.len()],
    }
    let opened = owner().objects().open_object(opened_as, name, &object);
    if matches!(change, Change::None) {
        assert_eq!(opened.unwrap(), plaintext);
        read_parts(&object, opened_as, &plaintext, at);
    } else {
        assert!(opened.is_err());
    }
    if let Ok(layout) = ObjectLayout::new(object.len() as u64) {
        assert!(layout.plaintext_bytes() < object.len() as u64);
    }
    // Bytes that were never sealed.
    assert!(owner().objects().open_object(kind, NAME, seed).is_err());
});

/// The segments that hold a range say the same as the whole.
fn read_parts(object: &[u8], kind: ObjectType, plaintext: &[u8], at: usize) {
    let header = object.first_chunk::<HEADER_BYTES>().unwrap();
    let reader = owner().objects().reader(kind, NAME, header, object.len() as u64).unwrap();
    let layout = reader.layout();
    assert_eq!(layout.plaintext_bytes(), plaintext.len() as u64);
    let start = at % plaintext.len().max(1);
    let end = (start + 1 + at % (2 * SEGMENT_STRIDE)).min(plaintext.len());
    let Ok(range) = layout.segments_of(start as u64..end as u64) else {
        assert!(plaintext.is_empty());
        return;
    };
    let mut out = Vec::new();
    let sealed = &object[range.object.start as usize..range.object.end as usize];
    reader.open_segments(range.first, sealed, &mut out).unwrap();
    assert_eq!(out[range.plaintext], plaintext[start..end]);
    assert!(reader.open_segments(range.first + 1, sealed, &mut out).is_err());
    assert!(reader.open_segments(u64::MAX, sealed, &mut out).is_err());
}
