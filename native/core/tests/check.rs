//! `check`: a clean repository has no errors, and damage to each kind of object is found.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by it, and helpers of tests are not seen as such"
)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use pvback_core::ErrorKind;
use pvback_core::crypto::sign::Role;
use pvback_core::crypto::{IssueRequest, IssueScope, Keyring, ScopeKeys};
use pvback_core::look::check::{CheckResult, check};
use serde_json::{Value, json};
use support::{Repository, Snapshot, json_of, noise, parse, path_of};

const AVERAGE: u64 = 64 << 10;

fn populate(root: &Path) {
    fs::create_dir(root.join("dir")).unwrap();
    fs::write(root.join("big"), noise(1, 3_000_000)).unwrap();
    for number in 0..50 {
        fs::write(root.join(format!("dir/{number:02}")), noise(100 + number, 4_000)).unwrap();
    }
}

/// Two snapshots of one source and one of another.
fn repository() -> Repository {
    let source = tempfile::tempdir().unwrap();
    populate(source.path());
    let mut repository = Repository::new(AVERAGE);
    repository.backup("a", source.path(), &json!({}));
    fs::write(source.path().join("new"), noise(2, 500_000)).unwrap();
    repository.backup("a", source.path(), &json!({}));
    fs::write(source.path().join("other"), noise(3, 400_000)).unwrap();
    repository.backup("b", source.path(), &json!({}));
    assert!(repository.snapshots.iter().all(|snapshot| snapshot.problems.is_empty()));
    repository
}

struct Outcome {
    result: CheckResult,
    findings: Vec<Value>,
}

impl Outcome {
    fn whats(&self, severity: &str) -> BTreeSet<&str> {
        let of = self.findings.iter().filter(|finding| finding["severity"] == json!(severity));
        of.map(|finding| finding["what"].as_str().unwrap()).collect()
    }

    fn of<'a>(&'a self, what: &'a str) -> impl Iterator<Item = &'a Value> {
        self.findings.iter().filter(move |finding| finding["what"] == json!(what))
    }

    fn paths(&self, what: &str) -> BTreeSet<String> {
        self.of(what).map(path_of).collect()
    }
}

fn stored(repository: &Repository) -> Value {
    let objects = ["data/", "meta/"].map(|folder| repository.store.list(&repository.key(folder)));
    let objects = objects.into_iter().flatten();
    objects.map(|(key, size)| json!({"key": key, "size": size})).collect()
}

fn try_check(
    repository: &Repository,
    keys: &Arc<ScopeKeys>,
    more: &Value,
) -> pvback_core::Result<Outcome> {
    let snapshots: Vec<Value> = repository.snapshots.iter().map(Snapshot::to_json).collect();
    let mut options = json!({"snapshots": snapshots, "packs": stored(repository)});
    for (name, value) in more.as_object().unwrap() {
        options[name] = value.clone();
    }
    let options = parse(repository.options(options));
    let (result, outputs) = repository.serve_as(keys, |scope| check(scope, &options));
    let (result, findings) = (result?, json_of(&outputs, "rows"));
    assert_eq!(result.findings, findings.len() as u64);
    Ok(Outcome { result, findings })
}

fn run(repository: &Repository, more: &Value) -> Outcome {
    try_check(repository, &repository.keys, more).unwrap()
}

/// Everything that can be read is.
fn thorough() -> Value {
    json!({"read_data": 100.0})
}

#[test]
fn a_clean_repository_has_no_findings() {
    let repository = repository();
    let outcome = run(&repository, &json!({}));
    assert!(outcome.findings.is_empty(), "{:?}", outcome.findings);
    assert_eq!((outcome.result.snapshots, outcome.result.runs), (3, 3));
    assert_eq!(outcome.result.packs_read, 0);
    let packs = outcome.result.packs;
    assert_eq!(outcome.result.directories, repository.objects("meta/").len() as u64);
    assert_eq!(run(&repository, &json!({"directories": true})).result.directories, packs);

    // With little memory, and with everything read.
    let outcome = run(&repository, &json!({"read_data": 100.0, "memory_bytes": 4 << 20}));
    assert!(outcome.findings.is_empty(), "{:?}", outcome.findings);
    assert_eq!(outcome.result.packs_read, packs);
    assert_eq!(outcome.result.blobs_opened, outcome.result.chunks + outcome.result.pages);
    let bytes: u64 = ["data/", "meta/"]
        .iter()
        .flat_map(|folder| repository.store.list(&repository.key(folder)))
        .map(|(_, size)| size)
        .sum();
    assert_eq!(outcome.result.bytes_read, bytes);
}

