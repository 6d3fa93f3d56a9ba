#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::semicolon_if_nothing_returned,
    reason = "small numbers of tests"
)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::*;
use crate::format::testing::Dice;
use crate::{Error, ErrorKind};

mod build;
mod contents;
mod pages;
mod read;

pub(super) const KEY: [u8; 32] = [0x42; 32];

pub(super) fn page_key() -> PageKey {
    PageKey::new(KEY)
}

/// A store of pages that counts.
#[derive(Default)]
pub(super) struct Pages {
    stored: RefCell<HashMap<Id, Vec<u8>>>,
    /// Pages that were not there before, since the last look.
    added: Cell<usize>,
    read: Cell<usize>,
    requests: Cell<usize>,
    batch_max: Cell<usize>,
}

impl Pages {
    pub(super) fn added(&self) -> usize {
        self.added.take()
    }

    pub(super) fn read(&self) -> usize {
        self.read.take()
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.take()
    }

    pub(super) fn len(&self) -> usize {
        self.stored.borrow().len()
    }

    pub(super) fn all(&self) -> Vec<(Id, Vec<u8>)> {
        let mut all: Vec<_> = self.stored.borrow().iter().map(|(i, p)| (*i, p.clone())).collect();
        all.sort_unstable();
        all
    }

    /// Puts other bytes in the place of a page, as no honest source would.
    pub(super) fn replace(&self, id: Id, raw: Vec<u8>) {
        self.stored.borrow_mut().insert(id, raw);
    }

    pub(super) fn remove(&self, id: &Id) {
        self.stored.borrow_mut().remove(id);
    }
}

impl PageSink for Pages {
    fn put_page(&mut self, raw: Vec<u8>, id: Id) -> Result<()> {
        assert_eq!(page_key().page_id(&raw), id);
        if self.stored.borrow_mut().insert(id, raw).is_none() {
            self.added.set(self.added.get() + 1);
        }
        Ok(())
    }
}

impl PageSource for Pages {
    fn get_pages(&self, ids: &[Id]) -> Result<Vec<Vec<u8>>> {
        assert!(!ids.is_empty(), "request for nothing");
        self.read.set(self.read.get() + ids.len());
        self.requests.set(self.requests.get() + 1);
        self.batch_max.set(self.batch_max.get().max(ids.len()));
        let pages = self.stored.borrow();
        let page = |id| pages.get(id).cloned();
        ids.iter()
            .map(|id| page(id).ok_or_else(|| Error::new(ErrorKind::NotFound, "no such page")))
            .collect()
    }
}

pub(super) fn id(number: u64) -> Id {
    Id(Dice(number).bytes())
}

/// A file as a backup of many small ones has them.
pub(super) fn small_file(key: &str, number: u64) -> Node {
    let size = 100 + number % 5000;
    let extents = vec![Extent::data(id(number / 100), (number % 100) as u32 * 5000, size)];
    let body = Body::File { size, content: Content::Inline(extents) };
    let mut node = Node::new(key.replace('/', "\0").into_bytes(), body);
    node.mode = 0o644;
    node.uid = 1000;
    node.gid = 1000;
    node.ino = 77_000 + number;
    node.mtime = Time { seconds: 1_700_000_000 + (number % 977) as i64, nanoseconds: 123_456_789 };
    node.ctime = node.mtime;
    node
}

pub(super) fn directory(key: &str) -> Node {
    let mut node = Node::new(key.replace('/', "\0").into_bytes(), Body::Directory);
    node.mode = 0o755;
    node
}

/// One directory of so many files, below the root.
pub(super) fn flat(count: u64) -> Vec<Node> {
    let files = (0..count).map(|n| small_file(&format!("data/file-{n:08}.bin"), n));
    [directory(""), directory("data")].into_iter().chain(files).collect()
}

/// Directories in directories, with names that sort around the separator.
pub(super) fn deep(seed: u64, count: usize) -> Vec<Node> {
    let mut dice = Dice(seed);
    let mut nodes = vec![directory("")];
    let mut directories = vec![String::new()];
    let mut names = std::collections::BTreeSet::new();
    while nodes.len() < count {
        let parent = directories[dice.below(directories.len())].clone();
        let name = ["a", "b\u{1}", "a b", "zz", "é"][dice.below(5)];
        let name = format!("{name}{}", dice.below(40));
        let path = if parent.is_empty() { name } else { format!("{parent}/{name}") };
        if !names.insert(path.clone()) {
            continue;
        }
        if dice.below(6) == 0 {
            directories.push(path.clone());
            nodes.push(directory(&path));
        } else {
            nodes.push(small_file(&path, dice.next() >> 20));
        }
    }
    nodes.sort_by(|a, b| a.key.cmp(&b.key));
    nodes
}

pub(super) fn build<'a>(nodes: impl IntoIterator<Item = &'a Node>, pages: &mut Pages) -> Root {
    let mut builder = TreeBuilder::new(page_key());
    for node in nodes {
        builder.push(node, pages).unwrap();
    }
    builder.finish(pages).unwrap()
}

pub(super) fn read_all(pages: &Pages, root: Root) -> Vec<Node> {
    TreeReader::new(pages, root).nodes().map(Result::unwrap).collect()
}
