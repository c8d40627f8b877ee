//! `landbridge top`: a live view of the running daemon in a terminal. This file talks to the terminal and to the socket.
//!
//! Threads: the caller's draws; one reads keys, one asks the daemon and gives it orders, and one waits for what ends the view
//! from outside. They end with the process.

mod draw;
mod model;
mod rows;

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use self::model::{Action, Key, Model, Order};
use super::Exit;
use super::client;
use crate::admin::api::{SetState, SetWeight, Status};

/// Often enough to watch a drain, seldom enough to cost the daemon nothing.
const REFRESH: Duration = Duration::from_secs(1);

/// The longest time between two pictures: the age of the last answer is told in seconds.
const REDRAW: Duration = Duration::from_millis(500);

/// Why there is no view.
#[derive(Debug, thiserror::Error)]
enum TopError {
    /// Output goes to a file or a pipe.
    #[error("top needs a terminal; landbridge status and status --json print the same once")]
    NoTerminal,
    /// The terminal did not do what it should.
    #[error("the terminal failed: {0}")]
    Terminal(#[from] io::Error),
}

/// What the other threads have to tell.
enum News {
    Status(Result<Box<Status>, String>),
    Outcome(Order, Result<(), String>),
    Pressed(KeyEvent),
    /// The terminal has another size.
    Resized,
    /// No keys can be read any more.
    Deaf(io::Error),
    /// A signal asks for the end, or the terminal is gone.
    End,
}

/// Shows the daemon on `socket` until a key or a signal ends it.
pub(super) fn top(socket: &Path) -> Exit {
    match watch(socket) {
        Ok(()) => Exit::Good,
        Err(error) => {
            eprintln!("{error}");
            Exit::Failed
        }
    }
}

fn watch(socket: &Path) -> Result<(), TopError> {
    if !io::stdout().is_terminal() {
        return Err(TopError::NoTerminal);
    }
    let (tell, news) = mpsc::channel();
    let (give, orders) = mpsc::channel();
    heed_end(tell.clone())?;
    let (path, keys) = (socket.to_owned(), tell.clone());
    thread::Builder::new().name("daemon".to_owned()).spawn(move || ask(&path, &orders, &tell))?;
    // Also has a panic restore the terminal.
    let mut terminal = ratatui::try_init().inspect_err(|_| ratatui::restore())?;
    // A thread of its own, because crossterm never comes back from a terminal that is gone.
    let reading = thread::Builder::new().name("keys".to_owned()).spawn(move || read_keys(&keys));
    let shown = reading.and_then(|_| show(&mut terminal, &news, &give));
    ratatui::restore();
    shown.map_err(TopError::from)
}

/// Has the signals that would end the process tell so instead, for the terminal has to be restored first. To be called before
/// there is another thread, which inherits that it is not interrupted by them.
fn heed_end(tell: Sender<News>) -> io::Result<()> {
    // The interrupt key is a key like others. What is meant for the daemon may come here by its name.
    use Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    let ending: SigSet = [SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2].into_iter().collect();
    ending.thread_block()?;
    let signals = SignalFd::new(&ending)?;
    thread::Builder::new().name("end".to_owned()).spawn(move || {
        await_end(&signals);
        // Nobody listens any more when the view has ended meanwhile.
        let _ = tell.send(News::End);
    })?;
    Ok(())
}

/// Waits for a signal, or until the other end of the terminal is closed, which sends one only to whom it controls.
fn await_end(signals: &SignalFd) {
    let terminal = io::stdout();
    loop {
        let signal = PollFd::new(signals.as_fd(), PollFlags::POLLIN);
        let gone = PollFd::new(terminal.as_fd(), PollFlags::empty());
        if poll(&mut [signal, gone], PollTimeout::NONE) != Err(Errno::EINTR) {
            return;
        }
    }
}

fn read_keys(tell: &Sender<News>) {
    loop {
        let news = match event::read() {
            Ok(Event::Key(pressed)) => News::Pressed(pressed),
            Ok(Event::Resize(..)) => News::Resized,
            Ok(_) => continue,
            Err(error) => News::Deaf(error),
        };
        let is_last = matches!(news, News::Deaf(_));
        if tell.send(news).is_err() || is_last {
            return;
        }
    }
}

fn show(terminal: &mut DefaultTerminal, news: &Receiver<News>, orders: &Sender<Order>) -> io::Result<()> {
    let since = Instant::now();
    let mut model = Model::new();
    loop {
        terminal.draw(|frame| draw::draw(frame, &model, since.elapsed()))?;
        // Its own times grow while nothing is told.
        for news in news.recv_timeout(REDRAW).into_iter().chain(news.try_iter()) {
            match news {
                News::Status(Ok(status)) => model.answered(*status, since.elapsed()),
                News::Status(Err(why)) => model.lost(why),
                News::Outcome(order, outcome) => model.carried_out(&order, outcome),
                News::Pressed(pressed) => match key(pressed).and_then(|key| model.key(key)) {
                    Some(Action::Quit) => return Ok(()),
                    Some(Action::Send(order)) => {
                        orders
                            .send(order)
                            .map_err(|_| io::Error::other("the thread that asks the daemon has ended"))?;
                    }
                    None => {}
                },
                News::Resized => {}
                News::Deaf(error) => return Err(error),
                News::End => return Ok(()),
            }
        }
    }
}

fn key(KeyEvent { code, modifiers, kind, .. }: KeyEvent) -> Option<Key> {
    if kind == KeyEventKind::Release {
        return None;
    }
    Some(match code {
        KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Key::Interrupt,
        // Another control key is no letter.
        KeyCode::Char(_) if modifiers.contains(KeyModifiers::CONTROL) => return None,
        KeyCode::Char(letter) => Key::Char(letter),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        _ => return None,
    })
}

/// Asks for the status every second, and gives orders between, until nobody listens any more.
fn ask(socket: &Path, orders: &Receiver<Order>, tell: &Sender<News>) {
    loop {
        let status = client::get::<Status>(socket, "/status");
        if tell.send(News::Status(status.map(Box::new).map_err(|error| error.to_string()))).is_err() {
            return;
        }
        match orders.recv_timeout(REFRESH) {
            Ok(order) => {
                let outcome = carry_out(socket, &order);
                if tell.send(News::Outcome(order, outcome)).is_err() {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn carry_out(socket: &Path, order: &Order) -> Result<(), String> {
    let answer: Result<Status, _> = match order.clone() {
        Order::Weight { of, weight } => client::post(socket, "/weight", &SetWeight { of, weight, for_ms: None }),
        Order::State { of, state } => client::post(socket, "/state", &SetState { of, state: state.label().to_owned() }),
    };
    answer.map(drop).map_err(|error| error.to_string())
}
