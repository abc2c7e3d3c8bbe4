//! How the programs of the profiles `release` and `image` are linked, in which a panic aborts: without the tables that
//! unwinding needs, with relocations in a few words instead of three each (elf(5), DT_RELR; glibc 2.36 and newer), and
//! with `without_stdio.rs` and `without_unwinding.rs` before the C libraries, whatever else those have beside the same names.

use std::path::Path;

fn main() {
    // What the script finds when it runs: compiled in, it would be the place of whichever tree the script was compiled in.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = Path::new(&package).join("../cm-core/link/abort.ld");
    println!("cargo::rerun-if-changed={}", script.display());
    // Of profiles that are made from it this says the same.
    if std::env::var("PROFILE").is_ok_and(|p| p == "release") {
        let script = format!("-T,{}", script.display());
        for argument in
            ["-z,pack-relative-relocs", "--no-eh-frame-hdr", "--allow-multiple-definition", &script]
        {
            println!("cargo::rustc-link-arg-bins=-Wl,{argument}");
        }
    }
}
