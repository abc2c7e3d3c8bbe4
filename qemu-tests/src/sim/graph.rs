//! Random manifests, and random changes of them.
//!
//! A unit is a *slot*: a number that fixes its address for a whole history, so that a unit can leave in one
//! manifest and come back in another. Edges that order go from a higher rank to a lower one, as the compiler
//! promises; the ranks differ from manifest to manifest, so edges flip.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use units::kind::service::{Ready, Reload, Restart, Service, Start, SwitchMethod};
use units::kind::{Content, Spec};
use units::manifest::{NewUnit, flags};
use units::{Address, EdgeKind, Kind, Manifest, ManifestBuilder};

use super::dice::Dice;

/// What stands for a state file.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// The units by slot.
    pub units: BTreeMap<u8, NewUnit>,
    /// (who depends, on whom, how).
    pub edges: BTreeSet<(u8, u8, EdgeKind)>,
}

/// The kind of every slot of one history.
#[derive(Debug, Clone)]
pub struct Universe {
    kinds: Vec<Kind>,
}

impl Universe {
    /// Kinds by lot, services first among them.
    pub fn new(dice: &mut Dice) -> Universe {
        let slots = 2 + dice.below(11);
        let few = dice.chance(300);
        let kinds = (0..slots).map(|_| kind(dice, few)).collect();
        Universe { kinds }
    }

    /// These kinds.
    pub fn of(kinds: &[Kind]) -> Universe {
        Universe { kinds: kinds.to_vec() }
    }

    /// How many slots there are.
    pub fn slots(&self) -> u8 {
        u8::try_from(self.kinds.len()).unwrap_or(u8::MAX)
    }

    /// The address of a slot.
    pub fn address(&self, slot: u8) -> Address {
        address(self.kinds[usize::from(slot)], slot)
    }
}

/// The address that a slot of this kind has.
pub fn address(kind: Kind, slot: u8) -> Address {
    let name = match kind {
        Kind::File | Kind::Mount | Kind::Directory => format!("/{}{slot}", &kind.word()[..1]),
        _ => format!("{}{slot}", &kind.word()[..1]),
    };
    Address::new(kind, name)
}

/// The slot of an address.
pub fn slot_of(address: &Address) -> u8 {
    address.name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(u8::MAX)
}

fn kind(dice: &mut Dice, few: bool) -> Kind {
    match dice.below(if few { 70 } else { 100 }) {
        0..=44 => Kind::Service,
        45..=69 => Kind::File,
        70..=79 => Kind::Exec,
        80..=87 => Kind::Mount,
        88..=92 => Kind::Module,
        _ => Kind::Target,
    }
}

/// A manifest by lot.
pub fn random(dice: &mut Dice, universe: &Universe) -> Graph {
    let mut graph = Graph::default();
    let full = dice.chance(300);
    for slot in 0..universe.slots() {
        if full || dice.chance(700) {
            graph.units.insert(slot, unit(dice, universe, slot));
        }
    }
    let rank = ranks(dice, universe);
    let density = dice.pick(&[80, 200, 350]);
    for from in 0..universe.slots() {
        for to in 0..universe.slots() {
            if rank[usize::from(from)] > rank[usize::from(to)] && dice.chance(density) {
                graph.link(dice, from, to);
            }
        }
    }
    graph.tidy();
    graph
}

/// The manifest with something changed.
pub fn mutated(dice: &mut Dice, universe: &Universe, before: &Graph) -> Graph {
    let mut graph = before.clone();
    for _ in 0..=dice.below(3) {
        let slot = u8::try_from(dice.below(u64::from(universe.slots()))).unwrap_or(0);
        match dice.below(10) {
            0 | 1 => {
                graph.units.remove(&slot);
            }
            2..=5 => {
                let new = unit(dice, universe, slot);
                match graph.units.get_mut(&slot) {
                    // Mostly only what it is worth changes, so that the unit keeps running.
                    Some(old) if dice.chance(600) => touch_spec(old, dice),
                    _ => {
                        graph.units.insert(slot, new);
                    }
                }
            }
            6 | 7 => {
                let edges: Vec<_> = graph.edges.iter().copied().collect();
                if !edges.is_empty() {
                    graph.edges.remove(&dice.pick(&edges));
                }
            }
            8 => {
                let other = u8::try_from(dice.below(u64::from(universe.slots()))).unwrap_or(0);
                if slot != other && !graph.reaches(other, slot) {
                    graph.link(dice, slot, other);
                }
            }
            _ => {
                // Every edge the other way round.
                graph.edges = graph.edges.iter().map(|(a, b, k)| (*b, *a, *k)).collect();
            }
        }
    }
    graph.tidy();
    graph
}

