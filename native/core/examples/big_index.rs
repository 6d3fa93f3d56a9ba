//! Writes the index of a repository that was never backed up into: runs, and the reference sets of snapshots
//! that need most of what they list. `benchmarks/big_index.py` makes the rest and measures on it.
//!
//! `big_index ROOT SCOPE`, the password in `PVBACK_PASSWORD` and on standard input
//! `{"gen","chunks","unused_one_in","run_entries","pack_entries","seed","snapshots":[id]}`; on standard output
//! `{"runs":[name],"refs":{snapshot:[{"name","hash"}]}}`. ROOT is a repository in a directory that an owner's
//! password opens. Chunk c is in pack c / `pack_entries` and, as a merge leaves them, in the run for its part
//! of the ids; so every run lists nearly every pack. No pack is written: nothing here reads one.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pvback_core::crypto::{Action, Config, KeyFile, Keyring, ObjectType, ScopeId, ScopeKeys};
use pvback_core::format::ShortId;
use pvback_core::format::pack::{Envelope, PackKind};
use pvback_core::format::refs::RefSetBuilder;
use pvback_core::format::run::{Location, NewPack, RunBuilder};
use pvback_core::scope::hex16;
use serde::{Deserialize, Serialize};

/// Sealed bytes of one chunk: half of an average one.
const SEALED_BYTES: u32 = 256 << 10;

type Outcome<T> = Result<T, Box<dyn Error>>;

#[derive(Deserialize)]
struct Plan {
    #[serde(rename = "gen")]
    generation: u64,
    chunks: u64,
    /// Of so many chunks one is needed by no snapshot.
    unused_one_in: u64,
    run_entries: u64,
    pack_entries: u32,
    seed: u64,
    snapshots: Vec<String>,
}

#[derive(Serialize)]
struct Named {
    name: String,
    hash: String,
}

#[derive(Serialize)]
struct Made {
    runs: Vec<String>,
    refs: BTreeMap<String, Vec<Named>>,
}

struct Maker {
    keys: ScopeKeys,
    /// Where the scope's objects lie.
    home: PathBuf,
    plan: Plan,
    run_count: u64,
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [root, scope] = arguments.as_slice() else {
        return Err("usage: big_index ROOT SCOPE < PLAN".into());
    };
    let plan: Plan = serde_json::from_reader(io::stdin())?;
    if plan.chunks == 0 || plan.unused_one_in == 0 || plan.run_entries == 0 {
        return Err("counts in the plan are at least 1".into());
    }
    let root = Path::new(root);
    let run_count = plan.chunks.div_ceil(plan.run_entries);
    let keys = unlock(root)?.scope(&ScopeId::parse(scope)?)?;
    let maker = Maker { keys, home: root.join("s").join(scope), plan, run_count };
    let made = Made { runs: maker.write_runs()?, refs: maker.write_all_refs()? };
    serde_json::to_writer(io::stdout(), &made)?;
    Ok(())
}

/// The first key of the repository that the password opens.
fn unlock(root: &Path) -> Outcome<Keyring> {
    let password = std::env::var("PVBACK_PASSWORD")?;
    let config = fs::read(root.join("config"))?;
    for entry in fs::read_dir(root.join("keys"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let file = KeyFile::parse(&fs::read(path)?)?;
            let config = Config::parse(&config, None)?;
            if let Ok(keyring) = Keyring::unlock_passphrase(config, &file, password.as_bytes()) {
                return Ok(keyring);
            }
        }
    }
    Err("the password opens no key".into())
}

impl Maker {
    fn write_runs(&self) -> Outcome<Vec<String>> {
        let pack_count = self.plan.chunks.div_ceil(u64::from(self.plan.pack_entries));
        let packs: Vec<NewPack> =
            (0..pack_count).map(|number| self.pack(number)).collect::<Outcome<_>>()?;
        (0..self.run_count)
            .map(|number| {
                let name =
                    format!("{:016x}-{}", self.plan.generation, hex16(&self.digest("run", number)));
                let body = self.run(number, &packs)?;
                self.put(ObjectType::Run, &format!("index/{name}"), Action::Replace, body)?;
                Ok(name)
            })
            .collect()
    }

