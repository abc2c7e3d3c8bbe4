//! Tests of the index: what an event is about, and what that costs.

use super::*;
use crate::proto::ManifestRef;
use proptest::prelude::*;
use units::UnitId;

fn entry(wd: i32, name: &str) -> Watch {
    Watch::Entry { wd, public: false, name: name.into(), manifest: ManifestRef(1), unit: UnitId(1) }
}

fn directory(wd: i32, parent: Option<i32>, name: &str) -> Watch {
    Watch::Directory { wd, public: false, parent: parent.map(|p| (false, p)), name: name.into() }
}

fn nodes(list: &[u32]) -> BTreeSet<Node> {
    list.iter().copied().map(Node).collect()
}

/// / (1) · etc (2) · etc/nginx (3), with units 10 (etc/motd), 11 and 12 (in nginx).
fn example() -> Index {
    let mut index = Index::new();
    for (watch, owner) in [
        (directory(1, None, ""), None),
        (directory(2, Some(1), "etc"), None),
        (directory(3, Some(2), "nginx"), None),
        (entry(2, "motd"), Some(Node(10))),
        (entry(3, "a"), Some(Node(11))),
        (entry(3, "b"), Some(Node(12))),
    ] {
        assert_eq!(index.add([(&watch, owner)]), Touch::default());
    }
    index
}

#[test]
fn a_directory_is_named_by_what_is_managed_in_it() {
    let index = example();
    let path = |node: Node| {
        let paths = [(10, "/etc/motd"), (11, "/etc/nginx/a"), (12, "/etc/nginx/b")];
        paths.iter().find(|(n, _)| Node(*n) == node).map(|(_, path)| (*path).to_owned())
    };
    assert_eq!(index.directory((false, 3), path).as_deref(), Some("/etc/nginx"));
    assert_eq!(index.directory((false, 2), path).as_deref(), Some("/etc"));
    assert_eq!(index.directory((true, 2), path), None);
}

#[test]
fn who_owns_the_same_entry_is_known() {
    let mut index = example();
    index.add([(&entry(3, "a"), Some(Node(13)))]);
    let sharing = [10, 11, 12, 13, 14].map(|n| index.sharing(Node(n), "a"));
    assert_eq!(sharing, [nodes(&[]), nodes(&[13]), nodes(&[]), nodes(&[11]), nodes(&[])]);
    assert_eq!(index.sharing(Node(11), "b"), nodes(&[]));
}

#[test]
fn an_event_is_about_the_owners_of_the_name() {
    let mut index = example();
    assert_eq!(index.event((false, 3), "a", 2).dirty, nodes(&[11]));
    assert_eq!(index.event((false, 3), "other", 2), Touch::default());
    assert_eq!(index.event((false, 2), "motd", 2).dirty, nodes(&[10]));
}

#[test]
fn an_ancestor_is_everything_below_it() {
    let mut index = example();
    let touch = index.event((false, 1), "etc", 0x40);
    assert_eq!(touch.dirty, nodes(&[10, 11, 12]));
    let touch = index.event((false, 2), "", mask::MOVE_SELF);
    assert_eq!(touch.dirty, nodes(&[10, 11, 12]));
}

#[test]
fn attributes_of_a_directory_are_its_own() {
    let mut index = example();
    index.add([(&entry(1, "etc"), Some(Node(9)))]);
    assert_eq!(index.event((false, 1), "etc", 4).dirty, nodes(&[9]));
    assert_eq!(index.event((false, 2), "", 4), Touch::default());
}

#[test]
fn a_dropped_watch_takes_its_units_to_be_watched_again() {
    let mut index = example();
    let touch = index.event((false, 3), "", mask::IGNORED);
    assert_eq!(touch.dirty, nodes(&[11, 12]));
    assert_eq!(index.event((false, 1), "", mask::MOVE_SELF).dirty, nodes(&[10]));
    assert_eq!(index.event((false, 2), "nginx", 0x100), Touch::default());
}

