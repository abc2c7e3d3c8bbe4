use std::os::unix::fs::PermissionsExt;

use sha2::{Digest as _, Sha256};

use super::*;
use crate::store::progress;
use crate::store::record::Digest;

fn prepared(generation: u64) -> Record {
    Record::Prepared { generation, digest: [1; 32], when: 1, note: String::new() }
}

#[test]
fn contents_that_the_history_forgets_do_not_wait_for_a_long_journal() {
    let here = tempfile::tempdir().unwrap();
    let mut store = Store::open(&here.path().join("store")).unwrap();
    let kept = store.save(&mut "kept".as_bytes()).unwrap().digest;
    let forgotten = store.save(&mut "forgotten".as_bytes()).unwrap().digest;
    let replaced = |digest: Digest, when: u64| Record::Replaced {
        unit: "file:/a".into(),
        thing: "/a".into(),
        when,
        why: crate::store::record::Why::Repair,
        generation: 0,
        prior: crate::store::Prior::File { digest, size: SWEEP_FROM / 4, metadata: Default::default() },
    };
    let count = |n: usize| (0..n).map(|n| replaced([u8::try_from(n).unwrap(); 32], 1));
    let records: Vec<Record> = std::iter::once(replaced(forgotten, 0)).chain(count(9)).collect();
    store.record(&records).unwrap();
    assert!(!store.compact(false).unwrap());
    let more: Vec<Record> = count(4).chain([replaced(kept, 2)]).collect();
    store.record(&more).unwrap();
    assert!(store.compact(false).unwrap());
    assert!(store.content(&forgotten).is_none());
    assert!(store.content(&kept).is_some());
    assert!(!store.compact(false).unwrap(), "it is done once");
}

#[test]
fn what_cannot_be_read_to_its_end_leaves_nothing_behind() {
    struct Failing(u64);
    impl std::io::Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(buffer.len() as u64).ok_or(std::io::ErrorKind::FileTooLarge)?;
            Ok(buffer.len())
        }
    }
    let here = tempfile::tempdir().unwrap();
    let mut store = Store::open(&here.path().join("store")).unwrap();
    assert!(store.save(&mut Failing(3 << 20)).is_err());
    assert_eq!(std::fs::read_dir(here.path().join("store/staging")).unwrap().count(), 0);
}

#[test]
fn a_journal_that_is_not_understood_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    store.record(&[prepared(1)]).unwrap();
    let first = usize::try_from(store.length).unwrap();
    store.record(&[prepared(2)]).unwrap();
    store.record(&[prepared(3)]).unwrap();
    drop(store);
    let path = dir.path().join("journal");
    let whole = fs::read(&path).unwrap();
    for (at, words) in [(7, "version"), (0, "does not begin"), (first + 9, "truncate -s")] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        fs::write(&path, &bytes).unwrap();
        for opened in [Store::open(dir.path()), Store::look(dir.path())] {
            let text = opened.unwrap_err().to_string();
            assert!(text.contains(words) && text.contains("journal"), "{text}");
        }
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.index().last_generation, 2);
}

#[test]
fn what_others_appended_is_not_cut_off_when_records_follow_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let start = usize::try_from(store.length).unwrap();
    let mut other = Store::open(dir.path()).unwrap();
    other.record(&[prepared(1)]).unwrap();
    other.record(&[prepared(2)]).unwrap();
    let path = dir.path().join("journal");
    let mut bytes = fs::read(&path).unwrap();
    bytes[start + 9] ^= 0x40;
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(store.lock(), Err(StoreError::Unreadable { .. })));
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_content_that_a_dead_worker_left_is_made_durable() {
    let dir = tempfile::tempdir().unwrap();
    let mut dead = Store::open(dir.path()).unwrap();
    let saved = dead.save(&mut "text".as_bytes()).unwrap();
    drop(dead);
    let mut store = Store::open(dir.path()).unwrap();
    store.save(&mut "text".as_bytes()).unwrap();
    let (path, above) = store.blob_path(&saved.digest);
    assert!(store.unsynced.contains(&(path, above.clone())));
    assert!(store.unsynced.contains(&(above, dir.path().join("blobs"))));
    store.sync().unwrap();
    assert!(store.unsynced.is_empty());
}

#[test]
fn after_a_failed_sync_nothing_passes_for_durable() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let saved = store.save(&mut "text".as_bytes()).unwrap();
    let (path, _) = store.blob_path(&saved.digest);
    fs::remove_file(&path).unwrap();
    store.sync().unwrap_err();
    store.sync().unwrap_err();
    fs::write(&path, "text").unwrap();
    store.sync().unwrap();
}

