//! The events of a stream: all of the same length, about that of one token of an inference server, with a time inside.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Bytes of every event.
pub(crate) const LENGTH: usize = BEFORE.len() + DIGITS + AFTER.len();

const BEFORE: &[u8] = b"data: {\"id\":\"chatcmpl-sample\",\"object\":\"chat.completion.chunk\",\"sent\":";
const AFTER: &[u8] = b",\"model\":\"sample\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},\
    \"logprobs\":null,\"finish_reason\":null}]}\n\n";

/// Enough for every number of nanoseconds.
const DIGITS: usize = 20;

/// The monotonic clock of the machine.
pub(crate) fn now() -> nix::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

/// An event that is sent at `time`.
pub(crate) fn write(time: Duration) -> Vec<u8> {
    let time = format!("{:0DIGITS$}", time.as_nanos());
    [BEFORE, time.as_bytes(), AFTER].concat()
}

/// When the event was sent; `None` if these bytes are no event.
pub(crate) fn sent(event: &[u8]) -> Option<Duration> {
    let digits = event.strip_prefix(BEFORE)?.strip_suffix(AFTER)?;
    let nanoseconds = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_comes_back() {
        let time = Duration::new(12_345, 678_901_234);
        let event = write(time);
        assert_eq!(event.len(), LENGTH);
        assert_eq!(sent(&event), Some(time));
        assert_eq!(sent(&event[1..]), None);
    }
}
