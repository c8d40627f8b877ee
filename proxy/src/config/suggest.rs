//! "Did you mean": remedies for words that are not in a list.

use std::collections::BTreeSet;

use super::notes::KnownKey;

/// How alike two words must be to call one a slip of the other: one letter in three may differ.
const ALIKE: f64 = 0.6;

/// So much of a word is more than chance where it is a part of another one.
const TELLING: usize = 4;

/// The candidate that was most likely meant, if any comes close or contains the word. Of both upper and lower case.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let likeness = |candidate: &str| {
        let candidate = candidate.to_lowercase();
        let part = if word.len() >= TELLING && candidate.contains(&word) { ALIKE } else { 0.0 };
        strsim::normalized_damerau_levenshtein(&word, &candidate).max(part)
    };
    candidates
        .into_iter()
        .map(|candidate| (likeness(candidate), candidate))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// A remedy for a word that must be one of a few, as strings of the file.
pub(super) fn one_of<'a>(word: &str, choices: impl IntoIterator<Item = &'a str> + Clone) -> String {
    let list = choices.clone().into_iter().map(quoted).collect::<Vec<_>>().join(", ");
    match nearest(word, choices) {
        Some(meant) => format!("did you mean {}? The choices are {list}", quoted(meant)),
        None => format!("use one of {list}"),
    }
}

/// Keys that people look for in vain, as in other proxies.
const TLS: [&str; 7] = ["tls", "ssl", "cert", "certificate", "key", "ca", "sni"];

/// A remedy for a key that a table does not have: a slip, a key of another table, or else the keys it could be.
pub(super) fn for_unknown_key(header: &str, key: &str, known: &BTreeSet<KnownKey>) -> String {
    let elsewhere: Vec<_> = known.iter().filter(|k| k.key == key && !k.header.is_empty()).map(|k| &*k.header).collect();
    if !elsewhere.is_empty() {
        return format!("it belongs in {}", elsewhere.join(" or "));
    }
    if TLS.contains(&key) {
        return "TLS passes through as it is: clients and targets have the certificates".to_owned();
    }
    let here: Vec<_> = known.iter().filter(|k| k.header == header).map(|k| k.key).collect();
    match nearest(key, here.iter().copied()) {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("the keys here are {}", here.join(", ")),
    }
}

/// A text in quotes, on one line and not too long for a message.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", shortened(text))
}

/// A piece of the file on one line and not too long for a message.
pub(super) fn shortened(text: &str) -> String {
    /// Long enough for an address with a name of the greatest length.
    const LONGEST: usize = 80;
    let mut short = String::new();
    for (count, c) in text.chars().enumerate() {
        match c {
            _ if count == LONGEST => {
                short.push_str("...");
                break;
            }
            // Escaping these would make a quoted piece of the file look unlike the file.
            '"' | '\'' | '\\' => short.push(c),
            _ => short.extend(c.escape_debug()),
        }
    }
    short
}
