//! What the records of a journal add up to. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::journal::Recovery;
use super::quick::Names;
use super::record::{Digest, Own, Prior, Record, Why, path_of_names};

/// Versions of one thing that are kept in the history: of those that repairs replaced, and of those that others did.
const HISTORY_PER_THING: usize = 10;
/// Owner of directories that were made on the way to something.
pub const PARENT: &str = "parent:";
/// Manifests of generations that are kept, beside those that can be returned to.
const GENERATIONS: usize = 50;

/// A generation that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Digest of its manifest.
    pub digest: Digest,
    /// Seconds since 1970.
    pub when: u64,
    /// Who asked and how.
    pub note: String,
}

/// What a thing was before a transition touched it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undo {
    /// The transition.
    pub transition: u64,
    /// Place in the order of all undo records.
    pub order: u64,
    /// The thing.
    pub thing: String,
    /// What it was.
    pub prior: Prior,
    /// Who owned it.
    pub own: Option<Own>,
}

/// By thing: what it was; see [`Index::first_touches`].
pub type FirstTouches = Names<Undo>;

/// What was on the machine and was replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The unit.
    pub unit: String,
    /// Seconds since 1970.
    pub when: u64,
    /// What for.
    pub why: Why,
    /// The generation that was made or returned to; 0 for a repair.
    pub generation: u64,
    /// What it was.
    pub prior: Prior,
    /// Place in the order of all versions, which seconds do not tell.
    pub order: u64,
}

/// A run of an exec unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Digest of its declaration then.
    pub digest: [u8; 16],
    /// Hash of its inputs then.
    pub inputs: u64,
    /// Seconds since 1970.
    pub when: u64,
}

/// Everything the store knows, beside contents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Index {
    /// Generations by number.
    pub generations: BTreeMap<u64, Generation>,
    /// Generations that led here, oldest first, each with the transition that made it; the last is current.
    pub stack: Vec<(u64, u64)>,
    /// The transition that is under way: (generation, transition).
    pub open: Option<(u64, u64)>,
    /// Largest transition number so far.
    pub transitions: u64,
    /// Largest generation number so far.
    pub last_generation: u64,
    /// Owners by thing.
    pub own: Names<Own>,
    /// Undo records by unit, in the order in which they were made.
    pub undo: Names<Vec<Undo>>,
    order: u64,
    /// Saved versions by thing, oldest first.
    pub history: BTreeMap<String, Vec<Version>>,
    /// Runs by unit.
    pub runs: Names<Run>,
    /// Numbers that must not be given again: (whether a group's, number) → whose it was.
    pub retired: BTreeMap<(bool, u32), String>,
    /// Records that were applied, to know when compaction pays.
    pub seen: u64,
    /// Bytes of contents that the history has forgotten since the journal was written anew.
    pub forgotten: u64,
}

impl Index {
    /// Takes in a record that somebody else still needs.
    pub fn apply(&mut self, record: &Record) {
        self.take(record.clone());
    }

    /// Takes a record in.
    pub fn take(&mut self, record: Record) {
        self.seen += 1;
        match record {
            Record::Prepared { generation, digest, when, note } => {
                self.last_generation = self.last_generation.max(generation);
                self.generations.insert(generation, Generation { digest, when, note });
            }
            Record::Switching { generation, transition } => {
                // A transition that was open is continued by the next one: what it touched is still undone
                // by a return to the current generation, which undoes everything later.
                if let Some((_, before)) = self.open {
                    self.absorb(before, transition);
                }
                self.transitions = self.transitions.max(transition);
                self.open = Some((generation, transition));
            }
            Record::Trial { .. } => {}
            Record::Committed { generation } => self.land(generation),
            Record::Returned { to, .. } => self.land(to),
            Record::Own { thing, own } => {
                self.own.insert(thing, own);
            }
            Record::Disown { thing } => {
                self.own.remove(&thing);
            }
            Record::Undo { transition, unit, thing, prior, own } => {
                self.order += 1;
                let undo = Undo { transition, order: self.order, thing, prior, own };
                // Most units have one: room for four would be lost on each.
                self.undo.entry(unit).or_insert_with(|| Vec::with_capacity(1)).push(undo);
            }
            Record::History { unit, thing, when, prior } => {
                let why = Why::Repair;
                self.remember(thing, Version { unit, when, why, generation: 0, prior, order: 0 });
            }
            Record::Replaced { unit, thing, when, why, generation, prior } => {
                self.remember(thing, Version { unit, when, why, generation, prior, order: 0 });
            }
            Record::NotReplaced { unit, thing } => {
                if let Some(versions) = self.history.get_mut(&thing)
                    && versions.last().is_some_and(|v| v.unit == unit)
                {
                    self.forgotten += versions.pop().map_or(0, |v| content_size(&v.prior));
                    if versions.is_empty() {
                        self.history.remove(&thing);
                    }
                }
            }
            Record::Ran { unit, digest, inputs, when } => {
                self.runs.insert(unit, Run { digest, inputs, when });
            }
            Record::Forgot { unit } => {
                self.runs.remove(&unit);
            }
            Record::Retired { group, id, name } => {
                self.retired.insert((group, id), name);
            }
            Record::Dropped { generation } => {
                self.generations.remove(&generation);
            }
        }
    }

