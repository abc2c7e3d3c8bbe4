//! Figures of a batch of many small files, beside the physical limit: a bare open–read–compare loop, and a bare
//! write–rename loop. Run with `cargo run --profile image -p cm-core --example many_files [COUNT]`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::fs;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use cm_core::proto::{Action, Intent, ManifestRef, Outcome, Step};
use cm_core::resource::world::{Setup, World};
use cm_core::store::{Record, Store, hex};
use cm_core::worker::batch::{self, Batch, Confinement, Manifests};
use sha2::{Digest, Sha256};
use units::kind::file::{File, Ownership};
use units::kind::{Attributes, Content, Spec};
use units::manifest::{ManifestBuilder, NewUnit};
use units::{Kind, Manifest};

fn text(n: usize, generation: usize) -> String {
    format!("# file {n} of generation {generation}\n").repeat(20)
}

fn manifest(count: usize, generation: usize, contents: &std::path::Path) -> Manifest {
    let mut builder = ManifestBuilder::new();
    for n in 0..count {
        let bytes = text(n, generation);
        let digest: [u8; 32] = Sha256::digest(bytes.as_bytes()).into();
        fs::write(contents.join(hex(&digest)), &bytes).unwrap();
        let path = format!("/srv/d{}/f{n}", n % 100);
        let file = File {
            path: path.clone(),
            content: Some(Content { digest, size: bytes.len() as u64 }),
            attributes: Attributes { mode: Some(0o644), ..Attributes::default() },
            ownership: Ownership::Whole,
            secret: false,
        };
        builder.unit(NewUnit::new(Kind::File, path, Spec::File(file)));
    }
    builder.finish()
}

fn best(times: usize, mut work: impl FnMut()) -> Duration {
    (0..times)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed()
        })
        .min()
        .unwrap_or_default()
}

fn main() {
    let count: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let dir = std::env::temp_dir().join(format!("many-files-{}", std::process::id()));
    for sub in ["root", "boot", "run"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    let manifests = Manifests::from([
        (ManifestRef(1), (1, manifest(count, 1, &dir.join("boot")))),
        (ManifestRef(2), (2, manifest(count, 2, &dir.join("boot")))),
    ]);
    let setup = Setup {
        root: dir.join("root"),
        boot_contents: Some(dir.join("boot")),
        run: dir.join("run"),
        ..Setup::default()
    };
    let mut world = World::new(setup.clone()).unwrap();
    let mut store = Store::open(&dir.join("store")).unwrap();
    store.record(&[Record::Switching { generation: 1, transition: 1 }]).unwrap();
    world.store = Some(store);
    let run = |world: &mut World, generation: u32, intent: Intent, want: Outcome| {
        let steps = manifests[&ManifestRef(generation)]
            .1
            .ids()
            .map(|unit| Step { manifest: ManifestRef(generation), unit, action: Action::Converge })
            .collect();
        let batch = Batch { generation: u64::from(generation), intent, steps };
        let mut answered = 0;
        batch::run(world, &manifests, &batch, Confinement::Full, &mut |r| {
            assert_eq!(r.outcome, want, "{}", r.detail);
            answered += 1;
        })
        .unwrap();
        assert_eq!(answered, count);
    };
    let line = |what: &str, took: Duration, limit: Option<Duration>| {
        let ratio = limit
            .map_or(String::new(), |l| format!("  {:.2} × the limit", took.as_secs_f64() / l.as_secs_f64()));
        println!("{what:<44} {:>8.1} ms{ratio}", took.as_secs_f64() * 1e3);
    };

    // The limits.
    let paths: Vec<_> =
        (0..count).map(|n| (dir.join(format!("root/srv/d{}/f{n}", n % 100)), text(n, 1))).collect();
    let write = || {
        for d in 0..100 {
            fs::create_dir_all(dir.join(format!("limit/d{d}"))).unwrap();
        }
        for (n, (_, text)) in paths.iter().enumerate() {
            let target = dir.join(format!("limit/d{}/f{n}", n % 100));
            let temporary = target.with_extension("new");
            fs::File::create(&temporary).unwrap().write_all(text.as_bytes()).unwrap();
            fs::rename(&temporary, &target).unwrap();
        }
        nix::unistd::syncfs(fs::File::open(&dir).unwrap()).unwrap();
    };
    let bare = best(1, write);
    line("bare write, rename, one syncfs", bare, None);
    let over = best(1, write);
    line("the same over what is there", over, None);
    let start = Instant::now();
    run(&mut world, 1, Intent::Apply, Outcome::Changed);
    line("apply, first time", start.elapsed(), Some(bare));

    let mut buffer = vec![0u8; 128 << 10];
    let compare = best(5, || {
        for (path, text) in &paths {
            let mut file = fs::File::open(path).unwrap();
            let length = file.read(&mut buffer).unwrap();
            assert!(buffer[..length] == *text.as_bytes());
        }
    });
    line("bare open, read, compare", compare, None);
    let fresh = best(5, || {
        world.stamps.clear();
        run(&mut world, 1, Intent::Correct, Outcome::Kept);
    });
    line("check of files that are right, all read", fresh, Some(compare));
    run(&mut world, 1, Intent::Correct, Outcome::Kept);
    let stamped = best(5, || run(&mut world, 1, Intent::Correct, Outcome::Kept));
    line("check again, by a stat each", stamped, Some(compare));
    let start = Instant::now();
    run(&mut world, 2, Intent::Apply, Outcome::Changed);
    line("apply over earlier contents (all saved)", start.elapsed(), Some(over));
    let opened = best(3, || drop(Store::open(&dir.join("store")).unwrap()));
    line("open the store", opened, None);
    fs::remove_dir_all(&dir).unwrap();
}
