//! Writing objects under fresh names.

use crate::crypto::{Action, ObjectType};
use crate::error::{Error, Result};
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

/// Writes a run, and gives its name; none when there is nothing in it. The name comes after `after`: who lists
/// runs while those that this one supersedes are removed must not have passed it by.
pub(super) fn put_run(
    scope: &Scope,
    run: RunBuilder,
    generation: u64,
    after: Option<&str>,
) -> Result<Option<String>> {
    if run.is_empty() {
        return Ok(None);
    }
    let name = run_name(generation, after)?;
    scope.broker.wait_puts()?;
    put(scope, ObjectType::Run, format!("index/{name}"), run.finish()?)?;
    Ok(Some(name))
}

/// A fresh name of a run of `generation`, above `after` if that is of the same.
fn run_name(generation: u64, after: Option<&str>) -> Result<String> {
    let mut random = [0; 16];
    crate::random(&mut random)?;
    let stem = format!("{generation:016x}-");
    let low = after.and_then(|after| after.strip_prefix(&*stem));
    let low = low.and_then(|low| u128::from_str_radix(low, 16).ok());
    let number = match low {
        None => u128::from_be_bytes(random),
        Some(low) => {
            let room = u128::MAX - low;
            let beyond = u128::from_be_bytes(random).checked_rem(room);
            let none_left = || Error::internal("there is no name of a run after the last one");
            beyond.ok_or_else(none_left)? + low + 1
        }
    };
    Ok(stem + &hex16(&number.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::run_name;

    #[test]
    fn names_come_after_those_of_their_generation() {
        let mut last = "0000000000000007-00000000000000000000000000000000".to_owned();
        for _ in 0..50 {
            let next = run_name(7, Some(&last)).unwrap();
            assert!(next > last && next.len() == last.len(), "{last} {next}");
            assert!(run_name(8, Some(&last)).unwrap() > last);
            last = next;
        }
        let end = format!("0000000000000007-{}", "f".repeat(32));
        assert!(run_name(7, Some(&end)).is_err());
        assert_ne!(run_name(7, None).unwrap(), run_name(7, None).unwrap());
    }
}
