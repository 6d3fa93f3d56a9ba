use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::format::pack::{PackDirectory, PackEntry};
use crate::format::testing::{Dice, hex, load_vectors, mutate, save_vectors, unhex};
use crate::format::{Id, SIGNATURE_BYTES, padded_len};

/// A run of `packs` data packs and one metadata pack; some ids stand twice.
fn build(seed: u64, packs: usize, entries: usize) -> (Vec<u8>, BTreeSet<(ShortId, Location)>) {
    let mut dice = Dice(seed);
    let mut builder = RunBuilder::new();
    let mut model = BTreeSet::new();
    for pack in 0..packs {
        let spans = vec![(0, 0), (1000, 1), (5000, 0)];
        let ordinal = builder
            .add_pack(&NewPack {
                name: dice.bytes(),
                kind: PackKind::Data,
                object_bytes: 10_000_000,
                envelopes: vec![[u8::try_from(pack % 100).unwrap(); 104], [200; 104]],
                spans,
            })
            .unwrap();
        assert_eq!(ordinal as usize, pack);
    }
    let meta = PackDirectory {
        kind: PackKind::Metadata,
        envelopes: vec![[5; 104]],
        entries: vec![PackEntry { id: Id([3; 32]), offset: 0, length: 50, envelope: 0 }],
    };
    let pack = builder.add_directory([9; 16], 4096, &meta).unwrap();
    model.insert((Id([3; 32]).short(), Location { pack, offset: 0, length: 50 }));
    for index in 0..entries {
        let id = ShortId(dice.bytes());
        for _ in 0..=u32::from(index % 50 == 7) {
            let pack = u32::try_from(dice.below(packs)).unwrap();
            let offset = u32::try_from(dice.below(9_000_000)).unwrap();
            let location = Location { pack, offset, length: 600 };
            builder.add_entry(id, location).unwrap();
            model.insert((id, location));
        }
    }
    (builder.finish().unwrap(), model)
}