#[test]
fn a_share_of_the_packs_is_read_and_the_seed_says_which() {
    let repository = repository();
    let packs = run(&repository, &json!({})).result.packs;
    assert!(packs >= 6);
    let read = |percent: f64, seed: u64| {
        run(&repository, &json!({"read_data": percent, "seed": seed})).result
    };
    assert_eq!(read(0.0, 1).packs_read, 0);
    assert_eq!(read(0.1, 1).packs_read, 1);
    assert_eq!(read(50.0, 1).packs_read, packs.div_ceil(2));
    assert_eq!(read(50.0, 1), read(50.0, 1));
    let sizes: BTreeSet<u64> = (0..20).map(|seed| read(0.1, seed).bytes_read).collect();
    assert!(sizes.len() > 1);
    let bad = try_check(&repository, &repository.keys, &json!({"read_data": 101.0}));
    assert_eq!(bad.err().unwrap().kind, ErrorKind::Usage);
}

/// What is done to an object.
#[derive(Clone, Copy, Debug)]
enum Harm {
    FlipHeader,
    FlipMiddle,
    FlipEnd,
    Truncate,
    Append,
    Delete,
}

const HARMS: [Harm; 6] =
    [Harm::FlipHeader, Harm::FlipMiddle, Harm::FlipEnd, Harm::Truncate, Harm::Append, Harm::Delete];

impl Harm {
    fn apply(self, repository: &Repository, key: &str) {
        let mut bytes = repository.store.get(key).unwrap();
        let length = bytes.len();
        match self {
            Self::FlipHeader => bytes[60] ^= 1,
            Self::FlipMiddle => bytes[length / 2] ^= 1,
            Self::FlipEnd => bytes[length - 20] ^= 1,
            Self::Truncate => bytes.truncate(length / 2),
            Self::Append => bytes.push(0),
            Self::Delete => {
                repository.store.remove(key);
                return;
            }
        }
        repository.store.replace(key, bytes);
    }
}

/// Harms each object of a folder in each way, one at a time, and gives what a check finds to `look`.
fn harm_each(folder: &str, more: &Value, look: impl Fn(Harm, &str, &Outcome)) {
    let repository = repository();
    let keys = repository.objects(folder);
    assert!(!keys.is_empty());
    for key in keys {
        for harm in HARMS {
            let before = repository.store.get(&key).unwrap();
            harm.apply(&repository, &key);
            look(harm, &key, &run(&repository, more));
            repository.store.replace(&key, before);
        }
    }
    assert!(run(&repository, &thorough()).findings.is_empty());
}

#[test]
fn harm_to_data_packs_is_found_with_the_files_that_it_hits() {
    harm_each("data/", &thorough(), |harm, key, outcome| {
        let errors = outcome.whats("error");
        assert!(!errors.is_empty(), "{harm:?} of {key}");
        assert!(outcome.findings.iter().any(|f| f["object"] == json!(key)), "{harm:?} of {key}");
        let says = |what: &str| errors.contains(what);
        match harm {
            Harm::FlipHeader => assert!(says("pack-damaged"), "{errors:?}"),
            Harm::FlipMiddle => {
                assert!(says("pack-damaged") && says("chunk-damaged"), "{errors:?}");
            }
            Harm::FlipEnd => assert!(says("pack-directory-damaged"), "{errors:?}"),
            Harm::Truncate | Harm::Append => assert!(says("pack-size"), "{errors:?}"),
            Harm::Delete => assert!(says("pack-missing"), "{errors:?}"),
        }
        if !matches!(harm, Harm::FlipEnd | Harm::Append) {
            assert!(says("snapshot-damaged") && says("file-damaged"), "{harm:?}: {errors:?}");
            assert!(!outcome.paths("file-damaged").is_empty());
        }
        if matches!(harm, Harm::Append) {
            assert!(!says("chunk-damaged"), "all of it can be read: {errors:?}");
        }
    });
}

#[test]
fn harm_to_data_packs_that_are_not_read_shows_where_it_can() {
    harm_each("data/", &json!({"directories": true}), |harm, key, outcome| {
        if !matches!(harm, Harm::FlipMiddle) {
            assert!(outcome.result.errors > 0, "{harm:?} of {key}");
        }
    });
}

#[test]
fn harm_to_metadata_packs_is_found() {
    harm_each("meta/", &thorough(), |harm, key, outcome| {
        assert!(outcome.result.errors > 0, "{harm:?} of {key}");
        assert!(outcome.findings.iter().any(|f| f["object"] == json!(key)), "{harm:?} of {key}");
        if matches!(harm, Harm::FlipHeader | Harm::Delete) {
            let errors = outcome.whats("error");
            assert!(errors.contains("page-damaged"), "{harm:?}: {errors:?}");
            assert!(errors.contains("snapshot-damaged"), "{harm:?}: {errors:?}");
        }
    });
}

