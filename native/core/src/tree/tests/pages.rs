//! Single pages: every field, every rule, any damage.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::key::{self, check_key, child_key, split_key, subtree_end};
use super::super::node_page::{NodePage, NodePageWriter};
use super::super::page::{
    InnerEntry, PageType, PageWriter, parse_extent_inner, parse_extents, parse_inner, put_inner,
};
use super::*;
use crate::format::testing::{hex, load_vectors, mutate, save_vectors, unhex};

fn time() -> impl Strategy<Value = Time> {
    let seconds = prop_oneof![Just(i64::MIN), Just(i64::MAX), any::<i64>(), 0..2_000_000_000_i64];
    (seconds, 0..1_000_000_000_u32).prop_map(|(seconds, nanoseconds)| Time { seconds, nanoseconds })
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| if matches!(byte, 0 | b'/') { b'x' } else { byte });
    prop_oneof![
        prop::collection::vec(byte, 1..12),
        Just(vec![0xff; 255]),
        Just(vec![1]),
        Just(b"...".to_vec()),
    ]
    .prop_filter("dots", |name| name != b"." && name != b"..")
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(name(), 0..5).prop_map(|names| names.join(&0))
}

fn extent() -> impl Strategy<Value = Extent> {
    let id = any::<u8>().prop_map(|n| id(u64::from(n)));
    prop_oneof![
        (id, 0..16_u32 << 20, any::<u32>()).prop_map(|(id, offset, length)| {
            let longest = (16 << 20) - offset;
            Extent::data(id, offset, u64::from(1 + length % longest))
        }),
        (1..1_u64 << 50).prop_map(Extent::hole),
        (1..1_u64 << 50).prop_map(Extent::zero),
    ]
}

fn content() -> impl Strategy<Value = Content> {
    let refs = prop::collection::vec((any::<u8>(), 1..1_u64 << 50), 1..5);
    prop_oneof![
        prop::collection::vec(extent(), 0..8).prop_map(Content::Inline),
        (1..=255_u8, refs).prop_map(|(level, refs)| {
            let refs =
                refs.into_iter().map(|(n, bytes)| (id(1000 + u64::from(n)), bytes)).collect();
            Content::Pages { level, refs }
        }),
    ]
}

fn body() -> impl Strategy<Value = Body> {
    let target = prop::collection::vec(1..=255_u8, 1..300);
    prop_oneof![
        4 => content().prop_map(|content| {
            Body::File { size: content.covered().unwrap(), content }
        }),
        1 => Just(Body::Directory),
        1 => target.prop_map(Body::Symlink),
        1 => Just(Body::Fifo),
        1 => Just(Body::Socket),
        1 => any::<(u32, u32)>().prop_map(|(major, minor)| Body::CharDevice(major, minor)),
        1 => any::<(u32, u32)>().prop_map(|(major, minor)| Body::BlockDevice(major, minor)),
    ]
}

fn xattrs() -> impl Strategy<Value = Xattrs> {
    let name = prop::collection::vec(1..=255_u8, 1..20);
    let value = prop::collection::vec(any::<u8>(), 0..50);
    let map = prop::collection::btree_map(name, value, 0..4);
    map.prop_map(|map| Xattrs::new(map.into_iter().collect()).unwrap())
}

