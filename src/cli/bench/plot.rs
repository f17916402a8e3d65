//! The pictures of `subquad bench --plot`: time over length and the roofline of every adapter, as one SVG text.

use std::fmt::Write;

/// One measured shape of a series. Values that a log scale cannot show (NaN, zero, negative, infinite) are left out.
pub(super) struct Point {
    pub length: f64,
    /// Seconds per run.
    pub seconds: f64,
    /// Seconds of the roofline floor.
    pub floor: Option<f64>,
    /// Essential flops per essential byte.
    pub intensity: f64,
    /// Achieved flop/s: essential flops over time.
    pub flops: f64,
}

/// One line: one form of an operator, by ascending length. Equal labels have the same look for every adapter.
pub(super) struct Series {
    pub label: String,
    pub points: Vec<Point>,
}

/// The data of one adapter.
pub(super) struct Picture {
    pub title: String,
    /// Small text below the title: driver, date, commit.
    pub note: String,
    /// Bytes/s of a measured copy, read plus written.
    pub bandwidth: Option<f64>,
    /// Flop/s of measured f32 multiply-adds.
    pub peak: Option<f64>,
    pub series: Vec<Series>,
}

/// Okabe and Ito's palette, which any kind of colour vision can tell apart, without its yellow, which is lost on white.
const COLOURS: [&str; 7] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"];

/// Markers, as paths relative to their centre. With the colours in step they make 35 different pairs.
const SHAPES: [&str; 5] = [
    "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "m-4-4h8v8h-8z",
    "m0-5l5 8.5h-10z",
    "m0-5.5l5.5 5.5l-5.5 5.5l-5.5-5.5z",
    "m0 5l5-8.5h-10z",
];

/// Dashes of a measured line, by how often all colours were used; all are longer than the roofline's.
const DASHES: [&str; 5] = ["none", "9 3", "9 3 2 3", "14 3 2 3 2 3", "12 3 5 3"];
const FLOOR: &str = "stroke-width=\"1.2\" stroke-dasharray=\"3 3\"";
const GREY: &str = "fill=\"#555\"";

/// Pixels. The drawing is this wide unless some text needs more.
const WIDTH: f64 = 1160.0;
const MARGIN: f64 = 20.0;
/// Length of a line in the legend.
const SAMPLE: f64 = 40.0;

/// A place in pixels, or values on two axes.
type Xy = (f64, f64);

/// A pixel of an axis and its label, which can be empty.
type Tick = (f64, String);

/// A rectangle in pixels, y down.
#[derive(Clone, Copy)]
struct Frame {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

/// The drawn parts of a series.
struct Line<'a> {
    label: &'a str,
    colour: &'a str,
    shape: &'a str,
    dash: &'a str,
    /// Length and seconds, and the text that a pointer shows there.
    time: Vec<(Xy, String)>,
    /// Length and seconds.
    floor: Vec<Xy>,
    /// Flops per byte and GFLOP/s, and the text that a pointer shows there.
    rate: Vec<(Xy, String)>,
}

/// A log scale: decimal logarithms `low` to `high` on pixels `start` to `end`.
struct Axis {
    low: f64,
    high: f64,
    start: f64,
    end: f64,
}

/// All pictures, one below another.
pub(super) fn svg(pictures: &[Picture]) -> String {
    let mut labels: Vec<&str> = Vec::new();
    for series in pictures.iter().flat_map(|picture| &picture.series) {
        if !labels.contains(&series.label.as_str()) {
            labels.push(&series.label);
        }
    }
    let widest = |picture: &Picture| {
        let longest = picture.series.iter().map(|series| text_width(&series.label) + 80.0).fold(0.0, f64::max);
        2.0 * MARGIN + longest.max(text_width(&picture.title) * 1.45).max(text_width(&picture.note))
    };
    let width = pictures.iter().map(widest).fold(WIDTH, f64::max);
    let (mut body, mut height) = (String::new(), 0.0);
    for picture in pictures {
        if height > 0.0 {
            let _ = writeln!(body, "<path d=\"M0 {}H{}\" stroke=\"#ccc\"/>", px(height), px(width));
        }
        height = section(&mut body, picture, &labels, height, width);
    }
    if pictures.is_empty() {
        text(&mut body, MARGIN, 32.0, "", "nothing measured");
        height = 48.0;
    }
    let titles: Vec<&str> = pictures.iter().map(|picture| picture.title.as_str()).collect();
    let title = escape(&format!("subquad bench: {}", titles.join("; ")));
    let (width, height) = (px(width), px(height));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <title>{title}</title>\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n{body}</svg>\n"
    )
}

