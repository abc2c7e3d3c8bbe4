//! What the watch index costs: `cargo run -p cm-core --example watch-index`.

use cm_core::engine::Node;
use cm_core::proto::{ManifestRef, Watch};
use cm_core::watch::Index;
use units::UnitId;

const FILES: u32 = 10_000;

fn index(directories: u32) -> Index {
    let mut index = Index::new();
    for n in 0..FILES {
        let wd = i32::try_from(n % directories).unwrap_or_default() + 2;
        let (public, parent) = (false, Some((false, 1)));
        if n < directories {
            let name = format!("directory-{n}");
            index.add([(&Watch::Directory { wd, public, parent, name }, None)]);
        }
        let (manifest, unit) = (ManifestRef(1), UnitId(n));
        let name = format!("a-name-of-usual-length-{n}");
        index.add([(&Watch::Entry { wd, public, name, manifest, unit }, Some(Node(n)))]);
    }
    index
}

fn main() {
    for directories in [1, 50, 1000, FILES] {
        let bytes = index(directories).bytes();
        println!("{FILES} files in {directories} directories: {} bytes a file", bytes / FILES as usize);
    }
}
