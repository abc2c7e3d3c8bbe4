//! Places at which a test can have the worker killed, to see that a crash there loses nothing.

use std::sync::atomic::{AtomicU64, Ordering};

static LEFT: AtomicU64 = AtomicU64::new(0);

/// From now on the `n`th call of [`point`] is the last thing that this process does; 0 disarms.
pub fn arm(n: u64) {
    LEFT.store(n, Ordering::Relaxed);
}

/// How many calls are left until then; 0 when disarmed or when they ran out.
pub fn left() -> u64 {
    LEFT.load(Ordering::Relaxed)
}

/// A place at which the worker may die. Costs one load where nothing is armed.
pub fn point() {
    let left = LEFT.load(Ordering::Relaxed);
    if left == 0 {
        return;
    }
    LEFT.store(left - 1, Ordering::Relaxed);
    if left == 1 {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}
