//! `explain UNIT`: why a unit is as it is.

use super::style::{self, Paint, Style};
use super::{cell, columns};
use crate::control::answer::{EdgeStatus, Explanation};
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

fn edges(title: &str, edges: &[EdgeStatus], total: u32, style: Style) -> String {
    if edges.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = edges
        .iter()
        .map(|e| {
            vec![
                cell(format!("  {}", e.edge)),
                cell(e.unit.as_str()),
                (e.state.word().to_owned(), style::state(e.state, style)),
                (e.reason.clone(), e.reason.dim(style)),
            ]
        })
        .collect();
    let mut out = format!("{}\n{}", title.bold(style), columns(&rows));
    let more = usize::try_from(total).unwrap_or_default().saturating_sub(edges.len());
    if more > 0 {
        out.push_str(&format!("  and {more} more\n"));
    }
    out
}
