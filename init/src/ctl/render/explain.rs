//! `explain UNIT`: why a unit is as it is.

use super::style::{self, Paint, Style};
use super::{cell, columns};
use crate::control::answer::{EdgeStatus, Explanation, State};
use crate::ctl::time::Clock;

/// The whole page.
pub fn page(e: &Explanation, clock: &Clock, style: Style) -> String {
    let mut out = super::status::unit(&e.status, clock, style);
    out.push_str(&format!(
        "  meant to be {}, by layer {} of generation {}\n",
        e.desired, e.layer, e.generation
    ));
    out.push_str(&edges("needs", &e.needs, e.needs_total, style));
    out.push_str(&edges("needed by", &e.needed_by, e.needed_by_total, style));
    out
}

/// More units than this that are in the same state for the same reason, as the files of a tree are, share a line.
const ALIKE: usize = 3;

/// Edges of one unit, or of several that are alike.
#[derive(Clone)]
struct Row<'a> {
    kinds: Vec<&'a str>,
    units: Vec<&'a str>,
    state: State,
    reason: &'a str,
}

impl Row<'_> {
    fn is_like(&self, other: &Row<'_>) -> bool {
        self.kinds == other.kinds && self.state == other.state && self.reason == other.reason
    }
}

/// A row a unit; behind them a row for the many that follow from one thing.
fn rows(edges: &[EdgeStatus]) -> Vec<Row<'_>> {
    let mut units: Vec<Row<'_>> = Vec::new();
    for e in edges {
        match units.iter_mut().find(|r| r.units == [&e.unit] && r.reason == e.reason) {
            Some(row) => row.kinds.push(&e.edge),
            None => {
                let (kinds, names) = (vec![e.edge.as_str()], vec![e.unit.as_str()]);
                units.push(Row { kinds, units: names, state: e.state, reason: &e.reason });
            }
        }
    }
    let (mut rows, mut folded) = (Vec::new(), Vec::<Row<'_>>::new());
    for row in &units {
        let alike = units.iter().filter(|r| r.is_like(row)).count();
        if row.reason.is_empty() || alike <= ALIKE {
            rows.push(row.clone());
        } else if let Some(first) = folded.iter_mut().find(|f| f.is_like(row)) {
            first.units.extend(&row.units);
        } else {
            folded.push(row.clone());
        }
    }
    rows.extend(folded);
    rows
}

fn edges(title: &str, edges: &[EdgeStatus], total: u32, style: Style) -> String {
    if edges.is_empty() {
        return String::new();
    }
    let cells = |row: Row<'_>| {
        let units = match row.units.as_slice() {
            [first, rest @ ..] if !rest.is_empty() => format!("{first} and {} more", rest.len()),
            units => units.join(""),
        };
        vec![
            cell(format!("  {}", row.kinds.join(", "))),
            cell(units),
            (row.state.word().to_owned(), style::state(row.state, style)),
            (row.reason.to_owned(), row.reason.dim(style)),
        ]
    };
    let rows: Vec<_> = rows(edges).into_iter().map(cells).collect();
    let mut out = format!("{}\n{}", title.bold(style), columns(&rows));
    let more = usize::try_from(total).unwrap_or_default().saturating_sub(edges.len());
    if more > 0 {
        out.push_str(&format!("  and {more} more\n"));
    }
    out
}
