//! How the programs of the profiles `release` and `image` are linked, in which a panic aborts: without the tables that
//! unwinding needs, and with relocations in a few words instead of three each (elf(5), DT_RELR; glibc 2.36 and newer).

use std::path::Path;

fn main() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cm-core/link/abort.ld");
    println!("cargo::rerun-if-changed={}", script.display());
    // Of profiles that are made from it this says the same.
    if std::env::var("PROFILE").is_ok_and(|p| p == "release") {
        for argument in ["-z,pack-relative-relocs", "--no-eh-frame-hdr", &format!("-T,{}", script.display())]
        {
            println!("cargo::rustc-link-arg-bins=-Wl,{argument}");
        }
    }
}
