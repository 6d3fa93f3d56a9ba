//! Index runs (section 7): short id -> (pack, offset, length), sorted, immutable.
//!
//! [`Run`] holds a whole run in one buffer; [`RunParts`] is what somebody keeps who loads the header
//! and the filter only and asks for blocks of entries when the filter says "perhaps".

use std::iter;
use std::ops::Range;

use super::ShortId;
use super::filter::Filter;
use super::pack::{ENVELOPE_BYTES, Envelope, PackKind};
use super::varint::{ByteReader, check_zero};
use crate::{Error, Result};

mod builder;
mod partial;

pub use builder::{NewPack, RunBuilder};
pub use partial::{Probe, RunParts};

/// Bytes of a run's header.
pub const RUN_HEADER_BYTES: usize = 32;
/// Bytes of an entry.
pub const RUN_ENTRY_BYTES: usize = 28;
/// Bytes of a pack's record.
pub const RUN_PACK_BYTES: usize = 32;

const MAGIC: &[u8; 8] = b"PVBKRUN1";
const SPAN_BYTES: usize = 8;

type RawEntry = [u8; RUN_ENTRY_BYTES];

/// Where a blob lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The pack's position in the run's table.
    pub pack: u32,
    /// Offset in the pack's plaintext, in bytes.
    pub offset: u32,
    /// Bytes of the sealed blob, not 0.
    pub length: u32,
}

/// The sizes of a run's parts, and from them where each lies. All offsets are plaintext offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunHeader {
    /// Number of entries.
    pub entries: u64,
    /// Number of packs.
    pub packs: u32,
    /// Bytes of the filter.
    pub filter_bytes: u32,
    /// Bytes of the envelope section.
    pub envelope_bytes: u32,
}

impl RunHeader {
    /// Reads the first 32 bytes of a run.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut reader = ByteReader::new(bytes);
        if reader.array()? != *MAGIC {
            return Err(reader.damaged("not an index run"));
        }
        let header = Self {
            entries: reader.u64()?,
            packs: reader.u32()?,
            filter_bytes: reader.u32()?,
            envelope_bytes: reader.u32()?,
        };
        if reader.u32()? != 0 {
            return Err(reader.damaged("unknown field in the header of an index run"));
        }
        // 2^40 entries are 28 TiB: far beyond any run, and far from overflow below.
        if header.entries > 1 << 40 || (header.entries == 0) != (header.filter_bytes == 0) {
            return Err(reader.damaged("index run with impossible counts"));
        }
        Ok(header)
    }

    fn encode(&self) -> [u8; RUN_HEADER_BYTES] {
        let mut out = [0; RUN_HEADER_BYTES];
        let fields = MAGIC
            .iter()
            .copied()
            .chain(self.entries.to_le_bytes())
            .chain(self.packs.to_le_bytes())
            .chain(self.filter_bytes.to_le_bytes())
            .chain(self.envelope_bytes.to_le_bytes());
        out.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        out
    }

    /// Reads the header of a run whose body has `body_bytes`: its parts have to lie inside.
    pub fn parse_within(bytes: &[u8], body_bytes: u64) -> Result<Self> {
        let header = Self::parse(bytes)?;
        if header.envelopes_range().end > body_bytes {
            return Err(Error::damaged("index run ends too early").offset(body_bytes));
        }
        Ok(header)
    }

    /// Where the filter lies.
    pub fn filter_range(&self) -> Range<u64> {
        let start = RUN_HEADER_BYTES as u64;
        start..start + u64::from(self.filter_bytes)
    }

    /// Where the entries lie.
    pub fn entries_range(&self) -> Range<u64> {
        let start = self.filter_range().end;
        start..start + self.entries * RUN_ENTRY_BYTES as u64
    }

    /// Where the table of packs lies.
    pub fn packs_range(&self) -> Range<u64> {
        let start = self.entries_range().end;
        start..start + u64::from(self.packs) * RUN_PACK_BYTES as u64
    }

    /// Where the record of one pack lies; none beyond the table.
    pub fn pack_range(&self, ordinal: u32) -> Option<Range<u64>> {
        let start = self.packs_range().start + u64::from(ordinal) * RUN_PACK_BYTES as u64;
        (ordinal < self.packs).then_some(start..start + RUN_PACK_BYTES as u64)
    }

    /// Where the envelope section lies; padding follows.
    pub fn envelopes_range(&self) -> Range<u64> {
        let start = self.packs_range().end;
        start..start + u64::from(self.envelope_bytes)
    }
}