#[test]
fn overflow_is_a_rescan() {
    assert!(example().event((false, -1), "", mask::Q_OVERFLOW).rescan);
}

/// / (own 1) · tmp (public 1) · tmp/mine (own 2), with units 1 (in /), 2 (in tmp) and 3 (in tmp/mine).
fn open_to_others() -> Index {
    let mut index = Index::new();
    let public = |wd, name: &str| Watch::Entry {
        wd,
        public: true,
        name: name.into(),
        manifest: ManifestRef(1),
        unit: UnitId(1),
    };
    for (watch, owner) in [
        (directory(1, None, ""), None),
        (Watch::Directory { wd: 1, public: true, parent: Some((false, 1)), name: "tmp".into() }, None),
        (Watch::Directory { wd: 2, public: false, parent: Some((true, 1)), name: "mine".into() }, None),
        (entry(1, "motd"), Some(Node(1))),
        (public(1, "a"), Some(Node(2))),
        (entry(2, "b"), Some(Node(3))),
    ] {
        index.add([(&watch, owner)]);
    }
    index
}

#[test]
fn what_others_let_overflow_is_looked_at_and_nothing_else() {
    let mut index = open_to_others();
    let touch = index.event((true, -1), "", mask::Q_OVERFLOW);
    assert_eq!(touch, Touch { dirty: nodes(&[2, 3]), ..Touch::default() });
    assert!(index.event((false, -1), "", mask::Q_OVERFLOW).rescan);
}

#[test]
fn events_of_unknown_watches_are_bounded_for_each_instance() {
    let mut index = open_to_others();
    let mut last = Touch::default();
    for n in 0..=EARLY {
        assert_eq!(last, Touch::default(), "{n}");
        last = index.event((true, 77), "x", 2);
    }
    assert_eq!(last, Touch { dirty: nodes(&[2, 3]), ..Touch::default() });
    // What waits in the other instance has lost nothing by it.
    index.event((false, 9), "x", 2);
    for _ in 0..=EARLY {
        index.event((true, 77), "x", 2);
    }
    assert_eq!(index.add([(&entry(9, "x"), Some(Node(4)))]).dirty, nodes(&[4]));
}

#[test]
fn an_event_waits_for_its_watch() {
    let mut index = Index::new();
    assert_eq!(index.event((false, 7), "y", 2), Touch::default());
    let (directory, x, y) = (directory(7, None, ""), entry(7, "x"), entry(7, "y"));
    let watches = [(&directory, None), (&x, Some(Node(1))), (&y, Some(Node(2)))];
    assert_eq!(index.add(watches).dirty, nodes(&[2]), "who owns it is said after where it lies");
    assert_eq!(index.add(watches), Touch::default());
}

#[test]
fn what_nobody_needs_is_let_go() {
    let mut index = example();
    assert_eq!(index.forget(&nodes(&[11])), BTreeSet::new());
    assert_eq!(index.forget(&nodes(&[12])), BTreeSet::from([(false, 3)]));
    assert_eq!(index.forget(&nodes(&[10])), BTreeSet::from([(false, 2), (false, 1)]));
}

