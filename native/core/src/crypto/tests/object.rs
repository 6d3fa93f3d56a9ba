//! The object container: round trips, ranges, and everything that must not open.

use std::collections::BTreeMap;

use crate::crypto::object::{
    HEADER_BYTES, ObjectBuilder, ObjectKeys, ObjectLayout, ObjectType, SEGMENT_BYTES,
    SEGMENT_STRIDE, padded_len, sealed_len,
};
use crate::crypto::{Key, RepositoryId, ScopeId, Suite};
use crate::error::ErrorKind;

const NAME: &str = "packs/ab/cd";

fn keys() -> ObjectKeys {
    let epochs = BTreeMap::from([(3, Key::new([5; 32])), (4, Key::new([6; 32]))]);
    ObjectKeys::new(RepositoryId([1; 16]), ScopeId([2; 16]), epochs, Some(4))
}

fn plaintext(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

#[test]
fn round_trip_at_the_edges_of_segments() {
    for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        let keys = keys().with_suite(suite);
        for len in [0, 1, 65_535, 65_536, 65_537, 131_072, 200_001] {
            let sealed = keys.seal_object(ObjectType::Run, NAME, &plaintext(len)).unwrap();
            assert_eq!(sealed.len(), sealed_len(len));
            let layout = ObjectLayout::new(sealed.len() as u64).unwrap();
            assert_eq!(layout.plaintext_bytes(), len as u64);
            let opened = keys.open_object(ObjectType::Run, NAME, &sealed).unwrap();
            assert_eq!(opened, plaintext(len));
        }
    }
}

#[test]
fn building_in_pieces_needs_no_second_buffer() {
    let whole = plaintext(300_000);
    let mut builder = ObjectBuilder::with_capacity(whole.len() + 4096);
    let mut rest = whole.as_slice();
    for step in [1, 65_535, 65_536, 7, 100_000, 68_921] {
        let (now, later) = rest.split_at(step);
        builder.extend(now);
        rest = later;
    }
    builder.extend_zeros(4096);
    assert!(rest.is_empty());
    assert_eq!(builder.plaintext_len(), 304_096);
    let promised = builder.sealed_len();
    let sealed = builder.finish(&keys(), ObjectType::DataPack, NAME).unwrap();
    assert_eq!(sealed.len(), promised);
    assert_eq!(sealed.capacity(), sealed.len());
    let opened = keys().open_object(ObjectType::DataPack, NAME, &sealed).unwrap();
    assert_eq!(opened, [whole, vec![0; 4096]].concat());
}

#[test]
fn ranges() {
    let whole = plaintext(200_001);
    let sealed = keys().seal_object(ObjectType::DataPack, NAME, &whole).unwrap();
    let header = sealed.first_chunk().unwrap();
    let reader = keys().reader(ObjectType::DataPack, NAME, header, sealed.len() as u64).unwrap();
    let ends = [0, 1, 65_535, 65_536, 65_537, 131_072, 196_608, 200_000, 200_001];
    for start in ends {
        for end in ends.into_iter().filter(|end| *end > start) {
            let range = reader.layout().segments_of(start..end).unwrap();
            let object = range.object.start as usize..range.object.end as usize;
            let mut out = b"kept".to_vec();
            reader.open_segments(range.first, &sealed[object], &mut out).unwrap();
            assert_eq!(out[..4], *b"kept");
            let got = &out[4..][range.plaintext];
            assert_eq!(got, &whole[start as usize..end as usize], "{start}..{end}");
        }
    }
    for bad in [0..0, 5..4, 0..200_002, 200_001..200_002, u64::MAX - 1..u64::MAX] {
        assert!(reader.layout().segments_of(bad).is_err());
    }
}

#[test]
fn a_range_that_is_not_whole_segments_is_refused() {
    let sealed = keys().seal_object(ObjectType::DataPack, NAME, &plaintext(200_001)).unwrap();
    let header = sealed.first_chunk().unwrap();
    let reader = keys().reader(ObjectType::DataPack, NAME, header, sealed.len() as u64).unwrap();
    let body = &sealed[HEADER_BYTES..];
    let cases = [
        (0, &body[..SEGMENT_STRIDE - 1]),
        (0, &body[1..=SEGMENT_STRIDE]),
        (1, &body[..SEGMENT_STRIDE]),
        (3, &body[..SEGMENT_STRIDE]),
        (4, &body[..SEGMENT_STRIDE]),
        (u64::MAX, &body[..SEGMENT_STRIDE]),
        (u64::MAX, body),
        (0, &body[..5]),
    ];
    for (number, (first, part)) in cases.into_iter().enumerate() {
        let mut out = b"kept".to_vec();
        let error = reader.open_segments(first, part, &mut out).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Damaged, "case {number}");
        assert_eq!(out, b"kept", "case {number}");
    }
}

