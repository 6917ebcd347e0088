//! Charts as inline SVG: an area, its axes, and what is drawn on it.
//!
//! Owns scales, ticks, and the thinning of long series. Knows nothing of runs, and sets no colour: classes do, in `html.rs`.
//! Pure. Called by `figures.rs` and `weekly/page.rs`.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::series::{Mark, Point, span};

/// Size of the drawing, in units of the picture; it scales with the page.
const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 220.0;
/// The area inside the axes.
const LEFT: f64 = 58.0;
const RIGHT: f64 = 508.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 186.0;
/// Columns over which a series is thinned; each keeps four points, more than a screen can tell apart.
const COLUMNS: u16 = 450;
/// Steps between ticks of a time axis, seconds.
const TIME_STEPS: [f64; 28] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0,
    1_800.0, 3_600.0, 7_200.0, 14_400.0, 43_200.0, 86_400.0, 172_800.0, 604_800.0,
];

/// What is drawn, from the back to the front.
pub(super) enum Layer<'a> {
    /// A time in which nobody worked: from, to.
    Idle(f64, f64),
    /// The moments in which steps began.
    Steps(&'a [Mark]),
    /// A level with its name, such as a percentile.
    Level(f64, &'static str),
    /// Points joined by a line.
    Line(&'a [Point]),
    /// Points alone.
    Dots(&'a [Point]),
}

/// A chart of values over the time of a run.
pub(super) struct Chart<'a> {
    /// Unique in the page; letters, digits and hyphens only.
    pub(super) id: &'a str,
    /// What it shows.
    pub(super) title: &'static str,
    /// The same with figures, for those who cannot see it.
    pub(super) description: &'a str,
    /// Seconds of the time axis.
    pub(super) length: f64,
    /// Highest value that must fit.
    pub(super) top: f64,
    /// A value in words, for the axis.
    pub(super) word: fn(f64) -> String,
    pub(super) layers: &'a [Layer<'a>],
}

impl Chart<'_> {
    pub(super) fn draw(&self) -> Markup {
        let (top, step) = axis_top(self.top);
        let x = Scale::new(self.length, LEFT, RIGHT);
        let y = Scale::new(top, BOTTOM, TOP);
        frame(
            self.id,
            self.title,
            self.description,
            HEIGHT,
            &html! {
                @for value in ticks(top, step) {
                    line class="grid" x1=(at(LEFT)) x2=(at(RIGHT)) y1=(at(y.of(value))) y2=(at(y.of(value))) {}
                    text class="tick" x=(at(LEFT - 6.0)) y=(at(y.of(value) + 4.0)) text-anchor="end" { ((self.word)(value)) }
                }
                (time_axis(&x, self.length, BOTTOM))
                @for layer in self.layers { (draw(layer, &x, &y)) }
            },
        )
    }
}

fn draw(layer: &Layer<'_>, x: &Scale, y: &Scale) -> Markup {
    match layer {
        Layer::Idle(from, to) => html! {
            rect class="idle" x=(at(x.of(*from))) y=(at(TOP)) width=(at((x.of(*to) - x.of(*from)).max(1.0))) height=(at(BOTTOM - TOP)) {}
        },
        Layer::Steps(marks) => steps(marks, x),
        Layer::Level(value, name) => html! {
            line class="level" x1=(at(LEFT)) x2=(at(RIGHT)) y1=(at(y.of(*value))) y2=(at(y.of(*value))) {}
            text class="mark" x=(at(RIGHT - 2.0)) y=(at(beside(y.of(*value)))) text-anchor="end" { (name) }
        },
        Layer::Line(points) => {
            let points = thin(points, columns(points, x));
            html! {
                @match points.as_slice() {
                    [] => {}
                    // A line needs two ends; one point must be seen all the same.
                    [only] => { (dot(only, x, y)) }
                    points => { path class="line" d=(path(points, x, y)) {} }
                }
            }
        }
        Layer::Dots(points) => html! {
            @for point in thin(points, COLUMNS / 4) { (dot(&point, x, y)) }
        },
    }
}

/// Columns that a series covers, so that a chart of many lines is as small as one of a single line.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the columns of a picture"
)]
fn columns(points: &[Point], x: &Scale) -> u16 {
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return 1;
    };
    let covered = (x.of(last.x) - x.of(first.x)) / (RIGHT - LEFT) * f64::from(COLUMNS);
    covered.ceil().clamp(1.0, f64::from(COLUMNS)) as u16
}