#[test]
fn what_could_not_be_made_durable_is_taken_back_and_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let own = |thing: &str| Record::Disown { thing: thing.to_owned() };
    let prepared =
        |generation| Record::Prepared { generation, digest: [1; 32], when: 1, note: String::new() };
    store.record(&[prepared(1), own("/a")]).unwrap();
    let sound = fs::read(dir.path().join("journal")).unwrap();
    store.append(&[prepared(2)]).unwrap();
    // fdatasync(2) of this one fails.
    let journal = std::mem::replace(&mut store.journal, File::open("/dev/null").unwrap());
    store.sync().unwrap_err();
    drop(journal);
    assert_eq!(fs::read(dir.path().join("journal")).unwrap(), sound);
    assert!(store.index.generations.contains_key(&1) && !store.index.generations.contains_key(&2));
    store.record(&[prepared(3)]).unwrap();
    let again = Store::open(dir.path()).unwrap();
    assert_eq!(again.index.generations.keys().copied().collect::<Vec<_>>(), [1, 3]);
    // A content that was durable before stays; what was written since is not trusted.
    let before = store.save(&mut "before".as_bytes()).unwrap().digest;
    store.sync().unwrap();
    let text = store.save(&mut "text".as_bytes()).unwrap().digest;
    let gone = (dir.path().join("gone"), dir.path().to_owned());
    store.unsynced.insert(gone.clone());
    store.sync().unwrap_err();
    assert!(store.content(&before).is_some() && store.content(&text).is_none());
    store.save(&mut "text".as_bytes()).unwrap();
    store.unsynced.remove(&gone);
    store.sync().unwrap();
    assert!(store.content(&text).is_some());
}

#[test]
fn a_generation_that_was_left_keeps_its_number_and_one_that_led_here_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let manifest = |name: &str| {
        let mut builder = units::ManifestBuilder::new();
        let spec = Spec::Target(units::kind::target::Target {});
        builder.unit(units::manifest::NewUnit::new(Kind::Target, name, spec));
        builder.finish()
    };
    let go = |store: &mut Store, generation: u64| {
        let transition = store.index().transitions + 1;
        store.record(&[Record::Switching { generation, transition }]).unwrap();
        store.record(&[Record::Committed { generation }]).unwrap();
    };
    let (one, two) = (manifest("one"), manifest("two"));
    for (manifest, number) in [(&one, 1), (&two, 2)] {
        assert_eq!(store.prepare(manifest, &[], "", false).unwrap(), number);
        go(&mut store, number);
    }
    assert_eq!(store.prepare(&two, &[], "", false).unwrap(), 2, "the current one");
    assert_eq!(store.prepare(&one, &[], "", false).unwrap(), 3, "one that led here, applied anew");
    go(&mut store, 1);
    assert_eq!(store.index().current(), Some(1));
    assert_eq!(store.prepare(&two, &[], "", false).unwrap(), 2, "one that was left by a rollback");
    go(&mut store, 2);
    assert_eq!((store.index().current(), store.index().previous()), (Some(2), Some(1)));
}

#[test]
fn a_content_that_a_record_names_is_waited_for_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let saved = store.save(&mut "text".as_bytes()).unwrap();
    store.sync().unwrap();
    let metadata = crate::store::Metadata::default();
    let prior = crate::store::Prior::File { digest: saved.digest, size: saved.size, metadata };
    let thing = "/a".to_owned();
    store.record(&[Record::History { unit: "file:/a".into(), thing, when: 1, prior }]).unwrap();
    store.save(&mut "text".as_bytes()).unwrap();
    assert!(store.unsynced.is_empty(), "{:?}", store.unsynced);
    store.save(&mut "another text".as_bytes()).unwrap();
    assert!(!store.unsynced.is_empty());
}

#[test]
fn a_long_journal_is_not_looked_at_again_until_it_has_grown() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let own = |n: u32| Record::Own {
        thing: format!("/{n}/{}", "x".repeat(1000)),
        own: crate::store::Own { unit: "file:/a".into(), created: true, digest: None, fs: 0 },
    };
    store.append(&(0..5000).map(own).collect::<Vec<_>>()).unwrap();
    assert!(store.length > COMPACT_FROM);
    assert!(!store.compact(false).unwrap());
    assert!(store.compact_from > store.length);
    // The same owners three times over: two thirds of it say nothing.
    for _ in 0..3 {
        store.append(&(0..5000).map(own).collect::<Vec<_>>()).unwrap();
    }
    assert!(store.compact(false).unwrap());
    assert_eq!(store.compact_from, COMPACT_FROM);
}

