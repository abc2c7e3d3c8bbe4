//! Layers in the store: one file each, however many generations have it; what a generation is made of beside them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};

use cm_core::proto::LayerChange;
use cm_core::store::{Record, Store, hex, layers as stored};
use cm_core::worker::layers::{self, Base, Onto};
use units::kept::Stored;
use units::load::MemoryLoader;
use units::pick::Pick;
use units::stack::{self, From};
use units::{Kind, Manifest};

struct Bench {
    dir: tempfile::TempDir,
    store: Store,
    boot: Option<PathBuf>,
}

fn change(name: &str, remove: bool) -> LayerChange {
    LayerChange { name: name.to_owned(), remove }
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Bench { dir, store, boot: None }
    }

    fn onto(&self) -> Onto {
        let generation = self.store.index().current().unwrap_or(0);
        Onto { store: self.dir.path().join("store"), boot: self.boot.clone(), generation }
    }

    fn base(&self, name: &str, remove: bool) -> Result<Base, String> {
        layers::base(&self.onto(), &change(name, remove))
    }

    /// What the worker does for an apply: the number, and the manifest.
    fn prepare(&mut self, name: &str, text: Option<&str>, pick: Option<&Pick>) -> (u64, Manifest) {
        let change = change(name, text.is_none());
        let base = layers::base(&self.onto(), &change).unwrap();
        let mut layers: stack::Stack =
            base.others.iter().map(|(n, kept)| (n.name.clone(), From::Kept(kept.clone()))).collect();
        let mut loader = MemoryLoader::new().file("/source", format!("source of {name}"));
        if let Some(text) = text {
            loader = loader.file("/state", text);
            layers.push((name.to_owned(), From::Files("/state".to_owned())));
        }
        let stacked = stack::compile(layers, &mut loader);
        let mistakes = format!("{:?}", stacked.compiled.diagnostics);
        let manifest = stacked.compiled.manifest.unwrap_or_else(|| panic!("{mistakes}"));
        let staging = self.dir.path().join("staging");
        let _ = fs::remove_dir_all(&staging);
        fs::create_dir(&staging).unwrap();
        for (content, place) in &stacked.compiled.contents {
            let bytes = match place {
                units::Where::Inline(bytes) => bytes.clone(),
                units::Where::Source(_) => format!("source of {name}").into_bytes(),
            };
            fs::write(staging.join(hex(&content.digest)), bytes).unwrap();
        }
        let fresh = Stored::State(stacked.archive).encode().unwrap();
        if let Some(listed) = base.with(&change, &fresh, pick).unwrap() {
            listed.stage(&self.dir.path().join("store"), &staging).unwrap();
        }
        self.store.lock().unwrap();
        let number = self.store.prepare(&manifest, &[staging], "", false).unwrap();
        self.store.unlock();
        (number, manifest)
    }

    fn apply(&mut self, name: &str, text: Option<&str>) -> u64 {
        let number = self.prepare(name, text, None).0;
        self.commit(number);
        number
    }

    fn commit(&mut self, generation: u64) {
        if self.store.index().current() == Some(generation) {
            return;
        }
        let transition = self.store.index().transitions + 1;
        self.store.record(&[Record::Switching { generation, transition }]).unwrap();
        self.store.record(&[Record::Committed { generation }]).unwrap();
    }

    fn files(&self) -> usize {
        fs::read_dir(self.path("layers")).unwrap().count()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("store").join(name)
    }

    fn names(&self, generation: u64) -> Vec<String> {
        let list = stored::of_generation(&self.path(""), generation).unwrap();
        list.unwrap().into_iter().map(|l| l.name).collect()
    }
}

fn file(name: &str, text: &str) -> String {
    format!("[file.\"/{name}\"]\ncontent = \"{text}\"\n")
}

fn over(name: &str, text: &str) -> String {
    format!("{}override = true\n", file(name, text))
}

#[test]
fn a_layer_is_kept_once_and_gone_with_its_last_generation() {
    let mut bench = Bench::new();
    assert_eq!(bench.apply("main", Some(&file("a", "main"))), 1);
    assert_eq!(bench.apply("local", Some(&file("b", "local"))), 2);
    assert_eq!(bench.apply("dropin:x", Some(&file("c", "x"))), 3);
    assert_eq!((bench.files(), bench.names(3)), (3, vec!["main".into(), "dropin:x".into(), "local".into()]));
    assert_eq!(bench.apply("local", Some(&file("b", "local"))), 3, "the same layers");
    assert_eq!(bench.apply("dropin:x", None), 4, "one that led here, made anew");
    assert_eq!((bench.files(), bench.names(4)), (3, vec!["main".into(), "local".into()]));
    assert!(bench.base("dropin:x", true).unwrap_err().contains("generation 4 has main, local"));
    // What nobody has any more is swept with everything else that nobody names.
    bench.store.lock().unwrap();
    fs::write(bench.path("layers").join(hex(&[7; 32])), "nobody's").unwrap();
    assert_eq!(bench.files(), 4);
    bench.store.compact(true).unwrap();
    assert_eq!(bench.files(), 3);
    assert_eq!(bench.store.damaged_layers(), Vec::<String>::new());
}

