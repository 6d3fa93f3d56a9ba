//! The verbs against models in maps, over random runs, reference sets and marks, and against damage.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};

use hashbrown::HashSet;
use proptest::prelude::*;
use serde_json::Value;

use super::count::{CountOptions, Counted, count};
use super::lists::Part;
use super::merge::{MergeOptions, merge};
use super::repack::RepackOptions;
use super::select::select;
use super::usage::{Usage, UsageOptions, usage};
use super::{BulkOptions, MarksOptions};
use crate::broker::{Broker, Work, lock};
use crate::crypto::config::{Config, Revoked};
use crate::crypto::{
    InitOptions, IssueRequest, IssueScope, Keyring, ObjectType, PrincipalId, Role, ScopeKeys,
};
use crate::error::{Error, ErrorKind, Result};
use crate::format::ShortId;
use crate::format::marks::parse_marks;
use crate::format::pack::PackKind;
use crate::format::refs::RefSetBuilder;
use crate::format::run::{Location, NewPack, Run, RunBuilder};
use crate::format::testing::Dice;
use crate::index::{Index, IndexOptions, RunName};
use crate::scope::{Scope, hex16};

/// Number of a pack, and number of an id: where the blob lies follows from both.
type Place = (u8, u16);

const MEMORY: u64 = 4 << 20;

fn keys() -> Arc<ScopeKeys> {
    static KEYS: OnceLock<Arc<ScopeKeys>> = OnceLock::new();
    let make = || {
        let (owner, _, _) = Keyring::init_repository(&InitOptions::default()).unwrap();
        Arc::new(owner.scope(&owner.scopes()[0]).unwrap())
    };
    Arc::clone(KEYS.get_or_init(make))
}

/// Objects in memory.
#[derive(Default)]
struct World {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    rows: Mutex<Vec<Value>>,
    /// In place of those that all tests share.
    keys: Option<Arc<ScopeKeys>>,
}

impl World {
    fn keys(&self) -> Arc<ScopeKeys> {
        self.keys.clone().unwrap_or_else(keys)
    }

    /// Runs a verb, and serves it.
    fn run<T>(&self, verb: impl FnOnce(&Scope) -> Result<T>) -> Result<T> {
        let broker = Broker::new(2);
        let scope = Scope::new(Arc::clone(&broker), self.keys());
        std::thread::scope(|threads| {
            for _ in 0..2 {
                threads.spawn(|| {
                    while let Some(mut request) = broker.next_request() {
                        match self.answer(&request.work) {
                            Ok(bytes) => {
                                if let Work::Put { key, .. } = &request.work {
                                    let key = key.clone();
                                    let data = request.take_data();
                                    assert!(lock(&self.objects).insert(key, data).is_none());
                                }
                                request.complete(bytes);
                            }
                            Err(error) => request.fail(error),
                        }
                    }
                });
            }
            let result = verb(&scope);
            broker.close();
            result
        })
    }

    fn answer(&self, work: &Work) -> Result<Vec<u8>> {
        match work {
            Work::Get { key, offset, length } => {
                let objects = lock(&self.objects);
                let gone = || Error::new(ErrorKind::NotFound, "gone");
                let all = objects.get(key).ok_or_else(gone)?;
                let start = usize::try_from(*offset).unwrap().min(all.len());
                let length = length.map_or(usize::MAX, |length| usize::try_from(length).unwrap());
                Ok(all[start..start.saturating_add(length).min(all.len())].to_vec())
            }
            Work::Output { data, .. } => {
                let lines = data.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                lock(&self.rows).extend(lines.map(|line| serde_json::from_slice(line).unwrap()));
                Ok(Vec::new())
            }
            Work::Put { .. } => Ok(Vec::new()),
        }
    }

    fn put(&self, kind: ObjectType, name: &str, body: Vec<u8>) -> Part {
        let scope = Scope::new(Broker::new(1), self.keys());
        let sealed = scope.seal_body(kind, name, body).unwrap();
        let hash = blake3::hash(&sealed).to_hex().to_string();
        lock(&self.objects).insert(scope.key(name), sealed);
        Part { name: name.to_owned(), hash }
    }

