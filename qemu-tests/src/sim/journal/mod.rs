//! The store and the committer that ship, on a disk that loses power at any moment.
//!
//! A machine lives through a history ([`story`]): the engine, the worker, the store and the committer are those that ship
//! ([`host`]), its files are real, and every call by which they change a disk or make something durable is written down
//! ([`trace`]). From that, a disk is made as it may be found when the power went between any two of those calls
//! ([`disk`]), and a machine is switched on with it: the way of every boot. It must come to rest as it was before what
//! was under way, or as it would have been after, never else; and once more, with nothing left to do.
//!
//! What the tree holds before that is looked at too: a boot loader reads what no recovery reaches.

pub mod disk;
pub mod host;
pub mod sabotage;
pub mod stages;
pub mod story;
pub mod trace;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cm_core::engine::effect::Verdict;
use cm_core::store::{Store, hex, journal, layers};
use cm_core::worker::batch::Confinement;
use sha2::{Digest, Sha256};
use units::kept::Kept;
use units::kind::Spec;

use self::disk::{Body, Disk, Op, TOGETHER, Tree, View, differences};
use self::host::{Host, Run};
use self::sabotage::Sabotage;
use self::story::{Mark, Plot, Rest, Story};
use super::dice::Dice;
use crate::scratch;

/// Counts of what was tried.
#[derive(Debug, Clone, Copy, Default)]
pub struct Losses {
    /// Applies, rollbacks and repairs that were made.
    pub applies: u64,
    /// Power losses.
    pub losses: u64,
    /// Of those, losses in the middle of a recovery.
    pub again: u64,
}

impl Losses {
    /// Both.
    pub const fn and(self, other: Losses) -> Losses {
        Losses {
            applies: self.applies + other.applies,
            losses: self.losses + other.losses,
            again: self.again + other.again,
        }
    }
}

/// Histories by lot with losses at moments by lot; what was lost of what.
///
/// # Errors
/// When anything but one of the two states comes back.
pub fn losses(seed: u64, events: u64, each: u64, sabotage: Sabotage) -> Result<Losses, String> {
    // What is only looked up once may be looked up by another thread just when the worker is forked off.
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| drop(cm_core::resource::attributes::base(None, 0)));
    let place = scratch::journal().map_err(|e| e.to_string())?;
    // The committer is a process of its own, in its bounds, in every fourth history.
    let confinement = if seed % 4 == 3 { Confinement::Full } else { Confinement::None };
    let mut story = story::live(&place.path().join("live"), seed, &Plot::Lot(events), confinement)?;
    sabotage.tamper(&mut story.log.ops, &story.start);
    lose(&story, place.path(), seed, each)
}

/// Loses power in a history, about `each` times an event.
///
/// # Errors
/// As [`losses`].
pub fn lose(story: &Story, place: &Path, seed: u64, each: u64) -> Result<Losses, String> {
    let mut dice = Dice::of(&[seed, 78]);
    let mut count = Losses { applies: story.applies, ..Losses::default() };
    let calls = story.log.ops.len() as u64 + 1;
    let odds = (story.applies * each * 1000).div_ceil(calls);
    let mut disk = Disk::of(story.start.clone());
    let mut moment = Moment::new(story);
    for at in 0..=story.log.ops.len() {
        moment.pass(at, &disk);
        if !moment.open && dice.chance(odds) {
            count.losses += 1;
            let tree = disk.after_loss(&mut dice);
            let dir = place.join(format!("loss-{}", count.losses));
            let lost = Loss { story, moment: &moment, dir: &dir, rolls_back: dice.chance(200) };
            let seen = lost.look(&tree).and_then(|()| lost.recover(&tree, &mut dice, &mut count));
            let _ = fs::remove_dir_all(&dir);
            seen.map_err(|e| format!("{}\nat call {at}, {}: {e}", story.told.join("\n"), told(story, at)))?;
        }
        if let Some(op) = story.log.ops.get(at) {
            disk.step(op);
            moment.note(&disk, op);
        }
    }
    Ok(count)
}

/// The last calls before a moment, for people.
fn told(story: &Story, at: usize) -> String {
    let from = at.saturating_sub(3);
    let words = story.log.ops[from..at].iter().map(|op| match op {
        Op::Write { id, offset, bytes } => format!("write of {} bytes at {offset} of {id}", bytes.len()),
        Op::Create { at, id, .. } => format!("create {} ({id}) in {}", at.1, at.0),
        other => format!("{other:?}"),
    });
    format!("after {}", words.collect::<Vec<_>>().join(", "))
}

/// What may come back after a loss at one moment.
struct Moment<'a> {
    marks: std::iter::Peekable<std::slice::Iter<'a, (usize, Mark)>>,
    /// The state that was there for sure.
    rest: usize,
    /// The one that may have come.
    next: Option<usize>,
    /// Somebody damages the tree right now.
    open: bool,
    /// Somebody has damaged it since then.
    damaged: bool,
    /// What stood at each path since then.
    stood: BTreeMap<String, BTreeSet<String>>,
}

