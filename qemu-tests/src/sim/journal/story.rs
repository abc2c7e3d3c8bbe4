//! What happens to a machine until its power is lost: states by lot, applied, superseded, failed, rolled back; and
//! people who damage what they find.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cm_core::engine::effect::Verdict;
use cm_core::store::Store;
use cm_core::worker::batch::Confinement;
use sha2::{Digest, Sha256};
use units::compile::{Where, compile};
use units::kind::Spec;
use units::load::MemoryLoader;
use units::{Address, Kind};

use super::disk::{Op, Tree, View, differences};
use super::host::{self, Host, Landed, Owners, Run, State, view};
use super::trace::{Log, Shared};
use crate::sim::dice::Dice;

/// A machine at rest, and what a loss of power must bring back from there on.
#[derive(Debug, Clone)]
pub struct Rest {
    /// The store's generation.
    pub generation: Option<u64>,
    /// The tree.
    pub tree: View,
    /// Who made what.
    pub owners: Owners,
    /// Contents that somebody wrote and a repair or an apply has replaced, by digest: they must be in the store.
    pub saved: Vec<[u8; 32]>,
}

/// A moment between two calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// Something was asked for that may lead elsewhere.
    Begins,
    /// It was answered that the machine is in this state for good.
    Rests(usize),
    /// Somebody else changes the tree from here on: nobody says what a loss may leave.
    Damages,
    /// He has done so, and it is durable.
    Damaged,
}

/// A history that was lived through, with all that was asked of the kernel.
pub struct Story {
    /// What was there before.
    pub start: Tree,
    /// What was done.
    pub log: Log,
    /// Moments, each before the call of that number.
    pub marks: Vec<(usize, Mark)>,
    /// Where it came to rest.
    pub rests: Vec<Rest>,
    /// Applies, rollbacks and repairs.
    pub applies: u64,
    /// What happened, in words.
    pub told: Vec<String>,
    /// Requests that ended so.
    pub verdicts: BTreeMap<&'static str, u64>,
}

/// Paths that contain each other, so that kinds collide.
const PATHS: [&str; 7] =
    ["/etc/a", "/etc/b", "/etc/d", "/etc/d/x", "/etc/d/e/y", "/srv/deep/er/z", "/srv/deep/w"];

fn text_of(dice: &mut Dice) -> String {
    let which = dice.below(4);
    let times = dice.pick(&[0, 1, 1, 2, 40, 600]);
    format!("content {which}\\n").repeat(times)
}

fn mode_of(dice: &mut Dice) -> String {
    if dice.chance(500) {
        String::new()
    } else {
        format!("mode = \"{}\"\n", dice.pick(&["0600", "0644", "0755", "4755"]))
    }
}

/// A state file by lot.
fn state_file(dice: &mut Dice, root: bool) -> String {
    let mut out = String::new();
    let number = dice.below(5) + 1;
    for _ in 0..number {
        let path = dice.pick(&PATHS);
        let owner =
            if root && dice.chance(300) { format!("owner = \"{}\"\n", dice.below(3)) } else { String::new() };
        let mode = mode_of(dice);
        let _ = match dice.below(8) {
            0..=4 => {
                let note = if dice.chance(200) { "xattrs = { \"user.note\" = \"n\" }\n" } else { "" };
                write!(out, "[file.\"{path}\"]\ncontent = \"{}\"\n{mode}{owner}{note}", text_of(dice))
            }
            5 | 6 => write!(out, "[directory.\"{path}\"]\n{mode}{owner}"),
            // What is declared through a link of the same generation is found through that link only.
            _ if path == "/etc/d" => writeln!(out, "[directory.\"{path}\"]"),
            _ => writeln!(out, "[symlink.\"{path}\"]\ntarget = \"t{}\"", dice.below(3)),
        };
    }
    if dice.chance(300) {
        let n = dice.below(3);
        let _ = writeln!(out, "[line.port]\npath = \"/etc/c\"\nline = \"port {n}\"\nmatches = \"^port\"");
    }
    if dice.chance(60) {
        // More files than are synced one by one.
        for n in 0..36 {
            let _ = writeln!(out, "[file.\"/srv/many/{n}\"]\ncontent = \"{n} {}\"", dice.below(3));
        }
    }
    accounts(&mut out);
    out
}

