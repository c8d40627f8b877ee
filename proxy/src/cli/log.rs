//! The daemon's own log on standard error: text or JSON, and never the same complaint a thousand times.

use std::collections::HashMap;
use std::env;
use std::io::{self, IsTerminal, Stderr, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber, warn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

use crate::config::LogFormat;

/// Warnings and errors of one kind that are shown within [`WINDOW`]: enough to see a pattern, too few to fill a disk.
const MOST_ALIKE: u32 = 20;
/// A flood that goes on is told about this often.
const WINDOW: Duration = Duration::from_secs(10);

/// Starts the log. `RUST_LOG` chooses what is logged; by default everything from `info` on.
pub(super) fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_not_set| EnvFilter::new("info"));
    // journald has a time of its own, and takes the severity from the start of a line (sd-daemon(3)).
    let journal = env::var_os("JOURNAL_STREAM").is_some();
    let registry = tracing_subscriber::registry().with(filter);
    let text = fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(Lines { journal });
    match (format, journal) {
        (LogFormat::Text, true) => registry.with(text.without_time().with_filter(Repeats::default())).init(),
        (LogFormat::Text, false) => registry.with(text.with_filter(Repeats::default())).init(),
        (LogFormat::Json, _) => {
            let json = fmt::layer().json().flatten_event(true).with_writer(Lines { journal: false });
            registry.with(json.with_filter(Repeats::default())).init();
        }
    }
}

/// Standard error, each line with its severity in front if journald reads it.
struct Lines {
    journal: bool,
}

impl MakeWriter<'_> for Lines {
    type Writer = Stderr;

    fn make_writer(&self) -> Stderr {
        io::stderr()
    }

    fn make_writer_for(&self, metadata: &Metadata<'_>) -> Stderr {
        if self.journal {
            // The kernel's levels (sd-daemon(3)). Who cannot write this cannot write the line either.
            let severity = match *metadata.level() {
                Level::ERROR => 3,
                Level::WARN => 4,
                Level::INFO => 6,
                Level::DEBUG | Level::TRACE => 7,
            };
            let _lost = write!(io::stderr(), "<{severity}>");
        }
        io::stderr()
    }
}

/// Leaves out warnings and errors that repeat.
#[derive(Default)]
struct Repeats(Mutex<HashMap<Identifier, Kind>>);

/// The messages from one place in the code.
struct Kind {
    since: Instant,
    seen: u32,
}

impl Kind {
    /// Whether one more is shown, and how many were left out in the window that has just ended.
    fn take(&mut self, now: Instant) -> (bool, u32) {
        let mut left_out = 0;
        if now.saturating_duration_since(self.since) >= WINDOW {
            left_out = self.seen.saturating_sub(MOST_ALIKE);
            *self = Self { since: now, seen: 0 };
        }
        self.seen = self.seen.saturating_add(1);
        (self.seen <= MOST_ALIKE, left_out)
    }
}

impl<S: Subscriber> Filter<S> for Repeats {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        // What is told once per change is `info`, and must not be lost.
        if *event.metadata().level() > Level::WARN {
            return true;
        }
        let now = Instant::now();
        let (shown, left_out) = {
            let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kinds.entry(event.metadata().callsite()).or_insert(Kind { since: now, seen: 0 }).take(now)
        };
        if left_out > 0 {
            warn!(left_out, "messages like the next one were not shown");
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_is_left_out_and_told_about_when_the_window_ends() {
        let began = Instant::now();
        let mut kind = Kind { since: began, seen: 0 };
        let shown = (0..1_000).filter(|_| kind.take(began).0).count();
        assert_eq!(shown, 20);
        assert_eq!(kind.take(began + WINDOW), (true, 980));
        assert_eq!(kind.take(began + WINDOW), (true, 0));
        assert_eq!(kind.take(began + WINDOW * 3), (true, 0), "two are no flood");
    }
}
