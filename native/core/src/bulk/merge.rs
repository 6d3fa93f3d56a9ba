//! `merge`: the entries of all runs, in few runs that each cover a range of ids.

use serde::{Deserialize, Serialize};

use super::catalog::Catalog;
use super::join::Join;
use super::put::{put_run, run_entries_max};
use super::runs::Spot;
use super::usage::Group;
use super::{BulkOptions, Wanted};
use crate::error::{Error, Result};
use crate::format::ShortId;
use crate::format::run::{Location, PackRecord, RunBuilder};
use crate::index::{RunName, parse_names};
use crate::scope::Scope;

/// Number of a pack that the run in the making does not have.
const NONE: u32 = u32::MAX;

/// Options of `merge`.
#[derive(Clone, Debug, Deserialize)]
pub struct MergeOptions {
    /// What every verb is given.
    #[serde(flatten)]
    pub bulk: BulkOptions,
    /// Packs whose entries are left out, besides the dead ones.
    #[serde(default)]
    pub drop: Vec<String>,
    /// Generation of the new runs.
    #[serde(rename = "gen")]
    pub generation: u64,
}

/// What was written.
#[derive(Debug, Default, Serialize)]
pub struct Merged {
    /// Names of the new runs.
    pub runs: Vec<String>,
}

/// Merges. Where there are more runs than memory for their streams, those that fit are merged with each
/// other: fewer runs are left in any case, and the next merge goes on from there.
pub fn merge(scope: &Scope, options: &MergeOptions) -> Result<Merged> {
    let mut merged = Merged::default();
    let mut rest = options.bulk.index.runs.as_slice();
    while !rest.is_empty() {
        let (now, later) = rest.split_at(options.bulk.fitting(rest));
        merge_some(scope, options, now, &mut merged)?;
        rest = later;
    }
    scope.broker.wait_puts()?;
    Ok(merged)
}

fn merge_some(
    scope: &Scope,
    options: &MergeOptions,
    runs: &[RunName],
    merged: &mut Merged,
) -> Result<()> {
    let mut left_out = parse_names(&options.bulk.index.dead)?;
    left_out.extend(parse_names(&options.drop)?);
    let mut catalog = Catalog::new(left_out, options.bulk.catalog_memory());
    let wanted = Wanted { runs, with_sections: true, ..Wanted::default() };
    let mut join = Join::new(options.bulk.open(scope, &mut catalog, &wanted)?)?;
    let mut writer = Writer::new(scope, &catalog, options);
    let mut group = Group::default();
    while let Some(id) = group.next(&mut join, |id, spot| {
        writer.add(id, spot)?;
        writer.write_if_full(merged)
    })? {
        group.check_places(scope, &catalog)?;
        for spot in &group.places {
            writer.add(id, *spot)?;
        }
        writer.write_if_full(merged)?;
    }
    writer.write(merged)
}

/// Collects the entries of one new run after the other.
struct Writer<'a> {
    scope: &'a Scope,
    catalog: &'a Catalog,
    generation: u64,
    /// The last name of all runs that go in.
    after: Option<&'a str>,
    entries_max: usize,
    run: RunBuilder,
    /// By number of a pack: its position in the run.
    positions: Vec<u32>,
}

impl<'a> Writer<'a> {
    fn new(scope: &'a Scope, catalog: &'a Catalog, options: &'a MergeOptions) -> Self {
        Self {
            scope,
            catalog,
            generation: options.generation,
            after: options.bulk.index.runs.iter().map(|run| run.name.as_str()).max(),
            entries_max: run_entries_max(options.bulk.memory_bytes / 3),
            run: RunBuilder::new(),
            positions: vec![NONE; catalog.packs().len()],
        }
    }

    fn add(&mut self, id: ShortId, spot: Spot) -> Result<()> {
        let Some(position) = self.positions.get_mut(spot.pack as usize) else {
            return Err(Error::internal("a pack of another catalog"));
        };
        if *position == NONE {
            let pack = self.catalog.pack(spot.pack)?;
            let (name, kind, object_bytes) = (pack.name, pack.kind, pack.object_bytes);
            let record = PackRecord { name, kind, object_bytes, section_offset: 0 };
            *position = self.run.add_section(&record, self.catalog.section(spot.pack))?;
        }
        let Spot { offset, length, .. } = spot;
        self.run.add_entry(id, Location { pack: *position, offset, length })
    }

    fn write_if_full(&mut self, merged: &mut Merged) -> Result<()> {
        if self.run.len() < self.entries_max {
            return Ok(());
        }
        self.write(merged)
    }

    fn write(&mut self, merged: &mut Merged) -> Result<()> {
        let run = std::mem::take(&mut self.run);
        self.positions.fill(NONE);
        merged.runs.extend(put_run(self.scope, run, self.generation, self.after)?);
        Ok(())
    }
}