#[test]
fn impossible_sizes() {
    let impossible = [
        0,
        79,
        80,
        95,
        HEADER_BYTES + SEGMENT_STRIDE + 1,
        HEADER_BYTES + SEGMENT_STRIDE + 16,
        HEADER_BYTES + 2 * SEGMENT_STRIDE + 15,
    ];
    for size in impossible {
        assert!(ObjectLayout::new(size as u64).is_err(), "{size}");
    }
    assert!(ObjectLayout::new(u64::MAX).is_ok_and(|layout| layout.plaintext_bytes() < u64::MAX));
}

#[test]
fn every_flipped_bit_is_noticed() {
    for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        let keys = keys().with_suite(suite);
        let sealed = keys.seal_object(ObjectType::GcState, "gc/state", b"state").unwrap();
        for position in 0..sealed.len() {
            for bit in 0..8 {
                let mut bad = sealed.clone();
                bad[position] ^= 1 << bit;
                let error = keys.open_object(ObjectType::GcState, "gc/state", &bad).unwrap_err();
                let expected = match position {
                    // An unknown suite or version is not damage, an epoch without a key neither.
                    8 | 10 | 11 => [ErrorKind::Unsupported, ErrorKind::Damaged],
                    12..16 => [ErrorKind::WrongKey, ErrorKind::Damaged],
                    _ => [ErrorKind::Damaged, ErrorKind::Damaged],
                };
                assert!(expected.contains(&error.kind), "byte {position} bit {bit}: {error}");
            }
        }
    }
}

#[test]
fn an_object_opens_only_where_it_belongs() {
    let keys = keys();
    let sealed = keys.seal_object(ObjectType::Run, NAME, b"entries").unwrap();
    assert!(keys.open_object(ObjectType::Run, "packs/ab/ce", &sealed).is_err());
    assert!(keys.open_object(ObjectType::ReferenceSet, NAME, &sealed).is_err());
    let epochs = BTreeMap::from([(4, Key::new([6; 32]))]);
    let (repository, scope) = (RepositoryId([1; 16]), ScopeId([2; 16]));
    let others = [
        ObjectKeys::new(repository, ScopeId([3; 16]), epochs.clone(), None),
        ObjectKeys::new(RepositoryId([3; 16]), scope, epochs, None),
        ObjectKeys::new(repository, scope, BTreeMap::from([(4, Key::new([7; 32]))]), None),
        ObjectKeys::new(repository, scope, BTreeMap::from([(3, Key::new([6; 32]))]), None),
    ];
    for other in others {
        assert!(other.open_object(ObjectType::Run, NAME, &sealed).is_err());
        assert_eq!(
            other.seal_object(ObjectType::Run, NAME, b"").unwrap_err().kind,
            ErrorKind::WrongKey
        );
    }
}

#[test]
fn truncated_extended_and_swapped_segments() {
    let keys = keys();
    let whole = plaintext(3 * SEGMENT_BYTES);
    let sealed = keys.seal_object(ObjectType::DataPack, NAME, &whole).unwrap();
    let is_refused = |bytes: &[u8]| keys.open_object(ObjectType::DataPack, NAME, bytes).is_err();
    let segment = |index: usize| {
        let start = HEADER_BYTES + index * SEGMENT_STRIDE;
        start..start + SEGMENT_STRIDE
    };
    for len in [0, 79, 80, segment(0).end, segment(1).end, sealed.len() - 1] {
        assert!(is_refused(&sealed[..len]), "cut to {len}");
    }
    for more in [1, 16, 17, SEGMENT_STRIDE] {
        assert!(is_refused(&[sealed.as_slice(), &vec![0; more]].concat()), "{more} more");
    }
    assert!(is_refused(&[sealed.as_slice(), &sealed[segment(2)]].concat()));
    let swapped = [&sealed[..80], &sealed[segment(1)], &sealed[segment(0)], &sealed[segment(2)]];
    assert!(is_refused(&swapped.concat()));
    let other = keys.seal_object(ObjectType::DataPack, NAME, &whole).unwrap();
    let mixed = [&sealed[..segment(0).end], &other[segment(1)], &sealed[segment(2)]];
    assert!(is_refused(&mixed.concat()));
    assert!(!is_refused(&sealed));
}

#[test]
fn padding_says_little() {
    for (bytes, padded) in [
        (0, 0),
        (1, 4096),
        (4096, 4096),
        (65_537, 65_536 + 8192),
        (1 << 20, 1 << 20),
        ((1 << 20) + 1, (1 << 20) + (1 << 17)),
        ((32 << 20) + 1, (32 << 20) + (1 << 18)),
        (u64::MAX, u64::MAX),
    ] {
        assert_eq!(padded_len(bytes), padded, "{bytes}");
    }
}

#[test]
fn names_are_bounded() {
    let name = "x".repeat(65_536);
    let error = keys().seal_object(ObjectType::Run, &name, b"").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Usage);
}