#[test]
fn what_a_worker_left_half_written_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let digest: Digest = Sha256::digest("a whole text").into();
    let (path, above) = store.blob_path(&digest);
    fs::create_dir_all(above).unwrap();
    fs::write(&path, "a wh").unwrap();
    // Behind a new one, too, where nobody looks before.
    store.save(&mut "another".as_bytes()).unwrap();
    assert!(store.row_of_new);
    assert_eq!(store.save(&mut "a whole text".as_bytes()).unwrap().digest, digest);
    assert_eq!(fs::read_to_string(&path).unwrap(), "a whole text");
    store.put(&digest, b"a whole text").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "a whole text");
    assert!(!store.row_of_new);
}

fn text(n: u32) -> Vec<u8> {
    format!("content {n}\n").into_bytes()
}

/// A manifest with a file of each of these contents, which are staged in a pack.
fn of_contents(staged: &Path, numbers: std::ops::Range<u32>) -> Manifest {
    let mut builder = units::ManifestBuilder::new();
    let mut packer = crate::store::pack::Packer::new(File::create(staged.join("pack")).unwrap());
    for n in numbers {
        let content = units::load::content_of(&text(n));
        packer.add(&content.digest, &text(n)).unwrap();
        let spec = units::kind::file::File {
            path: format!("/srv/{n}"),
            content: Some(content),
            attributes: units::kind::Attributes::default(),
            ownership: units::kind::file::Ownership::Whole,
            secret: false,
        };
        builder.unit(units::manifest::NewUnit::new(Kind::File, format!("/srv/{n}"), Spec::File(spec)));
    }
    packer.flush().unwrap();
    builder.finish()
}

fn has(store: &Store, n: u32) -> bool {
    let mut bytes = Vec::new();
    let found = store.content(&units::load::content_of(&text(n)).digest);
    found.is_some_and(|mut f| f.read_to_end(&mut bytes).is_ok() && bytes == text(n))
}

fn names(store: &Store) -> Vec<String> {
    let mut out: Vec<String> = (fs::read_dir(store.dir.join("packs")).unwrap())
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    out.sort();
    out
}

