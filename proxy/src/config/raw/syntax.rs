//! Errors of TOML itself: one problem per mistake, and how much of the file is sure in spite of them.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

use super::Lines;
use crate::config::notes::Broken;
use crate::config::problem::Problem;
use crate::config::suggest::shortened;

/// The problems behind the parser's errors.
///
/// The parser goes on after an error, so one mistake can cause many: a list without its bracket swallows the rest of
/// the file. Such a mistake is reported once, where the list begins; of other errors the first of each line counts.
pub(super) fn problems(text: &str, lines: &Lines, tree: &DeTable<'_>, errors: &[Error]) -> (Vec<Problem>, Broken) {
    let mut errors: Vec<_> = errors.iter().map(|error| (start(error), error)).collect();
    errors.sort_by_key(|(start, _)| *start);

    let mut problems = Vec::new();
    let mut broken = Broken::default();
    let end = text.trim_end().len();
    let ends_early = errors.last().is_some_and(|(start, _)| *start >= end);
    let unclosed = ends_early.then(|| swallowing(tree, end)).flatten();
    if let Some(span) = &unclosed {
        let line = lines.of_offset(span.start);
        let opening = shortened(text[span.start..].lines().next().unwrap_or_default());
        problems.push(Problem::of_text(line, format!("invalid TOML: {opening} is not closed"), "close it"));
        broken.lines.insert(line);
        broken.from = Some(line);
    }
    for (start, error) in errors {
        let line = lines.of_offset(start);
        if unclosed.as_ref().is_some_and(|span| span.start <= start) || broken.lines.contains(&line) {
            continue;
        }
        if broken.from.is_none_or(|from| line < from) && !is_local(text, tree, error) {
            broken.from = Some(line);
        }
        broken.lines.insert(line);
        problems.push(in_words(text, line, error));
    }
    (problems, broken)
}

fn start(error: &Error) -> usize {
    error.span().map_or(0, |span| span.start)
}

fn in_words(text: &str, line: usize, error: &Error) -> Problem {
    let piece = shortened(error.span().and_then(|span| text.get(span)).unwrap_or_default());
    let (what, remedy) = match error.message().split_once(", expected ") {
        Some(("string values must be quoted", _)) if piece.is_empty() => {
            ("the key has no value".to_owned(), "write one behind the `=`".to_owned())
        }
        Some(("string values must be quoted", _)) => (
            format!("{piece} is not a value"),
            format!("strings stand in quotes: \"{}\"", piece.trim_matches(['"', '\''])),
        ),
        Some((what, "nothing")) => (what.to_owned(), "remove it".to_owned()),
        Some((what, expected)) => (what.to_owned(), format!("expected {expected}")),
        None if error.message() == DUPLICATE => {
            let remedy =
                list(text, error).map_or("keep one of them".to_owned(), |header| format!("write {header} each time"));
            (format!("{piece} is given twice"), remedy)
        }
        None => (error.message().to_owned(), "correct it".to_owned()),
    };
    Problem::of_text(line, format!("invalid TOML: {what}"), remedy)
}

/// How the parser calls a key that is given twice. Should its wording change, less of the file is judged; nothing breaks.
const DUPLICATE: &str = "duplicate key";

/// The header of the list that a key is which is given twice: as a table as well.
fn list<'t>(text: &'t str, error: &Error) -> Option<&'t str> {
    let key = error.span().and_then(|span| text.get(span))?;
    let headers = text.lines().filter_map(|line| line.trim().split_inclusive("]]").next());
    headers
        .filter(|header| header.starts_with("[["))
        .find(|header| header.trim_matches(['[', ']']).rsplit('.').next() == Some(key))
}

/// Whether an error leaves no doubt about the rest of the file: it lies inside one scalar, or a key is given twice.
fn is_local(text: &str, tree: &DeTable<'_>, error: &Error) -> bool {
    let inside = |value: &Spanned<DeValue<'_>>| {
        let scalar = !matches!(value.get_ref(), DeValue::Array(_) | DeValue::Table(_));
        scalar && error.span().is_some_and(|span| contains(&value.span(), &span))
    };
    error.message() == DUPLICATE && list(text, error).is_none() || find(tree, &inside).is_some()
}

fn contains(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end && inner.start < outer.end
}

/// The outermost value that spans several bytes up to the end of the text.
fn swallowing(tree: &DeTable<'_>, end: usize) -> Option<Range<usize>> {
    find(tree, &|value| value.span().start < end && value.span().end >= end).map(|value| value.span())
}

/// The first value in the tree that fits, outer values first.
fn find<'t, 'i>(
    tree: &'t DeTable<'i>,
    fits: &impl Fn(&Spanned<DeValue<'i>>) -> bool,
) -> Option<&'t Spanned<DeValue<'i>>> {
    tree.iter().find_map(|(_, value)| find_in(value, fits))
}

fn find_in<'t, 'i>(
    value: &'t Spanned<DeValue<'i>>,
    fits: &impl Fn(&Spanned<DeValue<'i>>) -> bool,
) -> Option<&'t Spanned<DeValue<'i>>> {
    if fits(value) {
        return Some(value);
    }
    match value.get_ref() {
        DeValue::Array(elements) => elements.iter().find_map(|element| find_in(element, fits)),
        DeValue::Table(entries) => find(entries, fits),
        _ => None,
    }
}
