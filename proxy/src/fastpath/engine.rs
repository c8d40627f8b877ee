//! The loaded programs with their maps, as one thing that promoted directions hold on to.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use aya::maps::{MapData, RingBuf};
use aya::programs::{Program, SkSkb, SocketFilter};
use aya::{Ebpf, EbpfLoader};
use futures_util::task::AtomicWaker;
use landbridge_common::{Cookie, Flow, MAX_FLOWS, Slot};
use socket2::SockRef;

use super::flows::{self, FlowCell};
use super::log::KernelLog;
use super::mapped::Mapped;
use super::maps::{self, CounterMap, MapError, Maps};
use super::slots::{self, Slots, Taken};
use super::unavailable::LoadError;
use super::{Limits, PromoteError, btf, kernel, tcp};
use crate::tcp::TcpInfo;

/// The names of the programs in the object.
const VERDICT: &str = "verdict";
const GATE: &str = "gate";

/// Everything that directions need as long as they are promoted.
pub(super) struct Engine {
    limits: Limits,
    flows: Mapped<Flow>,
    counters: CounterMap,
    maps: Mutex<Maps>,
    slots: Mutex<Slots>,
    // Owns the programs and the attachment of the verdict: dropping it detaches.
    programs: Ebpf,
}

/// The engine and what is read from it.
pub(super) struct Loaded {
    pub(super) engine: Engine,
    pub(super) log: KernelLog,
    pub(super) alarms: RingBuf<MapData>,
}

/// A direction that is in the maps.
pub(super) struct Entry {
    pub(super) cookie: Cookie,
    pub(super) taken: Taken,
    /// What the sink's `bytes_acked` will be when everything that it was given before is acknowledged.
    pub(super) given: u64,
}

impl Engine {
    /// Loads the programs and attaches the verdict.
    pub(super) fn load(object: &[u8], limits: Limits) -> Result<Loaded, LoadError> {
        let types = fs::read(kernel::BTF).map_err(LoadError::TypesUnreadable)?;
        let bytes_acked = btf::offset_of(&types, "tcp_sock", "bytes_acked")?;
        let data_segs_in = btf::offset_of(&types, "tcp_sock", "data_segs_in")?;
        let copied_seq = btf::offset_of(&types, "tcp_sock", "copied_seq")?;
        // The verdict takes a packet's sequence number for the first word that it sees of the control block.
        for (structure, field) in [("tcp_skb_cb", "seq"), ("sk_skb_cb", "data")] {
            btf::first(&types, structure, field)?;
        }
        let capacity = limits.budget.saturating_add(slots::RESERVE).min(MAX_FLOWS);
        let mut programs = EbpfLoader::new()
            .override_global("BYTES_ACKED", &bytes_acked, true)
            .override_global("DATA_SEGS_IN", &data_segs_in, true)
            .override_global("COPIED_SEQ", &copied_seq, true)
            .map_max_entries(maps::FLOWS, capacity)
            .load(object)?;

        let log = KernelLog::of(&mut programs)?;
        let maps = Maps::take(&mut programs)?;
        let counters = CounterMap::take(&mut programs)?;
        let alarms = maps::alarms(&mut programs)?;
        let flows = maps::flows(&programs, capacity)?;

        let Some(Program::SkSkb(verdict)) = programs.program_mut(VERDICT) else {
            return Err(LoadError::NoProgram { program: VERDICT });
        };
        SkSkb::load(verdict)
            .and_then(|()| verdict.attach(maps.sources()))
            .map_err(|source| LoadError::Program { program: VERDICT, source })?;
        gate_mut(&mut programs)?.load().map_err(|source| LoadError::Program { program: GATE, source })?;

        let engine =
            Self { limits, flows, counters, maps: Mutex::new(maps), slots: Mutex::new(Slots::new(capacity)), programs };
        Ok(Loaded { engine, log, alarms })
    }

