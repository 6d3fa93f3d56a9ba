//! Search for the least value, on the vector unit of the machine that runs it.
//!
//! Each kernel answers one small question: the least value in a block of positions. What is done
//! with the answers, and with that the choice among equals, is common code. A kernel may therefore
//! visit the positions of a block in any order, and all of them cut alike.
//!
//! Positions follow each other byte by byte, but a vector of 32-bit lanes holds every fourth one:
//! four loads, each a byte further, cover a full vector's width of positions.

// The one module of this crate with unsafe code: vector loads, reinterpretation of vector registers,
// and calls of functions that need a CPU feature.
#![expect(unsafe_code, reason = "vector instructions are unsafe to call")]

use std::fmt;
use std::sync::OnceLock;

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
use std::arch::aarch64 as arm;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64 as x86;

/// Bytes that a value is made of.
pub(super) const WINDOW_BYTES: usize = 4;

/// Positions whose least value is found at once. Measured: longer blocks make finding the position
/// afterwards dear where chunks are small, shorter ones the reduction of a vector to one value.
const BLOCK_POSITIONS: usize = 1024;

/// An implementation of the search that this machine can run. There is no way to make one that it
/// cannot: a value of this type is the proof that the CPU features were found.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kernel(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Sse41,
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    Neon,
    Scalar,
}

/// All kernels of this architecture, the fastest first.
const KINDS: &[Kind] = &[
    #[cfg(target_arch = "x86_64")]
    Kind::Avx512,
    #[cfg(target_arch = "x86_64")]
    Kind::Avx2,
    #[cfg(target_arch = "x86_64")]
    Kind::Sse41,
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    Kind::Neon,
    Kind::Scalar,
];

impl Kind {
    fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Sse41 => is_x86_feature_detected!("sse4.1"),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            Self::Scalar => true,
        }
    }
}

impl Kernel {
    /// The kernels that this machine can run, the fastest first; the scalar one is always the last.
    pub fn available() -> impl Iterator<Item = Self> {
        KINDS.iter().copied().filter(|kind| kind.is_available()).map(Self)
    }

    /// The fastest kernel that this machine can run; looked up once in the life of the process.
    pub fn fastest() -> Self {
        static FASTEST: OnceLock<Kernel> = OnceLock::new();
        *FASTEST.get_or_init(|| Self::available().next().unwrap_or(Self::scalar()))
    }

    /// The kernel without vector instructions of its own, which every machine can run.
    pub fn scalar() -> Self {
        Self(Kind::Scalar)
    }

    /// Its name, as in `avx2`.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Sse41 => "sse4.1",
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Kind::Neon => "neon",
            Kind::Scalar => "scalar",
        }
    }

    /// The position `p` with the least `u32le(data[p..p+4]) * multiplier + addend` modulo 2^32, the
    /// leftmost of equals. 0 if `data` holds no whole window.
    pub(super) fn argmin(self, data: &[u8], multiplier: u32, addend: u32) -> usize {
        let positions = (data.len() + 1).saturating_sub(WINDOW_BYTES);
        let block_at = |start: usize| {
            let end = positions.min(start + BLOCK_POSITIONS);
            &data[start..end + WINDOW_BYTES - 1]
        };
        if positions == 0 {
            return 0;
        }
        let (mut least, mut least_start) = (u32::MAX, 0);
        for start in (0..positions).step_by(BLOCK_POSITIONS) {
            let value = self.block_min(block_at(start), multiplier, addend);
            // Not less or equal: of equal blocks, the first one counts.
            if value < least {
                (least, least_start) = (value, start);
            }
        }
        let in_block = block_at(least_start)
            .windows(WINDOW_BYTES)
            .position(|window| value_of(window, multiplier, addend) == least);
        debug_assert!(in_block.is_some(), "{self:?} found a value that is not in its block");
        least_start + in_block.unwrap_or(0)
    }

    /// The least value over all whole windows of `block`; `u32::MAX` if there are none.
    fn block_min(self, block: &[u8], multiplier: u32, addend: u32) -> u32 {
        match self.0 {
            // SAFETY: for all arms: these functions are safe to call on a CPU that has the features
            // in their `target_feature`. A `Kernel` comes only from `available`, which has asked the
            // CPU for exactly these.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512(block, multiplier, addend) },
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2(block, multiplier, addend) },
            #[cfg(target_arch = "x86_64")]
            Kind::Sse41 => unsafe { sse41(block, multiplier, addend) },
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Kind::Neon => unsafe { neon(block, multiplier, addend) },
            Kind::Scalar => scalar(block, multiplier, addend),
        }
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernel({})", self.name())
    }
}

/// The value of the window at the start of `bytes`; `u32::MAX` if it is not whole.
#[inline]
fn value_of(bytes: &[u8], multiplier: u32, addend: u32) -> u32 {
    bytes.first_chunk().map_or(u32::MAX, |&window| {
        u32::from_le_bytes(window).wrapping_mul(multiplier).wrapping_add(addend)
    })
}

