//! `list`, `find`, `diff` and `stats` over snapshots that a backup made.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by it, and helpers of tests are not seen as such"
)]

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use pvback_core::ErrorKind;
use pvback_core::look::diff::{DiffResult, diff};
use pvback_core::look::find::{FindResult, find};
use pvback_core::look::list::{ListResult, list};
use pvback_core::look::stats::{StatsResult, stats};
use serde_json::{Value, json};
use support::{Repository, Snapshot, json_of, noise, parse, path_of};

const AVERAGE: u64 = 64 << 10;

fn populate(root: &Path) {
    fs::create_dir_all(root.join("dir/sub/deep")).unwrap();
    fs::create_dir(root.join("dir.d")).unwrap();
    fs::write(root.join("big"), noise(1, 700_000)).unwrap();
    fs::write(root.join("dir/a"), noise(2, 10_000)).unwrap();
    fs::write(root.join("dir/b"), b"").unwrap();
    fs::write(root.join("dir/sub/c"), noise(3, 5_000)).unwrap();
    fs::write(root.join("dir/sub/deep/d"), noise(4, 100)).unwrap();
    fs::write(root.join("dir.d/e"), noise(5, 100)).unwrap();
    fs::hard_link(root.join("dir/a"), root.join("dir/linked")).unwrap();
    symlink("dir/a", root.join("link")).unwrap();
    fs::set_permissions(root.join("big"), fs::Permissions::from_mode(0o640)).unwrap();
}

fn listing(repository: &Repository, snapshot: &Snapshot, more: &Value) -> (Vec<Value>, ListResult) {
    let mut options = repository.options(snapshot.tree());
    for (name, value) in more.as_object().unwrap() {
        options[name] = value.clone();
    }
    let options = parse(options);
    let (result, outputs) = repository.serve(|scope| list(scope, &options));
    (json_of(&outputs, "rows"), result.unwrap())
}

fn paths(rows: &[Value]) -> Vec<String> {
    rows.iter().map(path_of).collect()
}

#[test]
fn list_gives_children_or_all_below() {
    let source = tempfile::tempdir().unwrap();
    populate(source.path());
    let mut repository = Repository::new(AVERAGE);
    let snapshot = repository.backup("s", source.path(), &json!({}));
    assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);

    let (rows, result) = listing(&repository, &snapshot, &json!({}));
    assert_eq!(paths(&rows), ["big", "dir", "dir.d", "link"]);
    assert_eq!(result.nodes, 4);
    let big = &rows[0];
    assert_eq!(
        (&big["kind"], &big["size"], &big["mode"]),
        (&json!("file"), &json!(700_000), &json!(0o640))
    );
    assert!(big["mtime_ns"].as_i64().unwrap() > 1_600_000_000_000_000_000);
    assert_eq!(rows[3]["target_b64"], json!(BASE64.encode("dir/a")));
    assert!(big.get("xattrs").is_none());

    let dir = json!({"subtree_b64": BASE64.encode("/dir/")});
    let (rows, _) = listing(&repository, &snapshot, &dir);
    assert_eq!(paths(&rows), ["dir/a", "dir/b", "dir/linked", "dir/sub"]);
    assert_eq!(rows[0]["links"], rows[2]["links"]);
    assert!(rows[0]["links"].is_u64() && rows[1].get("links").is_none());

    let below = json!({"subtree_b64": BASE64.encode("dir"), "recursive": true, "long": true});
    let (rows, _) = listing(&repository, &snapshot, &below);
    let all = [
        "dir",
        "dir/a",
        "dir/b",
        "dir/linked",
        "dir/sub",
        "dir/sub/c",
        "dir/sub/deep",
        "dir/sub/deep/d",
    ];
    assert_eq!(paths(&rows), all);
    assert!(rows[0]["xattrs"].is_object());

    let file = json!({"subtree_b64": BASE64.encode("dir/sub/c")});
    let (rows, _) = listing(&repository, &snapshot, &file);
    assert_eq!(paths(&rows), ["dir/sub/c"]);

    for missing in ["di", "dir/x", "zzz", "dir/a/b"] {
        let mut options = repository.options(snapshot.tree());
        options["subtree_b64"] = json!(BASE64.encode(missing));
        let options = parse(options);
        let (result, _) = repository.serve(|scope| list(scope, &options));
        assert_eq!(result.unwrap_err().kind, ErrorKind::NotFound, "{missing}");
    }
}

