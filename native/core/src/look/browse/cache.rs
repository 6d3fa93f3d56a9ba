//! What was read last, up to a number of bytes.

use std::collections::BTreeMap;
use std::sync::Mutex;

use hashbrown::HashMap;

use crate::broker::lock;
use crate::format::Id;

/// Pages or chunks by their ids; what was not used for the longest time makes room. Ids name content, so
/// nothing here ever becomes wrong.
pub(super) struct Cache<T> {
    state: Mutex<State<T>>,
    bytes_max: u64,
}

struct State<T> {
    kept: HashMap<Id, Kept<T>>,
    /// When each was used last.
    order: BTreeMap<u64, Id>,
    now: u64,
    bytes: u64,
}

struct Kept<T> {
    value: T,
    bytes: u64,
    used: u64,
}

impl<T: Clone> Cache<T> {
    pub(super) fn new(bytes_max: u64) -> Self {
        let state = State { kept: HashMap::new(), order: BTreeMap::new(), now: 0, bytes: 0 };
        Self { state: Mutex::new(state), bytes_max }
    }

    pub(super) fn get(&self, id: &Id) -> Option<T> {
        let state = &mut *lock(&self.state);
        let kept = state.kept.get_mut(id)?;
        state.now += 1;
        state.order.remove(&kept.used);
        kept.used = state.now;
        state.order.insert(kept.used, *id);
        Some(kept.value.clone())
    }

    /// Keeps a value of so many bytes. One that is larger than everything together is not kept.
    pub(super) fn insert(&self, id: Id, value: T, bytes: u64) {
        if bytes > self.bytes_max {
            return;
        }
        let state = &mut *lock(&self.state);
        state.now += 1;
        let used = state.now;
        if let Some(old) = state.kept.insert(id, Kept { value, bytes, used }) {
            state.order.remove(&old.used);
            state.bytes -= old.bytes;
        }
        state.order.insert(used, id);
        state.bytes += bytes;
        while state.bytes > self.bytes_max
            && let Some((_, oldest)) = state.order.pop_first()
        {
            let gone = state.kept.remove(&oldest);
            state.bytes -= gone.map_or(0, |gone| gone.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> Id {
        Id([number; 32])
    }

    #[test]
    fn what_was_used_last_is_kept_and_the_bytes_are_bounded() {
        let cache = Cache::new(100);
        for number in 0..3 {
            cache.insert(id(number), number, 30);
        }
        assert_eq!(cache.get(&id(0)), Some(0));
        cache.insert(id(3), 3, 40);
        let kept = |number| cache.get(&id(number)).is_some();
        assert_eq!([kept(0), kept(1), kept(2), kept(3)], [true, false, true, true]);
        cache.insert(id(3), 33, 90);
        assert_eq!((cache.get(&id(3)), kept(0), kept(2)), (Some(33), false, false));
        cache.insert(id(4), 4, 101);
        assert_eq!((cache.get(&id(4)), kept(3)), (None, true));
        assert_eq!(lock(&cache.state).bytes, 90);
        assert_eq!(lock(&cache.state).order.len(), 1);
    }
}
