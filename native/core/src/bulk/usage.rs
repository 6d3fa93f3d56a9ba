//! `usage`: the entries of all runs joined with everything that is needed, pack by pack.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use hashbrown::HashSet;
use serde::{Deserialize, Serialize};

use super::catalog::Catalog;
use super::count::needed;
use super::doubts::Doubts;
use super::join::{Item, Join};
use super::lists::Part;
use super::runs::Spot;
use super::{BulkOptions, MarksOptions, Wanted};
use crate::error::{Error, Result};
use crate::format::ShortId;
use crate::format::pack::PackKind;
use crate::index::{PackName, parse_names};
use crate::scope::{Scope, hex16};

/// So many missing ids are named.
const EXAMPLES_MAX: usize = 8;
/// Places of one id that are looked at together. No honest repository has more packs with one id; of what
/// comes beyond it nothing is chosen, so that the id stays in one of these.
pub(super) const PLACES_MAX: usize = 1 << 16;
/// A batch of rows has about so many bytes.
const BATCH_BYTES: usize = 64 << 10;

/// Options of `usage`.
#[derive(Clone, Debug, Deserialize)]
pub struct UsageOptions {
    /// What every verb is given.
    #[serde(flatten)]
    pub bulk: BulkOptions,
    /// What is needed.
    #[serde(default)]
    pub marks: MarksOptions,
    /// Parts of reference sets that are needed, too.
    #[serde(default)]
    pub refs: Vec<Part>,
    /// Condemned packs that are not to be given up.
    #[serde(default)]
    pub keep: Vec<String>,
    /// Runs whose packs are to be told.
    #[serde(default)]
    pub spare_runs: Vec<String>,
}

/// Totals.
#[derive(Debug, Default, Serialize)]
pub struct Usage {
    /// Packs in the rows.
    pub packs: u64,
    /// Distinct ids that are needed.
    pub needed: u64,
    /// Those of them that no usable entry has.
    pub missing: u64,
    /// Some of these, in hex.
    pub missing_examples: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    kind: &'static str,
    object_bytes: u32,
    entries: u64,
    entry_bytes: u64,
    used: u64,
    used_bytes: u64,
    sole: u64,
    is_spared: bool,
    is_revived: bool,
}

/// What is counted of one pack.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    entries: u64,
    entry_bytes: u64,
    used: u64,
    used_bytes: u64,
    /// Needed ids that it has, whether or not another pack is chosen for them.
    needed: u64,
    /// Those of them that no other pack has.
    sole: u64,
    is_given_up: bool,
    is_revived: bool,
}

/// Joins. Rows leave when every input has been verified.
pub fn usage(scope: &Scope, options: &UsageOptions) -> Result<Usage> {
    let mut catalog =
        Catalog::new(parse_names(&options.bulk.index.dead)?, options.bulk.catalog_memory());
    let (marks, refs) = needed(scope, &options.bulk, &options.marks, &options.refs)?;
    let wanted = Wanted {
        runs: &options.bulk.index.runs,
        spared: &options.spare_runs,
        with_sections: Doubts::are_possible(scope),
        marks: Some(&marks),
        refs: &refs,
        ..Wanted::default()
    };
    let mut join = Join::new(options.bulk.open(scope, &mut catalog, &wanted)?)?;
    let mut given_up = parse_names(&options.bulk.index.condemned)?;
    for name in parse_names(&options.keep)? {
        given_up.remove(&name);
    }
    let mut count = Count::new(&catalog, &given_up, options.bulk.memory_bytes);
    let mut group = Group::new(Doubts::of(scope, &catalog)?);
    while let Some(id) = group.next(&mut join, |_, spot| {
        count.note(spot);
        Ok(())
    })? {
        group.check_places(scope, &catalog)?;
        count.take(id, &group);
    }
    let names: Vec<PackName> = catalog.packs().iter().map(|pack| pack.name).collect();
    count.settle(&names);
    send_rows(scope, &catalog, &count.tallies)?;
    Ok(Usage { packs: catalog.packs().len() as u64, ..count.result })
}

/// Everything about one id.
#[derive(Default)]
pub(super) struct Group {
    /// Where it lies: sorted, each place once.
    pub(super) places: Vec<Spot>,
    pub(super) is_needed: bool,
    /// The first place in a tree that was asked for.
    pub(super) order: Option<u32>,
    /// Those of them that are not in doubt, where some are and others are not.
    sound: Vec<Spot>,
    doubts: Doubts,
}

impl Group {
    /// Where doubted places are not to be told from others, `default` serves.
    pub(super) fn new(doubts: Doubts) -> Self {
        Self { doubts, ..Self::default() }
    }

