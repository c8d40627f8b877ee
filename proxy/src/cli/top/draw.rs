//! Draws the live view. Fits 80 columns and 24 lines; more columns go to the names.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row as Cells, Table, TableState};

use super::model::{Mode, Model};
use super::rows::{Column, Rates, Row};

/// An answer comes every second; one that is older than this is worth a word.
const OLD: Duration = Duration::from_secs(3);

const HELP: &str = "q quit  up/down row  left/right sort  r reverse  w weight  s state";

/// Draws `model`, so long after the start of the view.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, now: Duration) {
    let [title, table, remark, message, help] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let (text, style) = heading(model, now);
    frame.render_widget(Line::styled(text, style), title);
    let mut state = TableState::default().with_selected(model.selection());
    frame.render_stateful_widget(rows(model), table, &mut state);
    frame.render_widget(Line::raw(selected(model)), remark);
    frame.render_widget(Line::styled(prompt(model), Modifier::BOLD), message);
    frame.render_widget(Line::styled(HELP, Modifier::REVERSED), help);
}

fn heading(model: &Model, now: Duration) -> (String, Style) {
    let alarm = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
    if let Some(why) = model.why_lost() {
        return (format!("LOST, trying again every second: {why}"), alarm);
    }
    match (model.status(), model.age(now)) {
        (Some(_), Some(age)) if age > OLD => (format!("no answer for {} s", age.as_secs()), alarm),
        (Some(status), _) => {
            let reload = if status.last_reload_good { "" } else { "; the last reload failed, see the log" };
            let text = format!(
                "landbridge {} {}, generation {}{reload}",
                status.version,
                status.phase_words(),
                status.generation
            );
            (text, Style::new())
        }
        (None, _) => ("landbridge: asking the daemon".to_owned(), Style::new()),
    }
}

const fn width(column: Column) -> Constraint {
    match column {
        Column::Name => Constraint::Min(13),
        Column::Tier => Constraint::Length(2),
        Column::Share | Column::Sessions | Column::Started => Constraint::Length(5),
        Column::Weight | Column::Uploaded | Column::Downloaded => Constraint::Length(6),
        Column::Health | Column::Slow => Constraint::Length(7),
        Column::State => Constraint::Length(8),
    }
}

fn rows(model: &Model) -> Table<'_> {
    let head = Column::ALL.map(|column| {
        let style = match model.order() {
            Some((by, _)) if by == column => Modifier::BOLD | Modifier::UNDERLINED,
            _ => Modifier::BOLD,
        };
        Cell::from(Line::styled(column.title(), style))
    });
    let lines = model.rows().iter().map(|row| Cells::new(Column::ALL.map(|column| cell(row, column))));
    Table::new(lines, Column::ALL.map(width))
        .header(Cells::new(head))
        .column_spacing(1)
        .row_highlight_style(Modifier::REVERSED)
}

fn cell(row: &Row, column: Column) -> String {
    let rate = |of: fn(&Rates) -> f64| row.rates.as_ref().map_or_else(|| "-".to_owned(), |rates| scaled(of(rates)));
    match column {
        Column::Name if row.is_target() => format!("  {}", row.name),
        Column::Name => row.name.clone(),
        Column::Tier => row.tier.map(|tier| tier.to_string()).unwrap_or_default(),
        // The star is explained below the table for the selected row.
        Column::Weight if row.weight.remark().is_some() => format!("{}*", row.weight.weight),
        Column::Weight => row.weight.weight.to_string(),
        Column::State => row.state.clone(),
        Column::Health => row.health.clone(),
        Column::Share => format!("{:.0}%", row.share * 100.0),
        Column::Sessions => row.sessions.to_string(),
        Column::Started => rate(|rates| rates.started),
        Column::Uploaded => rate(|rates| rates.uploaded),
        Column::Downloaded => rate(|rates| rates.downloaded),
        Column::Slow => row.slow.clone().unwrap_or_default(),
    }
}

/// A number in at most five characters, with the unit's prefix for thousands.
fn scaled(mut value: f64) -> String {
    for prefix in ["", "k", "M", "G"] {
        // What would be rounded to 1000 belongs to the next prefix.
        if value < 999.5 {
            return match prefix {
                "" => format!("{value:.0}"),
                _ if value < 9.95 => format!("{value:.1}{prefix}"),
                _ => format!("{value:.0}{prefix}"),
            };
        }
        value /= 1_000.0;
    }
    format!("{value:.0}T")
}

