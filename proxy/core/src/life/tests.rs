use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const ALL_STATES: [State; 10] = [
    State::User,
    State::Promoting,
    State::Kernel,
    State::Demoting,
    State::HalfClosed,
    State::Drained,
    State::Closed,
    State::Broken(Broken::Source),
    State::Broken(Broken::Sink),
    State::Broken(Broken::Integrity),
];

const LOST_COUNT: State = State::Broken(Broken::Integrity);

/// A direction in `state` with 10 bytes read, of which `waiting` wait.
fn life(state: State, waiting: u64, cut: bool, redirected: u64) -> Life {
    Life { state, cut, read: 10, waiting, given: 10 - waiting + redirected, redirected, entered: redirected > 0 }
}

/// What every event does in every state, the books apart: nothing waits, the stream is not cut, and the kernel never
/// forwarded.
#[test]
fn every_event_in_every_state() {
    use State::{Closed, Demoting, Drained, HalfClosed, Kernel, Promoting, User};
    let expected = |state, event| match (state, event) {
        (State::Broken(_), _) => state,
        (_, Event::Failed(broken)) => State::Broken(broken),
        (User, Event::Read(_)) | (User, Event::Sent(0)) => User,
        (User, Event::Wants) => Promoting,
        (User, Event::Ended) => Drained,
        (Promoting, Event::Entered) => Kernel,
        (Promoting, Event::Refused) => User,
        (Kernel, Event::Stopped) => Demoting,
        (Demoting, Event::Delivered(_)) => User,
        (HalfClosed, Event::Sent(0)) => Drained,
        (Drained, Event::Counted(None | Some(10))) => Closed,
        _ => LOST_COUNT,
    };
    let events = [
        Event::Read(3),
        Event::Sent(0),
        Event::Sent(1),
        Event::Wants,
        Event::Entered,
        Event::Refused,
        Event::Stopped,
        Event::Delivered(5),
        Event::Ended,
        Event::Counted(None),
        Event::Counted(Some(10)),
        Event::Counted(Some(11)),
        Event::Failed(Broken::Source),
        Event::Failed(Broken::Sink),
        Event::Failed(Broken::Integrity),
    ];
    for state in ALL_STATES {
        for event in events {
            let mut life = life(state, 0, false, 0);
            assert_eq!(life.on(event), expected(state, event), "{state:?}, {event:?}");
        }
    }
}

#[test]
fn what_waits_decides() {
    let cases = [
        // Not promoted past bytes that wait, nor once the source has failed.
        (State::User, 4, false, Event::Wants, State::User),
        (State::User, 0, true, Event::Wants, State::User),
        // The end comes after what waits.
        (State::User, 4, false, Event::Ended, State::HalfClosed),
        (State::HalfClosed, 4, false, Event::Sent(3), State::HalfClosed),
        (State::HalfClosed, 4, false, Event::Sent(4), State::Drained),
        (State::HalfClosed, 4, false, Event::Sent(5), LOST_COUNT),
        // A stream that was cut gives up what it has and then breaks.
        (State::User, 4, true, Event::Ended, State::HalfClosed),
        (State::HalfClosed, 4, true, Event::Sent(4), State::Broken(Broken::Source)),
        (State::User, 0, true, Event::Ended, State::Broken(Broken::Source)),
    ];
    for (state, waiting, cut, event, expected) in cases {
        assert_eq!(life(state, waiting, cut, 0).on(event), expected, "{state:?}, {waiting}, {cut}, {event:?}");
    }
}

#[test]
fn a_stream_that_was_in_the_kernel_has_to_be_counted() {
    for (received, expected) in
        [(Some(110), State::Closed), (Some(109), LOST_COUNT), (Some(111), LOST_COUNT), (None, LOST_COUNT)]
    {
        let mut life = life(State::Drained, 0, false, 100);
        assert!(life.was_in_kernel());
        assert_eq!(life.on(Event::Counted(received)), expected, "{received:?}");
    }
}