fn ranks(dice: &mut Dice, universe: &Universe) -> Vec<u64> {
    (0..universe.slots()).map(|_| dice.next()).collect()
}

impl Graph {
    fn link(&mut self, dice: &mut Dice, from: u8, to: u8) {
        let bounces =
            matches!(self.units.get(&from).map(|u| u.address.kind), Some(Kind::Service | Kind::Exec));
        let kind = match dice.below(if bounces { 12 } else { 9 }) {
            0..=3 => EdgeKind::Requires,
            4 | 5 => EdgeKind::Binds,
            6 | 7 => EdgeKind::Wants,
            8 => EdgeKind::After,
            9 | 10 => EdgeKind::ReloadOn,
            _ => EdgeKind::RestartOn,
        };
        self.edges.insert((from, to, kind));
        if matches!(kind, EdgeKind::ReloadOn | EdgeKind::RestartOn) {
            self.edges.insert((from, to, EdgeKind::Requires));
        }
    }

    fn reaches(&self, from: u8, to: u8) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            if at == to {
                return true;
            }
            if seen.insert(at) {
                open.extend(self.edges.iter().filter(|(f, _, _)| *f == at).map(|(_, t, _)| *t));
            }
        }
        false
    }

    /// Drops what the compiler would refuse: edges to nowhere, and a claim that two units make.
    pub fn tidy(&mut self) {
        let units = &self.units;
        self.edges.retain(|(f, t, kind)| {
            let bounces = matches!(units.get(f).map(|u| u.address.kind), Some(Kind::Service | Kind::Exec));
            units.contains_key(f)
                && units.contains_key(t)
                && (bounces || !matches!(kind, EdgeKind::ReloadOn | EdgeKind::RestartOn))
        });
        let inputs: Vec<_> = self
            .edges
            .iter()
            .filter(|e| matches!(e.2, EdgeKind::ReloadOn | EdgeKind::RestartOn))
            .copied()
            .collect();
        self.edges.extend(inputs.into_iter().map(|(f, t, _)| (f, t, EdgeKind::Requires)));
        let mut seen = BTreeSet::new();
        for unit in self.units.values_mut() {
            if !unit.claim.is_empty() && !seen.insert(unit.claim.clone()) {
                claim(unit, None);
            }
        }
    }

    /// Compiled.
    pub fn manifest(&self) -> Manifest {
        let mut b = ManifestBuilder::new();
        for unit in self.units.values() {
            b.unit(unit.clone());
        }
        for (from, to, kind) in &self.edges {
            if let (Some(f), Some(t)) = (self.units.get(from), self.units.get(to)) {
                b.edge(&f.address, &t.address, *kind, "");
            }
        }
        b.finish()
    }

    /// For a story: one line a unit.
    pub fn describe(&self) -> String {
        let mut out = String::new();
        for (slot, unit) in &self.units {
            let _ = write!(out, "\n        {}", unit.address);
            match &unit.spec {
                Spec::Service(s) => {
                    let _ = write!(out, " ready={:?} restart={:?}", s.ready, s.restart);
                    let plain = service(0);
                    for (word, differs, value) in [
                        ("reload", s.reload != plain.reload, format!("{:?}", s.reload)),
                        ("stop", s.stop != plain.stop, "command".to_owned()),
                        ("switch", s.switch != plain.switch, format!("{:?}", s.switch)),
                        ("watchdog", s.watchdog != 0, s.watchdog.to_string()),
                        (
                            "start-timeout",
                            s.start_timeout != plain.start_timeout,
                            s.start_timeout.to_string(),
                        ),
                        ("stop-timeout", s.stop_timeout != plain.stop_timeout, s.stop_timeout.to_string()),
                        ("limit", s.restart_limit != plain.restart_limit, s.restart_limit.to_string()),
                        ("version", s.nice != 0, s.nice.to_string()),
                    ] {
                        if differs {
                            let _ = write!(out, " {word}={value}");
                        }
                    }
                }
                Spec::File(f) => {
                    let _ = write!(out, " version={}", f.content.map_or(0, |c| c.size));
                }
                Spec::Exec(e) => {
                    let _ = write!(
                        out,
                        " creates={} unless={} once={:?} undo={} timeout={} version={}",
                        e.creates.is_some(),
                        e.unless.is_some(),
                        e.once,
                        e.undo.is_some(),
                        e.timeout,
                        e.environment.len()
                    );
                }
                _ => {}
            }
            for (bit, word) in [
                (flags::REPORT, "drift=report"),
                (flags::SEED, "seed"),
                (flags::MANUAL, "manual"),
                (flags::ON_DEMAND, "on-demand"),
            ] {
                if unit.flags & bit != 0 {
                    let _ = write!(out, " {word}");
                }
            }
            if !unit.claim.is_empty() {
                let _ = write!(out, " claim={}", unit.claim);
            }
            for (_, to, kind) in self.edges.iter().filter(|(f, _, _)| f == slot) {
                if let Some(other) = self.units.get(to) {
                    let _ = write!(out, " {}={}", kind.word(), other.address);
                }
            }
        }
        out
    }
}

