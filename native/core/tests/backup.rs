//! Backups of real trees of files, read back through tree, index and packs, and checked whole.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by it, and helpers of tests are not seen as such"
)]
#![expect(clippy::unnecessary_debug_formatting, reason = "names here need their escapes")]

mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pvback_core::ErrorKind;
use pvback_core::backup::RootJson;
use pvback_core::blobs::BlobStore;
use pvback_core::bulk::merge::merge;
use pvback_core::crypto::config::{Config, Revoked};
use pvback_core::crypto::sign::Role;
use pvback_core::crypto::{BlobOpener, IssueRequest, IssueScope, Keyring, SourceId};
use pvback_core::format::Id;
use pvback_core::format::pack::PackKind;
use pvback_core::index::Index;
use pvback_core::look::check::check;
use pvback_core::pages::PageStore;
use pvback_core::tree::{Body, Content, ExtentKind, LeftOut, Node, Root, TreeReader};
use serde_json::{Value, json};
use support::{Repository, Snapshot, json_of, noise, parse};

/// Path below the source to what stands there: a node, and the content of a file.
type Image = BTreeMap<PathBuf, (Node, Vec<u8>)>;

/// Everything in a snapshot, read back.
fn read_back(repository: &Repository, snapshot: &Snapshot) -> Image {
    let index = parse(repository.index());
    let root: RootJson = parse(snapshot.result["root"].clone());
    let source = SourceId::parse(&snapshot.source_id).unwrap();
    let (image, _) = repository.serve(|scope| {
        let index = Arc::new(Index::load(scope, &index, 1 << 30).unwrap());
        let pages = PageStore::new(scope.clone(), Arc::clone(&index), &source).unwrap();
        let blobs = BlobStore::new(scope.clone(), index, None);
        let mut opener = BlobOpener::new().unwrap();
        let tree = TreeReader::new(pages, Root::try_from(&root).unwrap());
        let mut image = Image::new();
        for node in tree.nodes() {
            let node = node.unwrap();
            let mut content = Vec::new();
            if let Body::File { content: extents, .. } = &node.body {
                for extent in tree.extents(extents) {
                    let (_, extent) = extent.unwrap();
                    let length = usize::try_from(extent.length).unwrap();
                    match extent.kind {
                        ExtentKind::Data { id, offset } => {
                            let chunk = blobs.fetch(&mut opener, &id, PackKind::Data).unwrap();
                            content.extend_from_slice(&chunk[offset as usize..][..length]);
                        }
                        _ => content.resize(content.len() + length, 0),
                    }
                }
            }
            let path = OsStr::from_bytes(&node.key).as_bytes().iter();
            let path: Vec<u8> = path.map(|byte| if *byte == 0 { b'/' } else { *byte }).collect();
            image.insert(PathBuf::from(OsStr::from_bytes(&path)), (node, content));
        }
        image
    });
    image
}

fn walk(root: &Path, below: &Path, out: &mut Vec<PathBuf>) {
    out.push(below.to_owned());
    let path = root.join(below);
    if fs::symlink_metadata(&path).unwrap().is_dir() {
        for entry in fs::read_dir(&path).unwrap() {
            walk(root, &below.join(entry.unwrap().file_name()), out);
        }
    }
}

fn assert_is_image(image: &Image, root: &Path) {
    let mut paths = Vec::new();
    walk(root, Path::new(""), &mut paths);
    paths.sort_unstable();
    let stored: Vec<&PathBuf> = image.keys().collect();
    let mut stored: Vec<PathBuf> = stored.into_iter().cloned().collect();
    stored.sort_unstable();
    assert_eq!(stored, paths);
    let mut groups: BTreeMap<u64, u64> = BTreeMap::new();
    for (path, (node, content)) in image {
        let full = root.join(path);
        let meta = fs::symlink_metadata(&full).unwrap();
        assert_eq!(u64::from(node.mode), u64::from(meta.mode() & 0o7777), "{path:?}");
        assert_eq!((node.uid, node.gid), (meta.uid(), meta.gid()), "{path:?}");
        let mtime = (node.mtime.seconds, i64::from(node.mtime.nanoseconds));
        assert_eq!(mtime, (meta.mtime(), meta.mtime_nsec()), "{path:?}");
        assert!(!node.unreadable && !node.unstable && !node.partial, "{path:?}");
        match &node.body {
            Body::File { size, .. } => {
                assert!(meta.is_file());
                assert_eq!(*size, meta.len(), "{path:?}");
                assert!(*content == fs::read(&full).unwrap(), "content of {path:?}");
                assert_eq!(node.link_group.is_some(), meta.nlink() > 1, "{path:?}");
                if let Some(group) = node.link_group {
                    assert_eq!(*groups.entry(group).or_insert(meta.ino()), meta.ino());
                }
            }
            Body::Directory => assert!(meta.is_dir()),
            Body::Symlink(target) => {
                assert_eq!(OsStr::from_bytes(target), fs::read_link(&full).unwrap());
            }
            _ => assert!(!meta.is_file() && !meta.is_dir()),
        }
    }
}

fn assert_checks(repository: &Repository) {
    let snapshots: Vec<Value> = repository.snapshots.iter().map(Snapshot::to_json).collect();
    let packs = ["data/", "meta/"].map(|folder| repository.store.list(&repository.key(folder)));
    let packs: Vec<Value> =
        packs.into_iter().flatten().map(|(key, size)| json!({"key": key, "size": size})).collect();
    let options = json!({"snapshots": snapshots, "packs": packs, "read_data": 100.0});
    let options = parse(repository.options(options));
    let (result, outputs) = repository.serve(|scope| check(scope, &options));
    result.unwrap();
    // What a run left that broke off is no damage.
    let rows = json_of(&outputs, "rows").into_iter();
    let findings: Vec<Value> = rows
        .filter(|finding| finding["what"] != "orphan" && finding["what"] != "dead-pack")
        .collect();
    assert_eq!(findings, Vec::<Value>::new());
}

