//! What is made has its declared mode whatever the umask; alone in its process, since the umask is everybody's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use cm_core::proto::Intent;
use common::{Bench, Decl};

#[test]
fn nothing_depends_on_the_umask() {
    let mut bench = Bench::new();
    let old = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o777));
    let decl = Decl::new().file("/etc/a/b", "x").directory("/etc/d", None);
    bench.converge(&decl, Intent::Apply);
    nix::sys::stat::umask(old);
    assert_eq!((bench.mode("/etc/a/b"), bench.mode("/etc/a"), bench.mode("/etc/d")), (0o644, 0o755, 0o755));
}