#[test]
fn what_a_layer_hides_is_another_generation_and_its_contents_are_kept() {
    let mut bench = Bench::new();
    let main = |text: &str| format!("{}[file.\"/s\"]\nsource = \"/source\"\n", file("a", text));
    bench.apply("main", Some(&main("one")));
    bench.apply("local", Some(&format!("{}{}", over("a", "local"), over("s", "local"))));
    let (hidden, manifest) = bench.prepare("main", Some(&main("two")), None);
    assert_eq!(hidden, 3, "another generation");
    assert_eq!(manifest.digest(), bench.store.load(Some(2)).unwrap().1.digest(), "of the same units");
    bench.commit(hidden);
    bench.store.lock().unwrap();
    bench.store.compact(true).unwrap();
    bench.store.unlock();
    // Its files are gone, and what it hid comes back from the store.
    let (number, manifest) = bench.prepare("local", None, None);
    assert_eq!((number, manifest.len()), (4, 2));
    let content = |name: &str| match manifest.spec(manifest.find(Kind::File, name).unwrap()) {
        Some(units::kind::Spec::File(f)) => f.content.unwrap(),
        other => panic!("{other:?}"),
    };
    for (name, text) in [("/a", "two"), ("/s", "source of main")] {
        assert_eq!(content(name), units::load::content_of(text.as_bytes()), "{name}");
        assert!(bench.store.content(&content(name).digest).is_some(), "{name}");
    }
}

#[test]
fn alone_a_layer_is_what_its_manifest_says() {
    let mut bench = Bench::new();
    assert_eq!(bench.apply("main", Some(&file("a", "main"))), 1);
    let before = stored::of_generation(&bench.path(""), 1).unwrap();
    let text = format!("{}# a remark\n[vars]\nwho = \"somebody\"\n", file("a", "main"));
    assert_eq!(bench.apply("main", Some(&text)), 1, "the same units");
    assert_ne!(stored::of_generation(&bench.path(""), 1).unwrap(), before, "but the text is kept");
    let local = "[file.\"/b\"]\ncontent = \"${vars.who}\"\n";
    assert_eq!(bench.apply("local", Some(local)), 2, "and is there for other layers");
}

#[test]
fn a_generation_of_an_older_store_has_one_layer_that_is_not_kept() {
    let mut bench = Bench::new();
    bench.apply("main", Some(&file("a", "main")));
    fs::remove_dir_all(bench.path("layers")).unwrap();
    fs::remove_file(bench.path("generations/1/layers")).unwrap();
    assert!(bench.base("local", false).unwrap_err().contains("apply its state file once"));
    assert!(bench.base("local", true).is_err() && bench.base("main", false).is_ok());
    // A part of it is a generation of the same sort.
    let pick = Pick::Only(vec!["/a".to_owned()]);
    let (part, _) = bench.prepare("main", Some(&file("a", "part")), Some(&pick));
    assert_eq!((part, stored::of_generation(&bench.path(""), part).unwrap()), (2, None));
    let store = bench.dir.path().join("store");
    bench.store = Store::open(&store).unwrap();
    assert_eq!(bench.apply("main", Some(&file("a", "main"))), 1, "it keeps its number");
    assert_eq!(bench.names(1), ["main"]);
    assert_eq!(bench.apply("local", Some(&file("b", "local"))), 3);
}

#[test]
fn damage_is_told_with_the_layer_and_the_way_out() {
    let mut bench = Bench::new();
    bench.apply("main", Some(&file("a", "main")));
    bench.apply("local", Some(&file("b", "local")));
    let list = stored::of_generation(&bench.path(""), 2).unwrap().unwrap();
    let path = bench.path("layers").join(hex(&list[1].digest));
    let whole = fs::read(&path).unwrap();
    fs::write(&path, "other bytes").unwrap();
    let said = bench.base("main", false).unwrap_err();
    assert!(said.contains("layer local of generation 2") && said.contains("--layer local FILE"), "{said}");
    assert!(bench.base("local", false).is_ok(), "which replaces it");
    assert_eq!(bench.store.damaged_layers().len(), 1);
    // Nothing is thrown away while it is not known what is named.
    bench.store.lock().unwrap();
    bench.store.compact(true).unwrap();
    assert!(path.exists());
    bench.store.unlock();
    assert_eq!(bench.apply("local", Some(&file("b", "local"))), 2);
    assert_eq!(fs::read(&path).unwrap(), b"other bytes", "the same layers: nothing is done");
    fs::write(&path, whole).unwrap();
    fs::write(bench.path("generations/2/layers"), "holdfast layers 1\n").unwrap();
    assert!(bench.base("main", false).unwrap_err().contains("list of layers of generation 2 is damaged"));
}

#[test]
fn generation_0_has_the_layer_that_lies_beside_it() {
    let mut bench = Bench::new();
    let boot = bench.dir.path().join("boot");
    fs::create_dir(&boot).unwrap();
    bench.boot = Some(boot.clone());
    assert!(bench.base("local", false).unwrap().others.is_empty(), "an empty generation 0");
    let mut loader = MemoryLoader::new().file("/image", file("a", "image"));
    let image = stack::compile(vec![("main".to_owned(), From::Files("/image".to_owned()))], &mut loader);
    fs::write(boot.join("manifest"), image.compiled.manifest.unwrap().as_bytes()).unwrap();
    assert!(bench.base("local", false).is_err(), "of an older image its state is not known");
    fs::write(boot.join("layer"), Stored::State(image.archive).encode().unwrap()).unwrap();
    let contents = boot.join("blobs");
    fs::create_dir(&contents).unwrap();
    assert_eq!(bench.apply("local", Some(&file("b", "local"))), 1);
    assert_eq!(bench.names(1), ["main", "local"]);
    let (_, manifest) = bench.store.load(Some(1)).unwrap();
    assert!(manifest.find(Kind::File, "/a").is_some() && Path::new(&boot).exists());
}