fn dot(point: &Point, x: &Scale, y: &Scale) -> Markup {
    html! { circle class="dot" cx=(at(x.of(point.x))) cy=(at(y.of(point.y))) r="2.5" {} }
}

/// Where the name of a level stands: above its line, below it at the top of the area.
fn beside(y: f64) -> f64 {
    if y < TOP + 12.0 { y + 11.0 } else { y - 3.0 }
}

/// Lines where steps began, each with its number above the area where there is room.
fn steps(marks: &[Mark], x: &Scale) -> Markup {
    let mut free_from = 0.0;
    let mut labelled = Vec::with_capacity(marks.len());
    for mark in marks {
        let when = x.of(mark.x);
        let fits = when >= free_from;
        if fits {
            free_from = when + 16.0;
        }
        labelled.push((when, fits.then_some(mark.step)));
    }
    html! {
        @for (when, label) in labelled {
            line class="step" x1=(at(when)) x2=(at(when)) y1=(at(TOP)) y2=(at(BOTTOM)) {}
            @if let Some(number) = label {
                text class="mark" x=(at(when)) y=(at(TOP - 3.0)) text-anchor="middle" { (number) }
            }
        }
    }
}

/// One bar on a [`strips`] chart.
pub(super) struct Strip<'a> {
    /// Which row it is in.
    pub(super) row: &'a str,
    pub(super) from: f64,
    pub(super) to: f64,
}

/// Bars over the time of a run, one row for each name.
pub(super) fn strips(
    id: &'static str,
    title: &'static str,
    description: &str,
    length: f64,
    rows: &[&str],
    strips: &[Strip<'_>],
) -> Markup {
    const ROW: f64 = 40.0;
    let x = Scale::new(length, LEFT, RIGHT);
    let tops = (0_u16..).map(|row| f64::from(row) * ROW + TOP);
    let bottom = TOP + ROW * rows.iter().map(|_| 1.0).sum::<f64>();
    frame(
        id,
        title,
        description,
        bottom + HEIGHT - BOTTOM,
        &html! {
            (time_axis(&x, length, bottom))
            @for (name, top) in rows.iter().zip(tops) {
                text class="tick" x=(at(LEFT)) y=(at(top + 11.0)) { (name) }
                path class="strip" d=(bars(strips.iter().filter(|strip| strip.row == *name), &x, top + 16.0, 16.0)) {}
            }
        },
    )
}

/// The bars of one row as one path. Those that would touch on the screen are joined, so that a run of days stays a small page.
fn bars<'a>(strips: impl Iterator<Item = &'a Strip<'a>>, x: &Scale, top: f64, height: f64) -> String {
    let mut joined: Vec<(f64, f64)> = Vec::new();
    for strip in strips {
        let from = x.of(strip.from);
        let to = x.of(strip.to).max(from + 2.0);
        match joined.last_mut() {
            Some(last) if from - last.1 < 0.5 => last.1 = last.1.max(to),
            _ => joined.push((from, to)),
        }
    }
    let mut path = String::new();
    for (from, to) in joined {
        // A bar for something that happened once, at the very end, stays inside the area.
        let from = from.min(RIGHT - 2.0);
        let width = at(to.min(RIGHT) - from);
        let _ = write!(path, "M{} {}h{width}v{}h-{width}z", at(from), at(top), at(height));
    }
    path
}

fn frame(id: &str, title: &str, description: &str, height: f64, content: &Markup) -> Markup {
    html! {
        svg viewBox=(format!("0 0 {} {}", at(WIDTH), at(height))) role="img" aria-labelledby=(format!("{id}-title {id}-text")) {
            title id=(format!("{id}-title")) { (title) }
            desc id=(format!("{id}-text")) { (description) }
            (content)
        }
    }
}

fn time_axis(x: &Scale, length: f64, bottom: f64) -> Markup {
    let step = TIME_STEPS
        .into_iter()
        .find(|step| length / step <= 5.0)
        .unwrap_or_else(|| axis_top(length).1);
    html! {
        line class="axis" x1=(at(LEFT)) x2=(at(RIGHT)) y1=(at(bottom)) y2=(at(bottom)) {}
        @for value in ticks(length, step) {
            line class="axis" x1=(at(x.of(value))) x2=(at(x.of(value))) y1=(at(bottom)) y2=(at(bottom + 4.0)) {}
            text class="tick" x=(at(x.of(value))) y=(at(bottom + 18.0)) text-anchor=(if x.of(value) > RIGHT - 20.0 { "end" } else { "middle" }) {
                (moment(value))
            }
        }
    }
}