/// Users and groups of a state: those that one of these names has are made, changed, locked and taken away.
fn accounts(out: &mut String) {
    // They came later, and leave the other units of each history as they were.
    let text = Sha256::digest(&*out);
    let mut dice = Dice::of(&[u64::from_le_bytes(text.first_chunk().copied().unwrap_or_default()), 79]);
    let team = dice.chance(300);
    if team {
        let gid = dice.pick(&["", "gid = 2001\n", "gid = 2002\n"]);
        let _ = write!(out, "[group.team]\n{gid}");
    }
    for name in ["bob", "ada"] {
        if !dice.chance(250) {
            continue;
        }
        let comment = dice.pick(&["", "comment = \"one\"\n", "comment = \"two\"\n"]);
        let uid = if name == "bob" { dice.pick(&["", "uid = 2001\n"]) } else { "" };
        let purge = if dice.chance(300) { "purge = true\n" } else { "" };
        let groups = if team && dice.chance(500) { "groups = [\"team\"]\n" } else { "" };
        let _ = write!(out, "[user.{name}]\n{uid}{comment}{groups}{purge}");
    }
}

/// Who is known before anything is declared.
pub const ACCOUNTS: [(&str, &str); 5] = [
    ("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000:Ada:/home/ada:/bin/sh\n"),
    ("/etc/shadow", "root:*:19000:0:99999:7:::\nada:$y$hers:19000:0:99999:7:::\n"),
    ("/etc/group", "root:x:0:\nstaff:x:50:ada\nada:x:1000:\n"),
    ("/etc/gshadow", "root:*::\nstaff:!::ada\nada:!::\n"),
    // Whoever locks the databases makes it once.
    ("/etc/.pwd.lock", ""),
];

/// A state by lot: what does not compile is drawn anew, so that every one does.
pub fn state(dice: &mut Dice, root: bool) -> State {
    loop {
        if let Some(state) = compiled(&state_file(dice, root)) {
            return state;
        }
    }
}

/// A state file in memory, compiled; `None` where it is wrong.
pub fn compiled(text: &str) -> Option<State> {
    let mut loader = MemoryLoader::new().file("/state.toml", text);
    let done = compile("/state.toml", &mut loader);
    let contents = done.contents.into_iter().filter_map(|(content, at)| match at {
        Where::Inline(bytes) => Some((content, bytes)),
        Where::Source(_) => None,
    });
    let contents = contents.collect();
    done.manifest.map(|manifest| State { manifest, contents })
}

/// What is there before anything is declared.
fn furnish(dir: &Path, dice: &mut Dice) -> std::io::Result<()> {
    let root = host::root(dir);
    furnish_with(dir, &[("/etc/c", "one\nport 22\n")])?;
    furnish_with(dir, &ACCOUNTS)?;
    for path in PATHS {
        let at = root.join(&path[1..]);
        if !dice.chance(350) || at.parent().is_some_and(|p| fs::create_dir_all(p).is_err()) {
            continue;
        }
        let _ = match dice.below(4) {
            0 | 1 => fs::write(&at, format!("theirs {}", dice.below(3))),
            2 => fs::create_dir(&at),
            _ => symlink("nowhere", &at),
        };
    }
    if dice.chance(200) {
        let _ = fs::hard_link(root.join("etc/a"), root.join("etc/other"));
    }
    Ok(())
}

fn furnish_with(dir: &Path, files: &[(&str, &str)]) -> std::io::Result<()> {
    let root = host::root(dir);
    fs::create_dir_all(root.join("etc"))?;
    fs::create_dir_all(host::store(dir))?;
    fs::set_permissions(host::store(dir), fs::Permissions::from_mode(0o700))?;
    for (path, text) in files {
        fs::write(root.join(path.trim_start_matches('/')), text)?;
    }
    Ok(())
}