/// What is mounted over a directory makes no event in it; a link that leads there has a name of its own.
#[test]
fn who_lies_below_a_real_path_is_known_by_whatever_name() {
    let mut index = Index::new();
    assert_eq!(index.owners_at("/srv"), nodes(&[]));
    for (watch, owner) in [
        (directory(1, None, ""), None),
        (entry(1, "link"), Some(Node(10))),
        (directory(2, Some(1), "srv"), None),
        (directory(3, Some(2), "data"), None),
        (entry(3, "file"), Some(Node(10))),
        (entry(2, "data"), Some(Node(11))),
        (entry(2, "other"), Some(Node(12))),
        // What is mounted below itself: the root has a name in another directory.
        (directory(1, Some(2), "all"), None),
    ] {
        index.add([(&watch, owner)]);
    }
    assert_eq!(index.owners_at("/srv/data"), nodes(&[10, 11]));
    assert_eq!(index.owners_at("/srv/data/file"), nodes(&[10]));
    assert_eq!(index.owners_at("/srv"), nodes(&[10, 11, 12]));
    assert_eq!(index.owners_at("/srv/all/link"), nodes(&[10]));
    assert_eq!(index.owners_at("/"), nodes(&[10, 11, 12]));
    assert_eq!(index.owners_at("/dat"), nodes(&[]));
    // One that nobody knows the way to any more, since what it lay in has gone, says nothing of the others.
    let lost = directory(4, Some(0), "lost");
    index.add([(&lost, None)]);
    assert_eq!(index.owners_at("/srv/data"), nodes(&[10, 11]));
    assert_eq!(index.owners_at("/link/deeper"), nodes(&[]));
}

#[test]
fn ten_thousand_files_cost_little() {
    let mut index = Index::new();
    for _ in 0..3 {
        for n in 0..10_000u32 {
            let wd = i32::try_from(n / 100).unwrap() + 1;
            index.add([(&entry(wd, &format!("some-file-name-{n}")), Some(Node(n)))]);
        }
    }
    let each = index.bytes() / 10_000;
    assert!(each <= 12, "{each} bytes a file");
}

#[test]
fn a_directory_for_each_file_costs_little_too() {
    let index = siblings(10_000);
    let each = index.bytes() / 10_000;
    assert!(each <= 96, "{each} bytes a directory with one file in it");
}

/// / (1) · sites (2) · sites/site-N (N + 3), with a unit in each.
fn siblings(count: u32) -> Index {
    let mut index = Index::new();
    index.add([(&directory(1, None, ""), None), (&directory(2, Some(1), "sites"), None)]);
    for n in 0..count {
        let wd = i32::try_from(n).unwrap() + 3;
        let site = directory(wd, Some(2), &format!("site-{n}"));
        index.add([(&site, None), (&entry(wd, "index.html"), Some(Node(n)))]);
    }
    index
}

/// Comparisons of numbers during something.
fn compared<T>(during: impl FnOnce() -> T) -> (u64, T) {
    let before = runs::COMPARED.with(std::cell::Cell::get);
    let came = during();
    (runs::COMPARED.with(std::cell::Cell::get) - before, came)
}

#[test]
fn a_sibling_costs_a_logarithm_of_all_siblings() {
    const COUNT: u32 = 50_000;
    // A search in one of the sets is some 60 comparisons of a number or two, and a directory is in three of them.
    let most = u64::from(COUNT) * 500;
    let (added, mut index) = compared(|| siblings(COUNT));
    assert!(added < most, "{added} comparisons to add");
    // Once more, as by every look at them.
    let (again, ()) = compared(|| {
        for n in 0..COUNT {
            let wd = i32::try_from(n).unwrap() + 3;
            let site = directory(wd, Some(2), &format!("site-{n}"));
            index.add([(&site, None), (&entry(wd, "index.html"), Some(Node(n)))]);
        }
    });
    assert!(again < most, "{again} comparisons to add what is there");
    let (heard, ()) = compared(|| {
        for n in 0..COUNT {
            let touch = index.event((false, 2), &format!("site-{n}"), 0x40);
            assert!(touch.dirty.contains(&Node(n)) && touch.dirty.len() <= 2, "{n}");
        }
    });
    assert!(heard < most, "{heard} comparisons to hear of each");
    let (all, touch) = compared(|| index.event((false, 1), "sites", 0x40));
    assert_eq!(touch.dirty.len(), usize::try_from(COUNT).unwrap());
    assert!(all < most, "{all} comparisons to hear of all");
    let mut rest = index.clone();
    let (dropped, ()) = compared(|| {
        for n in 0..COUNT {
            let touch = index.event((false, i32::try_from(n).unwrap() + 3), "", mask::IGNORED);
            assert_eq!(touch.dirty, nodes(&[n]));
        }
    });
    assert!(dropped < most, "{dropped} comparisons to drop each");
    assert_eq!(index.event((false, 1), "sites", 0x40), Touch::default());
    assert_eq!(
        (index.places.len(), index.links.clone()),
        (2, {
            let mut links = Links::default();
            links.add(packed((false, 1)), hash(""), packed((false, 1)));
            links.add(packed((false, 1)), hash("sites"), packed((false, 2)));
            links
        })
    );
    let (forgotten, unneeded) = compared(|| rest.forget(&(0..COUNT).map(Node).collect()));
    assert!(forgotten < most, "{forgotten} comparisons to forget all");
    assert_eq!((unneeded.len(), rest), (usize::try_from(COUNT).unwrap() + 2, Index::new()));
}