/// Numbers that follow from a seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn bytes(&mut self, count: u64) -> Vec<u8> {
        // Few seeds, so that contents repeat.
        noise(self.below(40) + 1, usize::try_from(count).unwrap())
    }
}

fn write_random_file(dice: &mut Dice, path: &Path) {
    match dice.below(10) {
        0 => fs::write(path, b"").unwrap(),
        1 => fs::write(path, vec![0; usize::try_from(dice.below(300_000)).unwrap()]).unwrap(),
        2 => {
            // Data and holes by turns, ending in either.
            let file = File::create(path).unwrap();
            let mut offset = 0;
            for _ in 0..dice.below(6) {
                offset += dice.below(200_000);
                let length = 1 + dice.below(90_000);
                let bytes = dice.bytes(length);
                file.write_all_at(&bytes, offset).unwrap();
                offset += bytes.len() as u64;
            }
            file.set_len(offset + dice.below(3) * 70_000).unwrap();
        }
        3 => {
            let length = 100_000 + dice.below(900_000);
            let bytes = dice.bytes(length);
            fs::write(path, bytes).unwrap();
        }
        _ => {
            let length = dice.below(9_000);
            let bytes = dice.bytes(length);
            fs::write(path, bytes).unwrap();
        }
    }
}

fn random_name(dice: &mut Dice) -> Vec<u8> {
    let letters = b"ab.-\x01\xff\xc3\xa9 \n";
    let length = 1 + dice.below(6);
    let name: Vec<u8> = (0..length)
        .map(|_| letters[usize::try_from(dice.below(letters.len() as u64)).unwrap()])
        .collect();
    if name == b"." || name == b".." { b"dots".to_vec() } else { name }
}

fn change_tree(dice: &mut Dice, root: &Path, steps: u64) {
    for _ in 0..steps {
        let mut paths = Vec::new();
        walk(root, Path::new(""), &mut paths);
        let pick = |dice: &mut Dice, paths: &[PathBuf]| {
            root.join(&paths[usize::try_from(dice.below(paths.len() as u64)).unwrap()])
        };
        let any = pick(dice, &paths);
        let directories: Vec<PathBuf> = paths
            .iter()
            .filter(|path| fs::symlink_metadata(root.join(path)).unwrap().is_dir())
            .cloned()
            .collect();
        let new = pick(dice, &directories).join(OsStr::from_bytes(&random_name(dice)));
        let kind = fs::symlink_metadata(&any).unwrap().file_type();
        let is_new = fs::symlink_metadata(&new).is_err();
        match dice.below(12) {
            0 if any != root => {
                if kind.is_dir() { fs::remove_dir_all(&any) } else { fs::remove_file(&any) }
                    .unwrap();
            }
            1 if kind.is_file() && is_new => fs::hard_link(&any, &new).unwrap(),
            2 if is_new => symlink(&any, &new).unwrap(),
            3 if kind.is_file() => {
                let mut file = fs::OpenOptions::new().write(true).open(&any).unwrap();
                file.seek(SeekFrom::End(0)).unwrap();
                let length = dice.below(70_000);
                file.write_all(&dice.bytes(length)).unwrap();
            }
            4 if kind.is_file() || kind.is_dir() => {
                let mode = 0o700 | u32::try_from(dice.below(0o100)).unwrap();
                fs::set_permissions(&any, fs::Permissions::from_mode(mode)).unwrap();
            }
            5 | 6 if is_new => fs::create_dir(&new).unwrap(),
            7 if kind.is_file() && is_new => fs::rename(&any, &new).unwrap(),
            _ if is_new => write_random_file(dice, &new),
            _ => {}
        }
    }
}

#[test]
fn random_trees_come_back_and_check_out() {
    let runs: u64 = std::env::var("PVBACK_TEST_SEEDS").map_or(6, |runs| runs.parse().unwrap());
    for seed in 1..=runs {
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let source = tempfile::tempdir().unwrap();
        let mut repository =
            Repository::new([4 << 10, 32 << 10, 64 << 10][usize::try_from(seed % 3).unwrap()]);
        for round in 0..4 {
            change_tree(&mut dice, source.path(), if round == 0 { 120 } else { 25 });
            let of_two = |dice: &mut Dice, a: u64, b: u64| if dice.below(2) == 0 { a } else { b };
            let (memory, pack) =
                (of_two(&mut dice, 8 << 20, 64 << 20), of_two(&mut dice, 200_000, 1 << 20));
            let chunker = if dice.below(4) == 0 { "fixed" } else { "auto" };
            let more = json!({
                "threads": 1 + dice.below(3),
                "readers": dice.below(4),
                "memory_bytes": memory,
                "pack_bytes": pack,
                "force": dice.below(4) == 0,
                "chunker": chunker,
            });
            let snapshot = repository.backup("s", source.path(), &more);
            assert_eq!(snapshot.problems, Vec::<Value>::new(), "{more}");
            assert_is_image(&read_back(&repository, &snapshot), source.path());
        }
        assert_checks(&repository);
    }
}

#[test]
fn the_first_data_packs_are_small_so_that_the_store_has_something_to_do() {
    let source = tempfile::tempdir().unwrap();
    for number in 0..230 {
        fs::write(source.path().join(number.to_string()), noise(number, 100_000)).unwrap();
    }
    let mut repository = Repository::new(32 << 10);
    let order = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&order);
    *repository.store.on_put.lock().unwrap() =
        Some(Box::new(move |key| log.lock().unwrap().push(key.to_owned())));
    repository.backup("s", source.path(), &json!({"pack_bytes": 4 << 20}));
    let order = order.lock().unwrap().clone();
    let size = |key: &String| repository.store.get(key).unwrap().len();
    let sizes: Vec<_> = order.iter().filter(|key| key.contains("/data/")).map(size).collect();
    let [growing @ .., _last] = sizes.as_slice() else {
        panic!("{sizes:?}");
    };
    let least =
        [3, 3, 4, 6, 8].into_iter().chain(std::iter::repeat(12)).map(|part| (part << 22) / 12);
    assert!(growing.len() >= 7, "{sizes:?}");
    for (size, least) in growing.iter().zip(least) {
        assert!((least..least + (1 << 19)).contains(size), "{least} in {sizes:?}");
    }
}

