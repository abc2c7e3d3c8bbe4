//! Who keeps changing what is contested. While a unit is contested there is a fanotify group for it, marked by the
//! worker; nothing of the kind is open otherwise.
//!
//! What is named is somebody who was seen while he lived: a pid alone may be another's by the time that it is looked up.
//! Our own hand is never named: nothing repairs a unit while it is contested, and the committer of a batch of other
//! units, which may write into the same directory, is known by its place in the tree of processes or cgroups. Where it
//! has ended before it was looked at, it is known by there having been a batch.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use cm_core::engine::Node;
use cm_core::engine::event::Event;
use units::{Address, Kind};

use super::Shell;
use super::link::Task;
use super::token::{Token, Turn};
use crate::sys::fanotify::{self, Deed};
use crate::sys::{cgroup, raw, reap};

/// Most contests that are listened to at a time: each takes a descriptor and one of fs.fanotify.max_user_groups.
const MOST: usize = 32;
/// Reads of one group in one turn, and in one contest: who cannot be told after so many will not be.
const READS: usize = 4;
const MOST_READS: u32 = 256;
/// Longest name of a culprit, in bytes.
const WHO: usize = 200;

/// One contested unit.
#[derive(Debug)]
struct Contest {
    /// Which contest: a unit may be contested again.
    number: u64,
    /// Open until somebody was named.
    group: Option<Rc<OwnedFd>>,
    /// What to look for; nothing until the worker has marked it.
    names: Option<Vec<String>>,
    reads: u32,
    /// Somebody was seen who had ended.
    glimpsed: bool,
}

/// All contested units.
#[derive(Debug, Default)]
pub struct Contests {
    open: BTreeMap<Node, Contest>,
    /// Units that have changed since contests were last looked at.
    changed: BTreeSet<Node>,
}

impl Contests {
    /// A unit's state has changed.
    pub fn look_at(&mut self, node: Node) {
        self.changed.insert(node);
    }

    fn node(&self, number: u64) -> Option<Node> {
        self.open.iter().find(|(_, c)| c.number == number).map(|(node, _)| *node)
    }
}

/// Why nobody can be named, whatever the worker marks.
fn untold(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Sysctl => Some("the kernel does not tell who writes sysctls"),
        Kind::Hostname => Some("the kernel does not tell who sets the host name"),
        _ => None,
    }
}

/// What came of looking somebody up.
#[derive(Debug, PartialEq, Eq)]
enum Who {
    /// In words.
    Named(String),
    /// He has ended.
    Gone,
    /// It is us.
    Ourselves,
}

impl Shell {
    /// Begins to listen where a contest has begun, and stops where one has ended: before a batch is on its way that
    /// repairs it.
    pub(super) fn look_at_contests(&mut self) {
        for node in std::mem::take(&mut self.contests.changed) {
            match (self.engine.is_contested(node), self.contests.open.contains_key(&node)) {
                (true, false) => self.listen_to_contest(node),
                (false, true) => {
                    self.stop_listening(node);
                    self.contests.open.remove(&node);
                }
                (true, true) | (false, false) => {}
            }
        }
    }

    fn listen_to_contest(&mut self, node: Node) {
        self.counter += 1;
        let number = self.counter;
        if let Some(why) = untold(self.engine.address(node).kind) {
            let contest = Contest { number, group: None, names: None, reads: 0, glimpsed: false };
            self.contests.open.insert(node, contest);
            return self.culprit_unknown(node, why);
        }
        if let Some(other) = self.same_file(node) {
            let contest = Contest { number, group: None, names: None, reads: 0, glimpsed: false };
            self.contests.open.insert(node, contest);
            let who = format!("{other}, the same file by another path (declare only one of the two),");
            return self.queue.push_back(Event::CulpritSeen { node, who });
        }
        let groups = self.contests.open.values().filter(|c| c.group.is_some()).count();
        let group = if groups < MOST {
            fanotify::group().map(Rc::new).map_err(|e| match e.raw_os_error() {
                Some(libc::EPERM) => "telling takes CAP_SYS_ADMIN outside of user namespaces".to_owned(),
                Some(libc::ENOSYS) => "this kernel has no fanotify".to_owned(),
                _ => format!("fanotify_init: {e}"),
            })
        } else {
            Err(format!("more than {MOST} units are contested"))
        };
        let contest =
            Contest { number, group: group.as_ref().ok().cloned(), names: None, reads: 0, glimpsed: false };
        self.contests.open.insert(node, contest);
        match group {
            Ok(group) => {
                let status = self.engine.status(node);
                self.ask_mark(number, (status.manifest, status.unit), group);
            }
            Err(why) => self.culprit_unknown(node, &why),
        }
    }