    fn body(&self, kind: ObjectType, name: &str) -> Vec<u8> {
        self.run(|scope| {
            let sealed = scope.broker.get_all(&scope.key(name))?;
            let mut body = scope.keys.objects().open_object(kind, name, &sealed)?;
            body.truncate(body.len() - crate::format::SIGNATURE_BYTES);
            Ok(body)
        })
        .unwrap()
    }

    fn put_refs(&self, number: usize, ids: &BTreeSet<u16>) -> Part {
        let mut builder = RefSetBuilder::new();
        for id in ids {
            assert!(builder.insert(short(*id)).is_none());
        }
        let body = builder.finish().unwrap_or_else(RefSetBuilder::empty);
        self.put(ObjectType::ReferenceSet, &format!("refs/{number:032x}-0"), body)
    }

    fn put_run(&self, number: usize, places: &BTreeSet<Place>) -> RunName {
        let mut builder = RunBuilder::new();
        let packs: BTreeSet<u8> = places.iter().map(|place| place.0).collect();
        for pack in packs {
            let ordinal = builder.add_pack(&new_pack(pack)).unwrap();
            for (_, id) in places.iter().filter(|place| place.0 == pack) {
                let (offset, length) = lies((pack, *id));
                let at = Location { pack: ordinal, offset, length };
                builder.add_entry(short(*id), at).unwrap();
            }
        }
        let name = format!("{:016x}-{number:032x}", 5);
        self.put(ObjectType::Run, &format!("index/{name}"), builder.finish().unwrap());
        self.run_name(name)
    }

    fn run_name(&self, name: String) -> RunName {
        let key = Scope::new(Broker::new(1), self.keys()).key(&format!("index/{name}"));
        let size = lock(&self.objects)[&key].len() as u64;
        RunName { name, size, base: false }
    }

    fn marks(&self, parts: &[Part]) -> BTreeMap<ShortId, u32> {
        let all = parts.iter().map(|part| parse_marks(&self.body(ObjectType::Marks, &part.name)));
        let all: Vec<_> = all.flat_map(Result::unwrap).collect();
        assert!(all.is_sorted_by(|(a, _), (b, _)| a < b));
        all.into_iter().collect()
    }

    fn count(&self, marks: MarksOptions, add: &[Part], remove: &[Part]) -> Result<Counted> {
        let (add, remove) = (add.to_vec(), remove.to_vec());
        let bulk = bulk(Vec::new(), &BTreeSet::new(), &BTreeSet::new());
        self.run(|scope| count(scope, &CountOptions { bulk, marks, add, remove, generation: 7 }))
    }
}

fn short(id: u16) -> ShortId {
    let bytes =
        u128::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_le_bytes();
    ShortId(bytes)
}

fn lies((pack, id): Place) -> (u32, u32) {
    (u32::from(id) * 100, 10 + u32::from(pack) + u32::from(id % 50))
}

fn pack_name(pack: u8) -> String {
    hex16(&[pack; 16])
}

fn new_pack(pack: u8) -> NewPack {
    let kind = if pack.is_multiple_of(3) { PackKind::Metadata } else { PackKind::Data };
    let spans = vec![(0, 0), (1000 + u32::from(pack), 1)];
    NewPack {
        name: [pack; 16],
        kind,
        object_bytes: 10_000_000 + u32::from(pack),
        envelopes: vec![[pack; 104], [pack + 100; 104]],
        spans,
    }
}

fn bulk(runs: Vec<RunName>, dead: &BTreeSet<u8>, condemned: &BTreeSet<u8>) -> BulkOptions {
    let names = |packs: &BTreeSet<u8>| packs.iter().map(|pack| pack_name(*pack)).collect();
    let index = IndexOptions { runs, dead: names(dead), condemned: names(condemned) };
    BulkOptions { memory_bytes: MEMORY, gets: 3, index }
}

#[derive(Clone, Debug)]
struct Spec {
    runs: Vec<BTreeSet<Place>>,
    marked: Vec<BTreeSet<u16>>,
    refs: Vec<BTreeSet<u16>>,
    dead: BTreeSet<u8>,
    condemned: BTreeSet<u8>,
    keep: BTreeSet<u8>,
}