/// A time on an axis: "500 ms", "15 s", "2 min 30 s".
fn moment(seconds: f64) -> String {
    if seconds == 0.0 {
        "0".to_owned()
    } else if seconds < 1.0 {
        format!("{} ms", short(seconds * 1_000.0))
    } else if seconds < 60.0 {
        format!("{} s", short(seconds))
    } else if seconds >= 86_400.0 && seconds % 86_400.0 == 0.0 {
        format!("{} d", short(seconds / 86_400.0))
    } else {
        let words = span(seconds);
        words
            .strip_suffix(" 0 s")
            .or(words.strip_suffix(" 0 min"))
            .unwrap_or(&words)
            .to_owned()
    }
}

/// A number with as many decimals as ticks need.
pub(super) fn short(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Values onto the picture.
struct Scale {
    from: f64,
    factor: f64,
}

impl Scale {
    /// 0 is at `from`, `most` at `to`. Where `most` is nothing, all is at `from`.
    fn new(most: f64, from: f64, to: f64) -> Self {
        let factor = if most > 0.0 { (to - from) / most } else { 0.0 };
        Self { from, factor }
    }

    fn of(&self, value: f64) -> f64 {
        self.from + value * self.factor
    }
}

/// A coordinate, to a tenth: `12.3`, `12`.
fn at(value: f64) -> String {
    let text = format!("{value:.1}");
    match text.strip_suffix(".0") {
        Some("-0") => "0".to_owned(),
        Some(whole) => whole.to_owned(),
        None => text,
    }
}

fn path(points: &[Point], x: &Scale, y: &Scale) -> String {
    let mut path = String::new();
    for (index, point) in points.iter().enumerate() {
        let letter = if index == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{letter}{} {}", at(x.of(point.x)), at(y.of(point.y)));
    }
    path
}

/// The end of a value axis that fits `most`, and the step between its ticks: 1, 2 or 5 times a power of ten.
fn axis_top(most: f64) -> (f64, f64) {
    if !most.is_finite() || most <= 0.0 {
        return (1.0, 1.0);
    }
    let power = 10_f64.powf((most / 4.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| most / step <= 4.0)
        .unwrap_or(10.0 * power);
    (((most / step) - 1e-9).ceil() * step, step)
}

fn ticks(most: f64, step: f64) -> impl Iterator<Item = f64> {
    (0_u16..12)
        .map(move |tick| f64::from(tick) * step)
        .take_while(move |value| *value <= most + step * 1e-6)
}

/// At most four points for each column of the picture: the first, the least, the greatest and the last, in their order, so that
/// no peak is lost.
fn thin(points: &[Point], columns: u16) -> Vec<Point> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return Vec::new();
    };
    if points.len() <= usize::from(columns) * 4 {
        return points.to_vec();
    }
    let width = (last.x - first.x) / f64::from(columns);
    let mut kept = Vec::with_capacity(usize::from(columns) * 4);
    let mut rest = points;
    for column in 1..=columns {
        let end = first.x + width * f64::from(column);
        let count = if column == columns {
            rest.len()
        } else {
            rest.partition_point(|point| point.x < end)
        };
        let (here, after) = rest.split_at(count);
        rest = after;
        keep(here, &mut kept);
    }
    kept
}