    fn remember(&mut self, thing: String, mut version: Version) {
        self.order += 1;
        version.order = self.order;
        let versions = self.history.entry(thing).or_default();
        // Who wrote that down before it was to be replaced has died over it, and this is the second attempt.
        if versions.last().is_some_and(|last| last.unit == version.unit && last.prior == version.prior) {
            versions.pop();
        }
        let alike = |v: &Version| (v.why == Why::Repair) == (version.why == Why::Repair);
        if versions.iter().filter(|v| alike(v)).count() >= HISTORY_PER_THING
            && let Some(oldest) = versions.iter().position(alike)
        {
            self.forgotten += content_size(&versions.remove(oldest).prior);
        }
        versions.push(version);
    }

    /// Makes the undo records of one transition those of another.
    fn absorb(&mut self, from: u64, into: u64) {
        for undo in self.undo.values_mut().flatten() {
            if undo.transition == from {
                undo.transition = into;
            }
        }
    }

    /// A generation has become the current one: by the open transition, or by going back to it.
    fn land(&mut self, generation: u64) {
        let open = self.open.take();
        if generation == 0 {
            // Back to what is beside `init`: the store has no current generation then.
            self.stack.clear();
            self.undo.clear();
        } else if let Some(at) = self.stack.iter().position(|(g, _)| *g == generation) {
            let mut gone: BTreeSet<u64> = self.stack.drain(at + 1..).map(|(_, t)| t).collect();
            gone.extend(open.map(|(_, t)| t));
            self.undo.retain(|_, list| {
                list.retain(|u| !gone.contains(&u.transition));
                !list.is_empty()
            });
        } else {
            self.stack.push((generation, open.map_or(0, |(_, t)| t)));
        }
    }

    /// The current generation.
    pub fn current(&self) -> Option<u64> {
        self.stack.last().map(|(g, _)| *g)
    }

    /// The one before the current.
    pub fn previous(&self) -> Option<u64> {
        self.stack.iter().rev().nth(1).map(|(g, _)| *g)
    }

    /// What a start after a crash has to know.
    pub fn recovery(&self) -> Recovery {
        Recovery { current: self.current(), interrupted: self.open.map(|(g, _)| g) }
    }

    /// Whether going to a generation is a way back: it is current, or led to the current one.
    pub fn is_back(&self, generation: u64) -> bool {
        generation == 0 || self.stack.iter().any(|(g, _)| *g == generation)
    }

    /// Transitions that came after `generation` was current; everything, where it never was.
    fn later(&self, generation: u64) -> BTreeSet<u64> {
        let mut later: BTreeSet<u64> = match self.stack.iter().position(|(g, _)| *g == generation) {
            Some(at) => self.stack.iter().skip(at + 1).map(|(_, t)| *t).collect(),
            // A way forward: nothing is undone.
            None if generation != 0 => return BTreeSet::new(),
            None => self.stack.iter().map(|(_, t)| *t).collect(),
        };
        later.extend(self.open.map(|(_, t)| t));
        later
    }

    /// What a unit has to put back so that things are as they were in `generation`, latest first, so that what lies
    /// inside comes after what it lies in. `first` is [`Index::first_touches`] for the same generation.
    ///
    /// What a thing was is told by all who touched it since, whoever of them puts it back: they may leave in one batch,
    /// in any order. Only what a unit has made it takes away in any case.
    pub fn undo_to(&self, unit: &str, generation: u64, first: &FirstTouches) -> Vec<Undo> {
        let mut out = self.undo_alone(unit, generation);
        for undo in out.iter_mut().filter(|u| !matches!(u.prior, Prior::Absent | Prior::Edit(_))) {
            if let Some(touch) = first.get(&undo.thing) {
                undo.prior.clone_from(&touch.prior);
                undo.own.clone_from(&touch.own);
            }
        }
        out
    }

