//! Managed mounts as the kernel lists them: `/proc/self/mountinfo` tells by EPOLLPRI that it has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use cm_core::engine::Node;
use cm_core::engine::effect::Level;
use cm_core::engine::event::Event;
use cm_core::mountinfo::{Tree, unescape};
use units::kind::Spec;
use units::value::path::is_within;
use units::{Kind, Manifest, UnitId};

use super::Shell;
use super::fnv::fnv;
use super::token::{Token, Turn};
use crate::sys::{mount, remount};

/// What was listed last.
#[derive(Debug, Default)]
pub struct Mounts {
    file: Option<File>,
    /// What stands for a unit, by its mark; [`ANY`] for what its helper has put there since.
    seen: BTreeMap<Node, u64>,
    /// Every mount, by its mark and point; none until the list was read once.
    listed: Option<BTreeSet<(u64, String)>>,
    /// Units whose helper has just ended, and whether all was well.
    answers: BTreeMap<Node, bool>,
    /// What a mount still stood without when its helper had ended: the kernel does not take it, or shows it in
    /// other words, and trying again would change nothing.
    accepted: BTreeMap<Node, BTreeSet<String>>,
}

/// The mark of what nobody has looked at yet.
const ANY: u64 = 0;

/// The mounts of a mountinfo text, each with a mark made of its number, its device, its type and its source: the number
/// alone is given to the next mount as soon as it is free.
fn mounts(mountinfo: &str) -> impl Iterator<Item = (u64, String)> {
    mountinfo.lines().filter_map(|line| {
        let (own, superblock) = line.split_once(" - ")?;
        let mut own = own.split(' ');
        let (number, _parent, device) = (own.next()?, own.next()?, own.next()?);
        let mut superblock = superblock.split(' ');
        let words = [number, device, superblock.next()?, superblock.next()?];
        let bytes = words.iter().flat_map(|w| w.bytes().chain([b' ']));
        Some((fnv(bytes).max(1), unescape(own.nth(1)?)))
    })
}

/// Where mounts are declared that a path lies on.
pub fn declared_above(manifest: &Manifest, path: &str) -> Vec<String> {
    let above = Path::new(path).ancestors().skip(1).filter_map(Path::to_str);
    above.filter(|p| manifest.find(Kind::Mount, p).is_some()).map(str::to_owned).collect()
}

/// The mount that a path lies on: its mark and its point.
pub(super) fn holding(mountinfo: &str, path: &str) -> Option<(u64, String)> {
    mounts(Tree::read(mountinfo).holding(path)?).next()
}

/// Units whose paths are a mount point or lie below it. Units are in the order of kind and name, so that of most of them a
/// mount over nothing of ours costs a search and no more; the names of lines and users are no paths.
pub(super) fn units_below(manifest: &Manifest, point: &str) -> Vec<UnitId> {
    let mut below = Vec::new();
    for kind in [Kind::File, Kind::Directory, Kind::Symlink] {
        let near = manifest.of_kind(kind, point).take_while(|id| manifest.name(*id).starts_with(point));
        below.extend(near.filter(|id| {
            let rest = manifest.name(*id).strip_prefix(point).unwrap_or_default();
            rest.is_empty() || rest.starts_with('/') || point.ends_with('/')
        }));
    }
    for kind in [Kind::Line, Kind::User, Kind::Group] {
        below.extend(manifest.of_kind(kind, "").filter(|id| owns_within(manifest.spec(*id).as_ref(), point)));
    }
    below
}

/// Whether a unit that is not named by a path owns something there.
fn owns_within(spec: Option<&Spec>, point: &str) -> bool {
    let database = |names: &[&str]| names.iter().any(|name| is_within(name, point));
    match spec {
        Some(Spec::Line(line)) => is_within(&line.path, point),
        Some(Spec::User(user)) => {
            database(&["/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow"])
                || (user.create_home && is_within(&user.home_directory(), point))
        }
        Some(Spec::Group(_)) => database(&["/etc/group", "/etc/gshadow"]),
        _ => false,
    }
}

/// The names of a mount point: as it is listed, and through the declared paths of mounts that stand elsewhere.
fn names<'a>(point: &str, linked: impl Iterator<Item = (String, &'a str)>) -> Vec<String> {
    let through = linked.filter_map(|(declared, place)| {
        let below = point.strip_prefix(place).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        // What covers its place covers all that is named through it.
        below.map(|rest| format!("{declared}{rest}")).or_else(|| is_within(place, point).then_some(declared))
    });
    std::iter::once(point.to_owned()).chain(through).collect()
}

impl Mounts {
    /// What is listed, so that the next PID 1 sees what changes between the two.
    pub(super) fn listed(&self) -> Option<&BTreeSet<(u64, String)>> {
        self.listed.as_ref()
    }