fn keep(points: &[Point], kept: &mut Vec<Point>) {
    let indexes = || 0..points.len();
    let (Some(least), Some(greatest)) = (
        indexes().min_by(|a, b| points[*a].y.total_cmp(&points[*b].y)),
        indexes().max_by(|a, b| points[*a].y.total_cmp(&points[*b].y)),
    ) else {
        return;
    };
    let mut chosen = [0, least, greatest, points.len() - 1];
    chosen.sort_unstable();
    let mut before = None;
    for index in chosen {
        if before != Some(index) {
            kept.push(points[index]);
        }
        before = Some(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(values: impl IntoIterator<Item = f64>) -> Vec<Point> {
        (0_u32..).zip(values).map(|(x, y)| Point { x: f64::from(x), y }).collect()
    }

    #[test]
    fn thinning_keeps_every_peak() {
        let many = points((0..100_000_u32).map(|n| match n {
            31_337 => 900.0,
            77_777 => -5.0,
            _ => f64::from(n % 7),
        }));
        let kept = thin(&many, 450);
        assert!(kept.len() <= 1_800, "{}", kept.len());
        assert!(kept.iter().any(|point| point.y == 900.0 && point.x == 31_337.0));
        assert!(kept.iter().any(|point| point.y == -5.0));
        assert_eq!((kept.first(), kept.last()), (many.first(), many.last()));
        assert!(kept.windows(2).all(|pair| pair[0].x < pair[1].x), "in order, none twice");
    }

    #[test]
    fn few_points_stay_as_they_are() {
        for count in [0, 1, 2, 1_800] {
            let few = points((0..count).map(f64::from));
            assert_eq!(thin(&few, 450), few);
        }
        // All at one moment: no column has a width.
        let same = vec![Point { x: 1.0, y: 2.0 }; 5_000];
        assert_eq!(thin(&same, 450).len(), 2);
    }

    #[test]
    fn axes_end_at_round_numbers_above_all_values() {
        for (most, top, step) in [
            (0.0, 1.0, 1.0),
            (1.0, 1.0, 0.5),
            (4.0, 4.0, 1.0),
            (515.0, 600.0, 200.0),
            (1_000.0, 1_000.0, 500.0),
            (98_765.0, 100_000.0, 50_000.0),
            (f64::INFINITY, 1.0, 1.0),
        ] {
            let (found_top, found_step) = axis_top(most);
            assert!(
                (found_top - top).abs() < 1e-9 && (found_step - step).abs() < 1e-9,
                "{most}: {found_top} by {found_step}"
            );
        }
    }

    fn chart(series: &[Point], length: f64) -> String {
        Chart {
            id: "rows",
            title: "Rows",
            description: "Some rows.",
            length,
            top: series.iter().map(|point| point.y).fold(0.0, f64::max),
            word: |value| value.to_string(),
            layers: &[Layer::Line(series)],
        }
        .draw()
        .into_string()
    }

    #[test]
    fn two_points_are_a_line_and_one_is_a_dot() {
        let two = chart(&[Point { x: 0.0, y: 0.0 }, Point { x: 10.0, y: 100.0 }], 10.0);
        assert!(two.contains(r#"<path class="line" d="M58 186L508 14">"#), "{two}");
        let one = chart(&[Point { x: 0.0, y: 4.0 }], 0.0);
        assert!(one.contains(r#"<circle class="dot" cx="58" cy="14""#), "{one}");
        let none = chart(&[], 0.0);
        assert!(!none.contains("circle") && !none.contains("class=\"line\""), "{none}");
        for chart in [two, one, none] {
            assert!(!chart.contains("NaN") && !chart.contains("inf"), "{chart}");
        }
    }

    #[test]
    fn bars_stay_inside_the_area_and_join_where_they_touch() {
        let x = Scale::new(100.0, LEFT, RIGHT);
        let strip = |from, to| Strip { row: "a", from, to };
        let strips = [strip(0.0, 10.0), strip(10.0, 20.0), strip(50.0, 50.0), strip(100.0, 100.0)];
        assert_eq!(
            bars(strips.iter(), &x, 30.0, 16.0),
            "M58 30h90v16h-90zM283 30h2v16h-2zM506 30h2v16h-2z"
        );
    }

    #[test]
    fn times_on_axes_are_short() {
        let words: Vec<String> = [0.0, 0.5, 5.0, 120.0, 150.0, 7_200.0, 5_400.0, 172_800.0]
            .into_iter()
            .map(moment)
            .collect();
        assert_eq!(
            words,
            ["0", "500 ms", "5 s", "2 min", "2 min 30 s", "2 h", "1 h 30 min", "2 d"]
        );
    }

    #[test]
    fn numbers_of_steps_do_not_overlap() {
        let marks = [0.0, 0.1, 50.0, 50.2, 100.0].map(|x| Mark { x, step: 7 });
        let drawn = steps(&marks, &Scale::new(100.0, LEFT, RIGHT)).into_string();
        assert_eq!((drawn.matches("<line").count(), drawn.matches("<text").count()), (5, 3));
    }

    #[test]
    fn coordinates_are_short() {
        assert_eq!(
            (at(1.0), at(1.25), at(-0.01), at(0.96)),
            ("1".into(), "1.2".into(), "0".into(), "1".into())
        );
    }
}
