//! Contents: short, long, merged, changed in one place.

use proptest::prelude::*;

use super::super::content::{EXTENT_PAGE_BYTES_MAX, INLINE_BYTES_MAX};
use super::super::extents::ExtentIter;
use super::*;

fn content_of(extents: &[Extent], pages: &mut Pages) -> Content {
    let mut builder = ContentBuilder::new(page_key());
    for extent in extents {
        builder.push(*extent, pages).unwrap();
    }
    let covered = builder.covered();
    let so_far = builder.so_far(pages).unwrap();
    let content = builder.finish(pages).unwrap();
    assert_eq!(content.covered(), Some(covered));
    assert_eq!(so_far, content);
    content
}

fn read(pages: &Pages, content: &Content, start: u64) -> Vec<(u64, Extent)> {
    ExtentIter::new(pages, content, start).map(Result::unwrap).collect()
}

/// Chunks as they come from a large file.
fn chunks(seed: u64, count: u64) -> Vec<Extent> {
    (0..count).map(|n| Extent::data(id(seed << 32 | n), 0, 500_000 + n % 1000)).collect()
}

#[test]
fn neighbours_become_one() {
    let mut pages = Pages::default();
    let extents = [
        Extent::hole(5),
        Extent::hole(6),
        Extent::zero(0),
        Extent::data(id(1), 0, 10),
        Extent::data(id(1), 10, 20),
        Extent::data(id(1), 31, 1),
        Extent::data(id(2), 32, 1),
        Extent::zero(1),
        Extent::zero(2),
        Extent::hole(3),
        Extent::hole((1 << 62) - 1),
    ];
    let content = content_of(&extents, &mut pages);
    assert_eq!(
        content,
        Content::Inline(vec![
            Extent::hole(11),
            Extent::data(id(1), 0, 30),
            Extent::data(id(1), 31, 1),
            Extent::data(id(2), 32, 1),
            Extent::zero(3),
            Extent::hole(3),
            Extent::hole((1 << 62) - 1),
        ])
    );
    assert_eq!(pages.len(), 0);
    let mut builder = ContentBuilder::new(page_key());
    for _ in 0..4 {
        builder.push(Extent::hole((1 << 62) - 1), &mut pages).unwrap();
    }
    assert!(builder.push(Extent::hole(100), &mut pages).is_err());
    assert!(builder.push(Extent::data(id(1), 1 << 24, 1), &mut pages).is_err());
}

#[test]
fn long_files_move_out_level_by_level() {
    for (count, level) in [(0, 0), (10, 0), (455, 0), (456, 1), (100_000, 1), (1_000_000, 2)] {
        let mut pages = Pages::default();
        let extents = chunks(1, count);
        let content = content_of(&extents, &mut pages);
        match &content {
            Content::Inline(_) => assert_eq!(level, 0, "{count} extents"),
            Content::Pages { level: found, refs } => {
                assert_eq!(*found, level, "{count} extents");
                assert!(refs.len() * 32 <= INLINE_BYTES_MAX);
            }
        }
        let longest = pages.all().iter().map(|(_, raw)| raw.len()).max().unwrap_or_default();
        // Positions in the table come on top of what decides about borders.
        assert!(longest <= EXTENT_PAGE_BYTES_MAX / 16 * 17, "{longest}");
        let read = read(&pages, &content, 0);
        assert!(read.iter().map(|(_, extent)| extent).eq(&extents));
        assert!(pages.batch_max.get() <= 16);
    }
}

#[test]
fn one_changed_chunk_is_a_few_pages() {
    let mut pages = Pages::default();
    let mut extents = chunks(2, 200_000);
    content_of(&extents, &mut pages);
    let whole = pages.added();
    assert!(whole > 100, "{whole}");
    extents[77_777] = Extent::data(id(9), 0, 1234);
    content_of(&extents, &mut pages);
    let added = pages.added();
    assert!((1..=4).contains(&added), "{added} pages for one change");
    extents.insert(100_000, Extent::hole(1 << 20));
    extents.remove(150_000);
    content_of(&extents, &mut pages);
    let added = pages.added();
    assert!((2..=8).contains(&added), "{added} pages for two changes");
}

#[test]
fn reading_from_the_middle_skips_pages() {
    let mut pages = Pages::default();
    let extents = chunks(3, 300_000);
    let content = content_of(&extents, &mut pages);
    let all = read(&pages, &content, 0);
    pages.read();
    for at in [0, 1, 150_000, 299_999] {
        let (offset, extent) = all[at];
        for start in [offset, offset + 1, offset + extent.length - 1] {
            let first = ExtentIter::new(&pages, &content, start).next().unwrap().unwrap();
            assert_eq!(first, (offset, extent));
            assert!(pages.read() <= 17);
        }
    }
    assert!(ExtentIter::new(&pages, &content, u64::MAX).next().is_none());
    assert_eq!(pages.read(), 0);
}

#[test]
fn pages_in_wrong_places_are_seen() {
    let mut pages = Pages::default();
    let content = content_of(&chunks(4, 5000), &mut pages);
    let Content::Pages { level: 1, refs } = &content else { panic!("not in pages") };
    let (first, second) = (refs[0].0, refs[1].0);
    let original = pages.all();
    let page = |id| original.iter().find(|(other, _)| *other == id).unwrap().1.clone();
    pages.replace(first, page(second));
    let results: Vec<_> = ExtentIter::new(&pages, &content, 0).collect();
    assert_eq!(results.len(), 1, "the iteration ends with the first error");
    assert_eq!(results[0].as_ref().unwrap_err().kind, ErrorKind::Damaged);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn round_trip(seed in any::<u64>(), count in 0_usize..6000) {
        let mut dice = Dice(seed);
        let mut pages = Pages::default();
        let mut flat: Vec<(Extent, u64)> = Vec::new();
        let mut offset = 0;
        let extents: Vec<Extent> = (0..count).map(|_| {
            let length = 1 + dice.next() % 100;
            match dice.below(6) {
                0 => Extent::hole(length),
                1 => Extent::zero(length),
                _ => Extent::data(id(dice.next() % 500), dice.below(300) as u32, length),
            }
        }).collect();
        let content = content_of(&extents, &mut pages);
        for extent in &extents {
            flat.push((*extent, offset));
            offset += extent.length;
        }
        // Merged or not, each byte is still the same byte.
        let byte = |extent: &Extent, at: u64| match extent.kind {
            ExtentKind::Data { id, offset } => Some((id, u64::from(offset) + at)),
            ExtentKind::Hole => None,
            ExtentKind::Zero => Some((Id([0; 32]), 0)),
        };
        let mut pieces = flat.iter();
        let mut piece = pieces.next();
        for (start, extent) in read(&pages, &content, 0) {
            for at in 0..extent.length {
                while piece.is_some_and(|(p, from)| from + p.length <= start + at) {
                    piece = pieces.next();
                }
                let (expected, from) = piece.unwrap();
                prop_assert_eq!(byte(&extent, at), byte(expected, start + at - from));
            }
        }
        prop_assert_eq!(content.covered(), Some(offset));
    }
}
