//! Recall against throughput as a picture: SVG, written by hand, for it is lines, circles and words.
//!
//! The recall axis counts nines (−log₁₀ of the share that was missed), so that .95, .99 and .999 have room; the
//! throughput axis is logarithmic.

use std::fmt::Write as _;

use crate::report::{Report, Standing, number};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 560.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 724.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 452.0;

/// The axis begins here; what finds less is not drawn.
const RECALL_MIN: f64 = 0.80;
/// The axis ends here; what finds more is drawn at its end.
const RECALL_MAX: f64 = 0.9995;
const RECALL_TICKS: [f64; 7] = [0.80, 0.90, 0.95, 0.98, 0.99, 0.995, 0.999];

/// Told apart with every kind of colour sight (Okabe and Ito); ours is the first.
const COLOURS: [&str; 10] =
    ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555", "#aaaaaa", "#7b3294", "#a6761d"];

/// The picture of a report of `bench ann`.
pub(super) fn svg(report: &Report) -> String {
    let curves: Vec<(&Standing, Vec<[f64; 2]>)> =
        report.contenders.iter().map(|contender| (contender, visible(&contender.curve))).collect();
    let throughput = Throughput::of(curves.iter().flat_map(|(_, curve)| curve).map(|[_, qps]| *qps));
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    titles(&mut out, report);
    axes(&mut out, &throughput);
    for (i, (contender, curve)) in curves.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        draw(&mut out, curve, &throughput, colour);
        legend(&mut out, i, contender, colour);
    }
    out + "</svg>\n"
}

/// The points that lie on the axis, by rising recall.
fn visible(curve: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let mut points: Vec<[f64; 2]> = curve.iter().copied().filter(|[recall, _]| *recall >= RECALL_MIN).collect();
    points.sort_by(|a, b| a[0].total_cmp(&b[0]).then(b[1].total_cmp(&a[1])));
    points
}

/// The vertical axis.
struct Throughput {
    low: f64,
    high: f64,
}

impl Throughput {
    /// From the power of ten below the least to a little above the greatest.
    fn of(qps: impl Iterator<Item = f64>) -> Self {
        let (least, greatest) =
            qps.fold((f64::INFINITY, 0.0), |(low, high), qps| (f64::min(low, qps), f64::max(high, qps)));
        if greatest == 0.0 {
            return Self { low: 1.0, high: 10.0 };
        }
        Self { low: 10.0_f64.powf(least.log10().floor()), high: 1.3 * greatest }
    }

    fn y(&self, qps: f64) -> f64 {
        BOTTOM - (qps / self.low).log10() / (self.high / self.low).log10() * (BOTTOM - TOP)
    }

    /// 1, 2 and 5 of every power of ten.
    fn ticks(&self) -> Vec<f64> {
        let powers = std::iter::successors(Some(self.low), |power| Some(power * 10.0));
        let powers = powers.take_while(|power| *power <= self.high);
        powers.flat_map(|power| [power, 2.0 * power, 5.0 * power]).filter(|tick| *tick <= self.high).collect()
    }
}

fn x(recall: f64) -> f64 {
    let nines = |recall: f64| -(1.0 - recall.min(RECALL_MAX)).log10();
    LEFT + (nines(recall) - nines(RECALL_MIN)) / (nines(RECALL_MAX) - nines(RECALL_MIN)) * (RIGHT - LEFT)
}

fn titles(out: &mut String, report: &Report) {
    if let Some(data) = report.data.first() {
        text(out, [LEFT, 28.0], "font-size=\"17\" font-weight=\"bold\"", &data.line());
        text(out, [LEFT, 48.0], "", "recall@10 against queries each second, one thread");
    }
    let commit = report.commit.as_deref().unwrap_or("unknown");
    text(out, [LEFT, HEIGHT - 36.0], "font-size=\"11\" fill=\"#666\"", &report.machine.line());
    let note = format!("Shoal at commit {commit}. Recall of {RECALL_MAX} and more is drawn at the right edge.");
    text(out, [LEFT, HEIGHT - 20.0], "font-size=\"11\" fill=\"#666\"", &note);
}

