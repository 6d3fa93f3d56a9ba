//! Interrupted restores.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pvback_core::restore::{Control, JOURNAL_NAME, RestoreOptions, restore};
use pvback_core::{Error, ErrorKind};
use serde_json::json;

use crate::support::{Repo, Scratch, assert_same, noise, os};

/// Restores until `gets` ranges of content were asked for, then cancels.
fn restore_until(
    repo: &Repo,
    snapshot: &crate::support::Snapshot,
    target: &std::path::Path,
    gets: usize,
) -> bool {
    let more = json!({"journal": true, "memory_bytes": 1, "gets": 2});
    let options = repo.options(snapshot, target, more);
    let options: RestoreOptions = serde_json::from_value(options).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    *repo.fault.lock().unwrap() = Some(Box::new(move |key, _| {
        if key.contains("/data/") {
            counter.fetch_add(1, Ordering::SeqCst);
        }
        None
    }));
    let (result, _) = repo.serve(2, |scope| {
        let broker = Arc::clone(&scope.broker);
        std::thread::scope(|threads| {
            let running = threads.spawn(|| restore(scope, &options, &Control::default()));
            while asked.load(Ordering::SeqCst) < gets && !running.is_finished() {
                std::thread::yield_now();
            }
            broker.cancel(Error::new(ErrorKind::Cancelled, "stopped"));
            running.join().unwrap()
        })
    });
    *repo.fault.lock().unwrap() = None;
    match result {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind, ErrorKind::Cancelled);
            false
        }
    }
}

#[test]
fn a_stopped_restore_goes_on() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    crate::trees::make_torture_tree(&source);
    std::fs::create_dir(source.join("many")).unwrap();
    for number in 0..40_000 {
        std::fs::write(source.join(format!("many/{number}")), format!("{number}")).unwrap();
    }
    std::fs::write(source.join("nn-large"), noise(99, 20_000_000)).unwrap();
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    for gets in [0, 3, 12, 40] {
        let target = scratch.dir(&format!("target-{gets}"));
        let is_done = restore_until(&repo, &snapshot, &target, gets);
        eprintln!(
            "cancelled after {gets} gets: done {is_done}, journal {}",
            target.join(os(JOURNAL_NAME)).exists()
        );
        let again = repo.restore_well(&snapshot, &target, json!({"journal": true, "delete": true}));
        assert_same(&source, &target);
        eprintln!("{:?}", again.stats);
        std::fs::remove_dir_all(target.join("many")).unwrap();
    }
}

#[test]
fn another_snapshot_does_not_go_on_where_this_one_stopped() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    for number in 0..20_000 {
        std::fs::write(source.join(format!("{number}")), format!("{number:05}")).unwrap();
    }
    std::fs::write(source.join("large"), noise(99, 5_000_000)).unwrap();
    let repo = Repo::new(64 << 10);
    let first = repo.backup(&source, "directory");
    let target = scratch.dir("target");
    restore_until(&repo, &first, &target, 3);
    // Same size and, where the clock is coarse, the same time.
    std::fs::write(source.join("5"), "other").unwrap();
    let second = repo.backup(&source, "directory");
    repo.restore_well(&second, &target, json!({"journal": true}));
    assert_same(&source, &target);
}

#[test]
fn never_overwriting_leaves_no_half_file_behind() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    for number in 0..30 {
        std::fs::write(source.join(format!("{number}")), noise(number, 2_000_000)).unwrap();
    }
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    let target = scratch.dir("target");
    let asked = AtomicUsize::new(0);
    *repo.fault.lock().unwrap() = Some(Box::new(move |key, _| {
        let is_failing = key.contains("/data/") && asked.fetch_add(1, Ordering::SeqCst) > 8;
        is_failing.then(|| Error::new(ErrorKind::Storage, "gone"))
    }));
    let options = json!({"overwrite": "never", "memory_bytes": 1});
    assert!(repo.try_restore(&snapshot, &target, options.clone()).0.is_err());
    *repo.fault.lock().unwrap() = None;
    repo.restore_well(&snapshot, &target, options);
    for number in 0..30 {
        let found = std::fs::read(target.join(format!("{number}"))).unwrap();
        assert!(found == noise(number, 2_000_000), "{number}");
    }
}