/// One adapter, from `top` down; returns where it ends.
fn section(out: &mut String, picture: &Picture, labels: &[&str], top: f64, width: f64) -> f64 {
    text(out, MARGIN, top + 32.0, "font-size=\"16\" font-weight=\"bold\"", &picture.title);
    text(out, MARGIN, top + 52.0, GREY, &picture.note);
    let mut lines: Vec<Line<'_>> = picture.series.iter().map(|series| line(series, labels)).collect();
    lines.retain(|line| !line.time.is_empty());
    if lines.is_empty() {
        text(out, MARGIN, top + 78.0, "", "nothing measured");
        return top + 96.0;
    }
    let left = Frame { x: 84.0, y: top + 92.0, width: 470.0, height: 340.0 };
    times(out, left, &lines);
    roofline(out, Frame { x: 650.0, ..left }, &lines, picture);
    legend(out, &lines, left.y + left.height + 60.0, width) + MARGIN
}

fn line<'a>(series: &'a Series, labels: &[&str]) -> Line<'a> {
    let index = labels.iter().position(|label| *label == series.label).unwrap_or(0);
    let round = index / COLOURS.len();
    let mut line = Line {
        label: &series.label,
        colour: COLOURS[index % COLOURS.len()],
        shape: SHAPES[(index + round) % SHAPES.len()],
        dash: DASHES[round % DASHES.len()],
        time: Vec::new(),
        floor: Vec::new(),
        rate: Vec::new(),
    };
    for point in series.points.iter().filter(|point| shows(point.length) && shows(point.seconds)) {
        let mut hint = format!("{}, length {}: {}", series.label, length(point.length), time(point.seconds));
        if shows(point.intensity) && shows(point.flops) {
            let (x, y) = (point.intensity, point.flops / 1e9);
            line.rate.push(((x, y), format!("{hint}, {} GFLOP/s at {} flop/byte", short(y), short(x))));
        }
        if let Some(floor) = point.floor.filter(|floor| shows(*floor)) {
            let _ = write!(hint, " (floor {})", time(floor));
            line.floor.push((point.length, floor));
        }
        line.time.push(((point.length, point.seconds), hint));
    }
    line
}

