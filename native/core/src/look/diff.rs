//! What changed from one snapshot to another.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{LookOptions, NodeRow, Rows, TreeOptions};
use crate::error::Result;
use crate::pages::PageStore;
use crate::scope::Scope;
use crate::tree::diff::{Change, Diff};
use crate::tree::extents::ExtentIter;
use crate::tree::{Body, Content, Extent, ExtentKind, Node, PageSource, TreeIter, TreeReader};

/// Options of `diff`.
#[derive(Clone, Debug, Deserialize)]
pub struct DiffOptions {
    /// What every verb is given.
    #[serde(flatten)]
    pub look: LookOptions,
    /// The tree before.
    pub old: TreeOptions,
    /// The tree after.
    pub new: TreeOptions,
    /// Extended attributes too.
    #[serde(default)]
    pub long: bool,
}

/// What `diff` ends with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiffResult {
    /// Nodes that only the new tree has.
    pub added: u64,
    /// Nodes that only the old tree has.
    pub removed: u64,
    /// Nodes that both have and that differ: the sum of the next three.
    pub changed: u64,
    /// Of them, those with other content, target or device number.
    pub content: u64,
    /// Those of which only attributes differ.
    pub attributes: u64,
    /// Those that became another kind of node.
    pub kind: u64,
    /// Bytes of the files that were added.
    pub bytes_added: u64,
    /// Bytes of the files that were removed.
    pub bytes_removed: u64,
    /// Bytes that the files with other content or kind had.
    pub bytes_changed_old: u64,
    /// Bytes that they have now.
    pub bytes_changed_new: u64,
}

/// A node that differs: the new one, or the old one where it was removed.
#[derive(Serialize)]
struct DiffRow<'a> {
    #[serde(flatten)]
    node: NodeRow<'a>,
    change: &'static str,
    old_size: Option<u64>,
    new_size: Option<u64>,
    /// Attributes that are not equal.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attributes: Vec<&'static str>,
}

/// Gives a row for each path that differs, in the order of paths.
///
/// Trees of one source share the pages of what is equal in both, and those are not read. Pages of
/// different sources have nothing in common: both trees are read whole, and long contents are
/// compared by their extents.
pub fn diff(scope: &Scope, options: &DiffOptions) -> Result<DiffResult> {
    let index = options.look.load_index(scope)?;
    let old_pages = Arc::new(options.old.pages(scope, &index)?);
    let (old, new) = (options.old.root()?, options.new.root()?);
    let mut report = Report::new(scope, options.long);
    if options.old.source_id == options.new.source_id {
        for change in Diff::new(&*old_pages, &old, &new) {
            report.change(&change?, |_, _| Ok(false))?;
        }
    } else {
        let new_pages = Arc::new(options.new.pages(scope, &index)?);
        let old_tree = TreeReader::new(Arc::clone(&old_pages), old);
        let new_tree = TreeReader::new(Arc::clone(&new_pages), new);
        for change in Merge::new(old_tree.nodes(), new_tree.nodes()) {
            report
                .change(&change?, |old, new| same_extents((&old_pages, old), (&new_pages, new)))?;
        }
    }
    report.rows.finish()?;
    Ok(report.totals)
}

struct Report {
    rows: Rows,
    long: bool,
    totals: DiffResult,
}

impl Report {
    fn new(scope: &Scope, long: bool) -> Self {
        Self { rows: Rows::new(scope), long, totals: DiffResult::default() }
    }

    /// `is_same` has the last word on contents that are not equal as they stand.
    fn change(
        &mut self,
        change: &Change,
        is_same: impl Fn(&Content, &Content) -> Result<bool>,
    ) -> Result<()> {
        let totals = &mut self.totals;
        let (node, name, old_size, new_size, attributes) = match change {
            Change::Added(node) => {
                totals.added += 1;
                totals.bytes_added = totals.bytes_added.saturating_add(node.size());
                (&**node, "added", None, Some(node.size()), Vec::new())
            }
            Change::Removed(node) => {
                totals.removed += 1;
                totals.bytes_removed = totals.bytes_removed.saturating_add(node.size());
                (&**node, "removed", Some(node.size()), None, Vec::new())
            }
            Change::Changed(pair) => {
                let (old, new) = &**pair;
                let attributes = changed_attributes(old, new);
                let name = if old.kind() != new.kind() {
                    totals.kind += 1;
                    "kind"
                } else if !is_same_body(old, new, is_same)? {
                    totals.content += 1;
                    "content"
                } else if attributes.is_empty() {
                    // Equal content in other chunks, and nothing else.
                    return Ok(());
                } else {
                    totals.attributes += 1;
                    "attributes"
                };
                totals.changed += 1;
                if name != "attributes" {
                    totals.bytes_changed_old = totals.bytes_changed_old.saturating_add(old.size());
                    totals.bytes_changed_new = totals.bytes_changed_new.saturating_add(new.size());
                }
                (new, name, Some(old.size()), Some(new.size()), attributes)
            }
        };
        let node = NodeRow::new(node, self.long);
        self.rows.push(&DiffRow { node, change: name, old_size, new_size, attributes })
    }
}

