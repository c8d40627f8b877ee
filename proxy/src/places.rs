//! The places of a listener: how many sessions it may have at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The places that are taken. The limit may differ from one configuration to the next; those who have a place keep it.
#[derive(Debug, Default)]
pub(crate) struct Places(AtomicU32);

/// One place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Places>);

impl Places {
    /// A place, unless `limit` are taken.
    pub(crate) fn take(self: &Arc<Self>, limit: u32) -> Option<Place> {
        let free = |taken: u32| (taken < limit).then(|| taken + 1);
        let taken = self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, free);
        taken.is_ok().then(|| Place(Arc::clone(self)))
    }

    /// A place, even if there is none left: for who was there before.
    pub(crate) fn take_anyway(self: &Arc<Self>) -> Place {
        self.0.fetch_add(1, Ordering::Relaxed);
        Place(Arc::clone(self))
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_shrinks_takes_nobodys_place() {
        let places = Arc::new(Places::default());
        let mut held: Vec<_> = (0..3).filter_map(|_| places.take(3)).collect();
        assert_eq!(held.len(), 3);
        assert!(places.take(3).is_none());
        assert!(places.take(4).is_some());
        held.pop();
        assert!(places.take(2).is_none());
        held.pop();
        assert!(places.take(2).is_some());
    }
}
