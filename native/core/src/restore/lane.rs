//! Writes to one file, one at a time. The kernel lets nobody write to a file while another does, and whoever
//! tries turns in circles until it may. Here the thread that is writing takes over what others bring
//! meanwhile, and they go on to open the next chunk.

use std::sync::{Arc, Mutex};

use super::run::Run;
use super::window::Plan;
use crate::broker::lock;

/// Pieces that wait for one writer. Each holds a chunk; as many as keep a writer busy are enough.
const WAITING_MAX: usize = 2;

/// A piece of a file with the chunk that it is a slice of.
pub(super) struct Delivery {
    pub(super) plan: Arc<Plan>,
    /// Which piece of the plan.
    pub(super) piece: usize,
    pub(super) chunk: Arc<Vec<u8>>,
}

/// The way into one file.
#[derive(Default)]
pub(super) struct Lane(Mutex<State>);

#[derive(Default)]
struct State {
    is_taken: bool,
    waiting: Vec<Delivery>,
}

impl Lane {
    /// Delivers, or leaves that to the thread that is doing so.
    pub(super) fn deliver(&self, run: &Run, delivery: Delivery) {
        let is_ours = {
            let mut state = lock(&self.0);
            if state.is_taken && state.waiting.len() < WAITING_MAX {
                return state.waiting.push(delivery);
            }
            !std::mem::replace(&mut state.is_taken, true)
        };
        // With too many before it, this one waits for its turn in the kernel.
        delivery.carry_out(run);
        if is_ours {
            while let Some(next) = self.next() {
                next.carry_out(run);
            }
        }
    }

    /// What waits, if anything does; else the way is free.
    fn next(&self) -> Option<Delivery> {
        let mut state = lock(&self.0);
        let next = state.waiting.pop();
        state.is_taken = next.is_some();
        next
    }
}

impl Delivery {
    fn carry_out(self, run: &Run) {
        if let Some(piece) = self.plan.piece(self.piece) {
            super::fetch::write(run, piece, &self.chunk);
        }
    }
}