#[test]
fn rows_come_in_bounded_batches() {
    let source = tempfile::tempdir().unwrap();
    for number in 0..1_000 {
        fs::write(source.path().join(format!("{number:04}")), b"x").unwrap();
    }
    let mut repository = Repository::new(AVERAGE);
    let snapshot = repository.backup("s", source.path(), &json!({}));
    let options = parse(repository.options(snapshot.tree()));
    let (result, outputs) = repository.serve(|scope| list(scope, &options));
    assert_eq!(result.unwrap().nodes, 1_000);
    assert!(outputs.len() >= 4);
    for (_, batch) in &outputs {
        assert!(batch.len() <= 64 << 10);
        assert!(batch.split(|byte| *byte == b'\n').count() <= 257);
        assert_eq!(batch.last(), Some(&b'\n'));
    }
    assert_eq!(json_of(&outputs, "rows").len(), 1_000);
}

#[test]
fn find_matches_paths_and_kinds() {
    let source = tempfile::tempdir().unwrap();
    populate(source.path());
    let mut repository = Repository::new(AVERAGE);
    let snapshot = repository.backup("s", source.path(), &json!({}));
    let search = |more: Value| -> (Vec<String>, FindResult) {
        let mut options = repository.options(snapshot.tree());
        options["snapshot"] = json!(snapshot.id);
        for (name, value) in more.as_object().unwrap() {
            options[name] = value.clone();
        }
        let options = parse(options);
        let (result, outputs) = repository.serve(|scope| find(scope, &options));
        let rows = json_of(&outputs, "rows");
        assert!(rows.iter().all(|row| row["snapshot"] == json!(snapshot.id)));
        (paths(&rows), result.unwrap())
    };
    let (found, result) = search(json!({"patterns": ["?"]}));
    assert_eq!(found, ["dir/a", "dir/b", "dir/sub/c", "dir/sub/deep/d", "dir.d/e"]);
    assert_eq!((result.matches, result.nodes), (5, 13));
    assert_eq!(search(json!({"patterns": ["/dir*"]})).0, ["dir", "dir.d"]);
    let links = json!({"patterns": ["**"], "kinds": ["symlink"]});
    assert_eq!(search(links).0, ["link"]);
    for bad in [json!({"patterns": ["a"], "kinds": ["fish"]}), json!({"patterns": ["a["]})] {
        let mut options = repository.options(snapshot.tree());
        options["patterns"] = bad["patterns"].clone();
        options["kinds"] = bad.get("kinds").cloned().unwrap_or(json!([]));
        let options = parse(options);
        let (result, _) = repository.serve(|scope| find(scope, &options));
        assert_eq!(result.unwrap_err().kind, ErrorKind::Usage);
    }
}

fn changes(repository: &Repository, old: &Snapshot, new: &Snapshot) -> (Vec<Value>, DiffResult) {
    let options = parse(repository.options(json!({"old": old.tree(), "new": new.tree()})));
    let (result, outputs) = repository.serve(|scope| diff(scope, &options));
    (json_of(&outputs, "rows"), result.unwrap())
}