#[test]
fn what_did_not_change_is_neither_read_nor_stored() {
    let source = tempfile::tempdir().unwrap();
    let mut dice = Dice(77);
    change_tree(&mut dice, source.path(), 150);
    let mut repository = Repository::new(32 << 10);
    let first = repository.backup("s", source.path(), &json!({}));
    // The parent's scan is said to have been later than it was, beyond the doubt about clocks.
    let parent = json!({
        "root": first.result["root"],
        "started_ns": first.started_ns + 60_000_000_000_i64,
    });
    let packs = repository.objects("data/").len();
    let second = repository.backup("s", source.path(), &json!({"parent": parent}));
    let stats = &second.result["stats"];
    for nothing in ["bytes_read", "chunks_new", "pages_new", "packs_stored", "files_new"] {
        assert_eq!(stats[nothing], json!(0), "{nothing}: {stats}");
    }
    assert_eq!(stats["files_changed"], json!(0), "{stats}");
    assert_eq!(first.result["root"], second.result["root"]);
    assert_eq!(repository.objects("data/").len(), packs);
    let forced = repository.backup("s", source.path(), &json!({"force": true}));
    assert_eq!(forced.result["stats"]["chunks_new"], json!(0), "{}", forced.result["stats"]);
    assert_is_image(&read_back(&repository, &forced), source.path());
    assert_checks(&repository);
}

/// Writes a tree anew, with times that say nothing.
fn made_up(large: &[u8], small: &[u8]) -> tempfile::TempDir {
    let source = tempfile::tempdir().unwrap();
    fs::create_dir(source.path().join("dir")).unwrap();
    fs::write(source.path().join("dir/large"), large).unwrap();
    fs::write(source.path().join("small"), small).unwrap();
    for path in ["dir/large", "small", "dir", "."] {
        let file = File::open(source.path().join(path)).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    }
    source
}

#[test]
fn made_up_files_are_the_same_whenever_they_are_written() {
    let mut repository = Repository::new(32 << 10);
    let large = noise(1, 3 << 20);
    let mut backup = |small: &[u8]| {
        repository.backup("s", made_up(&large, small).path(), &json!({"plain": true}))
    };
    let first = backup(b"one");
    let second = backup(b"one");
    // As long as before, and of the same time.
    let third = backup(b"two");
    assert_eq!(first.result["root"], second.result["root"]);
    assert_eq!(second.result["stats"]["bytes_new"], json!(0), "{}", second.result["stats"]);
    assert_ne!(first.result["root"], third.result["root"]);
    let image = read_back(&repository, &third);
    assert_eq!(image[Path::new("small")].1, b"two");
    assert_eq!(image[Path::new("dir/large")].1, large);
    for (path, (node, _)) in &image {
        assert_ne!(node.mode, 0, "{path:?}");
        let plain = Node {
            mode: node.mode,
            digest: node.digest,
            ..Node::new(node.key.clone(), node.body.clone())
        };
        assert_eq!(*node, plain, "{path:?}");
    }
    assert_checks(&repository);
}

#[test]
fn a_directory_says_what_was_left_out_of_it_this_time() {
    let source = tempfile::tempdir().unwrap();
    fs::create_dir_all(source.path().join("dir/cache")).unwrap();
    fs::write(source.path().join("dir/file"), b"content").unwrap();
    let mut repository = Repository::new(32 << 10);
    let mut parent = Value::Null;
    // Nothing in the file system changes, so that the parent's nodes are taken over.
    for excludes in [json!([]), json!(["cache"]), json!(["nothing"])] {
        let more = json!({"excludes": excludes, "parent": parent});
        let snapshot = repository.backup("s", source.path(), &more);
        let is_partial = excludes == json!(["cache"]);
        let image = read_back(&repository, &snapshot);
        for (path, (node, _)) in &image {
            let expected = (is_partial && path == Path::new("dir")).then_some(LeftOut::Entries);
            assert_eq!(node.left_out, expected, "{path:?} {excludes}");
        }
        assert_eq!(image.contains_key(Path::new("dir/cache")), !is_partial);
        let later = snapshot.started_ns + 60_000_000_000_i64;
        parent = json!({"root": snapshot.result["root"], "started_ns": later});
    }
    assert_checks(&repository);
}

#[test]
fn one_file_and_a_stream_are_trees_of_one_node() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let mut content = noise(5, 2_000_000);
    content[300_000..900_000].fill(0);
    fs::write(&path, &content).unwrap();
    let mut repository = Repository::new(64 << 10);
    let file = repository.backup("file", &path, &json!({"kind": "file"}));
    let reader = File::open(&path).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&reader);
    let stream = json!({"kind": "stream", "fd": fd, "path_b64": null});
    let stream = repository.backup("stream", &path, &stream);
    for snapshot in [&file, &stream] {
        let image = read_back(&repository, snapshot);
        assert_eq!(image.len(), 1);
        let (node, bytes) = &image[Path::new("")];
        assert_eq!(node.size(), content.len() as u64);
        assert!(*bytes == content);
        assert_eq!(snapshot.result["root"]["bytes"], json!(content.len()));
    }
    fs::write(&path, b"").unwrap();
    let empty = repository.backup("file", &path, &json!({"kind": "file"}));
    assert_eq!(empty.result["root"]["bytes"], json!(0));
    assert_checks(&repository);
}