fn selected(model: &Model) -> String {
    let Some(row) = model.selection().and_then(|at| model.rows().get(at)) else { return String::new() };
    let weight = row.weight.remark().map(|remark| format!("; weight by {remark}")).unwrap_or_default();
    format!("{} {}{weight}", row.of, row.remark)
}

fn prompt(model: &Model) -> String {
    let said = model.said();
    match model.mode() {
        Mode::Looking => said.to_owned(),
        Mode::Weight { of, typed } if said.is_empty() => {
            format!("weight of {of}, then Enter; c config  Esc none: {typed}_")
        }
        Mode::Weight { typed, .. } => format!("{said}: {typed}_"),
        Mode::State { of } => format!("state of {of}: a active  d draining  x disabled  Esc none"),
        Mode::Confirm(order) => format!("{}? y/n", order.words()),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::model::Key;
    use super::*;
    use crate::cli::example::status;

    fn seen(model: &Model, now: Duration) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("a terminal in memory");
        terminal.draw(|frame| draw(frame, model, now)).expect("it takes everything");
        let buffer = terminal.backend().buffer();
        let symbol = |x: u16, y: u16| buffer[(x, y)].symbol().to_owned();
        (0..24).map(|y| (0..80).map(|x| symbol(x, y)).collect::<String>().trim_end().to_owned()).collect()
    }

    #[test]
    fn all_columns_fit_80_by_24() {
        let mut model = Model::new();
        model.answered(status(), Duration::ZERO);
        let mut next = status();
        let target = &mut next.groups[0].targets[0];
        (target.sessions_ended, target.upload_bytes, target.download_bytes) = (22, 124_000, 98_765_432);
        next.groups[0].slow = Some("network".to_owned());
        next.groups[0].targets[0].weight.origin = "operator".to_owned();
        model.answered(next, Duration::from_secs(1));
        let lines = seen(&model, Duration::from_secs(1));
        let cells = |line: usize| lines[line].split_whitespace().collect::<Vec<_>>();
        assert_eq!(lines[0], "landbridge 1.2.3 serving, generation 0");
        assert_eq!(cells(1), Column::ALL.map(Column::title));
        assert_eq!(cells(2), ["onprem", "0", "100", "active", "able", "100%", "12", "12", "123k", "99M", "network"]);
        assert_eq!(cells(3), ["gpu-1", "3*", "active", "up", "75%", "5", "12", "123k", "99M"]);
        assert_eq!(cells(6), ["ec2", "1", "active", "up", "0%", "0", "0", "0", "0"]);
        assert_eq!(lines[23], HELP);
        model.key(Key::Down);
        assert_eq!(seen(&model, Duration::from_secs(1))[21], "onprem/gpu-1 192.0.2.1:8000; weight by operator");
    }

    #[test]
    fn questions_and_a_lost_daemon_are_seen() {
        let mut model = Model::new();
        assert_eq!(seen(&model, Duration::ZERO)[0], "landbridge: asking the daemon");
        model.answered(status(), Duration::ZERO);
        for key in [Key::Char('w'), Key::Char('7')] {
            model.key(key);
        }
        assert_eq!(seen(&model, Duration::ZERO)[22], "weight of onprem, then Enter; c config  Esc none: 7_");
        model.key(Key::Enter);
        assert_eq!(seen(&model, Duration::ZERO)[22], "set the weight of onprem to 7? y/n");
        assert_eq!(seen(&model, Duration::from_secs(8))[0], "no answer for 8 s");
        model.lost("nobody is there".to_owned());
        assert_eq!(seen(&model, Duration::ZERO)[0], "LOST, trying again every second: nobody is there");
    }

    #[test]
    fn the_selected_row_is_in_sight_however_many_there_are() {
        let mut many = status();
        let target = many.groups[0].targets[0].clone();
        many.groups[0].targets.extend((0..60).map(|number| {
            let mut next = target.clone();
            next.name = format!("more-{number}");
            next
        }));
        let mut model = Model::new();
        model.answered(many, Duration::ZERO);
        for _ in 0..60 {
            model.key(Key::Down);
        }
        let name = model.selection().map(|at| model.rows()[at].name.clone()).expect("a row");
        assert!(seen(&model, Duration::ZERO)[1..21].iter().any(|line| line.contains(&name)), "{name}");
    }

    #[test]
    fn numbers_take_five_characters_at_most() {
        for (value, text) in [
            (0.0, "0"),
            (999.4, "999"),
            (999.6, "1.0k"),
            (9_940.0, "9.9k"),
            (9_960.0, "10k"),
            (999_600.0, "1.0M"),
            (12e9, "12G"),
            (3e12, "3T"),
        ] {
            assert_eq!(scaled(value), text);
        }
    }
}
