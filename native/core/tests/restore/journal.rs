//! Interrupted restores.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use pvback_core::restore::{Control, JOURNAL_NAME, RestoreOptions, restore};
use pvback_core::{Error, ErrorKind};
use serde_json::json;

use crate::support::{Repo, Scratch, Snapshot, assert_same, noise, os};

/// When to stop a restore.
#[derive(Clone, Copy)]
struct Stop {
    /// So many reads of content are answered, and the next one is asked for,
    gets: usize,
    /// counting those of this many bytes and more,
    bytes: u64,
    /// and so many files are complete.
    files: u64,
}

/// Restores until then, and cancels. Says whether it was too late for that.
fn restore_until(repo: &Repo, snapshot: &Snapshot, target: &Path, stop: Stop) -> bool {
    let Stop { gets, bytes, files } = stop;
    let more = json!({"journal": true, "memory_bytes": 1, "gets": 8});
    let options = repo.options(snapshot, target, more);
    let options: RestoreOptions = serde_json::from_value(options).unwrap();
    let asked = Arc::new((Mutex::new((0, false)), Condvar::new()));
    let gate = Arc::clone(&asked);
    *repo.fault.lock().unwrap() = Some(Arc::new(move |key, length| {
        if key.contains("/data/") && length >= bytes {
            let (state, changed) = &*gate;
            let mut state = state.lock().unwrap();
            state.0 += 1;
            // Further ones wait until the restore is cancelled.
            while state.0 > gets && !state.1 {
                state = changed.wait(state).unwrap();
            }
        }
        None
    }));
    let control = Control::default();
    let (result, _) = repo.serve(9, |scope| {
        std::thread::scope(|threads| {
            let running = threads.spawn(|| restore(scope, &options, &control));
            let is_there =
                || asked.0.lock().unwrap().0 > gets && control.counters().stats().files >= files;
            while !is_there() && !running.is_finished() {
                // Only looks how far it is; what it waits for stays so.
                std::thread::park_timeout(Duration::from_millis(2));
            }
            scope.broker.cancel(&Error::new(ErrorKind::Cancelled, "stopped"));
            asked.0.lock().unwrap().1 = true;
            asked.1.notify_all();
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

/// The first window is complete, and nothing of the second.
const SECOND_WINDOW: Stop = Stop { gets: 0, bytes: 300_000, files: 2_048 };

/// A target in which the first window is complete and nothing of the second is, and a journal that says so.
fn interrupted(scratch: &Scratch, repo: &Repo, snapshot: &Snapshot) -> PathBuf {
    for attempt in 0..50 {
        let target = scratch.dir(&format!("target-{attempt}"));
        assert!(!restore_until(repo, snapshot, &target, SECOND_WINDOW));
        // The files of a window are complete a moment before the window is. A journal without a mark has
        // no key.
        if target.join(os(JOURNAL_NAME)).metadata().unwrap().len() > 8 + 32 + 8 + 32 {
            return target;
        }
        std::fs::remove_dir_all(target).unwrap();
    }
    panic!("no journal in 50 attempts");
}

#[test]
fn a_stopped_restore_goes_on() {
    let scratch = Scratch::in_memory();
    let source = scratch.dir("source");
    crate::trees::make_torture_tree(&source);
    std::fs::create_dir(source.join("many")).unwrap();
    for number in 0..17_000 {
        std::fs::write(source.join(format!("many/{number}")), format!("{number}")).unwrap();
    }
    std::fs::write(source.join("nn-large"), noise(99, 20_000_000)).unwrap();
    let repo = Repo::new(64 << 10);
    let snapshot = repo.backup(&source, "directory");
    for gets in [0, 3, 7] {
        let target = scratch.dir(&format!("target-{gets}"));
        let stop = Stop { gets, bytes: 0, files: 0 };
        assert!(!restore_until(&repo, &snapshot, &target, stop));
        repo.restore_well(&snapshot, &target, json!({"journal": true, "delete": true}));
        assert_same(&source, &target);
    }
}

#[test]
fn what_was_finished_is_not_looked_at_again() {
    let scratch = Scratch::in_memory();
    let source = scratch.dir("source");
    for number in 0..2_048 {
        std::fs::write(source.join(format!("{number:05}")), format!("{number:05}")).unwrap();
    }
    std::fs::write(source.join("large"), noise(99, 20_000_000)).unwrap();
    let repo = Repo::new(512 << 10);
    let snapshot = repo.backup(&source, "directory");
    // The small files are the first window, the large one is the second.
    let target = interrupted(&scratch, &repo, &snapshot);
    // An edit that shows neither in size nor in time stays unseen: proof that nobody looked.
    let path = target.join("00007");
    let time = path.metadata().unwrap().modified().unwrap();
    std::fs::write(&path, "edits").unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    std::fs::write(target.join("00008"), "longer").unwrap();
    let result = repo.restore_well(&snapshot, &target, json!({"journal": true}));
    assert_eq!(std::fs::read(&path).unwrap(), b"edits");
    assert!(!target.join(os(JOURNAL_NAME)).exists());
    assert!(result.stats.files_unchanged > 2_044, "{:?}", result.stats);
    let mended = repo.restore_well(&snapshot, &target, json!({}));
    assert_eq!(mended.stats.files_changed, 1);
    assert_same(&source, &target);
}

#[test]
fn another_snapshot_does_not_go_on_where_this_one_stopped() {
    let scratch = Scratch::in_memory();
    let source = scratch.dir("source");
    for number in 0..2_048 {
        let name = format!("{number:05}");
        std::fs::write(source.join(&name), &name).unwrap();
    }
    std::fs::write(source.join("large"), noise(99, 20_000_000)).unwrap();
    let repo = Repo::new(512 << 10);
    let first = repo.backup(&source, "directory");
    let target = interrupted(&scratch, &repo, &first);
    // Same size and, where the clock is coarse, the same time.
    std::fs::write(source.join("00005"), "other").unwrap();
    let second = repo.backup(&source, "directory");
    repo.restore_well(&second, &target, json!({"journal": true}));
    assert_same(&source, &target);
}

#[test]
fn never_overwriting_leaves_no_half_file_behind() {
    let scratch = Scratch::in_memory();
    let source = scratch.dir("source");
    for number in 0..30 {
        std::fs::write(source.join(format!("{number}")), noise(number, 2_000_000)).unwrap();
    }
    let repo = Repo::new(512 << 10);
    let snapshot = repo.backup(&source, "directory");
    let target = scratch.dir("target");
    let asked = AtomicUsize::new(0);
    *repo.fault.lock().unwrap() = Some(Arc::new(move |key, _| {
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
    assert_eq!(hidden(&target), Vec::<String>::new());
}

/// Names in `dir` that begin as those of a restore do.
fn hidden(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with(".pvback"))
        .collect()
}

/// Restores with a store that soon fails, until that leaves something behind.
fn leave_parts(repo: &Repo, snapshot: &Snapshot, target: &Path) {
    for _ in 0..50 {
        let asked = AtomicUsize::new(0);
        *repo.fault.lock().unwrap() = Some(Arc::new(move |key, _| {
            let is_failing = key.contains("/data/") && asked.fetch_add(1, Ordering::SeqCst) > 8;
            is_failing.then(|| Error::new(ErrorKind::Storage, "gone"))
        }));
        let options = json!({"overwrite": "never", "memory_bytes": 1, "journal": true});
        let (result, _) = repo.try_restore(snapshot, target, options);
        *repo.fault.lock().unwrap() = None;
        assert!(result.is_err(), "it ended before anything was left");
        if !hidden(&target.join("dir")).is_empty() {
            return;
        }
    }
    panic!("nothing was left in 50 attempts");
}

#[test]
fn what_an_interrupted_restore_left_is_cleared_away_by_any_other() {
    let scratch = Scratch::in_memory();
    let source = scratch.dir("source");
    std::fs::create_dir(source.join("dir")).unwrap();
    for number in 0..30 {
        std::fs::write(source.join(format!("dir/{number}")), noise(number, 2_000_000)).unwrap();
    }
    let repo = Repo::new(512 << 10);
    let snapshot = repo.backup(&source, "directory");
    let users = [".pvback-part-0123456789abcdef", ".pvback-copy-0123456789abcdef", ".pvback-part-"];
    for overwrite in ["never", "always", "if-changed"] {
        for delete in [false, true] {
            let target = scratch.dir(&format!("target-{overwrite}-{delete}"));
            leave_parts(&repo, &snapshot, &target);
            for name in users {
                std::fs::write(target.join("dir").join(name), b"mine").unwrap();
            }
            let options = json!({"overwrite": overwrite, "delete": delete, "journal": true});
            repo.restore_well(&snapshot, &target, options);
            assert_eq!(hidden(&target), Vec::<String>::new());
            let mut left = hidden(&target.join("dir"));
            left.sort();
            let mut kept = if delete { Vec::new() } else { users.to_vec() };
            kept.sort_unstable();
            assert_eq!(left, kept, "{overwrite} {delete}");
            if delete {
                assert_same(&source, &target);
            }
        }
    }
}
