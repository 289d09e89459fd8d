//! Line charts as inline SVG: no script, colours from the page's style sheet, so that one drawing
//! serves light and dark.

use std::fmt::Write;

use super::page::escape;

/// Colours in the style sheet; series beyond them start again.
pub const COLORS: usize = 5;
/// Points drawn of a series at most.
const POINTS: usize = 600;
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 26.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 42.0;

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stroke {
    /// A line through the points.
    Solid,
    /// A dashed line through the points.
    Dashed,
    /// A thin line through the points and a strong one through their moving mean.
    Smoothed,
}

/// A named line.
#[derive(Clone, Debug)]
pub struct Series {
    /// Shown in the legend.
    pub name: String,
    /// `(x, y)`, x rising; points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    /// Number of the colour, taken modulo [`COLORS`].
    pub color: usize,
    /// How it is drawn.
    pub stroke: Stroke,
}

/// A chart with its axes.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Heading, and the name that screen readers speak.
    pub title: String,
    /// What x is.
    pub x_label: String,
    /// What y is, with its unit.
    pub y_label: String,
    /// Whether the y axis starts at zero.
    pub from_zero: bool,
    /// The lines.
    pub series: Vec<Series>,
}

impl Chart {
    /// The chart as an HTML `figure`; empty when no series has a point.
    pub fn render(&self) -> String {
        let series: Vec<Series> = self.series.iter().filter_map(finite).collect();
        let all = || series.iter().flat_map(|s| s.points.iter().copied());
        let Some(first) = all().next() else {
            return String::new();
        };
        let bounds = all().fold((first, first), |(low, high), (x, y)| {
            ((low.0.min(x), low.1.min(y)), (high.0.max(x), high.1.max(y)))
        });
        let ((x_low, y_low), (x_high, y_high)) = bounds;
        let x_ticks = Ticks::new(x_low, x_high, 7);
        let y_ticks = Ticks::new(
            if self.from_zero {
                y_low.min(0.0)
            } else {
                y_low
            },
            y_high,
            6,
        );
        let y_ticks = y_ticks.covering();
        let place = Place {
            x: x_ticks.range(),
            y: y_ticks.range(),
        };

        let mut svg = String::new();
        self.draw_axes(&mut svg, &place, &x_ticks, &y_ticks);
        // Thin lines first: no moving mean may vanish under another series.
        for s in series.iter().filter(|s| s.stroke == Stroke::Smoothed) {
            svg += &polyline(s, &thin_out(&s.points), "raw", &place);
        }
        for s in &series {
            let (points, class) = match s.stroke {
                Stroke::Smoothed => (moving_mean(&s.points), "line"),
                Stroke::Dashed => (s.points.clone(), "line dashed"),
                Stroke::Solid => (s.points.clone(), "line"),
            };
            svg += &polyline(s, &thin_out(&points), class, &place);
        }
        let title = escape(&self.title);
        format!(
            "<figure class=\"chart\"><figcaption>{title}{}</figcaption>\
             <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">{svg}</svg></figure>\n",
            legend(&series),
            escape(&self.description(&series)),
        )
    }

    /// The chart in a sentence: first and last values.
    fn description(&self, series: &[Series]) -> String {
        let mut text = format!("{}. {} over {}.", self.title, self.y_label, self.x_label);
        for s in series {
            let values = match s.stroke {
                Stroke::Smoothed => moving_mean(&s.points),
                _ => s.points.clone(),
            };
            if let (Some(first), Some(last)) = (values.first(), values.last()) {
                let _ = write!(
                    text,
                    " {}: from {} to {}.",
                    s.name,
                    significant(first.1),
                    significant(last.1)
                );
            }
        }
        text
    }

    fn draw_axes(&self, svg: &mut String, place: &Place, x_ticks: &Ticks, y_ticks: &Ticks) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for value in y_ticks.values() {
            let y = place.y(value);
            let label = y_ticks.label(value);
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                LEFT - 7.0,
                y + 4.0
            );
        }
        for value in x_ticks.values() {
            let x = place.x(value);
            let label = x_ticks.label(value);
            let _ = write!(
                svg,
                "<path class=\"tick\" d=\"M{x:.1} {bottom}v5\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                bottom + 18.0
            );
        }
        let middle = (TOP + bottom) / 2.0;
        let _ = write!(
            svg,
            "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate(13 {middle:.1})rotate(-90)\" text-anchor=\"middle\">{}</text>",
            (LEFT + right) / 2.0,
            HEIGHT - 6.0,
            escape(&self.x_label),
            escape(&self.y_label)
        );
    }
}

/// The series without points that are not finite; `None` when none is left.
fn finite(series: &Series) -> Option<Series> {
    let mut series = series.clone();
    series
        .points
        .retain(|(x, y)| x.is_finite() && y.is_finite());
    (!series.points.is_empty()).then_some(series)
}

