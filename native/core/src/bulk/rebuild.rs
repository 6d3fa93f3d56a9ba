//! `rebuild`: runs from what packs say of themselves, for a repository that has lost its index.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::put::{put_run, run_entries_max};
use super::{BulkOptions, ahead};
use crate::directory::PackOpening;
use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::PackKind;
use crate::format::run::RunBuilder;
use crate::index::{PackName, pack_key, parse_names};
use crate::scope::{Scope, hex16};

/// Options of `rebuild`.
#[derive(Clone, Debug, Deserialize)]
pub struct RebuildOptions {
    /// What every verb is given.
    #[serde(flatten)]
    pub bulk: BulkOptions,
    /// The packs to read.
    pub packs: Vec<PackObject>,
    /// Generation of the new runs.
    #[serde(rename = "gen")]
    pub generation: u64,
}

/// A pack as the store lists it.
#[derive(Clone, Debug, Deserialize)]
pub struct PackObject {
    /// Name below the scope.
    pub name: String,
    /// Bytes of the object.
    pub size: u64,
}

/// What was written, and what could not be read.
#[derive(Debug, Default, Serialize)]
pub struct Rebuilt {
    /// Names of the new runs.
    pub runs: Vec<String>,
    /// Name of a pack -> why the directory cannot be used.
    pub problems: BTreeMap<String, String>,
}

impl PackObject {
    pub(crate) fn parse(&self) -> Result<(PackKind, PackName)> {
        let last = self.name.rsplit('/').next().unwrap_or_default().to_owned();
        let name = parse_names(&[last])?.into_iter().next().unwrap_or_default();
        let mut kinds = [PackKind::Data, PackKind::Metadata].into_iter();
        let kind = kinds.find(|kind| pack_key(*kind, &name) == self.name);
        let odd = || Error::new(ErrorKind::Usage, "not the name of a pack").at(self.name.clone());
        Ok((kind.ok_or_else(odd)?, name))
    }
}

/// Reads the directories, each with one request for the pack's header and one for its end.
pub fn rebuild(scope: &Scope, options: &RebuildOptions) -> Result<Rebuilt> {
    let mut rebuilt = Rebuilt::default();
    let entries_max = run_entries_max(options.bulk.memory_bytes / 2);
    // As stored, as parsed, and sorted for a look at its ids.
    let directory_max = options.bulk.memory_bytes / 8;
    let mut run = RunBuilder::new();
    let start = |pack: &PackObject| {
        let (kind, name) = pack.parse()?;
        let opening = PackOpening::start(scope, kind, pack.name.clone(), pack.size);
        Ok((name, fault_or_end(opening)?))
    };
    ahead(&options.packs, options.bulk.gets, start, |pack, (name, opening)| {
        let opened = opening.and_then(|opening| opening.finish(scope, directory_max));
        let opened = opened.and_then(|opened| {
            let long = |_| Error::damaged("a pack of more than 4 GiB");
            Ok((opened.directory, u32::try_from(pack.size).map_err(long)?))
        });
        match fault_or_end(opened)? {
            Ok((directory, object_bytes)) => {
                if run.len() + directory.entries.len() > entries_max {
                    let full = std::mem::take(&mut run);
                    rebuilt.runs.extend(put_run(scope, full, options.generation, None)?);
                }
                run.add_directory(name, object_bytes, &directory)?;
            }
            Err(error) => {
                rebuilt.problems.insert(hex16(&name), error.what.into_owned());
            }
        }
        Ok(())
    })?;
    rebuilt.runs.extend(put_run(scope, run, options.generation, None)?);
    scope.broker.wait_puts()?;
    Ok(rebuilt)
}

/// What is wrong with one pack is inside; what ends the job is outside.
fn fault_or_end<T>(result: Result<T>) -> Result<Result<T>> {
    match result {
        Err(error)
            if !matches!(
                error.kind,
                ErrorKind::Damaged
                    | ErrorKind::NotFound
                    | ErrorKind::WrongKey
                    | ErrorKind::Unsupported
                    | ErrorKind::Usage
            ) =>
        {
            Err(error)
        }
        other => Ok(other),
    }
}