/// Somebody damages what is at a managed path; what was written there.
fn damage(path: &Path, modes: bool, dice: &mut Dice) -> std::io::Result<Option<String>> {
    let found = fs::symlink_metadata(path);
    let is_dir = found.as_ref().is_ok_and(fs::Metadata::is_dir);
    let is_file = found.as_ref().is_ok_and(fs::Metadata::is_file);
    if is_dir && !modes {
        return Ok(None);
    }
    if is_dir {
        let mode = found?.permissions().mode() & 0o777;
        fs::set_permissions(path, fs::Permissions::from_mode(if mode == 0o711 { 0o750 } else { 0o711 }))?;
        return Ok(None);
    }
    let text = format!("damaged {}", dice.next());
    match dice.below(5) {
        0 if is_file && modes => fs::set_permissions(path, fs::Permissions::from_mode(0o640)).map(|()| None),
        1 => fs::remove_file(path).map(|()| None),
        2 => {
            fs::remove_file(path)?;
            symlink("elsewhere", path).map(|()| None)
        }
        _ => {
            if !is_file {
                fs::remove_file(path)?;
            }
            fs::write(path, &text)?;
            Ok(Some(text))
        }
    }
}

/// A tree without attributes.
fn bare(tree: &View) -> View {
    let held = |line: &String| match (line.split_once(' '), line.split_once(" bytes ")) {
        (Some(("file", _)), Some((_, bytes))) => bytes.to_owned(),
        (Some(("directory", _)), _) => "directory".to_owned(),
        _ => line.clone(),
    };
    tree.iter().map(|(path, line)| (path.clone(), held(line))).collect()
}

/// What a rollback brings back of a tree whatever has happened since: users stay, locked, and repairs leave attributes that
/// nobody declares.
fn kept(tree: &View) -> View {
    let mut tree = bare(tree);
    tree.retain(|path, _| ACCOUNTS.iter().all(|(known, _)| !path.ends_with(known)));
    tree
}

/// One event of a history.
#[derive(Debug, Clone)]
pub enum Act {
    /// A state is applied.
    Apply(State),
    /// A state is applied, and in the middle of that another one.
    Supersede(State, State),
    /// An earlier generation is gone back to.
    Rollback(u64),
    /// Somebody damages what is managed.
    Damage,
}

impl std::fmt::Display for Act {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Act::Apply(state) => write!(f, "apply {state}"),
            Act::Supersede(first, then) => write!(f, "apply {first}, superseded by {then}"),
            Act::Rollback(generation) => write!(f, "rollback to {generation}"),
            Act::Damage => f.write_str("damage"),
        }
    }
}

/// What happens.
#[derive(Debug, Clone)]
pub enum Plot {
    /// So many events by lot.
    Lot(u64),
    /// These, on a tree with these files.
    Script(Vec<(&'static str, &'static str)>, Vec<Act>),
}

impl Plot {
    /// The event of a number; none when it is over.
    fn act(&self, number: u64, generation: Option<u64>, dice: &mut Dice, root: bool) -> Option<Act> {
        let most = match self {
            // The first declares nothing that has to be done, so that all that is there can be gone back to.
            _ if number == 0 => return compiled("[target.start]\nrequires = []\n").map(Act::Apply),
            Plot::Script(_, acts) => return acts.get(usize::try_from(number).ok()? - 1).cloned(),
            Plot::Lot(most) => *most,
        };
        let begun = generation > Some(1);
        let lot = dice.below(100);
        (number <= most).then(|| match lot {
            0..=24 if begun => Act::Damage,
            25..=39 if begun => Act::Rollback(1 + dice.below(generation.unwrap_or(1))),
            40..=46 => Act::Supersede(state(dice, root), state(dice, root)),
            _ => Act::Apply(state(dice, root)),
        })
    }
}

/// A history under way.
struct Living<'a> {
    dir: &'a Path,
    dice: Dice,
    host: Host,
    shared: Shared,
    story: Story,
    /// The tree of the log, as far as it was looked at.
    live: Tree,
    seen: usize,
    saved: Vec<[u8; 32]>,
}