/// One pass for each remainder of the position modulo 4, so that the windows of a pass lie side by
/// side, and compilers make vectors of them where the machine has any.
fn scalar(block: &[u8], multiplier: u32, addend: u32) -> u32 {
    (0..WINDOW_BYTES)
        .filter_map(|phase| block.get(phase..))
        .flat_map(|from_phase| from_phase.as_chunks::<WINDOW_BYTES>().0)
        .fold(u32::MAX, |least, window| least.min(value_of(window, multiplier, addend)))
}

/// Defines the function `$name`, which returns what [`scalar`] returns, from the operations on a
/// vector of `$bytes` bytes. `$load` is given a pointer from which as many bytes may be read.
macro_rules! vector_kernel {
    (
        $(#[$attribute:meta])*
        fn $name:ident, $bytes:literal bytes,
        load $load:expr, splat $splat:expr, mul $mul:path, add $add:path, min $min:path,
        reduce $reduce:expr
    ) => {
        $(#[$attribute])*
        fn $name(block: &[u8], multiplier: u32, addend: u32) -> u32 {
            // Four shifted vectors reach three bytes past the positions that they cover.
            const STRIDE_BYTES: usize = $bytes + WINDOW_BYTES - 1;
            let (load, splat, reduce) = ($load, $splat, $reduce);
            let (multipliers, addends) = (splat(multiplier), splat(addend));
            let mut least = [splat(u32::MAX); WINDOW_BYTES];
            let mut rest = block;
            while let Some(stride) = rest.first_chunk::<STRIDE_BYTES>() {
                for (shift, least) in least.iter_mut().enumerate() {
                    // SAFETY: reads bytes `shift..shift + $bytes` of `stride`, which has
                    // `$bytes + 3` of them, and `shift` is at most 3.
                    let windows = unsafe { load(stride.as_ptr().add(shift)) };
                    *least = $min(*least, $add($mul(windows, multipliers), addends));
                }
                rest = &rest[$bytes..];
            }
            let [l0, l1, l2, l3] = least;
            let in_vectors: u32 = reduce($min($min(l0, l1), $min(l2, l3)));
            in_vectors.min(scalar(rest, multiplier, addend))
        }
    };
}

#[cfg(target_arch = "x86_64")]
vector_kernel! {
    #[target_feature(enable = "avx512f,avx512bw")]
    fn avx512, 64 bytes,
    // SAFETY: 64 bytes from `p` may be read, and an unaligned load asks for no alignment.
    load |p: *const u8| unsafe { x86::_mm512_loadu_si512(p.cast()) },
    splat |x: u32| x86::_mm512_set1_epi32(x.cast_signed()),
    mul x86::_mm512_mullo_epi32, add x86::_mm512_add_epi32, min x86::_mm512_min_epu32,
    reduce |v: x86::__m512i| x86::_mm512_reduce_min_epu32(v)
}

#[cfg(target_arch = "x86_64")]
vector_kernel! {
    #[target_feature(enable = "avx2")]
    fn avx2, 32 bytes,
    // SAFETY: 32 bytes from `p` may be read, and an unaligned load asks for no alignment.
    load |p: *const u8| unsafe { x86::_mm256_loadu_si256(p.cast()) },
    splat |x: u32| x86::_mm256_set1_epi32(x.cast_signed()),
    mul x86::_mm256_mullo_epi32, add x86::_mm256_add_epi32, min x86::_mm256_min_epu32,
    // SAFETY: a vector and an array of the same size, for both of which all bits are valid.
    reduce |v: x86::__m256i| least_lane(unsafe { std::mem::transmute::<x86::__m256i, [u32; 8]>(v) })
}

#[cfg(target_arch = "x86_64")]
vector_kernel! {
    #[target_feature(enable = "sse4.1")]
    fn sse41, 16 bytes,
    // SAFETY: 16 bytes from `p` may be read, and an unaligned load asks for no alignment.
    load |p: *const u8| unsafe { x86::_mm_loadu_si128(p.cast()) },
    splat |x: u32| x86::_mm_set1_epi32(x.cast_signed()),
    mul x86::_mm_mullo_epi32, add x86::_mm_add_epi32, min x86::_mm_min_epu32,
    // SAFETY: a vector and an array of the same size, for both of which all bits are valid.
    reduce |v: x86::__m128i| least_lane(unsafe { std::mem::transmute::<x86::__m128i, [u32; 4]>(v) })
}

#[cfg(target_arch = "x86_64")]
fn least_lane<const LANES: usize>(lanes: [u32; LANES]) -> u32 {
    lanes.into_iter().fold(u32::MAX, u32::min)
}

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
vector_kernel! {
    #[target_feature(enable = "neon")]
    fn neon, 16 bytes,
    // SAFETY: 16 bytes from `p` may be read, and a load of bytes asks for no alignment.
    load |p: *const u8| arm::vreinterpretq_u32_u8(unsafe { arm::vld1q_u8(p) }),
    splat |x: u32| arm::vdupq_n_u32(x),
    mul arm::vmulq_u32, add arm::vaddq_u32, min arm::vminq_u32,
    reduce |v: arm::uint32x4_t| arm::vminvq_u32(v)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, word for word.
    fn argmin_by_definition(data: &[u8], multiplier: u32, addend: u32) -> usize {
        let mut best = None;
        for position in 0..data.len().saturating_sub(3) {
            let window =
                [data[position], data[position + 1], data[position + 2], data[position + 3]];
            let value = u32::from_le_bytes(window).wrapping_mul(multiplier).wrapping_add(addend);
            if best.is_none_or(|(least, _)| value < least) {
                best = Some((value, position));
            }
        }
        best.map_or(0, |(_, position)| position)
    }

    #[track_caller]
    fn assert_all_agree(data: &[u8], multiplier: u32, addend: u32) {
        let expected = argmin_by_definition(data, multiplier, addend);
        for kernel in Kernel::available() {
            let found = kernel.argmin(data, multiplier, addend);
            let length = data.len();
            assert_eq!(found, expected, "{kernel:?}, {length} bytes, * {multiplier} + {addend}");
        }
    }

    fn any_data() -> impl Strategy<Value = Vec<u8>> {
        // Lengths at and around a whole number of vectors and blocks, and any others.
        let length = prop_oneof![
            0_usize..300,
            (1_usize..5, 0_usize..140).prop_map(|(blocks, more)| {
                (blocks * BLOCK_POSITIONS + more).saturating_sub(70)
            }),
            0_usize..20_000,
        ];
        length.prop_flat_map(|length| {
            prop_oneof![
                prop::collection::vec(any::<u8>(), length),
                prop::collection::vec(0_u8..2, length),
                any::<u8>().prop_map(move |byte| vec![byte; length]),
                prop::collection::vec(any::<u8>(), 1..70).prop_map(move |unit| unit
                    .into_iter()
                    .cycle()
                    .take(length)
                    .collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn kernels_agree(data in any_data(), multiplier: u32, addend: u32, skip in 0_usize..64) {
            // Skipping bytes moves the data against all alignments.
            let data = data.get(skip..).unwrap_or(&data);
            assert_all_agree(data, multiplier | 1, addend);
        }

        #[test]
        fn leftmost_of_planted_ties_wins(
            mut data in prop::collection::vec(1_u8..=255, 4..12_000),
            places in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
        ) {
            // With a = 1 and b = 0 a window of zeros is the least there is, and without zeros
            // elsewhere the planted ones are the only ones.
            let mut first = usize::MAX;
            for place in places {
                let position = place.index(data.len() - 3);
                first = first.min(position);
                data[position..position + 4].fill(0);
            }
            for kernel in Kernel::available() {
                prop_assert_eq!(kernel.argmin(&data, 1, 0), first, "{:?}", kernel);
            }
        }
    }

    #[test]
    fn a_single_least_window_is_found_at_every_position() {
        let length = BLOCK_POSITIONS + 200;
        let mut data = vec![0xff; length];
        for position in 0..=length - 4 {
            data[position..position + 4].fill(0);
            for kernel in Kernel::available() {
                assert_eq!(kernel.argmin(&data, 1, 0), position, "{kernel:?}");
            }
            data[position..position + 4].fill(0xff);
        }
    }

    #[test]
    fn equal_values_of_all_kinds_give_the_leftmost() {
        for addend in [0, 1, u32::MAX, 0x8000_0000] {
            for length in (0..400).chain(1020..1100).chain([2050, 2051, 2052, 9000]) {
                assert_all_agree(&vec![0; length], 1, addend);
                assert_all_agree(&vec![0xff; length], 0x9e37_79b1, addend);
            }
        }
    }

    #[test]
    fn comparison_is_unsigned() {
        // Values 0x7fff_ffff, then 0x8000_0000, then 0x7fff_ffff again.
        let data = [0x7fff_ffff_u32, 0x8000_0000, 0x7fff_fffe].map(u32::to_le_bytes).concat();
        for repeat in [1, 50, 1000] {
            assert_all_agree(&data.repeat(repeat), 1, 0);
        }
    }

    #[test]
    fn the_fastest_kernel_is_available_and_scalar_is_last() {
        let available: Vec<_> = Kernel::available().collect();
        assert_eq!(available.first(), Some(&Kernel::fastest()));
        assert_eq!(available.last(), Some(&Kernel::scalar()));
        let names: Vec<_> = available.iter().map(|kernel| kernel.name()).collect();
        println!("kernels of this machine: {names:?}");
    }
}
