//! Reference sets: whether the parts are those that the register names, and list all that the tree
//! reaches. Prune deletes what none lists.

use super::walk::{NumberSet, Reach};
use super::{CheckSnapshot, Context, Finding, RefPart, Severity, fault_or_end};
use crate::broker::Pending;
use crate::crypto::ObjectType;
use crate::error::{Error, Result};
use crate::format::refs::RefSet;

/// Checks the parts of one snapshot. Where the tree could not be gone through (no `root`), what the
/// parts list is noted to be looked for in the index.
pub(super) fn check_refs(
    context: &Context<'_>,
    snapshot: &CheckSnapshot,
    reach: &mut Reach,
    root: Option<u32>,
) -> Result<()> {
    let scope = context.scope;
    let ask = |part: &RefPart| scope.broker.get_later(&scope.key(&part.name), 0, None);
    let needed = root.map(|root| reach.below(root));
    let mut listed = NumberSet::new(reach.count());
    let mut extra = 0_u64;
    let mut is_whole = true;
    // One part ahead: a part is at most 16 MiB.
    let mut ahead = snapshot.refs.first().map(ask).transpose()?;
    for (index, part) in snapshot.refs.iter().enumerate() {
        let pending = ahead.take().ok_or_else(|| Error::internal("a part was not asked for"))?;
        ahead = snapshot.refs.get(index + 1).map(ask).transpose()?;
        let opened = match fault_or_end(open(context, part, pending))? {
            Err(_) => fault_or_end(open(context, part, ask(part)?))?,
            good => good,
        };
        let set = match opened {
            Ok(set) => set,
            Err(error) => {
                is_whole = false;
                let finding = Finding::error("refs-damaged", error.to_string());
                let finding = finding.on(scope.key(&part.name)).of(&snapshot.snapshot);
                context.findings.report(&finding)?;
                continue;
            }
        };
        for id in set.iter() {
            match &needed {
                None => reach.note_unknown(id)?,
                Some(needed) => match reach.find(&id).filter(|number| needed.contains(*number)) {
                    Some(number) => drop(listed.insert(number)),
                    None => extra += 1,
                },
            }
        }
    }
    let Some(needed) = needed.filter(|_| is_whole) else {
        return Ok(());
    };
    let unlisted = needed.len() - listed.len();
    if unlisted > 0 {
        let detail = format!(
            "the reference set lacks {unlisted} of {} ids that the tree reaches: a prune may \
             delete them",
            needed.len()
        );
        let finding = Finding::error("refs-incomplete", detail);
        context.findings.report(&finding.of(&snapshot.snapshot))?;
    }
    if extra > 0 {
        let detail = format!("the reference set lists {extra} ids that the tree does not reach");
        let finding = Finding::new(Severity::Info, "refs-extra", detail);
        context.findings.report(&finding.of(&snapshot.snapshot))?;
    }
    Ok(())
}

fn open(context: &Context<'_>, part: &RefPart, pending: Pending) -> Result<RefSet> {
    let sealed = pending.wait()?;
    if *blake3::hash(&sealed).to_hex() != *part.hash {
        return Err(Error::damaged("not the reference set that the register names"));
    }
    RefSet::parse(context.scope.open_bytes(ObjectType::ReferenceSet, &part.name, &sealed)?)
}
