//! What the live view knows and what keys do to it. Pure: no terminal, no socket, no clock.

use std::time::Duration;

use landbridge_core::failover::AdminState;

use super::rows::{Column, Row, rows, sorted};
use crate::admin::api::Status;

/// A key, as far as the view has a use for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Enter,
    Escape,
    Backspace,
    Up,
    Down,
    Left,
    Right,
    /// Ctrl-C.
    Interrupt,
}

/// What the daemon shall change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// `None`: the configuration's.
    Weight {
        of: String,
        weight: Option<u16>,
    },
    State {
        of: String,
        state: AdminState,
    },
}

impl Order {
    /// What it does, in words.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Weight { of, weight: Some(weight) } => format!("set the weight of {of} to {weight}"),
            Self::Weight { of, weight: None } => format!("set the weight of {of} to the configuration's"),
            Self::State { of, state } => format!("set the state of {of} to {}", state.label()),
        }
    }
}

/// What a key wants done outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Quit,
    Send(Order),
}

/// What keys mean now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    Looking,
    /// A weight is being typed.
    Weight {
        of: String,
        typed: String,
    },
    /// A state is being chosen.
    State {
        of: String,
    },
    /// Only `y` carries this out.
    Confirm(Order),
}

/// As many digits as the largest weight has.
const WEIGHT_DIGITS: usize = 5;

/// All that is seen.
#[derive(Debug)]
pub(super) struct Model {
    latest: Option<(Status, Duration)>,
    rows: Vec<Row>,
    /// Why there was no answer the last time.
    lost: Option<String>,
    sort: Option<Column>,
    descending: bool,
    /// By name, so that it stays the same row in another order.
    selected: Option<String>,
    mode: Mode,
    said: String,
}

impl Model {
    pub(super) const fn new() -> Self {
        Self {
            latest: None,
            rows: Vec::new(),
            lost: None,
            sort: None,
            descending: false,
            selected: None,
            mode: Mode::Looking,
            said: String::new(),
        }
    }

    /// What the daemon answered, so long after the start of the view.
    pub(super) fn answered(&mut self, status: Status, at: Duration) {
        // Over a loss nothing is known of how the rates were.
        let before = self.latest.take().filter(|_| self.lost.is_none());
        let before = before.as_ref().map(|(before, then)| (before, at.saturating_sub(*then)));
        self.rows = rows(&status, before);
        self.latest = Some((status, at));
        self.lost = None;
        self.arrange();
    }

    /// The daemon did not answer.
    pub(super) fn lost(&mut self, why: String) {
        self.lost = Some(why);
    }

    /// What came of an order.
    pub(super) fn carried_out(&mut self, order: &Order, outcome: Result<(), String>) {
        self.said = match outcome {
            Ok(()) => format!("done: {}", order.words()),
            Err(why) => format!("cannot {}: {why}", order.words()),
        };
    }

    /// Takes a key.
    pub(super) fn key(&mut self, key: Key) -> Option<Action> {
        if key == Key::Interrupt {
            return Some(Action::Quit);
        }
        self.said.clear();
        // What follows sets the next mode; without that, it is looking again.
        match std::mem::replace(&mut self.mode, Mode::Looking) {
            Mode::Looking => return self.look(key),
            Mode::Weight { of, typed } => self.type_weight(of, typed, key),
            Mode::State { of } => self.choose_state(of, key),
            Mode::Confirm(order) => return self.confirm(order, key),
        }
        None
    }

    fn look(&mut self, key: Key) -> Option<Action> {
        match key {
            Key::Char('q') => return Some(Action::Quit),
            Key::Up | Key::Char('k') => self.select(-1),
            Key::Down | Key::Char('j') => self.select(1),
            Key::Left => self.sort_by(-1),
            Key::Right => self.sort_by(1),
            Key::Char('r') => {
                self.descending = !self.descending;
                self.arrange();
            }
            Key::Char('w') => self.change(|of| Mode::Weight { of, typed: String::new() }),
            Key::Char('s') => self.change(|of| Mode::State { of }),
            _ => {}
        }
        None
    }