#[test]
fn diff_says_what_changed_and_how() {
    let source = tempfile::tempdir().unwrap();
    let root = source.path();
    populate(root);
    let mut repository = Repository::new(AVERAGE);
    let old = repository.backup("s", root, &json!({}));
    fs::write(root.join("big"), noise(9, 600_000)).unwrap();
    fs::set_permissions(root.join("dir/b"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(root.join("new"), noise(6, 50)).unwrap();
    fs::remove_file(root.join("dir.d/e")).unwrap();
    fs::remove_file(root.join("dir/sub/c")).unwrap();
    fs::create_dir(root.join("dir/sub/c")).unwrap();
    let new = repository.backup("s", root, &json!({}));

    let (rows, totals) = changes(&repository, &old, &new);
    let seen: Vec<(String, &str)> =
        rows.iter().map(|row| (path_of(row), row["change"].as_str().unwrap())).collect();
    let expected = [
        ("", "attributes"),
        ("big", "content"),
        ("dir/b", "attributes"),
        ("dir/sub", "attributes"),
        ("dir/sub/c", "kind"),
        ("dir.d", "attributes"),
        ("dir.d/e", "removed"),
        ("new", "added"),
    ];
    assert_eq!(seen, expected.map(|(path, change)| (path.to_owned(), change)));
    let by_path = |path: &str| rows.iter().find(|row| path_of(row) == path).unwrap();
    assert_eq!(by_path("big")["old_size"], json!(700_000));
    assert_eq!(by_path("big")["new_size"], json!(600_000));
    assert_eq!(by_path("dir/b")["attributes"], json!(["mode", "ctime"]));
    assert_eq!(by_path("new")["old_size"], Value::Null);
    let expected = DiffResult {
        added: 1,
        removed: 1,
        changed: 6,
        content: 1,
        attributes: 4,
        kind: 1,
        bytes_added: 50,
        bytes_removed: 100,
        bytes_changed_old: 705_000,
        bytes_changed_new: 600_000,
    };
    assert_eq!(totals, expected);
    assert_eq!(changes(&repository, &new, &new), (Vec::new(), DiffResult::default()));

    // The same files as another source: other pages, equal nodes.
    let other = repository.backup("other", root, &json!({}));
    assert_eq!(changes(&repository, &new, &other), (Vec::new(), DiffResult::default()));
    let (rows, totals) = changes(&repository, &old, &other);
    assert_eq!(rows.len(), 8);
    assert_eq!(totals, expected);
}

#[test]
fn stats_count_what_is_there() {
    let source = tempfile::tempdir().unwrap();
    populate(source.path());
    let mut repository = Repository::new(AVERAGE);
    let first = repository.backup("s", source.path(), &json!({}));
    fs::write(source.path().join("more"), noise(7, 300_000)).unwrap();
    let second = repository.backup("s", source.path(), &json!({}));
    let count = |mode: &str, snapshots: &[&Snapshot]| -> (Value, Vec<Value>) {
        let list: Vec<Value> = snapshots.iter().map(|snapshot| snapshot.to_json()).collect();
        let options = parse(repository.options(json!({"mode": mode, "snapshots": list})));
        let (result, outputs) = repository.serve(|scope| stats(scope, &options));
        let result: StatsResult = result.unwrap();
        (serde_json::to_value(result).unwrap(), json_of(&outputs, "rows"))
    };
    let (sizes, rows) = count("restore-size", &[&first, &second]);
    let bytes = 700_000 + 10_000 + 5_000 + 100 + 100;
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0]["bytes"], &rows[1]["bytes"]), (&json!(bytes), &json!(bytes + 300_000)));
    assert_eq!(rows[0]["kinds"]["file"], json!({"count": 7, "bytes": bytes}));
    assert_eq!(rows[0]["kinds"]["directory"]["count"], json!(5));
    assert_eq!((&sizes["nodes"], &sizes["links"]), (&json!(27), &json!(2)));
    assert_eq!(sizes["mode"], json!("restore-size"));

    let (raw, _) = count("raw-data", &[&first]);
    let (both, _) = count("raw-data", &[&first, &second]);
    assert_eq!((&raw["missing"], &both["missing"]), (&json!(0), &json!(0)));
    let stored = raw["chunk_bytes"].as_u64().unwrap();
    let more = both["chunk_bytes"].as_u64().unwrap() - stored;
    assert!((bytes..bytes + 3_000).contains(&stored), "{stored}");
    assert!((300_000..303_000).contains(&more), "{more}");

    let (index, _) = count("index", &[]);
    assert_eq!(index["runs"], json!(2));
    assert_eq!(index["chunk_entries"], both["chunks"]);
    assert_eq!(index["chunk_bytes"], both["chunk_bytes"]);
    assert_eq!(index["page_entries"], both["pages"]);
    let packs = repository.objects("data/").len() as u64;
    assert_eq!(index["data_packs"], json!(packs));
    let stored: u64 = repository.store.list(&repository.key("data/")).iter().map(|(_, b)| b).sum();
    assert_eq!(index["data_bytes"], json!(stored));
}
