//! Two clocks: what init says in nanoseconds since boot becomes wall-clock times and ages here.

use nix::time::{ClockId, clock_gettime};

/// The two clocks at one moment, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// CLOCK_BOOTTIME.
    pub boot: u64,
    /// Since 1970.
    pub wall: u64,
}

const SECOND: u64 = 1_000_000_000;

impl Clock {
    /// Both now.
    pub fn now() -> Clock {
        let read = |id| {
            let t = clock_gettime(id).ok()?;
            let (s, n) = (u64::try_from(t.tv_sec()).ok()?, u64::try_from(t.tv_nsec()).ok()?);
            s.checked_mul(SECOND)?.checked_add(n)
        };
        Clock {
            boot: read(ClockId::CLOCK_BOOTTIME).unwrap_or_default(),
            wall: read(ClockId::CLOCK_REALTIME).unwrap_or_default(),
        }
    }

    /// A moment since boot as one since 1970.
    pub fn wall_of(&self, boot: u64) -> u64 {
        if boot >= self.boot {
            self.wall.saturating_add(boot.saturating_sub(self.boot))
        } else {
            self.wall.saturating_sub(self.boot.saturating_sub(boot))
        }
    }

    /// A moment since boot as RFC 3339.
    pub fn text_of(&self, boot: u64) -> String {
        rfc3339(self.wall_of(boot))
    }

    /// How long ago a moment since boot was, such as `2m 3s`.
    pub fn age_of(&self, boot: u64) -> String {
        span(self.boot.saturating_sub(boot))
    }

    /// How long until a moment since boot.
    pub fn left_until(&self, boot: u64) -> String {
        span(boot.saturating_sub(self.boot))
    }

    /// How long ago a moment since 1970 was.
    pub fn age_of_wall(&self, wall: u64) -> String {
        span(self.wall.saturating_sub(wall))
    }
}

/// Nanoseconds as text in the two largest units that matter.
pub fn span(nanoseconds: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let mut rest = nanoseconds / SECOND;
    if rest == 0 {
        return format!("{}ms", nanoseconds / 1_000_000);
    }
    let mut parts = Vec::new();
    for (unit, seconds) in UNITS {
        let count = rest / seconds;
        rest %= seconds;
        if count > 0 || !parts.is_empty() {
            parts.push((count, unit));
        }
    }
    let shown: Vec<String> = parts
        .iter()
        .take(2)
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    shown.join(" ")
}

/// Nanoseconds since 1970 as RFC 3339 in UTC, to the second.
pub fn rfc3339(wall: u64) -> String {
    let seconds = wall / SECOND;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Days since 1970-01-01 in the Gregorian calendar. The year is counted from March, so that the leap day is its
/// last one, in eras of 400 years, which all have 146,097 days.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days.saturating_add(719_468);
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_become_dates() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_763_640_000, "2025-11-20T12:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (seconds, text) in cases {
            assert_eq!(rfc3339(seconds * SECOND), text);
        }
    }

    #[test]
    fn ages_are_short() {
        let cases = [
            (0, "0ms"),
            (999, "999ms"),
            (1000, "1s"),
            (61_000, "1m 1s"),
            (3_600_000, "1h"),
            (90_061_000, "1d 1h"),
        ];
        for (ms, text) in cases {
            assert_eq!(span(ms * 1_000_000), text);
        }
        let clock = Clock { boot: 10 * SECOND, wall: 100 * SECOND };
        assert_eq!(clock.wall_of(4 * SECOND), 94 * SECOND);
        assert_eq!(clock.wall_of(12 * SECOND), 102 * SECOND);
        assert_eq!(clock.age_of(4 * SECOND), "6s");
    }
}
