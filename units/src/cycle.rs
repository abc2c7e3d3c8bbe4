//! Cycles of a directed graph, without recursion, in O(nodes + edges).

/// One shortest cycle through the first node of every strongly connected part, as indices into `edges`. Edges are
/// (from, to); those that name a node beyond `nodes` are ignored.
pub fn cycles(nodes: usize, edges: &[(u32, u32)]) -> Vec<Vec<usize>> {
    let graph = Graph::new(nodes, edges);
    let parts = graph.parts();
    let mut found = Vec::new();
    let mut seen = vec![false; nodes];
    let mut sizes = vec![0usize; nodes];
    for part in &parts {
        if let Some(n) = sizes.get_mut(*part as usize) {
            *n += 1;
        }
    }
    for (node, part) in (0u32..).zip(&parts) {
        let Some(done) = seen.get_mut(*part as usize) else { continue };
        if std::mem::replace(done, true) {
            continue;
        }
        let alone = sizes.get(*part as usize).is_none_or(|n| *n < 2);
        let own = graph.out(node).find(|(_, to)| *to == node);
        match (alone, own) {
            (_, Some((edge, _))) => found.push(vec![edge]),
            (true, None) => {}
            (false, None) => found.extend(graph.shortest(node, *part, &parts)),
        }
    }
    found
}

/// Edges by their first node: `targets[starts[n]..starts[n + 1]]` are (edge, to).
struct Graph {
    starts: Vec<usize>,
    targets: Vec<(usize, u32)>,
}

impl Graph {
    fn new(nodes: usize, edges: &[(u32, u32)]) -> Graph {
        let inside = |(f, t): &(u32, u32)| (*f as usize) < nodes && (*t as usize) < nodes;
        let mut sorted: Vec<(u32, usize, u32)> =
            edges.iter().enumerate().filter(|(_, e)| inside(e)).map(|(i, (f, t))| (*f, i, *t)).collect();
        sorted.sort_unstable();
        let mut starts = vec![0; nodes + 1];
        for (from, _, _) in &sorted {
            if let Some(n) = starts.get_mut(*from as usize + 1) {
                *n += 1;
            }
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        Graph { starts, targets: sorted.into_iter().map(|(_, i, t)| (i, t)).collect() }
    }

    fn range(&self, node: u32) -> (usize, usize) {
        let at = |n: usize| self.starts.get(n).copied().unwrap_or_default();
        (at(node as usize), at(node as usize + 1))
    }

    fn out(&self, node: u32) -> impl Iterator<Item = (usize, u32)> + '_ {
        let (start, end) = self.range(node);
        self.targets.get(start..end).unwrap_or_default().iter().copied()
    }

    /// The strongly connected part of every node, named by one of its nodes (Tarjan's algorithm with its own stack).
    fn parts(&self) -> Vec<u32> {
        const NEW: u32 = u32::MAX;
        let nodes = self.starts.len().saturating_sub(1);
        let mut index = vec![NEW; nodes];
        let mut low = vec![0u32; nodes];
        let mut part = vec![NEW; nodes];
        let mut stack: Vec<u32> = Vec::new();
        let mut next = 0u32;
        let get = |v: &[u32], n: u32| v.get(n as usize).copied().unwrap_or_default();
        let put = |v: &mut [u32], n: u32, value| {
            if let Some(slot) = v.get_mut(n as usize) {
                *slot = value;
            }
        };
        for root in (0u32..).take(nodes) {
            if get(&index, root) != NEW {
                continue;
            }
            let mut calls: Vec<(u32, usize)> = vec![(root, self.range(root).0)];
            put(&mut index, root, next);
            put(&mut low, root, next);
            next += 1;
            stack.push(root);
            while let Some((node, at)) = calls.last_mut() {
                let node = *node;
                if *at < self.range(node).1 {
                    let to = self.targets.get(*at).map_or(node, |(_, t)| *t);
                    *at += 1;
                    if get(&index, to) == NEW {
                        put(&mut index, to, next);
                        put(&mut low, to, next);
                        next += 1;
                        stack.push(to);
                        calls.push((to, self.range(to).0));
                    } else if get(&part, to) == NEW {
                        let least = get(&low, node).min(get(&index, to));
                        put(&mut low, node, least);
                    }
                    continue;
                }
                calls.pop();
                if let Some((above, _)) = calls.last() {
                    let least = get(&low, *above).min(get(&low, node));
                    put(&mut low, *above, least);
                }
                if get(&low, node) == get(&index, node) {
                    while let Some(member) = stack.pop() {
                        put(&mut part, member, node);
                        if member == node {
                            break;
                        }
                    }
                }
            }
        }
        part
    }

