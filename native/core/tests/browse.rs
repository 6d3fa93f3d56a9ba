//! `browse`: a job that stays open while the repository changes around it.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by it, and helpers of tests are not seen as such"
)]

mod support;

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use pvback_core::broker::Broker;
use pvback_core::look::browse::Browse;
use pvback_core::{Error, ErrorKind};
use serde_json::{Value, json};
use support::{Repository, Snapshot, noise, parse};

const AVERAGE: u64 = 64 << 10;
const LARGE: usize = 3_000_000;

fn populate(root: &Path) {
    fs::create_dir_all(root.join("dir/inner")).unwrap();
    fs::write(root.join("large"), noise(1, LARGE)).unwrap();
    fs::write(root.join("dir/a"), b"alpha").unwrap();
    fs::hard_link(root.join("dir/a"), root.join("dir/b")).unwrap();
    fs::write(root.join("dir/inner/c"), noise(2, 1000)).unwrap();
    fs::write(root.join("dir.d"), b"sorts between").unwrap();
}

/// Runs `questions` against a job that is open.
fn browsing<T: Send>(repository: &Repository, questions: impl FnOnce(&Browse) -> T + Send) -> T {
    let options = parse(repository.options(json!({"memory_bytes": 16 << 20, "gets": 2})));
    let (answer, _) = repository.serve(|scope| {
        let browse = Browse::new(scope.clone(), options);
        std::thread::scope(|threads| {
            // Also when a question fails its test, which would hang otherwise.
            let _cancelled = CancelAtEnd(&scope.broker);
            threads.spawn(|| browse.run());
            questions(&browse)
        })
    });
    answer
}

struct CancelAtEnd<'a>(&'a Broker);

impl Drop for CancelAtEnd<'_> {
    fn drop(&mut self) {
        self.0.cancel(&Error::new(ErrorKind::Cancelled, "done"));
    }
}

fn ask(browse: &Browse, name: &str, options: &Value) -> Value {
    serde_json::from_str(&browse.command(name, &options.to_string()).unwrap()).unwrap()
}

fn about(snapshot: &Snapshot, path: &str, more: &Value) -> Value {
    let mut question = snapshot.to_json();
    question["path_b64"] = json!(BASE64.encode(path));
    for (name, value) in more.as_object().unwrap() {
        question[name] = value.clone();
    }
    question
}

fn names(listed: &Value) -> Vec<String> {
    let nodes = listed["nodes"].as_array().unwrap().iter();
    let name = |node: &Value| BASE64.decode(node["name_b64"].as_str().unwrap()).unwrap();
    nodes.map(|node| String::from_utf8(name(node)).unwrap()).collect()
}

#[test]
fn entries_come_in_parts_and_ranges_are_those_of_the_file() {
    let source = tempfile::tempdir().unwrap();
    populate(source.path());
    let mut repository = Repository::new(AVERAGE);
    let snapshot = repository.backup("s", source.path(), &json!({}));
    let index = json!({"index": repository.index()});
    browsing(&repository, |browse| {
        let question = about(&snapshot, "dir/a", &json!({})).to_string();
        // It knows nothing of the index until it is told.
        assert_eq!(browse.command("stat", &question).unwrap_err().kind, ErrorKind::Damaged);
        ask(browse, "refresh", &index);
        let listed = ask(browse, "list", &about(&snapshot, "", &json!({"count": 2})));
        assert_eq!(
            (names(&listed), &listed["is_end"]),
            (vec!["dir".into(), "dir.d".into()], &json!(false))
        );
        let more = json!({"count": 2, "after_b64": BASE64.encode("dir.d")});
        let listed = ask(browse, "list", &about(&snapshot, "", &more));
        assert_eq!((names(&listed), &listed["is_end"]), (vec!["large".into()], &json!(true)));
        let found = ask(browse, "stat", &about(&snapshot, "dir/b", &json!({})));
        assert_eq!((&found["node"]["links"], &found["node"]["size"]), (&json!(2), &json!(5)));
        assert!(ask(browse, "stat", &about(&snapshot, "dir/no", &json!({})))["node"].is_null());

        let opened = ask(browse, "open", &about(&snapshot, "large", &json!({})));
        let (file, data) = (opened["file"].as_u64().unwrap(), noise(1, LARGE));
        let size = LARGE as u64;
        for (offset, length) in [(0, 10), (65_000, 200_000), (size - 5, 100), (size, 1), (1, size)]
        {
            let place = |offset: u64| usize::try_from(offset).unwrap().min(LARGE);
            let expected = &data[place(offset)..place(offset + length)];
            assert_eq!(browse.read(file, offset, length).unwrap(), expected);
        }
        for start in (0..LARGE).step_by(100_000) {
            assert_eq!(
                browse.read(file, start as u64, 100_000).unwrap(),
                data[start..start + 100_000]
            );
        }
        let seek =
            |is_hole| ask(browse, "seek", &json!({"file": file, "offset": 7, "is_hole": is_hole}));
        assert_eq!((&seek(true)["offset"], &seek(false)["offset"]), (&json!(LARGE), &json!(7)));
        ask(browse, "close", &json!({"file": file}));
        assert_eq!(browse.read(file, 0, 1).unwrap_err().kind, ErrorKind::Usage);
    });
}

