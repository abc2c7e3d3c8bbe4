//! The journal: what a disk gives back after anything at all.

use cm_core::store::index::Index;
use cm_core::store::journal::{Encoder, MAGIC, check, recover, replay};
use cm_core::store::layers::{self, Named};
use cm_core::store::record::{Own, Prior, Record};
use units::kept::{Kept, Stored};
use units::load::MemoryLoader;
use units::pick::Pick;
use units::stack::{self, From};

use super::Target;

fn records() -> Vec<Record> {
    let own = Own { unit: "file:/a".to_owned(), created: true, digest: Some([3; 32]), fs: 0 };
    let undo = |thing: &str, prior: Prior| Record::Undo {
        transition: 1,
        unit: "file:/a".to_owned(),
        thing: thing.to_owned(),
        prior,
        own: None,
    };
    vec![
        Record::Prepared { generation: 1, digest: [1; 32], when: 7, note: "by root".to_owned() },
        Record::Switching { generation: 1, transition: 1 },
        undo("/a", Prior::Absent),
        undo("/b", Prior::Untouched),
        Record::Own { thing: "/a".to_owned(), own },
        Record::Trial { generation: 1 },
        Record::Committed { generation: 1 },
    ]
}

fn journal(records: &[Record]) -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::new(), MAGIC.to_vec());
    for record in records {
        encoder.encode(record, &mut out).expect("a short record");
    }
    out
}

/// The bytes of a journal file.
pub const JOURNAL: Target = Target {
    name: "journal",
    seeds: || vec![journal(&[]), journal(&records()), journal(records().get(..4).unwrap_or_default())],
    words: &[],
    run: |bytes| {
        let read = replay(bytes);
        assert!(read.valid_len <= bytes.len(), "more holds than there is");
        let _ = check(bytes, &read);
        let kept = bytes.get(..read.valid_len).unwrap_or_default();
        assert_eq!(replay(kept), read, "what was cut off changes what holds");
        follow(&read.records);
    },
};

/// Records that hold, in any order: what a journal is written of after its checksums are right.
pub const RECORDS: Target = Target {
    name: "records",
    seeds: || vec![postcard::to_allocvec(&records()).unwrap_or_default()],
    words: &["file:/a", "/a"],
    run: |bytes| {
        let Ok(records) = postcard::from_bytes::<Vec<Record>>(bytes) else { return };
        let written = journal(&records);
        assert_eq!(replay(&written).records, records, "a journal reads other than it was written");
        follow(&records);
    },
};

fn follow(records: &[Record]) {
    let mut index = Index::default();
    for record in records {
        index.apply(record);
    }
    assert_eq!(index.recovery(), recover(records), "index and journal disagree on what is to be recovered");
    let _ = (index.current(), index.previous(), index.contents());
    let (compact, _) = index.compact();
    let mut again = Index::default();
    for record in &compact {
        again.apply(record);
    }
    assert_eq!(again.current(), index.current(), "a compact journal has another current generation");
    for generation in 0..4 {
        let _ = (index.is_back(generation), index.first_touches(generation), index.linked_in(generation));
    }
}

/// A kept layer, which a process wrote that had read what people wrote; and a list of layers.
pub const LAYER: Target = Target {
    name: "layer",
    seeds: || {
        let mut files = MemoryLoader::new()
            .file("/s.toml", "include = [\"d/*.toml\"]\n[file.\"/a\"]\nsource = \"a\"\n")
            .file("/d/b.toml", "[target.b]\n")
            .file("/a", "text");
        let state = stack::compile(vec![("main".to_owned(), From::Files("/s.toml".to_owned()))], &mut files);
        let part = Stored::Part { old: None, new: [1; 32], pick: Pick::Only(vec!["/a".to_owned()]) };
        let list = [("main", 1), ("local", 2)];
        let list = list.map(|(name, n)| Named { name: name.to_owned(), digest: [n; 32] });
        let layers = [Stored::State(state.archive), part].into_iter().flat_map(|s| s.encode().ok());
        layers.chain([layers::encode(&list).into_bytes()]).collect()
    },
    words: &["main", "local", "dropin:a", "/s.toml", "sum ", "[file.\"/b\"]\n", "override = true\n"],
    run: |bytes| {
        if let Some(list) = layers::decode(&super::lossy(bytes)) {
            assert_eq!(layers::decode(&layers::encode(&list)), Some(list), "a list reads other than written");
        }
        let Some(stored) = Stored::decode(bytes) else { return };
        let written = stored.encode().expect("a layer that was read");
        assert_eq!(Stored::decode(&written).as_ref(), Some(&stored), "a layer reads other than written");
        let Stored::State(archive) = stored else { return };
        let kept = From::Kept(Kept::State(archive));
        let layers = ["main", "local"].map(|name| (name.to_owned(), kept.clone()));
        let compiled = stack::compile(layers.to_vec(), &mut MemoryLoader::new()).compiled;
        assert!(
            compiled.manifest.is_some() || compiled.diagnostics.iter().any(|d| d.is_error()),
            "no reason"
        );
    },
};
