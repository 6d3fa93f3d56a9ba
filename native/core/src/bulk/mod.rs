//! Bulk work on what prune and merges go through: index runs, reference sets and packs of any number, in
//! memory that does not grow with them.
//!
//! Everything is a merge of sorted streams ([`join`]), each of which holds one block and has one on its
//! way ([`sequence`]). The index key and a signing key suffice: ids are counted, blobs are moved as they
//! lie, nothing is opened. The verbs write objects under fresh names only; that some of them were written before
//! damage came to light does no harm, as nothing names them.

use serde::Deserialize;

use crate::crypto::ObjectType;
use crate::crypto::object::SEGMENT_STRIDE;
use crate::error::{Error, ErrorKind, Result};
use crate::index::{IndexOptions, RunName};
use crate::scope::Scope;

mod catalog;
pub mod count;
pub(crate) mod doubts;
mod join;
mod lists;
pub mod merge;
mod moves;
mod put;
pub mod rebuild;
pub mod repack;
mod runs;
mod select;
mod sequence;
pub mod survey;
pub mod usage;
pub(crate) mod writer;

use catalog::Catalog;
use join::{Source, unless_lost};
pub use lists::Part;
use lists::{MarksStream, RefsOpening};
use runs::RunOpening;

/// Memory for who names none, in bytes.
const MEMORY_BYTES_DEFAULT: u64 = 256 << 20;
/// Ranged reads in flight for who names none.
const GETS_DEFAULT: usize = 16;
/// Bytes of a block of one segment, opened and sealed.
const STREAM_BYTES: u64 = 2 * (64 << 10) + 4096;
/// The most segments in a block: more makes requests no cheaper.
const BLOCK_SEGMENTS_MAX: u64 = 32;
/// Streams whose first blocks are asked for ahead.
const OPENINGS_MAX: usize = 64;

/// What every verb is given.
#[derive(Clone, Debug, Deserialize)]
pub struct BulkOptions {
    /// Bytes of memory that the job may use.
    #[serde(default = "default_memory")]
    pub memory_bytes: u64,
    /// Ranged reads worth keeping in flight.
    #[serde(default = "default_gets")]
    pub gets: usize,
    /// The valid runs, and what prune says of packs.
    #[serde(default)]
    pub index: IndexOptions,
}

const fn default_memory() -> u64 {
    MEMORY_BYTES_DEFAULT
}

const fn default_gets() -> usize {
    GETS_DEFAULT
}

/// Marks as the caller names them.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct MarksOptions {
    /// The parts in order.
    #[serde(default)]
    pub parts: Vec<Part>,
    /// Distinct ids in all of them, where that is known.
    pub ids: Option<u64>,
}

impl BulkOptions {
    /// Bytes for blocks of streams.
    fn stream_memory(&self) -> u64 {
        self.memory_bytes / 8 * 3
    }

    /// Bytes for tables of packs.
    fn catalog_memory(&self) -> u64 {
        self.memory_bytes / 4
    }

    /// How many streams may be read side by side.
    fn streams_max(&self) -> usize {
        usize::try_from(self.stream_memory() / STREAM_BYTES).unwrap_or(usize::MAX).max(4)
    }

    /// Segments in a block, so that so many streams fit.
    fn block(&self, streams: usize) -> u64 {
        let each = self.stream_memory() / streams.max(1) as u64;
        (each / STREAM_BYTES).clamp(1, BLOCK_SEGMENTS_MAX)
    }

    /// The least memory that a run takes as a stream.
    fn run_cost(run: &RunName) -> u64 {
        // A run of one segment has nothing on its way when it is open.
        if run.size <= SEGMENT_STRIDE as u64 { run.size + 2048 } else { STREAM_BYTES }
    }

    /// How many of `runs` fit side by side, one at least.
    fn fitting(&self, runs: &[RunName]) -> usize {
        let mut left = self.stream_memory();
        let fits = |run: &&RunName| {
            let cost = Self::run_cost(run);
            let is_within = cost <= left;
            left = left.saturating_sub(cost);
            is_within
        };
        runs.iter().take_while(fits).count().max(1).min(runs.len())
    }

