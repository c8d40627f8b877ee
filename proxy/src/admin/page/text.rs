//! Numbers and names as the status page shows them.

use crate::admin::api::WeightStatus;

/// Text inside HTML: answers of targets may hold anything.
pub(super) fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut html, c| {
        match c {
            '<' => html += "&lt;",
            '>' => html += "&gt;",
            '&' => html += "&amp;",
            '"' => html += "&quot;",
            '\'' => html += "&#39;",
            c => html.push(c),
        }
        html
    })
}

/// A whole number with its thousands apart.
pub(super) fn number(value: f64) -> String {
    let digits = format!("{value:.0}");
    let parts: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|part| std::str::from_utf8(part).ok()).collect();
    parts.join("\u{202f}")
}

/// Three digits are enough for a glance.
pub(super) fn short(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => number(value),
    }
}

/// A rate of bytes.
pub(super) fn bytes_per_second(value: f64) -> String {
    format!("{}/s", bytes(value))
}

/// A number of bytes.
pub(super) fn bytes(value: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let step = (1..units.len()).rev().find(|&step| value >= 1024_f64.powi(step as i32)).unwrap_or(0);
    let value = value / 1024_f64.powi(step as i32);
    if step == 0 { format!("{value:.0} B") } else { format!("{} {}", short(value), units[step]) }
}

/// A weight, and whose it is unless the configuration's.
pub(super) fn weighed(weight: &WeightStatus) -> String {
    let remark = weight.remark().map(|remark| format!(" <small>{}</small>", escaped(&remark)));
    format!("{}{}", weight.weight, remark.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, expected) in
            [(0.0, "0"), (0.5, "0.50"), (12.34, "12.3"), (999.6, "1\u{202f}000"), (1e6, "1\u{202f}000\u{202f}000")]
        {
            assert_eq!(short(value), expected);
        }
        for (value, expected) in [(0.0, "0 B"), (1023.0, "1023 B"), (1536.0, "1.50 KiB"), (3e9, "2.79 GiB")] {
            assert_eq!(bytes(value), expected);
        }
    }

    #[test]
    fn text_cannot_become_html() {
        assert_eq!(escaped("<b a='1' c=\"2\">&"), "&lt;b a=&#39;1&#39; c=&quot;2&quot;&gt;&amp;");
    }
}