#[test]
fn files_of_one_directory_cost_a_logarithm_of_all() {
    const COUNT: u32 = 50_000;
    let most = u64::from(COUNT) * 500;
    let mut index = Index::new();
    // Each is heard of as soon as it is there: nothing is put off until there are many.
    let (both, ()) = compared(|| {
        for n in 0..COUNT {
            let name = format!("file-{n}");
            index.add([(&entry(1, &name), Some(Node(n)))]);
            assert!(index.event((false, 1), &name, 2).dirty.contains(&Node(n)));
        }
    });
    assert!(both < most, "{both} comparisons to add and hear of each");
}

#[test]
fn early_events_cost_those_that_they_are_not_about_nothing() {
    let mut index = Index::new();
    for n in 0..i32::try_from(EARLY).unwrap() {
        assert_eq!(index.event((false, n + 10_000), "x", 2), Touch::default());
    }
    let (added, ()) = compared(|| {
        for n in 0..1000 {
            index.add([(&entry(n + 1, "x"), Some(Node(1)))]);
        }
    });
    assert!(added < 1000 * 100, "{added} comparisons");
}

#[test]
fn siblings_whose_names_have_one_hash_are_both_there() {
    let (a, b) = ("site-40522", "site-116667");
    assert_eq!(hash(a), hash(b));
    let mut index = Index::new();
    for (watch, owner) in [
        (directory(1, None, ""), None),
        (directory(2, Some(1), "sites"), None),
        (directory(3, Some(2), a), None),
        (entry(3, "f"), Some(Node(1))),
        (directory(4, Some(2), b), None),
        (entry(4, "f"), Some(Node(2))),
    ] {
        index.add([(&watch, owner)]);
    }
    assert_eq!(index.event((false, 1), "sites", 0x40).dirty, nodes(&[1, 2]));
    assert_eq!(index.event((false, 2), a, 0x40).dirty, nodes(&[1, 2]), "a look too many, and none too few");
    assert_eq!(index.event((false, 3), "", mask::IGNORED).dirty, nodes(&[1]));
    assert_eq!(index.event((false, 2), a, 0x40).dirty, nodes(&[2]));
    assert_eq!(index.forget(&nodes(&[2])), BTreeSet::from([(false, 1), (false, 2), (false, 4)]));
}

#[test]
fn what_lies_in_two_directories_is_heard_of_in_both() {
    let mut index = example();
    // A bind mount: the same inode, so the same watch.
    index.add([(&directory(4, Some(1), "mnt"), None), (&directory(3, Some(4), "nginx"), None)]);
    assert_eq!(index.event((false, 1), "mnt", 0x40).dirty, nodes(&[11, 12]));
    assert_eq!(index.event((false, 1), "etc", 0x40).dirty, nodes(&[10, 11, 12]));
}

#[test]
fn it_is_handed_over_whole() {
    let mut index = open_to_others();
    index.event((true, 77), "x", 2);
    let bytes = postcard::to_allocvec(&index).unwrap();
    let mut other: Index = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(other, index);
    assert_eq!(other.event((false, 1), "tmp", 0x40).dirty, nodes(&[2, 3]));
}

