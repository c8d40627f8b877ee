//! Which slots of an array that programs share are free, of flows or of joints, and whom the programs wake for each.
//! Pure: the time is an argument.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use landbridge_common::Slot;

/// How long a slot rests between two uses. A program that found the slot before its direction or session ended may
/// still write into it; it runs in a softirq that takes microseconds, and even a virtual CPU that is not scheduled
/// comes back before this. (Verdicts need no such time: a direction ends only after its source's lock was free once.)
pub(super) const REST: Duration = Duration::from_millis(200);

/// Slots that can rest in addition to those that are in use.
pub(super) const RESERVE: u32 = 1024;

/// How many wakers are made at a time: they stay, and each on its own would lie between what its first session leaves
/// behind.
const WAKERS: usize = 64;

/// Free slots, oldest first, and a waker for each slot that was ever used.
#[derive(Debug)]
pub(super) struct Slots {
    capacity: u32,
    resting: VecDeque<(Instant, Slot)>,
    /// Slots that were ever used: those with lower numbers.
    used: u32,
    wakers: Vec<Arc<AtomicWaker>>,
    taken: u32,
}

/// A slot in use, as long as a task waits for what the programs tell of it.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) slot: Slot,
    pub(super) waker: Arc<AtomicWaker>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        // It would keep the memory of a task that is gone.
        drop(self.waker.take());
    }
}

impl Slots {
    pub(super) fn new(capacity: u32) -> Self {
        Self { capacity, resting: VecDeque::new(), used: 0, wakers: Vec::new(), taken: 0 }
    }

    /// The same, when these are in use already; those between them have rested.
    pub(super) fn with_taken(capacity: u32, taken: &BTreeSet<Slot>, now: Instant) -> Self {
        let used = taken.last().map_or(0, |last| last + 1);
        let rested = now.checked_sub(REST).unwrap_or(now);
        let free = (0..used).filter(|slot| !taken.contains(slot)).map(|slot| (rested, slot));
        Self {
            capacity,
            resting: free.collect(),
            used,
            wakers: (0..used).map(|_| Arc::default()).collect(),
            taken: taken.len() as u32,
        }
    }

    /// How many are in use.
    pub(super) fn taken(&self) -> u32 {
        self.taken
    }

    /// A slot that has rested, or one that was never used; `None` if there is neither.
    pub(super) fn take(&mut self, now: Instant) -> Option<Taken> {
        let rested = self.resting.pop_front_if(|(since, _)| now.saturating_duration_since(*since) >= REST);
        let slot = match rested {
            Some((_, slot)) => slot,
            None => {
                let fresh = Some(self.used).filter(|fresh| *fresh < self.capacity)?;
                if self.wakers.len() == fresh as usize {
                    let more = WAKERS.min((self.capacity - fresh) as usize);
                    self.wakers.extend((0..more).map(|_| Arc::default()));
                }
                self.used += 1;
                fresh
            }
        };
        self.taken += 1;
        Some(Taken { slot, waker: Arc::clone(&self.wakers[slot as usize]) })
    }

    /// Takes a slot back.
    pub(super) fn release(&mut self, slot: Slot, now: Instant) {
        self.resting.push_back((now, slot));
        self.taken -= 1;
    }

    /// Whom to wake for a slot.
    pub(super) fn waker(&self, slot: Slot) -> Option<Arc<AtomicWaker>> {
        self.wakers.get(slot as usize).cloned()
    }

    /// Whom to wake if it is not known which slot it was.
    pub(super) fn wakers(&self) -> Vec<Arc<AtomicWaker>> {
        self.wakers.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    #[test]
    fn a_slot_rests_before_it_is_used_again() {
        let start = Instant::now();
        let mut slots = Slots::new(2);
        assert_eq!(slots.take(start).unwrap().slot, 0);
        slots.release(0, start);
        assert_eq!(slots.take(start + REST / 2).unwrap().slot, 1, "0 has not rested");
        assert!(slots.take(start + REST / 2).is_none());
        assert_eq!(slots.take(start + REST).unwrap().slot, 0);
        assert_eq!(slots.taken(), 2);
    }

    #[test]
    fn slots_that_were_in_use_before_are_not_given_out() {
        let now = Instant::now() + REST;
        let mut slots = Slots::with_taken(5, &BTreeSet::from([1, 3]), now);
        let given: Vec<Slot> = std::iter::from_fn(|| slots.take(now)).map(|taken| taken.slot).collect();
        assert_eq!((given, slots.taken()), (vec![0, 2, 4], 5));
        slots.release(3, now);
        assert_eq!(slots.take(now + REST).map(|taken| taken.slot), Some(3));
    }

    #[test]
    fn nothing_is_left_of_a_task_that_waited_for_a_slot() {
        struct Task;
        impl Wake for Task {
            fn wake(self: Arc<Self>) {}
        }
        let task = Arc::new(Task);
        let mut slots = Slots::new(1);
        let taken = slots.take(Instant::now()).unwrap();
        taken.waker.register(&Arc::clone(&task).into());
        assert_eq!(Arc::strong_count(&task), 2);
        drop(taken);
        assert_eq!(Arc::strong_count(&task), 1);
    }

    #[test]
    fn slots_in_use_are_different_and_within_the_capacity() {
        let now = Instant::now();
        let mut slots = Slots::new(3);
        let taken: Vec<Slot> = std::iter::from_fn(|| slots.take(now)).map(|taken| taken.slot).collect();
        assert_eq!(taken, [0, 1, 2]);
        assert_eq!(slots.wakers().len(), 3);
        assert!(slots.waker(2).is_some() && slots.waker(3).is_none());
    }
}