fn changed_attributes(old: &Node, new: &Node) -> Vec<&'static str> {
    [
        ("mode", old.mode != new.mode),
        ("uid", old.uid != new.uid),
        ("gid", old.gid != new.gid),
        ("flags", old.flags != new.flags),
        ("xattrs", old.xattrs != new.xattrs),
        ("mtime", old.mtime != new.mtime),
        ("ctime", old.ctime != new.ctime),
        ("btime", old.btime != new.btime),
        ("ino", old.ino != new.ino),
        ("links", old.link_group != new.link_group),
        ("unstable", old.unstable != new.unstable),
        ("unreadable", old.unreadable != new.unreadable),
        ("left_out", old.left_out != new.left_out),
    ]
    .into_iter()
    .filter_map(|(name, differs)| differs.then_some(name))
    .collect()
}

fn is_same_body(
    old: &Node,
    new: &Node,
    is_same: impl Fn(&Content, &Content) -> Result<bool>,
) -> Result<bool> {
    let (Body::File { size: old_size, content: a }, Body::File { size: new_size, content: b }) =
        (&old.body, &new.body)
    else {
        return Ok(old.body == new.body);
    };
    if old_size != new_size || old.unreadable != new.unreadable {
        return Ok(false);
    }
    // A small file that was read again lies elsewhere in the stream; its digest tells.
    let by_digest = old.digest.is_some() && old.digest == new.digest;
    Ok(by_digest || a == b || is_same(a, b)?)
}

/// Whether two contents consist of the same slices of the same chunks, however their pages are cut.
fn same_extents<S: PageSource>(
    (old_pages, old): (&S, &Content),
    (new_pages, new): (&S, &Content),
) -> Result<bool> {
    let mut old = ExtentIter::new(old_pages, old, 0);
    let mut new = ExtentIter::new(new_pages, new, 0);
    let (mut a, mut b) = (None::<Extent>, None::<Extent>);
    loop {
        if a.is_none() {
            a = old.next().transpose()?.map(|(_, extent)| extent);
        }
        if b.is_none() {
            b = new.next().transpose()?.map(|(_, extent)| extent);
        }
        let (Some(left), Some(right)) = (a, b) else {
            return Ok(a.is_none() && b.is_none());
        };
        if left.kind != right.kind {
            return Ok(false);
        }
        let common = left.length.min(right.length);
        a = rest_of(left, common);
        b = rest_of(right, common);
    }
}

/// What is left of an extent without its first `bytes`.
fn rest_of(extent: Extent, bytes: u64) -> Option<Extent> {
    let length = extent.length.checked_sub(bytes).filter(|length| *length > 0)?;
    let kind = match extent.kind {
        ExtentKind::Data { id, offset } => {
            let skipped = u32::try_from(bytes).unwrap_or(u32::MAX);
            ExtentKind::Data { id, offset: offset.saturating_add(skipped) }
        }
        other => other,
    };
    Some(Extent { kind, length })
}

/// The differences between two sequences of nodes.
struct Merge<'a> {
    old: TreeIter<&'a Arc<PageStore>>,
    new: TreeIter<&'a Arc<PageStore>>,
    old_head: Option<Node>,
    new_head: Option<Node>,
}

impl<'a> Merge<'a> {
    fn new(old: TreeIter<&'a Arc<PageStore>>, new: TreeIter<&'a Arc<PageStore>>) -> Self {
        Self { old, new, old_head: None, new_head: None }
    }

    fn advance(&mut self) -> Result<Option<Change>> {
        loop {
            if self.old_head.is_none() {
                self.old_head = self.old.next().transpose()?;
            }
            if self.new_head.is_none() {
                self.new_head = self.new.next().transpose()?;
            }
            let order = match (&self.old_head, &self.new_head) {
                (None, None) => return Ok(None),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(old), Some(new)) => old.key.cmp(&new.key),
            };
            let old = if order.is_le() { self.old_head.take() } else { None };
            let new = if order.is_ge() { self.new_head.take() } else { None };
            match (old, new) {
                (Some(old), Some(new)) if old == new => {}
                (Some(old), Some(new)) => return Ok(Some(Change::Changed(Box::new((old, new))))),
                (Some(old), None) => return Ok(Some(Change::Removed(Box::new(old)))),
                (None, Some(new)) => return Ok(Some(Change::Added(Box::new(new)))),
                (None, None) => return Ok(None),
            }
        }
    }
}

impl Iterator for Merge<'_> {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Id;

    struct NoPages;

    impl PageSource for NoPages {
        fn get_pages(&self, _: &[Id]) -> Result<Vec<Vec<u8>>> {
            Ok(Vec::new())
        }
    }

    fn same(a: &[Extent], b: &[Extent]) -> bool {
        let (a, b) = (Content::Inline(a.to_vec()), Content::Inline(b.to_vec()));
        same_extents((&NoPages, &a), (&NoPages, &b)).unwrap()
    }

    #[test]
    fn extents_are_compared_however_they_are_cut() {
        let (a, b) = (Id([1; 32]), Id([2; 32]));
        let whole = [Extent::data(a, 10, 90), Extent::hole(50), Extent::data(b, 0, 5)];
        let cut = [
            Extent::data(a, 10, 40),
            Extent::data(a, 50, 50),
            Extent::hole(20),
            Extent::hole(30),
            Extent::data(b, 0, 5),
        ];
        assert!(same(&whole, &cut));
        assert!(same(&[], &[]));
        let shifted = [Extent::data(a, 11, 90), Extent::hole(50), Extent::data(b, 0, 5)];
        assert!(!same(&whole, &shifted));
        assert!(!same(&whole, cut.get(..4).unwrap()));
        assert!(!same(&[Extent::hole(5)], &[Extent::zero(5)]));
    }
}
