//! What this machine could do at best: each stage of a backup measured alone, in one thread and in
//! all of them, on data that is in memory. What a backup reaches can be held against it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde::{Deserialize, Serialize};

use super::BASE64;
use crate::chunk::{Argmin, ArgminSizes, Chunker, CutKey};
use crate::crypto::{
    BlobKey, BlobKind, BlobSealer, Compression, InitOptions, Keyring, ObjectType, ScopeKeys,
};
use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::PACK_BYTES_MAX;

/// Average chunk that is measured, in bytes.
const CHUNK_BYTES: usize = 512 << 10;
/// Bytes of one read.
const READ_BYTES: usize = 1 << 20;
/// Bytes that are written to a file before the next one.
const FILE_BYTES: usize = 64 << 20;

/// Options of `limits`.
#[derive(Clone, Debug, Deserialize)]
pub struct LimitsOptions {
    /// A file, or a directory of files, to take data from: base64 of its path. Without it, data is
    /// made up of which half compresses well and half not at all, and reading is not measured.
    #[serde(default)]
    pub path_b64: Option<String>,
    /// A directory to write to: base64 of its path. Without it, writing is not measured.
    #[serde(default)]
    pub directory_b64: Option<String>,
    /// Most bytes of data to take, which are held in memory.
    #[serde(default = "default_sample")]
    pub sample_bytes: u64,
    /// Threads that `all` stands for; 0 for one a core.
    #[serde(default)]
    pub threads: usize,
    /// How long to measure each stage, in milliseconds; the data is gone over at least once.
    #[serde(default = "default_milliseconds")]
    pub milliseconds: u64,
}

const fn default_sample() -> u64 {
    64 << 20
}

const fn default_milliseconds() -> u64 {
    500
}

/// Speed of a stage in GB (10^9 bytes) of its input a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// In one thread.
    pub one: f64,
    /// In all threads together.
    pub all: f64,
}

/// By stage: `read`, `chunk`, `hash`, `compress_1`, `compress_3`, `compress_9`, `seal`, `write`.
pub type LimitsResult = BTreeMap<&'static str, Speed>;

/// Measures.
///
/// - `read`: the files of `path` into a buffer, from the page cache.
/// - `chunk`: content-defined, 512 KiB on average. `hash`: the ids of such chunks.
/// - `compress_<level>`: these chunks by zstd.
/// - `seal`: into a blob and that into an object, uncompressed.
/// - `write`: files of 64 MiB into `directory`, each flushed to the disk, then removed.
///
/// Fails when the data or the directory cannot be used.
pub fn limits(options: &LimitsOptions) -> Result<LimitsResult> {
    let sample = Sample::load(options)?;
    let keys = Keys::new()?;
    let clock = Clock {
        threads: match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads.min(256),
        },
        time: Duration::from_millis(options.milliseconds),
    };
    let mut result = LimitsResult::new();
    if !sample.files.is_empty() {
        result.insert("read", clock.measure(|_| Ok(|| read_files(&sample.files)))?);
    }
    result.insert("chunk", clock.measure(|_| Ok(|| Ok(cut_all(&keys.chunker, &sample.data))))?);
    let chunks: Vec<&[u8]> = keys
        .chunker
        .chunks(0, &sample.data, true)
        .filter_map(|range| sample.data.get(range))
        .collect();
    result.insert("hash", clock.measure(|_| Ok(|| Ok(hash_all(&keys, &chunks))))?);
    for (name, level) in [("compress_1", 1), ("compress_3", 3), ("compress_9", 9)] {
        let speed = clock.measure(|_| {
            let mut zstd = zstd::bulk::Compressor::new(level)
                .map_err(|error| Error::internal(format!("zstd: {error}")))?;
            let mut buffer = vec![0; zstd::zstd_safe::compress_bound(CHUNK_BYTES * 2)];
            let chunks = &chunks;
            Ok(move || compress_all(&mut zstd, &mut buffer, chunks))
        })?;
        result.insert(name, speed);
    }
    let speed = clock.measure(|_| {
        let mut sealer = BlobSealer::new()?;
        let (keys, chunks) = (&keys, &chunks);
        Ok(move || seal_all(keys, &mut sealer, chunks))
    })?;
    result.insert("seal", speed);
    if let Some(directory) = &options.directory_b64 {
        let scratch = Scratch::new(&decode(directory)?)?;
        let (scratch, data) = (&scratch, &sample.data);
        let speed = clock.measure(|thread| Ok(move || scratch.write(thread, data)))?;
        result.insert("write", speed);
    }
    Ok(result)
}

fn decode(path_b64: &str) -> Result<PathBuf> {
    let usage = |_| Error::new(ErrorKind::Usage, "a path that is not base64");
    let bytes = BASE64.decode(path_b64).map_err(usage)?;
    Ok(PathBuf::from(OsStr::from_bytes(&bytes)))
}

fn io_error(what: &'static str, path: &Path, error: &std::io::Error) -> Error {
    let mut failed = Error::new(ErrorKind::Io, what).at(path.display().to_string());
    failed.os_error = error.raw_os_error();
    failed
}

