//! When the loop wakes by itself: a moment on the clock on which all deadlines are, so that the time for which a machine is
//! suspended counts. The time-out of epoll_wait(2) is on another one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use cm_core::engine::Mono;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// A timer that is set only while there is a deadline.
#[derive(Debug)]
pub struct Wakeup {
    timer: TimerFd,
    due: Option<Mono>,
}

impl Wakeup {
    /// One that is not set.
    ///
    /// # Errors
    /// What timerfd_create(2) said.
    pub fn new() -> io::Result<Wakeup> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(Wakeup { timer: TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?, due: None })
    }

    /// Its descriptor becomes readable at this moment, or never.
    ///
    /// # Errors
    /// What timerfd_settime(2) said.
    pub fn set(&mut self, due: Option<Mono>) -> io::Result<()> {
        if due == self.due {
            return Ok(());
        }
        match due {
            Some(at) => {
                // 0 would unset it.
                let at = TimeSpec::from_duration(Duration::from_nanos(at.0.max(1)));
                self.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            }
            None => self.timer.unset()?,
        }
        self.due = due;
        Ok(())
    }

    /// The moment has come: the next one is set although it may be the same.
    pub fn passed(&mut self) {
        self.due = None;
    }
}

impl AsRawFd for Wakeup {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::super::now;
    use super::*;

    fn wakes(wakeup: &Wakeup, timeout: PollTimeout) -> bool {
        poll(&mut [PollFd::new(wakeup.timer.as_fd(), PollFlags::POLLIN)], timeout) == Ok(1)
    }

    #[test]
    fn it_wakes_at_its_moment_on_the_clock_of_deadlines_and_else_never() {
        let mut wakeup = Wakeup::new().unwrap();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", wakeup.as_raw_fd())).unwrap();
        assert!(info.lines().any(|l| l == format!("clockid: {}", libc::CLOCK_BOOTTIME)), "{info}");
        assert!(!wakes(&wakeup, PollTimeout::ZERO));
        let due = now().after_ms(20);
        wakeup.set(Some(due)).unwrap();
        assert!(wakes(&wakeup, PollTimeout::from(60_000_u16)) && now() >= due);
        // Whatever is due already wakes at once, again and again.
        for at in [due, Mono(0)] {
            wakeup.passed();
            wakeup.set(Some(at)).unwrap();
            assert!(wakes(&wakeup, PollTimeout::from(60_000_u16)));
        }
        wakeup.set(Some(now().after_ms(3_600_000))).unwrap();
        assert!(!wakes(&wakeup, PollTimeout::ZERO));
        wakeup.set(None).unwrap();
        assert!(!wakes(&wakeup, PollTimeout::ZERO));
    }
}