impl<'a> Moment<'a> {
    fn new(story: &'a Story) -> Moment<'a> {
        let marks = story.marks.iter().peekable();
        Moment { marks, rest: 0, next: None, open: false, damaged: false, stood: BTreeMap::new() }
    }

    /// Goes on to the moment before a call.
    fn pass(&mut self, at: usize, disk: &Disk) {
        while let Some((_, mark)) = self.marks.next_if(|(from, _)| *from <= at) {
            match mark {
                Mark::Begins => {
                    let later = self.marks.clone().find_map(|(_, m)| match m {
                        Mark::Rests(n) => Some(*n),
                        _ => None,
                    });
                    self.next = later;
                }
                Mark::Rests(n) => {
                    (self.rest, self.next, self.damaged) = (*n, None, false);
                    self.stood.clear();
                    self.stand(disk);
                }
                Mark::Damages => self.open = true,
                Mark::Damaged => {
                    (self.open, self.damaged) = (false, true);
                    self.stand(disk);
                }
            }
        }
    }

    fn stand(&mut self, disk: &Disk) {
        for (path, line) in disk.live.view("root") {
            self.stood.entry(path).or_default().insert(line);
        }
    }

    fn note(&mut self, disk: &Disk, op: &Op) {
        if !op.is_sync() && !matches!(op, Op::Write { .. }) {
            self.stand(disk);
        }
    }
}

struct Loss<'a, 's> {
    story: &'a Story,
    moment: &'a Moment<'s>,
    dir: &'a Path,
    rolls_back: bool,
}

type Seen = Result<(), String>;

/// What the journal on a disk says.
fn read_journal(tree: &Tree) -> journal::Replay {
    let bytes = tree.find("store/journal").and_then(|id| match &tree.nodes.get(&id)?.body {
        Body::File(bytes) => Some(std::sync::Arc::clone(bytes)),
        _ => None,
    });
    bytes.map(|b| journal::replay(&b)).unwrap_or_default()
}

impl Loss<'_, '_> {
    fn may_be(&self) -> impl Iterator<Item = &Rest> {
        [Some(self.moment.rest), self.moment.next]
            .into_iter()
            .flatten()
            .filter_map(|n| self.story.rests.get(n))
    }

    /// The tree as it was found, before anybody recovers anything.
    fn look(&self, tree: &Tree) -> Seen {
        let found = tree.view("root");
        let recovery = journal::recover(&read_journal(tree).records);
        // Whoever is committed is there, and whoever has not begun has changed nothing.
        if recovery.interrupted.is_none() && !self.moment.damaged {
            let all = self.may_be().filter(|r| r.generation == recovery.current);
            let mut wrong = None;
            for rest in all {
                if rest.tree == found {
                    return Ok(());
                }
                wrong.get_or_insert_with(|| differences(&found, &rest.tree));
            }
            return Err(format!(
                "generation {:?} is the current one, and before any recovery {}",
                recovery.current,
                wrong.unwrap_or_else(|| "that is none of the two".to_owned())
            ));
        }
        for (path, line) in found.iter().filter(|(path, _)| *path != TOGETHER) {
            if !self.moment.stood.get(path).is_some_and(|lines| lines.contains(line)) {
                let was: Vec<&String> = self.moment.stood.get(path).into_iter().flatten().collect();
                return Err(format!("before any recovery {path} is {line}, which it never was, but {was:?}"));
            }
        }
        Ok(())
    }

    /// Switches a machine on with this disk.
    fn recover(&self, tree: &Tree, dice: &mut Dice, count: &mut Losses) -> Seen {
        let dir = self.dir.to_owned();
        fs::create_dir_all(host::disk(&dir)).map_err(|e| e.to_string())?;
        tree.lay_out(&host::disk(&dir)).map_err(|e| format!("cannot lay out: {e}"))?;
        if dice.chance(15) {
            count.again += 1;
            return self.lose_again(&dir, dice);
        }
        self.recovered(&dir)
    }

    /// The power goes once more, in the middle of the recovery.
    fn lose_again(&self, dir: &Path, dice: &mut Dice) -> Seen {
        let words = |e: std::io::Error| e.to_string();
        let (log, start) = trace::Log::of(&host::disk(dir)).map_err(words)?;
        let log = std::sync::Arc::new(std::sync::Mutex::new(log));
        let run = Run::Traced(std::sync::Arc::clone(&log), Confinement::None);
        Host::boot(dir, run).map_err(|e| format!("a machine that recovers is not at rest: {e}"))?.off();
        let log = log.lock().map_err(|e| e.to_string())?;
        let mut disk = Disk::of(start);
        let end = dice.below(log.ops.len() as u64 + 1) as usize;
        for op in &log.ops[..end] {
            disk.step(op);
        }
        let dir = dir.join("again");
        fs::create_dir_all(host::disk(&dir)).map_err(words)?;
        let tree = disk.after_loss(dice);
        tree.lay_out(&host::disk(&dir)).map_err(|e| format!("cannot lay out: {e}"))?;
        self.recovered(&dir).map_err(|e| format!("after another loss at call {end} of the recovery: {e}"))
    }