    /// What each thing was in `generation`, as the records of all units tell it together.
    pub fn first_touches(&self, generation: u64) -> FirstTouches {
        let later = self.later(generation);
        let mut all: Vec<&Undo> =
            self.undo.values().flatten().filter(|u| later.contains(&u.transition)).collect();
        all.sort_unstable_by_key(|u| u.order);
        let mut out = FirstTouches::default();
        for undo in all {
            match out.get_mut(&undo.thing) {
                Some(first) => fill_in(&mut first.prior, &undo.prior),
                None => drop(out.insert(undo.thing.clone(), undo.clone())),
            }
        }
        out
    }

    fn undo_alone(&self, unit: &str, generation: u64) -> Vec<Undo> {
        let Some(list) = self.undo.get(unit) else { return Vec::new() };
        let later = self.later(generation);
        let mut out: Vec<Undo> = Vec::new();
        for undo in list.iter().filter(|u| later.contains(&u.transition)) {
            let first = out.iter_mut().find(|o| o.thing == undo.thing);
            // An edit says what it did, and not what was there: each is turned round, the last one first.
            match first.filter(|f| !matches!((&f.prior, &undo.prior), (Prior::Edit(_), Prior::Edit(_)))) {
                Some(first) => fill_in(&mut first.prior, &undo.prior),
                None => out.push(undo.clone()),
            }
        }
        out.reverse();
        out
    }

    /// Names that were one file in `generation` and parted since: each with all others.
    pub fn linked_in(&self, generation: u64) -> BTreeMap<String, BTreeSet<String>> {
        let later = self.later(generation);
        let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for undo in self.undo.values().flatten().filter(|u| later.contains(&u.transition)) {
            let Prior::Linked { others, .. } = &undo.prior else { continue };
            // The last one to part has no other name left, and knows of none.
            let own = path_of_names(&undo.thing).unwrap_or(&undo.thing);
            let names: BTreeSet<&str> = others.iter().map(String::as_str).chain([own]).collect();
            for name in &names {
                let of = out.entry((*name).to_owned()).or_default();
                of.extend(names.iter().filter(|n| *n != name).map(|n| (*n).to_owned()));
            }
        }
        out
    }

    /// Whether a transition has the prior state of this thing already, as far as `prior` touches it.
    pub fn has_undo(&self, transition: u64, unit: &str, thing: &str, prior: &Prior) -> bool {
        let covers = |old: &Prior| match old {
            Prior::Attributes(_) => matches!(prior, Prior::Attributes(_) | Prior::Untouched),
            Prior::Untouched => matches!(prior, Prior::Untouched),
            Prior::Edit(_) => prior == old || matches!(prior, Prior::Untouched),
            _ => true,
        };
        self.undo.get(unit).is_some_and(|list| {
            list.iter().any(|u| u.transition == transition && u.thing == thing && covers(&u.prior))
        })
    }

    /// Numbers of the generations with this manifest: the current one first if it is one, then from the latest on.
    pub fn find(&self, digest: &Digest) -> Vec<u64> {
        let is = |g: &u64| self.generations.get(g).is_some_and(|e| e.digest == *digest);
        let current = self.current().filter(is);
        let others = self.generations.keys().rev().copied().filter(|g| is(g) && Some(*g) != current);
        current.into_iter().chain(others).collect()
    }