fn spec() -> impl Strategy<Value = Spec> {
    let ids = || prop::collection::btree_set(0_u16..60, 0..25);
    let packs = |most| prop::collection::btree_set(1_u8..9, 0..most);
    let places = prop::collection::btree_set((1_u8..9, 0_u16..60), 0..60);
    (
        prop::collection::vec(places, 1..5),
        prop::collection::vec(ids(), 0..6),
        prop::collection::vec(ids(), 0..3),
        packs(3),
        packs(6),
        packs(3),
    )
        .prop_map(|(runs, marked, refs, dead, condemned, keep)| Spec {
            runs,
            marked,
            refs,
            dead,
            condemned,
            keep,
        })
}

impl Spec {
    fn usable(&self) -> BTreeSet<Place> {
        let all = self.runs.iter().flatten().copied();
        all.filter(|(pack, _)| !self.dead.contains(pack)).collect()
    }

    /// What is needed, and what is needed and lies nowhere.
    fn needed(&self) -> (BTreeSet<u16>, BTreeSet<u16>) {
        let needed: BTreeSet<u16> =
            self.marked.iter().chain(&self.refs).flatten().copied().collect();
        let held: BTreeSet<u16> = self.usable().iter().map(|(_, id)| *id).collect();
        let missing = needed.difference(&held).copied().collect();
        (needed, missing)
    }

    /// Each needed id's pack, as the seam's contract chooses, and the packs that are revived.
    fn choose(&self) -> (BTreeMap<u16, u8>, BTreeSet<u8>) {
        let (needed, _) = self.needed();
        let mut copies: BTreeMap<u16, BTreeSet<u8>> = BTreeMap::new();
        let mut used: BTreeMap<u8, usize> = BTreeMap::new();
        for (pack, id) in self.usable() {
            if needed.contains(&id) {
                copies.entry(id).or_default().insert(pack);
                *used.entry(pack).or_default() += 1;
            }
        }
        let (mut chosen, mut revived) = (BTreeMap::new(), BTreeSet::new());
        let mut order: Vec<_> = copies.iter().collect();
        order.sort_by_key(|(id, packs)| (packs.len(), short(**id)));
        for (id, packs) in order {
            let is_given_up =
                |pack: &u8| self.condemned.contains(pack) && !self.keep.contains(pack);
            let alive: BTreeSet<u8> = packs.iter().copied().filter(|p| !is_given_up(p)).collect();
            let again: BTreeSet<u8> = packs.intersection(&revived).copied().collect();
            let from = [&alive, &again, packs].into_iter().find(|from| !from.is_empty()).unwrap();
            let most = |pack: &&u8| (used[*pack], std::cmp::Reverse(**pack));
            let pack = *from.iter().max_by_key(most).unwrap();
            if alive.is_empty() {
                revived.insert(pack);
            }
            chosen.insert(*id, pack);
        }
        (chosen, revived)
    }

    fn build(&self, world: &World) -> (Vec<RunName>, MarksOptions, Vec<Part>) {
        let runs =
            self.runs.iter().enumerate().map(|(n, places)| world.put_run(n, places)).collect();
        let marked: Vec<Part> =
            self.marked.iter().enumerate().map(|(n, ids)| world.put_refs(n, ids)).collect();
        let counted = world.count(MarksOptions::default(), &marked, &[]).unwrap();
        let refs = self.refs.iter().enumerate().map(|(n, ids)| world.put_refs(100 + n, ids));
        (runs, MarksOptions { parts: counted.parts, ids: Some(counted.ids) }, refs.collect())
    }
}