    /// Opens runs, marks and parts of reference sets side by side.
    fn open(
        &self,
        scope: &Scope,
        catalog: &mut Catalog,
        wanted: &Wanted<'_>,
    ) -> Result<Vec<Source>> {
        let others = wanted.others();
        let runs: u64 = wanted.runs.iter().map(Self::run_cost).sum();
        if runs + others as u64 * STREAM_BYTES > self.stream_memory().max(4 * STREAM_BYTES) {
            let what =
                format!("{} index runs are too many for this job's memory", wanted.runs.len());
            return Err(Error::new(ErrorKind::Usage, what));
        }
        // Short runs take what they are, and leave the rest to the others.
        let short = wanted.runs.iter().filter(|run| Self::run_cost(run) < STREAM_BYTES);
        let (short_count, short_bytes) =
            short.fold((0, 0), |(count, bytes), run| (count + 1, bytes + Self::run_cost(run)));
        let long = wanted.runs.len() - short_count + others;
        let each = self.stream_memory().saturating_sub(short_bytes) / long.max(1) as u64;
        let block = (each / STREAM_BYTES).clamp(1, BLOCK_SEGMENTS_MAX);
        let mut sources = Vec::with_capacity(wanted.runs.len() + others);
        let opening = |run| RunOpening::start(scope, run, block);
        ahead(wanted.runs, OPENINGS_MAX, opening, |run, opening: RunOpening| {
            let is_spared = wanted.spared.contains(&run.name);
            let stream = opening.finish(catalog, is_spared, wanted.with_sections)?;
            sources.push(Source::Run(Box::new(stream)));
            Ok(())
        })?;
        if let Some(marks) = wanted.marks {
            let marks = MarksStream::start(scope, marks, block)?;
            sources.push(Source::Marks(Box::new(marks)));
        }
        let opening = |part| RefsOpening::start(scope, part, block);
        ahead(wanted.refs, OPENINGS_MAX, opening, |_, opening: RefsOpening| {
            sources.push(Source::Refs(Box::new(opening.finish()?)));
            Ok(())
        })?;
        let opening = |part| RefsOpening::start(scope, part, block);
        let mut numbers = 0_u16..;
        ahead(wanted.order, OPENINGS_MAX, opening, |_, opening: RefsOpening| {
            let number = numbers.next().unwrap_or(u16::MAX);
            let refs = unless_lost(opening.finish())?;
            sources.extend(refs.map(|refs| Source::Placed(Box::new(refs), number)));
            Ok(())
        })?;
        Ok(sources)
    }

    /// How many of the parts that only tell an order may be read beside `wanted`: half of what would fit.
    fn order_max(&self, wanted: &Wanted<'_>) -> usize {
        let runs: u64 = wanted.runs.iter().map(Self::run_cost).sum();
        let left = self.stream_memory().saturating_sub(runs) / STREAM_BYTES;
        let left = left.saturating_sub(wanted.others() as u64) / 2;
        usize::from(u16::try_from(left).unwrap_or(u16::MAX))
    }
}

/// Writes a part of a reference set in place of one that is lost.
pub(crate) fn put_part(scope: &Scope, name: String, body: Vec<u8>) -> Result<Part> {
    put::put(scope, ObjectType::ReferenceSet, name, body)
}

/// What [`BulkOptions::open`] opens.
#[derive(Default)]
struct Wanted<'a> {
    runs: &'a [RunName],
    spared: &'a [String],
    /// Envelope sections are needed, too.
    with_sections: bool,
    marks: Option<&'a MarksOptions>,
    refs: &'a [Part],
    /// Parts of reference sets that tell an order, and need nothing.
    order: &'a [Part],
}

impl Wanted<'_> {
    /// Streams besides the runs'. Marks are two: the part that is read, and the next.
    fn others(&self) -> usize {
        self.refs.len() + self.order.len() + 2 * usize::from(self.marks.is_some())
    }
}

/// Starts with up to `most` of `all`, and goes on with each in order.
fn ahead<'a, T, O>(
    all: &'a [T],
    most: usize,
    start: impl Fn(&'a T) -> Result<O>,
    mut go_on: impl FnMut(&'a T, O) -> Result<()>,
) -> Result<()> {
    let mut waiting = std::collections::VecDeque::new();
    let mut next = all.iter();
    loop {
        while waiting.len() < most.clamp(1, OPENINGS_MAX)
            && let Some(one) = next.next()
        {
            waiting.push_back((one, start(one)?));
        }
        match waiting.pop_front() {
            Some((one, started)) => go_on(one, started)?,
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