    fn recovered(&self, dir: &Path) -> Seen {
        let mut host =
            Host::boot(dir, Run::Here).map_err(|e| format!("a machine that recovers is not at rest: {e}"))?;
        let tree = host::view(dir)?;
        let current = self.stored(dir)?;
        let all: Vec<&Rest> = self.may_be().filter(|r| r.generation == current).collect();
        if all.is_empty() {
            return Err(format!("generation {current:?} came back, and none of the two"));
        }
        let Some(rest) = all.iter().find(|r| r.tree == tree) else {
            let differ = differences(&tree, &all[0].tree);
            return Err(format!("generation {current:?} came back, but {differ}; {}", host.done()));
        };
        let owners = Store::look(&host::store(dir)).map(|s| host::owners(&s)).map_err(|e| e.to_string())?;
        if owners != rest.owners {
            return Err(format!("who made what: {}", differences(&owners, &rest.owners)));
        }
        if self.rolls_back && current.is_some() {
            return self.back(host, dir);
        }
        host.off();
        self.nothing_left(dir, current, &tree)
    }

    /// What the store holds, whole: every manifest and content that it names.
    fn stored(&self, dir: &Path) -> Result<Option<u64>, String> {
        let store = Store::look(&host::store(dir)).map_err(|e| format!("the store: {e}"))?;
        let index = store.index();
        if let Some((generation, _)) = index.open {
            return Err(format!("after a recovery the way to generation {generation} is open"));
        }
        let mut named: BTreeMap<[u8; 32], String> = BTreeMap::new();
        for generation in index.generations.keys() {
            let (_, manifest) =
                store.load(Some(*generation)).map_err(|e| format!("generation {generation}: {e}"))?;
            let list = layers::of_generation(store.dir(), *generation);
            for layer in list.map_err(|e| e.to_string())?.ok_or("a generation without its layers")? {
                let kept = layers::kept(store.dir(), &layer.digest);
                let kept =
                    kept.map_err(|e| format!("layer {} of generation {generation}: {e}", layer.name))?;
                let Kept::State(archive) = kept else { return Err("a layer is no state".to_owned()) };
                named.extend(archive.contents().map(|(_, c)| (c.digest, format!("layer {}", layer.name))));
            }
            for id in manifest.ids() {
                if let Some(Spec::File(file)) = manifest.spec(id)
                    && let Some(content) = file.content
                {
                    named.insert(content.digest, format!("generation {generation}"));
                }
            }
        }
        named.extend(index.contents().into_iter().map(|d| (d, "a record".to_owned())));
        for (digest, by) in named {
            let mut bytes = Vec::new();
            let read =
                store.content(&digest).and_then(|mut f| std::io::Read::read_to_end(&mut f, &mut bytes).ok());
            if read.is_none() || <[u8; 32]>::from(Sha256::digest(&bytes)) != digest {
                return Err(format!("content {} that {by} names is {} bytes", hex(&digest), bytes.len()));
            }
        }
        let known = index.contents();
        let rest = self.story.rests.get(self.moment.rest);
        if let Some(lost) = rest.into_iter().flat_map(|r| &r.saved).find(|d| !known.contains(*d)) {
            return Err(format!("what somebody wrote is nowhere any more: {}", hex(lost)));
        }
        Ok(index.current())
    }

    /// All that was there before anything was declared can be gone back to.
    fn back(&self, mut host: Host, dir: &Path) -> Seen {
        let (verdict, text) = host.rollback(1)?;
        host.off();
        let tree = host::view(dir)?;
        let first = &self.story.rests[1].tree;
        if verdict != Verdict::Done || tree != *first {
            return Err(format!(
                "a rollback to the start ends {verdict:?} ({text}): {}",
                differences(&tree, first)
            ));
        }
        Ok(())
    }

    /// A second boot finds nothing to do.
    fn nothing_left(&self, dir: &Path, current: Option<u64>, tree: &View) -> Seen {
        let journal: PathBuf = host::store(dir).join("journal");
        let length = || fs::metadata(&journal).map_or(0, |m| m.len());
        let before = length();
        let mut host =
            Host::boot(dir, Run::Here).map_err(|e| format!("a second boot is not at rest: {e}"))?;
        host.off();
        if !host.done().is_empty() {
            return Err(format!("a second boot found something to do: {}", host.done()));
        }
        let opened = host::Opened { current, interrupted: None, left: host.opened.left };
        if host.opened != opened || length() != before || host::view(dir)? != *tree {
            return Err(format!(
                "a second boot did something: {:?}, {before} to {} bytes",
                host.opened,
                length()
            ));
        }
        Ok(())
    }
}
