//! What was found out a moment ago, by the hash of what it was found out from.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Most entries; beyond, those that are over go, and if none is, all.
const MOST: usize = 10_000;

/// Entries that end by themselves.
pub(crate) struct Cache<T> {
    entries: Mutex<HashMap<[u8; 32], (T, Instant)>>,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { entries: Mutex::default() }
    }
}

impl<T: Clone> Cache<T> {
    fn with<R>(&self, work: impl FnOnce(&mut HashMap<[u8; 32], (T, Instant)>) -> R) -> R {
        // Whoever panicked left whole entries behind.
        work(&mut self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    pub(crate) fn get(&self, key: &[u8; 32]) -> Option<T> {
        self.with(|entries| {
            entries.get(key).filter(|(_, until)| *until > Instant::now()).map(|(it, _)| it.clone())
        })
    }

    pub(crate) fn put(&self, key: [u8; 32], value: T, lasts: Duration) {
        self.with(|entries| {
            let now = Instant::now();
            if entries.len() >= MOST {
                entries.retain(|_, (_, until)| *until > now);
            }
            if entries.len() >= MOST {
                entries.clear();
            }
            entries.insert(key, (value, now + lasts));
        });
    }

    pub(crate) fn clear(&self) {
        self.with(HashMap::clear);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_end_by_themselves_and_never_are_too_many() {
        let cache = Cache::default();
        cache.put([1; 32], "kept", Duration::from_secs(60));
        cache.put([2; 32], "over", Duration::ZERO);
        assert_eq!((cache.get(&[1; 32]), cache.get(&[2; 32])), (Some("kept"), None));
        for number in 0..MOST + 5 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_le_bytes());
            cache.put(key, "many", Duration::from_secs(60));
        }
        assert!(cache.with(|entries| entries.len()) <= MOST);
    }
}
