//! How fast restores are, for people to look at:
//! `cargo test --release --test restore -- --ignored --nocapture --test-threads 1 speed`.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Repo, Scratch, noise};

/// Processor time of this process so far.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // User and system time, in hundredths of a second.
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn measure(what: &str, bytes: u64, files: u64, act: impl FnOnce()) {
    let (start, used) = (Instant::now(), processor_time());
    act();
    let (wall, used) =
        (start.elapsed().as_secs_f64(), processor_time().saturating_sub(used).as_secs_f64());
    let rate = f64::from(u32::try_from(bytes >> 20).unwrap()) / wall;
    let per_second = f64::from(u32::try_from(files).unwrap()) / wall;
    eprintln!(
        "{what}: {wall:.2} s, {used:.2} s of processors, {rate:.0} MiB/s, {per_second:.0} files/s"
    );
}

#[test]
#[ignore = "takes long and proves nothing"]
fn speed() {
    let threads = std::thread::available_parallelism().unwrap().get();
    let options = json!({"threads": threads, "gets": 16, "memory_bytes": 192 << 20});
    for (what, is_text) in [("incompressible", false), ("compressible", true)] {
        let scratch = Scratch::in_memory();
        let source = scratch.dir("source");
        let mut content = noise(1, 1 << 30);
        if is_text {
            for byte in &mut content {
                *byte = b"eariotnslcudpmhg"[usize::from(*byte >> 4)];
            }
        }
        std::fs::write(source.join("file"), &content).unwrap();
        drop(content);
        let repo = Repo::new(512 << 10);
        let snapshot = repo.backup(&source, "directory");
        let target = scratch.dir("target");
        let name = format!("1 GiB, {what}");
        measure(&name, 1 << 30, 1, || drop(repo.restore_well(&snapshot, &target, options.clone())));
        let name = format!("{name}, there already");
        measure(&name, 1 << 30, 1, || drop(repo.restore_well(&snapshot, &target, options.clone())));
    }
    let scratch = Scratch::in_memory();
    let source = scratch.dir("source");
    for number in 0..20_000_u64 {
        let dir = source.join(format!("{:02}", number / 200));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("{number}")), noise(number, 4096)).unwrap();
    }
    let repo = Repo::new(512 << 10);
    let snapshot = repo.backup(&source, "directory");
    let target = scratch.dir("target");
    for (what, mode) in [("new", "always"), ("compared", "always"), ("looked at", "if-changed")] {
        let mut options = options.clone();
        options["overwrite"] = json!(mode);
        measure(&format!("20,000 files of 4 KiB, {what}"), 20_000 << 12, 20_000, || {
            drop(repo.restore_well(&snapshot, &target, options));
        });
    }
}