fn ask_usage(world: &World, options: &UsageOptions) -> Result<(Usage, BTreeMap<String, Value>)> {
    lock(&world.rows).clear();
    let result = world.run(|scope| usage(scope, options))?;
    let rows = std::mem::take(&mut *lock(&world.rows)).into_iter();
    Ok((result, rows.map(|row| (row["name"].as_str().unwrap().into(), row)).collect()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn usage_is_as_the_model_says(spec in spec()) {
        let world = World::default();
        let (runs, marks, refs) = spec.build(&world);
        let keep = spec.keep.iter().map(|pack| pack_name(*pack)).collect();
        let bulk = bulk(runs.clone(), &spec.dead, &spec.condemned);
        let spare_runs = vec![runs[0].name.clone()];
        let options = UsageOptions { bulk, marks, refs, keep, spare_runs };
        let (result, rows) = ask_usage(&world, &options).unwrap();
        let (needed, missing) = spec.needed();
        prop_assert_eq!(result.needed, needed.len() as u64);
        prop_assert_eq!(result.missing, missing.len() as u64);
        prop_assert_eq!(result.missing_examples.len(), missing.len().min(8));
        let (chosen, revived) = spec.choose();
        let packs: BTreeSet<u8> = spec.usable().iter().map(|(pack, _)| *pack).collect();
        prop_assert_eq!(rows.len(), packs.len());
        for pack in packs {
            let row = &rows[&pack_name(pack)];
            let usable = spec.usable();
            let mine: Vec<Place> = usable.into_iter().filter(|place| place.0 == pack).collect();
            let used = mine.iter().filter(|(_, id)| chosen.get(id) == Some(&pack));
            let bytes = |places: &[Place]| -> u64 { places.iter().map(|p| u64::from(lies(*p).1)).sum() };
            let used: Vec<Place> = used.copied().collect();
            prop_assert_eq!(row["entries"].as_u64(), Some(mine.len() as u64));
            prop_assert_eq!(row["entry_bytes"].as_u64(), Some(bytes(&mine)));
            prop_assert_eq!(row["used"].as_u64(), Some(used.len() as u64), "{} {:?}", pack, row);
            prop_assert_eq!(row["used_bytes"].as_u64(), Some(bytes(&used)));
            prop_assert_eq!(row["is_revived"].as_bool(), Some(revived.contains(&pack)));
            let is_spared = spec.runs[0].iter().any(|place| place.0 == pack);
            prop_assert_eq!(row["is_spared"].as_bool(), Some(is_spared));
            prop_assert_eq!(row["object_bytes"].as_u64(), Some(u64::from(new_pack(pack).object_bytes)));
        }
    }

    #[test]
    fn a_merge_keeps_every_entry_once(spec in spec(), drop in prop::collection::btree_set(1_u8..9, 0..3)) {
        let world = World::default();
        let (runs, _, _) = spec.build(&world);
        let bulk = bulk(runs.clone(), &spec.dead, &spec.condemned);
        let dropped = drop.iter().map(|pack| pack_name(*pack)).collect();
        let options = MergeOptions { bulk, drop: dropped, generation: 5 };
        let merged = world.run(|scope| merge(scope, &options)).unwrap();
        let mut found = Vec::new();
        for name in &merged.runs {
            prop_assert!(runs.iter().all(|run| run.name < *name));
            let run = Run::parse(world.body(ObjectType::Run, &format!("index/{name}"))).unwrap();
            let mut named = BTreeSet::new();
            for (id, at) in run.iter() {
                let pack = run.pack(at.pack).unwrap();
                named.insert(at.pack);
                found.push((id, pack.name, at.offset, at.length));
                let envelope = run.envelope(at.pack, at.offset).unwrap().unwrap();
                let second = at.offset >= 1000 + u32::from(pack.name[0]);
                prop_assert_eq!(envelope[0], pack.name[0] + if second { 100 } else { 0 });
            }
            prop_assert_eq!(named.len(), run.header().packs as usize);
        }
        let left = spec.usable().into_iter().filter(|(pack, _)| !drop.contains(pack));
        let mut expected: Vec<_> = left
            .map(|place| (short(place.1), [place.0; 16], lies(place).0, lies(place).1))
            .collect();
        expected.sort_unstable();
        found.sort_unstable();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn counts_add_up(
        added in prop::collection::vec(prop::collection::btree_set(0_u16..40, 0..30), 0..12),
        removed in prop::collection::vec(any::<bool>(), 12),
    ) {
        let world = World::default();
        let parts: Vec<Part> = added.iter().enumerate().map(|(n, ids)| world.put_refs(n, ids)).collect();
        let first = world.count(MarksOptions::default(), &parts, &[]).unwrap();
        let mut model: BTreeMap<ShortId, u32> = BTreeMap::new();
        added.iter().flatten().for_each(|id| *model.entry(short(*id)).or_default() += 1);
        prop_assert_eq!(&world.marks(&first.parts), &model);
        prop_assert_eq!(first.ids, model.len() as u64);
        let gone = parts.iter().zip(&removed).filter(|(_, is_gone)| **is_gone).map(|(part, _)| part.clone());
        let gone: Vec<Part> = gone.collect();
        let marks = MarksOptions { parts: first.parts, ids: Some(first.ids) };
        let second = world.count(marks.clone(), &[], &gone).unwrap();
        for (ids, _) in added.iter().zip(&removed).filter(|(_, is_gone)| **is_gone) {
            for id in ids {
                *model.get_mut(&short(*id)).unwrap() -= 1;
            }
        }
        model.retain(|_, count| *count > 0);
        prop_assert_eq!(&world.marks(&second.parts), &model);
        // Once more than it was counted.
        if let Some(part) = gone.iter().find(|part| !lock(&world.objects).is_empty() && !part.hash.is_empty()) {
            let twice = vec![part.clone(); added.len() + 1];
            let holds_any = !added[parts.iter().position(|one| one == part).unwrap()].is_empty();
            let result = world.count(marks, &[], &twice);
            prop_assert_eq!(result.is_err(), holds_any);
            if let Err(error) = result {
                prop_assert_eq!(error.kind, ErrorKind::Damaged);
            }
        }
    }
}

/// Several blocks of each kind of object, so that streams have something to read ahead.
fn large(world: &World) -> UsageOptions {
    let ids: BTreeSet<u16> = (0..30_000).collect();
    let spec = Spec {
        runs: vec![
            (1..=2)
                .flat_map(|pack| (0..15_000).map(move |id| (pack, id * 2 + u16::from(pack) % 2)))
                .collect(),
            (0..9000).map(|id| (3, id)).collect(),
        ],
        marked: vec![ids.iter().copied().filter(|id| id % 3 == 0).collect(), ids.clone()],
        refs: vec![ids, BTreeSet::from([1])],
        dead: BTreeSet::new(),
        condemned: BTreeSet::from([3]),
        keep: BTreeSet::new(),
    };
    let (runs, marks, refs) = spec.build(world);
    let bulk = bulk(runs, &spec.dead, &spec.condemned);
    UsageOptions { bulk, marks, refs, keep: Vec::new(), spare_runs: Vec::new() }
}

#[test]
fn damage_to_any_input_is_named_and_gives_no_answer() {
    let world = World::default();
    let options = large(&world);
    let (result, _) = ask_usage(&world, &options).unwrap();
    assert_eq!((result.needed, result.missing), (30_000, 0));
    let drop = Vec::new();
    let merging = MergeOptions { bulk: options.bulk.clone(), drop, generation: 9 };
    let read: Vec<String> =
        options.marks.parts.iter().chain(&options.refs).map(|p| p.name.clone()).collect();
    let runs = options.bulk.index.runs.iter().map(|run| format!("index/{}", run.name));
    let scope = Scope::new(Broker::new(1), keys());
    let mut dice = Dice(11);
    for name in read.into_iter().chain(runs) {
        let key = scope.key(&name);
        let whole = lock(&world.objects)[&key].clone();
        for round in 0..12 {
            let mut bytes = whole.clone();
            match round {
                0 => drop_object(&world, &key),
                1 => bytes.truncate(dice.below(whole.len())),
                2 => bytes.truncate(80 + 65_552),
                3 => bytes.push(0),
                4 => *bytes.last_mut().unwrap() ^= 1,
                _ => {
                    let at = dice.below(bytes.len());
                    bytes[at] ^= 1 << dice.below(8);
                }
            }
            // What is behind the end of an object of known or computed size is never asked for.
            let is_unseen = round == 3 && whole.len() > 80 + 65_552;
            if bytes == whole && round != 0 || is_unseen {
                continue;
            }
            if round > 0 {
                lock(&world.objects).insert(key.clone(), bytes);
            }
            let error = ask_usage(&world, &options).unwrap_err();
            check_error(&error, round, &name, &key);
            assert!(lock(&world.rows).is_empty(), "rows before all was verified");
            if name.starts_with("index/") {
                let error = world.run(|scope| merge(scope, &merging)).unwrap_err();
                check_error(&error, round, &name, &key);
            }
            lock(&world.objects).insert(key.clone(), whole.clone());
        }
    }
    ask_usage(&world, &options).unwrap();
}

fn drop_object(world: &World, key: &str) {
    lock(&world.objects).remove(key);
}

fn check_error(error: &Error, round: usize, name: &str, key: &str) {
    let is_gone_run = round == 0 && name.starts_with("index/");
    let expected = if is_gone_run { ErrorKind::NotFound } else { ErrorKind::Damaged };
    assert_eq!(error.kind, expected, "{name} {round}: {error}");
    assert_eq!(error.key.as_deref(), Some(key), "{round}: {error}");
}

#[test]
fn what_is_sealed_but_wrong_is_damage() {
    let world = World::default();
    let options = large(&world);
    let other = world.put_refs(900, &BTreeSet::from([5]));
    let mut wrong = options.clone();
    wrong.refs[1].hash.clone_from(&other.hash);
    assert_eq!(ask_usage(&world, &wrong).unwrap_err().kind, ErrorKind::Damaged);
    let mut wrong = options.clone();
    wrong.marks.ids = Some(29_999);
    assert_eq!(ask_usage(&world, &wrong).unwrap_err().kind, ErrorKind::Damaged);
    wrong.marks.ids = Some(30_001);
    assert_eq!(ask_usage(&world, &wrong).unwrap_err().kind, ErrorKind::Damaged);
    // A reference set in place of marks, and marks out of order.
    let mut wrong = options.clone();
    wrong.marks.parts = vec![other];
    assert_eq!(ask_usage(&world, &wrong).unwrap_err().kind, ErrorKind::Damaged);
    let mut wrong = options;
    assert!(wrong.marks.parts.len() > 1);
    wrong.marks.parts.reverse();
    assert_eq!(ask_usage(&world, &wrong).unwrap_err().kind, ErrorKind::Damaged);
}

#[test]
fn runs_that_contradict_each_other_are_damage() {
    let world = World::default();
    let first = world.put_run(1, &BTreeSet::from([(1, 4)]));
    let put = |number: usize, pack: NewPack, length: u32| {
        let mut builder = RunBuilder::new();
        let ordinal = builder.add_pack(&pack).unwrap();
        let at = Location { pack: ordinal, offset: lies((1, 4)).0, length };
        builder.add_entry(short(4), at).unwrap();
        let name = format!("{:016x}-{number:032x}", 5);
        world.put(ObjectType::Run, &format!("index/{name}"), builder.finish().unwrap());
        world.run_name(name)
    };
    let length = lies((1, 4)).1;
    let same = put(2, new_pack(1), length);
    let longer = put(3, NewPack { object_bytes: 77_000, ..new_pack(1) }, length);
    let sealed_else = put(4, NewPack { envelopes: vec![[9; 104]; 2], ..new_pack(1) }, length);
    let cut_else = put(5, new_pack(1), length - 1);
    let none = BTreeSet::new();
    for (other, is_merge_only) in [(longer, false), (cut_else, false), (sealed_else, true)] {
        let bulk = bulk(vec![first.clone(), same.clone(), other], &none, &none);
        let (marks, refs) = (MarksOptions::default(), Vec::new());
        let options =
            UsageOptions { bulk: bulk.clone(), marks, refs, keep: vec![], spare_runs: vec![] };
        let result = ask_usage(&world, &options);
        assert_eq!(result.is_ok(), is_merge_only);
        let options = MergeOptions { bulk, drop: Vec::new(), generation: 6 };
        let error = world.run(|scope| merge(scope, &options)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Damaged, "{error}");
    }
}

#[test]
fn more_streams_than_memory_are_taken_in_turns() {
    let world = World::default();
    let sets: Vec<BTreeSet<u16>> =
        (0..20).map(|n| (0..200).map(|id| id * (n % 4 + 1)).collect()).collect();
    let parts: Vec<Part> = sets.iter().enumerate().map(|(n, ids)| world.put_refs(n, ids)).collect();
    let runs: Vec<RunName> = (0..20)
        .map(|n| {
            world.put_run(n, &(0..900).map(|id| (1 + u8::try_from(n % 5).unwrap(), id)).collect())
        })
        .collect();
    let none = BTreeSet::new();
    let small = |runs| BulkOptions { memory_bytes: 64 << 10, ..bulk(runs, &none, &none) };
    assert!(small(vec![]).streams_max() < 8 && small(vec![]).fitting(&runs) < 20);
    let add = parts.clone();
    let options = CountOptions {
        bulk: small(vec![]),
        marks: MarksOptions::default(),
        add,
        remove: parts[3..].to_vec(),
        generation: 3,
    };
    let counted = world.run(|scope| count(scope, &options)).unwrap();
    let mut model: BTreeMap<ShortId, u32> = BTreeMap::new();
    sets[..3].iter().flatten().for_each(|id| *model.entry(short(*id)).or_default() += 1);
    assert_eq!(world.marks(&counted.parts), model);
    let options = MergeOptions { bulk: small(runs.clone()), drop: vec![], generation: 5 };
    let merged = world.run(|scope| merge(scope, &options)).unwrap();
    let mut found = BTreeSet::new();
    for name in &merged.runs {
        let run = Run::parse(world.body(ObjectType::Run, &format!("index/{name}"))).unwrap();
        found.extend(run.iter().map(|(id, at)| (id, run.pack(at.pack).unwrap().name)));
    }
    assert_eq!(found.len(), 5 * 900);
    let runs = runs[..5].to_vec();
    // And what is needed, when there is no room for all its parts.
    let bulk = BulkOptions { memory_bytes: 2 << 20, ..bulk(runs, &none, &none) };
    assert!(parts.len() > bulk.streams_max() / 2);
    let marks = MarksOptions::default();
    let options = UsageOptions { bulk, marks, refs: parts, keep: vec![], spare_runs: vec![] };
    let needed: BTreeSet<u16> = sets.into_iter().flatten().collect();
    assert_eq!(ask_usage(&world, &options).unwrap().0.needed, needed.len() as u64);
}

/// An owner's keys under a config in which these are revoked.
fn keys_without(principals: &[PrincipalId]) -> Arc<ScopeKeys> {
    let (mut owner, _, _) = Keyring::init_repository(&InitOptions::default()).unwrap();
    for principal in principals {
        let revoked = Revoked { principal: *principal, sequences: BTreeMap::new() };
        let config = owner.config_with_revoked(revoked).unwrap();
        owner.set_config(Config::parse(&config, None).unwrap()).unwrap();
    }
    Arc::new(owner.scope(&owner.scopes()[0]).unwrap())
}

/// Below offset 1000 and a bit, a pack's blobs are sealed by who is called as the pack, from there on by
/// another.
fn world_in_doubt() -> World {
    let keys = keys_without(&[PrincipalId([1; 16]), PrincipalId([102; 16])]);
    World { keys: Some(keys), ..World::default() }
}

#[test]
fn what_is_needed_is_used_where_nobody_revoked_sealed_it() {
    let world = world_in_doubt();
    // More is needed of pack 1: without doubts it would be chosen for all that it has.
    let runs = vec![
        world.put_run(1, &BTreeSet::from([(1, 4), (1, 7), (1, 20), (1, 21), (1, 22)])),
        world.put_run(2, &BTreeSet::from([(2, 4), (2, 20), (4, 5)])),
    ];
    let needed = world.put_refs(1, &BTreeSet::from([4, 7, 20, 21, 22]));
    let none = BTreeSet::new();
    for condemned in [none.clone(), BTreeSet::from([2])] {
        let options = UsageOptions {
            bulk: bulk(runs.clone(), &none, &condemned),
            marks: MarksOptions::default(),
            refs: vec![needed.clone()],
            keep: vec![],
            spare_runs: vec![],
        };
        let (total, rows) = ask_usage(&world, &options).unwrap();
        assert_eq!((total.needed, total.missing), (5, 0));
        let used = |pack: u8| rows[&pack_name(pack)]["used"].as_u64().unwrap();
        // 7 lies nowhere else, and stays where it is.
        assert_eq!((used(1), used(2), used(4)), (4, 1, 0));
        let is_revived = &rows[&pack_name(2)]["is_revived"];
        assert_eq!(*is_revived, Value::from(condemned.contains(&2)));
    }
    let chosen = |pack: u8| {
        let options = RepackOptions {
            bulk: bulk(runs.clone(), &none, &none),
            packs: vec![pack_name(pack)],
            marks: MarksOptions::default(),
            refs: vec![needed.clone()],
            order: vec![],
            generation: 7,
            pack_bytes: 1 << 20,
        };
        let selection = world.run(|scope| select(scope, &options, 0)).unwrap();
        let offsets = selection.chosen.iter().map(|one| one.offset);
        offsets.collect::<Vec<_>>()
    };
    // Copied is what the other pack has from somebody revoked only.
    assert_eq!(chosen(2), [lies((2, 4)).0]);
    assert_eq!(chosen(1), [7, 20, 21, 22].map(|id| lies((1, id)).0));
}

#[test]
fn many_places_in_doubt_hide_none_that_is_not() {
    let world = world_in_doubt();
    let mut group = super::usage::Group::default();
    let mut builder = RunBuilder::new();
    let pack = NewPack { object_bytes: u32::MAX, spans: vec![(0, 0)], ..new_pack(1) };
    let ordinal = builder.add_pack(&pack).unwrap();
    for offset in 0..=u32::try_from(super::usage::PLACES_MAX).unwrap() {
        builder.add_entry(short(4), Location { pack: ordinal, offset, length: 1 }).unwrap();
    }
    let ordinal = builder.add_pack(&new_pack(2)).unwrap();
    let (offset, length) = lies((2, 4));
    builder.add_entry(short(4), Location { pack: ordinal, offset, length }).unwrap();
    let name = format!("{:016x}-{:032x}", 5, 1);
    world.put(ObjectType::Run, &format!("index/{name}"), builder.finish().unwrap());
    let runs = vec![world.run_name(name)];
    let none = BTreeSet::new();
    let (places, reliable, beyond) = world
        .run(|scope| {
            let bulk = bulk(runs, &none, &none);
            let mut catalog = super::catalog::Catalog::new(HashSet::default(), MEMORY);
            let wanted = super::Wanted {
                runs: &bulk.index.runs,
                with_sections: true,
                ..super::Wanted::default()
            };
            let mut join = super::join::Join::new(bulk.open(scope, &mut catalog, &wanted)?)?;
            group = super::usage::Group::new(super::doubts::Doubts::of(scope, &catalog)?);
            let mut beyond = 0;
            group.next(&mut join, |_, _| {
                beyond += 1;
                Ok(())
            })?;
            let packs: Vec<_> = group.reliable().iter().map(|spot| spot.pack).collect();
            Ok((group.places.len(), packs, beyond))
        })
        .unwrap();
    assert_eq!((places, reliable, beyond), (super::usage::PLACES_MAX, vec![1], 2));
}

#[test]
fn a_writer_lists_only_what_it_has_sealed() {
    let (owner, _, _) = Keyring::init_repository(&InitOptions::default()).unwrap();
    let scope_id = owner.scopes()[0];
    let scopes = vec![IssueScope { scope: scope_id, sources: None }];
    let request = IssueRequest { role: Role::Writer, label: String::new(), scopes };
    let (file, secret) = owner.issue(&request).unwrap();
    let config = owner.config().clone();
    let writer = Keyring::unlock_secret(config, &file, secret.to_bytes().as_slice()).unwrap();
    let own = crate::crypto::Envelope::of_metadata(
        crate::crypto::Suite::Aes256Gcm,
        1,
        writer.principal(),
    );
    let world =
        World { keys: Some(Arc::new(writer.scope(&scope_id).unwrap())), ..World::default() };
    let put = |number: usize, packs: &[NewPack]| {
        let mut builder = RunBuilder::new();
        for pack in packs {
            let ordinal = builder.add_pack(pack).unwrap();
            let at = Location { pack: ordinal, offset: 400, length: 10 };
            builder.add_entry(short(4), at).unwrap();
        }
        let name = format!("{:016x}-{number:032x}", 5);
        world.put(ObjectType::Run, &format!("index/{name}"), builder.finish().unwrap());
        world.run_name(name)
    };
    let honest = NewPack { envelopes: vec![own.to_bytes(); 2], ..new_pack(1) };
    let none = BTreeSet::new();
    for (number, packs, is_good) in [
        (1, vec![honest.clone()], true),
        (2, vec![new_pack(2)], false),
        (3, vec![honest, new_pack(2)], false),
    ] {
        let bulk = bulk(vec![put(number, &packs)], &none, &none);
        let options = UsageOptions {
            bulk: bulk.clone(),
            marks: MarksOptions::default(),
            refs: vec![],
            keep: vec![],
            spare_runs: vec![],
        };
        let counted = ask_usage(&world, &options);
        assert_eq!(counted.map_err(|error| error.kind).is_ok(), is_good, "{number}");
        let index = world.run(|scope| Index::load_trusted(scope, &bulk.index, 1 << 20)).unwrap();
        assert_eq!((index.is_empty(), index.damaged().len()), (!is_good, usize::from(!is_good)));
        let index = world.run(|scope| Index::load(scope, &bulk.index, 1 << 20)).unwrap();
        assert!(!index.is_empty(), "readers look at content");
    }
}
