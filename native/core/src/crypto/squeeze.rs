//! zstd, with contexts that are used again.

use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, ResetDirective, Strategy, get_error_name};

use crate::error::{Error, Result};

/// The level at which [`Zstd`] chooses by what it meets.
const USUAL_LEVEL: i32 = zstd::DEFAULT_COMPRESSION_LEVEL;
/// What shrinks to less than one part in this many is easy.
const EASY: usize = 4;
/// What shrinks by less than one part in this many is hard: nothing is gained by trying harder.
const HARD: usize = 32;
/// Bytes of the shortest match that is looked for in what is easy, and entries of the table for it, as a power
/// of two: it fits the second cache.
const EASY_MATCH_BYTES: u32 = 5;
const EASY_TABLE: u32 = 16;

/// Compresses blobs one after the other.
///
/// At the usual level, what comes after easy data is taken for easy too, and met with a greedy search for
/// short matches. On pages of a database that is a fifth faster than the level itself and no larger; on
/// text and programs, which are not easy, it would be 2 to 3 % larger. See `docs/adr/0009`.
pub(super) struct Zstd {
    level: i32,
    by_level: Compressor<'static>,
    easy: Option<Compressor<'static>>,
    is_easy: bool,
    is_hard: bool,
}

impl Zstd {
    pub(super) fn new() -> Result<Self> {
        let by_level = Compressor::new(USUAL_LEVEL).map_err(|error| failed(&error))?;
        Ok(Self { level: USUAL_LEVEL, by_level, easy: None, is_easy: false, is_hard: false })
    }

    /// Compresses `raw` into `out`; the length, or `None` if there is not enough room.
    pub(super) fn compress(
        &mut self,
        level: i32,
        raw: &[u8],
        out: &mut [u8],
    ) -> Result<Option<usize>> {
        let context =
            if level == USUAL_LEVEL && self.is_easy { self.for_easy()? } else { self.at(level)? };
        // All that can fail is for lack of room. That leaves the context inside a frame, where it takes
        // no other level.
        let len = context.compress_to_buffer(raw, out).ok();
        if len.is_none() {
            context
                .context_mut()
                .reset(ResetDirective::SessionOnly)
                .map_err(|code| Error::internal(format!("zstd: {}", get_error_name(code))))?;
        }
        self.is_easy = len.is_some_and(|len| len < raw.len() / EASY);
        self.is_hard = len.is_none_or(|len| len > raw.len() - raw.len() / HARD);
        Ok(len)
    }

    /// Whether what was compressed last has hardly shrunk.
    pub(super) fn is_hard(&self) -> bool {
        self.is_hard
    }

    fn at(&mut self, level: i32) -> Result<&mut Compressor<'static>> {
        if level != self.level {
            self.by_level.set_compression_level(level).map_err(|error| failed(&error))?;
            self.level = level;
        }
        Ok(&mut self.by_level)
    }

    fn for_easy(&mut self) -> Result<&mut Compressor<'static>> {
        let easy = match self.easy.take() {
            Some(easy) => easy,
            None => new_easy().map_err(|error| failed(&error))?,
        };
        Ok(self.easy.insert(easy))
    }
}

fn new_easy() -> std::io::Result<Compressor<'static>> {
    let mut easy = Compressor::new(USUAL_LEVEL)?;
    easy.set_parameter(CParameter::Strategy(Strategy::ZSTD_fast))?;
    easy.set_parameter(CParameter::MinMatch(EASY_MATCH_BYTES))?;
    easy.set_parameter(CParameter::HashLog(EASY_TABLE))?;
    Ok(easy)
}

/// A call that failed and should not have.
pub(super) fn failed(error: &std::io::Error) -> Error {
    Error::internal(format!("zstd: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of numbers that count up and text that repeats, like a page of a table.
    fn easy(seed: u32) -> Vec<u8> {
        (0..20_000u32)
            .flat_map(|row| [(row * 7 + seed).to_le_bytes(), *b"abcd", [0; 4]].concat())
            .collect()
    }

    fn hard(seed: u64) -> Vec<u8> {
        let mut out = vec![0; 300_000];
        blake3::Hasher::new_derive_key("hard")
            .update(&seed.to_le_bytes())
            .finalize_xof()
            .fill(&mut out);
        out
    }

    #[test]
    fn whatever_came_before_what_comes_out_is_what_went_in() {
        let mut zstd = Zstd::new().unwrap();
        let mut out = vec![0; 400_000];
        let mut was_easy = 0;
        for round in 0..40u32 {
            let raw = if round % 5 == 4 { hard(round.into()) } else { easy(round) };
            let level = [3, 3, 9, 1][round as usize / 3 % 4];
            let end = raw.len() - 1;
            let Some(len) = zstd.compress(level, &raw, &mut out[..end]).unwrap() else {
                assert_eq!(round % 5, 4);
                assert!(!zstd.is_easy);
                continue;
            };
            was_easy += u32::from(zstd.is_easy);
            assert_eq!(zstd::bulk::decompress(&out[..len], raw.len()).unwrap(), raw);
        }
        assert!(was_easy > 20, "{was_easy}");
    }

    #[test]
    fn what_hardly_shrinks_is_hard() {
        let (mut zstd, mut out) = (Zstd::new().unwrap(), vec![0; 400_000]);
        assert!(!zstd.is_hard());
        let mixed = [easy(1)[..30_000].to_vec(), hard(2)].concat();
        for (raw, is_hard) in [(easy(1), false), (hard(1), true), (mixed, false), (hard(3), true)] {
            for level in [3, 9] {
                let end = raw.len() - 1;
                let _ = zstd.compress(level, &raw, &mut out[..end]).unwrap();
                assert_eq!(zstd.is_hard(), is_hard);
            }
        }
    }

    #[test]
    fn what_is_easy_is_met_in_another_way_at_the_usual_level_alone() {
        let mut out = vec![0; 400_000];
        let raw = easy(1);
        let mut lengths = |level| {
            let mut zstd = Zstd::new().unwrap();
            [0; 2].map(|_| zstd.compress(level, &raw, &mut out).unwrap().unwrap())
        };
        let [first, second] = lengths(USUAL_LEVEL);
        assert_ne!(first, second);
        let [first, second] = lengths(USUAL_LEVEL + 1);
        assert_eq!(first, second);
    }
}
