//! A time as RFC 3339 writes it. Pure.

/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;
/// 10000-01-01T00:00:00Z in milliseconds: RFC 3339 has four digits for the year.
const YEAR_10000_MS: u64 = 253_402_300_800_000;
/// Days of a month when the year begins with March, so that a leap day is the last.
const MONTH_DAYS_FROM_MARCH: [u64; 12] = [31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 31, 29];

/// `unix_ms` milliseconds after the Unix epoch in UTC, such as `2026-11-23T08:05:09.120Z`; `None` from the
/// year 10000 on.
pub(crate) fn utc(unix_ms: u64) -> Option<String> {
    if unix_ms >= YEAR_10000_MS {
        return None;
    }
    let (year, month, day) = date(unix_ms / DAY_MS);
    let ms = unix_ms % DAY_MS;
    Some(format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        ms / 3_600_000,
        ms / 60_000 % 60,
        ms / 1_000 % 60,
        ms % 1_000
    ))
}

/// Year, month and day of the Gregorian calendar, `unix_days` after 1970-01-01.
fn date(unix_days: u64) -> (u64, u64, u64) {
    // Days since 1600-03-01: the leap days of a 400-year cycle are at the ends of its parts.
    let days = unix_days + 135_080;
    let (cycles, days) = (days / 146_097, days % 146_097);
    let centuries = (days / 36_524).min(3);
    let days = days - centuries * 36_524;
    let (fours, days) = (days / 1_461, days % 1_461);
    let years = (days / 365).min(3);
    let mut day = days - years * 365;
    let mut month = 3;
    for length in MONTH_DAYS_FROM_MARCH {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    let year = 1600 + cycles * 400 + centuries * 100 + fours * 4 + years;
    if month > 12 {
        (year + 1, month - 12, day + 1)
    } else {
        (year, month, day + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_are_written_as_the_calendar_has_them() {
        for (unix_s, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (68_169_599, "1972-02-28T23:59:59.000Z"),
            (68_169_600, "1972-02-29T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_767_225_599, "2025-12-31T23:59:59.000Z"),
            (1_795_421_109, "2026-11-23T08:05:09.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799, "9999-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(utc(unix_s * 1_000).as_deref(), Some(expected), "{unix_s}");
        }
        assert_eq!(utc(7).as_deref(), Some("1970-01-01T00:00:00.007Z"));
        assert_eq!(utc(YEAR_10000_MS), None);
        assert_eq!(utc(u64::MAX), None);
    }

    #[test]
    fn each_day_of_eight_centuries_follows_the_one_before() {
        let leap =
            |y: u64| (y.is_multiple_of(4) && !y.is_multiple_of(100)) || y.is_multiple_of(400);
        let mut expected = (1970, 1, 1);
        for unix_days in 0..292_194 {
            assert_eq!(date(unix_days), expected);
            let (year, month, day) = expected;
            let length = match month {
                2 if leap(year) => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected = match (day == length, month == 12) {
                (false, _) => (year, month, day + 1),
                (true, false) => (year, month + 1, 1),
                (true, true) => (year + 1, 1, 1),
            };
        }
    }
}
