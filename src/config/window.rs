//! A weekly window of time, such as `Mon-Fri 08:00-18:00 Europe/Paris`: when batches are applied slowly (R10).
//!
//! Promises: a window follows the local time of its time zone, so business hours stay business hours when daylight saving
//! begins or ends. An hour that the clock repeats is inside twice; an hour that the clock skips never is.

use std::fmt;

use jiff::civil::Weekday;
use jiff::tz::TimeZone;

use super::value::{Scalar, Written};
use crate::model::seq::Millis;

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const DAY_MINUTES: u16 = 24 * 60;

/// Days, hours and a time zone.
#[derive(Clone, PartialEq, Eq)]
pub struct Window {
    text: Box<str>,
    /// The days on which it begins, Monday first.
    days: [bool; 7],
    /// The minute of the day at which it begins.
    from: u16,
    /// The minute at which it ends: of the next day, unless it is later than `from`.
    until: u16,
    zone: TimeZone,
}

impl Window {
    /// Whether that moment is inside.
    pub fn contains(&self, at: Millis) -> bool {
        let Some(at) =
            i64::try_from(at.0).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok())
        else {
            return false;
        };
        let local = self.zone.to_datetime(at);
        let minute = u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
        let begins = |day: Weekday| {
            let day = usize::from(day.to_monday_zero_offset().unsigned_abs());
            self.days.get(day).copied().unwrap_or_default()
        };
        if self.from < self.until {
            return begins(local.weekday()) && (self.from..self.until).contains(&minute);
        }
        // The window goes on past midnight, and belongs to the day on which it began.
        let (today, yesterday) = (local.weekday(), local.weekday().previous());
        (begins(today) && minute >= self.from) || (begins(yesterday) && minute < self.until)
    }

    /// Reads a window; none if the text is not one.
    fn of(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let (days, hours, zone) = (words.next()?, words.next()?, words.next()?);
        if words.next().is_some() {
            return None;
        }
        let (from, until) = hours.split_once('-')?;
        let (from, until) = (minute(from)?, minute(until)?);
        if from == until || from == DAY_MINUTES || until == 0 {
            return None;
        }
        let zone = TimeZone::get(zone).ok()?;
        Some(Self { text: text.into(), days: days_of(days)?, from, until, zone })
    }
}

/// The days that `Mon-Fri`, `Sat` or `Mon,Wed-Thu` names, Monday first. `Fri-Mon` crosses the end of the week.
fn days_of(text: &str) -> Option<[bool; 7]> {
    let day = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        for n in 0..=(last + DAYS.len() - first) % DAYS.len() {
            if let Some(day) = days.get_mut((first + n) % DAYS.len()) {
                *day = true;
            }
        }
    }
    Some(days)
}

/// The minute of the day that `08:00` names; `24:00` is the day's end.
fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    let at = hour * 60 + minute;
    (minute < 60 && at <= DAY_MINUTES).then_some(at)
}

impl Scalar for Window {
    type Value = Self;

    fn parse(written: Written<'_>) -> Result<Self, String> {
        written.text().and_then(Self::of).ok_or_else(<Self as Scalar>::expected)
    }

    fn expected() -> String {
        "days, hours and a time zone, such as \"Mon-Fri 08:00-18:00 Europe/Paris\" or \"Fri-Sun 22:00-06:00 UTC\""
            .into()
    }

    fn value(self) -> Self {
        self
    }

