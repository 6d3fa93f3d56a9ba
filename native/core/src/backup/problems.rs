//! What went wrong with single files while the rest went on.

use std::sync::Arc;

use super::progress::Counters;
use crate::broker::Broker;
use crate::error::{Error, Result};

/// Tells the caller about each, and counts them.
pub(super) struct Problems {
    broker: Arc<Broker>,
    counters: Arc<Counters>,
}

impl Problems {
    pub(super) fn new(broker: Arc<Broker>, counters: Arc<Counters>) -> Self {
        Self { broker, counters }
    }

    /// Something went wrong with a file: the snapshot is not all that it should be.
    pub(super) fn report(&self, error: &Error) -> Result<()> {
        self.counters.problem();
        self.tell(error, false)
    }

    /// Something that an earlier backup stored cannot be had, and what it is of is read again.
    pub(super) fn lost(&self, error: &Error) -> Result<()> {
        self.counters.lost_earlier();
        self.note(error)
    }

    /// Something that people should know, though the snapshot is as it should be.
    pub(super) fn note(&self, error: &Error) -> Result<()> {
        self.tell(error, true)
    }

    fn tell(&self, error: &Error, is_note: bool) -> Result<()> {
        let problem = serde_json::json!({
            "path": error.key,
            "what": error.what,
            "offset": error.offset,
            "message": error.to_string(),
            "is_note": is_note,
        });
        self.broker.output("problem", problem.to_string().into_bytes())
    }
}
