//! Jobs: what the caller starts, feeds and asks. One thread of ours runs the verb; requests come out
//! of the broker; the result is JSON.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::backup::{Backup, BackupOptions, CopyOptions, Copying, Writer};
use crate::broker::{Broker, Request, lock};
use crate::bulk;
use crate::crypto::{Keyring, ScopeId};
use crate::error::{Error, ErrorKind, Result};
use crate::index::IndexOptions;
use crate::look;
use crate::look::browse::Browse;
use crate::restore;
use crate::scope::Scope;

/// Puts that may be unanswered at a time. Each holds a pack in memory.
const PUTS_MAX: usize = 2;

/// A job under way.
pub struct Job {
    broker: Arc<Broker>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// What commands and progress refer to, once it is there.
    running: OnceLock<Running>,
    result: Mutex<Option<Result<String>>>,
    changed: Condvar,
}

impl State {
    fn start(&self, running: Running) -> &Running {
        let running = self.running.get_or_init(|| running);
        self.changed.notify_all();
        running
    }

    fn restore(&self) -> Result<&restore::Control> {
        match self.start(Running::Restore(restore::Control::default())) {
            Running::Restore(control) => Ok(control),
            _ => Err(another_job()),
        }
    }
}

enum Running {
    Backup(Box<Backup>),
    Copy(Box<Copying>),
    Restore(restore::Control),
    Browse(Box<Browse>),
}

impl Running {
    /// The half that writes, of jobs that do.
    fn writer(&self) -> Option<&Writer> {
        match self {
            Self::Backup(backup) => Some(backup.writer()),
            Self::Copy(copying) => Some(copying.writer()),
            Self::Restore(_) | Self::Browse(_) => None,
        }
    }
}

#[derive(Deserialize)]
struct ScopeOption {
    scope: String,
}

#[derive(Deserialize)]
struct Acknowledge {
    #[serde(default)]
    condemned: Vec<String>,
    #[serde(default)]
    index: IndexOptions,
}

#[derive(Deserialize)]
struct Acknowledged {
    #[serde(rename = "gen")]
    generation: u64,
}

impl Job {
    /// Starts `verb` with options in JSON. `Usage` for an unknown verb or options that make no sense.
    pub fn start(verb: &str, keyring: &Keyring, options: &str) -> Result<Self> {
        Self::start_from(verb, keyring, None, options)
    }

    /// The same for a verb that also reads from another repository, which `from` opens.
    pub fn start_from(
        verb: &str,
        keyring: &Keyring,
        from: Option<&Keyring>,
        options: &str,
    ) -> Result<Self> {
        let ScopeOption { scope } = parse(options)?;
        let broker = Broker::new(PUTS_MAX);
        let scope = open_scope(&broker, keyring, &scope)?;
        let state = Arc::new(State::default());
        let work = match (verb, from) {
            ("rewrite", None) => Self::rewrite(scope, options, Arc::clone(&state))?,
            ("copy", Some(from)) => Self::copy(scope, from, options, Arc::clone(&state))?,
            _ => Self::verb(verb, keyring, scope, options, Arc::clone(&state))?,
        };
        let (end, ended) = (Arc::clone(&broker), Arc::clone(&state));
        let run = move || {
            let result = catch_unwind(AssertUnwindSafe(work));
            let result = result.unwrap_or_else(|_| Err(Error::internal("the job broke off")));
            *lock(&ended.result) = Some(result);
            end.close();
            ended.changed.notify_all();
        };
        let thread = std::thread::Builder::new().name(format!("pvback-{verb}")).spawn(run);
        thread.map_err(|error| Error::internal(format!("cannot start a thread: {error}")))?;
        Ok(Self { broker, state })
    }

    fn copy(scope: Scope, from: &Keyring, options: &str, state: Arc<State>) -> Result<Work> {
        let options: CopyOptions = parse(options)?;
        let from = open_scope(&scope.broker, from, &options.from.scope)?;
        if from.key("") == scope.key("") {
            return Err(Error::new(ErrorKind::Usage, "a copy of a scope into itself"));
        }
        Ok(Box::new(move || run_copy(&state, Copying::new(scope, from, options)?)))
    }

    fn rewrite(scope: Scope, options: &str, state: Arc<State>) -> Result<Work> {
        let options: CopyOptions = parse(options)?;
        Ok(Box::new(move || run_copy(&state, Copying::rewriting(scope, options)?)))
    }

