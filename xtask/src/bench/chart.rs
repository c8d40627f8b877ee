//! The picture: for each workload how many times better landbridge is than each peer.
//!
//! One row per workload, the factor on a logarithmic axis, a dot for the median and a line for its interval. The grey band is
//! the spread of landbridge against itself; dots in it claim nothing, dots left of the middle are losses.

use super::contender::Contender;
use super::metric::Metric;
use super::report::Report;
use super::requirement::headline;
use super::results::{Measured, Row};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 270.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 84.0;
/// Between two dots of one workload.
const STEP: f64 = 9.0;
const PADDING: f64 = 14.0;

/// The axis ends at this factor each way; what is beyond sits at its end.
const LIMIT: f64 = 8.0;

const TICKS: [(f64, &str); 7] =
    [(0.125, "1/8"), (0.25, "1/4"), (0.5, "1/2"), (1.0, "equal"), (2.0, "2x"), (4.0, "4x"), (8.0, "8x")];

/// Draws the report.
pub(crate) fn draw(report: &Report) -> String {
    let peers: Vec<Contender> = report.peers.iter().copied().filter(|peer| *peer != Contender::Forward).collect();
    let rows: Vec<(&Measured, &Row)> = report
        .measured
        .iter()
        .filter_map(|measured| {
            let metric = headline(measured.workload);
            measured.rows.iter().find(|row| row.metric == metric).map(|row| (measured, row))
        })
        .collect();
    let height = 2.0 * PADDING + STEP * peers.len() as f64;
    let bottom = TOP + height * rows.len() as f64;

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        bottom + 34.0
    );
    svg += &text(
        16.0,
        24.0,
        "start",
        "#111",
        "landbridge against its peers: how many times better (right) or worse (left)",
    );
    for (index, &peer) in peers.iter().enumerate() {
        let x = 16.0 + 136.0 * index as f64;
        svg += &format!("<circle cx=\"{x}\" cy=\"46\" r=\"4\" fill=\"{}\"/>\n", colour(peer));
        svg += &text(x + 9.0, 50.0, "start", "#333", peer.name());
    }
    for (index, (measured, row)) in rows.iter().enumerate() {
        let top = TOP + height * index as f64;
        svg += &band(row, top, height);
        svg += &text(16.0, top + height / 2.0 - 2.0, "start", "#111", &measured.name);
        svg += &text(16.0, top + height / 2.0 + 13.0, "start", "#777", &label(row.metric));
        svg += &line(16.0, top, WIDTH - RIGHT, top, "#eee");
    }
    for (factor, name) in TICKS {
        svg += &line(x(factor), TOP, x(factor), bottom, if factor == 1.0 { "#555" } else { "#ddd" });
        svg += &text(x(factor), bottom + 18.0, "middle", "#555", name);
    }
    for (index, (_, row)) in rows.iter().enumerate() {
        svg += &dots(row, &peers, TOP + height * index as f64);
    }
    svg + "</svg>\n"
}

fn band(row: &Row, top: f64, height: f64) -> String {
    let Some(spread) = row.spread else { return String::new() };
    let (left, right) = (x(1.0 / spread), x(spread));
    let width = right - left;
    format!("<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"#f0f0f0\"/>\n")
}

fn dots(row: &Row, peers: &[Contender], top: f64) -> String {
    let mut svg = String::new();
    for (index, &peer) in peers.iter().enumerate() {
        let y = top + PADDING + STEP * (index as f64 + 0.5);
        let ratio = row.cells.iter().find(|cell| cell.peer == peer).and_then(|cell| cell.ratio);
        if let Some(ratio) = ratio {
            let better = |ratio: f64| if row.metric.more_is_better() { ratio } else { 1.0 / ratio };
            svg += &line(x(better(ratio.low)), y, x(better(ratio.high)), y, colour(peer));
            let x = x(better(ratio.median));
            svg += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{}\"/>\n", colour(peer));
        }
    }
    svg
}

/// Where a factor is on the axis.
fn x(factor: f64) -> f64 {
    let half = (WIDTH - LEFT - RIGHT) / 2.0;
    let position = (factor.ln() / LIMIT.ln()).clamp(-1.0, 1.0);
    LEFT + half * (1.0 + position)
}

fn label(metric: Metric) -> String {
    let direction = if metric.more_is_better() { "more is better" } else { "less is better" };
    format!("{}, {direction}", metric.name())
}

fn colour(peer: Contender) -> &'static str {
    match peer {
        Contender::Landbridge | Contender::Forward => "#777",
        Contender::LandbridgePacket => "#4d004b",
        Contender::LandbridgeSockmap => "#810f7c",
        Contender::LandbridgeCopy => "#8c6bb1",
        Contender::LandbridgeSplice => "#c994c7",
        Contender::LandbridgeScraped => "#dd3497",
        Contender::Haproxy => "#1f77b4",
        Contender::HaproxyNoSplice => "#9ecae1",
        Contender::Nginx => "#2ca02c",
        Contender::Envoy => "#e6550d",
    }
}

fn line(x1: f64, y1: f64, x2: f64, y2: f64, colour: &str) -> String {
    format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>\n")
}

/// Only called with text that needs no escaping.
fn text(x: f64, y: f64, anchor: &str, colour: &str, content: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{content}</text>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_is_symmetric_and_ends() {
        assert!((x(2.0) + x(0.5) - 2.0 * x(1.0)).abs() < 1e-9);
        assert_eq!(x(1000.0), WIDTH - RIGHT);
        assert_eq!(x(0.0), LEFT);
    }
}