/// The data that stages work on.
struct Sample {
    data: Vec<u8>,
    /// Files, and how much of each.
    files: Vec<(PathBuf, u64)>,
}

impl Sample {
    fn load(options: &LimitsOptions) -> Result<Self> {
        let bytes_max = options.sample_bytes.clamp(CHUNK_BYTES as u64 * 2, PACK_BYTES_MAX);
        let Some(path) = &options.path_b64 else {
            return Ok(Self { data: made_up(bytes_max)?, files: Vec::new() });
        };
        let mut sample = Self { data: Vec::new(), files: Vec::new() };
        let mut pending = vec![decode(path)?];
        while let Some(path) = pending.pop() {
            let left = bytes_max.saturating_sub(sample.data.len() as u64);
            if left == 0 {
                break;
            }
            let failed = |error| io_error("cannot read the sample", &path, &error);
            let metadata = fs::symlink_metadata(&path).map_err(failed)?;
            if metadata.is_dir() {
                let entries = fs::read_dir(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
                let mut paths: Vec<_> =
                    entries.map_err(failed)?.into_iter().map(|entry| entry.path()).collect();
                paths.sort_unstable_by(|a, b| b.cmp(a));
                pending.append(&mut paths);
            } else if metadata.is_file() {
                let mut file = File::open(&path).map_err(failed)?.take(left);
                let read = file.read_to_end(&mut sample.data).map_err(failed)?;
                if read > 0 {
                    sample.files.push((path, read as u64));
                }
            }
        }
        if sample.data.is_empty() {
            return Err(Error::new(ErrorKind::Usage, "no data to measure with"));
        }
        Ok(sample)
    }
}

/// Noise and words by turns, 64 KiB of each.
fn made_up(bytes: u64) -> Result<Vec<u8>> {
    let mut data = vec![0; usize::try_from(bytes).unwrap_or(FILE_BYTES)];
    let mut seed = [0; 32];
    crate::random(&mut seed)?;
    for (index, block) in data.chunks_mut(64 << 10).enumerate() {
        if index % 2 == 0 {
            let mut noise = blake3::Hasher::new_keyed(&seed);
            noise.update(&index.to_le_bytes()).finalize_xof().fill(block);
        } else {
            for (line, words) in block.chunks_mut(64).enumerate() {
                let text = format!("{index:08} {line:08} INFO request served in {line} ms\n");
                words.iter_mut().zip(text.bytes().cycle()).for_each(|(to, from)| *to = from);
            }
        }
    }
    Ok(data)
}

/// Keys that nobody uses afterwards.
struct Keys {
    scope: ScopeKeys,
    data: BlobKey,
    chunker: Chunker,
}

impl Keys {
    fn new() -> Result<Self> {
        let (keyring, ..) = Keyring::init_repository(&InitOptions::default())?;
        let scopes = keyring.scopes();
        let id = scopes.first().ok_or_else(|| Error::internal("a repository without a scope"))?;
        let scope = keyring.scope(id)?;
        let (data, _) = scope.new_data_key()?;
        let average = CHUNK_BYTES as u64;
        let sizes = ArgminSizes::from_stored(average / 2, average, average / 2 * 3)?;
        let secret = scope.chunker_secret()?;
        let chunker = Chunker::Argmin(Argmin::new(sizes, CutKey::new(secret.expose())));
        Ok(Self { scope, data, chunker })
    }
}

fn read_files(files: &[(PathBuf, u64)]) -> Result<u64> {
    let mut buffer = vec![0; READ_BYTES];
    let mut total = 0;
    for (path, bytes) in files {
        let failed = |error| io_error("cannot read the sample", path, &error);
        let mut file = File::open(path).map_err(failed)?.take(*bytes);
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => break,
                count => total += count as u64,
            }
        }
    }
    Ok(total)
}

fn cut_all(chunker: &Chunker, data: &[u8]) -> u64 {
    chunker.chunks(0, data, true).map(|range| std::hint::black_box(range).len() as u64).sum()
}

fn total(chunks: &[&[u8]]) -> u64 {
    chunks.iter().map(|chunk| chunk.len() as u64).sum()
}

fn hash_all(keys: &Keys, chunks: &[&[u8]]) -> u64 {
    for chunk in chunks {
        std::hint::black_box(keys.data.id_key().id(chunk));
    }
    total(chunks)
}

fn compress_all(
    zstd: &mut zstd::bulk::Compressor<'_>,
    buffer: &mut Vec<u8>,
    chunks: &[&[u8]],
) -> Result<u64> {
    for chunk in chunks {
        let bound = zstd::zstd_safe::compress_bound(chunk.len());
        if buffer.len() < bound {
            buffer.resize(bound, 0);
        }
        zstd.compress_to_buffer(chunk, buffer.as_mut_slice())
            .map_err(|error| Error::internal(format!("zstd: {error}")))?;
        std::hint::black_box(&buffer);
    }
    Ok(total(chunks))
}