    fn change(&mut self, mode: impl FnOnce(String) -> Mode) {
        match (&self.lost, self.selected.clone()) {
            (Some(_), _) => self.said = "the daemon does not answer".to_owned(),
            (None, Some(of)) => self.mode = mode(of),
            (None, None) => self.said = "select a row first".to_owned(),
        }
    }

    fn type_weight(&mut self, of: String, mut typed: String, key: Key) {
        match key {
            Key::Escape => return,
            Key::Char(digit) if digit.is_ascii_digit() && typed.len() < WEIGHT_DIGITS => typed.push(digit),
            Key::Backspace => drop(typed.pop()),
            Key::Char('c') => {
                self.mode = Mode::Confirm(Order::Weight { of, weight: None });
                return;
            }
            Key::Enter => match typed.parse() {
                Ok(weight) => {
                    self.mode = Mode::Confirm(Order::Weight { of, weight: Some(weight) });
                    return;
                }
                Err(_) => self.said = format!("a weight is a number from 0 to {}", u16::MAX),
            },
            _ => {}
        }
        self.mode = Mode::Weight { of, typed };
    }

    fn choose_state(&mut self, of: String, key: Key) {
        let state = match key {
            Key::Escape => return,
            Key::Char('a') => AdminState::Active,
            Key::Char('d') => AdminState::Draining,
            Key::Char('x') => AdminState::Disabled,
            _ => {
                self.mode = Mode::State { of };
                return;
            }
        };
        self.mode = Mode::Confirm(Order::State { of, state });
    }

    fn confirm(&mut self, order: Order, key: Key) -> Option<Action> {
        match key {
            Key::Char('y') => return Some(Action::Send(order)),
            Key::Char('n') | Key::Escape => self.said = "nothing has changed".to_owned(),
            _ => self.mode = Mode::Confirm(order),
        }
        None
    }

    fn select(&mut self, by: isize) {
        let last = self.rows.len().saturating_sub(1);
        let to = self.selection().map_or(0, |at| at.saturating_add_signed(by).min(last));
        self.selected = self.rows.get(to).map(|row| row.of.clone());
    }

    fn sort_by(&mut self, by: isize) {
        self.sort = Some(match self.sort {
            None if by > 0 => Column::Name,
            None => Column::Slow,
            Some(column) => column.moved(by),
        });
        self.arrange();
    }

    fn arrange(&mut self) {
        if let Some(by) = self.sort {
            self.rows = sorted(std::mem::take(&mut self.rows), by, self.descending);
        }
        if self.selection().is_none() {
            self.selected = self.rows.first().map(|row| row.of.clone());
        }
    }

    /// The place of the selected row.
    pub(super) fn selection(&self) -> Option<usize> {
        let selected = self.selected.as_ref()?;
        self.rows.iter().position(|row| row.of == *selected)
    }

    /// The last answer.
    pub(super) fn status(&self) -> Option<&Status> {
        self.latest.as_ref().map(|(status, _)| status)
    }

