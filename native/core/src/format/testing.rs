//! What the tests of the formats and trees share.

use std::path::PathBuf;

use serde_json::Value;

/// A small generator of numbers with a seed, for tests that need many of them fast.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next().to_le_bytes()[0])
    }
}

/// Flips, overwrites, removes or repeats bytes at random places.
pub(crate) fn mutate(bytes: &mut Vec<u8>, seed: u64, changes: usize) {
    let mut dice = Dice(seed);
    for _ in 0..changes {
        let at = dice.below(bytes.len());
        match dice.below(8) {
            _ if bytes.is_empty() => return,
            0..=2 => bytes[at] ^= 1 << dice.below(8),
            3 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][dice.below(5)],
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(at..(at + 1 + dice.below(40)).min(bytes.len()))),
            6 => bytes.insert(at, dice.bytes::<1>()[0]),
            _ => {
                let copy = bytes[at..(at + 64).min(bytes.len())].to_vec();
                let to = dice.below(bytes.len());
                bytes.splice(to..to, copy);
            }
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

pub(crate) fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    assert!(text.len().is_multiple_of(2));
    let digits: Vec<u8> =
        text.chars().map(|c| u8::try_from(c.to_digit(16).unwrap()).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn vector_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors").join(name)
}

/// The vectors that the Python reference reads, too.
pub(crate) fn load_vectors(name: &str) -> Value {
    let path = vector_path(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// Writes vectors that do not exist yet; released ones are only ever added to.
pub(crate) fn save_vectors(name: &str, vectors: &Value) {
    let path = vector_path(name);
    assert!(!path.exists(), "{} exists", path.display());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, serde_json::to_string_pretty(vectors).unwrap() + "\n").unwrap();
}