    /// Another unit that declares the same file, by a path that leads there through a link.
    fn same_file(&self, node: Node) -> Option<Address> {
        let whole = |n: Node| {
            let address = self.engine.address(n);
            matches!(address.kind, Kind::File | Kind::Directory | Kind::Symlink).then_some(address)
        };
        let own = whole(node)?;
        let others = self.watches.sharing(node, own.name.rsplit('/').next()?);
        others.into_iter().find_map(whole)
    }

    /// The worker's answer.
    pub(super) fn marked(&mut self, number: u64, result: Result<Vec<String>, String>) {
        let Some(node) = self.contests.node(number) else { return };
        let Some(contest) = self.contests.open.get_mut(&node) else { return };
        match (result, &contest.group) {
            (Ok(names), Some(group)) => {
                contest.names = Some(names);
                let fd = group.as_raw_fd();
                self.register(fd, Token::Contest(number));
            }
            (Err(why), _) => {
                self.stop_listening(node);
                self.culprit_unknown(node, &why);
            }
            (Ok(_), None) => {}
        }
    }

    fn culprit_unknown(&mut self, node: Node, why: &str) {
        let who = format!("somebody (who is unknown: {why})");
        self.queue.push_back(Event::CulpritSeen { node, who });
    }

    fn stop_listening(&mut self, node: Node) {
        let Some(contest) = self.contests.open.get_mut(&node) else { return };
        let registered = contest.names.is_some();
        if let Some(group) = contest.group.take()
            && registered
        {
            self.deregister(group.as_raw_fd());
        }
    }

    /// Somebody has changed something in a marked directory.
    pub(super) fn hear_contest(&mut self, number: u64) -> Turn {
        let Some(node) = self.contests.node(number) else { return Turn::Drained };
        for _ in 0..READS {
            let batch = self.workers.values().any(|w| w.link.tasks().iter().any(is_batch));
            let Some(deeds) = self.read_contest(node) else { return Turn::Drained };
            for deed in deeds {
                if self.consider(node, &deed, batch) {
                    self.stop_listening(node);
                    return Turn::Drained;
                }
            }
        }
        Turn::More
    }

    /// The next deeds of a contest; nothing when there are none, or have been too many.
    fn read_contest(&mut self, node: Node) -> Option<Vec<Deed>> {
        let contest = self.contests.open.get_mut(&node)?;
        let group = Rc::clone(contest.group.as_ref()?);
        contest.reads += 1;
        if contest.reads > MOST_READS {
            self.stop_listening(node);
            return None;
        }
        fanotify::read(group.as_fd()).ok().filter(|deeds| !deeds.is_empty())
    }

    /// Whether a deed tells who it is.
    fn consider(&mut self, node: Node, deed: &Deed, batch: bool) -> bool {
        let Some(contest) = self.contests.open.get(&node) else { return true };
        let names = contest.names.as_deref().unwrap_or_default();
        if !names.iter().any(|n| n.is_empty() || *n == deed.name) {
            return false;
        }
        let glimpsed = contest.glimpsed;
        let who = match self.who(deed) {
            Who::Ourselves => return false,
            Who::Named(who) => {
                self.queue.push_back(Event::CulpritSeen { node, who });
                return true;
            }
            // It may have been the committer.
            Who::Gone if batch || glimpsed => return false,
            Who::Gone if deed.pid == 0 => "a process outside of this pid namespace".to_owned(),
            Who::Gone => format!("a process that had ended when it was looked up (pid {})", deed.pid),
        };
        if let Some(contest) = self.contests.open.get_mut(&node) {
            contest.glimpsed = true;
        }
        self.queue.push_back(Event::CulpritSeen { node, who });
        false
    }

    /// A batch has ended: what its committer did is read, and forgotten, before anybody is asked who did it.
    pub(super) fn forgive_committer(&mut self) {
        let open: Vec<Node> = self.contests.open.keys().copied().collect();
        for node in open {
            while let Some(deeds) = self.read_contest(node) {
                if deeds.iter().any(|deed| self.consider(node, deed, true)) {
                    self.stop_listening(node);
                }
            }
        }
    }