/// Lives through a history.
///
/// # Errors
/// When something is wrong though the power was never lost.
pub fn live(dir: &Path, seed: u64, plot: &Plot, confinement: Confinement) -> Result<Story, String> {
    let words = |e: std::io::Error| e.to_string();
    let mut dice = Dice::of(&[seed, 77]);
    match plot {
        Plot::Lot(_) => furnish(dir, &mut dice),
        Plot::Script(files, _) => furnish_with(dir, files),
    }
    .map_err(words)?;
    let (log, start) = Log::of(&host::disk(dir)).map_err(words)?;
    let shared = Arc::new(Mutex::new(log));
    let nothing = Rest { generation: None, tree: view(dir)?, owners: Owners::new(), saved: Vec::new() };
    let story = Story {
        start: start.clone(),
        log: Log::of(&host::disk(dir)).map_err(words)?.0,
        marks: vec![(0, Mark::Begins), (0, Mark::Rests(0))],
        rests: vec![nothing],
        applies: 0,
        told: Vec::new(),
        verdicts: BTreeMap::new(),
    };
    let host = Host::boot(dir, Run::Traced(Arc::clone(&shared), confinement))?;
    let mut living = Living { dir, dice, host, shared, story, live: start, seen: 0, saved: Vec::new() };
    let is_root = nix::unistd::geteuid().is_root();
    for number in 0.. {
        let generation = living.story.rests.last().and_then(|r| r.generation);
        match plot.act(number, generation, &mut living.dice, is_root) {
            Some(act) => living.go_on(act)?,
            None => break,
        }
    }
    living.end()
}