    /// The fewest records that add up to this index, and the generations that they leave out.
    pub fn compact(&self) -> (Vec<Record>, Vec<u64>) {
        let mut out = Vec::new();
        let kept: BTreeSet<u64> = (self.generations.keys().rev().take(GENERATIONS).copied())
            .chain(self.stack.iter().rev().take(GENERATIONS).map(|(g, _)| *g))
            .chain(self.open.map(|(g, _)| g))
            .collect();
        for (generation, entry) in &self.generations {
            if kept.contains(generation) {
                out.push(Record::Prepared {
                    generation: *generation,
                    digest: entry.digest,
                    when: entry.when,
                    note: entry.note.clone(),
                });
            }
        }
        let mut undo: Vec<(&String, &Undo)> =
            self.undo.iter().flat_map(|(unit, list)| list.iter().map(move |u| (unit, u))).collect();
        undo.sort_by_key(|(_, u)| u.order);
        let skip = self.stack.len().saturating_sub(GENERATIONS);
        let first = self.stack.get(skip).map_or(0, |(_, t)| *t);
        for (generation, transition) in self.stack.iter().skip(skip) {
            out.push(Record::Switching { generation: *generation, transition: *transition });
            out.push(Record::Committed { generation: *generation });
        }
        if let Some((generation, transition)) = self.open {
            out.push(Record::Switching { generation, transition });
        }
        for (unit, u) in undo.into_iter().filter(|(_, u)| u.transition >= first) {
            out.push(Record::Undo {
                transition: u.transition,
                unit: unit.clone(),
                thing: u.thing.clone(),
                prior: u.prior.clone(),
                own: u.own.clone(),
            });
        }
        let mut own: Vec<_> = self.own.iter().collect();
        own.sort_by_key(|(thing, _)| *thing);
        out.extend(own.into_iter().map(|(t, o)| Record::Own { thing: t.clone(), own: o.clone() }));
        let mut history: Vec<(&String, &Version)> =
            self.history.iter().flat_map(|(thing, list)| list.iter().map(move |v| (thing, v))).collect();
        history.sort_by_key(|(_, v)| v.order);
        out.extend(history.into_iter().map(|(thing, v)| Record::Replaced {
            unit: v.unit.clone(),
            thing: thing.clone(),
            when: v.when,
            why: v.why,
            generation: v.generation,
            prior: v.prior.clone(),
        }));
        let mut runs: Vec<_> = self.runs.iter().collect();
        runs.sort_by_key(|(unit, _)| *unit);
        out.extend(runs.into_iter().map(|(unit, r)| Record::Ran {
            unit: unit.clone(),
            digest: r.digest,
            inputs: r.inputs,
            when: r.when,
        }));
        out.extend(self.retired.iter().map(|((group, id), name)| Record::Retired {
            group: *group,
            id: *id,
            name: name.clone(),
        }));
        let dropped = self.generations.keys().filter(|g| !kept.contains(g)).copied().collect();
        (out, dropped)
    }

    /// Whether an undo record or the history refers to this content.
    pub fn names(&self, digest: &Digest) -> bool {
        let is = |p: &Prior| match p {
            Prior::File { digest: d, .. } | Prior::Linked { digest: d, .. } => d == digest,
            _ => false,
        };
        self.history.values().flatten().any(|v| is(&v.prior))
            || self.undo.values().flatten().any(|u| is(&u.prior))
    }

    /// Contents that undo records and the history refer to.
    pub fn contents(&self) -> BTreeSet<Digest> {
        let undo = self.undo.values().flatten().map(|u| &u.prior);
        let history = self.history.values().flatten().map(|v| &v.prior);
        undo.chain(history)
            .filter_map(|p| match p {
                Prior::File { digest, .. } | Prior::Linked { digest, .. } => Some(*digest),
                _ => None,
            })
            .collect()
    }
}

/// Bytes that the store keeps for what a thing was.
fn content_size(prior: &Prior) -> u64 {
    match prior {
        Prior::File { size, .. } | Prior::Linked { size, .. } => *size,
        _ => 0,
    }
}

