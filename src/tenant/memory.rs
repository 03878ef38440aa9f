//! What an isolate remembers of KV, bounded in number and in time.

use std::collections::{HashMap, VecDeque};

/// A map that forgets: an entry after its time, the oldest one when there is no room.
///
/// Invariant: `order` holds every key of `entries` once, by the time at which it first came.
#[derive(Debug)]
pub struct Memory<V> {
    capacity: usize,
    lifetime_ms: u64,
    entries: HashMap<String, (V, u64)>,
    order: VecDeque<String>,
}

impl<V> Memory<V> {
    /// A memory for at most `capacity` entries, each for `lifetime_ms` milliseconds.
    #[must_use]
    pub fn new(capacity: usize, lifetime_ms: u64) -> Self {
        Self { capacity, lifetime_ms, entries: HashMap::new(), order: VecDeque::new() }
    }

    /// What is remembered under the key, if it is not too old.
    #[must_use]
    pub fn get(&self, key: &str, now_ms: u64) -> Option<&V> {
        let (value, until_ms) = self.entries.get(key)?;
        (now_ms < *until_ms).then_some(value)
    }

    /// Remembers, from now on.
    pub fn insert(&mut self, key: &str, value: V, now_ms: u64) {
        let until_ms = now_ms.saturating_add(self.lifetime_ms);
        if let Some(entry) = self.entries.get_mut(key) {
            *entry = (value, until_ms);
            return;
        }
        while self.order.len() >= self.capacity {
            match self.order.pop_front() {
                Some(oldest) => self.entries.remove(&oldest),
                None => return,
            };
        }
        self.order.push_back(key.to_owned());
        self.entries.insert(key.to_owned(), (value, until_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_lives_its_time_from_the_last_insert() {
        let mut memory = Memory::new(2, 10);
        memory.insert("a", 1, 100);
        assert_eq!(memory.get("a", 109), Some(&1));
        assert_eq!(memory.get("a", 110), None);
        memory.insert("a", 2, 110);
        assert_eq!(memory.get("a", 119), Some(&2));
    }

    #[test]
    fn the_oldest_goes_when_there_is_no_room() {
        let mut memory = Memory::new(2, 1000);
        for (key, value) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
            memory.insert(key, value, 0);
        }
        assert_eq!(["a", "b", "c"].map(|key| memory.get(key, 1).copied()), [None, Some(2), Some(4)]);
        assert_eq!((memory.entries.len(), memory.order.len()), (2, 2));
        let mut none = Memory::new(0, 1000);
        none.insert("a", 1, 0);
        assert_eq!(none.get("a", 0), None);
    }
}