/// What a run says about one pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackRecord {
    /// The pack's name.
    pub name: [u8; 16],
    /// What it holds.
    pub kind: PackKind,
    /// Bytes of the whole object in the store.
    pub object_bytes: u32,
    /// Where its part of the envelope section starts.
    pub section_offset: u32,
}

impl PackRecord {
    /// Reads one 32-byte record.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut reader = ByteReader::new(bytes);
        let name = reader.array()?;
        let kind = PackKind::from_code(reader.u8()?)
            .ok_or_else(|| reader.damaged("unknown kind of pack in an index run"))?;
        let reserved: [u8; 3] = reader.array()?;
        let object_bytes = reader.u32()?;
        let section_offset = reader.u32()?;
        if reserved != [0; 3] || reader.u32()? != 0 {
            return Err(reader.damaged("unknown field of a pack in an index run"));
        }
        reader.finish()?;
        Ok(Self { name, kind, object_bytes, section_offset })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.name);
        out.extend_from_slice(&[self.kind.code(), 0, 0, 0]);
        out.extend_from_slice(&self.object_bytes.to_le_bytes());
        out.extend_from_slice(&self.section_offset.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
    }
}

/// The envelopes of one pack, and which blobs each is for.
#[derive(Clone, Copy, Debug)]
pub struct EnvelopeSection<'a> {
    envelopes: &'a [Envelope],
    spans: &'a [[u8; SPAN_BYTES]],
}

/// Start offset, envelope, and the reserved bytes of a span.
fn span_parts(span: [u8; SPAN_BYTES]) -> (u32, u16, u16) {
    let number = u64::from_le_bytes(span);
    let [.., low, high, reserved_low, reserved_high] = span;
    #[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
    let start = number as u32;
    (start, u16::from_le_bytes([low, high]), u16::from_le_bytes([reserved_low, reserved_high]))
}

impl<'a> EnvelopeSection<'a> {
    /// Reads the section that starts at `bytes`; returns it and its length.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, usize)> {
        let mut reader = ByteReader::new(bytes);
        let count = usize::from(reader.u16()?);
        let (envelopes, _) = reader.take(count * ENVELOPE_BYTES)?.as_chunks();
        let count = reader.u32()? as usize;
        if count > reader.remaining() / SPAN_BYTES {
            return Err(reader.damaged("envelope spans end too early"));
        }
        let (spans, _) = reader.take(count * SPAN_BYTES)?.as_chunks();
        let mut after = 0;
        for span in spans {
            let (start, envelope, reserved) = span_parts(*span);
            if u64::from(start) < after || usize::from(envelope) >= envelopes.len() || reserved != 0
            {
                return Err(reader.damaged("envelope spans are wrong"));
            }
            after = u64::from(start) + 1;
        }
        Ok((Self { envelopes, spans }, reader.position()))
    }

    /// The envelope for the blob at `offset` of the pack.
    pub fn envelope_at(&self, offset: u32) -> Option<&'a Envelope> {
        let after = self.spans.partition_point(|span| span_parts(*span).0 <= offset);
        let (_, envelope, _) = span_parts(*self.spans.get(after.checked_sub(1)?)?);
        self.envelopes.get(usize::from(envelope))
    }

    /// All of them.
    pub fn envelopes(&self) -> &'a [Envelope] {
        self.envelopes
    }

    /// From which offset on which envelope counts.
    pub fn spans(&self) -> impl Iterator<Item = (u32, &'a Envelope)> + use<'a> {
        let envelopes = self.envelopes;
        self.spans.iter().filter_map(move |span| {
            let (start, envelope, _) = span_parts(*span);
            envelopes.get(usize::from(envelope)).map(|envelope| (start, envelope))
        })
    }

    /// Where the pack's first blob may begin; beyond any pack where it has none.
    pub fn first_offset(&self) -> u64 {
        self.spans.first().map_or(u64::MAX, |span| u64::from(span_parts(*span).0))
    }
}