/// What the index says, said by going through all there is, with names as they are.
#[derive(Debug, Default)]
struct Naive {
    places: BTreeSet<Key>,
    entries: Vec<(Key, String, Node)>,
    all: Vec<(Key, Node)>,
    links: Vec<(Key, String, Key)>,
    early: Vec<(Key, String, u32)>,
}

impl Naive {
    fn add(&mut self, watch: &Watch, owner: Option<Node>) -> BTreeSet<Node> {
        let at = match watch {
            Watch::Directory { wd, public, parent, name } => {
                if let Some(parent) = parent {
                    self.places.insert(*parent);
                    self.links.push((*parent, name.clone(), (*public, *wd)));
                }
                (*public, *wd)
            }
            Watch::Entry { wd, public, name, .. } => {
                match owner {
                    Some(node) if name.is_empty() => self.all.push(((*public, *wd), node)),
                    Some(node) => self.entries.push(((*public, *wd), name.clone(), node)),
                    None => {}
                }
                (*public, *wd)
            }
            Watch::Inode { wd, public, .. } => {
                self.all.extend(owner.map(|node| ((*public, *wd), node)));
                (*public, *wd)
            }
            Watch::Missing { .. } => return BTreeSet::new(),
        };
        self.places.insert(at);
        let (now, later) = std::mem::take(&mut self.early).into_iter().partition(|(key, _, _)| *key == at);
        self.early = later;
        let now: Vec<_> = now;
        now.iter().flat_map(|(key, name, bits)| self.event(*key, name, *bits)).collect()
    }

    fn event(&mut self, key: Key, name: &str, bits: u32) -> BTreeSet<Node> {
        if !self.places.contains(&key) {
            if bits & mask::IGNORED == 0 {
                self.early.push((key, name.to_owned(), bits));
            }
            return BTreeSet::new();
        }
        let mut dirty: BTreeSet<Node> = self.all.iter().filter(|a| a.0 == key).map(|a| a.1).collect();
        dirty.extend(self.entries.iter().filter(|e| e.0 == key && e.1 == name).map(|e| e.2));
        let mut below = BTreeSet::new();
        if name.is_empty() && bits & (mask::MOVE_SELF | mask::IGNORED) != 0 {
            below.insert(key);
        }
        if !name.is_empty() && bits & mask::MOVED != 0 {
            below.extend(self.links.iter().filter(|l| l.0 == key && l.1 == name).map(|l| l.2));
        }
        loop {
            let more: BTreeSet<Key> = self
                .links
                .iter()
                .filter(|l| below.contains(&l.0) && !below.contains(&l.2))
                .map(|l| l.2)
                .collect();
            if more.is_empty() {
                break;
            }
            below.extend(more);
        }
        dirty.extend(self.all.iter().filter(|a| below.contains(&a.0)).map(|a| a.1));
        dirty.extend(self.entries.iter().filter(|e| below.contains(&e.0)).map(|e| e.2));
        if bits & mask::IGNORED != 0 {
            self.remove(key);
        }
        dirty
    }

    fn remove(&mut self, key: Key) {
        self.places.remove(&key);
        self.entries.retain(|e| e.0 != key);
        self.all.retain(|a| a.0 != key);
        self.links.retain(|l| l.0 != key && l.2 != key);
    }

    fn forget(&mut self, nodes: &BTreeSet<Node>) -> BTreeSet<Key> {
        self.entries.retain(|e| !nodes.contains(&e.2));
        self.all.retain(|a| !nodes.contains(&a.1));
        let mut gone = BTreeSet::new();
        while let Some(key) = self.places.iter().copied().find(|key| {
            let holds = self.entries.iter().any(|e| e.0 == *key) || self.all.iter().any(|a| a.0 == *key);
            !holds && !self.links.iter().any(|l| l.0 == *key && l.2 != *key)
        }) {
            self.remove(key);
            gone.insert(key);
        }
        gone
    }
}

