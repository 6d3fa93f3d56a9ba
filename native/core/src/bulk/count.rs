//! `count`: marks, with reference sets added and taken away.

use serde::{Deserialize, Serialize};

use super::join::{Item, Join, Source};
use super::lists::{MarksStream, Part, RefsOpening};
use super::put::put;
use super::{BulkOptions, MarksOptions, OPENINGS_MAX, ahead};
use crate::crypto::ObjectType;
use crate::error::{Error, Result};
use crate::format::marks::MarksBuilder;
use crate::scope::{Scope, hex16};

/// Memory that a part in the making takes for each id, in bytes: as it is collected, as a body, sealed, and on
/// its way to the store.
const ID_COST: u64 = 80;

/// Options of `count`.
#[derive(Clone, Debug, Deserialize)]
pub struct CountOptions {
    /// What every verb is given.
    #[serde(flatten)]
    pub bulk: BulkOptions,
    /// The marks so far.
    #[serde(default)]
    pub marks: MarksOptions,
    /// Parts of reference sets whose ids count once more.
    #[serde(default)]
    pub add: Vec<Part>,
    /// Parts of reference sets whose ids count once less.
    #[serde(default)]
    pub remove: Vec<Part>,
    /// Stands in the names of what is written.
    #[serde(rename = "gen")]
    pub generation: u64,
}

/// New marks.
#[derive(Debug, Serialize)]
pub struct Counted {
    /// The parts in order.
    pub parts: Vec<Part>,
    /// Distinct ids in them.
    pub ids: u64,
}

/// What is needed by `marks` and `refs`, in as many streams as there is memory for: more parts of reference
/// sets than that are counted first, into marks that nothing names.
pub(super) fn needed(
    scope: &Scope,
    bulk: &BulkOptions,
    marks: &MarksOptions,
    refs: &[Part],
) -> Result<(MarksOptions, Vec<Part>)> {
    if refs.len() <= bulk.streams_max() / 2 {
        return Ok((marks.clone(), refs.to_vec()));
    }
    let (bulk, marks, add) = (bulk.clone(), marks.clone(), refs.to_vec());
    let options = CountOptions { bulk, marks, add, remove: Vec::new(), generation: 0 };
    let Counted { parts, ids } = count(scope, &options)?;
    Ok((MarksOptions { parts, ids: Some(ids) }, Vec::new()))
}

/// Counts. Where there are more parts than memory for their streams, they are taken in several passes, each
/// of which writes marks: those that are added first, so that no pass falls below zero unless the whole does.
pub fn count(scope: &Scope, options: &CountOptions) -> Result<Counted> {
    let added = options.add.iter().map(|part| (part, false));
    let all: Vec<(&Part, bool)> =
        added.chain(options.remove.iter().map(|part| (part, true))).collect();
    // Marks are two streams: the part that is read, and the next.
    let at_once = options.bulk.streams_max().saturating_sub(2).max(1);
    let mut marks = options.marks.clone();
    let mut passes = all.chunks(at_once);
    loop {
        let now = passes.next().unwrap_or_default();
        let counted = pass(scope, options, &marks, now)?;
        if passes.len() == 0 {
            return Ok(counted);
        }
        marks = MarksOptions { parts: counted.parts, ids: Some(counted.ids) };
    }
}

fn pass(
    scope: &Scope,
    options: &CountOptions,
    marks: &MarksOptions,
    parts: &[(&Part, bool)],
) -> Result<Counted> {
    let block = options.bulk.block(parts.len() + 2);
    let mut sources = Vec::with_capacity(parts.len() + 1);
    sources.push(Source::Marks(Box::new(MarksStream::start(scope, marks, block)?)));
    let start = |(part, _): &(&Part, bool)| RefsOpening::start(scope, part, block);
    ahead(parts, OPENINGS_MAX, start, |(_, is_removed), opening| {
        let refs = Box::new(opening.finish()?);
        sources.push(if *is_removed { Source::Removed(refs) } else { Source::Refs(refs) });
        Ok(())
    })?;
    let mut join = Join::new(sources)?;
    let mut writer = MarksWriter::new(scope, options)?;
    loop {
        let (mut needed, mut released, mut who) = (0_u64, 0_u64, None);
        let look = |_, item, source| {
            match item {
                Item::Needed(count) => needed += u64::from(count),
                Item::Released => (released, who) = (released + 1, Some(source)),
                Item::At(_) | Item::Placed(_) => {}
            }
            Ok(())
        };
        let Some(id) = join.next_id(look)? else {
            return writer.finish();
        };
        let Some(left) = needed.checked_sub(released) else {
            let key = who.and_then(|source| join.source(source)?.refs_key()).unwrap_or_default();
            return Err(Error::damaged("an id is released more often than it was counted").at(key));
        };
        if left > 0 {
            let left = u32::try_from(left);
            let left = left.map_err(|_| Error::damaged("an id is needed more than 2^32 times"))?;
            writer.push(id, left)?;
        }
    }
}

struct MarksWriter<'a> {
    scope: &'a Scope,
    stem: String,
    builder: MarksBuilder,
    counted: Counted,
}

impl<'a> MarksWriter<'a> {
    fn new(scope: &'a Scope, options: &CountOptions) -> Result<Self> {
        let mut random = [0; 16];
        crate::random(&mut random)?;
        let stem = format!("gc/{:016x}-marks-{}", options.generation, hex16(&random));
        let ids_max = usize::try_from(options.bulk.memory_bytes / 2 / ID_COST);
        let builder = MarksBuilder::new(ids_max.unwrap_or(usize::MAX));
        Ok(Self { scope, stem, builder, counted: Counted { parts: Vec::new(), ids: 0 } })
    }

    fn push(&mut self, id: crate::format::ShortId, count: u32) -> Result<()> {
        self.counted.ids += 1;
        let full = self.builder.push(id, count)?;
        full.map_or(Ok(()), |body| self.put(body))
    }

    fn put(&mut self, body: Vec<u8>) -> Result<()> {
        let name = format!("{}-{}", self.stem, self.counted.parts.len());
        self.counted.parts.push(put(self.scope, ObjectType::Marks, name, body)?);
        Ok(())
    }

    fn finish(mut self) -> Result<Counted> {
        let builder = std::mem::replace(&mut self.builder, MarksBuilder::new(1));
        if let Some(body) = builder.finish() {
            self.put(body)?;
        }
        self.scope.broker.wait_puts()?;
        Ok(self.counted)
    }
}