#[test]
fn many_small_files_share_chunks() {
    let source = tempfile::tempdir().unwrap();
    for number in 0..3_000_u64 {
        let name = source.path().join(format!("{number:05}"));
        fs::write(name, noise(number + 1, usize::try_from(number % 700).unwrap())).unwrap();
    }
    let mut repository = Repository::new(64 << 10);
    let first = repository.backup("s", source.path(), &json!({}));
    let stats = &first.result["stats"];
    assert_eq!(stats["files"], json!(3_000));
    let chunks = stats["chunks_new"].as_u64().unwrap();
    assert!((10..40).contains(&chunks), "{stats}");
    assert_is_image(&read_back(&repository, &first), source.path());
    assert_checks(&repository);
}

#[test]
fn nothing_at_all_is_a_snapshot_too() {
    let source = tempfile::tempdir().unwrap();
    let mut repository = Repository::new(64 << 10);
    let empty = repository.backup("s", source.path(), &json!({}));
    assert_eq!(read_back(&repository, &empty).len(), 1);
    assert_eq!(empty.result["root"]["nodes"], json!(1));
    assert_checks(&repository);
}

#[test]
fn a_store_that_fails_ends_the_run_with_its_error() {
    let source = tempfile::tempdir().unwrap();
    for number in 0..20 {
        fs::write(source.path().join(number.to_string()), noise(number + 1, 300_000)).unwrap();
    }
    let mut repository = Repository::new(32 << 10);
    // At each put in turn, until there are fewer puts than that.
    for puts in 0..200 {
        repository.store.fail_after(Some(puts));
        let more = json!({"pack_bytes": 300_000});
        let result = repository.try_backup("s", source.path(), &more);
        if let Err(error) = result {
            assert_eq!(error.kind, ErrorKind::Storage, "{error}");
        } else {
            assert!(puts >= 5, "{puts}");
            repository.store.fail_after(None);
            assert_checks(&repository);
            return;
        }
        repository.store.clear();
    }
    panic!("the backup never came through");
}

#[test]
fn a_run_that_broke_off_goes_on_from_its_checkpoint() {
    let source = tempfile::tempdir().unwrap();
    for number in 0..300 {
        fs::write(source.path().join(format!("{number:03}")), noise(number + 1, 5_000)).unwrap();
    }
    for big in ["010-big", "200-big", "zzz-big"] {
        fs::write(source.path().join(big), noise(big.len() as u64, 4_000_000)).unwrap();
    }
    // Where checkpoints fall differs from time to time.
    for _ in 0..5 {
        let mut repository = Repository::new(4 << 10);
        let checkpoints = repository.broken_backup("s", source.path(), &json!({"threads": 1}));
        let last = checkpoints.last().expect("no checkpoint came");
        let resume = json!({"root": last["root"], "started_ns": i64::MAX});
        let resumed = repository.backup("s", source.path(), &json!({"resume": resume}));
        assert_eq!(resumed.problems, Vec::<Value>::new());
        let image = read_back(&repository, &resumed);
        assert_is_image(&image, source.path());
        assert_checks(&repository);
        let total = fs::metadata(source.path().join("zzz-big")).unwrap().len() * 3 + 1_500_000;
        let read = resumed.result["stats"]["bytes_read"].as_u64().unwrap();
        assert!(read < total, "{read} of {total} bytes read again: {last}");
        println!("{read} of {total} bytes read again");
    }
}

#[test]
fn a_checkpoint_is_made_as_soon_as_there_is_something_to_make_it_of() {
    let source = tempfile::tempdir().unwrap();
    for number in 0..100 {
        fs::write(source.path().join(format!("{number:03}")), noise(number + 1, 5_000)).unwrap();
    }
    let mut repository = Repository::new(4 << 10);
    let checkpoints = repository.backup_asked_first("s", source.path(), &json!({}));
    assert_eq!(checkpoints.len(), 1, "{checkpoints:?}");
    assert!(checkpoints[0]["root"]["nodes"].as_u64().unwrap() > 0, "{checkpoints:?}");
}

#[test]
fn a_run_goes_on_inside_a_large_file() {
    let source = tempfile::tempdir().unwrap();
    let size = 40_000_000;
    fs::write(source.path().join("big"), noise(1, size)).unwrap();
    let mut repository = Repository::new(32 << 10);
    let checkpoints = repository.broken_backup("s", source.path(), &json!({"threads": 1}));
    let root = &checkpoints.last().expect("no checkpoint came")["root"];
    println!("{} checkpoints, the one in the middle: {root}", checkpoints.len());
    assert_eq!(root["nodes"], json!(2), "{root}");
    let resume = json!({"root": root, "started_ns": i64::MAX});
    let resumed = repository.backup("s", source.path(), &json!({"resume": resume}));
    let read = resumed.result["stats"]["bytes_read"].as_u64().unwrap();
    assert!(read < size as u64, "all of it was read again");
    assert_is_image(&read_back(&repository, &resumed), source.path());
    assert_checks(&repository);
}

#[test]
fn a_parent_that_is_lost_costs_time_and_no_files() {
    let source = tempfile::tempdir().unwrap();
    change_tree(&mut Dice(5), source.path(), 150);
    let mut repository = Repository::new(32 << 10);
    let first = repository.backup("s", source.path(), &json!({}));
    // As after a repair that found no pack of the first run any more.
    repository.forget_runs();
    repository.snapshots.clear();
    let parent = json!({"root": first.result["root"], "started_ns": i64::MAX});
    let second = repository.backup("s", source.path(), &json!({"parent": parent}));
    assert_eq!(second.problems.len(), 1, "{:?}", second.problems);
    assert_is_image(&read_back(&repository, &second), source.path());
    assert_checks(&repository);

    // Packs of content are gone, those of the tree are not: what they held is read again.
    let meta: Vec<_> = repository.objects("meta/");
    let big = noise(900, 500_000);
    fs::write(source.path().join("big"), &big).unwrap();
    let third = repository.backup("s", source.path(), &json!({"pack_bytes": 300_000}));
    assert!(repository.objects("meta/").len() > meta.len());
    let dead = repository.packs_of_last_run("data/");
    assert!(!dead.is_empty());
    let parent = json!({"root": third.result["root"], "started_ns": i64::MAX});
    let mut index = repository.index();
    index["dead"] = json!(dead);
    let fourth = repository.backup("s", source.path(), &json!({"parent": parent, "index": index}));
    assert_eq!(fourth.problems.len(), 1, "{:?}", fourth.problems);
    assert!(fourth.result["stats"]["bytes_new"].as_u64().unwrap() >= big.len() as u64);
    repository.dead = dead;
    repository.snapshots.retain(|snapshot| snapshot.id == fourth.id);
    assert_is_image(&read_back(&repository, &fourth), source.path());
    assert_checks(&repository);
}