/// One thing that the world does; what is impossible at the moment is passed over.
#[derive(Debug, Clone, Copy)]
enum Chance {
    /// The peer sends a byte, or its FIN.
    Arrive,
    Fin,
    /// User space reads up to so many bytes, sends up to so many.
    Read(usize),
    Send(usize),
    Wants,
    Refused,
    Enter,
    /// The kernel's worker hands over a byte that it took.
    Work,
    Stop,
    Deliver,
    /// The kernel loses a byte that it took: a bug that the books must find.
    Lose,
    SourceFails,
    Count,
}

fn chance() -> impl Strategy<Value = Chance> {
    prop_oneof![
        6 => Just(Chance::Arrive),
        1 => Just(Chance::Fin),
        4 => (1_usize..4).prop_map(Chance::Read),
        4 => (1_usize..4).prop_map(Chance::Send),
        4 => Just(Chance::Wants),
        1 => Just(Chance::Refused),
        4 => Just(Chance::Enter),
        4 => Just(Chance::Work),
        2 => Just(Chance::Stop),
        4 => Just(Chance::Deliver),
        3 => Just(Chance::Count),
    ]
}

/// Queues of numbered bytes: the naive truth about a direction.
#[derive(Debug, Default)]
struct World {
    sent: u32,
    fin: bool,
    failed: bool,
    queue: VecDeque<u32>,
    held: VecDeque<u32>,
    backlog: VecDeque<u32>,
    taken: u64,
    sink: Vec<u32>,
    /// The sink was told that the stream has ended.
    ended: bool,
}

impl World {
    fn step(&mut self, life: &mut Life, chance: Chance) {
        let state = life.state();
        match (chance, state) {
            (Chance::Arrive, _) if !self.fin && !self.failed => {
                // With a verdict in place arriving bytes go to the kernel, else they wait for user space.
                let queue = if state == State::Kernel { &mut self.backlog } else { &mut self.queue };
                queue.push_back(self.sent);
                self.taken += u64::from(state == State::Kernel);
                self.sent += 1;
            }
            (Chance::Fin, _) => self.fin = true,
            (Chance::SourceFails, _) => {
                self.failed = true;
                life.cut();
            }
            (Chance::Read(most), State::User) => match self.queue.len().min(most) {
                0 if self.fin || self.failed => {
                    life.on(Event::Ended);
                }
                0 => {}
                some => {
                    self.held.extend(self.queue.drain(..some));
                    life.on(Event::Read(some as u64));
                }
            },
            (Chance::Send(most), State::User | State::HalfClosed) => {
                let some = self.held.len().min(most);
                assert!(self.backlog.is_empty(), "user space would overtake the kernel");
                self.sink.extend(self.held.drain(..some));
                life.on(Event::Sent(some as u64));
            }
            // As in the daemon: only when a read has left nothing behind.
            (Chance::Wants, State::User) if self.queue.is_empty() => {
                life.on(Event::Wants);
            }
            (Chance::Refused, State::Promoting) => {
                life.on(Event::Refused);
            }
            (Chance::Enter, State::Promoting) => {
                assert!(self.held.is_empty(), "the kernel would overtake user space");
                // The kick: what has arrived since the last read goes through the verdict first.
                self.taken = self.queue.len() as u64;
                self.backlog.append(&mut self.queue);
                life.on(Event::Entered);
            }
            (Chance::Work, _) => self.sink.extend(self.backlog.pop_front()),
            (Chance::Lose, _) => drop(self.backlog.pop_front()),
            (Chance::Stop, State::Kernel) => {
                life.on(Event::Stopped);
            }
            (Chance::Deliver, State::Demoting) if self.backlog.is_empty() => {
                life.on(Event::Delivered(self.taken));
            }
            (Chance::Count, State::Drained) => {
                let received = life.was_in_kernel().then_some(self.sent.into());
                self.ended = life.on(Event::Counted(received)) == State::Closed;
            }
            _ => {}
        }
    }

