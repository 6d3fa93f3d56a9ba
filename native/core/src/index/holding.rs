//! How index runs are held in the memory that there is for them: whole, or in parts.

use super::RunName;

/// Blocks of entries kept of all runs that are not held whole, 64 KiB each.
const BLOCKS_KEPT: usize = 128;

/// Of a run that is not held whole, this share is: header, filter and pack table.
const PARTS_ONE_IN: u64 = 20;

/// How a run is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holding {
    Whole,
    Parts { blocks_kept: usize },
}

/// How to hold each of the runs in so much memory. The filters of all of them are held in any case.
pub(super) fn holdings(runs: &[RunName], memory_bytes: u64) -> Vec<(&RunName, Holding)> {
    let all: u64 = runs.iter().map(|run| run.size).sum();
    let filters = all / PARTS_ONE_IN;
    let mut left = if all <= memory_bytes { all } else { memory_bytes.saturating_sub(filters) };
    let is_whole: Vec<bool> = (runs.iter())
        .map(|run| {
            let fits = run.size <= left;
            left -= if fits { run.size } else { 0 };
            fits
        })
        .collect();
    let in_parts = is_whole.iter().filter(|is_whole| !**is_whole).count();
    let parts = Holding::Parts { blocks_kept: (BLOCKS_KEPT / in_parts.max(1)).max(2) };
    runs.iter()
        .zip(is_whole)
        .map(|(run, is_whole)| (run, if is_whole { Holding::Whole } else { parts }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{BLOCKS_KEPT, Holding, PARTS_ONE_IN, RunName, holdings};

    const MIB: u64 = 1 << 20;

    /// What is held of runs of these sizes, in bytes, with the blocks that are kept, and how many are whole.
    fn held(sizes: &[u64], memory_bytes: u64) -> (u64, usize) {
        let run = |size: &u64| RunName { name: String::new(), size: *size, base: false };
        let runs: Vec<_> = sizes.iter().map(run).collect();
        let found = holdings(&runs, memory_bytes);
        assert_eq!(found.len(), runs.len());
        let bytes = found.iter().map(|(run, holding)| match holding {
            Holding::Whole => run.size,
            Holding::Parts { blocks_kept } => {
                run.size / PARTS_ONE_IN + *blocks_kept as u64 * (64 << 10)
            }
        });
        let whole = found.iter().filter(|(_, holding)| *holding == Holding::Whole).count();
        (bytes.sum(), whole)
    }

    #[test]
    fn what_fits_is_held_whole_beside_the_filters_of_the_others() {
        assert_eq!(held(&[MIB; 10], 10 * MIB), (10 * MIB, 10));
        let blocks = BLOCKS_KEPT as u64 * (64 << 10);
        for (count, size, memory) in
            [(20, 34 * MIB, 40 * MIB), (3, 100 * MIB, 120 * MIB), (200, MIB, 40 * MIB)]
        {
            let sizes = vec![size; count];
            let (bytes, whole) = held(&sizes, memory);
            assert!(whole < count, "{count} runs do not all fit");
            assert!(
                bytes <= memory + blocks.max(2 * 64 * 1024 * count as u64),
                "{bytes} of {memory}"
            );
        }
        assert_eq!(held(&[100 * MIB, MIB], 10 * MIB).1, 1, "the short one fits");
        // However little there is, nothing can be found without filters.
        assert_eq!(held(&[100 * MIB], 0).1, 0);
        assert_eq!(held(&[], 0), (0, 0));
    }
}
