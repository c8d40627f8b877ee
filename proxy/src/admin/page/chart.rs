//! Small charts as SVG. Colours come from the style sheet, by class.

use std::fmt::Write as _;

/// Colours of a bar, after which they repeat.
pub(super) const COLOURS: usize = 6;

const WIDTH: f64 = 240.0;
const HEIGHT: f64 = 44.0;
/// Room for the line at the top.
const MARGIN: f64 = 2.0;

/// A filled line of the newest `points` values; the newest is at the right edge.
pub(super) fn area(series: &[f64], points: usize, label: &str) -> String {
    let top = series.iter().copied().fold(0.0, f64::max);
    let mut svg = format!(
        "<svg class=\"area\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{label}\">\
         <path class=\"base\" d=\"M0 {HEIGHT}H{WIDTH}\"/>"
    );
    let first = points.saturating_sub(series.len());
    let x = |index: usize| (first + index) as f64 / points.saturating_sub(1).max(1) as f64 * WIDTH;
    let y = |value: f64| HEIGHT - if top > 0.0 { value / top * (HEIGHT - MARGIN) } else { 0.0 };
    if series.len() > 1 {
        let mut line = String::new();
        for (index, value) in series.iter().enumerate() {
            let command = if index == 0 { 'M' } else { 'L' };
            // Writing to a string cannot fail.
            let _ = write!(line, "{command}{:.1} {:.1}", x(index), y(*value));
        }
        let _ = write!(
            svg,
            "<path class=\"fill\" d=\"{line}L{WIDTH} {HEIGHT}L{:.1} {HEIGHT}Z\"/><path class=\"line\" d=\"{line}\"/>",
            x(0)
        );
    }
    svg + "</svg>"
}

/// A bar of shares that add up to 1, or to nothing.
pub(super) fn bar(shares: &[f64]) -> String {
    let mut svg = String::from(
        "<svg class=\"bar\" viewBox=\"0 0 100 1\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"shares\">\
         <rect class=\"none\" width=\"100\" height=\"1\"/>",
    );
    let mut left = 0.0;
    for (index, share) in shares.iter().enumerate() {
        let width = share * 100.0;
        let _ = write!(svg, "<rect class=\"s{}\" x=\"{left:.2}\" width=\"{width:.2}\" height=\"1\"/>", index % COLOURS);
        left += width;
    }
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_value_is_at_the_right_edge_and_the_largest_at_the_top() {
        let svg = area(&[0.0, 5.0, 10.0], 5, "sessions");
        assert!(svg.contains("class=\"line\" d=\"M120.0 44.0L180.0 23.0L240.0 2.0\""), "{svg}");
        assert!(!area(&[], 5, "x").contains("line") && !area(&[1.0], 5, "x").contains("line"));
        assert!(area(&[0.0, 0.0], 2, "x").contains("M0.0 44.0L240.0 44.0"));
    }

    #[test]
    fn shares_lie_side_by_side() {
        let svg = bar(&[0.75, 0.25]);
        assert!(svg.contains("class=\"s0\" x=\"0.00\" width=\"75.00\""), "{svg}");
        assert!(svg.contains("class=\"s1\" x=\"75.00\" width=\"25.00\""), "{svg}");
    }
}
