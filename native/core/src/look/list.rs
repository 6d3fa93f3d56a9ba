//! What is in a directory of a snapshot, or below it.

use serde::{Deserialize, Serialize};

use super::passing::Passing;
use super::{LookOptions, NodeRow, Rows, TreeOptions, key_of_path, path_of};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::display_path;
use crate::scope::Scope;
use crate::tree::key::{split_key, subtree_end};
use crate::tree::{Kind, PageSource, TreeReader};

/// Options of `list`.
#[derive(Clone, Debug, Deserialize)]
pub struct ListOptions {
    /// What every verb is given.
    #[serde(flatten)]
    pub look: LookOptions,
    /// The tree.
    #[serde(flatten)]
    pub tree: TreeOptions,
    /// Where to begin, base64 of a path; empty for the root.
    #[serde(default)]
    pub subtree_b64: String,
    /// All that is below, not only the next level.
    #[serde(default)]
    pub recursive: bool,
    /// Extended attributes too.
    #[serde(default)]
    pub long: bool,
}

/// What `list` ends with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ListResult {
    /// Rows that were given out.
    pub nodes: u64,
}

/// Lists a directory: its children, or with `recursive` itself and everything below; or the one node
/// that is not a directory. Rows come in the order of paths, a directory before what is in it.
///
/// Children are found by passing over what is below each of them, so the cost follows the number of
/// children, not the size of what they hold. `NotFound` when there is no such path. Where a page of the tree
/// cannot be read the rest is listed, and the error comes last.
pub fn list(scope: &Scope, options: &ListOptions) -> Result<ListResult> {
    let key = key_of_path(&options.subtree_b64)?;
    let index = options.look.load_index(scope)?;
    let reader = options.tree.reader(scope, &index)?;
    let mut rows = Rows::new(scope);
    let mut nodes = 0;
    let listed = list_keys(&reader, &key, options.recursive, |node| {
        nodes += 1;
        rows.push(&NodeRow::new(node, options.long))
    });
    rows.finish()?;
    listed?;
    Ok(ListResult { nodes })
}

fn list_keys<S: PageSource>(
    reader: &TreeReader<S>,
    key: &[u8],
    recursive: bool,
    mut row: impl FnMut(&crate::tree::Node) -> Result<()>,
) -> Result<()> {
    let mut reading = Passing::new(reader.subtree(key));
    let mut next = reading.next_node()?;
    match &next {
        Some(first) if first.key == key => {
            if recursive || first.kind() != Kind::Directory {
                row(first)?;
            }
            next = reading.next_node()?;
        }
        // What is below it is there, or perhaps was lost with it.
        _ if reading.has_lost() => {}
        _ => {
            let path = display_path(&path_of(key));
            return Err(Error::new(ErrorKind::NotFound, "no such path in the snapshot").at(path));
        }
    }
    while let Some(node) = next {
        if recursive || split_key(&node.key).is_some_and(|(parent, _)| parent == key) {
            row(&node)?;
        }
        if let (false, Kind::Directory, Some(end)) =
            (recursive, node.kind(), subtree_end(&node.key))
        {
            reading.nodes.seek(&end);
        }
        next = reading.next_node()?;
    }
    reading.finish()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use hashbrown::HashMap;

    use super::*;
    use crate::format::Id;
    use crate::tree::{Body, Content, Node, PageKey, PageSink, TreeBuilder};

    #[derive(Default)]
    struct Pages {
        pages: HashMap<Id, Vec<u8>>,
        reads: RefCell<usize>,
    }

    impl PageSink for Pages {
        fn put_page(&mut self, raw: Vec<u8>, id: Id) -> Result<()> {
            self.pages.insert(id, raw);
            Ok(())
        }
    }

    impl PageSource for Pages {
        fn get_pages(&self, ids: &[Id]) -> Result<Vec<Vec<u8>>> {
            *self.reads.borrow_mut() += ids.len();
            Ok(ids.iter().map(|id| self.pages.get(id).unwrap().clone()).collect())
        }
    }

    #[test]
    fn children_are_listed_without_reading_what_is_below_them() {
        let mut pages = Pages::default();
        let mut builder = TreeBuilder::new(PageKey::new([7; 32]));
        builder.push(&Node::new(Vec::new(), Body::Directory), &mut pages).unwrap();
        for directory in ["a", "b", "c"] {
            let node = Node::new(directory.into(), Body::Directory);
            builder.push(&node, &mut pages).unwrap();
            for number in 0..50_000 {
                let body = Body::File { size: 0, content: Content::empty() };
                let mut node = Node::new(format!("{directory}\0file{number:06}").into(), body);
                node.ino = number * 7_919 % 65_537;
                builder.push(&node, &mut pages).unwrap();
            }
        }
        let root = builder.finish(&mut pages).unwrap();
        let all = pages.pages.len();
        let reader = TreeReader::new(&pages, root);
        let mut seen = Vec::new();
        list_keys(&reader, b"", false, |node| {
            seen.push(node.key.clone());
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [b"a", b"b", b"c"]);
        let read = *pages.reads.borrow();
        assert!(all > 60 && read <= 12, "read {read} of {all} pages");
    }
}
