//! The programs, loaded and attached for a test.

use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::{SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use landbridge::fastpath::PACKET_OBJECT;
use landbridge_common::packet::{LegRef, PacketCounter, Tuple};
use nix::unistd::geteuid;

use crate::joints::Joints;

/// More than any test here uses.
pub(crate) const JOINTS: u32 = 16;

/// A key as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Key(pub(crate) Tuple);

// SAFETY: a `repr(C)` structure of integers without padding.
unsafe impl aya::Pod for Key {}

/// The loaded programs and their maps.
pub(crate) struct Programs {
    ebpf: Ebpf,
    pub(crate) joints: Joints,
    legs: HashMap<MapData, Key, LegRef>,
    counters: PerCpuArray<MapData, u64>,
    events: RingBuf<MapData>,
}

impl Programs {
    /// `None`, with a line that says why, where they cannot be loaded.
    pub(crate) fn load() -> Option<Self> {
        let Some(object) = PACKET_OBJECT else {
            eprintln!("skipped: built without the eBPF objects: run `cargo xtask test`");
            return None;
        };
        if !geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let mut loader = EbpfLoader::new();
        let mut ebpf = loader.map_max_entries("JOINTS", JOINTS).load(object).expect("the object is good");
        for name in ["packet_ethernet", "packet_raw"] {
            if let Err(error) = program(&mut ebpf, name).load() {
                panic!("{name}: {}", format!("{error:?}").replace("\\n", "\n"));
            }
        }
        let array = match ebpf.take_map("JOINTS") {
            Some(aya::maps::Map::Array(array)) => array,
            other => panic!("{other:?}"),
        };
        let joints = Joints::map(array.fd(), JOINTS);
        let mut take = |name| ebpf.take_map(name).expect("the object has it");
        let legs = take("LEGS").try_into().expect("a hash map");
        let counters = take("PACKET_COUNTERS").try_into().expect("an array");
        let events = take("PACKET_EVENTS").try_into().expect("a ring buffer");
        Some(Self { ebpf, joints, legs, counters, events })
    }

    pub(crate) fn program(&mut self, name: &str) -> &mut SchedClassifier {
        program(&mut self.ebpf, name)
    }

    /// Attaches a program to the ingress of a device of the calling thread's network namespace.
    pub(crate) fn attach(&mut self, name: &str, device: &str) {
        self.program(name).attach(device, TcAttachType::Ingress).expect("it can be attached");
    }

    pub(crate) fn insert(&mut self, tuple: Tuple, reference: LegRef) {
        self.legs.insert(Key(tuple), reference, 0).expect("there is room");
    }

    pub(crate) fn counter(&self, counter: PacketCounter) -> u64 {
        self.counters.get(&(counter as u32), 0).expect("it can be read").iter().sum()
    }

    /// All counters that are not 0.
    pub(crate) fn counted(&self) -> Vec<(PacketCounter, u64)> {
        PacketCounter::ALL.into_iter().map(|slot| (slot, self.counter(slot))).filter(|(_, n)| *n != 0).collect()
    }

    /// The events since the last call.
    pub(crate) fn events(&mut self) -> Vec<u64> {
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            events.push(u64::from_ne_bytes(item[..8].try_into().expect("a word")));
        }
        events
    }
}

fn program<'e>(ebpf: &'e mut Ebpf, name: &str) -> &'e mut SchedClassifier {
    ebpf.program_mut(name).expect("the object has it").try_into().expect("a classifier")
}
