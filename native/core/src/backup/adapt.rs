//! How many files are read at a time. Storage differs: one sequential reader is what a disk likes best,
//! many are needed to keep a network file system busy. So the number is found out while reading:
//! one more as long as that helps and the workers are not the bottleneck, one fewer when it did not.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::broker::lock;

/// Between two looks at the throughput.
const TICK: Duration = Duration::from_millis(250);
/// A reader more must raise the throughput by this factor to stay.
const GAIN: f64 = 1.05;
/// Looks to wait after a reader more did not help.
const PAUSE_TICKS: u32 = 12;

/// Lets a number of threads through at a time; the others wait.
pub(super) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
    most: usize,
}

struct GateState {
    limit: usize,
    inside: usize,
}

/// The right to read. Given back when dropped.
pub(super) struct Pass<'a>(&'a Gate);

impl Gate {
    /// Lets `first` threads through to begin with, and up to `most` later.
    pub(super) fn new(first: usize, most: usize) -> Self {
        let state = GateState { limit: first.clamp(1, most.max(1)), inside: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new(), most: most.max(1) }
    }

    /// Threads that may ever be inside: how many to start.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Waits until there is room.
    pub(super) fn enter(&self) -> Pass<'_> {
        let mut state = lock(&self.state);
        while state.inside >= state.limit {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.inside += 1;
        Pass(self)
    }

    /// The limit now.
    pub(super) fn limit(&self) -> usize {
        lock(&self.state).limit
    }

    /// Whether all who may are inside.
    fn is_full(&self) -> bool {
        let state = lock(&self.state);
        state.inside >= state.limit
    }

    fn set(&self, limit: usize) {
        lock(&self.state).limit = limit.clamp(1, self.most);
        self.changed.notify_all();
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).inside -= 1;
        self.0.changed.notify_one();
    }
}

/// Decides for one gate. Pure: fed with what was seen, it says how many readers there should be.
#[derive(Debug, Default)]
pub(super) struct Climber {
    before: f64,
    tried: bool,
    pause: u32,
}

impl Climber {
    /// `rate` was reached with `limit` readers; `is_wanted` says that all of them were at work and more
    /// is waiting for a reader, not for a core.
    pub(super) fn step(&mut self, limit: usize, rate: f64, is_wanted: bool) -> usize {
        let tried = std::mem::take(&mut self.tried);
        if tried && rate < self.before * GAIN {
            self.pause = PAUSE_TICKS;
            self.before = rate;
            return limit - 1;
        }
        self.before = rate;
        self.pause = self.pause.saturating_sub(1);
        if !is_wanted || self.pause > 0 {
            return limit;
        }
        self.tried = true;
        limit + 1
    }
}

/// Adjusts `gate` until `is_over`. `work` counts what was read so far; `is_idle` says that the
/// workers could do with more.
pub(super) fn adjust(
    gate: &Gate,
    is_over: &AtomicBool,
    work: impl Fn() -> u64,
    is_idle: impl Fn() -> bool,
) {
    let mut climber = Climber::default();
    let mut last = work();
    while !is_over.load(SeqCst) {
        std::thread::park_timeout(TICK);
        let now = work();
        #[expect(clippy::cast_precision_loss, reason = "a rate to compare with another")]
        let rate = now.saturating_sub(last) as f64;
        last = now;
        gate.set(climber.step(gate.limit(), rate, gate.is_full() && is_idle()));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::cast_precision_loss, reason = "readers are few")]

    use super::*;

    /// Readers on storage whose throughput grows up to `knee` readers and falls behind it.
    fn settle(knee: usize, ticks: usize) -> Vec<usize> {
        let mut climber = Climber::default();
        let mut limit = 1_usize;
        let mut seen = Vec::new();
        for _ in 0..ticks {
            let over = limit.saturating_sub(knee);
            let rate = 100.0 * (limit.min(knee) as f64) - 20.0 * over as f64;
            limit = climber.step(limit, rate, true).clamp(1, 32);
            seen.push(limit);
        }
        seen
    }

    #[test]
    fn readers_are_added_while_they_help_and_no_longer() {
        for knee in [1, 2, 5, 12] {
            let seen = settle(knee, 60);
            let late = &seen[30..];
            assert!(late.iter().all(|limit| (knee..=knee + 1).contains(limit)), "{knee}: {seen:?}");
            let exact = late.iter().filter(|limit| **limit == knee).count();
            assert!(exact * 10 >= late.len() * 8, "{knee}: {seen:?}");
        }
        let mut climber = Climber::default();
        assert!((0..20).all(|_| climber.step(3, 50.0, false) == 3));
    }

    #[test]
    fn a_gate_lets_through_as_many_as_it_says() {
        let gate = Gate::new(2, 4);
        let (first, _second) = (gate.enter(), gate.enter());
        assert!(gate.is_full());
        std::thread::scope(|threads| {
            let third = threads.spawn(|| drop(gate.enter()));
            assert!(gate.is_full());
            gate.set(3);
            assert!(third.join().is_ok());
        });
        gate.set(2);
        drop(first);
        assert!(!gate.is_full());
        gate.set(100);
        assert_eq!((gate.limit(), gate.most()), (4, 4));
    }
}
