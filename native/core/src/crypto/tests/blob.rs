//! Blobs and envelopes: what must not open, and what must not be decompressed.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::crypto::blob::{
    BLOB_OVERHEAD, BlobKey, BlobKind, BlobOpener, BlobSealer, Compression, RAW_BYTES_MAX,
};
use crate::crypto::envelope::{Binding, Envelope};
use crate::crypto::issue::public_key;
use crate::crypto::kdf::{IdKey, Label, SourceKey, kdf};
use crate::crypto::{Key, PrincipalId, RepositoryId, ScopeId, Suite};
use crate::error::{Error, ErrorKind};

const PLACE: (RepositoryId, ScopeId) = (RepositoryId([1; 16]), ScopeId([2; 16]));

fn ids() -> IdKey {
    IdKey(Key::new([9; 32]))
}

fn data(byte: u8, suite: Suite) -> BlobKey {
    BlobKey::data(&Key::new([byte; 32]), ids(), PLACE, suite)
}

fn open(key: &BlobKey, kind: BlobKind, id: &[u8; 32], sealed: &[u8]) -> Result<Vec<u8>, Error> {
    BlobOpener::new().unwrap().open(key, kind, id, sealed)
}

/// Seals any plaintext, well-formed or not, as a holder of the data key could.
fn forge(plaintext: &[u8], id: &[u8; 32]) -> Vec<u8> {
    let context = [&[1; 16][..], &[2; 16], &[1, 1, 0, 0], id].concat();
    let mut key = [0; 32];
    kdf(Label::Blob, &Key::new([7; 32]), &context, &mut key);
    let cipher = Suite::Aes256Gcm.key(&key).unwrap();
    let mut body = plaintext.to_vec();
    let tag = cipher.seal([3; 12], &context, &mut body).unwrap();
    [&[3; 12][..], &body, &tag].concat()
}

fn prefix(codec: u8, zero: u8, dictionary: u16, raw_len: u32) -> Vec<u8> {
    let (dictionary, raw_len) = (dictionary.to_le_bytes(), raw_len.to_le_bytes());
    [&[codec, zero][..], &dictionary, &raw_len].concat()
}

#[test]
fn round_trip() {
    let compressible = vec![7; 500_000];
    let mut random = vec![0; 500_000];
    getrandom::fill(&mut random).unwrap();
    let mut sealer = BlobSealer::new().unwrap();
    let mut opener = BlobOpener::new().unwrap();
    for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        let key = data(7, suite);
        for raw in [&b""[..], b"x", &compressible, &random, &compressible[..100]] {
            for compression in [Compression::Stored, Compression::Zstd(1), Compression::Zstd(9)] {
                let id = ids().id(raw);
                let sealed = sealer.seal(&key, BlobKind::Data, &id, raw, compression).unwrap();
                assert!(sealed.len() <= raw.len() + BLOB_OVERHEAD);
                assert_eq!(opener.open(&key, BlobKind::Data, &id, sealed).unwrap(), raw);
            }
        }
    }
    let (key, id) = (data(7, Suite::Aes256Gcm), ids().id(&compressible));
    let level = Compression::Zstd(1);
    let sealed = sealer.seal(&key, BlobKind::Data, &id, &compressible, level).unwrap();
    assert!(sealed.len() < 1000);
}

#[test]
fn a_blob_opens_only_as_what_it_is() {
    let (raw, key) = (b"content".to_vec(), data(7, Suite::Aes256Gcm));
    let id = ids().id(&raw);
    let mut sealer = BlobSealer::new().unwrap();
    let sealed =
        sealer.seal(&key, BlobKind::Data, &id, &raw, Compression::Stored).unwrap().to_vec();
    assert_eq!(open(&key, BlobKind::Data, &id, &sealed).unwrap(), raw);

    let place = (PLACE.0, ScopeId([3; 16]));
    let elsewhere = BlobKey::data(&Key::new([7; 32]), ids(), place, Suite::Aes256Gcm);
    let others = [data(8, Suite::Aes256Gcm), data(7, Suite::ChaCha20Poly1305), elsewhere];
    for other in &others {
        assert_eq!(open(other, BlobKind::Data, &id, &sealed).unwrap_err().kind, ErrorKind::Damaged);
    }
    let wrong_id = ids().id(b"other");
    assert_eq!(
        open(&key, BlobKind::Data, &wrong_id, &sealed).unwrap_err().kind,
        ErrorKind::Damaged
    );
    assert_eq!(open(&key, BlobKind::Page, &id, &sealed).unwrap_err().kind, ErrorKind::Usage);
    for position in 0..sealed.len() {
        let mut bad = sealed.clone();
        bad[position] ^= 1;
        assert!(open(&key, BlobKind::Data, &id, &bad).is_err(), "byte {position}");
        assert!(open(&key, BlobKind::Data, &id, &sealed[..position]).is_err());
    }
    assert!(open(&key, BlobKind::Data, &id, &[&sealed[..], &[0]].concat()).is_err());
}