#[test]
fn more_readers_than_buffers_do_not_wait_for_each_other() {
    let (ended, end) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let source = tempfile::tempdir().unwrap();
        for number in 0..12 {
            fs::write(source.path().join(number.to_string()), noise(number + 1, 12_000_000))
                .unwrap();
        }
        let mut repository = Repository::new(64 << 10);
        let more = json!({"readers": 12, "memory_bytes": 64 << 20});
        let snapshot = repository.backup("s", source.path(), &more);
        assert_eq!(snapshot.result["stats"]["files"], json!(12));
        ended.send(()).unwrap();
    });
    let outcome = end.recv_timeout(std::time::Duration::from_secs(120));
    assert!(outcome.is_ok(), "the readers wait for each other");
    thread.join().unwrap();
}

#[test]
fn a_run_that_is_gone_costs_a_backup_deduplication_and_a_reader_its_view() {
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("file"), noise(1, 300_000)).unwrap();
    let mut repository = Repository::new(32 << 10);
    repository.backup("s", source.path(), &json!({}));
    let mut index = repository.index();
    let gone = json!({"name": format!("{:016x}-{:032x}", 1, 7), "size": 4096});
    index["runs"].as_array_mut().unwrap().push(gone);
    let again = repository.backup("s", source.path(), &json!({"index": index, "force": true}));
    assert_eq!(again.result["stats"]["chunks_new"], json!(0));
    let options = parse(index);
    repository.serve(|scope| {
        let error = Index::load(scope, &options, 1 << 30).err().unwrap();
        assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
        assert!(!Index::load_present(scope, &options, 1 << 30).unwrap().is_empty());
    });
}

#[test]
fn nothing_is_deduplicated_against_runs_of_a_revoked_principal() {
    check_revoked(false);
}

#[test]
fn a_merge_does_not_vouch_for_what_a_revoked_principal_stored() {
    check_revoked(true);
}

fn check_revoked(is_merged: bool) {
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("file"), noise(1, 300_000)).unwrap();
    let mut repository = Repository::new(32 << 10);
    let scopes = vec![IssueScope { scope: repository.scope, sources: None }];
    let request = IssueRequest { role: Role::Writer, label: String::new(), scopes };
    let (file, secret) = repository.owner.issue(&request).unwrap();
    let config = repository.owner.config().clone();
    let writer = Keyring::unlock_secret(config, &file, secret.to_bytes().as_slice()).unwrap();
    let owner =
        std::mem::replace(&mut repository.keys, Arc::new(writer.scope(&repository.scope).unwrap()));
    let first = repository.backup("s", source.path(), &json!({}));
    repository.keys = owner;
    if is_merged {
        let options = parse(repository.options(json!({"gen": 1})));
        let (merged, _) = repository.serve(|scope| merge(scope, &options).unwrap());
        repository.replace_runs(merged.runs);
    }
    let revoked = Revoked { principal: writer.principal(), sequences: BTreeMap::new() };
    let config = repository.owner.config_with_revoked(revoked).unwrap();
    repository.owner.set_config(Config::parse(&config, None).unwrap()).unwrap();
    repository.keys = Arc::new(repository.owner.scope(&repository.scope).unwrap());
    let second = repository.backup("s", source.path(), &json!({}));
    assert_eq!(second.result["stats"]["chunks_new"], first.result["stats"]["chunks_new"]);
    assert_eq!(second.result["stats"]["errors"], json!(0));
    let told: Vec<_> = second.problems.iter().map(|told| &told["is_note"]).collect();
    assert_eq!(told, [&json!(true)], "{:?}", second.problems);
    // Also where the runs are too large to be held.
    let (options, root): (_, RootJson) =
        (parse(repository.index()), parse(second.result["root"].clone()));
    let page = Root::try_from(&root).unwrap().page.short();
    repository.serve(|scope| {
        let places = |index: Index| index.lookup_all(&page).unwrap().len();
        let trusted = Index::load_trusted(scope, &options, 0).unwrap();
        assert_eq!((places(trusted), places(Index::load(scope, &options, 0).unwrap())), (1, 2));
    });
    // What the owner stored is built upon, with a parent or without.
    for more in [json!({}), json!({"parent": null})] {
        let third = repository.backup("s", source.path(), &more);
        assert_eq!(third.result["stats"]["chunks_new"], json!(0));
        assert_eq!(third.problems, Vec::<Value>::new());
    }
    assert_is_image(&read_back(&repository, &first), source.path());
}

/// Flips a byte of a page as it lies in its pack, and with it the 64 KiB around.
fn damage_page(repository: &Repository, id: Id) {
    let options = parse(repository.index());
    let ((name, offset), _) = repository.serve(|scope| {
        let index = Index::load(scope, &options, 1 << 30).unwrap();
        let place = index.lookup(&id.short()).unwrap().unwrap();
        (index.pack(&place).unwrap().name, place.offset())
    });
    let name = format!("{:032x}", u128::from_be_bytes(name));
    let key = repository.objects("meta/").into_iter().find(|key| key.ends_with(&name)).unwrap();
    let mut bytes = repository.store.get(&key).unwrap();
    let at = 80 + usize::try_from(offset + offset / 65_536 * 16).unwrap();
    bytes[at] ^= 1;
    repository.store.replace(&key, bytes);
}