#[test]
fn harm_to_runs_is_found() {
    harm_each("index/", &json!({}), |harm, key, outcome| {
        let what = if matches!(harm, Harm::Delete) { "run-missing" } else { "run-damaged" };
        assert_eq!(outcome.of(what).count(), 1, "{harm:?} of {key}: {:?}", outcome.findings);
        assert_eq!(outcome.of(what).next().unwrap()["object"], json!(key));
        // What only it lists is lost too, until the index is rebuilt from the packs.
        assert!(outcome.whats("error").contains("snapshot-damaged"));
        assert!(outcome.result.orphans > 0);
    });
}

#[test]
fn harm_to_reference_sets_is_found() {
    harm_each("refs/", &json!({}), |harm, key, outcome| {
        assert_eq!(outcome.whats("error"), BTreeSet::from(["refs-damaged"]), "{harm:?} of {key}");
        assert_eq!(outcome.of("refs-damaged").next().unwrap()["object"], json!(key));
    });
}

#[test]
fn swapped_packs_are_found() {
    let repository = repository();
    for folder in ["data/", "meta/"] {
        let keys = repository.objects(folder);
        let [first, second, ..] = &*keys else { panic!("two packs in {folder}") };
        let (a, b) = (repository.store.get(first).unwrap(), repository.store.get(second).unwrap());
        repository.store.replace(first, b.clone());
        repository.store.replace(second, a.clone());
        // As if they had the sizes of each other: only the seal tells.
        let sizes = json!([
            {"key": first, "size": a.len()},
            {"key": second, "size": b.len()},
        ]);
        let listed: Vec<Value> = stored(&repository)
            .as_array()
            .unwrap()
            .iter()
            .filter(|object| object["key"] != json!(first) && object["key"] != json!(second))
            .chain(sizes.as_array().unwrap())
            .cloned()
            .collect();
        let outcome = run(&repository, &json!({"directories": true, "packs": listed}));
        for key in [first, second] {
            let hit = outcome.of("pack-damaged").filter(|f| f["object"] == json!(key)).count();
            assert_eq!(hit, 1, "{key}: {:?}", outcome.findings);
        }
        assert!(outcome.whats("error").contains("snapshot-damaged"));
        repository.store.replace(first, a);
        repository.store.replace(second, b);
    }
}

#[test]
fn only_the_files_of_a_lost_chunk_are_named() {
    let source = tempfile::tempdir().unwrap();
    fs::create_dir(source.path().join("d")).unwrap();
    fs::write(source.path().join("d/hit"), noise(1, 200_000)).unwrap();
    let mut repository = Repository::new(AVERAGE);
    repository.backup("a", source.path(), &json!({}));
    let hit = repository.objects("data/");
    fs::write(source.path().join("d/safe"), noise(2, 200_000)).unwrap();
    fs::copy(source.path().join("d/hit"), source.path().join("d/twin")).unwrap();
    repository.backup("a", source.path(), &json!({}));
    for key in &hit {
        repository.store.remove(key);
    }
    let outcome = run(&repository, &json!({}));
    let expected = BTreeSet::from(["d/hit".to_owned(), "d/twin".to_owned()]);
    assert_eq!(outcome.paths("file-damaged"), expected);
    assert_eq!(outcome.of("snapshot-damaged").count(), 2);
    let chunks = outcome.of("chunk-damaged").count();
    assert!(chunks >= 2);
    assert_eq!(outcome.of("file-damaged").count(), 3 * chunks, "once a page, path and chunk");
}

#[test]
fn reference_sets_must_list_what_the_tree_reaches() {
    let repository = repository();
    let mut snapshots: Vec<Value> = repository.snapshots.iter().map(Snapshot::to_json).collect();
    let refs = snapshots[0]["refs"].clone();
    snapshots[1]["refs"] = refs;
    snapshots[0]["refs"] = repository.snapshots[1].to_json()["refs"].clone();
    let outcome = run(&repository, &json!({"snapshots": snapshots}));
    let second = outcome.of("refs-incomplete").collect::<Vec<_>>();
    // Each lacks at least the other's root page.
    assert_eq!(second.len(), 2);
    assert_eq!(outcome.whats("info"), BTreeSet::from(["refs-extra"]));
    let none = json!({"snapshots": [{
        "snapshot": "x",
        "source_id": repository.snapshots[0].source_id,
        "root": repository.snapshots[0].result["root"],
        "refs": [],
    }]});
    assert_eq!(run(&repository, &none).whats("error"), BTreeSet::from(["refs-incomplete"]));
}

#[test]
fn a_root_that_says_something_else_is_found() {
    let repository = repository();
    for (field, value) in [("nodes", json!(7)), ("bytes", json!(1)), ("level", json!(3))] {
        let mut snapshot = repository.snapshots[0].to_json();
        snapshot["root"][field] = value;
        let outcome = run(&repository, &json!({"snapshots": [snapshot]}));
        assert!(outcome.whats("error").contains("page-damaged"), "{field}");
    }
    let mut snapshot = repository.snapshots[0].to_json();
    snapshot["root"]["page"] = json!("ab");
    let outcome = run(&repository, &json!({"snapshots": [snapshot]}));
    assert_eq!(outcome.whats("error"), BTreeSet::from(["snapshot-damaged"]));
}