fn seal_all(keys: &Keys, sealer: &mut BlobSealer, chunks: &[&[u8]]) -> Result<u64> {
    for chunk in chunks {
        // Sealing does not look at the id; the time that makes it is measured by `hash`.
        let blob = sealer.seal(&keys.data, BlobKind::Data, &[0; 32], chunk, Compression::Stored)?;
        let object = keys.scope.objects().seal_object(ObjectType::DataPack, "limits", blob)?;
        std::hint::black_box(object);
    }
    Ok(total(chunks))
}

/// A directory that is removed with all that is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: &Path) -> Result<Self> {
        let mut name = [0; 8];
        crate::random(&mut name)?;
        let path = parent.join(format!(".pvback-limits-{:016x}", u64::from_le_bytes(name)));
        let failed = |error| io_error("cannot make a directory to write to", &path, &error);
        fs::create_dir(&path).map_err(failed)?;
        Ok(Self(path))
    }

    fn write(&self, thread: usize, data: &[u8]) -> Result<u64> {
        let path = self.0.join(thread.to_string());
        let failed = |error| io_error("cannot write", &path, &error);
        for part in data.chunks(FILE_BYTES) {
            let mut file = File::create(&path).map_err(failed)?;
            file.write_all(part).and_then(|()| file.sync_all()).map_err(failed)?;
            fs::remove_file(&path).map_err(failed)?;
        }
        Ok(data.len() as u64)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing is lost if it stays, and there is nobody to tell.
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Clock {
    threads: usize,
    time: Duration,
}

impl Clock {
    /// Measures what `stage` makes for each thread by its number: a round of work that says how many
    /// bytes it went over.
    fn measure<W: FnMut() -> Result<u64>>(
        &self,
        stage: impl Fn(usize) -> Result<W> + Sync,
    ) -> Result<Speed> {
        let one = self.rate(1, &stage)?;
        let all = if self.threads > 1 { self.rate(self.threads, &stage)? } else { one };
        Ok(Speed { one, all })
    }

    fn rate<W: FnMut() -> Result<u64>>(
        &self,
        threads: usize,
        stage: &(impl Fn(usize) -> Result<W> + Sync),
    ) -> Result<f64> {
        let ready = Barrier::new(threads);
        let one = |thread: usize| -> Result<f64> {
            // Everybody comes to the barrier, also who cannot work.
            let work = stage(thread);
            ready.wait();
            let mut work = work?;
            let began = Instant::now();
            let mut bytes = 0_u64;
            loop {
                bytes += work()?;
                let elapsed = began.elapsed();
                if elapsed >= self.time {
                    #[expect(clippy::cast_precision_loss, reason = "a rate to show")]
                    return Ok(bytes as f64 / elapsed.as_secs_f64() / 1e9);
                }
            }
        };
        std::thread::scope(|scope| {
            let one = &one;
            let running: Vec<_> =
                (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
            running.into_iter().try_fold(0.0, |sum, thread| {
                let rate = thread.join().map_err(|_| Error::internal("a stage broke off"))??;
                Ok(sum + rate)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(path: Option<&Path>, directory: Option<&Path>) -> LimitsOptions {
        let encode = |path: &Path| BASE64.encode(path.as_os_str().as_bytes());
        LimitsOptions {
            path_b64: path.map(encode),
            directory_b64: directory.map(encode),
            sample_bytes: 1 << 20,
            threads: 2,
            milliseconds: 1,
        }
    }

    #[test]
    fn every_stage_has_a_speed_and_nothing_is_left_behind() {
        let source = tempfile::tempdir().unwrap();
        let target = tempfile::tempdir().unwrap();
        fs::create_dir(source.path().join("sub")).unwrap();
        fs::write(source.path().join("sub/a"), made_up(2 << 20).unwrap()).unwrap();
        let result = limits(&options(Some(source.path()), Some(target.path()))).unwrap();
        let stages: Vec<_> = result.keys().copied().collect();
        let expected =
            ["chunk", "compress_1", "compress_3", "compress_9", "hash", "read", "seal", "write"];
        assert_eq!(stages, expected);
        for (stage, speed) in &result {
            assert!(speed.one > 0.0 && speed.all > 0.0, "{stage}: {speed:?}");
        }
        assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
        let result = limits(&options(None, None)).unwrap();
        assert!(!result.contains_key("read") && !result.contains_key("write"));
        assert_eq!(limits(&options(Some(target.path()), None)).unwrap_err().kind, ErrorKind::Usage);
        let missing = target.path().join("missing");
        let error = limits(&options(None, Some(&missing))).unwrap_err();
        assert_eq!((error.kind, error.os_error), (ErrorKind::Io, Some(2)));
    }

    #[test]
    fn made_up_data_compresses_by_half() {
        let data = made_up(4 << 20).unwrap();
        let packed = zstd::bulk::compress(&data, 3).unwrap().len();
        assert!((data.len() * 2 / 5..data.len() * 3 / 5).contains(&packed), "{packed}");
    }
}