#[test]
fn what_was_moved_is_found_once_the_index_is_loaded_anew() {
    let source = tempfile::tempdir().unwrap();
    populate(source.path());
    let mut repository = Repository::new(AVERAGE);
    let snapshot = repository.backup("s", source.path(), &json!({}));
    let before = json!({"index": repository.index()});
    let old = [repository.objects("data/"), repository.objects("meta/")].concat();
    // Stores the same again in other packs, as a prune that moves what is in use.
    repository.forget_runs();
    repository.backup("s", source.path(), &json!({"parent": null}));
    let after = json!({"index": repository.index()});
    browsing(&repository, |browse| {
        ask(browse, "refresh", &before);
        let opened = ask(browse, "open", &about(&snapshot, "large", &json!({})));
        let file = opened["file"].as_u64().unwrap();
        assert_eq!(browse.read(file, 0, 100).unwrap(), noise(1, LARGE)[..100]);
        for key in &old {
            repository.store.remove(key);
        }
        let middle = LARGE as u64 / 2;
        assert_eq!(browse.read(file, middle, 10).unwrap_err().kind, ErrorKind::NotFound);
        ask(browse, "refresh", &after);
        let data = noise(1, LARGE);
        assert_eq!(browse.read(file, middle, 10).unwrap(), data[LARGE / 2..LARGE / 2 + 10]);
        assert_eq!(browse.read(file, 0, LARGE as u64).unwrap(), data);
    });
}

#[test]
fn a_damaged_chunk_costs_its_own_bytes_and_no_others() {
    let source = tempfile::tempdir().unwrap();
    populate(source.path());
    let mut repository = Repository::new(AVERAGE);
    let snapshot = repository.backup("s", source.path(), &json!({}));
    let pack = repository
        .objects("data/")
        .into_iter()
        .max_by_key(|key| repository.store.get(key).unwrap().len());
    let pack = pack.unwrap();
    let mut bytes = repository.store.get(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    repository.store.replace(&pack, bytes);
    let index = json!({"index": repository.index()});
    browsing(&repository, |browse| {
        ask(browse, "refresh", &index);
        let opened = ask(browse, "open", &about(&snapshot, "large", &json!({})));
        let (file, data) = (opened["file"].as_u64().unwrap(), noise(1, LARGE));
        let (mut good, mut bad) = (0, 0);
        for start in (0..LARGE).step_by(4096) {
            let end = LARGE.min(start + 4096);
            match browse.read(file, start as u64, 4096) {
                Ok(part) => {
                    assert_eq!(part, data[start..end]);
                    good += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind, ErrorKind::Damaged);
                    bad += 1;
                }
            }
        }
        assert!(bad > 0 && good > 4 * bad, "{bad} bad, {good} good");
    });
}