/// A unit by lot.
fn unit(dice: &mut Dice, universe: &Universe, slot: u8) -> NewUnit {
    let address = universe.address(slot);
    let version = dice.below(4);
    let mut flag = 0;
    let spec = match address.kind {
        Kind::Service => {
            let s = random_service(dice, version);
            flag = match s.start {
                Start::Boot => 0,
                Start::OnDemand => flags::ON_DEMAND,
                Start::Manual => flags::MANUAL,
            };
            Spec::Service(Box::new(s))
        }
        Kind::File => {
            flag = dice.pick(&[0, 0, 0, 0, flags::REPORT, flags::SEED]);
            owned(file(slot, version), flag)
        }
        Kind::Exec => exec(dice, version),
        Kind::Mount => mount(slot, version),
        Kind::Module => module(slot, version),
        _ => Spec::Target(units::kind::target::Target {}),
    };
    let mut new = NewUnit::new(address.kind, address.name, spec);
    new.flags = flag;
    new.settle = dice.pick(&[0, 50, 50, 200]);
    if dice.chance(150) {
        claim(&mut new, Some(dice.below(2)));
    }
    new
}

/// Claims something, or nothing: as in a state file, that is part of what the unit says.
pub fn claim(unit: &mut NewUnit, what: Option<u64>) {
    let text = what.map(|n| format!("claim{n}"));
    match &mut unit.spec {
        Spec::Service(s) => s.tty.clone_from(&text),
        Spec::File(f) => f.attributes.group.clone_from(&text),
        _ => return,
    }
    unit.claim = text.unwrap_or_default();
}

/// Changes what a unit is, a little.
fn touch_spec(unit: &mut NewUnit, dice: &mut Dice) {
    let slot = slot_of(&unit.address);
    let version = dice.below(4);
    if dice.chance(100) {
        return claim(unit, dice.pick(&[None, Some(0), Some(1)]));
    }
    match &mut unit.spec {
        Spec::Service(s) => match dice.below(4) {
            // Longer than a shutdown is patient with what is stuck.
            0 => s.stop_timeout = dice.pick(&[1_000, 10_000, 240_000]),
            _ => s.nice = i32::try_from(version).unwrap_or(0),
        },
        Spec::Exec(e) => {
            e.environment = (0..version).map(|v| (format!("V{v}"), String::new())).collect();
        }
        Spec::File(f) => {
            let group = f.attributes.group.take();
            unit.spec = owned(file(slot, version), unit.flags);
            if let Spec::File(f) = &mut unit.spec {
                f.attributes.group = group;
            }
        }
        Spec::Mount(_) => unit.spec = mount(slot, version),
        Spec::Module(_) => unit.spec = module(slot, version),
        _ => {}
    }
}

/// A service with every option at a plain value.
pub fn service(version: u64) -> Service {
    Service {
        exec: vec!["/bin/daemon".into()],
        ready: Ready::Started,
        pid_file: None,
        user: None,
        group: None,
        groups: vec![],
        environment: vec![],
        directory: None,
        umask: 0o22,
        limits: vec![],
        cgroup: vec![],
        nice: i32::try_from(version).unwrap_or(0),
        oom_score: 0,
        tty: None,
        log: units::kind::service::Log::File,
        log_size: 1 << 20,
        log_keep: 3,
        stop_signal: 15,
        stop: None,
        stop_timeout: 10_000,
        start_timeout: 30_000,
        reload: None,
        reload_timeout: 2_000,
        restart: Restart::Always,
        restart_delay: 100,
        restart_max: 30_000,
        restart_limit: 10,
        healthy: 10_000,
        watchdog: 0,
        start: Start::Boot,
        switch: SwitchMethod::Auto,
        writes: vec![],
        success: vec![],
        secret: false,
    }
}