/// The id and the place of an entry.
pub fn parse_entry(entry: &[u8; RUN_ENTRY_BYTES]) -> (ShortId, Location) {
    (entry_id(entry), entry_location(entry))
}

fn entry_id(entry: &RawEntry) -> ShortId {
    ShortId(entry.first_chunk().copied().unwrap_or_default())
}

fn entry_location(entry: &RawEntry) -> Location {
    let number = |at: usize| {
        let bytes = entry.get(at..).and_then(|rest| rest.first_chunk());
        u32::from_le_bytes(bytes.copied().unwrap_or_default())
    };
    Location { pack: number(16), offset: number(20), length: number(24) }
}

fn entry_order(entry: &RawEntry) -> (ShortId, u32, u32) {
    let location = entry_location(entry);
    (entry_id(entry), location.pack, location.offset)
}

/// A whole run in memory: its plaintext, and nothing per entry.
#[derive(Clone, Debug)]
pub struct Run {
    header: RunHeader,
    body: Vec<u8>,
}

impl Run {
    /// Reads the body of a run: its plaintext without the signature block. Checks everything that a
    /// lookup relies on, once.
    pub fn parse(body: Vec<u8>) -> Result<Self> {
        let header = RunHeader::parse(&body)?;
        let end = header.envelopes_range().end;
        let padding = usize::try_from(end).ok().and_then(|end| Some((end, body.get(end..)?)));
        let Some((at, padding)) = padding else {
            return Err(Error::damaged("index run ends too early").offset(body.len() as u64));
        };
        check_zero(padding, at)?;
        let run = Self { header, body };
        run.filter()?;
        run.check()?;
        Ok(run)
    }

    /// Sections lie in the order of their packs without gaps; entries are in order and lie inside
    /// their packs and under an envelope.
    fn check(&self) -> Result<()> {
        let section_bytes = self.part(self.header.envelopes_range());
        let mut section_end = 0;
        let mut bounds = Vec::with_capacity(self.header.packs as usize);
        for ordinal in 0..self.header.packs {
            let record = self.pack(ordinal)?;
            let bytes = section_bytes.get(section_end..).unwrap_or_default();
            let (section, length) = EnvelopeSection::parse(bytes)?;
            if record.section_offset as usize != section_end {
                return Err(Error::damaged("envelope sections are not in order"));
            }
            section_end += length;
            bounds.push((section.first_offset(), u64::from(record.object_bytes)));
        }
        if section_end != section_bytes.len() {
            return Err(Error::damaged("envelope section longer than its packs need"));
        }
        let mut last = None;
        for (index, entry) in self.entries().iter().enumerate() {
            let order = entry_order(entry);
            let Location { pack, offset, length } = entry_location(entry);
            let end = u64::from(offset) + u64::from(length);
            let inside = bounds.get(pack as usize).is_some_and(|(first, limit)| {
                u64::from(offset) >= *first && end <= *limit && length > 0
            });
            if !inside || last.is_some_and(|last| last >= order) {
                let at = self.header.entries_range().start + (index * RUN_ENTRY_BYTES) as u64;
                let what = "entry of an index run out of order or outside its pack";
                return Err(Error::damaged(what).offset(at));
            }
            last = Some(order);
        }
        Ok(())
    }

    fn part(&self, range: Range<u64>) -> &[u8] {
        let (Ok(start), Ok(end)) = (usize::try_from(range.start), usize::try_from(range.end))
        else {
            return &[];
        };
        self.body.get(start..end).unwrap_or_default()
    }