prop_compose! {
    fn node()(
        (body, xattrs, mtime, ctime, btime) in
            (body(), xattrs(), time(), time(), prop::option::of(time())),
        (mode, uid, gid, flags) in (0..0o10000_u32, 0..3_u32, any::<u32>(), any::<u32>()),
        (ino, link_group, digest) in
            (any::<u64>(), any::<Option<u64>>(), any::<Option<[u8; 16]>>()),
        (unstable, unreadable, partial) in any::<(bool, bool, bool)>(),
        left_out in prop::option::of(prop_oneof![
            Just(LeftOut::Entries),
            Just(LeftOut::FileSystem)
        ]),
    ) -> Node {
        let mut node = Node::new(Vec::new(), body);
        let is_file = node.kind() == Kind::File;
        let is_directory = node.kind() == Kind::Directory;
        (node.xattrs, node.mtime, node.ctime, node.btime) = (xattrs, mtime, ctime, btime);
        (node.mode, node.uid, node.gid, node.flags, node.ino) = (mode, uid, gid, flags, ino);
        node.link_group = link_group.filter(|_| !is_directory);
        node.digest = digest.filter(|_| is_file);
        node.unstable = unstable && (is_file || is_directory);
        node.unreadable = unreadable && (is_file || is_directory);
        node.partial = partial && is_file;
        node.left_out = left_out.filter(|_| is_directory);
        if let Body::File { size, content } = &mut node.body {
            if node.unreadable {
                *content = Content::empty();
            } else if node.partial {
                *size += 7;
            }
        }
        node
    }
}

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    prop::collection::btree_map(path(), node(), 0..20).prop_map(|map| {
        let with_key = |(key, mut node): (Vec<u8>, Node)| {
            node.key = key;
            node
        };
        map.into_iter().map(with_key).collect()
    })
}

fn node_page(nodes: &[Node]) -> Vec<u8> {
    let mut writer = NodePageWriter::new();
    for node in nodes {
        check_key(&node.key).unwrap();
        node.check().unwrap();
        let before = writer.page.size();
        writer.push(node);
        assert!(writer.page.size() - before <= node.bytes_bound());
    }
    writer.page.finish().unwrap()
}

fn inner_page(entries: &[InnerEntry], level: u8) -> Vec<u8> {
    let mut page = PageWriter::new(PageType::Inner, level);
    let mut previous = b"left over".to_vec();
    for entry in entries {
        put_inner(&mut page, entry, &mut previous);
    }
    page.finish().unwrap()
}

fn extent_page(extents: &[Extent]) -> Vec<u8> {
    let mut page = PageWriter::new(PageType::Extents, 0);
    for extent in extents {
        page.begin();
        page.put_extent(extent);
    }
    page.finish().unwrap()
}

fn extent_inner_page(refs: &[(Id, u64)], level: u8) -> Vec<u8> {
    let mut page = PageWriter::new(PageType::ExtentInner, level);
    for (id, bytes) in refs {
        page.begin();
        page.put_id(id);
        page.put(*bytes);
    }
    page.finish().unwrap()
}

fn parse_nodes(raw: &[u8]) -> Result<Vec<Node>> {
    NodePage::parse(raw)?.collect()
}

/// Whatever the page says it is.
fn parse_any(raw: &[u8]) -> Result<()> {
    let level = raw.get(5).copied().unwrap_or_default();
    match raw.get(4) {
        Some(1) => parse_nodes(raw).map(drop),
        Some(2) => parse_inner(raw, level).map(drop),
        Some(3) => parse_extents(raw).map(drop),
        _ => parse_extent_inner(raw, level).map(drop),
    }
}