    /// How old the last answer is, so long after the start of the view.
    pub(super) fn age(&self, now: Duration) -> Option<Duration> {
        self.latest.as_ref().map(|(_, at)| now.saturating_sub(*at))
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub(super) fn why_lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// By which column, and whether the largest is first; the daemon's order at first.
    pub(super) const fn order(&self) -> Option<(Column, bool)> {
        match self.sort {
            Some(column) => Some((column, self.descending)),
            None => None,
        }
    }

    pub(super) const fn mode(&self) -> &Mode {
        &self.mode
    }

    /// What came of the last keys.
    pub(super) fn said(&self) -> &str {
        &self.said
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::example::status;

    fn model() -> Model {
        let mut model = Model::new();
        model.answered(status(), Duration::ZERO);
        model
    }

    fn typed(model: &mut Model, keys: &str) -> Vec<Action> {
        let key = |key| match key {
            '\n' => Key::Enter,
            '<' => Key::Backspace,
            '!' => Key::Escape,
            '^' => Key::Interrupt,
            '+' => Key::Right,
            '-' => Key::Left,
            other => Key::Char(other),
        };
        keys.chars().filter_map(|of| model.key(key(of))).collect()
    }

    #[test]
    fn an_order_needs_a_yes_and_goes_to_the_selected_row() {
        let order = |of: &str, weight| Action::Send(Order::Weight { of: of.to_owned(), weight });
        let weight = |of: &str, weight| order(of, Some(weight));
        let state = |of: &str, state| Action::Send(Order::State { of: of.to_owned(), state });
        for (keys, expected) in [
            ("w12\ny", vec![weight("onprem", 12)]),
            ("jw0\ny", vec![weight("onprem/gpu-1", 0)]),
            ("jw12<<7\ny", vec![weight("onprem/gpu-1", 7)]),
            ("jjw65535\ny", vec![weight("onprem/gpu-2", 65535)]),
            ("jjjjjjjjw3\ny", vec![weight("aws/ec2", 3)]),
            ("jjkw3\ny", vec![weight("onprem/gpu-1", 3)]),
            ("w3cy", vec![order("onprem", None)]),
            ("say", vec![state("onprem", AdminState::Active)]),
            ("jsdy", vec![state("onprem/gpu-1", AdminState::Draining)]),
            ("sxy", vec![state("onprem", AdminState::Disabled)]),
            ("w12\nn", vec![]),
            ("w12\n!y", vec![]),
            ("w12\n\n\n", vec![]),
            ("w12!y", vec![]),
            ("w\ny", vec![]),
            ("w65536\ny", vec![]),
            ("s!y", vec![]),
            ("sdn", vec![]),
            ("y", vec![]),
            // While a number is typed, another letter is only a letter.
            ("wq", vec![]),
            ("q", vec![Action::Quit]),
            ("^", vec![Action::Quit]),
            ("w1^", vec![Action::Quit]),
            ("w1\n^", vec![Action::Quit]),
        ] {
            assert_eq!(typed(&mut model(), keys), expected, "{keys:?}");
        }
    }

    #[test]
    fn the_selection_stays_at_its_row_in_every_order() {
        let mut model = model();
        typed(&mut model, "jj+");
        assert_eq!(model.order(), Some((Column::Name, false)));
        let at = model.selection().expect("a row");
        assert_eq!((at, model.rows()[at].of.as_str()), (4, "onprem/gpu-2"));
        typed(&mut model, "r");
        let at = model.selection().expect("a row");
        assert_eq!((at, model.rows()[at].of.as_str()), (1, "onprem/gpu-2"));
        let mut without = status();
        without.groups.remove(0);
        model.answered(without, Duration::from_secs(1));
        assert_eq!(model.selection(), Some(0), "its row is gone");
    }

    #[test]
    fn a_lost_daemon_takes_no_orders_until_it_answers_again() {
        let mut model = model();
        model.lost("nobody".to_owned());
        assert!(typed(&mut model, "w1\ny").is_empty());
        assert_eq!(model.why_lost(), Some("nobody"));
        model.answered(status(), Duration::from_secs(9));
        assert_eq!(model.why_lost(), None);
        assert!(model.rows().iter().all(|row| row.rates.is_none()), "rates over a loss");
        model.answered(status(), Duration::from_secs(10));
        assert!(model.rows().iter().all(|row| row.rates.is_some()));
        assert_eq!(typed(&mut model, "w1\ny").len(), 1);
    }

    #[test]
    fn the_outcome_of_an_order_is_said() {
        let mut model = model();
        let order = Order::Weight { of: "aws".to_owned(), weight: Some(1) };
        model.carried_out(&order, Ok(()));
        assert_eq!(model.said(), "done: set the weight of aws to 1");
        model.carried_out(&order, Err("no such group".to_owned()));
        assert_eq!(model.said(), "cannot set the weight of aws to 1: no such group");
    }
}
