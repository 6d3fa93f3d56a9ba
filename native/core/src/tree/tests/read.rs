//! Reading trees: ranges, cursors, diffs, collections, and pages where they do not belong.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::collect::{Visitor, collect, collect_content};
use super::super::diff::{Change, Diff};
use super::super::key::subtree_end;
use super::super::node_page::{NodePage, NodePageWriter};
use super::super::page::parse_inner;
use super::*;

#[test]
fn finds_every_node_with_a_page_of_each_level() {
    let nodes = flat(60_000);
    let mut pages = Pages::default();
    let root = build(&nodes, &mut pages);
    let reader = TreeReader::new(&pages, root);
    for node in nodes.iter().step_by(997).chain(nodes.last()) {
        pages.read();
        assert_eq!(reader.find(&node.key).unwrap().as_ref(), Some(node));
        assert_eq!(pages.read(), usize::from(root.level) + 1);
        let absent = [&node.key[..], b"!"].concat();
        assert_eq!(reader.find(&absent).unwrap(), None);
    }
    assert_eq!(reader.find(b"zzz").unwrap(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn ranges_are_those_of_the_list(seed in any::<u64>(), count in 1_usize..4000, ahead in 1_usize..20) {
        let nodes = deep(seed, count);
        let mut pages = Pages::default();
        let root = build(&nodes, &mut pages);
        let reader = TreeReader::new(&pages, root).read_ahead(ahead);
        let mut dice = Dice(seed);
        for _ in 0..20 {
            let mut key = nodes[dice.below(nodes.len())].key.clone();
            if dice.below(3) == 0 {
                key.push(b'0');
            }
            let from: Vec<Node> = reader.nodes_from(&key).map(Result::unwrap).collect();
            let at = nodes.partition_point(|node| node.key < key);
            prop_assert_eq!(&from[..], &nodes[at..]);
            let below: Vec<Node> = reader.subtree(&key).map(Result::unwrap).collect();
            let end = subtree_end(&key);
            let expected = nodes[at..].iter().take_while(|node| end.as_ref().is_none_or(|end| node.key < *end));
            prop_assert!(below.iter().eq(expected));
        }
        prop_assert!(pages.batch_max.get() <= ahead.max(1));
    }

    #[test]
    fn reading_goes_on_behind_lost_pages(seed in any::<u64>(), count in 500_usize..6000, lost in 1_usize..9, ahead in 1_usize..20) {
        let nodes = deep(seed, count);
        let mut pages = Pages::default();
        let root = build(&nodes, &mut pages);
        let mut dice = Dice(seed);
        for (id, raw) in pages.all() {
            if id != root.page && dice.below(12) < lost {
                match dice.below(3) {
                    0 => pages.remove(&id),
                    1 => pages.replace(id, b"no page".to_vec()),
                    // Its end is missing: what comes before it may have been given out.
                    _ => pages.replace(id, raw[..raw.len() - 1].to_vec()),
                }
            }
        }
        let mut left = Vec::new();
        readable(&pages, root.page, root.level, &mut left);
        let start = dice.below(nodes.len());
        for start in [&[][..], &nodes[start].key] {
            let reader = TreeReader::new(&pages, root).read_ahead(ahead);
            let mut iter = reader.nodes_from(start);
            let mut found: Vec<Node> = Vec::new();
            let mut is_whole = true;
            loop {
                match iter.next() {
                    Some(Ok(node)) => found.push(node),
                    Some(Err(_)) => {
                        prop_assert!(iter.pass_lost());
                        prop_assert!(!iter.pass_lost(), "there is one way to go on");
                        is_whole = false;
                    }
                    None => break,
                }
            }
            prop_assert!(found.is_sorted_by(|a, b| a.key < b.key));
            prop_assert!(found.iter().all(|node| nodes.binary_search_by(|n| n.key.cmp(&node.key)).is_ok_and(|at| nodes[at] == *node)));
            let known: BTreeSet<&[u8]> = found.iter().map(|node| &node.key[..]).collect();
            prop_assert!(left.iter().all(|key| key[..] < *start || known.contains(&key[..])));
            prop_assert_eq!(is_whole, found.len() == nodes.iter().filter(|node| node.key[..] >= *start).count());
        }
    }

    #[test]
    fn cursors_follow_any_walk(seed in any::<u64>(), count in 1_usize..4000, stride in 1_usize..900) {
        let nodes = deep(seed, count);
        let mut pages = Pages::default();
        let root = build(&nodes, &mut pages);
        let mut cursor = TreeReader::new(&pages, root).into_cursor();
        let mut dice = Dice(seed);
        let mut at = 0;
        while at < nodes.len() {
            prop_assert_eq!(cursor.advance_to(&nodes[at].key).unwrap(), Some(&nodes[at]));
            prop_assert_eq!(cursor.advance_to(&nodes[at].key).unwrap(), Some(&nodes[at]));
            let absent = [&nodes[at].key[..], b"\0"].concat(); // before all children
            prop_assert_eq!(cursor.advance_to(&absent).unwrap(), None);
            at += 1 + dice.below(stride);
        }
        prop_assert_eq!(cursor.advance_to(&[0xff; 300]).unwrap(), None);
    }

    #[test]
    fn diffs_are_those_of_the_lists(seed in any::<u64>(), count in 1_usize..3000, changes in 0_usize..40) {
        let old = deep(seed, count);
        let mut dice = Dice(seed ^ 1);
        let mut map: BTreeMap<Vec<u8>, Node> = old.iter().map(|n| (n.key.clone(), n.clone())).collect();
        for _ in 0..changes {
            let node = &old[dice.below(old.len())];
            match dice.below(3) {
                0 => drop(map.remove(&node.key)),
                1 => {
                    let mut added = node.clone();
                    added.key.extend_from_slice(b"+");
                    if node.key.is_empty() { added.key = b"+".to_vec(); }
                    map.insert(added.key.clone(), added);
                }
                _ => drop(map.entry(node.key.clone()).and_modify(|node| node.ino ^= 1)),
            }
        }
        let new: Vec<Node> = map.into_values().collect();
        let mut pages = Pages::default();
        let (old_root, new_root) = (build(&old, &mut pages), build(&new, &mut pages));
        let found: Vec<Change> = Diff::new(&pages, &old_root, &new_root).map(Result::unwrap).collect();
        let by_key = |nodes: &[Node]| -> BTreeMap<Vec<u8>, Node> {
            nodes.iter().map(|node| (node.key.clone(), node.clone())).collect()
        };
        let (old_map, new_map) = (by_key(&old), by_key(&new));
        let keys: BTreeSet<&Vec<u8>> = old_map.keys().chain(new_map.keys()).collect();
        let expected: Vec<Change> = keys.into_iter().filter_map(|key| match (old_map.get(key), new_map.get(key)) {
            (Some(a), Some(b)) if a == b => None,
            (Some(a), Some(b)) => Some(Change::Changed(Box::new((a.clone(), b.clone())))),
            (Some(a), None) => Some(Change::Removed(Box::new(a.clone()))),
            (None, Some(b)) => Some(Change::Added(Box::new(b.clone()))),
            (None, None) => None,
        }).collect();
        prop_assert_eq!(found, expected);
    }
}

/// Keys of the nodes in pages that are well, and that well pages lead to.
fn readable(pages: &Pages, id: Id, level: u8, keys: &mut Vec<Vec<u8>>) {
    let Ok(raw) = get_page(pages, id) else { return };
    if level == 0 {
        let Ok(page) = NodePage::parse(raw) else { return };
        if let Ok(nodes) = page.collect::<Result<Vec<Node>>>() {
            keys.extend(nodes.into_iter().map(|node| node.key));
        }
        return;
    }
    for entry in parse_inner(&raw, level).into_iter().flatten() {
        readable(pages, entry.id, level - 1, keys);
    }
}

#[test]
fn keys_rise_behind_a_page_that_lies() {
    let mut pages = Pages::default();
    let root = build(&flat(20_000), &mut pages);
    let top = parse_inner(&get_page(&pages, root.page).unwrap(), root.level).unwrap();
    let mut writer = NodePageWriter::new();
    let first = Node::new(top[1].key.clone(), Body::Directory);
    let beyond = (1..top[1].nodes).map(|number| small_file(&format!("z{number:05}"), number));
    [first].into_iter().chain(beyond).for_each(|node| writer.push(&node));
    let mut raw = writer.page.finish().unwrap();
    raw.pop();
    pages.replace(top[1].id, raw);
    let reader = TreeReader::new(&pages, root);
    let mut iter = reader.nodes();
    let mut keys = Vec::new();
    while let Some(node) = iter.next() {
        match node {
            Ok(node) => keys.push(node.key),
            Err(_) => assert!(iter.pass_lost()),
        }
    }
    assert!(top.len() > 3 && keys.last().unwrap().starts_with(b"z"));
    assert!(keys.is_sorted_by(|a, b| a < b));
}

#[test]
fn without_its_root_nothing_is_passed_over() {
    for count in [3, 60_000] {
        let mut pages = Pages::default();
        let root = build(&flat(count), &mut pages);
        pages.remove(&root.page);
        let reader = TreeReader::new(&pages, root);
        let mut iter = reader.nodes();
        assert!(iter.next().unwrap().is_err());
        assert!(!iter.pass_lost());
        assert!(iter.next().is_none());
    }
}

#[test]
fn equal_trees_are_compared_unread() {
    let mut pages = Pages::default();
    let root = build(&flat(5000), &mut pages);
    assert_eq!(Diff::new(&pages, &root, &root).count(), 0);
    assert_eq!(pages.read(), 0);
    let empty = build(&[], &mut pages);
    assert_eq!(Diff::new(&pages, &empty, &root).count(), 5002);
    assert_eq!(Diff::new(&pages, &root, &empty).count(), 5002);
}

#[test]
fn growing_trees_share_pages_across_levels() {
    let mut pages = Pages::default();
    // Long keys that share little fill inner pages quickly.
    let key = |n: u64| {
        let mut dice = Dice(n);
        let mut part = |head: String| {
            let rest = (0..30).map(|_| format!("{:08x}", dice.next() >> 32));
            rest.fold(head, |name, digits| name + &digits)
        };
        [part(format!("{n:08}")), part(String::new()), part(String::new())].join("/")
    };
    let nodes: Vec<Node> = (0..120_000).map(|n| small_file(&key(n), n)).collect();
    let middle = build(&nodes[..20_000], &mut pages);
    let large = build(&nodes, &mut pages);
    assert_eq!((middle.level, large.level), (1, 2));
    let longest = pages.all().iter().map(|(_, raw)| raw.len()).max().unwrap();
    assert!(longest < (256 << 10) + 2000, "{longest}");
    let reader = TreeReader::new(&pages, large);
    assert!(reader.nodes().map(Result::unwrap).eq(nodes.iter().cloned()));
    assert_eq!(reader.find(&nodes[99_999].key).unwrap().as_ref(), Some(&nodes[99_999]));
    let top = parse_inner(&get_page(&pages, large.page).unwrap(), 2).unwrap();
    let next = nodes.binary_search_by(|node| node.key.cmp(&top[1].key)).unwrap();
    for straight in [500, 1000, 2000, 3000, 4000] {
        // Straight on, so that pages are read ahead, then to the first node of the next inner page.
        let mut cursor = reader.cursor();
        for node in nodes[..straight].iter().chain(nodes[next..].iter().step_by(7_001)) {
            assert_eq!(cursor.advance_to(&node.key).unwrap(), Some(node));
        }
    }
    let mut edited = nodes.clone();
    edited[70_000].ino += 1;
    let (edited_root, added) = (build(&edited, &mut pages), pages.added());
    assert!(added > 0);
    pages.read();
    assert_eq!(Diff::new(&pages, &large, &edited_root).count(), 1);
    assert!(pages.read() <= 8);
    let small = middle;
    pages.read();
    let mut diff = Diff::new(&pages, &small, &large);
    let first = diff.next().unwrap().unwrap();
    assert_eq!(first.key(), nodes[20_000].key);
    let read = pages.read();
    assert!(read <= 5, "{read} pages read before the first difference");
}

#[test]
fn reading_on_doubles_requests_and_seeking_saves_pages() {
    let nodes = flat(300_000);
    let mut pages = Pages::default();
    let root = build(&nodes, &mut pages);
    let whole = pages.len();
    assert_eq!(TreeReader::new(&pages, root).nodes().count(), nodes.len());
    assert_eq!(pages.read(), whole);
    let requests = pages.requests();
    assert!(requests < whole / 8, "{requests} requests for {whole} pages");
    assert_eq!(pages.batch_max.get(), 16);
    let mut cursor = TreeReader::new(&pages, root).into_cursor();
    for at in [10, 100_000, 200_000, 299_999] {
        assert!(cursor.advance_to(&nodes[at].key).unwrap().is_some());
    }
    let read = pages.read();
    assert!(read <= 16, "{read} pages read for four nodes");
}

#[derive(Default)]
struct Seen {
    pages: BTreeSet<Id>,
    known: BTreeSet<Id>,
    chunks: BTreeSet<Id>,
}

impl Visitor for Seen {
    fn page(&mut self, id: &Id) -> bool {
        !self.known.contains(id) && self.pages.insert(*id)
    }

    fn chunk(&mut self, id: &Id) {
        self.chunks.insert(*id);
    }
}

#[test]
fn collects_all_that_is_reached_and_skips_what_is_known() {
    let mut pages = Pages::default();
    let mut nodes = flat(30_000);
    let mut builder = ContentBuilder::new(page_key());
    let long: Vec<Extent> = (0..300_000).map(|n| Extent::data(id(1 << 40 | n), 0, 1000)).collect();
    for extent in &long {
        builder.push(*extent, &mut pages).unwrap();
    }
    let content = builder.finish(&mut pages).unwrap();
    let mut alone = Seen::default();
    collect_content(&pages, &content, &mut alone).unwrap();
    let extent_pages: BTreeSet<Id> = pages.all().into_iter().map(|(id, _)| id).collect();
    assert_eq!((alone.pages, alone.chunks.len()), (extent_pages, long.len()));
    let size = content.covered().unwrap();
    nodes[20_000].body = Body::File { size, content };
    let root = build(&nodes, &mut pages);
    let stored: BTreeSet<Id> = pages.all().into_iter().map(|(id, _)| id).collect();
    let mut seen = Seen::default();
    collect(&pages, &root, &mut seen).unwrap();
    assert_eq!(seen.pages, stored);
    let small = nodes.iter().filter_map(|node| match &node.body {
        Body::File { content: Content::Inline(extents), .. } => Some(extents),
        _ => None,
    });
    let chunks: BTreeSet<Id> = small
        .flatten()
        .chain(&long)
        .map(|extent| match extent.kind {
            ExtentKind::Data { id, .. } => id,
            _ => panic!("only data"),
        })
        .collect();
    assert_eq!(seen.chunks, chunks);

    nodes[100].ino += 1;
    let second = build(&nodes, &mut pages);
    pages.read();
    let mut rest = Seen { known: seen.pages, ..Seen::default() };
    collect(&pages, &second, &mut rest).unwrap();
    assert!(rest.pages.len() <= 4 && pages.read() <= 4, "{} pages", rest.pages.len());
}

#[test]
fn pages_in_wrong_places_are_seen() {
    let nodes = flat(60_000);
    let mut pages = Pages::default();
    let root = build(&nodes, &mut pages);
    let all = pages.all();
    assert!(all.len() > 30);
    for (index, (at, original)) in all.iter().enumerate() {
        let (_, other) = &all[(index + 7) % all.len()];
        pages.replace(*at, other.clone());
        let results: Vec<Result<Node>> = TreeReader::new(&pages, root).nodes().collect();
        let error = results.last().unwrap().as_ref().unwrap_err();
        assert_eq!(error.kind, ErrorKind::Damaged);
        assert!(results[..results.len() - 1].iter().all(Result::is_ok));
        pages.replace(*at, original.clone());
    }
    // The same page in two places, and a root that promises something else.
    let wrong = Root { nodes: root.nodes + 1, ..root };
    assert!(TreeReader::new(&pages, wrong).nodes().any(|node| node.is_err()));
    let wrong = Root { bytes: root.bytes - 1, ..root };
    assert!(TreeReader::new(&pages, wrong).nodes().any(|node| node.is_err()));
    let empty = build(&[], &mut pages);
    let wrong = Root { level: root.level + 1, ..root };
    assert!(Diff::new(&pages, &empty, &wrong).any(|change| change.is_err()));
}

#[test]
fn a_missing_page_ends_the_iteration_with_its_error() {
    let nodes = flat(20_000);
    let mut pages = Pages::default();
    let root = build(&nodes, &mut pages);
    pages.stored.borrow_mut().retain(|id, _| *id == root.page);
    let results: Vec<Result<Node>> = TreeReader::new(&pages, root).nodes().collect();
    assert_eq!(results.len(), 1);
    assert_eq!(results[0].as_ref().unwrap_err().kind, ErrorKind::NotFound);
    let mut cursor = TreeReader::new(&pages, root).into_cursor();
    assert!(cursor.advance_to(b"data").is_err());
    assert!(cursor.advance_to(b"data").unwrap().is_none());
}