    fn verb(
        verb: &str,
        keyring: &Keyring,
        scope: Scope,
        options: &str,
        state: Arc<State>,
    ) -> Result<Work> {
        match verb {
            "backup" => {
                let options: BackupOptions = parse(options)?;
                let chunker = keyring.config().chunker().clone();
                Ok(Box::new(move || {
                    let backup = Backup::new(scope, options, &chunker)?;
                    match state.start(Running::Backup(Box::new(backup))) {
                        Running::Backup(backup) => to_json(&backup.run()?),
                        _ => Err(another_job()),
                    }
                }))
            }
            "restore" => {
                let options: restore::RestoreOptions = parse(options)?;
                Ok(Box::new(move || {
                    to_json(&restore::restore(&scope, &options, state.restore()?)?)
                }))
            }
            "dump" => {
                let options: restore::DumpOptions = parse(options)?;
                Ok(Box::new(move || to_json(&restore::dump(&scope, &options, state.restore()?)?)))
            }
            "browse" => {
                let browse = Box::new(Browse::new(scope, parse(options)?));
                Ok(Box::new(move || match state.start(Running::Browse(browse)) {
                    Running::Browse(browse) => to_json(&browse.run()),
                    _ => Err(another_job()),
                }))
            }
            "list" => look_verb(scope, options, look::list::list),
            "find" => look_verb(scope, options, look::find::find),
            "diff" => look_verb(scope, options, look::diff::diff),
            "stats" => look_verb(scope, options, look::stats::stats),
            "check" => look_verb(scope, options, look::check::check),
            "salvage" => look_verb(scope, options, look::check::salvage::salvage),
            "references" => look_verb(scope, options, look::check::salvage::references),
            "count" => look_verb(scope, options, bulk::count::count),
            "survey" => look_verb(scope, options, bulk::survey::survey),
            "usage" => look_verb(scope, options, bulk::usage::usage),
            "rebuild" => look_verb(scope, options, bulk::rebuild::rebuild),
            "repack" => look_verb(scope, options, bulk::repack::repack),
            "merge" => look_verb(scope, options, bulk::merge::merge),
            "limits" => look_verb(scope, options, |_, options| look::limits::limits(options)),
            _ => Err(Error::new(ErrorKind::Usage, format!("no verb `{verb}`"))),
        }
    }

    /// The next request; `None` when the job has ended.
    pub fn next_request(&self) -> Option<Request> {
        self.broker.next_request()
    }

    /// Counters as JSON.
    pub fn progress(&self) -> String {
        match self.state.running.get() {
            Some(Running::Restore(control)) => to_json(&control.counters().stats()),
            Some(running) => match running.writer() {
                Some(writer) => to_json(&writer.counters().stats()),
                None => Ok("{}".to_owned()),
            },
            None => Ok("{}".to_owned()),
        }
        .unwrap_or_default()
    }

    /// A command to a job that is running; answers JSON.
    pub fn command(&self, name: &str, options: &str) -> Result<String> {
        self.wait_running();
        let running = self.state.running.get();
        match (running.and_then(Running::writer), name) {
            (Some(writer), "checkpoint") => {
                writer.control().ask_checkpoint();
                Ok("{}".to_owned())
            }
            (Some(writer), "acknowledge") => {
                let Acknowledge { condemned, index } = parse(options)?;
                let keep = writer.acknowledge(&index, &condemned)?;
                to_json::<Value>(&json!({ "keep": keep }))
            }
            (Some(writer), "acknowledged") => {
                let Acknowledged { generation } = parse(options)?;
                writer.acknowledged(generation);
                Ok("{}".to_owned())
            }
            _ => match running {
                Some(Running::Browse(browse)) => browse.command(name, options),
                _ => Err(Error::new(ErrorKind::Usage, format!("no command `{name}` for this job"))),
            },
        }
    }

    /// A range of a file that a job that browses has open; see [`Browse::read`].
    pub fn read(&self, file: u64, offset: u64, length: u64) -> Result<Vec<u8>> {
        self.wait_running();
        match self.state.running.get() {
            Some(Running::Browse(browse)) => browse.read(file, offset, length),
            _ => Err(Error::new(ErrorKind::Usage, "this job has no open files")),
        }
    }

    fn wait_running(&self) {
        let mut result = lock(&self.state.result);
        while result.is_none() && self.state.running.get().is_none() {
            let wait = std::time::Duration::from_millis(50);
            let waited = self.state.changed.wait_timeout(result, wait);
            result = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Makes the job end soon, with an error of kind `Cancelled`.
    pub fn cancel(&self) {
        self.broker.cancel(&Error::new(ErrorKind::Cancelled, "cancelled"));
    }

    /// Waits for the end. Requests must be answered meanwhile.
    pub fn result(&self) -> Result<String> {
        let mut result = lock(&self.state.result);
        loop {
            if let Some(result) = &*result {
                return result.clone();
            }
            result = self.state.changed.wait(result).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.cancel();
    }
}

type Work = Box<dyn FnOnce() -> Result<String> + Send>;

/// A verb that takes the scope and its options, and says nothing before it is done but its output.
fn look_verb<O, R>(scope: Scope, options: &str, verb: fn(&Scope, &O) -> Result<R>) -> Result<Work>
where
    O: DeserializeOwned + Send + 'static,
    R: Serialize + 'static,
{
    let options: O = parse(options)?;
    Ok(Box::new(move || to_json(&verb(&scope, &options)?)))
}

fn run_copy(state: &State, copying: Copying) -> Result<String> {
    match state.start(Running::Copy(Box::new(copying))) {
        Running::Copy(copying) => to_json(&copying.run()?),
        _ => Err(another_job()),
    }
}

fn open_scope(broker: &Arc<Broker>, keyring: &Keyring, scope: &str) -> Result<Scope> {
    let keys = Arc::new(keyring.scope(&ScopeId::parse(scope)?)?);
    Ok(Scope::new(Arc::clone(broker), keys))
}

fn another_job() -> Error {
    Error::internal("another job runs here")
}

fn parse<T: DeserializeOwned>(options: &str) -> Result<T> {
    serde_json::from_str(options)
        .map_err(|error| Error::new(ErrorKind::Usage, format!("bad options: {error}")))
}

fn to_json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::internal(error.to_string()))
}
