//! `tree`: units with what they need, from those that nobody needs down.

use std::collections::{BTreeMap, BTreeSet};

use super::style::{self, Paint, Style};
use crate::control::answer::{State, TreeNode};

/// Pieces of one unit put together, by address.
type Units<'a> = BTreeMap<&'a str, (State, Vec<(&'a str, &'a str)>)>;

/// The whole tree. A unit that was drawn before is drawn without what it needs, and marked.
pub fn draw(nodes: &[TreeNode], style: Style) -> String {
    let mut units: Units<'_> = BTreeMap::new();
    for node in nodes {
        let entry = units.entry(&node.unit).or_insert_with(|| (node.state, Vec::new()));
        entry.1.extend(node.needs.iter().map(|n| (n.edge.as_str(), n.unit.as_str())));
    }
    let needed: BTreeSet<&str> =
        units.values().flat_map(|(_, needs)| needs.iter().map(|(_, u)| *u)).collect();
    let mut out = String::new();
    let mut drawn = BTreeSet::new();
    let roots = units.keys().filter(|u| !needed.contains(*u)).copied();
    // With an `after` cycle between units nobody is a root; then everybody is one, in order.
    for root in roots.chain(units.keys().copied()).collect::<Vec<_>>() {
        if !drawn.contains(root) {
            branch(root, &units, &mut drawn, &mut out, style);
        }
    }
    out
}

/// One root with all below it; a stack of our own, since a chain can be as long as there are units.
fn branch<'a>(
    root: &'a str,
    units: &Units<'a>,
    drawn: &mut BTreeSet<&'a str>,
    out: &mut String,
    style: Style,
) {
    // What is still to be drawn: unit, edge, the lines before it, whether it is the last of its parent.
    let mut stack = vec![(root, "", String::new(), true)];
    while let Some((unit, edge, before, last)) = stack.pop() {
        let is_root = edge.is_empty();
        let corner = if is_root {
            ""
        } else if last {
            "└─ "
        } else {
            "├─ "
        };
        let state = units.get(unit).map(|(state, _)| *state);
        let edge =
            if matches!(edge, "" | "requires") { String::new() } else { format!("{} ", edge.dim(style)) };
        let shown = state.map(|s| style::state(s, style)).unwrap_or_default();
        let needs = units.get(unit).map(|(_, needs)| needs.as_slice()).unwrap_or_default();
        let again = !drawn.insert(unit);
        let mark = if again && !needs.is_empty() { " …" } else { "" };
        out.push_str(&format!("{before}{corner}{edge}{unit} {shown}{mark}\n"));
        if again {
            continue;
        }
        let below =
            if is_root { String::new() } else { format!("{before}{}", if last { "   " } else { "│  " }) };
        for (i, (edge, need)) in needs.iter().enumerate().rev() {
            stack.push((need, edge, below.clone(), i.saturating_add(1) == needs.len()));
        }
    }
}