/// The first record of a thing may tell only a part of what it was; a later one fills that in.
fn fill_in(first: &mut Prior, later: &Prior) {
    *first = match (&*first, later) {
        (_, Prior::Untouched) | (Prior::Attributes(_), Prior::Attributes(_)) => return,
        (Prior::Attributes(metadata), Prior::File { digest, size, .. }) => {
            Prior::File { digest: *digest, size: *size, metadata: metadata.clone() }
        }
        (Prior::Attributes(metadata), Prior::Linked { digest, size, others, .. }) => {
            Prior::Linked { digest: *digest, size: *size, metadata: metadata.clone(), others: others.clone() }
        }
        // Whose attributes were changed is gone: somebody else has put something in its place meanwhile.
        (Prior::Untouched | Prior::Attributes(_), _) => later.clone(),
        _ => return,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undo(transition: u64, thing: &str, prior: &str) -> Record {
        Record::Undo {
            transition,
            unit: "file:/a".into(),
            thing: thing.into(),
            prior: Prior::Text(prior.into()),
            own: None,
        }
    }

    fn switched(index: &mut Index, generation: u64, transition: u64) {
        index.apply(&Record::Prepared { generation, digest: [0; 32], when: 0, note: String::new() });
        index.apply(&Record::Switching { generation, transition });
    }

    fn priors(index: &Index, generation: u64) -> Vec<(String, Prior)> {
        let first = index.first_touches(generation);
        index.undo_to("file:/a", generation, &first).into_iter().map(|u| (u.thing, u.prior)).collect()
    }

    #[test]
    fn a_return_takes_the_earliest_prior_after_the_generation() {
        let mut index = Index::default();
        for n in 1..=3 {
            switched(&mut index, n, n);
            index.apply(&undo(n, "/a", &format!("before {n}")));
            index.apply(&Record::Committed { generation: n });
        }
        assert_eq!(priors(&index, 3), vec![]);
        assert_eq!(priors(&index, 2), vec![("/a".into(), Prior::Text("before 3".into()))]);
        assert_eq!(priors(&index, 1), vec![("/a".into(), Prior::Text("before 2".into()))]);
        index.apply(&Record::Switching { generation: 1, transition: 4 });
        index.apply(&undo(4, "/a", "before 4"));
        assert_eq!(priors(&index, 3), vec![("/a".into(), Prior::Text("before 4".into()))]);
        assert_eq!(priors(&index, 1), vec![("/a".into(), Prior::Text("before 2".into()))]);
        index.apply(&Record::Committed { generation: 1 });
        assert_eq!((index.current(), index.previous()), (Some(1), None));
        assert_eq!(index.undo["file:/a"].len(), 1);
    }

    #[test]
    fn a_second_switch_continues_the_first() {
        let mut index = Index::default();
        switched(&mut index, 1, 1);
        index.apply(&Record::Committed { generation: 1 });
        switched(&mut index, 2, 2);
        index.apply(&undo(2, "/a", "first"));
        switched(&mut index, 3, 3);
        index.apply(&undo(3, "/a", "second"));
        assert_eq!(priors(&index, 1), vec![("/a".into(), Prior::Text("first".into()))]);
        index.apply(&Record::Committed { generation: 3 });
        assert_eq!(priors(&index, 1), vec![("/a".into(), Prior::Text("first".into()))]);
    }

    #[test]
    fn what_was_not_replaced_is_forgotten_and_repairs_push_out_only_repairs() {
        let mut index = Index::default();
        let told = |index: &Index| -> Vec<String> {
            let list = index.history.get("/a").into_iter().flatten();
            list.map(|v| format!("{:?} {:?}", v.why, v.prior)).collect()
        };
        let replaced = |why, text: &str| Record::Replaced {
            unit: "file:/a".into(),
            thing: "/a".into(),
            when: 1,
            why,
            generation: 0,
            prior: Prior::Text(text.into()),
        };
        let not = Record::NotReplaced { unit: "file:/a".into(), thing: "/a".into() };
        index.apply(&replaced(Why::Repair, "theirs"));
        index.apply(&not);
        assert!(index.history.is_empty());
        // A worker that died before the change leaves the same version behind once more.
        index.apply(&replaced(Why::Apply, "first"));
        index.apply(&replaced(Why::Apply, "first"));
        assert_eq!(told(&index).len(), 1);
        for n in 0..20 {
            index.apply(&replaced(Why::Repair, &n.to_string()));
        }
        assert_eq!(told(&index).len(), 11);
        assert_eq!(told(&index)[0], "Apply Text(\"first\")");
        assert_eq!(told(&index)[10], "Repair Text(\"19\")");
        index.apply(&Record::NotReplaced { unit: "file:/other".into(), thing: "/a".into() });
        assert_eq!(told(&index).len(), 11);
    }

    #[test]
    fn compaction_loses_nothing_that_counts() {
        let mut index = Index::default();
        for n in 1..=4 {
            switched(&mut index, n, n);
            index.apply(&undo(n, "/a", &format!("before {n}")));
            index.apply(&Record::Committed { generation: n });
        }
        index.apply(&Record::Ran { unit: "exec:x".into(), digest: [1; 16], inputs: 7, when: 3 });
        index.apply(&Record::Retired { group: false, id: 1001, name: "bob".into() });
        for (n, why) in [(1, Why::Repair), (2, Why::Apply), (3, Why::Purge), (4, Why::Return)] {
            let (unit, thing, prior) = ("file:/a".into(), "/a".into(), Prior::Text(format!("{n}")));
            index.apply(&Record::Replaced { unit, thing, when: n, why, generation: n, prior });
        }
        index.apply(&Record::Switching { generation: 2, transition: 5 });
        let mut again = Index::default();
        for record in index.compact().0 {
            again.apply(&record);
        }
        again.seen = index.seen;
        assert_eq!(again, index);
    }
}
