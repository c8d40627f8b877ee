//! Whatever the text, reading it ends in a configuration or in problems that lie inside it.

use landbridge::config::Config;
use proptest::prelude::*;

const FILES: [&str; 3] = [
    include_str!("../../config/landbridge.toml"),
    include_str!("../../config/minimal.toml"),
    include_str!("../../config/demo.toml"),
];

fn check(text: &str) -> Result<(), TestCaseError> {
    let Err(problems) = Config::parse(text) else { return Ok(()) };
    let last = text.lines().count().max(1);
    prop_assert!(problems.iter().count() > 0);
    prop_assert_eq!(problems.to_string().lines().count(), problems.iter().count());
    prop_assert!(problems.iter().map(|problem| problem.line).is_sorted());
    for problem in &problems {
        prop_assert!((1..=last).contains(&problem.line), "{} of {} lines", problem, last);
        prop_assert!(!problem.what.is_empty() && !problem.remedy.is_empty(), "{}", problem);
    }
    Ok(())
}

/// A piece of text that TOML or the file gives a meaning.
fn piece() -> impl Strategy<Value = String> {
    let words = vec![
        "[[listener]]",
        "[[group]]",
        "[group.tcp]",
        "[[group.target]]",
        "[admin]",
        "[[",
        "]",
        "name",
        "bind",
        "groups",
        "weight",
        "address",
        "tcp",
        "target",
        "=",
        ".",
        ",",
        "{",
        "}",
        "\"",
        "'''",
        "\"\"\"",
        "\\",
        "#",
        "\n",
        "\r\n",
        "\r",
        "\0",
        "\u{feff}",
        "ä",
        "1",
        "-1",
        "0x",
        "1e9",
        "true",
        "2024-01-01",
        "\"0.0.0.0:80\"",
        "\"a\"",
        "[\"a\"]",
    ];
    prop_oneof![4 => proptest::sample::select(words).prop_map(str::to_owned), 1 => ".{0,6}"]
}

/// A good file from which some bytes were cut and into which something was put, several times.
fn mutated() -> impl Strategy<Value = String> {
    let edit = (any::<prop::sample::Index>(), 0..30_usize, piece());
    (proptest::sample::select(FILES.to_vec()), prop::collection::vec(edit, 1..6)).prop_map(|(file, edits)| {
        let mut text: Vec<char> = file.chars().collect();
        for (at, length, piece) in edits {
            let start = at.index(text.len() + 1);
            let end = (start + length).min(text.len());
            text.splice(start..end, piece.chars());
        }
        text.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1024) })]

    #[test]
    fn arbitrary_text(text in ".{0,300}") {
        check(&text)?;
    }

    #[test]
    fn text_of_meaningful_pieces(pieces in prop::collection::vec(piece(), 0..60)) {
        check(&pieces.concat())?;
    }

    #[test]
    fn good_files_with_damage(text in mutated()) {
        check(&text)?;
    }

    #[test]
    fn good_files_cut_short(file in proptest::sample::select(FILES.to_vec()), at in any::<prop::sample::Index>()) {
        let text: String = file.chars().take(at.index(file.chars().count())).collect();
        check(&text)?;
    }
}