#[test]
fn pages_and_records_do_not_pass_for_each_other() {
    let key = BlobKey::metadata(&SourceKey(Key::new([4; 32])), PLACE, Suite::Aes256Gcm);
    let mut record_id = [0; 32];
    record_id[..16].copy_from_slice(&[5; 16]);
    let mut sealer = BlobSealer::new().unwrap();
    let sealed = sealer
        .seal(&key, BlobKind::Snapshot, &record_id, b"record", Compression::Zstd(3))
        .unwrap()
        .to_vec();
    assert_eq!(open(&key, BlobKind::Snapshot, &record_id, &sealed).unwrap(), b"record");
    assert!(open(&key, BlobKind::Page, &record_id, &sealed).is_err());
    assert!(open(&key, BlobKind::Data, &record_id, &sealed).is_err());
    record_id[31] = 1;
    let sealed = sealer
        .seal(&key, BlobKind::Snapshot, &record_id, b"record", Compression::Stored)
        .unwrap()
        .to_vec();
    assert!(open(&key, BlobKind::Snapshot, &record_id, &sealed).is_err());
    let page_id = key.id_key().id(b"page");
    let sealed = sealer.seal(&key, BlobKind::Page, &page_id, b"page", Compression::Stored).unwrap();
    assert_eq!(open(&key, BlobKind::Page, &page_id, sealed).unwrap(), b"page");
}

/// The second half of what makes an id binding: a holder of the data key can make any blob
/// authentic, but not have another's id.
#[test]
fn an_authentic_blob_with_another_plaintext_is_refused() {
    let key = data(7, Suite::Aes256Gcm);
    let id = ids().id(b"right");
    let right = forge(&[&prefix(0, 0, 0, 5)[..], b"right"].concat(), &id);
    assert_eq!(open(&key, BlobKind::Data, &id, &right).unwrap(), b"right");
    let wrong = forge(&[&prefix(0, 0, 0, 5)[..], b"wrong"].concat(), &id);
    let error = open(&key, BlobKind::Data, &id, &wrong).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Damaged);
    assert!(error.what.contains("does not have its id"), "{error}");
}

#[test]
fn authentic_nonsense_is_an_error() {
    let key = data(7, Suite::Aes256Gcm);
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
    assert!(bomb.len() < 10_000);
    let small = zstd::bulk::compress(b"right", 3).unwrap();
    let (too_long, bound) = (RAW_BYTES_MAX as u32 + 1, RAW_BYTES_MAX as u32);
    let cases: [(&str, ErrorKind, Vec<u8>); 10] = [
        ("raw length over the bound", ErrorKind::Damaged, prefix(1, 0, 0, too_long)),
        ("greatest raw length", ErrorKind::Damaged, prefix(0, 0, 0, u32::MAX)),
        (
            "bomb with a small length",
            ErrorKind::Damaged,
            [prefix(1, 0, 0, 5), bomb.clone()].concat(),
        ),
        ("bomb at the bound", ErrorKind::Damaged, [prefix(1, 0, 0, bound), bomb].concat()),
        ("raw length too great", ErrorKind::Damaged, [prefix(1, 0, 0, 6), small.clone()].concat()),
        ("raw length too small", ErrorKind::Damaged, [prefix(1, 0, 0, 4), small].concat()),
        ("not zstd", ErrorKind::Damaged, [prefix(1, 0, 0, 5), b"right".to_vec()].concat()),
        ("unknown codec", ErrorKind::Unsupported, [prefix(2, 0, 0, 5), b"right".to_vec()].concat()),
        ("dictionary", ErrorKind::Unsupported, [prefix(0, 0, 1, 5), b"right".to_vec()].concat()),
        ("reserved byte", ErrorKind::Damaged, [prefix(0, 1, 0, 5), b"right".to_vec()].concat()),
    ];
    let id = ids().id(b"right");
    for (what, kind, plaintext) in cases {
        let error = open(&key, BlobKind::Data, &id, &forge(&plaintext, &id)).unwrap_err();
        assert_eq!(error.kind, kind, "{what}: {error}");
    }
    for len in 0..8 {
        let short = forge(&prefix(0, 0, 0, 0)[..len], &id);
        assert!(open(&key, BlobKind::Data, &id, &short).is_err());
    }
    let long = vec![0; RAW_BYTES_MAX + 1];
    let mut sealer = BlobSealer::new().unwrap();
    let error = sealer.seal(&key, BlobKind::Data, &id, &long, Compression::Stored).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Usage);
}

/// GCM does not commit to its key: one ciphertext can be authentic under two. The plaintext that
/// comes out under the second cannot have the id.
#[test]
fn a_ciphertext_that_two_keys_open_is_refused() {
    let id = ids().id(b"right");
    let mut keys = [[0; 32]; 2];
    let mut contexts = [Vec::new(), Vec::new()];
    for (suite_key, (key, context)) in
        [[7; 32], [8; 32]].into_iter().zip(keys.iter_mut().zip(&mut contexts))
    {
        *context = [&[1; 16][..], &[2; 16], &[1, 1, 0, 0], &id].concat();
        kdf(Label::Blob, &Key::new(suite_key), context, key);
    }
    let sealed = two_key_ciphertext(&keys, &contexts[0]);
    // Both data keys accept the tag...
    for key in &keys {
        let cipher = Suite::Aes256Gcm.key(key).unwrap();
        let mut out = vec![0; sealed.len() - 28];
        assert!(cipher.open([3; 12], &contexts[0], &sealed[12..], &mut out).is_some());
    }
    // ... and neither yields a blob of that id.
    for byte in [7, 8] {
        let error = open(&data(byte, Suite::Aes256Gcm), BlobKind::Data, &id, &sealed).unwrap_err();
        assert!(!error.what.contains("not what was written"), "refused for its tag: {error}");
    }
}

