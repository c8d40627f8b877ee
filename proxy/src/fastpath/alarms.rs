//! From the programs' alarms to the sessions they concern.

use std::io;

use landbridge_common::{Counter, Slot};

use super::engine::Engine;
use super::ring::Audience;

impl Audience for Engine {
    fn tell(&self, number: u64) {
        if let Some(waker) = Slot::try_from(number).ok().and_then(|slot| self.waker(slot)) {
            waker.wake();
        }
    }

    fn lost(&self) -> io::Result<u64> {
        self.counters().one(Counter::AlarmLost).map_err(io::Error::other)
    }

    fn tell_all(&self) {
        self.wakers().iter().for_each(|waker| waker.wake());
    }
}