fn partial_lookup(body: &[u8], id: &ShortId) -> (Vec<Location>, usize) {
    let header = RunHeader::parse(body).unwrap();
    let prefix = usize::try_from(header.filter_range().end).unwrap();
    let mut probe = RunParts::parse(&body[..prefix]).unwrap().probe(*id);
    let mut reads = 0;
    while let Some(range) = probe.wanted() {
        assert!(range.end - range.start <= 64 << 10);
        reads += 1;
        let (start, end) =
            (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
        probe.feed(&range, &body[start..end]).unwrap();
    }
    (probe.into_locations(), reads)
}

#[test]
fn lookups_agree_with_a_sorted_set() {
    for (packs, entries) in [(1, 0), (1, 1), (2, 100), (7, 30_000)] {
        let (body, model) = build(11, packs, entries);
        assert_eq!(padded_len((body.len() + SIGNATURE_BYTES) as u64), (body.len() + 240) as u64);
        let run = Run::parse(body.clone()).unwrap();
        assert!(run.iter().eq(model.iter().copied()));
        let parts = RunParts::parse(&body).unwrap();
        let mut dice = Dice(5);
        let strangers: Vec<ShortId> = (0..500).map(|_| ShortId(dice.bytes())).collect();
        let ids = model.iter().step_by(1 + entries / 3000).map(|(id, _)| *id).chain(strangers);
        let edges = [ShortId([0; 16]), ShortId([255; 16])];
        let (mut reads_all, mut ids_all) = (0, 0);
        for id in ids.chain(edges) {
            let low = (id, Location { pack: 0, offset: 0, length: 0 });
            let expected: Vec<Location> =
                model.range(low..).take_while(|(other, _)| *other == id).map(|(_, l)| *l).collect();
            assert_eq!(run.lookup(&id).collect::<Vec<_>>(), expected, "{id}");
            assert!(expected.is_empty() || parts.maybe_contains(&id));
            let (found, reads) = partial_lookup(&body, &id);
            assert_eq!(found, expected, "{id}");
            assert!(reads <= 4, "{reads} reads for {id}");
            (reads_all, ids_all) = (reads_all + reads, ids_all + 1);
        }
        assert!(reads_all * 2 <= ids_all * 3, "{reads_all} reads for {ids_all} ids");
    }
}

#[test]
fn partial_lookup_survives_skewed_ids_and_long_duplicates() {
    let mut builder = RunBuilder::new();
    let pack = NewPack {
        name: [1; 16],
        kind: PackKind::Data,
        object_bytes: u32::MAX,
        envelopes: vec![[1; 104]],
        spans: vec![(0, 0)],
    };
    builder.add_pack(&pack).unwrap();
    // All ids at the low end except one; one id fills three blocks and more.
    let id = |n: u32| ShortId((u128::from(n) << 20).to_be_bytes());
    for n in 0..40_000_u32 {
        builder.add_entry(id(n), Location { pack: 0, offset: n, length: 1 }).unwrap();
    }
    for n in 0..8000 {
        builder
            .add_entry(id(20_000), Location { pack: 0, offset: 100_000 + n, length: 1 })
            .unwrap();
    }
    builder.add_entry(ShortId([255; 16]), Location { pack: 0, offset: 1, length: 1 }).unwrap();
    let body = builder.finish().unwrap();
    let run = Run::parse(body.clone()).unwrap();
    for n in (0..40_100).step_by(97).chain([20_000]) {
        let (found, reads) = partial_lookup(&body, &id(n));
        assert_eq!(found, run.lookup(&id(n)).collect::<Vec<_>>(), "{n}");
        assert!(reads <= 14, "{reads} reads for {n}");
    }
    assert_eq!(run.lookup(&id(20_000)).count(), 8001);
}

#[test]
fn envelopes_by_offset() {
    let (body, _) = build(1, 3, 10);
    let run = Run::parse(body).unwrap();
    for (offset, first) in [(0, 2), (999, 2), (1000, 200), (4999, 200), (5000, 2), (u32::MAX, 2)] {
        assert_eq!(run.envelope(2, offset).unwrap().unwrap()[0], first, "{offset}");
    }
    assert_eq!(run.envelope(3, 0).unwrap(), Some(&[5; 104]));
    assert_eq!(run.pack(3).unwrap().kind, PackKind::Metadata);
    assert!(run.envelope(4, 0).is_err());
    let (section, _) = EnvelopeSection::parse(&[0; 6]).unwrap();
    assert_eq!(section.envelope_at(7), None);
}

#[test]
fn each_rule_is_checked() {
    let (good, _) = build(2, 2, 40);
    let header = RunHeader::parse(&good).unwrap();
    let at = |range: Range<u64>| usize::try_from(range.start).unwrap();
    let entries = at(header.entries_range());
    let packs = at(header.packs_range());
    let envelopes = at(header.envelopes_range());
    let refused = |what: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bad = good.clone();
        change(&mut bad);
        let error = Run::parse(bad).expect_err(what);
        assert_eq!(error.kind, crate::ErrorKind::Damaged, "{what}: {error}");
    };
    refused("magic", &|b| b[0] ^= 1);
    refused("entry count", &|b| b[8] += 1);
    refused("huge count", &|b| b[14] = 255);
    refused("reserved", &|b| b[28] = 1);
    refused("filter length", &|b| b[20] ^= 4);
    refused("order", &|b| b[entries..entries + 56].rotate_left(28));
    refused("equal entries", &|b| b.copy_within(entries..entries + 28, entries + 28));
    refused("pack ordinal", &|b| b[entries + 16] = 77);
    refused("outside the pack", &|b| b[entries + 23] = 255);
    refused("length 0", &|b| b[entries + 24..entries + 28].fill(0));
    refused("pack kind", &|b| b[packs + 16] = 3);
    refused("pack reserved", &|b| b[packs + 17] = 1);
    refused("section offset", &|b| b[packs + 24] ^= 1);
    refused("envelope count", &|b| b[envelopes] += 1);
    refused("spans out of order", &|b| b[envelopes + 2 + 208 + 4 + 3] = 0x7f);
    let last_span = usize::try_from(header.envelopes_range().end).unwrap() - 8;
    refused("blob before the first span", &|b| b[last_span] = 1);
    refused("padding", &|b| *b.last_mut().unwrap() = 1);
    refused("short", &|b| b.truncate(envelopes + 10));
    assert!(
        RunBuilder::new()
            .add_entry(ShortId([0; 16]), Location { pack: 0, offset: 0, length: 1 })
            .is_err()
    );
}