/// Two ciphertext blocks, the second chosen so that GCM's tags under both keys agree.
fn two_key_ciphertext(keys: &[[u8; 32]; 2], aad: &[u8]) -> Vec<u8> {
    let first = [0x55; 16];
    // tag = E(J0) ^ GHASH; both are read off the library: GHASH is affine in the ciphertext.
    let tag_of = |key: &[u8; 32], second: [u8; 16]| {
        let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
        let nonce = || Nonce::assume_unique_for_key([3; 12]);
        let mut stream = [0; 32];
        let _tag = cipher.seal_in_place_separate_tag(nonce(), Aad::from(aad), &mut stream).unwrap();
        let wanted = [first, second].concat();
        let mut plaintext: Vec<u8> = stream.iter().zip(&wanted).map(|(s, w)| s ^ w).collect();
        let tag =
            cipher.seal_in_place_separate_tag(nonce(), Aad::from(aad), &mut plaintext).unwrap();
        assert_eq!(plaintext, wanted);
        u128::from_be_bytes(tag.as_ref().try_into().unwrap())
    };
    let base: Vec<u128> = keys.iter().map(|key| tag_of(key, [0; 16])).collect();
    let target = base[0] ^ base[1];
    // Each bit of the second block changes the difference of the tags by a fixed vector: solve.
    let mut rows: Vec<(u128, u128)> = (0..128)
        .map(|bit| {
            let block = (1_u128 << bit).to_be_bytes();
            (tag_of(&keys[0], block) ^ tag_of(&keys[1], block) ^ target, 1 << bit)
        })
        .collect();
    let (mut rest, mut solution) = (target, 0);
    for bit in (0..128).rev() {
        let Some(at) = rows.iter().position(|row| row.0 >> bit & 1 == 1) else {
            continue;
        };
        let pivot = rows.swap_remove(at);
        for row in rows.iter_mut().filter(|row| row.0 >> bit & 1 == 1) {
            row.0 ^= pivot.0;
            row.1 ^= pivot.1;
        }
        if rest >> bit & 1 == 1 {
            rest ^= pivot.0;
            solution ^= pivot.1;
        }
    }
    assert_eq!(rest, 0, "the two keys' hash keys are equal");
    let second = solution.to_be_bytes();
    assert_eq!(tag_of(&keys[0], second), tag_of(&keys[1], second));
    let tag = tag_of(&keys[0], second).to_be_bytes();
    [&[3; 12][..], &first, &second, &tag].concat()
}

#[test]
fn an_envelope_opens_only_for_what_it_was_sealed() {
    let private = Key::new([6; 32]);
    let data_key = Key::new([7; 32]);
    let bound =
        Binding { repository: PLACE.0, scope: PLACE.1, epoch: 2, origin: PrincipalId([4; 16]) };
    let public = public_key(&private);
    let envelope = Envelope::seal(&data_key, &public, &bound, Suite::Aes256Gcm).unwrap();
    assert_eq!(envelope.open(&private, PLACE.0, PLACE.1).unwrap(), data_key);
    assert_eq!(Envelope::from_bytes(&envelope.to_bytes()).unwrap(), envelope);
    let again = Envelope::seal(&data_key, &public, &bound, Suite::Aes256Gcm).unwrap();
    assert_ne!(again, envelope);

    let is_refused = |envelope: &Envelope, private: &Key, repository, scope| {
        envelope.open(private, repository, scope).is_err()
    };
    assert!(is_refused(&envelope, &Key::new([5; 32]), PLACE.0, PLACE.1));
    assert!(is_refused(&envelope, &private, RepositoryId([9; 16]), PLACE.1));
    assert!(is_refused(&envelope, &private, PLACE.0, ScopeId([9; 16])));
    let mut later = envelope.clone();
    later.epoch = 3;
    assert!(is_refused(&later, &private, PLACE.0, PLACE.1));
    let mut others = envelope.clone();
    others.origin = PrincipalId([5; 16]);
    assert!(is_refused(&others, &private, PLACE.0, PLACE.1));
    for position in 0..envelope.to_bytes().len() {
        let mut bad = envelope.to_bytes();
        bad[position] ^= 4;
        let opened = Envelope::from_bytes(&bad).and_then(|it| it.open(&private, PLACE.0, PLACE.1));
        assert!(opened.is_err(), "byte {position}");
    }
    // A public key of small order: its shared secret would be known to all.
    assert!(Envelope::seal(&data_key, &[0; 32], &bound, Suite::Aes256Gcm).is_err());
}