#[test]
fn damaged_pages_of_the_parent_are_stored_again() {
    let source = tempfile::tempdir().unwrap();
    let path = source.path().join("big");
    fs::write(&path, noise(3, 16_000_000)).unwrap();
    let mut repository = Repository::new(4 << 10);
    let later = |snapshot: &Snapshot| {
        let started_ns = snapshot.started_ns + 60_000_000_000_i64;
        json!({"parent": {"root": snapshot.result["root"], "started_ns": started_ns}})
    };
    let first = repository.backup("s", source.path(), &json!({}));
    let (node, _) = &read_back(&repository, &first)[Path::new("big")];
    let Body::File { content: Content::Pages { refs, .. }, .. } = &node.body else {
        panic!("its extents have no pages")
    };
    damage_page(&repository, refs[0].0);
    let second = repository.backup("s", source.path(), &later(&first));
    assert_eq!(second.problems.len(), 1, "{:?}", second.problems);
    assert_eq!(second.problems[0]["path"], json!("big"));
    assert_is_image(&read_back(&repository, &second), source.path());

    // The page at the top: without the file's attributes nothing is the same.
    let root: RootJson = parse(second.result["root"].clone());
    damage_page(&repository, Root::try_from(&root).unwrap().page);
    let third = repository.backup("s", source.path(), &later(&second));
    assert_eq!(third.problems.len(), 1, "{:?}", third.problems);
    assert_eq!(third.result["root"], second.result["root"]);
    assert_is_image(&read_back(&repository, &third), source.path());
}

#[test]
fn small_files_in_doubt_that_are_the_same_stay_where_they_are() {
    let source = tempfile::tempdir().unwrap();
    let name = |number: u64| source.path().join(format!("{number:05}"));
    for number in 0..500 {
        fs::write(name(number), noise(number + 1, 700)).unwrap();
    }
    let mut repository = Repository::new(32 << 10);
    let first = repository.backup("s", source.path(), &json!({}));
    fs::remove_file(name(250)).unwrap();
    let touched = File::options().write(true).open(name(251)).unwrap();
    touched.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    fs::write(name(300), noise(9000, 700)).unwrap();
    // All are too young for their times to say anything.
    let second = repository.backup("s", source.path(), &json!({}));
    let stats = &second.result["stats"];
    assert_eq!(stats["bytes_read"], json!(499 * 700));
    assert_eq!((&stats["chunks_new"], &stats["bytes_new"]), (&json!(1), &json!(700)));
    assert_eq!((&stats["files_changed"], &stats["files_unmodified"]), (&json!(2), &json!(497)));
    let (before, after) = (read_back(&repository, &first), read_back(&repository, &second));
    for (path, (node, _)) in &after {
        let is_same = node.body == before[path].0.body;
        assert_eq!(is_same, *path != Path::new("00300"), "{path:?}");
    }
    assert_is_image(&after, source.path());
    assert_checks(&repository);
}

#[test]
fn every_name_of_a_new_or_changed_file_counts_as_such() {
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("a"), b"content").unwrap();
    for name in ["b", "c"] {
        fs::hard_link(source.path().join("a"), source.path().join(name)).unwrap();
    }
    let mut repository = Repository::new(32 << 10);
    let count = |snapshot: &Snapshot| {
        ["files_new", "files_changed", "files_unmodified"]
            .map(|name| snapshot.result["stats"][name].as_u64().unwrap())
    };
    let first = repository.backup("s", source.path(), &json!({}));
    assert_eq!(count(&first), [3, 0, 0]);
    fs::write(source.path().join("b"), b"other content").unwrap();
    assert_eq!(count(&repository.backup("s", source.path(), &json!({}))), [0, 3, 0]);
    assert_eq!(count(&repository.backup("s", source.path(), &json!({}))), [0, 0, 3]);
}

#[test]
fn another_name_of_a_file_is_kept_when_its_first_name_goes() {
    let source = tempfile::tempdir().unwrap();
    let name = |name: &str| source.path().join(name);
    // One reader, busy with this file until packs of it are stored.
    fs::write(name("a"), noise(1, 24_000_000)).unwrap();
    fs::write(name("b1"), noise(2, 100_000)).unwrap();
    fs::hard_link(name("b1"), name("b2")).unwrap();
    let mut repository = Repository::new(64 << 10);
    let first = name("b1");
    *repository.store.on_put.lock().unwrap() = Some(Box::new(move |key| {
        if key.contains("/data/") && first.exists() {
            fs::remove_file(&first).unwrap();
        }
    }));
    let snapshot = repository.backup("s", source.path(), &json!({"readers": 1}));
    assert_eq!(snapshot.problems.len(), 1, "{:?}", snapshot.problems);
    assert_eq!(snapshot.problems[0]["path"], json!("b1"));
    let image = read_back(&repository, &snapshot);
    assert!(image.get(Path::new("b2")).is_some_and(|(_, bytes)| *bytes == noise(2, 100_000)));
    assert!(!image.contains_key(Path::new("b1")));
    assert_checks(&repository);
}

#[test]
fn a_directory_that_cannot_be_opened_is_no_empty_one() {
    let source = tempfile::tempdir().unwrap();
    let closed = source.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("file"), b"content").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read_dir(&closed).is_ok() {
        println!("skipped: this user may open every directory");
        return;
    }
    let mut repository = Repository::new(64 << 10);
    // The second time the parent has it: it is not taken over as if it were known.
    for _ in 0..2 {
        let snapshot = repository.backup("s", source.path(), &json!({}));
        assert_eq!(snapshot.problems.len(), 1, "{:?}", snapshot.problems);
        let (node, _) = &read_back(&repository, &snapshot)[Path::new("closed")];
        assert!(node.unreadable, "{node:?}");
    }
    assert_checks(&repository);
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let snapshot = repository.backup("s", source.path(), &json!({}));
    assert_is_image(&read_back(&repository, &snapshot), source.path());
}

