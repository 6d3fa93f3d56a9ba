//! What pages of the tree that cannot be read leave open: which paths are lost, what must not be deleted for
//! it, and directories of which only what is below them is left.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::plan::{Planner, is_below, path_of};
use super::progress::{Counters, Problem};
use super::run::{Mode, path_hash};
use super::select::Choice;
use crate::broker::lock;
use crate::error::{Error, Result};
use crate::fs::display_path;
use crate::tree::key::subtree_end;

/// Ranges of paths that are remembered for the end. All of them are told when they are met.
const LOST_MAX: usize = 1000;

/// Nodes that could not be read, up to the next one that can.
pub(super) struct Gap {
    /// Key of the last node before; empty if there was none but perhaps the root.
    pub(super) after: Vec<u8>,
    /// Why the first of them could not be read.
    pub(super) why: Error,
}

/// A range of paths of which nothing is known: between two neighbours, in the order of keys.
#[derive(Clone, Debug, Serialize)]
pub struct LostRow {
    /// Path of the last entry before it; none: it begins with the first.
    pub after_b64: Option<String>,
    /// Path of the first entry after it; none: it goes on to the end.
    pub before_b64: Option<String>,
    /// Why.
    pub message: String,
}

impl Planner<'_> {
    /// Ends a gap, if there was one, at the node with the key `before`; none: there is no further node. Tells
    /// what is lost, and sees to it that nothing in it is taken for superfluous.
    pub(super) fn end_gap(&mut self, before: Option<&[u8]>) -> bool {
        let Some(Gap { after, why }) = self.gap.take() else {
            return false;
        };
        let before = before.map(|key| self.relative(key).to_vec());
        for frame in &mut self.stack {
            let next = before.as_deref().and_then(|key| name_below(&frame.key, key));
            match (&mut frame.extras, next) {
                (Some(extras), Some(next)) => extras.spare_until(next),
                (extras, _) => *extras = None,
            }
        }
        let after = path_of(self.relative(&after));
        self.tell_lost(&after, before.map(|key| path_of(&key)), &why);
        true
    }

    fn tell_lost(&self, after: &[u8], before: Option<Vec<u8>>, why: &Error) {
        if self.run.mode == Mode::Verify {
            // The restore before has told it.
            return;
        }
        let range = match (after.is_empty(), &before) {
            (true, None) => "all that is in it".to_owned(),
            (true, Some(before)) => format!("what comes before `{}`", display_path(before)),
            (false, None) => "what comes after it".to_owned(),
            (false, Some(before)) => {
                format!("what comes after it, and before `{}`,", display_path(before))
            }
        };
        let mut problem = Problem::of_error(after, why);
        problem.message = format!("{range} is lost: {why}");
        // The entry itself is well, and to be compared like any other: what is lost has no path.
        problem.path_hash = path_hash(b"/");
        self.run.problem(&problem);
        Counters::add(&self.run.counters.ranges_lost, 1);
        let mut lost = lock(&self.run.lost);
        if lost.len() < LOST_MAX {
            lost.push(LostRow {
                after_b64: (!after.is_empty()).then(|| STANDARD.encode(after)),
                before_b64: before.map(|path| STANDARD.encode(path)),
                message: why.to_string(),
            });
        }
    }

    /// Enters the directories above the first node after a gap whose own nodes were lost in it. Returns the key
    /// to go on from if what is in them is left out.
    pub(super) fn enter_lost(&mut self, node_key: &[u8]) -> Result<Option<Vec<u8>>> {
        let key = self.relative(node_key).to_vec();
        self.leave_until(|above| above.is_empty() || is_below(above, &key));
        while let Some(frame) = self.stack.last_mut() {
            let Some(name) = name_below(&frame.key, &key) else {
                return Ok(None);
            };
            let start = if frame.key.is_empty() { 0 } else { frame.key.len() + 1 };
            let end = start + name.len();
            if end >= key.len() {
                return Ok(None);
            }
            if let Some(extras) = &mut frame.extras {
                extras.pass(self.run, &self.selection, name);
            }
            let dir_key = key.get(..end).unwrap_or_default().to_vec();
            let choice = self.selection.choose(frame.choice, &path_of(&dir_key));
            match choice {
                Choice::Excluded => return Ok(subtree_end(&self.whole(&dir_key))),
                Choice::Passed => {
                    let dir = self.open_passed(name)?;
                    self.push_lost(dir_key, choice, dir);
                }
                Choice::Taken => {
                    if let Some(past) = self.enter(dir_key, name, None)? {
                        return Ok(Some(past));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The key in the tree of what has this key below the base.
    pub(super) fn whole(&self, key: &[u8]) -> Vec<u8> {
        match (self.base.is_empty(), key.is_empty()) {
            (true, _) => key.to_vec(),
            (false, true) => self.base.clone(),
            (false, false) => [self.base.as_slice(), key].join(&0),
        }
    }
}

/// The name in the directory `above` that leads to `key`; none if `key` is not below it.
fn name_below<'k>(above: &[u8], key: &'k [u8]) -> Option<&'k [u8]> {
    let rest = match above {
        [] => key,
        _ if is_below(above, key) => key.get(above.len() + 1..)?,
        _ => return None,
    };
    rest.split(|byte| *byte == 0).next().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::plan::last_name;
    use super::*;

    #[test]
    fn names_below_a_directory() {
        let below = |above: &str, key: &'static str| name_below(above.as_bytes(), key.as_bytes());
        assert_eq!(below("", "a\0b"), Some(&b"a"[..]));
        assert_eq!(below("a", "a\0b\0c"), Some(&b"b"[..]));
        assert_eq!(below("a", "ab\0c"), None);
        assert_eq!(below("a", "a"), None);
        assert_eq!(below("", ""), None);
        assert_eq!(last_name(b"a\0bc"), b"bc");
        assert_eq!(last_name(b"a"), b"a");
    }
}
