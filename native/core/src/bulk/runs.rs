//! Index runs as streams of entries. Nothing of a run is held but a block and, for each of its packs, 16
//! bytes; so many can be read side by side.

use std::ops::Range;

use super::catalog::Catalog;
use super::doubts::Origins;
use super::sequence::{Opening, Sequence, What};
use crate::crypto::{Action, ObjectType, Role};
use crate::error::{Error, Result};
use crate::format::ShortId;
use crate::format::filter::{Filter, HEAD_BYTES as FILTER_HEAD_BYTES};
use crate::format::pack::{ENVELOPE_BYTES, PACK_ENTRIES_MAX, PACK_ENVELOPES_MAX};
use crate::format::run::{
    EnvelopeSection, PackRecord, RUN_ENTRY_BYTES, RUN_HEADER_BYTES, RUN_PACK_BYTES, RunHeader,
    parse_entry,
};
use crate::index::RunName;
use crate::scope::Scope;

/// Parts that are needed ahead of the entries are read in pieces of so many bytes.
const PIECE_BYTES: u64 = 1 << 20;
/// The longest envelope section that a pack can have.
const SECTION_BYTES_MAX: usize = 6 + PACK_ENVELOPES_MAX * ENVELOPE_BYTES + PACK_ENTRIES_MAX * 8;
/// Number of a pack that is left out.
const LEFT_OUT: u32 = u32::MAX;

/// Where a blob lies, with the pack's number in the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot {
    pub(super) pack: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
}

/// What is remembered of a pack in the run's table.
struct RunPack {
    number: u32,
    object_bytes: u32,
    section_offset: u32,
    /// The least offset of an entry, which the first span has to cover.
    least: u32,
}

/// A run whose first block has been asked for.
pub(super) struct RunOpening {
    opening: Opening,
    /// Who may have signed it: those in the base of `gc/state` stand in place of others.
    action: Action,
}

/// A run that is read in order.
pub(super) struct RunStream {
    sequence: Sequence,
    header: RunHeader,
    left: u64,
    packs: Vec<RunPack>,
    last: Option<(ShortId, u32, u32)>,
    /// Digests of what was read ahead: table of packs, and envelope section if that was wanted.
    table: blake3::Hash,
    sections: Option<blake3::Hash>,
    action: Action,
}

impl RunOpening {
    pub(super) fn start(scope: &Scope, run: &RunName, block: u64) -> Result<Self> {
        let name = format!("index/{}", run.name);
        let (kind, size) = (ObjectType::Run, Some(run.size));
        let opening = Opening::start(scope, What { kind, name, size, hash: None, block })?;
        let action = if run.base { Action::Replace } else { Action::Add };
        Ok(Self { opening, action })
    }

    /// Reads header and table of packs, and the envelope sections where `with_sections` says so, and notes
    /// the packs in `catalog`.
    pub(super) fn finish(
        self,
        catalog: &mut Catalog,
        is_spared: bool,
        with_sections: bool,
    ) -> Result<RunStream> {
        let Self { opening, action } = self;
        let mut sequence = opening.finish(|_| Err(Error::internal("a run of unknown size")))?;
        let opened = Self::read_table(&mut sequence, catalog, is_spared, with_sections);
        let (header, packs, table, sections) = opened.map_err(|error| sequence.fault(error))?;
        let (left, last) = (header.entries, None);
        Ok(RunStream { sequence, header, left, packs, last, table, sections, action })
    }

    fn read_table(
        sequence: &mut Sequence,
        catalog: &mut Catalog,
        is_spared: bool,
        with_sections: bool,
    ) -> Result<(RunHeader, Vec<RunPack>, blake3::Hash, Option<blake3::Hash>)> {
        let first = sequence.take::<RUN_HEADER_BYTES>()?;
        let header = RunHeader::parse_within(&first, sequence.body_bytes())?;
        let mut packs = Vec::with_capacity(header.packs as usize);
        let mut partial = Vec::new();
        let table = read_early(sequence, header.packs_range(), |piece| {
            partial.extend_from_slice(piece);
            let (records, _) = partial.as_chunks::<RUN_PACK_BYTES>();
            for record in records {
                let record = PackRecord::parse(record)?;
                packs.push(RunPack {
                    number: catalog.note(&record, is_spared)?.unwrap_or(LEFT_OUT),
                    object_bytes: record.object_bytes,
                    section_offset: record.section_offset,
                    least: u32::MAX,
                });
            }
            let done = records.len() * RUN_PACK_BYTES;
            partial.drain(..done);
            Ok(())
        })?;
        let mut sections = None;
        if with_sections {
            let (mut reader, mut numbers) = (SectionReader::default(), packs.iter());
            sections = Some(read_early(sequence, header.envelopes_range(), |piece| {
                reader.feed(piece, |bytes, _| match numbers.next() {
                    Some(pack) if pack.number != LEFT_OUT => {
                        catalog.note_section(pack.number, bytes)
                    }
                    _ => Ok(()),
                })
            })?);
        }
        Ok((header, packs, table, sections))
    }
}

/// Gives `range` to `look` in pieces, from what is at hand or by reading it out of order.
fn read_early(
    sequence: &Sequence,
    range: Range<u64>,
    mut look: impl FnMut(&[u8]) -> Result<()>,
) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let base = sequence.position();
    let inside = |at: u64| usize::try_from(at.saturating_sub(base)).unwrap_or(usize::MAX);
    if let Some(here) = sequence.available().get(inside(range.start)..inside(range.end)) {
        hasher.update(here);
        look(here)?;
        return Ok(hasher.finalize());
    }
    let mut start = range.start;
    while start < range.end {
        // Pieces end where segments do, so that no segment is read twice.
        let end = range.end.min((start / PIECE_BYTES + 1) * PIECE_BYTES);
        let piece = sequence.read_ahead(start..end)?;
        hasher.update(&piece);
        look(&piece)?;
        start = end;
    }
    Ok(hasher.finalize())
}

