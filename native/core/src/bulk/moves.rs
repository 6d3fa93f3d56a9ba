//! What a repack moves, as the directories of its packs say it, in the order in which it shall lie.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::BulkOptions;
use super::select::{Chosen, Selection};
use crate::directory::{OpenedPack, PackOpening};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Id;
use crate::format::pack::{Envelope, PackKind};
use crate::index::pack_key;
use crate::scope::{Ranged, Scope};

/// Packs whose directories are asked for ahead.
const OPENINGS_MAX: usize = 8;
/// Memory for each blob.
pub(super) const MOVE_BYTES: u64 = size_of::<Move>() as u64;
/// Memory for each pack, with an envelope or two of its own.
pub(super) const ORIGIN_BYTES: u64 = 1024;

/// A blob on its way.
#[derive(Clone, Copy)]
pub(super) struct Move {
    /// Where a tree needs it.
    place: u32,
    /// Number of the pack.
    pub(super) origin: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
    /// Number of its envelope.
    envelope: u32,
    pub(super) id: Id,
}

/// One pack that is copied from.
pub(super) struct Origin {
    pub(super) ranged: Ranged,
    pub(super) kind: PackKind,
}

/// What to move, and what was found on the way.
#[derive(Default)]
pub(super) struct Moves {
    /// In the order in which it shall lie.
    pub(super) list: Vec<Move>,
    pub(super) origins: Vec<Origin>,
    envelopes: Vec<Envelope>,
    numbers: HashMap<Envelope, u32>,
}

/// Reads the directories of the selected packs. `Damaged` where one is lost, or does not have what the index
/// says.
pub(super) fn find_moves(
    scope: &Scope,
    bulk: &BulkOptions,
    selection: &Selection,
) -> Result<Moves> {
    let mut moves = Moves::default();
    moves.list.reserve_exact(selection.chosen.len());
    let mut packs = selection.chosen.chunk_by(|one, next| one.order == next.order);
    let mut opening = VecDeque::new();
    loop {
        while opening.len() < OPENINGS_MAX
            && let Some(chosen) = packs.next()
        {
            let number = chosen.first().map_or(0, |one| one.order as usize);
            let pack = selection.packs.get(number).and_then(Option::as_ref);
            let pack = pack.ok_or_else(|| Error::internal("a pack that was not listed"))?;
            let (name, size) = (pack_key(pack.kind, &pack.name), u64::from(pack.object_bytes));
            opening.push_back((
                PackOpening::start(scope, pack.kind, name, size)?,
                pack.kind,
                chosen,
            ));
        }
        let Some((pack, kind, chosen)) = opening.pop_front() else {
            moves.list.sort_unstable_by_key(|one| (one.place, one.origin, one.offset));
            return Ok(moves);
        };
        moves.add(pack.finish(scope, bulk.memory_bytes / 8).map_err(lost)?, kind, chosen)?;
    }
}

/// A pack that the index lists is there, or something is wrong.
pub(super) fn lost(error: Error) -> Error {
    match error.kind {
        ErrorKind::NotFound => {
            Error { kind: ErrorKind::Damaged, what: "the object is missing".into(), ..error }
        }
        _ => error,
    }
}

impl Moves {
    /// The envelope of a blob.
    pub(super) fn envelope(&self, one: &Move) -> Result<&Envelope> {
        let found = self.envelopes.get(one.envelope as usize);
        found.ok_or_else(|| Error::internal("an envelope that was not noted"))
    }

    fn add(&mut self, opened: OpenedPack, kind: PackKind, chosen: &[Chosen]) -> Result<()> {
        let too_many = |_| Error::internal("too many packs at once");
        let OpenedPack { ranged, directory } = opened;
        let origin = u32::try_from(self.origins.len()).map_err(too_many)?;
        for one in chosen {
            let found = directory.entries.binary_search_by_key(&one.offset, |entry| entry.offset);
            let entry = found.ok().and_then(|at| directory.entries.get(at)).filter(|entry| {
                entry.length == one.length && entry.id.0.first_chunk() == Some(&one.check)
            });
            let envelope = entry.and_then(|entry| {
                let envelope = directory.envelopes.get(usize::from(entry.envelope))?;
                Some((entry.id, *envelope))
            });
            let Some((id, envelope)) = envelope else {
                let what = "a pack does not have what the index says";
                return Err(Error::damaged(what).offset(u64::from(one.offset)).at(ranged.key()));
            };
            let next = u32::try_from(self.envelopes.len()).map_err(too_many)?;
            let number = *self.numbers.entry(envelope).or_insert(next);
            if number == next {
                self.envelopes.push(envelope);
            }
            let Chosen { offset, length, place, .. } = *one;
            self.list.push(Move { place, origin, offset, length, envelope: number, id });
        }
        self.origins.push(Origin { ranged, kind });
        Ok(())
    }
}