    fn text(&self) -> String {
        format!("{:?}", self.text)
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(window: &str, at: &str, expected: bool) {
        let at: jiff::Timestamp = at.parse().unwrap();
        let millis = Millis(u64::try_from(at.as_millisecond()).unwrap());
        assert_eq!(Window::of(window).unwrap().contains(millis), expected, "{at} in {window}");
    }

    #[test]
    fn business_hours_are_those_of_the_zone() {
        let window = "Mon-Fri 08:00-18:00 Europe/Paris";
        // 2026-11-25 is a Wednesday.
        check(window, "2026-11-25T08:00:00+01", true);
        check(window, "2026-11-25T07:59:59.999+01", false);
        check(window, "2026-11-25T17:59:59.999+01", true);
        check(window, "2026-11-25T18:00:00+01", false);
        check(window, "2026-11-25T07:30:00Z", true);
        check(window, "2026-11-25T17:30:00Z", false);
        check(window, "2026-11-28T12:00:00+01", false);
        check(window, "2026-11-29T12:00:00+01", false);
        check(window, "2026-11-30T12:00:00+01", true);
        check("Mon-Fri 08:00-18:00 America/New_York", "2026-11-25T12:59:00Z", false);
        check("Mon-Fri 08:00-18:00 America/New_York", "2026-11-25T13:00:00Z", true);
        check("Mon-Fri 08:00-18:00 Asia/Kolkata", "2026-11-25T02:30:00Z", true);
        check("Mon-Fri 08:00-18:00 Asia/Kolkata", "2026-11-25T02:29:00Z", false);
        // Where the day differs from the day in UTC.
        check("Sat 00:00-24:00 Pacific/Auckland", "2026-11-27T11:00:00Z", true);
        check("Sat 00:00-24:00 Pacific/Auckland", "2026-11-27T10:59:00Z", false);
    }

    #[test]
    fn days_are_lists_and_ranges_over_the_end_of_the_week() {
        for (days, expected) in [
            ("Mon", "X......"),
            ("Mon-Fri", "XXXXX.."),
            ("sat-SUN", ".....XX"),
            ("Fri-Mon", "X...XXX"),
            ("Tue,Thu", ".X.X..."),
            ("Sun,Mon-Tue,Tue", "XX....X"),
            ("Mon-Sun", "XXXXXXX"),
        ] {
            let found: String =
                days_of(days).unwrap().iter().map(|day| if *day { 'X' } else { '.' }).collect();
            assert_eq!(found, expected, "{days}");
        }
    }

    #[test]
    fn a_window_past_midnight_belongs_to_the_day_on_which_it_began() {
        let window = "Fri 22:00-06:00 UTC";
        check(window, "2026-11-27T21:59:00Z", false);
        check(window, "2026-11-27T22:00:00Z", true);
        check(window, "2026-11-28T00:00:00Z", true);
        check(window, "2026-11-28T05:59:00Z", true);
        check(window, "2026-11-28T06:00:00Z", false);
        check(window, "2026-11-28T22:30:00Z", false);
        check(window, "2026-11-27T05:00:00Z", false);
        check("Sun 22:00-06:00 UTC", "2026-11-30T01:00:00Z", true);
        check("Mon 22:00-06:00 UTC", "2026-11-30T01:00:00Z", false);
        check("Sat 18:00-24:00 UTC", "2026-11-28T23:59:00Z", true);
        check("Sat 18:00-24:00 UTC", "2026-11-29T00:00:00Z", false);
    }

    #[test]
    fn a_window_follows_local_time_when_daylight_saving_begins_or_ends() {
        let window = "Mon-Sun 02:30-08:00 Europe/Paris";
        // Forward, 2026-03-29: 03:00 follows 01:59, so half an hour of the window is skipped.
        check(window, "2026-03-29T00:59:59Z", false);
        check(window, "2026-03-29T01:00:00Z", true);
        check(window, "2026-03-29T05:59:00Z", true);
        check(window, "2026-03-29T06:00:00Z", false);
        // Back, 2026-10-25: 02:00 to 03:00 comes twice.
        check("Sun 02:30-02:45 Europe/Paris", "2026-10-25T00:35:00Z", true);
        check("Sun 02:30-02:45 Europe/Paris", "2026-10-25T00:50:00Z", false);
        check("Sun 02:30-02:45 Europe/Paris", "2026-10-25T01:35:00Z", true);
        // From then on, eight in the morning is another hour of UTC.
        check("Mon-Sun 08:00-18:00 Europe/Paris", "2026-10-24T06:00:00Z", true);
        check("Mon-Sun 08:00-18:00 Europe/Paris", "2026-10-25T06:30:00Z", false);
        check("Mon-Sun 08:00-18:00 Europe/Paris", "2026-10-25T07:00:00Z", true);
    }

    #[test]
    fn a_text_that_is_not_a_window_is_refused() {
        for wrong in [
            "",
            "Mon-Fri 08:00-18:00",
            "08:00-18:00 UTC",
            "Mon-Fri 8:00-18:00 UTC",
            "Mon-Fri 08:00-18:60 UTC",
            "Mon-Fri 08:00-24:01 UTC",
            "Mon-Fri 24:00-06:00 UTC",
            "Mon-Fri 22:00-00:00 UTC",
            "Mon-Fri 08:00-08:00 UTC",
            "Mon-Fri 08:00 UTC",
            "Mo-Fr 08:00-18:00 UTC",
            "Mon- 08:00-18:00 UTC",
            "Mon-Fri, 08:00-18:00 UTC",
            "Mon-Fri 08:00-18:00 Europe/Lutetia",
            "Mon-Fri 08:00-18:00 Europe/Paris now",
        ] {
            assert!(Window::of(wrong).is_none(), "{wrong:?}");
        }
    }
}