fn axes(out: &mut String, throughput: &Throughput) {
    for tick in RECALL_TICKS {
        line(out, [x(tick), TOP], [x(tick), BOTTOM], "#ddd");
        text(out, [x(tick), BOTTOM + 18.0], "text-anchor=\"middle\"", &tick.to_string());
    }
    for tick in throughput.ticks() {
        line(out, [LEFT, throughput.y(tick)], [RIGHT, throughput.y(tick)], "#ddd");
        text(out, [LEFT - 8.0, throughput.y(tick) + 4.0], "text-anchor=\"end\"", &number(tick));
    }
    line(out, [LEFT, TOP], [LEFT, BOTTOM], "#222");
    line(out, [LEFT, BOTTOM], [RIGHT, BOTTOM], "#222");
    text(out, [f64::midpoint(LEFT, RIGHT), BOTTOM + 40.0], "text-anchor=\"middle\"", "recall@10");
    let middle = f64::midpoint(TOP, BOTTOM);
    let turned = format!("text-anchor=\"middle\" transform=\"rotate(-90 20 {middle})\"");
    text(out, [20.0, middle], &turned, "queries/s");
}

fn draw(out: &mut String, curve: &[[f64; 2]], throughput: &Throughput, colour: &str) {
    let at = |[recall, qps]: [f64; 2]| format!("{:.1},{:.1}", x(recall), throughput.y(qps));
    let points = curve.iter().map(|point| at(*point)).collect::<Vec<_>>().join(" ");
    put(out, format_args!("<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"));
    for [recall, qps] in curve {
        let (x, y) = (x(*recall), throughput.y(*qps));
        put(out, format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>"));
    }
}

/// Name, build time and size of a contender, beside the picture.
fn legend(out: &mut String, place: usize, contender: &Standing, colour: &str) {
    #[allow(clippy::cast_precision_loss, reason = "a small number")]
    let y = TOP + 12.0 + 42.0 * place as f64;
    let left = RIGHT + 18.0;
    put(out, format_args!("<circle cx=\"{left}\" cy=\"{}\" r=\"5\" fill=\"{colour}\"/>", y - 4.0));
    text(out, [left + 14.0, y], "font-weight=\"bold\"", &contender.name);
    let cost = format!("{} s, {} B/vector", number(contender.build_seconds), number(contender.bytes_per_vector));
    text(out, [left + 14.0, y + 16.0], "font-size=\"11\" fill=\"#666\"", &cost);
}

fn line(out: &mut String, from: [f64; 2], to: [f64; 2], colour: &str) {
    let ([x1, y1], [x2, y2]) = (from, to);
    put(out, format_args!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"));
}

fn text(out: &mut String, at: [f64; 2], style: &str, text: &str) {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    put(out, format_args!("<text x=\"{:.1}\" y=\"{:.1}\" {style}>{escaped}</text>", at[0], at[1]));
}

fn put(out: &mut String, element: std::fmt::Arguments<'_>) {
    writeln!(out, "{element}").expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_is_stretched_towards_full_recall() {
        assert!((x(RECALL_MIN) - LEFT).abs() < 1e-9 && (x(RECALL_MAX) - RIGHT).abs() < 1e-9);
        assert!((x(1.0) - RIGHT).abs() < 1e-9, "exact search is drawn at the edge");
        let (nine, nineties) = (x(0.99) - x(0.90), x(0.999) - x(0.99));
        assert!((nine - nineties).abs() < 1e-6, "each further nine has as much room: {nine}, {nineties}");
    }

    #[test]
    fn the_throughput_axis_holds_every_point() {
        let axis = Throughput::of([170.0, 84_000.0].into_iter());
        assert!((axis.low - 100.0).abs() < 1e-6 && axis.y(84_000.0) > TOP);
        let ticks: Vec<String> = axis.ticks().into_iter().map(number).collect();
        assert_eq!(ticks.join(" "), "100 200 500 1,000 2,000 5,000 10,000 20,000 50,000 100,000");
        assert_eq!(Throughput::of(std::iter::empty()).ticks().len(), 4, "no points, still an axis");
    }

    #[test]
    fn names_cannot_break_the_picture() {
        let mut out = String::new();
        text(&mut out, [0.0, 0.0], "", "a < b & c > d");
        assert!(out.contains("a &lt; b &amp; c &gt; d"), "{out}");
    }
}