proptest! {
    #[test]
    fn nodes_round_trip(nodes in nodes()) {
        let raw = node_page(&nodes);
        prop_assert_eq!(parse_nodes(&raw).unwrap(), nodes);
        let mut longer = raw.clone();
        longer.push(0);
        prop_assert!(parse_nodes(&longer).is_err());
        prop_assert!(parse_nodes(&raw[..raw.len() - 1]).is_err());
    }

    #[test]
    fn simple_pages_round_trip(
        extents in prop::collection::vec(extent(), 1..50),
        keys in prop::collection::btree_set(path(), 1..30),
        numbers in prop::collection::vec((any::<u8>(), 1..u64::MAX), 30),
        level in 1..=255_u8,
    ) {
        prop_assert_eq!(parse_extents(&extent_page(&extents)).unwrap(), extents);
        let refs: Vec<_> = numbers.iter().map(|(n, bytes)| (id(u64::from(*n)), *bytes)).collect();
        prop_assert_eq!(parse_extent_inner(&extent_inner_page(&refs, level), level).unwrap(), refs);
        let entries: Vec<_> = keys.into_iter().zip(&numbers).map(|(key, (n, bytes))| {
            InnerEntry { key, id: id(u64::from(*n)), nodes: *bytes, bytes: *bytes - 1 }
        }).collect();
        let raw = inner_page(&entries, level);
        prop_assert_eq!(parse_inner(&raw, level).unwrap(), entries);
        prop_assert!(parse_inner(&raw, level - 1).is_err());
    }

    #[test]
    fn mutated_pages_never_panic(
        nodes in nodes(),
        extents in prop::collection::vec(extent(), 1..20),
        seed in any::<u64>(),
        changes in 1_usize..4,
    ) {
        let refs = [(id(1), 5), (id(2), 6), (id(1), 7)];
        let entry = |key: &[u8], n| InnerEntry { key: key.to_vec(), id: id(n), nodes: 1, bytes: n };
        let pages = [
            node_page(&nodes),
            extent_page(&extents),
            extent_inner_page(&refs, 1),
            inner_page(&[entry(b"", 1), entry(b"a", 2), entry(b"a\0b", 3)], 1),
        ];
        for (index, mut raw) in pages.into_iter().enumerate() {
            mutate(&mut raw, seed.wrapping_add(index as u64), changes);
            if let Err(error) = parse_any(&raw) {
                prop_assert_eq!(error.kind, ErrorKind::Damaged);
            }
            if let Ok(nodes) = parse_nodes(&raw) {
                prop_assert!(nodes.iter().all(|node| node.check().is_ok()));
                prop_assert!(nodes.iter().all(|node| check_key(&node.key).is_ok()));
                prop_assert!(nodes.is_sorted_by(|a, b| a.key < b.key));
            }
        }
    }

    #[test]
    fn keys_split_and_join(names in prop::collection::vec(name(), 1..5)) {
        let key = names.iter().fold(Vec::new(), |key, name| child_key(&key, name));
        prop_assert_eq!(&key, &names.join(&0));
        prop_assert!(check_key(&key).is_ok());
        let (parent, last) = split_key(&key).unwrap();
        prop_assert_eq!(last, &names[names.len() - 1][..]);
        prop_assert_eq!(parent, &names[..names.len() - 1].join(&0)[..]);
        prop_assert!(child_key(&key, &[255; 255]) < subtree_end(&key).unwrap());
        prop_assert!([&key[..], &[1]].concat() >= subtree_end(&key).unwrap());
    }

    #[test]
    fn shared_length(a in prop::collection::vec(0..2_u8, 0..40), b in prop::collection::vec(0..2_u8, 0..40)) {
        let expected = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
        prop_assert_eq!(key::shared_len(&a, &b), expected);
        let longer = [&a[..], &b].concat();
        prop_assert_eq!(key::shared_len(&a, &longer), a.len());
    }
}

#[test]
fn names_that_no_file_can_have() {
    for bad in [&b"."[..], b"..", b"a/b", b"a\0", b"\0a", b"a\0\0b", b"a\0..", &[b'x'; 256]] {
        assert!(check_key(bad).is_err(), "{bad:?}");
        // Also when it comes front-coded after a good one.
        let mut writer = NodePageWriter::new();
        writer.push(&Node::new(b"!".to_vec(), Body::Directory));
        writer.push(&Node::new(bad.to_vec(), Body::Directory));
        let raw = writer.page.finish().unwrap();
        assert!(parse_nodes(&raw).is_err(), "{bad:?}");
    }
    assert!(check_key(&vec![b'x'; (1 << 20) + 1]).is_err());
    let mut writer = NodePageWriter::new();
    writer.push(&Node::new(b"a\0b\0.x".to_vec(), Body::Directory));
    writer.push(&Node::new(b"a\0b\0.x.".to_vec(), Body::Directory));
    assert_eq!(parse_nodes(&writer.page.finish().unwrap()).unwrap().len(), 2);
    writer.push(&Node::new(b"a\0b\0.\x01".to_vec(), Body::Directory));
    writer.push(&Node::new(b"a\0b\0..".to_vec(), Body::Directory));
    assert!(parse_nodes(&writer.page.finish().unwrap()).is_err());
}