/// Names of the lines; the heading names a single one well enough.
fn legend(series: &[Series]) -> String {
    if series.len() < 2 {
        return String::new();
    }
    let mut html = String::from("<span class=\"legend\">");
    for s in series {
        let dashed = if s.stroke == Stroke::Dashed {
            " dashed"
        } else {
            ""
        };
        let _ = write!(
            html,
            "<span><svg class=\"key\" viewBox=\"0 0 22 6\" aria-hidden=\"true\">\
             <path class=\"line c{}{dashed}\" d=\"M0 3H22\"/></svg>{}</span>",
            s.color % COLORS,
            escape(&s.name)
        );
    }
    html + "</span>"
}

fn polyline(series: &Series, points: &[(f64, f64)], class: &str, place: &Place) -> String {
    let color = series.color % COLORS;
    if let [(x, y)] = points {
        let (x, y) = (place.x(*x), place.y(*y));
        return format!("<circle class=\"dot c{color}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>");
    }
    let mut path = String::new();
    for (x, y) in points {
        let _ = write!(path, "{:.1},{:.1} ", place.x(*x), place.y(*y));
    }
    format!(
        "<polyline class=\"{class} c{color}\" points=\"{}\"/>",
        path.trim_end()
    )
}

/// At most [`POINTS`] points. Least and greatest of every stretch are kept: a spike is what one
/// looks for in a loss curve.
fn thin_out(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= POINTS {
        return points.to_vec();
    }
    let stretches = POINTS / 2;
    let mut kept = Vec::with_capacity(POINTS);
    for stretch in 0..stretches {
        let from = stretch * points.len() / stretches;
        let to = (stretch + 1) * points.len() / stretches;
        let by_y = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let part = &points[from..to];
        if let (Some(low), Some(high)) = (part.iter().min_by(by_y), part.iter().max_by(by_y)) {
            kept.push(if low.0 <= high.0 { *low } else { *high });
            kept.push(if low.0 <= high.0 { *high } else { *low });
        }
    }
    kept
}

/// Mean over a centred window of a twentieth of the series, cut off where the series ends.
fn moving_mean(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let half = (points.len() / 40).max(2);
    let mut sums = vec![0.0];
    for (_, y) in points {
        sums.push(sums.last().copied().unwrap_or(0.0) + y);
    }
    let mean = |i: usize| {
        let (from, to) = (i.saturating_sub(half), (i + half + 1).min(points.len()));
        (sums[to] - sums[from]) / (to - from) as f64
    };
    points
        .iter()
        .enumerate()
        .map(|(i, (x, _))| (*x, mean(i)))
        .collect()
}

/// From values to the drawing's coordinates.
struct Place {
    x: (f64, f64),
    y: (f64, f64),
}

impl Place {
    fn x(&self, x: f64) -> f64 {
        LEFT + (x - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - (y - self.y.0) / (self.y.1 - self.y.0) * (HEIGHT - TOP - BOTTOM)
    }
}

/// Round numbers along an axis: multiples of 1, 2 or 5 times a power of ten.
struct Ticks {
    low: f64,
    high: f64,
    step: f64,
}

impl Ticks {
    /// About `most` ticks between `low` and `high`; a range of no width is widened.
    fn new(low: f64, high: f64, most: usize) -> Self {
        let width = high - low;
        let (low, high) = if width > 1e-9 * low.abs().max(high.abs()) {
            (low, high)
        } else {
            let around = if low == 0.0 { 1.0 } else { 0.1 * low.abs() };
            (low - around, high + around)
        };
        let rough = (high - low) / most as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0].map(|n| n * power);
        let step = step.into_iter().find(|s| *s >= rough);
        Self {
            low,
            high,
            step: step.unwrap_or(10.0 * power),
        }
    }

    /// The same ticks over a range that begins and ends at one.
    fn covering(self) -> Self {
        Self {
            low: (self.low / self.step + 1e-9).floor() * self.step,
            high: (self.high / self.step - 1e-9).ceil() * self.step,
            step: self.step,
        }
    }

    fn range(&self) -> (f64, f64) {
        (self.low, self.high)
    }

    fn values(&self) -> impl Iterator<Item = f64> + use<> {
        let step = self.step;
        let first = (self.low / step - 1e-9).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last).map(move |n| n as f64 * step)
    }

    fn label(&self, value: f64) -> String {
        if value == 0.0 {
            return "0".into();
        }
        let exponent = |x: f64| (x.abs().log10() + 1e-9).floor();
        if self.step < 1e-3 {
            let digits = (exponent(value) - exponent(self.step)).max(0.0) as usize;
            return format!("{value:.digits$e}").replace('-', "\u{2212}");
        }
        let decimals = (-exponent(self.step)).max(0.0) as usize;
        thousands(&format!("{value:.decimals$}")).replace('-', "\u{2212}")
    }
}