    /// What an earlier PID 1 saw last.
    pub(super) fn adopt(&mut self, listed: Option<BTreeSet<(u64, String)>>) {
        self.listed = listed;
    }

    /// The helper of this unit has ended, well or not, and it was to mount it or to repair its options.
    pub(super) fn answered(&mut self, node: Node, well: bool, repair: bool) {
        if well {
            // Mounted and unmounted again between two looks at the list would be no difference at all.
            self.seen.entry(node).or_insert(ANY);
        }
        // Its helper has seen the options right: what differs now was changed after that.
        if !(well && repair) {
            self.answers.insert(node, well);
        }
    }

    /// What is to be told of a unit at whose place this stands on top, if anything does. `before` is what was listed
    /// before, for the first look of an init that took over; so is whether it is `ready`, as far as the engine knows.
    fn look(
        &self,
        node: Node,
        top: Option<&(u64, String)>,
        before: &BTreeSet<(u64, String)>,
        ready: bool,
    ) -> Vec<Event> {
        let (gone, come) = (Event::Unmounted { node }, Event::Mounted { node });
        match (self.seen.get(&node), top) {
            (Some(_), None) => vec![gone],
            (None, None) if ready => vec![gone],
            // Covered, uncovered or exchanged: what is there now is somebody else's until its helper has looked.
            (Some(mark), Some((now, _))) if ![*now, ANY].contains(mark) => vec![gone, come],
            (Some(_), Some(_)) | (None, None) => Vec::new(),
            (None, Some(top)) if !before.contains(top) && before.iter().any(|(_, p)| *p == top.1) => {
                vec![gone, come]
            }
            (None, Some(_)) => vec![come],
        }
    }

    /// What is to be told of a unit whose mount stands without these options, if anything is.
    fn compare(&mut self, node: Node, missing: Vec<String>) -> Option<Event> {
        let missing: BTreeSet<String> = missing.into_iter().collect();
        let options = missing.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        let answer = self.answers.remove(&node);
        let accepted = self.accepted.entry(node).or_default();
        let known = missing.is_subset(accepted);
        if known || answer.is_some() {
            // What is right now, and is changed later, is worth another try.
            *accepted = missing;
        }
        match answer {
            _ if options.is_empty() => None,
            Some(true) => None,
            Some(false) => Some(Event::MountDiffers { node, options, tried: true }),
            None if known => None,
            None => Some(Event::MountDiffers { node, options, tried: false }),
        }
    }
}

impl Shell {
    /// Starts to listen.
    pub(super) fn open_mounts(&mut self) {
        match File::open("/proc/self/mountinfo") {
            Ok(file) => {
                self.register(file.as_raw_fd(), Token::Mounts);
                self.mounts.file = Some(file);
            }
            Err(e) => self.say(Level::Warning, None, &format!("cannot watch mounts: {e}")),
        }
    }

    /// [`cm_core::engine::effect::Effect::Compare`].
    pub(super) fn compare_again(&mut self, node: Node) {
        // What it was told before was left alone, and was no answer.
        self.mounts.accepted.remove(&node);
        self.ready.push(Token::Mounts);
    }

    /// Mounts that are listed under another path than theirs: that, and where.
    fn linked(&self) -> impl Iterator<Item = (String, &str)> {
        self.places.iter().map(|(node, place)| (self.engine.address(node).name, place))
    }

