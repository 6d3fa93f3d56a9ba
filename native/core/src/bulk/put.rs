//! Writing objects under fresh names.

use crate::crypto::{Action, ObjectType};
use crate::error::Result;
use crate::format::run::RunBuilder;
use crate::scope::{Scope, hex16};

use super::lists::Part;

/// The most entries of a run that is written here.
const RUN_ENTRIES_MAX: u64 = 1 << 20;
/// Memory that writing a run takes for each entry, in bytes: the entry, its key for the filter, what the
/// filter is built from, the body, sealed, and on its way to the store.
const ENTRY_COST: u64 = 240;

/// Signs and seals a body and hands it to the store; waits for the objects before it, so that one at a
/// time is on its way, and not for this one.
pub(super) fn put(scope: &Scope, kind: ObjectType, name: String, body: Vec<u8>) -> Result<Part> {
    scope.broker.wait_puts()?;
    // Every one of these takes the place of others.
    let sealed = scope.seal_body_as(Action::Replace, kind, &name, body)?;
    let hash = blake3::hash(&sealed).to_hex().to_string();
    scope.broker.put(scope.key(&name), sealed, Box::new(|_| ()))?;
    Ok(Part { name, hash })
}

/// Entries to a run, in so much memory.
pub(super) fn run_entries_max(memory_bytes: u64) -> usize {
    usize::try_from((memory_bytes / ENTRY_COST).clamp(1024, RUN_ENTRIES_MAX)).unwrap_or(usize::MAX)
}

/// Writes a run, and gives its name; none when there is nothing in it.
pub(super) fn put_run(scope: &Scope, run: RunBuilder, generation: u64) -> Result<Option<String>> {
    if run.is_empty() {
        return Ok(None);
    }
    let mut random = [0; 16];
    crate::random(&mut random)?;
    let name = format!("{generation:016x}-{}", hex16(&random));
    scope.broker.wait_puts()?;
    put(scope, ObjectType::Run, format!("index/{name}"), run.finish()?)?;
    Ok(Some(name))
}