#[test]
fn nodes_that_cannot_be() {
    let file = |size, extents| {
        let content = Content::Inline(extents);
        Node::new(b"f".to_vec(), Body::File { size, content })
    };
    #[expect(clippy::type_complexity, reason = "a table of cases")]
    let refused: [(&str, fn(&mut Node)); 15] = [
        ("mark", |n| n.left_out = Some(LeftOut::Entries)),
        ("07777", |n| n.mode = 0o10000),
        ("nanoseconds", |n| n.mtime.nanoseconds = 1_000_000_000),
        ("nanoseconds", |n| n.btime = Some(Time { seconds: 0, nanoseconds: u32::MAX })),
        ("add up", |n| n.body = Body::File { size: 8, content: Content::empty() }),
        ("add up", |n| n.unreadable = true),
        ("add up", |n| {
            (n.partial, n.body) =
                (true, Body::File { size: 8, content: Content::Inline(vec![Extent::hole(9)]) })
        }),
        ("length", |n| {
            n.body = Body::File { size: 0, content: Content::Inline(vec![Extent::zero(0)]) }
        }),
        ("longest chunk", |n| {
            n.body = Body::File {
                size: 2,
                content: Content::Inline(vec![Extent::data(Id([0; 32]), (16 << 20) - 1, 2)]),
            }
        }),
        ("without its pages", |n| {
            n.body = Body::File { size: 0, content: Content::Pages { level: 1, refs: vec![] } }
        }),
        ("covers nothing", |n| {
            n.body = Body::File {
                size: 0,
                content: Content::Pages { level: 1, refs: vec![(Id([0; 32]), 0)] },
            }
        }),
        ("symlink", |n| n.body = Body::Symlink(vec![])),
        ("symlink", |n| n.body = Body::Symlink(b"a\0".to_vec())),
        ("mark", |n| (n.digest, n.body) = (Some([0; 16]), Body::Fifo)),
        ("several names", |n| (n.link_group, n.body) = (Some(1), Body::Directory)),
    ];
    for (what, change) in refused {
        let mut node = file(5, vec![Extent::hole(5)]);
        node.check().unwrap();
        change(&mut node);
        assert!(node.check().unwrap_err().contains(what), "{what}");
        let mut pages = Pages::default();
        let error = TreeBuilder::new(page_key()).push(&node, &mut pages).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Usage);
        let mut writer = NodePageWriter::new();
        writer.push(&node);
        let error = parse_nodes(&writer.page.finish().unwrap()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Damaged, "{what}");
    }
}

#[test]
fn tables_and_headers_are_checked() {
    let extents = [Extent::data(id(1), 0, 5), Extent::data(id(2), 0, 5), Extent::data(id(1), 9, 5)];
    let good = extent_page(&extents);
    assert_eq!(good.len(), 16 + 64 + 9);
    parse_extents(&good).unwrap();
    let refused = |what: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bad = good.clone();
        change(&mut bad);
        let error = parse_extents(&bad).expect_err(what);
        assert!(error.what.contains(what), "{what}: {error}");
    };
    refused("not a page", &|b| b[3] = b'2');
    refused("type", &|b| b[4] = 5);
    refused("another type", &|b| b[4] = 1);
    refused("level", &|b| b[5] = 1);
    refused("level", &|b| b[6] = 1);
    refused("count", &|b| b[8..12].fill(0xff));
    refused("count", &|b| b[8] = 0);
    refused("table", &|b| b[12..16].fill(0xff));
    refused("nothing uses", &|b| b[8] = 1);
    refused("after the end", &|b| b.push(0));
    refused("twice", &|b| b.copy_within(16..48, 48));
    refused("out of turn", &|b| b[81] = 1); // the second id before the first
    refused("outside the table", &|b| b[87] = 2);
    refused("type of extent", &|b| b[80] |= 3);
    refused("length", &|b| b[80] = 0);
    refused("end too early", &|b| b.truncate(88));
    let empty = node_page(&[]);
    assert!(parse_nodes(&empty).unwrap().is_empty());
    assert!(parse_nodes(&[&empty[..], &[0]].concat()).is_err());
    let mut with_id = empty.clone();
    with_id[12] = 1;
    with_id.extend_from_slice(&[7; 32]);
    assert!(parse_nodes(&with_id).is_err());
    assert!(Xattrs::new(vec![(b"a".to_vec(), vec![]), (b"a".to_vec(), vec![1])]).is_err());
    assert!(Xattrs::new(vec![(vec![], vec![])]).is_err());
}