    fn who(&self, deed: &Deed) -> Who {
        let read = |what: &str| std::fs::read_to_string(format!("/proc/{}/{what}", deed.pid));
        let (Ok(comm), true) = (read("comm"), deed.pid > 0) else { return Who::Gone };
        let exe = std::fs::read_link(format!("/proc/{}/exe", deed.pid)).ok();
        let unit = read("cgroup").ok().and_then(|theirs| {
            let ours = std::fs::read_to_string("/proc/self/cgroup").ok()?;
            unit_in(&ours, &theirs)
        });
        let stat = std::fs::read(format!("/proc/{}/stat", deed.pid)).ok();
        let parent = stat.and_then(|s| reap::parse_stat(&s)).map_or(0, |s| s.ppid);
        // ORDER: after everything was read: until it is buried its pid is nobody else's.
        let still = deed.pidfd.as_ref().is_none_or(|fd| raw::pidfd_send_signal(fd.as_fd(), 0).is_ok());
        if !still {
            return Who::Gone;
        }
        let own = |pid: i32| self.workers.values().any(|w| w.link.pid == pid);
        if own(deed.pid) || own(parent) || unit.as_ref().is_some_and(|u| u.starts_with("holdfast.")) {
            return Who::Ourselves;
        }
        let exe = exe.map(|e| e.to_string_lossy().into_owned());
        Who::Named(words(comm.trim_end(), deed.pid, exe.as_deref(), unit.as_deref()))
    }
}

fn is_batch(task: &Task) -> bool {
    matches!(task, Task::Batch(_))
}

/// The unit in whose cgroup a process is, from both processes' `/proc/PID/cgroup`; ours is beside those of units.
fn unit_in(ours: &str, theirs: &str) -> Option<String> {
    let path = |text: &str| text.lines().find_map(|l| l.strip_prefix("0::")).map(str::to_owned);
    let (ours, theirs) = (path(ours)?, path(theirs)?);
    let tree = ours.strip_suffix("/holdfast.init")?;
    let below = theirs.strip_prefix(tree)?.strip_prefix('/')?;
    cgroup::unit_name(below.split('/').next()?)
}

/// A process in words. It chose its name itself, so that nothing but plain characters is taken over.
fn words(comm: &str, pid: i32, exe: Option<&str>, unit: Option<&str>) -> String {
    let mut out = format!("{comm} (pid {pid}");
    for more in [exe.map(str::to_owned), unit.map(|u| format!("of {u}"))].into_iter().flatten() {
        out.push_str(", ");
        out.push_str(&more);
    }
    let mut out: String = out.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    while out.len() > WHO {
        out.pop();
    }
    out.push(')');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_beside_ours_is_a_units() {
        let ours = "0::/machine/holdfast/holdfast.init\n";
        let unit = |theirs: &str| unit_in(ours, theirs);
        assert_eq!(unit("0::/machine/holdfast/service:web\n").as_deref(), Some("service:web"));
        assert_eq!(unit("0::/machine/holdfast/service:web/inside\n").as_deref(), Some("service:web"));
        let escaped = format!("0::/machine/holdfast/{}\n", cgroup::directory_name("exec:a/b"));
        assert_eq!(unit(&escaped).as_deref(), Some("exec:a/b"));
        assert_eq!(unit("0::/machine/holdfast-other/service:web\n"), None);
        assert_eq!(unit("0::/user\n"), None);
        assert_eq!(unit_in("0::/elsewhere\n", "0::/elsewhere/service:web\n"), None);
        assert_eq!(unit_in("0::/holdfast.init\n", "0::/service:web\n").as_deref(), Some("service:web"));
    }

    #[test]
    fn it_is_said_where_the_kernel_does_not_tell() {
        assert_eq!(untold(Kind::Sysctl), Some("the kernel does not tell who writes sysctls"));
        assert_eq!((untold(Kind::Hostname).is_some(), untold(Kind::File)), (true, None));
    }

    #[test]
    fn a_name_cannot_play_with_the_screen_or_grow() {
        let told = words("a\u{1b}[2Jb\n", 7, Some("/bin/a"), Some("service:web"));
        assert_eq!(told, "a?[2Jb? (pid 7, /bin/a, of service:web)");
        assert!(words("x", 7, Some(&"/long".repeat(99)), None).len() <= WHO + 1);
    }
}
