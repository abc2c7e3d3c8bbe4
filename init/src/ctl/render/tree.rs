//! `tree`: units with what they need, from those that nobody needs down.

use std::collections::{BTreeMap, BTreeSet};

use super::style::{self, Paint, Style};
use crate::control::answer::{State, TreeNode};

/// What a unit needs: how, and what.
type Needs<'a> = Vec<(Vec<&'a str>, &'a str)>;
/// Pieces of one unit put together, by address.
type Units<'a> = BTreeMap<&'a str, (State, Needs<'a>)>;

/// More units of one directory than this, that differ in nothing but their names, are drawn as the first of them.
const ALIKE: usize = 3;

/// The whole tree. A unit that was drawn before is drawn without what it needs, and marked.
pub fn draw(nodes: &[TreeNode], style: Style) -> String {
    let mut units: Units<'_> = BTreeMap::new();
    for node in nodes {
        let entry = units.entry(&node.unit).or_insert_with(|| (node.state, Vec::new()));
        for need in &node.needs {
            // Edges to one unit come one after the other.
            match entry.1.last_mut() {
                Some((edges, unit)) if *unit == need.unit => edges.push(&need.edge),
                _ => entry.1.push((vec![&need.edge], &need.unit)),
            }
        }
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
    let nothing = Needs::new();
    // What is still to be drawn: unit, edge, how many it stands for beside itself, the lines before it, whether it is
    // the last of its parent.
    let mut stack = vec![(root, String::new(), 0, String::new(), true)];
    while let Some((unit, edge, more, before, last)) = stack.pop() {
        let is_root = edge.is_empty();
        let corner = if is_root {
            ""
        } else if last {
            "└─ "
        } else {
            "├─ "
        };
        let state = units.get(unit).map(|(state, _)| *state);
        let edge = match edge.as_str() {
            "" | "requires" => String::new(),
            edge => format!("{} ", edge.dim(style)),
        };
        let shown = state.map(|s| style::state(s, style)).unwrap_or_default();
        let needs = units.get(unit).map_or(&nothing, |(_, needs)| needs);
        let again = !drawn.insert(unit);
        let mark = if again && !needs.is_empty() { " …" } else { "" };
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        out.push_str(&format!("{before}{corner}{edge}{unit}{more} {shown}{mark}\n"));
        if again {
            continue;
        }
        let below =
            if is_root { String::new() } else { format!("{before}{}", if last { "   " } else { "│  " }) };
        let children = folded(needs, units, drawn);
        let count = children.len();
        for (i, (edges, need, more)) in children.into_iter().enumerate().rev() {
            stack.push((need, edges.join(", "), more, below.clone(), i.saturating_add(1) == count));
        }
    }
}

/// What a unit needs, with how many more the first of those that are alike stands for, which count as drawn.
fn folded<'n, 'a>(
    needs: &'n Needs<'a>,
    units: &Units<'a>,
    drawn: &mut BTreeSet<&'a str>,
) -> Vec<(&'n [&'a str], &'a str, usize)> {
    let directory = |unit: &'a str| unit.rsplit_once('/').map_or(unit, |(directory, _)| directory);
    let mut alike: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for (edges, unit) in needs {
        let of = units.get(unit).map(|(state, needs)| (state.word(), needs));
        alike.entry((directory(unit), edges, of)).or_default().push(unit);
    }
    let mut more: BTreeMap<&str, usize> = BTreeMap::new();
    let mut left_out: BTreeSet<&str> = BTreeSet::new();
    for units in alike.into_values().filter(|units| units.len() > ALIKE) {
        let [first, rest @ ..] = units.as_slice() else { continue };
        more.insert(first, rest.len());
        left_out.extend(rest);
        drawn.extend(rest);
    }
    let shown = needs.iter().filter(|(_, unit)| !left_out.contains(unit));
    shown
        .map(|(edges, unit)| (edges.as_slice(), *unit, more.get(unit).copied().unwrap_or_default()))
        .collect()
}
