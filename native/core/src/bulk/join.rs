//! Many sorted streams read as one: everything that is said about an id comes together.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use super::lists::{MarksStream, RefsStream};
use super::runs::{RunStream, Spot};
use crate::error::{ErrorKind, Result};
use crate::format::ShortId;

/// One of the streams.
pub(super) enum Source {
    /// Entries of a run.
    Run(Box<RunStream>),
    /// Ids of a part of a reference set.
    Refs(Box<RefsStream>),
    /// The same, to be taken away.
    Removed(Box<RefsStream>),
    /// The same, only for where ids lie in a tree: the number of the part among all such.
    Placed(Box<RefsStream>, u16),
    /// Marks.
    Marks(Box<MarksStream>),
}

/// What a stream says about an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// It lies here.
    At(Spot),
    /// It is needed so often.
    Needed(u32),
    /// It is needed once less.
    Released,
    /// Here it is among what trees need, in their order.
    Placed(u32),
}

impl Source {
    fn next(&mut self) -> Result<Option<(ShortId, Item)>> {
        Ok(match self {
            Self::Run(run) => run.next()?.map(|(id, spot)| (id, Item::At(spot))),
            Self::Refs(refs) => refs.next()?.map(|(id, _)| (id, Item::Needed(1))),
            Self::Removed(refs) => refs.next()?.map(|(id, _)| (id, Item::Released)),
            Self::Placed(refs, part) => unless_lost(refs.next())?
                .flatten()
                .map(|(id, place)| (id, Item::Placed(u32::from(*part) << 16 | u32::from(place)))),
            Self::Marks(marks) => marks.next()?.map(|(id, count)| (id, Item::Needed(count))),
        })
    }

    /// Whole key of a part of a reference set.
    pub(super) fn refs_key(&self) -> Option<&str> {
        match self {
            Self::Refs(refs) | Self::Removed(refs) | Self::Placed(refs, _) => Some(refs.key()),
            _ => None,
        }
    }
}

/// None for what is damaged: of what only tells an order, nothing depends on it.
pub(super) fn unless_lost<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(error) if error.kind == ErrorKind::Damaged => Ok(None),
        other => other.map(Some),
    }
}

/// The streams in one order.
pub(super) struct Join {
    sources: Vec<Source>,
    /// What each source says next.
    items: Vec<Item>,
    heap: BinaryHeap<Reverse<(u128, usize)>>,
}

impl Join {
    /// Reads the first of each. A source without any is verified and dropped here.
    pub(super) fn new(sources: Vec<Source>) -> Result<Self> {
        let mut join = Self { sources: Vec::new(), items: Vec::new(), heap: BinaryHeap::new() };
        for mut source in sources {
            if let Some((id, item)) = source.next()? {
                join.heap.push(Reverse((u128::from_be_bytes(id.0), join.sources.len())));
                join.sources.push(source);
                join.items.push(item);
            }
        }
        Ok(join)
    }

    /// Gives everything about the next id to `look`, with the number of the source; none when all sources
    /// have ended, and so have been verified.
    pub(super) fn next_id(
        &mut self,
        mut look: impl FnMut(ShortId, Item, usize) -> Result<()>,
    ) -> Result<Option<ShortId>> {
        let Some(Reverse((id, _))) = self.heap.peek().copied() else {
            return Ok(None);
        };
        let short = ShortId(id.to_be_bytes());
        while let Some(mut top) = self.heap.peek_mut() {
            let Reverse((found, number)) = *top;
            if found != id {
                break;
            }
            let (Some(source), Some(item)) =
                (self.sources.get_mut(number), self.items.get_mut(number))
            else {
                return Err(crate::Error::internal("a source that is not there"));
            };
            look(short, *item, number)?;
            match source.next()? {
                Some((next, said)) => {
                    *item = said;
                    *top = Reverse((u128::from_be_bytes(next.0), number));
                }
                None => drop(PeekMut::pop(top)),
            }
        }
        Ok(Some(short))
    }

    /// The source with this number.
    pub(super) fn source(&self, number: usize) -> Option<&Source> {
        self.sources.get(number)
    }
}