/// Other bytes of the same length and with the same mtime.
fn change_unseen(path: &Path, seed: u64) {
    let before = fs::metadata(path).unwrap();
    let length = usize::try_from(before.len()).unwrap();
    let mut content = fs::read(path).unwrap();
    content[length / 2..].copy_from_slice(&noise(seed, length - length / 2));
    fs::write(path, content).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
}

/// Compares with this snapshot, whose scan is said to have been later than it was, beyond all doubt
/// about clocks; with more options.
fn after(snapshot: &Snapshot, more: &Value) -> Value {
    let started_ns = snapshot.started_ns + 60_000_000_000_i64;
    let mut options = more.clone();
    options["parent"] = json!({"root": snapshot.result["root"], "started_ns": started_ns});
    options
}

fn recheck(percent: f64, seed: u64) -> Value {
    json!({"recheck": {"percent": percent, "seed": seed}, "ignore_ctime": true})
}

#[test]
fn what_changed_without_a_trace_is_found_by_the_share_that_is_read() {
    let source = tempfile::tempdir().unwrap();
    for number in 0..50 {
        fs::write(source.path().join(format!("{number:02}")), noise(number + 1, 1_000)).unwrap();
    }
    fs::write(source.path().join("large"), noise(99, 3_000_000)).unwrap();
    let mut repository = Repository::new(32 << 10);
    let first = repository.backup("s", source.path(), &json!({}));
    // All of it, and nothing changed: nothing is said, and the tree is the same.
    let second = repository.backup("s", source.path(), &after(&first, &recheck(100.0, 1)));
    assert_eq!(second.problems, Vec::<Value>::new());
    assert_eq!(second.result["root"], first.result["root"]);
    let stats = &second.result["stats"];
    assert_eq!((&stats["bytes_read"], &stats["files_changed"]), (&json!(3_050_000), &json!(0)));

    for name in ["07", "large"] {
        change_unseen(&source.path().join(name), 1234);
    }
    let unseen = json!({"ignore_ctime": true});
    let blind = repository.backup("s", source.path(), &after(&first, &unseen));
    assert_eq!((blind.problems.len(), &blind.result["stats"]["bytes_read"]), (0, &json!(0)));
    let found = repository.backup("s", source.path(), &after(&first, &recheck(100.0, 1)));
    let mut paths: Vec<_> = found.problems.iter().map(|problem| &problem["path"]).collect();
    paths.sort_by_key(ToString::to_string);
    assert_eq!(paths, [&json!("07"), &json!("large")], "{:?}", found.problems);
    assert_eq!(found.result["stats"]["files_changed"], json!(2));
    assert_is_image(&read_back(&repository, &found), source.path());

    // A part, by seed: the same part with the same seed.
    let read = |repository: &mut Repository, seed| {
        let part = after(&found, &recheck(30.0, seed));
        let part = repository.backup("s", source.path(), &part);
        part.result["stats"]["bytes_read"].as_u64().unwrap() % 1_000_000
    };
    let parts: Vec<u64> = (0..8).map(|seed| read(&mut repository, seed)).collect();
    assert_eq!(parts[3], read(&mut repository, 3));
    assert!(parts.iter().all(|part| (1_000..=40_000).contains(part)), "{parts:?}");
    assert!(parts.iter().any(|part| *part != parts[0]), "{parts:?}");
    assert_checks(&repository);
}

#[test]
fn a_source_of_one_file_is_rechecked_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    fs::write(&path, noise(5, 2_000_000)).unwrap();
    let mut repository = Repository::new(64 << 10);
    let file = |more: Value| {
        let mut more = more;
        more["kind"] = json!("file");
        more
    };
    let first = repository.backup("file", &path, &file(json!({})));
    let options = file(after(&first, &recheck(100.0, 1)));
    let second = repository.backup("file", &path, &options);
    assert_eq!(second.result["root"], first.result["root"]);
    assert_eq!(second.result["stats"]["files_unmodified"], json!(1));
    change_unseen(&path, 6);
    let third = repository.backup("file", &path, &options);
    assert_eq!(third.problems.len(), 1, "{:?}", third.problems);
    assert!(read_back(&repository, &third)[Path::new("")].1 == fs::read(&path).unwrap());
}

/// A copy of a flat directory that keeps names, sizes and mtimes.
fn copy_flat(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let copy = to.join(entry.file_name());
        fs::copy(entry.path(), &copy).unwrap();
        let modified = entry.metadata().unwrap().modified().unwrap();
        File::options().write(true).open(&copy).unwrap().set_modified(modified).unwrap();
    }
}