fn random_service(dice: &mut Dice, version: u64) -> Service {
    let mut s = service(version);
    s.ready = match dice.below(12) {
        0..=3 => Ready::Started,
        4..=6 => Ready::Notify,
        7 => Ready::Fd(3),
        8 => Ready::Forked,
        9 | 10 => Ready::Exited,
        _ => Ready::Path("/run/ready".into()),
    };
    s.restart = dice.pick(&[Restart::Always, Restart::Always, Restart::OnFailure, Restart::Never]);
    if s.ready == Ready::Exited {
        s.restart = dice.pick(&[Restart::OnFailure, Restart::Never, Restart::Always]);
    }
    s.start =
        dice.pick(&[Start::Boot, Start::Boot, Start::Boot, Start::Boot, Start::OnDemand, Start::Manual]);
    s.reload = match dice.below(4) {
        0 => Some(Reload::Signal(1)),
        1 => Some(Reload::Command(vec!["/bin/reload".into()])),
        _ => None,
    };
    if dice.chance(150) {
        s.stop = Some(vec!["/bin/stop".into()]);
    }
    s.switch = dice.pick(&[
        SwitchMethod::Auto,
        SwitchMethod::Auto,
        SwitchMethod::Auto,
        SwitchMethod::Reload,
        SwitchMethod::Restart,
        SwitchMethod::StopStart,
        SwitchMethod::Keep,
    ]);
    s.watchdog = dice.pick(&[0, 0, 0, 0, 0, 2_000]);
    s.start_timeout = dice.pick(&[30_000, 30_000, 500, 0]);
    s.stop_timeout = dice.pick(&[10_000, 10_000, 1_000, 0]);
    s.restart_limit = dice.pick(&[10, 3, 0]);
    s
}

/// A file of a content that this version gives.
pub fn file(slot: u8, version: u64) -> Spec {
    Spec::File(units::kind::file::File {
        path: format!("/f{slot}"),
        content: Some(Content { digest: [7; 32], size: version }),
        attributes: units::kind::Attributes::default(),
        ownership: units::kind::file::Ownership::Whole,
        secret: false,
    })
}

/// As in a state file, the flag of a seed is part of what the file says.
fn owned(mut spec: Spec, flag: u8) -> Spec {
    if let (Spec::File(f), true) = (&mut spec, flag & flags::SEED != 0) {
        f.ownership = units::kind::file::Ownership::Seed;
    }
    spec
}

fn exec(dice: &mut Dice, version: u64) -> Spec {
    use units::kind::exec::{Exec, Once};
    let guard = dice.below(5);
    Spec::Exec(Box::new(Exec {
        command: vec!["/bin/once".into()],
        creates: (guard == 0).then(|| "/made".to_owned()),
        unless: (guard == 1).then(|| vec!["/bin/test".to_owned()]),
        once: match guard {
            2 => Some(Once::Boot),
            3 => Some(Once::Generation),
            4 => Some(Once::Ever),
            _ => None,
        },
        user: None,
        group: None,
        environment: (0..version).map(|v| (format!("V{v}"), String::new())).collect(),
        directory: None,
        timeout: dice.pick(&[0, 1_000, 30_000]),
        undo: dice.chance(400).then(|| vec!["/bin/undo".to_owned()]),
    }))
}

/// A mount whose options this version gives.
pub fn mount(slot: u8, version: u64) -> Spec {
    Spec::Mount(units::kind::mount::Mount {
        path: format!("/m{slot}"),
        source: "tmpfs".into(),
        fstype: "tmpfs".into(),
        options: (0..version).map(|v| format!("o{v}")).collect(),
        timeout: if version % 3 == 1 { 1_000 } else { 90_000 },
        ..units::kind::mount::Mount::default()
    })
}

fn module(slot: u8, version: u64) -> Spec {
    Spec::Module(units::kind::module::Module {
        name: format!("m{slot}"),
        parameters: (0..version).map(|v| format!("p{v}")).collect(),
    })
}
