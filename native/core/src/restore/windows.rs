//! How far a restore has come. The planner works in windows; work of a window holds its ticket, and the
//! window is over when the last copy of the ticket is gone. Two things hang on that: only so many
//! windows are open at a time, which bounds all queues, and the mark up to which everything is in the
//! target, which the journal keeps.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::broker::lock;

/// Windows open at a time: one being planned, one being fetched, one whose stragglers come in.
const OPEN_MAX: usize = 3;

/// Everything before this place is done: nodes with smaller keys, and bytes below `offset` of the file
/// with this key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// Key of the node at which planning stood.
    pub(super) key: Vec<u8>,
    /// Bytes of that file that were planned.
    pub(super) offset: u64,
}

#[derive(Debug, Default)]
struct State {
    /// Open windows, the oldest first: where each ends, once that is known, and whether it is over.
    open: VecDeque<(Option<Mark>, bool)>,
    /// Number of the oldest open window.
    first: u64,
    /// Where the newest of the windows before that ended.
    done: Option<Mark>,
    is_aborted: bool,
}

/// The windows of one restore.
#[derive(Debug, Default)]
pub(super) struct Windows {
    state: Mutex<State>,
    changed: Condvar,
}

/// Says that a window is not over. Shared by all of its work.
#[derive(Debug)]
pub(super) struct Ticket {
    windows: Arc<Windows>,
    number: u64,
}

impl Windows {
    /// Opens a window once there is room for one; none when the restore was aborted.
    pub(super) fn begin(self: &Arc<Self>) -> Option<Arc<Ticket>> {
        let mut state = lock(&self.state);
        while state.open.len() >= OPEN_MAX && !state.is_aborted {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.is_aborted {
            return None;
        }
        let number = state.first + state.open.len() as u64;
        state.open.push_back((None, false));
        Some(Arc::new(Ticket { windows: Arc::clone(self), number }))
    }

    /// Waits until no window is open, or the restore was aborted.
    pub(super) fn wait_all(&self) {
        let mut state = lock(&self.state);
        while !state.open.is_empty() && !state.is_aborted {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wakes who waits, for good.
    pub(super) fn abort(&self) {
        lock(&self.state).is_aborted = true;
        self.changed.notify_all();
    }

    /// How far everything is done.
    pub(super) fn done(&self) -> Option<Mark> {
        lock(&self.state).done.clone()
    }
}

impl Ticket {
    /// How many windows were begun before this one.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Says where this window ends. Without that it moves no mark.
    pub(super) fn ends_at(&self, mark: Mark) {
        let mut state = lock(&self.windows.state);
        if let Some(window) = state.window(self.number) {
            window.0 = Some(mark);
        }
    }
}

impl State {
    fn window(&mut self, number: u64) -> Option<&mut (Option<Mark>, bool)> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.open.get_mut(index)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = lock(&self.windows.state);
        if let Some(window) = state.window(self.number) {
            window.1 = true;
        }
        while let Some((_, true)) = state.open.front() {
            let mark = state.open.pop_front().and_then(|(mark, _)| mark);
            state.first += 1;
            // Work that was dropped undone must not look done.
            if mark.is_some() && !state.is_aborted {
                state.done = mark;
            }
        }
        drop(state);
        self.windows.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(key: &[u8], offset: u64) -> Mark {
        Mark { key: key.to_vec(), offset }
    }

    #[test]
    fn the_mark_moves_in_order_only() {
        let windows = Arc::new(Windows::default());
        let first = windows.begin().unwrap();
        let second = windows.begin().unwrap();
        first.ends_at(mark(b"a", 7));
        second.ends_at(mark(b"b", 0));
        let work = Arc::clone(&first);
        drop(second);
        drop(first);
        assert_eq!(windows.done(), None);
        drop(work);
        assert_eq!(windows.done(), Some(mark(b"b", 0)));
        windows.wait_all();
    }

    #[test]
    fn a_full_set_waits_and_an_aborted_one_does_not() {
        let windows = Arc::new(Windows::default());
        let mut open: Vec<_> = (0..OPEN_MAX).map(|_| windows.begin().unwrap()).collect();
        let waiting = Arc::clone(&windows);
        let thread = std::thread::spawn(move || waiting.begin().map(|ticket| ticket.number));
        open.swap_remove(0).ends_at(mark(b"k", 1));
        assert_eq!(thread.join().unwrap(), Some(OPEN_MAX as u64));
        let last = open.pop().unwrap();
        last.ends_at(mark(b"z", 0));
        windows.abort();
        assert!(windows.begin().is_none());
        drop((last, open));
        assert_eq!(windows.done(), Some(mark(b"k", 1)));
    }
}