    fn pack(&self, number: u64) -> Outcome<NewPack> {
        let (_, envelope) = self.keys.new_data_key()?;
        let envelope: Envelope = envelope.to_bytes();
        Ok(NewPack {
            name: self.digest("pack", number),
            kind: PackKind::Data,
            object_bytes: self
                .plan
                .pack_entries
                .checked_add(1)
                .and_then(|entries| entries.checked_mul(SEALED_BYTES))
                .ok_or("packs of so many chunks are too long")?,
            envelopes: vec![envelope],
            spans: vec![(0, 0)],
        })
    }

    /// The run with every `run_count`-th chunk.
    fn run(&self, number: u64, packs: &[NewPack]) -> Outcome<Vec<u8>> {
        let mut run = RunBuilder::new();
        let mut positions = vec![None; packs.len()];
        let step = usize::try_from(self.run_count)?;
        for chunk in (number..self.plan.chunks).step_by(step) {
            let (pack, slot) = self.place(chunk)?;
            let position = positions.get_mut(pack).ok_or("a chunk beyond the last pack")?;
            let position = match position {
                Some(position) => *position,
                None => *position.insert(run.add_pack(packs.get(pack).ok_or("no such pack")?)?),
            };
            let location =
                Location { pack: position, offset: slot * SEALED_BYTES, length: SEALED_BYTES };
            run.add_entry(self.id(chunk), location)?;
        }
        Ok(run.finish()?)
    }

    fn place(&self, chunk: u64) -> Outcome<(usize, u32)> {
        let entries = u64::from(self.plan.pack_entries);
        Ok((usize::try_from(chunk / entries)?, u32::try_from(chunk % entries)?))
    }

    /// The id of a chunk: at random within the part of all ids that its run covers.
    fn id(&self, chunk: u64) -> ShortId {
        let digest = self.digest("chunk", chunk);
        let random = u128::from_be_bytes(digest);
        let width = u128::MAX / u128::from(self.run_count);
        let start = width * u128::from(chunk % self.run_count);
        ShortId((start + random % width).to_be_bytes())
    }

    fn write_all_refs(&self) -> Outcome<BTreeMap<String, Vec<Named>>> {
        let snapshots = self.plan.snapshots.iter();
        snapshots.map(|snapshot| Ok((snapshot.clone(), self.write_refs(snapshot)?))).collect()
    }

    /// The reference set of a snapshot that needs all chunks but the unused ones.
    fn write_refs(&self, snapshot: &str) -> Outcome<Vec<Named>> {
        let mut named = Vec::new();
        let mut builder = RefSetBuilder::new();
        for chunk in (0..self.plan.chunks).filter(|chunk| chunk % self.plan.unused_one_in != 0) {
            if let Some(body) = builder.insert(self.id(chunk)) {
                named.push(self.put_refs(snapshot, named.len(), body)?);
            }
        }
        if let Some(body) = builder.finish() {
            named.push(self.put_refs(snapshot, named.len(), body)?);
        }
        Ok(named)
    }

    fn put_refs(&self, snapshot: &str, part: usize, body: Vec<u8>) -> Outcome<Named> {
        let name = format!("refs/{snapshot}-{part}");
        let hash = self.put(ObjectType::ReferenceSet, &name, Action::Add, body)?;
        Ok(Named { name, hash })
    }

    /// Signs, seals and writes an object; gives its hash.
    fn put(
        &self,
        kind: ObjectType,
        name: &str,
        action: Action,
        mut body: Vec<u8>,
    ) -> Outcome<String> {
        body.extend(self.keys.sign_block(kind, name, action, &body)?);
        let sealed = self.keys.objects().seal_object(kind, name, &body)?;
        let path = self.home.join(name);
        fs::create_dir_all(path.parent().ok_or("an object without a directory")?)?;
        fs::write(path, &sealed)?;
        Ok(blake3::hash(&sealed).to_hex().to_string())
    }

    /// 16 bytes that depend on the seed, the use and the number.
    fn digest(&self, usage: &str, number: u64) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.plan.seed.to_le_bytes());
        hasher.update(&number.to_le_bytes());
        hasher.update(usage.as_bytes());
        let mut out = [0; 16];
        hasher.finalize_xof().fill(&mut out);
        out
    }
}