#[test]
fn a_clone_is_compared_by_size_and_mtime() {
    let source = tempfile::tempdir().unwrap();
    for number in 0..100 {
        let size = if number % 10 == 0 { 200_000 } else { 1_000 };
        fs::write(source.path().join(format!("{number:02}")), noise(number + 1, size)).unwrap();
    }
    let mut repository = Repository::new(32 << 10);
    let first = repository.backup("s", source.path(), &json!({}));
    let clone = tempfile::tempdir().unwrap();
    copy_flat(source.path(), clone.path());
    fs::write(clone.path().join("07"), noise(777, 1_500)).unwrap();
    fs::set_permissions(clone.path().join("08"), fs::Permissions::from_mode(0o751)).unwrap();
    let detect = json!({"detect_clones": true});

    let whole = repository.backup("s", clone.path(), &after(&first, &json!({})));
    assert_eq!(whole.result["clone"], Value::Null);
    assert_eq!(whole.result["stats"]["bytes_read"], json!(10 * 200_000 + 89 * 1_000 + 1_500));

    let second = repository.backup("s", clone.path(), &after(&first, &detect));
    let evidence = &second.result["clone"];
    assert_eq!((&evidence["compared"], &evidence["other_inode"]), (&json!(99), &json!(99)));
    let told: Vec<_> = second.problems.iter().map(|told| &told["is_note"]).collect();
    assert_eq!(told, [&json!(true)], "{:?}", second.problems);
    let stats = &second.result["stats"];
    let counts = ["errors", "files_unmodified", "files_changed"].map(|name| stats[name].clone());
    assert_eq!(counts, [json!(0), json!(99), json!(1)]);
    // A part of the files was read to be sure, but not the whole.
    assert!(stats["bytes_read"].as_u64().unwrap() < 1_000_000, "{stats}");
    // Attributes too, one by one.
    assert_is_image(&read_back(&repository, &second), clone.path());

    // From then on its own inodes are known.
    let third = repository.backup("s", clone.path(), &after(&second, &detect));
    assert_eq!(third.result["clone"], Value::Null);
    assert_eq!(third.result["stats"]["bytes_read"], json!(0));
    // Another clone, in which a file changed without a trace that is none of those looked at first.
    let other = tempfile::tempdir().unwrap();
    copy_flat(clone.path(), other.path());
    change_unseen(&other.path().join("03"), 4321);
    let mut options = after(&third, &detect);
    options["recheck"] = json!({"percent": 100.0, "seed": 1});
    let fourth = repository.backup("s", other.path(), &options);
    let paths: Vec<_> = fourth.problems.iter().map(|told| &told["path"]).collect();
    assert_eq!(paths, [&Value::Null, &json!("03")]);
    assert_is_image(&read_back(&repository, &fourth), other.path());
    assert_checks(&repository);
}

#[test]
fn what_only_looks_like_a_clone_is_read() {
    let source = tempfile::tempdir().unwrap();
    for number in 0..100 {
        fs::write(source.path().join(format!("{number:02}")), noise(number + 1, 1_000)).unwrap();
    }
    let mut repository = Repository::new(32 << 10);
    let first = repository.backup("s", source.path(), &json!({}));
    // Edited in place, all of them, by a tool that sets the mtime back.
    for number in 0..100 {
        change_unseen(&source.path().join(format!("{number:02}")), number + 1_000);
    }
    let detect = json!({"detect_clones": true});
    let second = repository.backup("s", source.path(), &after(&first, &detect));
    assert_eq!((&second.result["clone"], second.problems.len()), (&Value::Null, 0));
    assert_is_image(&read_back(&repository, &second), source.path());

    // Too few files to conclude anything from.
    let few = tempfile::tempdir().unwrap();
    for number in 0..15 {
        fs::write(few.path().join(number.to_string()), noise(number + 1, 1_000)).unwrap();
    }
    let first = repository.backup("few", few.path(), &json!({}));
    let copy = tempfile::tempdir().unwrap();
    copy_flat(few.path(), copy.path());
    let second = repository.backup("few", copy.path(), &after(&first, &detect));
    assert_eq!(second.result["clone"], Value::Null);
    assert_eq!(second.result["stats"]["bytes_read"], json!(15_000));
}

#[test]
fn a_file_that_seems_unchanged_and_cannot_be_opened_keeps_what_is_stored() {
    let source = tempfile::tempdir().unwrap();
    let path = source.path().join("file");
    fs::write(&path, b"content").unwrap();
    let mut repository = Repository::new(32 << 10);
    let first = repository.backup("s", source.path(), &json!({}));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if File::open(&path).is_ok() {
        println!("skipped: this user may open every file");
        return;
    }
    for options in [json!({"ignore_ctime": true}), recheck(100.0, 1)] {
        let second = repository.backup("s", source.path(), &after(&first, &options));
        assert_eq!(second.problems.len(), 1, "{:?}", second.problems);
        let (node, content) = &read_back(&repository, &second)[Path::new("file")];
        assert_eq!((node.unreadable, node.mode), (false, 0));
        assert_eq!(content, b"content");
    }
}

#[test]
fn files_in_chunks_that_are_mostly_unused_are_stored_again() {
    let source = tempfile::tempdir().unwrap();
    let name = |number: u64| source.path().join(format!("{number:05}"));
    for number in 0..2_000 {
        fs::write(name(number), noise(number + 1, 1_000)).unwrap();
    }
    let mut repository = Repository::new(256 << 10);
    let first = repository.backup("s", source.path(), &json!({}));
    for number in (0..2_000).filter(|number| number % 10 != 0) {
        fs::remove_file(name(number)).unwrap();
    }
    let repack = json!({"repack": true});
    // The parent uses all of each chunk; nor is anything done where it is not asked for.
    let thin = repository.backup("s", source.path(), &after(&first, &repack));
    assert_eq!(thin.result["stats"]["bytes_new"], json!(0));
    let thin = repository.backup("s", source.path(), &after(&thin, &json!({})));
    assert_eq!(thin.result["stats"]["bytes_new"], json!(0));
    let packed = repository.backup("s", source.path(), &after(&thin, &repack));
    let stats = &packed.result["stats"];
    assert_eq!(stats["files_unmodified"], json!(200));
    // All but those in the last chunk, which is too short to be worth it.
    let new = stats["bytes_new"].as_u64().unwrap();
    assert!((150_000..=200_000).contains(&new), "{stats}");
    assert!(packed.result["counts"]["chunks"].as_u64().unwrap() <= 2, "{}", packed.result);
    assert!(thin.result["counts"]["chunks"].as_u64().unwrap() >= 6, "{}", thin.result);
    assert_is_image(&read_back(&repository, &packed), source.path());
    // Then they lie well.
    let last = repository.backup("s", source.path(), &after(&packed, &repack));
    assert_eq!(last.result["stats"]["bytes_read"], json!(0));
    assert_checks(&repository);
}
