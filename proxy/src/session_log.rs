//! The session log: one line of JSON for each session that has ended, for those who look into single cases.
//!
//! Workers put records into a bounded channel and never wait: what does not fit is counted and dropped. One thread writes;
//! it ends with [`SessionLog::close`], which loses nothing that is in the channel. The file is opened while the daemon still
//! may open it ([`open`]), and the thread is started when it has given up what it does not need ([`Writer::start`]).

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use landbridge_core::end::SessionEnd;
use landbridge_core::select::TargetId;
use serde::Serialize;
use tracing::{error, info};

use crate::config::{LogOutput, SessionLogRules};
use crate::shared::Shared;
use crate::stats::{Carrier, Counter, Direction};
use crate::target::Transition;

/// Records that may wait for the writer: a tenth of a second at forty thousand sessions a second, which is as long as a disk
/// may pause, in a megabyte.
const WAITING: usize = 4096;

/// Bytes of lines that are written at once at the latest: as much as a pipe takes without waiting.
const MOST_PENDING: usize = 64 * 1024;

/// Why there is no session log.
#[derive(Debug, thiserror::Error)]
pub enum SessionLogError {
    /// The file could not be opened.
    #[error(
        "cannot open {} (session_log.path): {source}; its directory has to exist, and the user that landbridge runs as \
         to be able to write there",
        path.display()
    )]
    Open {
        /// `session_log.path`
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The writer could not be started.
    #[error("cannot start the session log: {0}")]
    Thread(#[source] io::Error),
}

/// What is written about a session.
pub(crate) struct Record {
    pub(crate) ended: SystemTime,
    /// The configuration that it began with, and its listener there.
    pub(crate) shared: Arc<Shared>,
    pub(crate) listener: usize,
    pub(crate) client: SocketAddr,
    pub(crate) end: SessionEnd,
    pub(crate) total: Duration,
    /// `None`: it ended before it had a target.
    pub(crate) served: Option<Served>,
}

/// What is written about a session that had a target.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) target: TargetId,
    pub(crate) tries: u8,
    pub(crate) queue: Duration,
    pub(crate) connect: Duration,
    pub(crate) first_byte: Option<Duration>,
    /// In the order of [`Direction::ALL`] and [`Carrier::ALL`].
    pub(crate) bytes: [[u64; Carrier::ALL.len()]; Direction::ALL.len()],
    /// To the client and to the target.
    pub(crate) round_trips: [Option<Duration>; 2],
}

#[expect(clippy::large_enum_variant, reason = "nearly all are records, and a box would cost the worker an allocation")]
enum Message {
    Record(Record),
    Reopen,
    Close,
}

/// The way to the log.
#[derive(Debug)]
pub(crate) struct SessionLog {
    records: SyncSender<Message>,
    one_in: u64,
    /// Sessions that have asked whether they are logged.
    asked: AtomicU64,
    /// Records that were lost because the writer was behind, or could not write.
    dropped: Arc<Counter>,
}

/// Opens the log; `None`: there is none by the configuration. What is logged is written once [`Writer::start`] was called.
pub(crate) fn open(rules: &SessionLogRules) -> Result<Option<(SessionLog, Writer)>, SessionLogError> {
    let Some(output) = rules.output.clone() else { return Ok(None) };
    let sink = sink(&output).map_err(|source| match &output {
        LogOutput::File(path) => SessionLogError::Open { path: path.clone(), source },
        LogOutput::Stdout => SessionLogError::Thread(source),
    })?;
    let (sender, records) = sync_channel(WAITING);
    let dropped = Arc::new(Counter::default());
    let log = SessionLog {
        records: sender,
        one_in: rules.one_in.into(),
        asked: AtomicU64::new(0),
        dropped: Arc::clone(&dropped),
    };
    let writer =
        Writer { records, output, sink, pending: Vec::new(), lines: 0, dropped, failing: Transition::default() };
    Ok(Some((log, writer)))
}

impl SessionLog {
    /// Whether a session that begins now is logged: one in so many.
    pub(crate) fn chooses(&self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.one_in)
    }

    /// Writes a record soon.
    pub(crate) fn write(&self, record: Record) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.records.try_send(Message::Record(record))
        {
            self.dropped.add(1);
        }
    }

    /// Records that were lost.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Opens the file anew, for whoever has moved it away. Waits for the writer if that is behind.
    pub(crate) fn reopen(&self) {
        // Without a writer there is nothing to open.
        let _ended = self.records.send(Message::Reopen);
    }

    /// Has `writer` write what is waiting, and waits for its end.
    pub(crate) fn close(&self, writer: JoinHandle<()>) {
        let _ended = self.records.send(Message::Close);
        // A writer that panicked has said so.
        let _panicked = writer.join();
    }
}