#[test]
fn packs_that_no_run_lists_are_worth_knowing_and_no_errors() {
    let mut repository = repository();
    let snapshots: Vec<Value> = repository.snapshots.iter().map(Snapshot::to_json).collect();
    let foreign = repository.key("data/ab/abababababababababababababababab");
    repository.store.replace(&foreign, vec![0; 100]);
    let outcome = run(&repository, &json!({"snapshots": snapshots}));
    assert_eq!(outcome.result.orphans, 1);
    assert_eq!(outcome.result.errors, 0);
    assert_eq!(outcome.of("orphan").next().unwrap()["object"], json!(foreign));
    repository.snapshots.clear();
    assert_eq!(run(&repository, &json!({})).result.chunks, 0);
}

fn issue(repository: &Repository, role: Role) -> Arc<ScopeKeys> {
    let scopes = vec![IssueScope { scope: repository.scope, sources: None }];
    let request = IssueRequest { role, label: "t".to_owned(), scopes };
    let (file, secret) = repository.owner.issue(&request).unwrap();
    let config = repository.owner.config().clone();
    let keyring = Keyring::unlock_secret(config, &file, secret.to_bytes().as_slice()).unwrap();
    Arc::new(keyring.scope(&repository.scope).unwrap())
}

#[test]
fn who_holds_less_checks_less_and_is_told_once() {
    let repository = repository();
    let writer = issue(&repository, Role::Writer);
    let outcome = try_check(&repository, &writer, &thorough()).unwrap();
    assert_eq!(outcome.whats("info"), BTreeSet::from(["content-not-opened"]));
    assert_eq!((outcome.findings.len(), outcome.result.snapshots), (1, 3));

    let maintainer = issue(&repository, Role::Maintainer);
    let outcome = try_check(&repository, &maintainer, &thorough()).unwrap();
    let told = BTreeSet::from(["content-not-opened", "pages-not-opened", "tree-not-opened"]);
    assert_eq!(outcome.whats("info"), told);
    assert_eq!(outcome.of("tree-not-opened").count(), 2, "once for each source");
    assert_eq!(outcome.result.errors, 0);
    assert_eq!(outcome.result.blobs_opened, 0);

    // Blind as it is, it sees that something which a reference set lists is gone.
    for key in repository.objects("data/") {
        repository.store.remove(&key);
    }
    let outcome = try_check(&repository, &maintainer, &json!({})).unwrap();
    assert!(outcome.whats("error").contains("chunk-damaged"));
}

#[test]
fn pages_that_snapshots_share_are_read_once_and_damage_names_its_snapshots() {
    let source = tempfile::tempdir().unwrap();
    let name = |number: usize| format!("{number:05}-{}", "n".repeat(120 + number % 60));
    for number in 0..12_000 {
        fs::write(source.path().join(name(number)), b"").unwrap();
    }
    let mut repository = Repository::new(AVERAGE);
    let count = |repository: &Repository| {
        let outcome = run(repository, &thorough());
        assert!(outcome.findings.is_empty(), "{:?}", outcome.findings);
        outcome.result.pages
    };
    repository.backup("a", source.path(), &json!({}));
    let pages = count(&repository);
    assert!(pages >= 10, "{pages}");
    let before: BTreeSet<String> = repository.objects("meta/").into_iter().collect();
    // In the middle, at the end, and something taken away: what follows a page changes too.
    fs::write(source.path().join(name(6_000) + "-new"), b"x").unwrap();
    fs::write(source.path().join("zzz"), b"").unwrap();
    fs::remove_file(source.path().join(name(3_000))).unwrap();
    repository.backup("a", source.path(), &json!({}));
    let new = count(&repository) - pages;
    assert!((2..=pages / 2 + 4).contains(&new), "{new} new pages beside {pages}");

    let key = repository.objects("meta/").into_iter().find(|key| !before.contains(key)).unwrap();
    let second = repository.store.get(&key).unwrap();
    repository.store.remove(&key);
    let outcome = run(&repository, &json!({}));
    let hit: BTreeSet<&str> =
        outcome.of("snapshot-damaged").map(|f| f["snapshot"].as_str().unwrap()).collect();
    assert_eq!(hit, BTreeSet::from([&*repository.snapshots[1].id]));
    repository.store.replace(&key, second);
    repository.store.remove(before.first().unwrap());
    let outcome = run(&repository, &json!({}));
    assert_eq!(outcome.of("snapshot-damaged").count(), 2, "{:?}", outcome.findings);
}