#[test]
fn many_new_contents_are_one_file_and_few_are_a_file_each() {
    let (dir, staged) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let candidates = [staged.path().to_owned()];
    let mut store = Store::open(dir.path()).unwrap();
    store.save(&mut text(0).as_slice()).unwrap();
    store.prepare(&of_contents(staged.path(), 0..100), &candidates, "", false).unwrap();
    assert_eq!(names(&store), ["1"]);
    assert!((0..100).all(|n| has(&store, n)) && !has(&store, 100));
    assert_eq!(store.packs.all()[0].1.len(), 99, "what was there as a file is not packed");
    assert_eq!(fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
    // Who has just opened it finds them too, and a few more are no pack.
    let mut store = Store::open(dir.path()).unwrap();
    assert!((0..100).all(|n| has(&store, n)));
    store.prepare(&of_contents(staged.path(), 90..102), &candidates, "", false).unwrap();
    assert_eq!(names(&store), ["1"]);
    assert!((100..102).all(|n| has(&store, n)));
    // Most of these are there, so that the second pack has what is new.
    store.prepare(&of_contents(staged.path(), 20..150), &candidates, "", false).unwrap();
    assert_eq!(store.packs.all()[1].1.len(), 48);
    assert_eq!(store.damaged_in_packs(), Vec::<Digest>::new());
}

/// A slow disk takes its time: what is long is waited for in pieces, and told on the way.
#[test]
fn what_takes_long_is_told_and_made_durable_piece_by_piece() {
    use std::os::fd::AsRawFd;
    use std::time::Duration;
    let (dir, staged) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut store = Store::open(dir.path()).unwrap();
    let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
    store.progress = Progress::to(ours.as_raw_fd(), b"alive".to_vec());
    // However long that takes here, no second of it has passed.
    store.progress.every = Duration::MAX;
    let large = vec![7; usize::try_from(progress::PIECE).unwrap() / 2 + 1];
    assert_eq!(store.put(&[1; 32], &large).map(|()| store.unsynced.len()).unwrap(), 2);
    store.end_piece().unwrap();
    assert_eq!(store.unsynced.len(), 2, "not much yet");
    store.put(&[2; 32], &large).unwrap();
    store.end_piece().unwrap();
    assert_eq!((store.unsynced.len(), store.written), (0, 0));
    let mut buffer = [0; 16];
    theirs.set_nonblocking(true).unwrap();
    assert_eq!(theirs.recv(&mut buffer).unwrap(), 5);
    assert!(theirs.recv(&mut buffer).is_err(), "once a second");
    store.progress = Progress::to(ours.as_raw_fd(), b"alive".to_vec());
    store.prepare(&of_contents(staged.path(), 0..2), &[staged.path().to_owned()], "", false).unwrap();
    assert_eq!(theirs.recv(&mut buffer).unwrap(), 5);
    while theirs.recv(&mut buffer).is_ok() {}
    store.progress.every = Duration::ZERO;
    store.progress.goes_on();
    assert_eq!(theirs.recv(&mut buffer).unwrap(), 5, "once its time has come");
}

#[test]
fn small_changes_of_many_files_are_no_packs() {
    let (dir, staged) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let candidates = [staged.path().to_owned()];
    for n in 0..200 {
        // As every apply has it, in a worker of its own.
        let mut store = Store::open(dir.path()).unwrap();
        store.prepare(&of_contents(staged.path(), n..n + 40), &candidates, "", false).unwrap();
        assert!((n..n + 40).all(|n| has(&store, n)));
    }
    assert_eq!(names(&Store::open(dir.path()).unwrap()), ["1"]);
}

#[test]
fn the_name_of_a_pack_that_a_dead_worker_left_is_made_durable() {
    let (dir, staged) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let candidates = [staged.path().to_owned()];
    of_contents(staged.path(), 0..50);
    let take_all = |store: &mut Store| {
        let mut taking = store.taking(&candidates);
        for n in 0..50 {
            let content = units::load::content_of(&text(n));
            store.take_in(&content, &mut taking, &String::new).unwrap();
        }
        store.taken(taking).unwrap();
    };
    let mut dead = Store::open(dir.path()).unwrap();
    take_all(&mut dead);
    drop(dead);
    let mut store = Store::open(dir.path()).unwrap();
    take_all(&mut store);
    assert!(store.unsynced.contains(&(dir.path().join("packs"), dir.path().to_owned())));
    assert_eq!(names(&store), ["1"]);
}

#[test]
fn packs_of_which_little_is_named_are_written_anew() {
    let (dir, staged) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let candidates = [staged.path().to_owned()];
    let mut store = Store::open(dir.path()).unwrap();
    store.prepare(&of_contents(staged.path(), 0..100), &candidates, "", false).unwrap();
    let named = |range: std::ops::Range<u32>| -> BTreeSet<Digest> {
        range.map(|n| units::load::content_of(&text(n)).digest).collect()
    };
    store.sweep_packs(&named(0..60)).unwrap();
    assert_eq!(names(&store), ["1"], "most is named");
    assert!(has(&store, 99));
    store.sweep_packs(&named(10..40)).unwrap();
    assert_eq!(names(&store), ["2"]);
    assert!((10..40).all(|n| has(&store, n)) && !has(&store, 9) && !has(&store, 40));
    store.sweep_packs(&named(200..201)).unwrap();
    assert_eq!(names(&store), Vec::<String>::new());
}

#[test]
fn a_pack_of_which_something_cannot_be_read_is_not_removed() {
    let (dir, staged) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let candidates = [staged.path().to_owned()];
    let mut store = Store::open(dir.path()).unwrap();
    for start in [0, 100] {
        let manifest = of_contents(staged.path(), start..start + 100);
        store.prepare(&manifest, &candidates, "", false).unwrap();
    }
    let named: BTreeSet<Digest> =
        (0..10).chain(100..110).map(|n| units::load::content_of(&text(n)).digest).collect();
    let path = dir.path().join("packs/1");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(text(7).len()).position(|w| w == text(7)).unwrap();
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    drop(store);
    let mut store = Store::open(dir.path()).unwrap();
    store.sweep_packs(&named).unwrap();
    assert_eq!(names(&store), ["1", "3"], "the damaged one stays, the other is written anew");
    assert!((0..7).chain(8..10).chain(100..110).all(|n| has(&store, n)) && !has(&store, 111));
    assert_eq!(store.damaged_in_packs(), [units::load::content_of(&text(7)).digest]);
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    drop(store);
    let mut store = Store::open(dir.path()).unwrap();
    store.sweep_packs(&named).unwrap();
    assert_eq!(names(&store), ["3", "4"]);
    assert!((0..10).chain(100..110).all(|n| has(&store, n)));
}

/// A file system may make a length durable before the bytes.
#[test]
fn what_a_loss_of_power_left_without_its_bytes_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..FSYNC_LIMIT + 5).map(|n| format!("text {n}")).collect();
    let mut dead = Store::open(dir.path()).unwrap();
    for text in &texts {
        let digest = dead.save(&mut text.as_bytes()).unwrap().digest;
        fs::write(dead.blob_path(&digest).0, vec![0; text.len()]).unwrap();
    }
    drop(dead);
    let mut store = Store::open(dir.path()).unwrap();
    for text in &texts {
        let digest = store.save(&mut text.as_bytes()).unwrap().digest;
        assert_eq!(fs::read_to_string(store.blob_path(&digest).0).unwrap(), *text);
    }
    // What was found whole is not trusted for ever.
    let digest: Digest = Sha256::digest("text 0").into();
    fs::write(store.blob_path(&digest).0, [0; 6]).unwrap();
    store.put(&digest, b"text 0").unwrap();
    assert_eq!(fs::read_to_string(store.blob_path(&digest).0).unwrap(), "text 0");
}