#[derive(Debug, Clone)]
enum Op {
    Add(Watch, u32),
    Event(Key, String, u32),
    Forget(BTreeSet<u32>),
}

fn ops() -> impl Strategy<Value = Op> {
    let key = || (any::<bool>(), 1i32..8);
    let name = || "[a-d]{1,2}";
    let of_unit = |name: String, (public, wd): Key| Watch::Entry {
        wd,
        public,
        name,
        manifest: ManifestRef(1),
        unit: UnitId(1),
    };
    prop_oneof![
        4 => (key(), proptest::option::weighted(0.9, key()), name()).prop_map(|((public, wd), parent, name)| {
            Op::Add(Watch::Directory { wd, public, parent, name }, 0)
        }),
        4 => (key(), name(), 0u32..12).prop_map(move |(key, name, node)| Op::Add(of_unit(name, key), node)),
        1 => (key(), 0u32..12).prop_map(move |(key, node)| Op::Add(of_unit(String::new(), key), node)),
        1 => (key(), 0u32..12).prop_map(|((public, wd), node)| {
            Op::Add(Watch::Inode { wd, public, manifest: ManifestRef(1), unit: UnitId(1) }, node)
        }),
        5 => (key(), name(), prop_oneof![Just(2u32), Just(0x40), Just(0x80), Just(0x200)])
            .prop_map(|(key, name, bits)| Op::Event(key, name, bits)),
        1 => key().prop_map(|key| Op::Event(key, String::new(), mask::MOVE_SELF)),
        2 => key().prop_map(|key| Op::Event(key, String::new(), mask::IGNORED)),
        1 => proptest::collection::btree_set(0u32..12, 0..6).prop_map(Op::Forget),
    ]
}

proptest! {
    #[test]
    fn it_says_what_going_through_all_says(ops in proptest::collection::vec(ops(), 0..120)) {
        let (mut index, mut naive) = (Index::new(), Naive::default());
        for op in ops {
            match op {
                Op::Add(watch, node) => {
                    let owner = (!matches!(watch, Watch::Directory { .. })).then_some(Node(node));
                    let touch = index.add([(&watch, owner)]);
                    prop_assert_eq!(touch, Touch { dirty: naive.add(&watch, owner), rescan: false });
                }
                Op::Event(key, name, bits) => {
                    let touch = index.event(key, &name, bits);
                    prop_assert_eq!(touch, Touch { dirty: naive.event(key, &name, bits), rescan: false });
                }
                Op::Forget(numbers) => {
                    let gone: BTreeSet<Node> = numbers.into_iter().map(Node).collect();
                    prop_assert_eq!(index.forget(&gone), naive.forget(&gone));
                }
            }
            let places: BTreeSet<Key> = index.places.keys().copied().map(key).collect();
            prop_assert_eq!(places, naive.places.clone());
            let mirrored: BTreeSet<_> = index.links.up.iter().map(|(i, a, n)| (*a, *n, *i)).collect();
            prop_assert_eq!(&mirrored, &index.links.down);
        }
    }
}

#[test]
fn laid_out_anew_it_is_the_same_without_room_to_spare() {
    let mut index = example();
    for number in 0..1000 {
        let name = format!("file {number}");
        index.add([(&entry(2 + number % 7, &name), Some(Node(number.cast_unsigned())))]);
    }
    let before = index.clone();
    let bytes = index.bytes();
    index.rest();
    assert_eq!(index, before);
    assert!(index.bytes() < bytes, "{} of {bytes}", index.bytes());
    let touched = |index: &mut Index| index.event((false, 3), "file 8", mask::MOVED).dirty;
    assert_eq!(touched(&mut index), nodes(&[8]));
    // It goes on from there.
    index.add([(&entry(3, "b"), Some(Node(5)))]);
    assert_eq!(index.event((false, 3), "b", mask::MOVED).dirty, nodes(&[5, 12]));
}
