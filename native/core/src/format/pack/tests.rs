use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::format::testing::{Dice, hex, load_vectors, mutate, save_vectors, unhex};

fn directory(seed: u64, kind: PackKind, entries: usize) -> PackDirectory {
    let mut dice = Dice(seed);
    let mut envelopes: Vec<Envelope> = (0..=dice.below(3)).map(|_| dice.bytes()).collect();
    if kind == PackKind::Metadata {
        // Suite and epoch only: pages have no data key (section 5.3).
        for envelope in &mut envelopes {
            envelope[24..].fill(0);
        }
    }
    let mut offset = 0;
    let entries = (0..entries)
        .map(|_| {
            let length = 36 + u32::try_from(dice.below(5000)).unwrap();
            let envelope = u16::try_from(dice.below(envelopes.len())).unwrap();
            let entry = PackEntry { id: Id(dice.bytes()), offset, length, envelope };
            offset += length;
            entry
        })
        .collect();
    PackDirectory { kind, envelopes, entries }
}

fn kind() -> impl Strategy<Value = PackKind> {
    prop_oneof![Just(PackKind::Data), Just(PackKind::Metadata)]
}

proptest! {
    #[test]
    fn round_trip(seed in any::<u64>(), kind in kind(), entries in 0_usize..60) {
        let directory = directory(seed, kind, entries);
        let bytes = directory.encode().unwrap();
        prop_assert_eq!(
            bytes.len() as u64,
            PackDirectory::encoded_bytes(directory.envelopes.len(), entries)
        );
        let end = directory.entries.last().map_or(0, |last| last.offset + last.length);
        prop_assert_eq!(&PackDirectory::parse(&bytes, kind, end).unwrap(), &directory);
        if entries > 0 {
            prop_assert!(PackDirectory::parse(&bytes, kind, end - 1).is_err());
        }
    }

    #[test]
    fn layout_and_footer_agree(blobs in 0_u64..200 << 20, envelopes in 0_usize..4, entries in 0_usize..5000) {
        let layout = PackLayout::plan(blobs, envelopes, entries).unwrap();
        prop_assert_eq!(padded_len(layout.plaintext_bytes), layout.plaintext_bytes);
        let footer = Footer::parse(&layout.footer.encode(), layout.plaintext_bytes).unwrap();
        prop_assert_eq!(footer, layout.footer);
        prop_assert_eq!(footer.directory().start, blobs + layout.padding_bytes);
        prop_assert_eq!(footer.signature().end + 16, layout.plaintext_bytes);
        prop_assert!(Footer::parse(&layout.footer.encode(), layout.plaintext_bytes - 1).is_err());
        prop_assert!(Footer::parse(&layout.footer.encode(), layout.plaintext_bytes + 1).is_err());
    }

    #[test]
    fn mutated_bytes_never_panic(seed in any::<u64>(), kind in kind(), changes in 1_usize..4) {
        let mut bytes = directory(seed, kind, 20).encode().unwrap();
        mutate(&mut bytes, seed, changes);
        if let Ok(valid) = PackDirectory::parse(&bytes, kind, u32::MAX >> 2) {
            prop_assert_eq!(valid.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn any_footer_reads_or_fails(footer in any::<[u8; 16]>(), magic: bool, size in any::<u64>()) {
        let mut footer = footer;
        if magic {
            footer[8..].copy_from_slice(b"PVBKEND1");
        }
        if let Ok(valid) = Footer::parse(&footer, size) {
            prop_assert!(valid.signature().end <= size);
        }
    }
}

#[test]
fn each_rule_is_checked() {
    let good = directory(7, PackKind::Data, 3);
    let refused = |change: fn(&mut PackDirectory)| {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(bad.encode().is_err());
        bad.check(1 << 30).unwrap_err().0
    };
    assert!(refused(|d| d.entries.swap(0, 1)).contains("order"));
    assert!(refused(|d| d.entries[0].length += 1).contains("overlap"));
    assert!(refused(|d| d.entries[1].length = 0).contains("overlap"));
    assert!(refused(|d| d.entries[2].id = d.entries[0].id).contains("twice"));
    assert!(refused(|d| d.entries[2].envelope = 9).contains("envelope"));
    let bytes = good.encode().unwrap();
    assert!(PackDirectory::parse(&bytes, PackKind::Metadata, 1 << 30).is_err());
    let mut flagged = bytes.clone();
    *flagged.last_mut().unwrap() = 1;
    let error = PackDirectory::parse(&flagged, PackKind::Data, 1 << 30).unwrap_err();
    assert_eq!(error.offset, Some(bytes.len() as u64));
    let mut huge = bytes[..6].to_vec();
    huge[2..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(PackDirectory::parse(&huge, PackKind::Data, 1 << 30).is_err());
    assert!(PackLayout::plan(1 << 30, 1, 1).is_err());
    assert!(PackLayout::plan(u64::MAX, 1, 1).is_err());
}

fn vectors() -> serde_json::Value {
    let case = |name: &str, seed, kind, entries| {
        let directory = directory(seed, kind, entries);
        let blobs = directory.entries.last().map_or(0, |last| last.offset + last.length);
        let layout =
            PackLayout::plan(u64::from(blobs), directory.envelopes.len(), entries).unwrap();
        json!({
            "name": name,
            "kind": kind.code(),
            "blob_bytes": blobs,
            "padding_bytes": layout.padding_bytes,
            "plaintext_bytes": layout.plaintext_bytes,
            "directory": hex(&directory.encode().unwrap()),
            "footer": hex(&layout.footer.encode()),
            "envelopes": directory.envelopes.iter().map(|e| hex(e)).collect::<Vec<_>>(),
            "entries": directory.entries.iter().map(|entry| json!({
                "id": entry.id.to_string(),
                "offset": entry.offset,
                "length": entry.length,
                "envelope": entry.envelope,
            })).collect::<Vec<_>>(),
        })
    };
    let padded: Vec<_> = [0, 1, 4096, 4097, 32_768, 65_537, 1_000_000, 33_554_433, 1 << 30]
        .map(|length| json!([length, padded_len(length)]))
        .to_vec();
    json!({
        "padded_len": padded,
        "packs": [
            case("empty", 1, PackKind::Metadata, 0),
            case("data", 2, PackKind::Data, 7),
            case("metadata", 3, PackKind::Metadata, 4),
        ],
    })
}

#[test]
#[ignore = "writes tests/vectors/pack.json where it does not exist"]
fn save() {
    save_vectors("pack.json", &vectors());
}

#[test]
fn vectors_hold() {
    let stored = load_vectors("pack.json");
    assert_eq!(stored, vectors());
    for pack in stored["packs"].as_array().unwrap() {
        let kind = PackKind::from_code(u8::try_from(pack["kind"].as_u64().unwrap()).unwrap());
        let footer: [u8; 16] = unhex(&pack["footer"]).try_into().unwrap();
        let footer = Footer::parse(&footer, pack["plaintext_bytes"].as_u64().unwrap()).unwrap();
        let bytes = unhex(&pack["directory"]);
        let parsed = PackDirectory::parse(&bytes, kind.unwrap(), footer.directory_offset).unwrap();
        assert_eq!(parsed.entries.len(), pack["entries"].as_array().unwrap().len());
    }
}
