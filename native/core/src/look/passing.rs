//! Reading on behind pages of a tree that cannot be read.

use super::path_of;
use crate::error::{Error, Result};
use crate::fs::display_path;
use crate::tree::{Node, PageSource, TreeIter};

/// Nodes of a tree in order, pages that are lost passed over.
pub(super) struct Passing<S> {
    pub(super) nodes: TreeIter<S>,
    last: Vec<u8>,
    /// The first that was lost: the node before it, why, and the next node that there is.
    lost: Option<(Vec<u8>, Error, Option<Vec<u8>>)>,
    is_in_gap: bool,
}

impl<S: PageSource> Passing<S> {
    pub(super) fn new(nodes: TreeIter<S>) -> Self {
        Self { nodes, last: Vec::new(), lost: None, is_in_gap: false }
    }

    /// The next node that can be read. Errors are those that would meet all others too.
    pub(super) fn next_node(&mut self) -> Result<Option<Node>> {
        loop {
            match self.nodes.next().transpose() {
                Err(error) if self.nodes.pass_lost() => {
                    if self.lost.is_none() {
                        self.is_in_gap = true;
                        self.lost = Some((std::mem::take(&mut self.last), error, None));
                    }
                }
                Ok(Some(node)) => {
                    if std::mem::take(&mut self.is_in_gap)
                        && let Some((.., before)) = &mut self.lost
                    {
                        *before = Some(node.key.clone());
                    }
                    if self.lost.is_none() {
                        self.last.clone_from(&node.key);
                    }
                    return Ok(Some(node));
                }
                other => return other,
            }
        }
    }

    /// Whether anything was passed over.
    pub(super) fn has_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// The error of what was passed over first, if anything was: of the kind that it was.
    pub(super) fn finish(self) -> Result<()> {
        let Some((after, mut error, before)) = self.lost else {
            return Ok(());
        };
        let show = |key: &[u8]| display_path(&path_of(key));
        let until = before.map_or_else(String::new, |key| format!(" and before `{}`", show(&key)));
        error.what =
            format!("what comes after `{}`{until} cannot be read: {}", show(&after), error.what)
                .into();
        Err(error)
    }
}