    /// The places of which one may be relied on: what only a principal has vouched for who has been revoked is left
    /// out, if there is anything else.
    pub(super) fn reliable(&self) -> &[Spot] {
        if self.sound.is_empty() { &self.places } else { &self.sound }
    }

    /// Whether all places are in doubt, or none is.
    pub(super) fn is_uniform(&self) -> bool {
        self.sound.is_empty()
    }

    /// Reads the next id. Places beyond [`PLACES_MAX`] are given to `beyond`, each time that a run has them;
    /// if any place is not in doubt, one that is not stays.
    pub(super) fn next(
        &mut self,
        join: &mut Join,
        mut beyond: impl FnMut(ShortId, Spot) -> Result<()>,
    ) -> Result<Option<ShortId>> {
        self.places.clear();
        self.sound.clear();
        (self.is_needed, self.order) = (false, None);
        let Self { places, is_needed, order, doubts, .. } = self;
        let mut has_sound = false;
        let id = join.next_id(|id, item, _| {
            match item {
                Item::At(spot) => {
                    let is_first_sound = !has_sound && !doubts.has(spot);
                    has_sound |= is_first_sound;
                    if places.len() < PLACES_MAX {
                        places.push(spot);
                    } else if let (true, Some(last)) = (is_first_sound, places.last_mut()) {
                        return beyond(id, std::mem::replace(last, spot));
                    } else {
                        return beyond(id, spot);
                    }
                }
                Item::Needed(_) | Item::Released => *is_needed = true,
                Item::Placed(place) => *order = Some(order.map_or(place, |known| known.min(place))),
            }
            Ok(())
        })?;
        if self.places.len() > 1 {
            self.places.sort_unstable();
            self.places.dedup();
            let Self { places, sound, doubts, .. } = self;
            sound.extend(places.iter().filter(|spot| !doubts.has(**spot)));
            if sound.len() == places.len() {
                sound.clear();
            }
        }
        Ok(id)
    }

    /// `Damaged` where two runs say that what begins at one place has two lengths.
    pub(super) fn check_places(&self, scope: &Scope, catalog: &Catalog) -> Result<()> {
        for pair in self.places.windows(2) {
            if let [a, b] = pair
                && (a.pack, a.offset) == (b.pack, b.offset)
            {
                let key = catalog.pack(a.pack)?.key(scope);
                let what = "two index runs disagree about the length of a blob in this pack";
                return Err(Error::damaged(what).at(key).offset(u64::from(a.offset)));
            }
        }
        Ok(())
    }
}

/// The counting, and the ids for which there is a choice.
struct Count {
    tallies: Vec<Tally>,
    result: Usage,
    /// Packs to choose one of, and the bytes there, for each id that has several: number of packs, then
    /// pack and bytes for each.
    choices: Vec<u32>,
    choices_max: usize,
    candidates: Vec<(u32, u32)>,
}

impl Count {
    fn new(catalog: &Catalog, given_up: &HashSet<PackName>, memory_bytes: u64) -> Self {
        let tally = |pack: &super::catalog::Pack| Tally {
            is_given_up: given_up.contains(&pack.name),
            ..Tally::default()
        };
        // A growing list is copied once: half of an eighth of the memory.
        let choices_max = usize::try_from(memory_bytes / 16 / 4).unwrap_or(usize::MAX);
        Self {
            tallies: catalog.packs().iter().map(tally).collect(),
            result: Usage::default(),
            choices: Vec::new(),
            choices_max,
            candidates: Vec::new(),
        }
    }

    /// Counts an entry, needed or not.
    fn note(&mut self, spot: Spot) {
        if let Some(tally) = self.tallies.get_mut(spot.pack as usize) {
            tally.entries += 1;
            tally.entry_bytes += u64::from(spot.length);
        }
    }

    fn take(&mut self, id: ShortId, group: &Group) {
        group.places.iter().for_each(|spot| self.note(*spot));
        if !group.is_needed {
            return;
        }
        self.result.needed += 1;
        match group.places.as_slice() {
            [] => {
                self.result.missing += 1;
                if self.result.missing_examples.len() < EXAMPLES_MAX {
                    self.result.missing_examples.push(id.to_string());
                }
            }
            [spot] => {
                self.note_needed(spot.pack);
                self.note_sole(spot.pack);
                self.use_in(spot.pack, spot.length);
            }
            places => self.note_choice(places, group.reliable()),
        }
    }

    fn note_sole(&mut self, pack: u32) {
        if let Some(tally) = self.tallies.get_mut(pack as usize) {
            tally.sole += 1;
        }
    }

    fn note_needed(&mut self, pack: u32) {
        if let Some(tally) = self.tallies.get_mut(pack as usize) {
            tally.needed += 1;
        }
    }

    fn is_given_up(&self, pack: u32) -> bool {
        self.tallies.get(pack as usize).is_some_and(|tally| tally.is_given_up)
    }

