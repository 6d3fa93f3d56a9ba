//! Streams of ids: parts of reference sets, and marks.

use serde::Deserialize;

use super::MarksOptions;
use super::sequence::{Opening, Sequence, What};
use crate::crypto::{Action, ObjectType};
use crate::error::{Error, Result};
use crate::format::ShortId;
use crate::format::marks::{MARK_BYTES, MARKS_HEAD_BYTES, parse_mark, parse_marks_head};
use crate::format::refs::{HEAD_BYTES, RefsHead};
use crate::scope::Scope;

/// An object that another one names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
pub struct Part {
    /// Name below the scope.
    pub name: String,
    /// BLAKE3 of the object in hex.
    pub hash: String,
}

impl Part {
    fn what(&self, kind: ObjectType, block: u64) -> What {
        let (name, hash) = (self.name.clone(), Some(self.hash.clone()));
        What { kind, name, size: None, hash, block }
    }
}

/// One part of a reference set that is read in order.
pub(super) struct RefsStream {
    sequence: Sequence,
    has_places: bool,
    left: usize,
    last: Option<ShortId>,
}

/// A part whose first block has been asked for.
pub(super) struct RefsOpening(Opening);

impl RefsOpening {
    pub(super) fn start(scope: &Scope, part: &Part, block: u64) -> Result<Self> {
        Opening::start(scope, part.what(ObjectType::ReferenceSet, block)).map(Self)
    }

    pub(super) fn finish(self) -> Result<RefsStream> {
        let size_of = |head: &[u8]| {
            let head = head.get(..HEAD_BYTES).unwrap_or_default();
            RefsHead::parse(head).map(|head| head.bare_bytes() as u64)
        };
        let mut sequence = self.0.finish(size_of)?;
        let head = sequence.take::<HEAD_BYTES>()?;
        let head = RefsHead::parse(&head).map_err(|error| sequence.fault(error))?;
        let RefsHead { count: left, has_places } = head;
        Ok(RefsStream { sequence, has_places, left, last: None })
    }
}

impl RefsStream {
    /// The next id and its place in the part, 0 for all where that is not said; none at the end, when the
    /// whole part has been verified.
    pub(super) fn next(&mut self) -> Result<Option<(ShortId, u16)>> {
        if self.left == 0 {
            self.sequence.finish(Action::Add)?;
            return Ok(None);
        }
        let id = ShortId(self.sequence.take()?);
        if self.last.is_some_and(|last| last >= id) {
            return Err(self.sequence.fault(Error::damaged("reference set is not sorted")));
        }
        let place = if self.has_places { self.sequence.take()? } else { [0; 2] };
        self.left -= 1;
        self.last = Some(id);
        Ok(Some((id, u16::from_le_bytes(place))))
    }

    pub(super) fn key(&self) -> &str {
        self.sequence.key()
    }
}

/// All parts of marks, one after the other: at most two are open.
pub(super) struct MarksStream {
    scope: Scope,
    parts: std::vec::IntoIter<Part>,
    block: u64,
    ahead: Option<Opening>,
    open: Option<(Sequence, usize)>,
    last: Option<ShortId>,
    /// Ids that are missing from what was named; none where that is not known.
    missing: Option<u64>,
}

impl MarksStream {
    /// Starts reading the parts.
    pub(super) fn start(scope: &Scope, marks: &MarksOptions, block: u64) -> Result<Self> {
        let (scope, parts) = (scope.clone(), marks.parts.clone().into_iter());
        let (ahead, open, last) = (None, None, None);
        let mut stream = Self { scope, parts, block, ahead, open, last, missing: marks.ids };
        stream.ask()?;
        Ok(stream)
    }

    fn ask(&mut self) -> Result<()> {
        let what = self.parts.next().map(|part| part.what(ObjectType::Marks, self.block));
        self.ahead = what.map(|what| Opening::start(&self.scope, what)).transpose()?;
        Ok(())
    }

    /// The next id and its count; none at the end, when every part has been verified.
    pub(super) fn next(&mut self) -> Result<Option<(ShortId, u32)>> {
        loop {
            if let Some((sequence, left)) = &mut self.open {
                if *left > 0 {
                    *left -= 1;
                    let mark = parse_mark(&sequence.take::<MARK_BYTES>()?);
                    let (id, count) = mark.map_err(|error| sequence.fault(error))?;
                    if self.last.is_some_and(|last| last >= id) {
                        return Err(sequence.fault(Error::damaged("marks are not sorted")));
                    }
                    self.last = Some(id);
                    return Ok(Some((id, count)));
                }
                sequence.finish(Action::Replace)?;
                self.open = None;
            }
            let Some(opening) = self.ahead.take() else {
                let is_whole = self.missing.is_none_or(|missing| missing == 0);
                let short = || Error::damaged("marks list fewer ids than they should");
                return is_whole.then_some(None).ok_or_else(short);
            };
            let size_of = |head: &[u8]| {
                let head = head.get(..MARKS_HEAD_BYTES).unwrap_or_default();
                parse_marks_head(head).map(|count| (MARKS_HEAD_BYTES + count * MARK_BYTES) as u64)
            };
            let mut sequence = opening.finish(size_of)?;
            let head = sequence.take::<MARKS_HEAD_BYTES>()?;
            let left = parse_marks_head(&head).map_err(|error| sequence.fault(error))?;
            let too_many = || Error::damaged("marks list more ids than they should");
            let missing = self.missing.map(|missing| {
                missing.checked_sub(left as u64).ok_or_else(|| sequence.fault(too_many()))
            });
            self.missing = missing.transpose()?;
            self.open = Some((sequence, left));
            self.ask()?;
        }
    }
}