fn json_node(node: &Node) -> Value {
    let time = |time: Time| json!([time.seconds.to_string(), time.nanoseconds]);
    let refs = |refs: &[(Id, u64)]| -> Vec<Value> {
        refs.iter().map(|(id, bytes)| json!([id.to_string(), bytes])).collect()
    };
    let body = match &node.body {
        Body::File { size, content: Content::Inline(extents) } => {
            json!({"size": size, "extents": extents.iter().map(json_extent).collect::<Vec<_>>()})
        }
        Body::File { size, content: Content::Pages { level, refs: list } } => {
            json!({"size": size, "level": level, "pages": refs(list)})
        }
        Body::Symlink(target) => json!({"target": hex(target)}),
        Body::CharDevice(major, minor) | Body::BlockDevice(major, minor) => {
            json!({"major": major, "minor": minor})
        }
        Body::Directory | Body::Fifo | Body::Socket => json!({}),
    };
    let xattrs = node.xattrs.as_slice().iter();
    let mut value = json!({
        "key": hex(&node.key), "kind": node.kind() as u8, "mode": node.mode, "uid": node.uid,
        "gid": node.gid, "flags": node.flags,
        "xattrs": xattrs.map(|(name, value)| json!([hex(name), hex(value)])).collect::<Vec<_>>(),
        "mtime": time(node.mtime), "ctime": time(node.ctime), "btime": node.btime.map(time),
        "ino": node.ino.to_string(), "link_group": node.link_group.map(|g| g.to_string()),
        "digest": node.digest.map(|digest| hex(&digest)), "body": body,
        "unstable": node.unstable, "unreadable": node.unreadable, "partial": node.partial,
    });
    if let Some(left_out) = node.left_out {
        value["left_out"] = match left_out {
            LeftOut::Entries => json!("entries"),
            LeftOut::FileSystem => json!("file system"),
        };
    }
    value
}

fn json_extent(extent: &Extent) -> Value {
    match extent.kind {
        ExtentKind::Data { id, offset } => json!(["data", extent.length, id.to_string(), offset]),
        ExtentKind::Hole => json!(["hole", extent.length]),
        ExtentKind::Zero => json!(["zeros", extent.length]),
    }
}

/// Nodes of every kind, with every field somewhere and values at the ends of their ranges.
fn sample_nodes() -> Vec<Node> {
    let mut nodes = vec![directory(""), directory("dir"), small_file("dir/a", 1)];
    nodes.push(small_file("dir/b", 2));
    let mut odd = small_file("dir/b\u{1}", 3);
    odd.xattrs =
        Xattrs::new(vec![(b"user.b".to_vec(), vec![0, 255]), (b"user.a".to_vec(), vec![])])
            .unwrap();
    (odd.mtime, odd.ctime) = (
        Time { seconds: i64::MIN, nanoseconds: 999_999_999 },
        Time { seconds: i64::MAX, nanoseconds: 0 },
    );
    (odd.btime, odd.ino, odd.link_group) = (Some(Time::default()), u64::MAX, Some(u64::MAX));
    (odd.digest, odd.unstable, odd.flags) = (Some([0x5a; 16]), true, u32::MAX);
    nodes.push(odd);
    let mut partial = small_file("dir/c", 4);
    partial.partial = true;
    partial.body = Body::File {
        size: 1 << 40,
        content: Content::Pages { level: 2, refs: vec![(id(50), 1 << 30), (id(51), 1)] },
    };
    nodes.push(partial);
    let sparse = vec![
        Extent::hole(1 << 40),
        Extent::data(id(60), 0, 1 << 24),
        Extent::zero(65_536),
        Extent::data(id(61), 9, 1),
        Extent::data(id(60), 5, 7),
    ];
    let content = Content::Inline(sparse);
    let body = Body::File { size: content.covered().unwrap(), content };
    nodes.push(Node::new(b"e".to_vec(), body));
    let mut unreadable =
        Node::new(b"f".to_vec(), Body::File { size: 9, content: Content::empty() });
    unreadable.unreadable = true;
    nodes.push(unreadable);
    for (name, body) in [
        ("k", Body::Symlink(b"../x\xff".to_vec())),
        ("l", Body::Fifo),
        ("m", Body::Socket),
        ("n", Body::CharDevice(1, 3)),
        ("o", Body::BlockDevice(u32::MAX, 1 << 20)),
    ] {
        nodes.push(Node::new(name.as_bytes().to_vec(), body));
    }
    nodes
}