#[test]
fn a_store_opens_whatever_a_loss_of_power_took_of_a_long_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let own = |n: u32| Record::Disown { thing: format!("/srv/{n}") };
    let mut store = Store::open(dir.path()).unwrap();
    store.record(&[prepared(1)]).unwrap();
    let durable = usize::try_from(store.length).unwrap();
    store.append(&(0..1000).map(own).collect::<Vec<_>>()).unwrap();
    drop(store);
    let mut bytes = fs::read(&path).unwrap();
    bytes[durable..4096].fill(0);
    fs::write(&path, &bytes).unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    assert_eq!((store.index().last_generation, store.length), (1, durable as u64));
    // What was durable is another matter.
    store.record(&(0..1000).map(own).collect::<Vec<_>>()).unwrap();
    store.record(&[own(1)]).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[durable..4096].fill(0);
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(Store::open(dir.path()), Err(StoreError::Unreadable { .. })));
}

#[test]
fn a_pack_is_believed_before_a_file_of_the_same_content() {
    let (dir, staged) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut store = Store::open(dir.path()).unwrap();
    store.prepare(&of_contents(staged.path(), 0..50), &[staged.path().to_owned()], "", false).unwrap();
    let (path, above) = store.blob_path(&units::load::content_of(&text(7)).digest);
    // Who saves it does not write it once more.
    store.save(&mut text(7).as_slice()).unwrap();
    assert!(!path.exists());
    fs::create_dir_all(above).unwrap();
    fs::write(&path, vec![0; text(7).len()]).unwrap();
    drop(store);
    assert!(has(&Store::open(dir.path()).unwrap(), 7));
}

/// Whoever was killed before its sync ended leaves records that can be read and that no disk has.
#[test]
fn what_a_killed_worker_did_not_make_durable_passes_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let durable = |store: &Store| mark::is_set(&store.lock, store.journal_ino, store.length).unwrap();
    let own = |thing: &str| Record::Disown { thing: thing.to_owned() };
    let mut beside = Store::open(dir.path()).unwrap();
    let mut killed = Store::open(dir.path()).unwrap();
    killed.record(&[own("/a")]).unwrap();
    assert!(durable(&killed));
    killed.append(&[own("/b")]).unwrap();
    assert!(!durable(&killed));
    drop(killed);
    let length = fs::metadata(dir.path().join("journal")).unwrap().len();
    assert!(!mark::is_set(&beside.lock, beside.journal_ino, length).unwrap());
    // Who takes over makes it so before anything says that it is: one that starts, and one that was there.
    let next = Store::open(dir.path()).unwrap();
    assert!(durable(&next) && next.length == length && next.durable == length);
    let mut killed = Store::open(dir.path()).unwrap();
    killed.append(&[own("/c")]).unwrap();
    drop(killed);
    beside.lock().unwrap();
    assert!(durable(&beside) && beside.length > length && beside.durable == beside.length);
    // A new journal in the place of the old one is durable, and of the same length it would not be taken for it.
    beside.compact(true).unwrap();
    assert!(durable(&beside));
    assert!(!mark::is_set(&beside.lock, beside.journal_ino + 1, beside.length).unwrap());
    assert_eq!(fs::metadata(dir.path().join("journal")).unwrap().permissions().mode() & 0o777, 0o600);
}
