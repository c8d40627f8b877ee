//! Bad configuration files: each with everything that must be said about it, and nothing else.

mod datapath;
mod health;
mod names_and_addresses;
mod structure;
mod values;
mod whole_file;

use landbridge::config::{Config, Problem};

/// A good file; most cases spoil one of its lines.
const GOOD: &str = r#"[[listener]]
name = "in"
bind = ["0.0.0.0:8000"]
groups = ["a"]
[[group]]
name = "a"
[[group.target]]
address = "10.0.0.1:80"
"#;

/// A bad file and what must be said about it.
struct Case {
    name: &'static str,
    text: Text,
    /// Path, line, a piece of what is wrong, a piece of the remedy.
    problems: &'static [(&'static str, usize, &'static str, &'static str)],
}

/// The text of a case.
enum Text {
    /// As it is.
    Whole(&'static str),
    /// [`GOOD`] with another line in place of this one.
    Line(usize, &'static str),
    /// [`GOOD`] with more lines after this one.
    After(usize, &'static str),
}

impl Text {
    fn build(&self) -> String {
        let mut lines: Vec<_> = GOOD.lines().collect();
        match *self {
            Self::Whole(text) => return text.to_owned(),
            Self::Line(number, line) => lines[number - 1] = line,
            Self::After(number, more) => lines.insert(number, more),
        }
        lines.join("\n") + "\n"
    }
}

fn cases() -> impl Iterator<Item = &'static Case> {
    [structure::CASES, values::CASES, names_and_addresses::CASES, datapath::CASES, health::CASES, whole_file::CASES]
        .into_iter()
        .flatten()
}

#[test]
fn every_problem_is_reported_with_its_place_and_remedy() {
    let mut failures = Vec::new();
    for case in cases() {
        let text = case.text.build();
        let found = match Config::parse(&text) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().cloned().collect(),
        };
        if !fits(&found, case.problems) {
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            failures.push(format!("{}: found\n{}\nexpected {:#?}", case.name, found.join("\n"), case.problems));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

fn fits(found: &[Problem], expected: &[(&str, usize, &str, &str)]) -> bool {
    let same = |(problem, (path, line, what, remedy)): (&Problem, &(&str, usize, &str, &str))| {
        problem.path == *path
            && problem.line == *line
            && problem.what.contains(what)
            && problem.remedy.contains(remedy)
            && !remedy.is_empty()
    };
    found.len() == expected.len() && found.iter().zip(expected).all(same)
}

#[test]
fn the_good_file_is_good() {
    Config::parse(GOOD).unwrap();
}

#[test]
fn the_table_is_large_and_has_files_with_many_problems() {
    assert!(cases().count() >= 50);
    assert!(cases().any(|case| case.problems.len() >= 6));
    let mut names: Vec<_> = cases().map(|case| case.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), cases().count());
}

#[test]
fn a_problem_takes_one_line() {
    for case in cases() {
        if let Err(problems) = Config::parse(&case.text.build()) {
            assert_eq!(problems.to_string().lines().count(), problems.iter().count(), "{}", case.name);
        }
    }
}