/// The left picture.
fn times(out: &mut String, frame: Frame, lines: &[Line<'_>]) {
    let mut lengths: Vec<f64> = lines.iter().flat_map(|line| &line.time).map(|((x, _), _)| *x).collect();
    lengths.sort_by(f64::total_cmp);
    lengths.dedup();
    let seconds = lines.iter().flat_map(|line| line.time.iter().map(|(at, _)| at).chain(&line.floor)).map(|(_, y)| *y);
    let x = Axis::new(lengths.iter().copied(), frame.x, frame.x + frame.width);
    let y = Axis::new(seconds, frame.y + frame.height, frame.y).snapped();
    let few = lengths.len() <= 8 || lengths.iter().all(|length| length.log2().fract() == 0.0);
    let x_ticks = if few { x.ticks(&lengths, &length) } else { x.round_ticks(&length) };
    scales(out, frame, ["Time over length", "length", "time per run"], &x_ticks, &y.round_ticks(&time));
    for line in lines {
        let mut floor: Vec<Xy> = line.floor.iter().map(|at| (x.at(at.0), y.at(at.1))).collect();
        if let [(x, y)] = floor[..] {
            // The legend promises a dashed line: for one length it is a short one.
            floor = vec![(x - 10.5, y), (x + 10.5, y)];
        }
        polyline(out, &floor, line.colour, FLOOR);
    }
    for line in lines {
        measured(out, line, &line.time, 2, (&x, &y));
    }
    out.push_str("</g>\n");
}

/// The right picture.
fn roofline(out: &mut String, frame: Frame, lines: &[Line<'_>], picture: &Picture) {
    let headings = ["Roofline", "arithmetic intensity (flop/byte)", "achieved GFLOP/s"];
    let dots = || lines.iter().flat_map(|line| &line.rate).map(|(at, _)| *at);
    if dots().next().is_none() {
        scales(out, frame, headings, &[], &[]);
        let (x, y) = (frame.x + frame.width / 2.0, frame.y + frame.height / 2.0);
        text(out, x, y, "text-anchor=\"middle\"", "nothing measured");
        out.push_str("</g>\n");
        return;
    }
    let giga = |rate: Option<f64>| rate.filter(|rate| shows(*rate)).map(|rate| rate / 1e9);
    let (bandwidth, peak) = (giga(picture.bandwidth), giga(picture.peak));
    let ridge = bandwidth.zip(peak).map(|(bandwidth, peak)| peak / bandwidth);
    let roof = |x: f64| match (bandwidth.map(|rate| rate * x), peak) {
        (Some(slope), Some(peak)) => Some(slope.min(peak)),
        (slope, peak) => slope.or(peak),
    };
    // Both parts of the roof are visible and long enough for their labels.
    let corner = ridge.iter().flat_map(|ridge| [ridge / 10.0, ridge * 4.0]);
    let x = Axis::new(dots().map(|(x, _)| x).chain(corner), frame.x, frame.x + frame.width).snapped();
    let (first, last) = (10f64.powf(x.low), 10f64.powf(x.high));
    let roofs = [first, last].into_iter().filter_map(roof);
    let y = Axis::new(dots().map(|(_, y)| y).chain(roofs), frame.y + frame.height, frame.y).snapped();
    scales(out, frame, headings, &x.round_ticks(&short), &y.round_ticks(&short));
    let bends = [Some(first), ridge, Some(last)].into_iter().flatten();
    let edge: Vec<Xy> = bends.filter_map(|at| Some((x.at(at), y.at(roof(at)?)))).collect();
    polyline(out, &edge, "#888", "stroke-width=\"2\"");
    let (right, bottom) = (frame.x + frame.width, frame.y + frame.height);
    let border = [(frame.x, frame.y), (right, frame.y), (right, bottom), (frame.x, bottom), (frame.x, frame.y)];
    let mut taken = [along(&edge), along(&border)].concat();
    for line in lines {
        taken.extend(along(&measured(out, line, &line.rate, 1, (&x, &y))));
    }
    if let (Some(rate), [from, to, ..]) = (bandwidth, &edge[..]) {
        roof_label(out, frame, &mut taken, (*from, *to), &format!("copy {} GB/s", short(rate)));
    }
    if let (Some(rate), [.., from, to]) = (peak, &edge[..]) {
        roof_label(out, frame, &mut taken, (*from, *to), &format!("multiply-add {} GFLOP/s", short(rate)));
    }
    out.push_str("</g>\n");
}

/// Writes along a part of the roof: above it, else below it, else at the top, wherever there is room.
fn roof_label(out: &mut String, frame: Frame, taken: &mut Vec<Xy>, (from, to): (Xy, Xy), words: &str) {
    let long = text_width(words);
    let (run, rise) = (to.0 - from.0, to.1 - from.1);
    let part = run.hypot(rise).max(1.0);
    let (dx, dy) = (run / part, rise / part);
    // From a place, so far in the direction of the part and to the right of it.
    let moved = |(x, y): Xy, along: f64, across: f64| (x + dx * along - dy * across, y + dy * along + dx * across);
    // The height of the text, and of a marker on both sides of it.
    let free = |at: &Xy| {
        !taken.iter().map(|(x, y)| (x - at.0, y - at.1)).any(|(x, y)| {
            let (along, across) = (x * dx + y * dy, y * dx - x * dy);
            (-6.0..=long + 6.0).contains(&along) && (-15.0..=7.0).contains(&across)
        })
    };
    let shares = [0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8, 0.1, 0.9, 0.0, 1.0];
    let mut places = [-8.0, 19.0, -24.0, 35.0].into_iter().flat_map(|across| {
        // If the part is shorter than the text, the text ends or starts with it.
        shares.map(|share| moved(from, 8.0 + share * (part - long - 16.0), across))
    });
    let (x, y) = match places.find(free) {
        Some(place) => place,
        None if dy == 0.0 => moved(from, part - long - 8.0, -8.0),
        None => {
            let top = frame.y + 27.0;
            return roof_label(out, frame, taken, ((frame.x, top), (frame.x + frame.width, top)), words);
        }
    };
    taken.extend(along(&[moved((x, y), 0.0, -4.0), moved((x, y), long, -4.0)]));
    let turn = format!("transform=\"rotate({} {} {})\"", px(dy.atan2(dx).to_degrees()), px(x), px(y));
    let halo = "stroke=\"#fff\" stroke-width=\"3\" stroke-linejoin=\"round\" paint-order=\"stroke\"";
    text(out, x, y, &format!("{GREY} {halo} {turn}"), words);
}

/// Opens the group of a picture: heading, grid, frame, labels of the axes.
fn scales(out: &mut String, frame: Frame, headings: [&str; 3], x_ticks: &[Tick], y_ticks: &[Tick]) {
    let Frame { x, y, width, height } = frame;
    let (bottom, [heading, x_title, y_title]) = (y + height, headings);
    out.push_str("<g>\n");
    text(out, x, y - 12.0, "font-size=\"13\" font-weight=\"bold\"", heading);
    let mut grid = String::new();
    for (at, words) in x_ticks {
        let _ = write!(grid, "M{} {}v{}", px(*at), px(y), px(height));
        text(out, *at, bottom + 17.0, "text-anchor=\"middle\"", words);
    }
    for (at, words) in y_ticks {
        let _ = write!(grid, "M{} {}h{}", px(x), px(*at), px(width));
        text(out, x - 7.0, at + 4.0, "text-anchor=\"end\"", words);
    }
    let _ = writeln!(out, "<path d=\"{grid}\" stroke=\"#e4e4e4\"/>");
    rect(out, "frame", frame, "fill=\"none\" stroke=\"#999\"");
    let title = format!("text-anchor=\"middle\" {GREY}");
    text(out, x + width / 2.0, bottom + 38.0, &title, x_title);
    let (at, middle) = (x - 62.0, y + height / 2.0);
    text(out, at, middle, &format!("{title} transform=\"rotate(-90 {} {})\"", px(at), px(middle)), y_title);
}

/// The legend, in columns; returns where it ends.
fn legend(out: &mut String, lines: &[Line<'_>], top: f64, width: f64) -> f64 {
    let entry = SAMPLE + 28.0 + lines.iter().map(|line| text_width(line.label)).fold(0.0, f64::max);
    let most = ((width - 2.0 * MARGIN - 12.0) / entry).max(1.0) as usize;
    let rows = lines.len().div_ceil(most).max(1);
    let columns = lines.len().div_ceil(rows) as f64;
    let size = ((12.0 + entry * columns).max(280.0), 14.0 + 20.0 * (rows + 1) as f64);
    out.push_str("<g>\n");
    rect(out, "legend", Frame { x: MARGIN, y: top, width: size.0, height: size.1 }, "fill=\"#fafafa\" stroke=\"#ddd\"");
    let (x, y) = (MARGIN + 12.0, top + 17.0);
    polyline(out, &[(x, y), (x + SAMPLE, y)], "#444", "stroke-width=\"2\"");
    text(out, x + SAMPLE + 8.0, y + 4.0, "", "measured");
    if lines.iter().any(|line| !line.floor.is_empty()) {
        polyline(out, &[(x + 140.0, y), (x + 140.0 + SAMPLE, y)], "#444", FLOOR);
        text(out, x + 148.0 + SAMPLE, y + 4.0, "", "floor");
    }
    for (index, line) in lines.iter().enumerate() {
        let (x, y) = (x + entry * (index / rows) as f64, y + 20.0 * (1 + index % rows) as f64);
        let style = format!("stroke-width=\"2\" stroke-dasharray=\"{}\"", line.dash);
        polyline(out, &[(x, y), (x + SAMPLE, y)], line.colour, &style);
        let (middle, colour) = (px(x + SAMPLE / 2.0), line.colour);
        let _ = writeln!(out, "<path d=\"M{middle} {}{}\" fill=\"{colour}\"/>", px(y), line.shape);
        text(out, x + SAMPLE + 8.0, y + 4.0, "", line.label);
    }
    out.push_str("</g>\n");
    top + size.1
}

impl Axis {
    /// Holds all values, at least one, with some room at both ends.
    fn new(values: impl Iterator<Item = f64>, start: f64, end: f64) -> Self {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| {
            let log = value.log10();
            (low.min(log), high.max(log))
        });
        let room = (0.08 * (high - low)).max(0.1);
        Self { low: low - room, high: high + room, start, end }
    }

    /// Ends moved outwards to 1, 2 or 5 times a power of ten.
    fn snapped(self) -> Self {
        let steps = |log: f64| {
            let whole = log.floor();
            [0.0, 2f64.log10(), 5f64.log10(), 1.0].map(|step| whole + step)
        };
        let low = steps(self.low).into_iter().filter(|step| *step <= self.low).fold(f64::MIN, f64::max);
        let high = steps(self.high).into_iter().filter(|step| *step >= self.high).fold(f64::MAX, f64::min);
        Self { low, high, ..self }
    }

    /// The pixel of a value.
    fn at(&self, value: f64) -> f64 {
        self.start + (value.log10() - self.low) / (self.high - self.low) * (self.end - self.start)
    }

    /// A tick at every value in range, all rising; texts as there is room for them.
    fn ticks(&self, values: &[f64], words: &impl Fn(f64) -> String) -> Vec<Tick> {
        let mut last = None;
        let within = |value: &&f64| (self.low - 1e-9..=self.high + 1e-9).contains(&value.log10());
        let tick = |value: &f64| {
            let (at, text) = (self.at(*value), words(*value));
            // Half of what two neighbours need. Upright axes run from the bottom up.
            let half = if self.start > self.end { 13.0 } else { text_width(&text) / 2.0 + 5.0 };
            if last.is_some_and(|(before, need): Xy| (at - before).abs() < need + half) {
                return (at, String::new());
            }
            last = Some((at, half));
            (at, text)
        };
        values.iter().filter(within).map(tick).collect()
    }

    /// Ticks at 1, 2 and 5 times the powers of ten, or at powers alone where that is too dense.
    fn round_ticks(&self, words: &impl Fn(f64) -> String) -> Vec<Tick> {
        // Parsing gives the double nearest to the decimal, where a power of ten may be off by one bit.
        let round = |step: u32, power: i32| format!("{step}e{power}").parse::<f64>().ok();
        let powers = || self.low.floor() as i32..=self.high.ceil() as i32;
        let fine: Vec<f64> = powers().flat_map(|power| [1, 2, 5].map(|step| round(step, power))).flatten().collect();
        let mut ticks = self.ticks(&fine, words);
        if ticks.iter().any(|(_, text)| text.is_empty()) {
            ticks = self.ticks(&powers().filter_map(|power| round(1, power)).collect::<Vec<_>>(), words);
            ticks.retain(|(_, text)| !text.is_empty());
        }
        ticks
    }
}

/// Whether a log scale shows it. The bounds keep products of two such values finite.
fn shows(value: f64) -> bool {
    (1e-30..=1e30).contains(&value)
}

/// A measured line of this width with its markers; returns the places of the markers.
fn measured(out: &mut String, line: &Line<'_>, dots: &[(Xy, String)], width: u32, (x, y): (&Axis, &Axis)) -> Vec<Xy> {
    let points: Vec<Xy> = dots.iter().map(|(at, _)| (x.at(at.0), y.at(at.1))).collect();
    polyline(out, &points, line.colour, &format!("stroke-width=\"{width}\" stroke-dasharray=\"{}\"", line.dash));
    let _ = writeln!(out, "<g fill=\"{}\" stroke=\"#fff\" stroke-width=\"0.8\">", line.colour);
    for ((_, hint), (x, y)) in dots.iter().zip(&points) {
        let (x, y, hint) = (px(*x), px(*y), escape(hint));
        let _ = writeln!(out, "<path d=\"M{x} {y}{}\"><title>{hint}</title></path>", line.shape);
    }
    out.push_str("</g>\n");
    points
}

/// The points of a line and more, every few pixels.
fn along(line: &[Xy]) -> Vec<Xy> {
    let mut points = line.to_vec();
    for (a, b) in line.iter().zip(line.iter().skip(1)) {
        let count = ((b.0 - a.0).hypot(b.1 - a.1) / 4.0).ceil();
        let share = |step: usize| step as f64 / count;
        points.extend((1..count as usize).map(share).map(|t| (a.0 + (b.0 - a.0) * t, a.1 + (b.1 - a.1) * t)));
    }
    points
}

/// Empty for fewer than two points.
fn polyline(out: &mut String, points: &[Xy], colour: &str, style: &str) {
    if points.len() > 1 {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{},{}", px(*x), px(*y))).collect();
        let _ = writeln!(out, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" {style}/>", points.join(" "));
    }
}

fn rect(out: &mut String, class: &str, frame: Frame, style: &str) {
    let [x, y, w, h] = [frame.x, frame.y, frame.width, frame.height].map(px);
    let _ = writeln!(out, "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" {style}/>");
}

/// Empty if there are no words.
fn text(out: &mut String, x: f64, y: f64, style: &str, words: &str) {
    if !words.is_empty() {
        let _ = writeln!(out, "<text x=\"{}\" y=\"{}\" {style}>{}</text>", px(x), px(y), escape(words));
    }
}

/// Pixels that a text of size 12 takes at most: system fonts differ, so this goes by a wide one.
fn text_width(text: &str) -> f64 {
    let em = |c: char| match c {
        'i' | 'j' | 'l' | 'I' | '|' | '!' | '\'' | '.' | ',' | ':' | ';' | ' ' => 0.34,
        'f' | 'r' | 't' | '(' | ')' | '[' | ']' | '/' | '-' => 0.42,
        'm' | 'w' | 'M' | 'W' | '@' | '%' => 1.0,
        'A'..='Z' => 0.76,
        ' '..='~' => 0.64,
        _ => 1.05,
    };
    text.chars().map(em).sum::<f64>() * 12.0
}

/// Two decimals at most.
fn px(value: f64) -> String {
    format!("{}", (value * 100.0).round() / 100.0)
}

/// Three digits.
fn short(value: f64) -> String {
    let rounded: f64 = format!("{value:.2e}").parse().unwrap_or(value);
    if (1e-4..1e6).contains(&rounded) { format!("{rounded}") } else { format!("{rounded:e}") }
}

/// The number unchanged, if it is short enough to read.
fn length(value: f64) -> String {
    if value.fract() == 0.0 && value < 1e9 { format!("{value}") } else { short(value) }
}

fn time(seconds: f64) -> String {
    // A time that rounds to 1000 ms is 1 s.
    let fits = |(scale, _): &(f64, &str)| seconds * scale >= 0.9995;
    let units = [(1.0, "s"), (1e3, "ms"), (1e6, "us"), (1e9, "ns")];
    let (scale, unit) = units.into_iter().find(fits).unwrap_or((1.0, "s"));
    format!("{} {unit}", short(seconds * scale))
}

/// Escaped for XML, without control characters, which XML does not allow.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Time grows with the power of the length.
    fn series(label: &str, lengths: &[f64], power: f64) -> Series {
        let point = |length: &f64| {
            let (seconds, flops) = (2e-4 * (length / 1024.0).powf(power), 2e10 * power);
            Point { length: *length, seconds, floor: Some(seconds / 7.0), intensity: seconds * 1e5, flops }
        };
        Series { label: label.to_owned(), points: lengths.iter().map(point).collect() }
    }

    fn picture(series: Vec<Series>) -> Picture {
        let (title, note) = ("llvmpipe (LLVM 19.1.7, 256 bits)".to_owned(), "a note".to_owned());
        Picture { title, note, bandwidth: Some(1.23e10), peak: Some(1.45e11), series }
    }

    /// The texts between `<` and `>`, after checking that every element is closed in the right place.
    fn tags(svg: &str) -> Vec<&str> {
        let (mut open, mut tags) = (Vec::new(), Vec::new());
        for part in svg.split('<').skip(1) {
            let (tag, text) = part.split_once('>').unwrap();
            assert!(!text.contains('>') && tag.matches('"').count() % 2 == 0, "{part}");
            assert!(text.split('&').skip(1).all(|rest| rest.split(';').next().unwrap().len() <= 4), "{text}");
            match tag.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name)),
                None if tag.ends_with('/') => {}
                None => open.push(tag.split(' ').next().unwrap()),
            }
            tags.push(tag);
        }
        assert!(open.is_empty() && !tags.is_empty(), "{open:?}");
        tags
    }

    fn numbers<const N: usize>(tag: &str, names: [&str; N]) -> [f64; N] {
        names.map(|name| tag.split(&format!(" {name}=\"")).nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
    }

    /// Well-formed, everything within its frame, the legend outside of the others; returns the number of markers.
    fn check(pictures: &[Picture]) -> usize {
        let svg = svg(pictures);
        let tags = tags(&svg);
        assert!(!svg.contains("NaN") && !svg.replace("linformer", "").contains("inf"));
        let [width, height] = numbers(tags[0], ["width", "height"]);
        let (mut frames, mut markers) = (vec![[0.0, 0.0, width, height]], 0);
        for tag in &tags {
            let [x, y, width, height] = *frames.last().unwrap();
            if tag.starts_with("rect class") {
                let [left, top, w, h] = numbers(tag, ["x", "y", "width", "height"]);
                let apart = |f: &[f64; 4]| left >= f[0] + f[2] || top >= f[1] + f[3] || left + w <= f[0];
                assert!(frames[1..].iter().all(apart), "{tag} is on another frame");
                assert!(left >= 0.0 && left + w <= frames[0][2] && top + h <= frames[0][3], "{tag}");
                frames.push([left, top, w, h]);
            } else if let Some(places) = tag.strip_prefix("polyline points=\"").or(tag.strip_prefix("path d=\"M")) {
                // The path after a marker's centre is relative to it; a grid or a rule is not a marker.
                let marker = tag.starts_with("path") && tag.contains('m');
                let places = places.split(['m', '"']).next().unwrap();
                let all: Vec<f64> = places.split([' ', ',']).filter_map(|number| number.parse().ok()).collect();
                let slack = if marker { -5.0 } else { 0.01 };
                for place in all.chunks_exact(2).filter(|_| marker || tag.starts_with("poly")) {
                    assert!(place[0] >= x - slack && place[0] <= x + width + slack, "{tag}");
                    assert!(place[1] >= y - slack && place[1] <= y + height + slack, "{tag}");
                }
                markers += usize::from(marker && !tag.ends_with('/'));
            }
        }
        markers
    }

    #[test]
    fn everything_lies_in_its_frame_and_the_legend_beside_the_data() {
        let lengths = [1024.0, 4096.0, 16384.0, 65536.0];
        let usual = || picture(vec![series("softmax", &lengths, 2.0), series("linformer", &lengths, 1.0)]);
        assert_eq!(check(&[usual(), picture(vec![series(&"long ".repeat(60), &[256.0], 1.5)])]), 18);
        let many = (1..=30).map(|i| series(&format!("form {i}"), &lengths, f64::from(i) / 15.0)).collect();
        let halves = [Picture { peak: None, ..picture(many) }, Picture { bandwidth: None, ..usual() }];
        assert_eq!(check(&halves), 256);
        let labels = [">copy 12.3 GB/s<", ">multiply-add 145 GFLOP/s<"];
        assert_eq!(labels.map(|label| svg(&halves).matches(label).count()), [1, 1]);
        let sweep: Vec<f64> = (1..=40).map(|i| 100.0 * f64::from(i)).collect();
        assert_eq!(check(&[picture(vec![series("steep", &sweep, 12.0)])]), 80);
    }

    #[test]
    fn what_a_log_scale_cannot_show_is_left_out() {
        let mut odd = series("odd", &[0.0, -1.0, f64::NAN, f64::INFINITY, 64.0, 128.0, 256.0], 1.0);
        odd.points[5].seconds = 0.0;
        odd.points[6].floor = Some(f64::NEG_INFINITY);
        odd.points[6].flops = f64::NAN;
        assert_eq!(check(&[Picture { bandwidth: Some(f64::NAN), peak: Some(0.0), ..picture(vec![odd]) }]), 3);
        assert_eq!(check(&[picture(vec![series("one", &[64.0], 1.0)])]), 2);
        let nothing = [picture(vec![]), picture(vec![series("none", &[f64::NAN], 1.0)])];
        assert_eq!(check(&nothing) + check(&[]), 0);
        assert_eq!(svg(&nothing).matches(">nothing measured<").count(), 2);
        assert!(svg(&[]).contains(">nothing measured<"));
    }

    #[test]
    fn texts_are_escaped_and_numbers_are_those_that_people_read() {
        let svg = svg(&[picture(vec![series("a<b & \"c\"\u{0}", &[64.0], 1.0)])]);
        assert!(tags(&svg).len() > 20 && svg.contains("a&lt;b &amp; &quot;c&quot; <"));
        let times = [1e-5, 0.9996, 1.5e-3, 2e-8, 1e-12, 1e7].map(time);
        assert_eq!(times, ["10 us", "1 s", "1.5 ms", "20 ns", "1e-12 s", "1e7 s"]);
        assert_eq!([12.345, 51_300.0, 9.999, 0.05, 1e6].map(short), ["12.3", "51300", "10", "0.05", "1e6"]);
        let axis = Axis::new([1.0, 1e3].into_iter(), 0.0, 300.0);
        let texts: Vec<String> = axis.round_ticks(&short).into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["1", "10", "100", "1000"]);
    }
}