/// Three significant digits.
pub fn significant(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if !(1e-3..1e5).contains(&size) => format!("{value:.2e}"),
        size => {
            let decimals = (2.0 - size.log10().floor()).clamp(0.0, 5.0) as usize;
            thousands(&format!("{value:.decimals$}"))
        }
    }
}

/// Commas between groups of three digits before the point.
pub fn thousands(number: &str) -> String {
    let (whole, rest) = number.split_at(number.find('.').unwrap_or(number.len()));
    let digits = whole.trim_start_matches('-');
    let mut text = whole[..whole.len() - digits.len()].to_owned();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + rest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn labels(low: f64, high: f64) -> Vec<String> {
        let ticks = Ticks::new(low, high, 6);
        ticks.values().map(|v| ticks.label(v)).collect()
    }

    #[test]
    fn ticks_are_round_numbers_inside_the_range() {
        assert_eq!(labels(0.0, 10.0), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(labels(0.13, 0.52), ["0.2", "0.3", "0.4", "0.5"]);
        assert_eq!(
            labels(0.0, 2e-4),
            ["0", "5e−5", "1.0e−4", "1.5e−4", "2.0e−4"]
        );
        assert_eq!(
            labels(1.0, 11_000.0),
            ["2,000", "4,000", "6,000", "8,000", "10,000"]
        );
        assert_eq!(labels(-1.0, 1.0), ["−1.0", "−0.5", "0", "0.5", "1.0"]);
    }

    #[test]
    fn a_range_of_no_width_is_widened() {
        for value in [0.0, 5.0, -3e-8] {
            let ticks = Ticks::new(value, value, 6).covering();
            assert!(ticks.low < value && value < ticks.high);
            assert!(ticks.values().count() >= 2);
        }
    }

    #[test]
    fn thinning_keeps_the_spike_and_the_order() {
        let mut points: Vec<_> = (0..10_000).map(|i| (f64::from(i), 1.0)).collect();
        points[4321].1 = 50.0;
        let kept = thin_out(&points);
        assert!(kept.len() <= POINTS);
        assert!(kept.contains(&(4321.0, 50.0)));
        assert!(kept.is_sorted_by(|a, b| a.0 <= b.0));
    }

    #[test]
    fn the_moving_mean_keeps_a_straight_line() {
        let line: Vec<_> = (0..100)
            .map(|i| (f64::from(i), 3.0 * f64::from(i)))
            .collect();
        for (mean, point) in moving_mean(&line).iter().zip(&line).skip(2).take(96) {
            assert!((mean.1 - point.1).abs() < 1e-9);
        }
        let zigzag = [(0.0, 0.0), (1.0, 3.0), (2.0, 0.0), (3.0, 3.0), (4.0, 0.0)];
        let means: Vec<f64> = moving_mean(&zigzag).iter().map(|p| p.1).collect();
        assert_eq!(means, [1.0, 1.5, 1.2, 1.5, 1.0]);
    }

    #[test]
    fn points_land_where_the_axes_say() {
        let chart = Chart {
            title: "A & B".into(),
            x_label: "step".into(),
            y_label: "<loss>".into(),
            from_zero: true,
            series: vec![
                Series {
                    name: "s".into(),
                    points: vec![(0.0, 0.0), (5.0, f64::NAN), (10.0, 10.0)],
                    color: 7,
                    stroke: Stroke::Solid,
                },
                Series {
                    name: "nothing".into(),
                    points: vec![(0.0, f64::NAN)],
                    color: 0,
                    stroke: Stroke::Dashed,
                },
            ],
        };
        let html = chart.render();
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let path =
            format!("class=\"line c2\" points=\"{LEFT:.1},{bottom:.1} {right:.1},{TOP:.1}\"");
        assert!(html.contains(&path), "{html}");
        assert!(html.contains("A &amp; B") && html.contains("&lt;loss&gt;"));
        assert!(!html.contains("nothing") && !html.contains("NaN"));
    }

    #[test]
    fn a_chart_without_points_is_nothing() {
        let chart = Chart {
            title: "t".into(),
            x_label: String::new(),
            y_label: String::new(),
            from_zero: false,
            series: Vec::new(),
        };
        assert_eq!(chart.render(), "");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(significant(0.123_456), "0.123");
        assert_eq!(significant(12.345), "12.3");
        assert_eq!(significant(12_345.6), "12,346");
        assert_eq!(significant(-0.000_012), "-1.20e-5");
        assert_eq!(thousands("-1234567.5"), "-1,234,567.5");
    }
}
