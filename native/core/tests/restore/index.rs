//! Parts of the index that are damaged.

use std::fs;

use pvback_core::ErrorKind;
use serde_json::json;

use crate::support::{Repo, Scratch, assert_same, noise};

#[test]
fn a_damaged_part_of_the_index_costs_what_only_it_lists() {
    let (scratch, repo) = (Scratch::new(), Repo::new(16 << 10));
    let [old, new] = ["old", "new"].map(|name| scratch.dir(name));
    for (seed, path) in [(1, &old), (2, &new)] {
        fs::write(path.join("large"), noise(seed, 300_000)).unwrap();
        fs::write(path.join("small"), noise(seed + 10, 3_000)).unwrap();
    }
    let first = repo.backup(&old, "directory");
    let runs = repo.objects.lock().unwrap().keys().filter(|key| key.contains("/index/")).count();
    assert_eq!(runs, 1);
    let run =
        repo.objects.lock().unwrap().keys().find(|key| key.contains("/index/")).cloned().unwrap();
    let second = repo.backup(&new, "directory");
    repo.flip(&run, 200);

    let (result, outputs) = repo.restore(&second, &scratch.path("whole"), json!({}));
    assert_same(&new, &scratch.path("whole"));
    let messages: Vec<_> =
        outputs.problems.iter().map(|problem| problem["message"].to_string()).collect();
    assert_eq!((result.errors, messages.len()), (1, 1));
    assert!(messages[0].contains(&run), "{messages:?}");

    let (result, _) = repo.try_restore(&first, &scratch.path("lost"), json!({}));
    let error = result.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Damaged);
    assert!(error.to_string().contains("a part of which is damaged"), "{error}");

    // A backup stores again what it cannot find, and says why.
    let (again, problems) = repo.backup_with_problems(&old, "directory", json!({}));
    assert_eq!(problems.len(), 1);
    let (result, _) = repo.restore(&again, &scratch.path("again"), json!({}));
    assert_same(&old, &scratch.path("again"));
    assert_eq!(result.errors, 1);
}