fn sink(output: &LogOutput) -> io::Result<Box<dyn Write + Send>> {
    Ok(match output {
        LogOutput::Stdout => Box::new(io::stdout()),
        LogOutput::File(path) => Box::new(OpenOptions::new().append(true).create(true).open(path)?),
    })
}

/// Writes what the log is given.
pub(crate) struct Writer {
    records: Receiver<Message>,
    output: LogOutput,
    sink: Box<dyn Write + Send>,
    /// Whole lines that are not written yet, and how many they are.
    pending: Vec<u8>,
    lines: u64,
    dropped: Arc<Counter>,
    failing: Transition,
}

impl Writer {
    /// Starts the thread that writes. It may do what the calling one may.
    pub(crate) fn start(mut self) -> Result<JoinHandle<()>, SessionLogError> {
        let thread = thread::Builder::new().name("session-log".to_owned());
        thread.spawn(move || self.run()).map_err(SessionLogError::Thread)
    }

    fn run(&mut self) {
        loop {
            let message = match self.records.try_recv() {
                Ok(message) => Some(message),
                Err(TryRecvError::Disconnected) => None,
                Err(TryRecvError::Empty) => {
                    self.flush();
                    self.records.recv().ok()
                }
            };
            match message {
                Some(Message::Record(record)) => {
                    self.take(&record);
                    if self.pending.len() >= MOST_PENDING {
                        self.flush();
                    }
                }
                Some(Message::Reopen) => self.reopen(),
                Some(Message::Close) | None => break,
            }
        }
        self.flush();
    }

    fn take(&mut self, record: &Record) {
        // Strings and numbers into a vector: nothing in it can fail.
        let _never = serde_json::to_writer(&mut self.pending, &Line::of(record));
        self.pending.push(b'\n');
        self.lines += 1;
    }

    /// Writes what is pending; what cannot be written is lost.
    fn flush(&mut self) {
        if self.lines == 0 {
            return;
        }
        let written = self.sink.write_all(&self.pending).and_then(|()| self.sink.flush());
        if written.is_err() {
            self.dropped.add(self.lines);
        }
        self.pending.clear();
        self.lines = 0;
        if self.failing.set(written.is_err()) {
            match written {
                Ok(()) => info!("the session log is written again"),
                Err(error) => error!("the session log cannot be written: {error}"),
            }
        }
    }

    fn reopen(&mut self) {
        self.flush();
        match sink(&self.output) {
            Ok(sink) => {
                self.sink = sink;
                info!("the session log is opened anew");
            }
            Err(error) => error!("the session log stays as it is: it cannot be opened anew: {error}"),
        }
    }
}

/// The fields of a line, in its order. Times are in milliseconds.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    listener: &'a str,
    client: SocketAddr,
    #[serde(flatten)]
    served: Option<ServedLine<'a>>,
    total_ms: f64,
    end: &'static str,
}

#[derive(Serialize)]
struct ServedLine<'a> {
    group: &'a str,
    target: &'a str,
    address: SocketAddr,
    tries: u8,
    queue_ms: f64,
    connect_ms: f64,
    first_byte_ms: Option<f64>,
    upload_bytes: u64,
    download_bytes: u64,
    copy_bytes: u64,
    splice_bytes: u64,
    sockmap_bytes: u64,
    packet_bytes: u64,
    client_round_trip_ms: Option<f64>,
    target_round_trip_ms: Option<f64>,
}

impl<'a> Line<'a> {
    fn of(record: &'a Record) -> Self {
        let served = record.served.as_ref().map(|served| {
            let (group, target) = record.shared.target(served.target);
            let carried = |carrier: Carrier| served.bytes.iter().map(|of| of[carrier as usize]).sum();
            let moved = |direction: Direction| served.bytes[direction as usize].iter().sum();
            ServedLine {
                group: &group.name,
                target: &target.name,
                address: target.address,
                tries: served.tries,
                queue_ms: millis(served.queue),
                connect_ms: millis(served.connect),
                first_byte_ms: served.first_byte.map(millis),
                upload_bytes: moved(Direction::Upload),
                download_bytes: moved(Direction::Download),
                copy_bytes: carried(Carrier::Copy),
                splice_bytes: carried(Carrier::Splice),
                sockmap_bytes: carried(Carrier::Sockmap),
                packet_bytes: carried(Carrier::Packet),
                client_round_trip_ms: served.round_trips[0].map(millis),
                target_round_trip_ms: served.round_trips[1].map(millis),
            }
        });
        Self {
            time: humantime::format_rfc3339_millis(record.ended).to_string(),
            listener: &record.shared.config.listeners[record.listener].name,
            client: record.client,
            served,
            total_ms: millis(record.total),
            end: record.end.code(),
        }
    }
}

/// To the microsecond, which is what the clocks are good for.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1_000.0
}
