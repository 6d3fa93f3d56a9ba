//! Every kernel agrees with the shared vectors, which the Python reference is held to as well, and
//! the way in which the data was read has no influence.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by it, and helpers of tests are not seen as such"
)]

use pvback_core::chunk::{Argmin, ArgminSizes, Chunker, CutKey, Fixed, Kernel, Span, Spans};
use serde::Deserialize;

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/chunker.json");

#[derive(Deserialize)]
struct Vectors {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    #[serde(flatten)]
    chunker: Parameters,
    offset: u64,
    data: Vec<Piece>,
    data_blake3: String,
    cuts: Vec<u64>,
    cuts_blake3: String,
}

#[derive(Deserialize)]
#[serde(tag = "chunker", rename_all = "lowercase")]
enum Parameters {
    Argmin { min_bytes: u64, average_bytes: u64, max_bytes: u64, key: String },
    Fixed { chunk_bytes: usize },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Piece {
    Repeat { repeat: String, bytes: usize },
    Random { seed: u64, mask: String, bytes: usize },
}

/// `SplitMix64` of Steele, Lea and Flood.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, nearly uniform.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

fn from_hex(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2));
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

impl Piece {
    fn append_to(&self, data: &mut Vec<u8>) {
        match self {
            Self::Repeat { repeat, bytes } => {
                data.extend(from_hex(repeat).into_iter().cycle().take(*bytes));
            }
            Self::Random { seed, mask, bytes } => {
                let mask = u64::from_str_radix(mask, 16).unwrap();
                let mut numbers = SplitMix64(*seed);
                let end = data.len() + bytes;
                while data.len() < end {
                    data.extend((numbers.next() & mask).to_le_bytes());
                }
                data.truncate(end);
            }
        }
    }
}

impl Case {
    fn data(&self) -> Vec<u8> {
        let mut data = Vec::new();
        for piece in &self.data {
            piece.append_to(&mut data);
        }
        assert_eq!(blake3::hash(&data).to_hex().as_str(), self.data_blake3, "{}", self.name);
        data
    }

    /// One chunker for each kernel that there is a choice of.
    fn chunkers(&self) -> Vec<Chunker> {
        match &self.chunker {
            Parameters::Argmin { min_bytes, average_bytes, max_bytes, key } => {
                let sizes =
                    ArgminSizes::from_stored(*min_bytes, *average_bytes, *max_bytes).unwrap();
                let key = CutKey::new(&from_hex(key).try_into().unwrap());
                Kernel::available()
                    .map(|kernel| Chunker::Argmin(Argmin::with_kernel(sizes, key.clone(), kernel)))
                    .collect()
            }
            Parameters::Fixed { chunk_bytes } => {
                vec![Chunker::Fixed(Fixed::new(*chunk_bytes).unwrap())]
            }
        }
    }
}

fn load() -> Vec<Case> {
    let text = std::fs::read(VECTORS).unwrap();
    let vectors: Vectors = serde_json::from_slice(&text).unwrap();
    assert!(!vectors.cases.is_empty());
    vectors.cases
}

/// The ends of all chunks of `data`, when it comes in reads of random size and each look at the
/// buffer sees all that was read since the last cut.
fn cuts_of_reads(chunker: &Chunker, offset: u64, data: &[u8], seed: u64) -> Vec<u64> {
    let mut random = SplitMix64(seed);
    let (mut cuts, mut start, mut read) = (Vec::new(), 0, 0);
    loop {
        let at_end = read == data.len();
        let mut chunks = chunker.chunks(offset + start as u64, &data[start..read], at_end);
        for chunk in chunks.by_ref() {
            assert!(!chunk.is_empty() && chunk.len() <= chunker.longest_chunk_bytes());
            cuts.push((start + chunk.end) as u64);
        }
        start += chunks.consumed();
        assert!(read - start < chunker.longest_chunk_bytes(), "no progress at {start}");
        if at_end {
            assert_eq!(start, data.len(), "bytes were left over");
            return cuts;
        }
        let step = 1 + random.below(2 * chunker.longest_chunk_bytes());
        read = data.len().min(read + step);
    }
}

