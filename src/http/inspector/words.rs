//! Numbers, sizes and times in words.

use std::time::Duration;

use crate::engine::BatchState;
use crate::model::seq::Millis;

/// A moment: for programs, for people, and how long ago it was.
pub(super) struct Moment {
    pub(super) iso: String,
    pub(super) text: String,
    pub(super) ago: String,
}

impl Moment {
    pub(super) fn of(at: Millis, now: Millis) -> Self {
        Self { iso: at.iso_8601(), text: shown(at, "%-d %b %Y, %H:%M:%S UTC"), ago: ago(at, now) }
    }
}

/// The time of day, to the minute.
pub(super) fn minute(at: Millis) -> String {
    shown(at, "%H:%M UTC")
}

fn shown(at: Millis, form: &str) -> String {
    let stamp = i64::try_from(at.0).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    stamp.unwrap_or(jiff::Timestamp::MAX).strftime(form).to_string()
}

fn ago(at: Millis, now: Millis) -> String {
    let seconds = now.0.abs_diff(at.0) / 1000;
    let (count, unit) = match seconds {
        0 => return "now".into(),
        1..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    if at <= now { format!("{count} {unit}{plural} ago") } else { format!("in {count} {unit}{plural}") }
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many rows.
pub(super) fn rows(count: u64) -> String {
    format!("{} {}", grouped(count), if count == 1 { "row" } else { "rows" })
}

/// A size.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{}.{} KiB", bytes >> 10, ((bytes & 1_023) * 10) >> 10),
        1_048_576..1_073_741_824 => format!("{}.{} MiB", bytes >> 20, ((bytes & 1_048_575) * 10) >> 20),
        _ => format!("{}.{} GiB", bytes >> 30, ((bytes & 1_073_741_823) * 10) >> 30),
    }
}

/// How long something lasts.
pub(super) fn lasting(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

/// How far a batch is.
pub(super) fn state(state: BatchState) -> &'static str {
    state.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_written_as_people_read_them() {
        let check = |text: String, expected: &str| assert_eq!(text, expected);
        check(grouped(0), "0");
        check(grouped(999), "999");
        check(grouped(1_000), "1,000");
        check(grouped(52_428_800), "52,428,800");
        check(rows(1), "1 row");
        check(rows(2_000), "2,000 rows");
        check(size(1_023), "1023 B");
        check(size(1_536), "1.5 KiB");
        check(size(52_428_799), "49.9 MiB");
        check(size(26_508_238_848), "24.6 GiB");
        check(ago(Millis(1_000), Millis(1_999)), "now");
        check(ago(Millis(0), Millis(1_000)), "1 second ago");
        check(ago(Millis(0), Millis(7_200_000)), "2 hours ago");
        check(ago(Millis(86_400_000), Millis(0)), "in 1 day");
        check(Moment::of(Millis(1_701_473_848_678), Millis(0)).text, "1 Dec 2023, 23:37:28 UTC");
    }
}