/// Directories of which something was left out on purpose.
fn partial_directories() -> Vec<Node> {
    let marked = |path, left_out| Node { left_out: Some(left_out), ..directory(path) };
    let mut both = marked("a", LeftOut::Entries);
    both.unreadable = true;
    vec![marked("", LeftOut::Entries), both, marked("b", LeftOut::FileSystem), directory("c")]
}

fn vectors() -> Value {
    let page = |name: &str, raw: &[u8], holds: Value| json!({"name": name, "page": hex(raw), "id": page_key().page_id(raw).to_string(), "holds": holds});
    let nodes = sample_nodes();
    let raw = node_page(&nodes);
    let partial = partial_directories();
    let partial_raw = node_page(&partial);
    let extents =
        [Extent::data(id(1), 0, 1000), Extent::hole(1 << 33), Extent::data(id(1), 2000, 3)];
    let refs = [(id(3), 1 << 35), (id(4), 7), (id(3), 9)];
    let entries = ["", "dir", "dir/b"].map(|path| InnerEntry {
        key: path.replace('/', "\0").into_bytes(),
        id: id(path.len() as u64),
        nodes: 300,
        bytes: u64::MAX - path.len() as u64,
    });
    let entries_json = entries.iter().map(|entry| {
        json!([hex(&entry.key), entry.id.to_string(), entry.nodes, entry.bytes.to_string()])
    });
    let extents_json: Vec<_> = extents.iter().map(json_extent).collect();
    let refs_json: Vec<_> = refs.iter().map(|(id, bytes)| json!([id.to_string(), bytes])).collect();
    let keys = [&b""[..], b"a", b"dir\0b", &[0xff; 100]];
    let bad = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut raw = raw.clone();
        change(&mut raw);
        assert!(parse_nodes(&raw).is_err(), "{name}");
        json!({"name": name, "page": hex(&raw)})
    };
    json!({
        "page_id_key": hex(&KEY),
        "border_hashes": keys.map(|key| json!([hex(key), page_key().border_hash(key).to_string()])),
        "pages": [
            page("empty", &node_page(&[]), json!([])),
            page("nodes", &raw, nodes.iter().map(json_node).collect()),
            page("inner", &inner_page(&entries, 2), entries_json.collect()),
            page("extents", &extent_page(&extents), extents_json.into()),
            page("extent inner", &extent_inner_page(&refs, 1), refs_json.into()),
            page("left out", &partial_raw, partial.iter().map(json_node).collect()),
        ],
        "damaged": [
            bad("byte after the end", &|raw| raw.push(0)),
            bad("byte missing", &|raw| raw.truncate(raw.len() - 1)),
            bad("unused id", &|raw| { raw[12] += 1; raw.splice(16..16, [9; 32]); }),
            bad("one entry too many", &|raw| raw[8] += 1),
            bad("one entry too few", &|raw| raw[8] -= 1),
            bad("unknown type", &|raw| raw[4] = 9),
            bad("level", &|raw| raw[5] = 1),
        ],
    })
}

#[test]
#[ignore = "writes tests/vectors/page.json where it does not exist"]
fn save() {
    save_vectors("page.json", &vectors());
}

#[test]
fn vectors_hold() {
    let stored = load_vectors("page.json");
    assert_eq!(stored, vectors());
    let nodes = parse_nodes(&unhex(&stored["pages"][1]["page"])).unwrap();
    assert_eq!(
        nodes.iter().map(json_node).collect::<Vec<_>>(),
        stored["pages"][1]["holds"].as_array().unwrap()[..]
    );
    for page in stored["damaged"].as_array().unwrap() {
        assert!(parse_any(&unhex(&page["page"])).is_err());
    }
}
