//! Bar charts as SVG, written by hand: no library, the same bytes for the same figures.

use std::fmt::Write;

/// Bars of one row: its name and a value a series; none where nothing was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What stands before the bars.
    pub name: String,
    /// One a series.
    pub values: Vec<Option<f64>>,
}

/// A chart of horizontal bars on a logarithmic axis, which alone shows a floor and a peer a hundred times above it.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// The heading.
    pub title: String,
    /// What the numbers are.
    pub unit: String,
    /// Names of the series; a chart of one has no legend.
    pub series: Vec<String>,
    /// From top to bottom.
    pub rows: Vec<Row>,
}

const NAMES: f64 = 120.0;
const WIDTH: f64 = 760.0;
const NUMBERS: f64 = 70.0;
const BAR: f64 = 13.0;
const GAP: f64 = 9.0;
const TOP: f64 = 62.0;
/// Readable on white and on black, and by those who do not tell red from green.
const COLOURS: &[&str] = &["#4477aa", "#ccbb44", "#66ccee", "#aa3377"];

impl Chart {
    /// As SVG.
    pub fn svg(&self) -> String {
        let all = self.rows.iter().flat_map(|r| r.values.iter().flatten()).copied().filter(|v| *v > 0.0);
        let (low, high) = all.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) = if low > high { (1.0, 10.0) } else { (low, high) };
        // Whole decades; a bar of the least value has a length too.
        let first = low.log10().floor();
        let last = high.log10().ceil().max(first + 1.0);
        let length = WIDTH - NAMES - NUMBERS;
        let place = |value: f64| NAMES + (value.log10() - first) / (last - first) * length;

        let bars: usize = self.rows.iter().map(|r| r.values.len()).sum();
        let bottom = TOP + bars as f64 * BAR + self.rows.len() as f64 * GAP;
        let height = bottom + 24.0;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"11\" fill=\"#777\">\n"
        );
        let mut put = |line: String| {
            out.push_str(&line);
            out.push('\n');
        };
        let title = escaped(&format!("{}, {}", self.title, self.unit));
        put(format!("<text x=\"8\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{title}</text>"));
        if self.series.len() > 1 {
            let mut x = NAMES;
            for (name, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
                put(format!("<rect x=\"{x:.0}\" y=\"30\" width=\"10\" height=\"10\" fill=\"{colour}\"/>"));
                put(format!("<text x=\"{:.0}\" y=\"39\">{}</text>", x + 14.0, escaped(name)));
                x += 34.0 + 7.0 * name.chars().count() as f64;
            }
        }
        let mut decade = first;
        while decade <= last {
            let (x, value) = (place(10_f64.powf(decade)), number(10_f64.powf(decade)));
            put(format!(
                "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#ccc\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}</text>",
                bottom + 14.0
            ));
            decade += 1.0;
        }
        let mut y = TOP;
        for row in &self.rows {
            let middle = y + row.values.len() as f64 * BAR / 2.0 + 4.0;
            let (x, name) = (NAMES - 8.0, escaped(&row.name));
            put(format!("<text x=\"{x}\" y=\"{middle:.1}\" text-anchor=\"end\">{name}</text>"));
            for (value, colour) in row.values.iter().zip(COLOURS.iter().cycle()) {
                let (text, long) = match value {
                    None => ("–".to_owned(), 0.0),
                    // A logarithm has no zero: the number stands there alone.
                    Some(v) if *v <= 0.0 => ("0".to_owned(), 0.0),
                    Some(v) => (number(*v), (place(*v) - NAMES).max(1.0)),
                };
                put(format!(
                    "<rect x=\"{NAMES}\" y=\"{y:.1}\" width=\"{long:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\
                     <text x=\"{:.1}\" y=\"{:.1}\">{text}</text>",
                    BAR - 2.0,
                    NAMES + long + 4.0,
                    y + BAR - 3.0
                ));
                y += BAR;
            }
            y += GAP;
        }
        let _ = writeln!(out, "</svg>");
        out
    }
}

/// A number with three figures; none of them behind the point of a large one.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        v if v >= 0.9995 => format!("{value:.2}"),
        v if v >= 0.009995 => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: &[Option<f64>]) -> Chart {
        let row = |(n, v): (usize, &Option<f64>)| Row { name: format!("p{n}"), values: vec![*v] };
        Chart {
            title: "a < b".to_owned(),
            unit: "ms".to_owned(),
            series: vec!["one".to_owned()],
            rows: values.iter().enumerate().map(row).collect(),
        }
    }

    /// The lengths of the bars.
    fn bars(svg: &str) -> Vec<f64> {
        let of = |l: &str| l.split("width=\"").nth(1)?.split('"').next()?.parse().ok();
        svg.lines().filter(|l| l.starts_with("<rect")).filter_map(of).collect()
    }

    #[test]
    fn a_decade_is_everywhere_as_long() {
        let lengths = bars(&chart(&[Some(1.0), Some(10.0), Some(100.0)]).svg());
        assert_eq!(lengths.len(), 3);
        assert!((lengths[1] * 2.0 - lengths[2]).abs() < 0.2, "{lengths:?}");
    }

    #[test]
    fn what_was_not_measured_has_no_bar() {
        let svg = chart(&[Some(5.0), None, Some(0.0)]).svg();
        assert_eq!(bars(&svg)[1..], [0.0, 0.0]);
        assert!(svg.contains(">–<") && svg.contains(">0<") && svg.contains(">5.00<"));
        assert!(svg.contains("a &lt; b, ms"));
        assert!(bars(&chart(&[None]).svg()) == [0.0]);
    }

    #[test]
    fn numbers_have_three_figures() {
        for (value, text) in [(0.0, "0"), (0.321, "0.321"), (1.0, "1.00"), (14.02, "14.0"), (1401.2, "1401")]
        {
            assert_eq!(number(value), text);
        }
    }
}