impl RunStream {
    /// The next entry of a pack that is not left out, and its position as the run has it; none at the end,
    /// when the whole run has been verified.
    pub(super) fn next(&mut self) -> Result<Option<(ShortId, Spot)>> {
        if self.left == self.header.entries && self.last.is_none() {
            self.pass_filter()?;
        }
        while self.left > 0 {
            let entry = self.sequence.take::<RUN_ENTRY_BYTES>()?;
            let (id, at) = parse_entry(&entry);
            self.left -= 1;
            let order = (id, at.pack, at.offset);
            let end = u64::from(at.offset) + u64::from(at.length);
            let pack = self.packs.get_mut(at.pack as usize);
            let pack = pack.filter(|pack| at.length > 0 && end <= u64::from(pack.object_bytes));
            let (Some(pack), true) = (pack, self.last.is_none_or(|last| last < order)) else {
                let what = "entry of an index run out of order or outside its pack";
                return Err(self.fault(what));
            };
            pack.least = pack.least.min(at.offset);
            self.last = Some(order);
            if pack.number != LEFT_OUT {
                let spot = Spot { pack: pack.number, offset: at.offset, length: at.length };
                return Ok(Some((id, spot)));
            }
        }
        self.finish()?;
        Ok(None)
    }

    fn fault(&self, what: &'static str) -> Error {
        let at = self.sequence.position().saturating_sub(RUN_ENTRY_BYTES as u64);
        self.sequence.fault(Error::damaged(what).offset(at))
    }

    fn pass_filter(&mut self) -> Result<()> {
        let bytes = u64::from(self.header.filter_bytes);
        if bytes == 0 {
            return Ok(());
        }
        let head = self.sequence.take::<FILTER_HEAD_BYTES>()?;
        Filter::parse_head(&head, bytes).map_err(|error| self.sequence.fault(error))?;
        self.sequence.pass(bytes - FILTER_HEAD_BYTES as u64, |_| Ok(()))
    }

    /// What follows the entries is read once more, in order, because the signature covers it; it has to be
    /// what was read ahead.
    fn finish(&mut self) -> Result<()> {
        let Self { sequence, header, packs, .. } = self;
        let mut hasher = blake3::Hasher::new();
        let table = header.packs_range();
        sequence.pass(table.end - table.start, |piece| {
            hasher.update(piece);
            Ok(())
        })?;
        let is_same = hasher.finalize() == self.table;
        let mut hasher = blake3::Hasher::new();
        let (mut reader, mut packs, mut end) = (SectionReader::default(), packs.iter(), 0);
        let mut origins = Origins::default();
        sequence.pass(u64::from(header.envelope_bytes), |piece| {
            hasher.update(piece);
            reader.feed(piece, |bytes, section| {
                origins.note(section);
                let pack = packs.next();
                let pack = pack.filter(|pack| {
                    let covers =
                        pack.least == u32::MAX || section.first_offset() <= u64::from(pack.least);
                    u64::from(pack.section_offset) == end && covers
                });
                end += bytes.len() as u64;
                let wrong = || Error::damaged("envelope sections do not fit packs and entries");
                pack.map(|_| ()).ok_or_else(wrong)
            })
        })?;
        let is_same = is_same && self.sections.is_none_or(|seen| seen == hasher.finalize());
        if packs.next().is_some() || !reader.is_at_end() || !is_same {
            let what = "envelope sections or packs of an index run are not what was read before";
            return Err(sequence.fault(Error::damaged(what)));
        }
        // The memory is wanted by those that are still read.
        self.packs = Vec::new();
        let signed_by = sequence.finish(self.action)?;
        if signed_by.role == Role::Writer && !origins.are_of(signed_by.principal) {
            let what = "an index run in which a writer lists what another principal sealed";
            return Err(sequence.fault(Error::damaged(what)));
        }
        Ok(())
    }
}

/// Cuts envelope sections out of a run, whatever the pieces that it comes in.
#[derive(Default)]
struct SectionReader {
    held: Vec<u8>,
}

impl SectionReader {
    fn feed(
        &mut self,
        piece: &[u8],
        mut take: impl FnMut(&[u8], &EnvelopeSection<'_>) -> Result<()>,
    ) -> Result<()> {
        self.held.extend_from_slice(piece);
        let mut at = 0;
        while let Some(bytes) = self.first_section(at)? {
            let (section, length) = EnvelopeSection::parse(bytes)?;
            take(bytes, &section)?;
            at += length;
        }
        self.held.drain(..at);
        Ok(())
    }

    /// The section that starts at `at`, if it is there to its end.
    fn first_section(&self, at: usize) -> Result<Option<&[u8]>> {
        let here = self.held.get(at..).unwrap_or_default();
        let Some(count) = here.first_chunk() else {
            return Ok(None);
        };
        let spans_at = 2 + usize::from(u16::from_le_bytes(*count)) * ENVELOPE_BYTES;
        let Some(count) = here.get(spans_at..).and_then(|rest| rest.first_chunk()) else {
            return Ok(None);
        };
        let length = spans_at + 4 + (u32::from_le_bytes(*count) as usize).saturating_mul(8);
        if length > SECTION_BYTES_MAX {
            return Err(Error::damaged("envelope section longer than any pack needs"));
        }
        Ok(here.get(..length))
    }

    fn is_at_end(&self) -> bool {
        self.held.is_empty()
    }
}