    fn entries(&self) -> &[RawEntry] {
        self.part(self.header.entries_range()).as_chunks().0
    }

    /// The sizes of its parts.
    pub const fn header(&self) -> &RunHeader {
        &self.header
    }

    /// Its filter.
    pub fn filter(&self) -> Result<Filter<'_>> {
        Filter::parse(self.part(self.header.filter_range()))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries().len()
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    /// All places where blobs with this short id lie, by pack and offset.
    pub fn lookup(&self, id: &ShortId) -> impl Iterator<Item = Location> + '_ {
        let entries = self.entries();
        let id = *id;
        let start = lower_bound(entries, &id);
        let mut rest = entries.get(start..).unwrap_or_default().iter();
        iter::from_fn(move || rest.next().filter(|entry| entry_id(entry) == id).map(entry_location))
    }

    /// All entries in order.
    pub fn iter(&self) -> impl Iterator<Item = (ShortId, Location)> + '_ {
        self.entries().iter().map(|entry| (entry_id(entry), entry_location(entry)))
    }

    /// What it says about one of its packs.
    pub fn pack(&self, ordinal: u32) -> Result<PackRecord> {
        let range = self.header.pack_range(ordinal);
        let range = range.ok_or_else(|| Error::internal("no such pack in the index run"))?;
        PackRecord::parse(self.part(range))
    }

    /// The envelope for the blob at `offset` of a pack; none where it has no blob.
    pub fn envelope(&self, pack: u32, offset: u32) -> Result<Option<&Envelope>> {
        Ok(self.section(pack)?.envelope_at(offset))
    }

    /// The envelopes of a pack.
    pub fn section(&self, pack: u32) -> Result<EnvelopeSection<'_>> {
        let section = self.pack(pack)?.section_offset;
        let bytes = self.part(self.header.envelopes_range());
        let bytes = bytes.get(section as usize..).unwrap_or_default();
        Ok(EnvelopeSection::parse(bytes)?.0)
    }
}

/// Index of the first entry whose id is not below `id`. Ids are uniform, so the third guess is
/// rarely off by more than a few entries: the search widens from there, then halves; with ids that are
/// not uniform never more than about twice the steps of halving alone.
fn lower_bound(entries: &[RawEntry], id: &ShortId) -> usize {
    let (mut low, mut high) = (0, entries.len());
    let (mut low_rank, mut high_rank) = (0, u64::MAX);
    let mut guess = 0;
    for _ in 0..3 {
        let distance = interpolate(id.rank(), low_rank, high_rank, (high - low) as u64);
        guess = low + usize::try_from(distance).unwrap_or_default();
        match entries.get(guess).map(entry_id) {
            Some(found) if found < *id => (low, low_rank) = (guess + 1, found.rank()),
            Some(found) => (high, high_rank) = (guess, found.rank()),
            None => break,
        }
    }
    let below = |index: usize| entries.get(index).is_some_and(|entry| entry_id(entry) < *id);
    let (mut low, mut high) = (guess, guess);
    let mut step = 8;
    if below(guess) {
        while below(high) {
            low = high;
            high = high.saturating_add(step).min(entries.len());
            step *= 2;
        }
    } else {
        while low > 0 && !below(low) {
            high = low;
            low = low.saturating_sub(step);
            step *= 2;
        }
    }
    let window = entries.get(low..high).unwrap_or_default();
    low + window.partition_point(|entry| entry_id(entry) < *id)
}

/// Where `rank` should stand among `count` ranks spread evenly over `low..=high`: below `count`, or
/// 0 when there are none.
fn interpolate(rank: u64, low: u64, high: u64, count: u64) -> u64 {
    let span = u128::from(high.saturating_sub(low)) + 1;
    let distance = u128::from(rank.saturating_sub(low).min(high.saturating_sub(low)));
    let position = distance * u128::from(count) / span;
    u64::try_from(position).unwrap_or(count).min(count.saturating_sub(1))
}

#[cfg(test)]
mod tests;