    /// One of the `reliable` places is chosen.
    fn note_choice(&mut self, places: &[Spot], reliable: &[Spot]) {
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        if let ([first, ..], [.., last]) = (places, places)
            && first.pack == last.pack
        {
            self.note_sole(first.pack);
        }
        let has_other = reliable.iter().any(|spot| !self.is_given_up(spot.pack));
        for (index, spot) in reliable.iter().enumerate() {
            let before = index.checked_sub(1).and_then(|before| reliable.get(before));
            if before.is_none_or(|before| before.pack != spot.pack) {
                self.note_needed(spot.pack);
            }
            if has_other && self.is_given_up(spot.pack) {
                continue;
            }
            match candidates.last_mut() {
                // Twice in one pack: whoever made that, both stay or go with the pack.
                Some((pack, bytes)) if *pack == spot.pack => {
                    *bytes = bytes.saturating_add(spot.length);
                }
                _ => candidates.push((spot.pack, spot.length)),
            }
        }
        match candidates.as_slice() {
            [(pack, bytes)] => self.use_in(*pack, *bytes),
            several if self.choices.len() + 1 + 2 * several.len() <= self.choices_max => {
                self.choices.push(u32::try_from(several.len()).unwrap_or(u32::MAX));
                self.choices.extend(several.iter().flat_map(|(pack, bytes)| [*pack, *bytes]));
            }
            // More choices than memory for them: this one is made by what has been seen so far. As ids are in
            // no order that has to do with packs, that is not far from the truth, and one pack is kept for
            // the id in any case.
            several => self.choose(several, |_| ()),
        }
        self.candidates = candidates;
    }

    /// Chooses for all ids that were put off: by now it is known what each pack is needed for, and which
    /// ones are revived because nothing else has what they hold.
    fn settle(&mut self, names: &[PackName]) {
        let choices = std::mem::take(&mut self.choices);
        let name = |pack: u32| Reverse(names.get(pack as usize).copied());
        let mut counts = BTreeSet::new();
        each_choice(&choices, |count, _| {
            counts.insert(count);
        });
        // Where there is less to choose from first: it may revive what then serves others.
        for wanted in counts {
            each_choice(&choices, |count, pairs| {
                if count == wanted {
                    let pairs = pairs.iter().map(|[pack, bytes]| (*pack, *bytes));
                    self.choose(&pairs.collect::<Vec<_>>(), name);
                }
            });
        }
    }

    /// Of the candidates, one that is revived anyway, then the one with most that is needed; `order` decides
    /// between equals.
    fn choose<K: Ord>(&mut self, candidates: &[(u32, u32)], order: impl Fn(u32) -> K) {
        let rank = |(pack, _): &&(u32, u32)| {
            let tally = self.tallies.get(*pack as usize).copied().unwrap_or_default();
            (tally.is_revived, tally.needed, order(*pack))
        };
        if let Some((pack, bytes)) = candidates.iter().max_by_key(rank) {
            self.use_in(*pack, *bytes);
        }
    }

    fn use_in(&mut self, pack: u32, bytes: u32) {
        if let Some(tally) = self.tallies.get_mut(pack as usize) {
            tally.used += 1;
            tally.used_bytes += u64::from(bytes);
            tally.is_revived |= tally.is_given_up;
        }
    }
}

/// Gives each choice to `look`: the number of packs, then pack and bytes of each.
fn each_choice(choices: &[u32], mut look: impl FnMut(u32, &[[u32; 2]])) {
    let mut rest = choices;
    while let Some((count, more)) = rest.split_first() {
        let (pairs, after) = more.split_at_checked(2 * *count as usize).unwrap_or((more, &[]));
        look(*count, pairs.as_chunks().0);
        rest = after;
    }
}

fn send_rows(scope: &Scope, catalog: &Catalog, tallies: &[Tally]) -> Result<()> {
    let mut batch = Vec::new();
    for (pack, tally) in catalog.packs().iter().zip(tallies) {
        let row = Row {
            name: hex16(&pack.name),
            kind: if pack.kind == PackKind::Data { "data" } else { "meta" },
            object_bytes: pack.object_bytes,
            entries: tally.entries,
            entry_bytes: tally.entry_bytes,
            used: tally.used,
            used_bytes: tally.used_bytes,
            sole: tally.sole,
            is_spared: pack.is_spared,
            is_revived: tally.is_revived,
        };
        serde_json::to_writer(&mut batch, &row)
            .map_err(|error| Error::internal(error.to_string()))?;
        batch.push(b'\n');
        if batch.len() >= BATCH_BYTES {
            scope.broker.output("rows", std::mem::take(&mut batch))?;
        }
    }
    if batch.is_empty() { Ok(()) } else { scope.broker.output("rows", batch) }
}
