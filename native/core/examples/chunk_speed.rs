//! Measures what the chunkers and the zero test do in GB/s on one core, on each kernel of this machine.
//!
//! `cargo run --release --example chunk_speed [MIB [ROUNDS]]`: the best of ROUNDS passes over MIB of
//! pseudo-random data (256 and 5), so mostly from memory, and over 1 MiB of it, from the cache. The
//! digest of the cuts is printed with each figure: a kernel that cuts elsewhere is seen at once.

use std::hint::black_box;
use std::time::Instant;

use pvback_core::chunk::{Argmin, ArgminSizes, Chunker, CutKey, Fixed, Kernel, is_zero};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let mebibytes = arguments.next().transpose()?.unwrap_or(256).max(1);
    let rounds = arguments.next().transpose()?.unwrap_or(5).max(1);

    let mut data = vec![0; mebibytes << 20];
    blake3::Hasher::new().update(b"chunk_speed").finalize_xof().fill(&mut data);
    let cached = &data[..1 << 20];

    for average in [4096, 128 << 10, 512 << 10] {
        let sizes = ArgminSizes::from_average(average)?;
        for kernel in Kernel::available() {
            let key = CutKey::new(blake3::hash(b"key").as_bytes());
            let chunker = Chunker::Argmin(Argmin::with_kernel(sizes, key, kernel));
            let name = format!("argmin {} KiB {}", average >> 10, kernel.name());
            report(&name, &data, rounds, |data| digest_of_cuts(&chunker, data));
            let passes = rounds * 20;
            report(&format!("{name}, cached"), cached, passes, |data| {
                digest_of_cuts(&chunker, data)
            });
        }
    }
    let fixed = Chunker::Fixed(Fixed::default());
    report("fixed 128 KiB", &data, rounds, |data| digest_of_cuts(&fixed, data));
    data.fill(0);
    let zero = |data: &[u8]| blake3::hash(&[u8::from(is_zero(data))]);
    report("is_zero", &data, rounds, zero);
    report("is_zero, cached", &data[..1 << 20], rounds * 20, zero);
    Ok(())
}

/// BLAKE3 of the ends of all chunks.
fn digest_of_cuts(chunker: &Chunker, data: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for chunk in chunker.chunks(0, data, true) {
        hasher.update(&(chunk.end as u64).to_le_bytes());
    }
    hasher.finalize()
}

/// Prints the speed of the fastest of `rounds` calls.
fn report(name: &str, data: &[u8], rounds: usize, work: impl Fn(&[u8]) -> blake3::Hash) {
    let (mut seconds_min, mut digest) = (f64::INFINITY, None);
    for _ in 0..rounds {
        let start = Instant::now();
        digest = Some(black_box(work(black_box(data))));
        seconds_min = seconds_min.min(start.elapsed().as_secs_f64());
    }
    // Exact below 2^53 bytes.
    #[allow(clippy::cast_precision_loss, reason = "a rate to print")]
    let rate = data.len() as f64 / seconds_min / 1e9;
    let digest = digest.map_or_else(String::new, |digest| digest.to_hex()[..8].to_owned());
    println!("{name:32} {rate:8.2} GB/s   cuts {digest}");
}