proptest! {
    #[test]
    fn mutated_bytes_never_panic(seed in any::<u64>(), changes in 1_usize..4) {
        let (mut body, _) = build(3, 2, 60);
        body.truncate(3200); // less padding to hit
        mutate(&mut body, seed, changes);
        if let Ok(parts) = RunParts::parse(&body) {
            let mut probe = parts.probe(ShortId([seed.to_le_bytes()[0]; 16]));
            for _ in 0..100 {
                let Some(range) = probe.wanted() else { break };
                let part = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
                let bytes = part.and_then(|(start, end)| body.get(start..end));
                let Some(bytes) = bytes else { break };
                if probe.feed(&range, bytes).is_err() {
                    break;
                }
            }
        }
        if let Ok(run) = Run::parse(body) {
            for (id, location) in run.iter().collect::<Vec<_>>() {
                prop_assert!(run.lookup(&id).any(|other| other == location));
                run.envelope(location.pack, location.offset).unwrap();
            }
        }
    }
}

fn vectors() -> serde_json::Value {
    let case = |name: &str, seed, packs, entries| {
        let (body, model) = build(seed, packs, entries);
        let run = Run::parse(body.clone()).unwrap();
        let mut dice = Dice(seed + 100);
        let probes: Vec<ShortId> = (0..300).map(|_| ShortId(dice.bytes())).collect();
        let filter = run.filter().unwrap();
        json!({
            "name": name,
            "body": hex(&body),
            "packs": (0..run.header().packs).map(|ordinal| {
                let pack = run.pack(ordinal).unwrap();
                json!({
                    "name": hex(&pack.name), "kind": pack.kind.code(),
                    "object_bytes": pack.object_bytes, "section_offset": pack.section_offset,
                })
            }).collect::<Vec<_>>(),
            "entries": model.iter().map(|(id, location)| {
                let envelope = run.envelope(location.pack, location.offset).unwrap();
                json!({
                    "id": id.to_string(), "pack": location.pack, "offset": location.offset,
                    "length": location.length, "envelope": envelope.map(|bytes| hex(bytes)),
                })
            }).collect::<Vec<_>>(),
            "perhaps": probes.iter().filter(|id| filter.maybe_contains(id))
                .map(ToString::to_string).collect::<Vec<_>>(),
            "surely_not": probes.iter().filter(|id| !filter.maybe_contains(id)).take(20)
                .map(ToString::to_string).collect::<Vec<_>>(),
        })
    };
    let empty = RunBuilder::new().finish().unwrap();
    json!({
        "empty": hex(&empty),
        "runs": [case("one pack", 1, 1, 5), case("three packs", 2, 3, 80)],
    })
}

#[test]
#[ignore = "writes tests/vectors/run.json where it does not exist"]
fn save() {
    save_vectors("run.json", &vectors());
}

#[test]
fn vectors_hold() {
    let stored = load_vectors("run.json");
    assert!(Run::parse(unhex(&stored["empty"])).unwrap().is_empty());
    for case in stored["runs"].as_array().unwrap() {
        let run = Run::parse(unhex(&case["body"])).unwrap();
        assert_eq!(run.len(), case["entries"].as_array().unwrap().len());
    }
    // Equal bytes, not only readable ones: a change of the builder should be seen.
    assert_eq!(stored, vectors());
}