    /// The shortest way from a node back to itself inside its part, breadth first.
    fn shortest(&self, start: u32, part: u32, parts: &[u32]) -> Option<Vec<usize>> {
        // Before each node: the edge to it and the node that it comes from.
        let mut before: std::collections::BTreeMap<u32, (usize, u32)> = std::collections::BTreeMap::new();
        let mut queue = std::collections::VecDeque::from([start]);
        while let Some(node) = queue.pop_front() {
            for (edge, to) in self.out(node) {
                if to == start {
                    let mut way = vec![edge];
                    let mut at = node;
                    while at != start {
                        let (edge, from) = before.get(&at)?;
                        way.push(*edge);
                        at = *from;
                    }
                    way.reverse();
                    return Some(way);
                }
                let inside = parts.get(to as usize) == Some(&part);
                if inside && let std::collections::btree_map::Entry::Vacant(slot) = before.entry(to) {
                    slot.insert((edge, node));
                    queue.push_back(to);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_cycle(way: &[usize], edges: &[(u32, u32)]) -> bool {
        let joined = way.windows(2).all(|w| edges[w[0]].1 == edges[w[1]].0);
        !way.is_empty() && joined && edges[*way.last().unwrap()].1 == edges[way[0]].0
    }

    #[test]
    fn names_the_whole_cycle() {
        assert_eq!(cycles(4, &[(0, 1), (1, 2), (2, 1), (3, 3), (2, 3)]), [vec![1, 2], vec![3]]);
        assert_eq!(cycles(3, &[(0, 1), (1, 2), (0, 2)]), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn a_hundred_thousand_units_in_a_row_and_in_a_ring() {
        let n = 100_000u32;
        let mut edges: Vec<(u32, u32)> = (1..n).map(|i| (i - 1, i)).collect();
        assert!(cycles(n as usize, &edges).is_empty());
        edges.push((n - 1, 0));
        assert_eq!(cycles(n as usize, &edges)[0].len(), n as usize);
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_algorithm(count in 1u32..9, raw in proptest::collection::vec((0u32..9, 0u32..9), 0..20)) {
            let nodes = count as usize;
            let edges: Vec<_> = raw.into_iter().map(|(a, b)| (a % count, b % count)).collect();
            // Naive: what reaches what, by repetition until nothing changes.
            let mut reach = vec![vec![false; nodes]; nodes];
            for _ in 0..=nodes {
                for (a, b) in &edges {
                    reach[*a as usize][*b as usize] = true;
                    let beyond = reach[*b as usize].clone();
                    reach[*a as usize].iter_mut().zip(beyond).for_each(|(to, step)| *to |= step);
                }
            }
            let mut parts = std::collections::BTreeSet::new();
            for node in (0..nodes).filter(|n| reach[*n][*n]) {
                parts.insert((0..nodes).find(|o| reach[node][*o] && reach[*o][node]).unwrap());
            }
            let found = cycles(nodes, &edges);
            prop_assert!(found.iter().all(|w| is_cycle(w, &edges)));
            let named: std::collections::BTreeSet<usize> = found.iter().map(|w| {
                let node = edges[w[0]].0 as usize;
                (0..nodes).find(|o| reach[node][*o] && reach[*o][node]).unwrap()
            }).collect();
            prop_assert_eq!(named, parts);
            prop_assert!(found.len() <= nodes);
        }
    }
}