    /// The limits that it was loaded for.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn counters(&self) -> &CounterMap {
        &self.counters
    }

    pub(super) fn flow(&self, slot: Slot) -> FlowCell<'_> {
        flows::cell(&self.flows, slot)
    }

    /// How many directions are promoted.
    pub(super) fn promoted(&self) -> u32 {
        self.lock_slots().taken()
    }

    /// Whom an alarm of a slot concerns.
    pub(super) fn waker(&self, slot: Slot) -> Option<Arc<AtomicWaker>> {
        self.lock_slots().waker(slot)
    }

    /// Everybody whom an alarm can concern.
    pub(super) fn wakers(&self) -> Vec<Arc<AtomicWaker>> {
        self.lock_slots().wakers()
    }

    /// Enters a direction into all maps, or none.
    pub(super) fn insert(
        &self,
        source: BorrowedFd<'_>,
        sink: BorrowedFd<'_>,
        given: u64,
        limits: &Limits,
    ) -> Result<Entry, PromoteError> {
        let socket = |what| move |source| PromoteError::Socket { what, source };
        let cookie = SockRef::from(&source).cookie().map_err(socket("the cookie of the source"))?;
        let counted = tcp::given(sink).map_err(PromoteError::of_books)?;
        // A connection that this side opened has had its SYN acknowledged, which the kernel counts as a byte.
        if counted.checked_sub(given).is_none_or(|syn| syn > 1) {
            return Err(PromoteError::OutOfStep { given, counted });
        }
        let acked = TcpInfo::of(sink).map_err(socket("what the sink's peer has acknowledged"))?.acknowledged;
        let segments = TcpInfo::of(source).map_err(socket("what the source has received"))?.segments;
        self.attach_gate(source)?;

        let taken = self.take_slot(limits.budget)?;
        self.flow(taken.slot).reset(taken.slot, (counted, acked), segments, limits);
        let inserted = self.lock_maps().insert(cookie, taken.slot, source, sink);
        if let Err(source) = inserted {
            self.release(taken.slot);
            return Err(match source.is_full() {
                true => PromoteError::MapFull { source: Some(source) },
                false => PromoteError::InsertRefused { source },
            });
        }
        Ok(Entry { cookie, taken, given: counted })
    }

    pub(super) fn remove_source(&self, cookie: Cookie) -> Result<(), MapError> {
        self.lock_maps().remove_source(cookie)
    }

    /// Removes a direction whose source has no verdict any more, and frees its slot.
    pub(super) fn remove(&self, cookie: Cookie, slot: Slot) -> Result<(), MapError> {
        let removed = self.lock_maps().remove_rest(cookie);
        self.release(slot);
        removed
    }

    /// The gate of a leg lets everything through that has no flow, so that it can stay when the leg is demoted.
    fn attach_gate(&self, source: BorrowedFd<'_>) -> Result<(), PromoteError> {
        let Some(Program::SocketFilter(gate)) = self.programs.program(GATE) else {
            return Err(PromoteError::GateRefused { source: None });
        };
        gate.attach(source.as_fd()).map_err(|source| PromoteError::GateRefused { source: Some(source) })
    }

    fn take_slot(&self, budget: u32) -> Result<Taken, PromoteError> {
        let mut slots = self.lock_slots();
        if slots.taken() >= budget {
            return Err(PromoteError::Budget { budget });
        }
        slots.take(Instant::now()).ok_or(PromoteError::MapFull { source: None })
    }

    fn release(&self, slot: Slot) {
        self.lock_slots().release(slot, Instant::now());
    }

    // Nothing panics while it holds one of these locks; if it did, the maps would still be whole.
    fn lock_maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gate_mut(programs: &mut Ebpf) -> Result<&mut SocketFilter, LoadError> {
    match programs.program_mut(GATE) {
        Some(Program::SocketFilter(gate)) => Ok(gate),
        _ => Err(LoadError::NoProgram { program: GATE }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_object_is_an_error() {
        if !std::path::Path::new(kernel::BTF).exists() {
            return;
        }
        let error = Engine::load(b"not an ELF file", Limits::default()).map(drop).unwrap_err();
        assert!(matches!(error, LoadError::Object(_)), "{error:?}");
    }
}
