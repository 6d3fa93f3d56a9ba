//! Which blobs of some packs have to be copied, in parts that fit the memory.

use hashbrown::HashSet;

use super::catalog::Catalog;
use super::count::needed;
use super::doubts::Doubts;
use super::join::Join;
use super::moves::{MOVE_BYTES, ORIGIN_BYTES};
use super::repack::RepackOptions;
use super::runs::Spot;
use super::usage::Group;
use super::{BulkOptions, Wanted};
use crate::error::Result;
use crate::format::ShortId;
use crate::index::{PackName, parse_names};
use crate::scope::Scope;

/// Place of a pack that is not to be repacked.
const NOT_ASKED: u32 = u32::MAX;

/// A blob to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Chosen {
    /// Place of its pack in the list of packs.
    pub(super) order: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
    /// The first bytes of its id, to see that the pack has the same there.
    pub(super) check: [u8; 4],
    /// Where a tree needs it: in this order it shall lie.
    pub(super) place: u32,
}

/// What is to be copied out of the packs at `from..to` of the list.
pub(super) struct Selection {
    pub(super) chosen: Vec<Chosen>,
    pub(super) to: u32,
    /// By place in the list: the pack, if the index has it.
    pub(super) packs: Vec<Option<super::catalog::Pack>>,
}

/// Packs of the index as a repack sees them.
struct Packs {
    /// By number: place in the list.
    order: Vec<u32>,
    /// By number: whether what it holds will stay without a copy.
    stays: Vec<bool>,
}

/// Goes through index and marks once. The selection ends before the pack that would no longer fit.
///
/// Copied is what is needed, unless a pack that is neither in the list nor condemned has it. Condemned packs do
/// not count: they may be gone before what is copied is looked for. Nor does what a principal sealed who was
/// revoked, if there is anything else. What several packs of the list have is
/// copied from the first of them, and so belongs to one part only.
pub(super) fn select(scope: &Scope, options: &RepackOptions, from: u32) -> Result<Selection> {
    let bulk: &BulkOptions = &options.bulk;
    let mut catalog = Catalog::new(parse_names(&bulk.index.dead)?, bulk.catalog_memory());
    let (marks, refs) = needed(scope, bulk, &options.marks, &options.refs)?;
    let (runs, marks) = (bulk.index.runs.as_slice(), Some(&marks));
    let with_sections = Doubts::are_possible(scope);
    let wanted = Wanted { runs, marks, refs: &refs, with_sections, ..Wanted::default() };
    let order = options.order.get(..bulk.order_max(&wanted)).unwrap_or(&options.order);
    let wanted = Wanted { order, ..wanted };
    let mut join = Join::new(bulk.open(scope, &mut catalog, &wanted)?)?;
    let condemned = parse_names(&bulk.index.condemned)?;
    let listed = parse_list(&options.packs)?;
    let packs = Packs::new(&catalog, &listed, &condemned);
    let chosen_max =
        usize::try_from(bulk.memory_bytes / 8 / (size_of::<Chosen>() as u64 + MOVE_BYTES));
    let packs_max = u32::try_from(bulk.memory_bytes / 16 / ORIGIN_BYTES).unwrap_or(u32::MAX).max(1);
    let to = u32::try_from(listed.len()).unwrap_or(NOT_ASKED);
    let mut part = Part {
        chosen: Vec::new(),
        from,
        to: to.min(from.saturating_add(packs_max)),
        chosen_max: chosen_max.unwrap_or(usize::MAX),
    };
    let (mut group, mut beyond) = (Group::new(Doubts::of(scope, &catalog)?), None);
    while let Some(id) = group.next(&mut join, |id, spot| {
        packs.note_beyond(&mut beyond, id, spot);
        Ok(())
    })? {
        group.check_places(scope, &catalog)?;
        let more = beyond.filter(|(of, _)| *of == id && group.is_uniform()).map(|(_, spot)| spot);
        if group.is_needed
            && let Some(spot) = packs.choose(group.reliable(), more)
        {
            part.add(packs.order_of(spot.pack), id, spot, group.order.unwrap_or(u32::MAX));
        }
    }
    let Part { mut chosen, to, .. } = part;
    chosen.sort_unstable();
    let packs = listed.iter().map(|name| {
        let number = catalog.find(name)?;
        catalog.pack(number).ok().copied()
    });
    Ok(Selection { chosen, to, packs: packs.collect() })
}

fn parse_list(names: &[String]) -> Result<Vec<PackName>> {
    let parse = |name: &String| {
        let one = parse_names(std::slice::from_ref(name))?;
        Ok(one.into_iter().next().unwrap_or_default())
    };
    names.iter().map(parse).collect()
}

impl Packs {
    fn new(catalog: &Catalog, listed: &[PackName], condemned: &HashSet<PackName>) -> Self {
        let mut order = vec![NOT_ASKED; catalog.packs().len()];
        for (place, name) in (0u32..).zip(listed) {
            let number = catalog.find(name).and_then(|number| usize::try_from(number).ok());
            if let Some(slot) = number.and_then(|number| order.get_mut(number)) {
                *slot = place.min(*slot);
            }
        }
        let is_condemned = catalog.packs().iter().map(|pack| condemned.contains(&pack.name));
        let stays =
            is_condemned.zip(&order).map(|(is, order)| !is && *order == NOT_ASKED).collect();
        Self { order, stays }
    }

    fn order_of(&self, pack: u32) -> u32 {
        self.order.get(pack as usize).copied().unwrap_or(NOT_ASKED)
    }

    /// Of places that were too many to look at together, the one to copy from: it must not be forgotten.
    fn note_beyond(&self, beyond: &mut Option<(ShortId, Spot)>, id: ShortId, spot: Spot) {
        let is_first = beyond.is_none_or(|(of, known)| {
            of != id || self.order_of(spot.pack) < self.order_of(known.pack)
        });
        if is_first {
            *beyond = Some((id, spot));
        }
    }

    /// Where to copy from; none when that is not necessary.
    fn choose(&self, places: &[Spot], more: Option<Spot>) -> Option<Spot> {
        let stays = |spot: &Spot| self.stays.get(spot.pack as usize).copied().unwrap_or(false);
        if places.iter().any(stays) {
            return None;
        }
        let all = places.iter().copied().chain(more);
        let first = all.min_by_key(|spot| (self.order_of(spot.pack), spot.offset))?;
        (self.order_of(first.pack) != NOT_ASKED).then_some(first)
    }
}

struct Part {
    chosen: Vec<Chosen>,
    from: u32,
    to: u32,
    chosen_max: usize,
}

impl Part {
    fn add(&mut self, order: u32, id: ShortId, spot: Spot, place: u32) {
        if !(self.from..self.to).contains(&order) {
            return;
        }
        let check = id.0.first_chunk().copied().unwrap_or_default();
        let Spot { offset, length, .. } = spot;
        self.chosen.push(Chosen { order, offset, length, check, place });
        if self.chosen.len() > self.chosen_max && self.to > self.from + 1 {
            // The second half of the packs is left for another part.
            let middle = self.chosen.len() / 2;
            let (_, at, _) = self.chosen.select_nth_unstable(middle);
            self.to = at.order.max(self.from + 1);
            let to = self.to;
            self.chosen.retain(|chosen| chosen.order < to);
        }
    }
}