impl Living<'_> {
    fn length(&self) -> usize {
        self.shared.lock().map_or(0, |log| log.ops.len())
    }

    fn mark(&mut self, at: usize, mark: Mark) {
        self.story.marks.push((at, mark));
    }

    fn go_on(&mut self, act: Act) -> Result<(), String> {
        self.mark(self.length(), Mark::Begins);
        let before = self.story.rests.last().cloned().ok_or("nowhere")?;
        self.story.applies += 1;
        self.host.results.clear();
        let what = act.to_string();
        let repaired = matches!(act, Act::Damage);
        // What did not lead here is applied, and not gone back to.
        let leads_back = |to| Store::look(&host::store(self.dir)).is_ok_and(|s| s.index().is_back(to));
        let rolls_back = matches!(act, Act::Rollback(to) if leads_back(to));
        let (verdict, text) = match act {
            Act::Apply(state) => self.host.apply(&state)?,
            Act::Supersede(first, then) => {
                self.host.next = Some(then);
                self.host.apply(&first)?
            }
            Act::Rollback(generation) => self.host.rollback(generation)?,
            Act::Damage => {
                self.damage()?;
                (Verdict::Done, String::new())
            }
        };
        let word = match verdict {
            Verdict::Done => "done",
            Verdict::Failed => "failed",
            Verdict::Superseded => "superseded",
            Verdict::Returned => "returned",
            Verdict::ReturnIncomplete => "incomplete",
        };
        *self.story.verdicts.entry(word).or_default() += 1;
        let end = self.host.look(verdict == Verdict::Returned)?;
        let number = end.generation.unwrap_or_default();
        self.story.told.push(format!("to call {}: {what}: {word} {text}: generation {number}", end.at));
        if verdict == Verdict::ReturnIncomplete {
            return Err(self.wrong("a return is incomplete"));
        }
        let last = self.story.rests.iter().rev().find(|r| r.generation == end.generation);
        if let Some(was) = last.filter(|_| rolls_back && verdict == Verdict::Done) {
            let (is, was) = (kept(&end.tree), kept(&was.tree));
            if is != was {
                let differ = differences(&is, &was);
                return Err(self.wrong(&format!("generation {number} is not as it was: {differ}")));
            }
        }
        // Attributes that nobody declares are as whoever made the damage left them.
        if repaired && bare(&end.tree) != bare(&before.tree) {
            return Err(
                self.wrong(&format!("a repair is incomplete: {}", differences(&end.tree, &before.tree)))
            );
        }
        for landed in std::mem::take(&mut self.host.landed).into_iter().chain([end]) {
            self.land(landed)?;
        }
        Ok(())
    }

    fn land(&mut self, landed: Landed) -> Result<(), String> {
        let Landed { at, returned, tree, owners, generation } = landed;
        let last = self.story.rests.last().ok_or("nowhere")?;
        if returned && (generation != last.generation || tree != last.tree || owners != last.owners) {
            let (tree, owners) = (differences(&tree, &last.tree), differences(&owners, &last.owners));
            return Err(
                self.wrong(&format!("what returned has left something: {tree}, who made what: {owners}"))
            );
        }
        self.story.rests.push(Rest { generation, tree, owners, saved: self.saved.clone() });
        self.mark(at, Mark::Rests(self.story.rests.len() - 1));
        self.mark(at, Mark::Begins);
        Ok(())
    }

    fn wrong(&self, text: &str) -> String {
        format!("{}\n{text}; {}", self.story.told.join("\n"), self.host.done())
    }

    /// Somebody damages one or two things, and they are repaired.
    fn damage(&mut self) -> Result<(), String> {
        let units = declared(&self.host);
        let mut written: BTreeMap<PathBuf, String> = BTreeMap::new();
        for _ in 0..=self.dice.below(2) {
            if units.is_empty() {
                break;
            }
            let unit = &units[self.dice.below(units.len() as u64) as usize];
            let path = host::root(self.dir).join(unit.name.trim_start_matches('/'));
            let modes = declares_mode(&self.host, unit);
            if let Some(text) = damage(&path, modes, &mut self.dice).unwrap_or_default() {
                written.insert(path, text);
            }
        }
        // Whoever came later may have taken it away again.
        let there = |(path, text): &(PathBuf, String)| fs::read_to_string(path).is_ok_and(|t| t == *text);
        let texts = written.into_iter().filter(there).map(|(_, text)| text);
        self.saved.extend(texts.map(|text| <[u8; 32]>::from(Sha256::digest(text))));
        {
            let mut log = self.shared.lock().map_err(|e| e.to_string())?;
            for op in &log.ops[self.seen..] {
                self.live.apply(op);
            }
            self.seen = log.ops.len();
            log.changed(&host::disk(self.dir), &self.live).map_err(|e| e.to_string())?;
        }
        self.mark(self.seen, Mark::Damages);
        self.mark(self.length(), Mark::Damaged);
        self.host.touched(&units)?;
        // A repair does not wait; but nothing else happens until the kernel has written it back by itself.
        self.shared.lock().map_err(|e| e.to_string())?.ops.push(Op::SyncAll);
        Ok(())
    }

    fn end(mut self) -> Result<Story, String> {
        self.host.off();
        let mut log = self.shared.lock().map_err(|e| e.to_string())?;
        if let Some(trouble) = log.trouble.take() {
            return Err(trouble);
        }
        std::mem::swap(&mut self.story.log, &mut *log);
        // What is not in the log would be missed by every loss.
        for op in &self.story.log.ops[self.seen..] {
            self.live.apply(op);
        }
        let (real, _) = Tree::scan(&host::disk(self.dir)).map_err(|e| e.to_string())?;
        let (real, model) = (real.view(""), self.live.view(""));
        if real != model {
            return Err(format!("the log does not tell everything: {}", differences(&model, &real)));
        }
        drop(log);
        Ok(self.story)
    }
}

/// Whether the permissions of a unit are anybody's business.
fn declares_mode(host: &Host, unit: &Address) -> bool {
    let manifest = host.engine.manifest(host.engine.desired().0);
    let spec = manifest.and_then(|m| m.spec(m.find(unit.kind, &unit.name)?));
    match spec {
        Some(Spec::File(file)) => file.attributes.mode.is_some(),
        Some(Spec::Directory(directory)) => directory.attributes.mode.is_some(),
        _ => false,
    }
}

/// What is declared and lies at a path.
fn declared(host: &Host) -> Vec<Address> {
    let Some(manifest) = host.engine.manifest(host.engine.desired().0) else { return Vec::new() };
    let at_a_path = |k: Kind| matches!(k, Kind::File | Kind::Directory | Kind::Symlink);
    manifest.ids().filter(|id| at_a_path(manifest.kind(*id))).map(|id| manifest.address(id)).collect()
}