    /// The list has changed, or the units that it is compared with.
    pub(super) fn hear_mounts(&mut self) -> Turn {
        let (desired, _) = self.engine.desired();
        let Some(manifest) = self.engine.manifest(desired) else { return Turn::Drained };
        let units: Vec<(Node, String, String)> = manifest
            .of_kind(Kind::Mount, "")
            .filter_map(|id| {
                let options = match manifest.spec(id)? {
                    Spec::Mount(m) => m.options.join(","),
                    _ => return None,
                };
                Some((self.engine.node_in(desired, id)?, manifest.name(id).to_owned(), options))
            })
            .collect();
        let Ok(text) = mount::table() else { return Turn::Drained };
        let tree = Tree::read(&text);
        let listed: BTreeSet<(u64, String)> = mounts(&text).collect();
        // What was there first has covered nothing that was looked at before.
        let before = self.mounts.listed.take().unwrap_or_else(|| listed.clone());
        let moved: BTreeSet<&str> = listed.symmetric_difference(&before).map(|(_, p)| p.as_str()).collect();
        let through_links = moved.iter().flat_map(|point| self.watches.index().owners_at(point));
        let through_links: BTreeSet<Node> = through_links.collect();
        let moved = moved.iter().flat_map(|point| names(point, self.linked()));
        let touched = moved.flat_map(|point| units_below(manifest, &point));
        let mut nodes: BTreeSet<Node> = touched.filter_map(|id| self.engine.node_in(desired, id)).collect();
        nodes.extend(through_links);
        let mut seen = BTreeMap::new();
        let known: BTreeSet<Node> = units.iter().map(|(node, _, _)| *node).collect();
        for (node, path, options) in units {
            let place = self.places.of(node).unwrap_or(&path);
            let line = tree.at(place);
            let top = line.and_then(mount::read);
            let dead = top.as_ref().is_some_and(mount::Mounted::is_dead);
            let there = line.filter(|_| !dead).and_then(|line| mounts(line).next());
            let news = self.mounts.look(node, there.as_ref(), &before, self.engine.glance(node).ready);
            let words = |m: &mount::Mounted| format!("type \"{}\", source \"{}\"", m.fstype, m.source);
            let text = match (news.as_slice(), &top) {
                ([_], Some(top)) if dead => Some(format!("its device {} is gone", top.source)),
                ([_, _], Some(top)) => Some(format!("another mount is there now: {}", words(top))),
                ([_], None) => mount::hiding(&tree, place, &[])
                    .map(|m| format!("it is hidden by what is mounted at \"{}\" now: {}", m.path, words(&m))),
                _ => None,
            };
            if let Some(text) = text {
                self.say(Level::Error, Some(&format!("mount:{path}")), &text);
            }
            self.queue.extend(news);
            seen.extend(there.map(|(mark, _)| (node, mark)));
            let missing = top.map(|m| remount::differing(&m, &options)).unwrap_or_default();
            let missing = missing.into_iter().map(|d| d.option).collect();
            let told = self.mounts.compare(node, missing);
            let same = || Event::MountDiffers { node, options: String::new(), tried: false };
            self.queue.extend(told.or_else(|| self.engine.is_compared(node).then(same)));
        }
        if !nodes.is_empty() {
            self.queue.push_back(Event::Touched { nodes: nodes.into_iter().collect() });
        }
        self.mounts.accepted.retain(|node, _| known.contains(node));
        self.mounts.answers.retain(|node, _| known.contains(node));
        self.mounts.seen = seen;
        self.mounts.listed = Some(listed);
        self.compare_hanging(&text);
        Turn::Drained
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use units::kind::directory::Directory;
    use units::kind::group::Group;
    use units::kind::line::Line;
    use units::kind::user::User;
    use units::manifest::{ManifestBuilder, NewUnit};

    use super::*;

    #[test]
    fn points_are_unescaped() {
        let text =
            "36 35 98:0 / /mnt\\040a rw,noatime master:1 - ext3 /dev/root rw\n1 2 0:1 / / rw - tmpfs x rw\n";
        let points: Vec<String> = super::mounts(text).map(|(_, point)| point).collect();
        assert_eq!(points, ["/mnt a", "/"]);
    }

    #[test]
    fn what_is_exchanged_or_covered_is_lost() {
        let marks = |text: &str| super::mounts(text).collect::<Vec<_>>();
        let line = |number: u32, kind: &str, source: &str| {
            marks(&format!("{number} 1 0:7 / /m rw - {kind} {source} rw\n")).remove(0)
        };
        let ours = line(136, "tmpfs", "tmpfs");
        assert_eq!(line(136, "tmpfs", "tmpfs"), ours);
        let others = [line(136, "ramfs", "tmpfs"), line(137, "tmpfs", "tmpfs"), line(136, "tmpfs", "none")];
        let node = Node(3);
        let (gone, come) = (Event::Unmounted { node }, Event::Mounted { node });
        let both = [gone.clone(), come.clone()];
        let nothing = BTreeSet::new();
        let mut mounts = Mounts::default();
        let look = |mounts: &Mounts, top: Option<&(u64, String)>| mounts.look(node, top, &nothing, false);
        assert_eq!(look(&mounts, None), []);
        assert_eq!(look(&mounts, Some(&ours)), from_ref(&come));
        mounts.answered(node, true, false);
        assert_eq!(look(&mounts, Some(&ours)), [], "its helper has put it there");
        assert_eq!(look(&mounts, None), from_ref(&gone), "and it is gone again");
        mounts.seen.insert(node, ours.0);
        assert_eq!(look(&mounts, Some(&ours)), []);
        for other in &others {
            assert_eq!(look(&mounts, Some(other)), both);
        }
        mounts.answered(node, true, true);
        assert_eq!(look(&mounts, Some(&others[0])), both);

        // An init that has taken over knows what was listed.
        let after = Mounts::default();
        let before = BTreeSet::from([ours.clone()]);
        assert_eq!(after.look(node, Some(&ours), &before, true), from_ref(&come));
        assert_eq!(after.look(node, Some(&others[0]), &before, true), both);
        assert_eq!(after.look(node, None, &before, true), from_ref(&gone), "it went between the two");
        assert_eq!(after.look(node, None, &before, false), []);
    }

    #[test]
    fn a_difference_is_told_once_after_its_helper() {
        let mut mounts = Mounts::default();
        let node = Node(3);
        let told = |mounts: &mut Mounts, missing: &[&str]| match mounts
            .compare(node, missing.iter().map(|m| (*m).to_owned()).collect())
        {
            Some(Event::MountDiffers { options, tried, .. }) => Some((options, tried)),
            _ => None,
        };
        mounts.answered(node, true, false);
        assert_eq!(told(&mut mounts, &["size=1"]), None, "so the kernel writes it");
        assert_eq!(told(&mut mounts, &["size=1"]), None);
        assert_eq!(told(&mut mounts, &["noexec", "size=1"]), Some(("noexec,size=1".to_owned(), false)));
        mounts.answered(node, true, true);
        assert_eq!(told(&mut mounts, &["noexec"]), Some(("noexec".to_owned(), false)), "changed again");
        mounts.answered(node, false, true);
        assert_eq!(told(&mut mounts, &["noexec"]), Some(("noexec".to_owned(), true)));
        assert_eq!(told(&mut mounts, &["noexec"]), None, "one try");
        assert_eq!(told(&mut mounts, &[]), None);
        assert_eq!(
            told(&mut mounts, &["noexec"]),
            Some(("noexec".to_owned(), false)),
            "it was taken after all"
        );
    }

    #[test]
    fn a_mount_touches_what_it_covers_and_nothing_beside_it() {
        let spec = |path: &str| {
            let attributes = units::kind::Attributes::default();
            Spec::Directory(Directory {
                path: path.to_owned(),
                attributes,
                purge: false,
                entries: Vec::new(),
            })
        };
        let mut builder = ManifestBuilder::new();
        for name in ["/srv", "/srv/a/b", "/srv-b", "/srva/c", "/var/x"] {
            builder.unit(NewUnit::new(Kind::Directory, name, spec(name)));
        }
        let line = "greeting".to_owned();
        let path = "/srv/lines/file".to_owned();
        let line = Line { path, line, matches: None, present: true, create: true };
        builder.unit(NewUnit::new(Kind::Line, "greeting", Spec::Line(line)));
        for (name, create_home) in [("keeper", true), ("other", false)] {
            let user = User {
                name: name.to_owned(),
                uid: None,
                group: None,
                groups: Vec::new(),
                home: Some("/srv/home/x".to_owned()),
                shell: None,
                comment: None,
                password_hash: None,
                system: false,
                create_home,
                purge: false,
            };
            builder.unit(NewUnit::new(Kind::User, name, Spec::User(user)));
        }
        let group = Group { name: "crew".to_owned(), gid: None, system: false };
        builder.unit(NewUnit::new(Kind::Group, "crew", Spec::Group(group)));
        let manifest = builder.finish();
        let names = |point: &str| -> Vec<String> {
            super::units_below(&manifest, point).iter().map(|id| manifest.name(*id).to_owned()).collect()
        };
        assert_eq!(names("/srv"), ["/srv", "/srv/a/b", "greeting", "keeper"]);
        assert_eq!(names("/srv/a"), ["/srv/a/b"]);
        assert_eq!(names("/srv/lines"), ["greeting"], "its name is no path");
        assert_eq!(names("/srv/lines/fi"), [""; 0]);
        assert_eq!(names("/srv/home"), ["keeper"], "the home of the other is not ours");
        assert_eq!(names("/etc/passwd"), ["keeper", "other"]);
        assert_eq!(names("/etc"), ["keeper", "other", "crew"]);
        assert_eq!(names("/").len(), 9);
        assert_eq!(names("/proc"), [""; 0]);
    }

    #[test]
    fn a_point_has_the_names_that_lead_to_it() {
        let names = |point: &str| {
            let linked = [("/srv/link/m".to_owned(), "/srv/real/m")];
            super::names(point, linked.into_iter())
        };
        assert_eq!(names("/srv/real/m"), ["/srv/real/m", "/srv/link/m"]);
        assert_eq!(names("/srv/real/m/deep"), ["/srv/real/m/deep", "/srv/link/m/deep"]);
        assert_eq!(names("/srv/real"), ["/srv/real", "/srv/link/m"], "it covers that");
        assert_eq!(names("/srv/real/mm"), ["/srv/real/mm"]);
    }
}