    /// Whether the sink holds the beginning of the stream, in order and without a gap.
    fn is_prefix(&self) -> bool {
        self.sink.iter().copied().eq(0..self.sink.len() as u32)
    }
}

/// Lets what is under way come to its end.
const TO_THE_END: [Chance; 9] = [
    Chance::Fin,
    Chance::Enter,
    Chance::Stop,
    Chance::Work,
    Chance::Deliver,
    Chance::Read(9),
    Chance::Send(9),
    Chance::Read(9),
    Chance::Count,
];

/// Brings a byte into the kernel.
const TO_THE_KERNEL: [Chance; 8] = [
    Chance::Deliver,
    Chance::Read(9),
    Chance::Send(9),
    Chance::Read(9),
    Chance::Send(9),
    Chance::Wants,
    Chance::Enter,
    Chance::Arrive,
];

proptest! {
    /// Whatever happens in whatever order, the sink gets the bytes in order, and an end only after the last of them.
    #[test]
    fn the_sink_gets_the_whole_stream_in_order(chances in prop::collection::vec(chance(), 0..300)) {
        let (mut world, mut life) = (World::default(), Life::new(0, 0));
        for chance in chances {
            world.step(&mut life, chance);
            prop_assert!(world.is_prefix(), "{world:?}");
        }
        for _ in 0..1000 {
            TO_THE_END.iter().for_each(|&chance| world.step(&mut life, chance));
        }
        prop_assert_eq!(life.state(), State::Closed);
        prop_assert!(world.ended && world.is_prefix() && world.sink.len() == world.sent as usize, "{:?}", world);
        prop_assert_eq!(life.given(), world.sink.len() as u64);
    }

    /// A source that fails at any moment: the sink has the beginning of the stream and is never told that it has ended,
    /// unless that was true before.
    #[test]
    fn a_stream_that_is_cut_never_ends(
        before in prop::collection::vec(chance(), 0..200),
        after in prop::collection::vec(chance(), 0..200),
    ) {
        let (mut world, mut life) = (World::default(), Life::new(0, 0));
        before.into_iter().for_each(|chance| world.step(&mut life, chance));
        // The end of the source was read before it failed: its stream is whole.
        let whole = matches!(life.state(), State::Drained | State::Closed);
        prop_assume!(!whole);
        world.step(&mut life, Chance::SourceFails);
        after.into_iter().for_each(|chance| world.step(&mut life, chance));
        for _ in 0..1000 {
            TO_THE_END.iter().for_each(|&chance| world.step(&mut life, chance));
        }
        prop_assert!(!world.ended && world.is_prefix(), "{:?}", world);
        prop_assert_eq!(life.state(), State::Broken(Broken::Source));
    }

    /// A byte that the kernel takes and loses is found at the end, wherever it was lost.
    #[test]
    fn a_lost_byte_is_found(
        before in prop::collection::vec(chance(), 0..200),
        after in prop::collection::vec(chance(), 0..200),
    ) {
        let (mut world, mut life) = (World::default(), Life::new(0, 0));
        before.into_iter().filter(|c| !matches!(c, Chance::Fin)).for_each(|chance| world.step(&mut life, chance));
        while world.backlog.is_empty() {
            TO_THE_KERNEL.iter().for_each(|&chance| world.step(&mut life, chance));
        }
        // Lost before it was counted as redirected.
        world.step(&mut life, Chance::Lose);
        world.taken -= 1;
        after.into_iter().for_each(|chance| world.step(&mut life, chance));
        for _ in 0..1000 {
            TO_THE_END.iter().for_each(|&chance| world.step(&mut life, chance));
        }
        prop_assert_eq!(life.state(), LOST_COUNT);
        prop_assert!(!world.ended);
    }
}
