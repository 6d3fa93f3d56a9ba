//! Building trees: equal to what is read back, and cheap where little changed.

use proptest::prelude::*;

use super::super::builder::PAGE_BYTES_TARGET_MAX;
use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn reads_what_was_built(seed in any::<u64>(), count in 1_usize..3000) {
        let nodes = deep(seed, count);
        let mut pages = Pages::default();
        let root = build(&nodes, &mut pages);
        prop_assert_eq!(root.nodes, nodes.len() as u64);
        prop_assert_eq!(root.bytes, nodes.iter().map(Node::size).sum::<u64>());
        prop_assert_eq!(read_all(&pages, root), nodes);
    }
}

#[test]
fn no_nodes_and_one_node() {
    let mut pages = Pages::default();
    let root = build(&[], &mut pages);
    assert_eq!((root.level, root.nodes, root.bytes), (0, 0, 0));
    assert!(read_all(&pages, root).is_empty());
    let nodes = [directory("")];
    let root = build(&nodes, &mut pages);
    assert_eq!(read_all(&pages, root), nodes);
}

#[test]
fn order_and_size_are_kept() {
    let mut pages = Pages::default();
    let mut builder = TreeBuilder::new(page_key());
    builder.push(&directory("b"), &mut pages).unwrap();
    for key in ["b", "a", ""] {
        assert_eq!(builder.push(&directory(key), &mut pages).unwrap_err().kind, ErrorKind::Usage);
    }
    assert!(builder.push(&directory("b/.."), &mut pages).is_err());
    let mut huge = directory("c");
    huge.xattrs = Xattrs::new(vec![(b"user.x".to_vec(), vec![0; 5 << 20])]).unwrap();
    assert!(builder.push(&huge, &mut pages).is_err());
    builder.push(&directory("c"), &mut pages).unwrap();
    let root = builder.finish(&mut pages).unwrap();
    assert_eq!(read_all(&pages, root), [directory("b"), directory("c")]);
}

#[test]
fn sizes_beyond_64_bits_saturate() {
    let mut nodes = Vec::new();
    for n in 0..3000 {
        let extents = vec![Extent::hole((1 << 62) - 1 - n)];
        let body = Body::File { size: (1 << 62) - 1 - n, content: Content::Inline(extents) };
        nodes.push(Node::new(format!("{n:05}{}", "x".repeat(200)).into_bytes(), body));
    }
    let mut pages = Pages::default();
    let root = build(&nodes, &mut pages);
    assert_eq!((root.bytes, root.level), (u64::MAX, 1));
    assert_eq!(read_all(&pages, root), nodes);
}

#[test]
fn keys_of_a_mebibyte_make_no_towers() {
    let mut pages = Pages::default();
    let start = vec![[b'd'; 249]; 4160].join(&0);
    let nodes: Vec<Node> = (0..40)
        .map(|n| Node::new([&start[..], format!("\0{n:04}").as_bytes()].concat(), Body::Directory))
        .collect();
    assert!(nodes[0].key.len() > 1_000_000 && nodes[0].key.len() <= 1 << 20);
    let root = build(&nodes, &mut pages);
    assert!(root.level <= 6, "level {}", root.level);
    assert_eq!(read_all(&pages, root), nodes);
}

#[test]
fn checkpoints_leave_the_builder_alone() {
    let nodes = flat(20_000);
    let (mut pages, mut plain) = (Pages::default(), Pages::default());
    let expected = build(&nodes, &mut plain);
    let mut builder = TreeBuilder::new(page_key());
    for (index, node) in nodes.iter().enumerate() {
        if [0, 1, 500, 7777, 19_999].contains(&index) {
            let root = builder.snapshot_root(&mut pages).unwrap();
            assert_eq!(read_all(&pages, root), nodes[..index]);
            assert_eq!(root, build(&nodes[..index], &mut plain));
        }
        builder.push(node, &mut pages).unwrap();
    }
    assert_eq!(builder.finish(&mut pages).unwrap(), expected);
}

/// Pages that a tree takes that was not there before, and pages that a diff reads.
fn cost(pages: &mut Pages, before: Root, nodes: &[Node]) -> (usize, usize, Vec<diff::Change>) {
    pages.added();
    let root = build(nodes, pages);
    let added = pages.added();
    pages.read();
    let changes: Vec<_> = diff::Diff::new(&*pages, &before, &root).map(Result::unwrap).collect();
    (added, pages.read(), changes)
}

#[test]
fn a_million_entries_cost_what_changed() {
    let mut nodes = flat(1_000_000);
    let mut pages = Pages::default();
    let before = build(&nodes, &mut pages);
    let whole = pages.added();
    assert!(whole > 500, "{whole} pages");
    assert_eq!(before.nodes, 1_000_002);
    let all = pages.all();
    let longest = all.iter().map(|(_, raw)| raw.len()).max().unwrap();
    assert!(longest < PAGE_BYTES_TARGET_MAX + (64 << 10), "{longest}");
    drop(all);

    nodes[500_002].mtime.seconds += 1;
    let (added, read, changes) = cost(&mut pages, before, &nodes);
    println!("{whole} pages, root level {}; one change: {added} new, {read} read", before.level);
    assert!(added <= 6, "{added} new pages for one changed node");
    assert!(read <= 12, "{read} pages read for one changed node");
    assert!(matches!(&changes[..], [diff::Change::Changed(pair)] if pair.1 == nodes[500_002]));

    nodes[500_002].mtime.seconds -= 1;
    let gone = nodes.remove(300_000);
    let new = small_file("data/file-00700000.bin~", 5);
    nodes.insert(700_002, new.clone());
    let (added, read, changes) = cost(&mut pages, before, &nodes);
    println!("one removed, one added: {added} new, {read} read");
    assert!(added <= 10, "{added} new pages for two changes");
    assert!(read <= 24, "{read} pages read for two changes");
    assert_eq!(
        changes,
        [diff::Change::Removed(Box::new(gone)), diff::Change::Added(Box::new(new))]
    );

    // A whole block in the middle: the pages around it stay.
    let block = (0..1000).map(|n| small_file(&format!("data/file-00400000/{n:04}"), n));
    nodes.splice(400_001..400_001, block);
    let (added, _, changes) = cost(&mut pages, before, &nodes);
    assert_eq!(changes.len(), 1002);
    assert!(added <= 20, "{added} new pages for a block");
}