#[test]
fn all_kernels_agree_with_the_vectors() {
    for case in load() {
        let data = case.data();
        let packed: Vec<u8> = case.cuts.iter().flat_map(|cut| cut.to_le_bytes()).collect();
        assert_eq!(blake3::hash(&packed).to_hex().as_str(), case.cuts_blake3, "{}", case.name);
        for chunker in case.chunkers() {
            let cuts: Vec<u64> =
                chunker.chunks(case.offset, &data, true).map(|chunk| chunk.end as u64).collect();
            assert_eq!(cuts, case.cuts, "{}: {chunker:?}", case.name);
        }
    }
}

#[test]
fn how_the_data_was_read_has_no_influence() {
    for case in load() {
        let data = case.data();
        for chunker in case.chunkers() {
            for seed in 0..5 {
                let cuts = cuts_of_reads(&chunker, case.offset, &data, seed);
                assert_eq!(cuts, case.cuts, "{}: {chunker:?}, seed {seed}", case.name);
            }
        }
    }
}

#[test]
fn chunks_meet_again_after_an_insertion() {
    let sizes = ArgminSizes::from_average(4096).unwrap();
    let chunker = Chunker::Argmin(Argmin::new(sizes, CutKey::new(&[3; 32])));
    for seed in 0..20 {
        let mut old = Vec::new();
        let mask = "f".repeat(16);
        Piece::Random { seed, mask, bytes: 400_000 }.append_to(&mut old);
        let mut new = old.clone();
        new.splice(50_000..50_000, [seed.to_le_bytes()[0]; 37]);
        let ends_from_back = |data: &[u8]| -> Vec<usize> {
            chunker.chunks(0, data, true).map(|chunk| data.len() - chunk.end).collect()
        };
        let (old_ends, new_ends) = (ends_from_back(&old), ends_from_back(&new));
        let common = old_ends.iter().filter(|end| new_ends.contains(end)).count();
        // The cuts before the insertion stay where they are, so their distance from the end changes.
        let before = old_ends.iter().filter(|&&end| end >= 350_000).count();
        let lost = old_ends.len() - before - common;
        assert!(lost <= 6, "seed {seed}: {lost} of {} cuts are lost", old_ends.len());
    }
}

#[test]
fn mean_chunk_of_random_data_is_the_average() {
    let sizes = ArgminSizes::from_average(4096).unwrap();
    let chunker = Chunker::Argmin(Argmin::new(sizes, CutKey::new(&[0x77; 32])));
    let mut data = Vec::new();
    let mask = "f".repeat(16);
    Piece::Random { seed: 1, mask, bytes: 8 << 20 }.append_to(&mut data);
    let mean = data.len() / chunker.chunks(0, &data, true).count();
    assert!((3900..4300).contains(&mean), "mean of {mean} bytes");
}

#[test]
fn zeros_and_chunks_cover_a_file_without_gaps() {
    let mut data = vec![0; 1 << 20];
    let mut random = SplitMix64(42);
    for byte in &mut data[100_000..400_000] {
        *byte = random.next().to_le_bytes()[0];
    }
    let chunker = Chunker::Fixed(Fixed::default());
    let (mut position, mut zeros) = (0, 0);
    for span in Spans::new(0, &data, true) {
        let range = span.range();
        assert_eq!(range.start, position);
        match span {
            Span::Zero(_) => zeros += range.len(),
            Span::Data(_) => {
                let bytes = &data[range.clone()];
                for chunk in chunker.chunks(range.start as u64, bytes, true) {
                    let end = range.start + chunk.end;
                    assert!(end.is_multiple_of(128 << 10) || end == range.end);
                }
            }
        }
        position = range.end;
    }
    assert_eq!(position, data.len());
    assert_eq!(zeros, (1 << 20) - (7 - 1) * (64 << 10));
}
