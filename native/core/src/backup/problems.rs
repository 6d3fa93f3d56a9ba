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

    pub(super) fn report(&self, error: &Error) -> Result<()> {
        self.counters.problem();
        let problem = serde_json::json!({
            "path": error.key,
            "what": error.what,
            "offset": error.offset,
            "message": error.to_string(),
        });
        self.broker.output("problem", problem.to_string().into_bytes())
    }
}
