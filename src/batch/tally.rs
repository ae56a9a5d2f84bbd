//! Counts how often values occur, in bounded memory.
//!
//! A first pass over the values finds candidates, as Misra and Gries do: while there is room each value has a counter; a value that
//! finds no room takes one from every counter instead, and counters that are empty go. If all values found room, the counters are
//! right. Otherwise a second pass counts the candidates that are left.
//!
//! Promises: counts are exact. A value that is not among the candidates has at most [`Candidates::missed_max`] rows. [`VALUES_MAX`]
//! values are kept, of [`BYTES_MAX`] bytes in all and one more.

use std::collections::HashMap;

/// How many values are counted at once.
pub const VALUES_MAX: usize = 10_000;
/// How many bytes they may have together.
const BYTES_MAX: usize = 8 << 20;

/// The first pass.
#[derive(Debug)]
pub struct Candidates {
    counts: HashMap<Box<str>, u64>,
    bytes: usize,
    /// How often a value found no room.
    rounds: u64,
    limits: (usize, usize),
}

/// The values that occur most often.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frequent {
    /// Values with their counts, the most frequent first; equal ones by the value.
    pub values: Vec<(Box<str>, u64)>,
    /// No other value has more rows.
    pub others_max: u64,
}

impl Default for Candidates {
    fn default() -> Self {
        Self { counts: HashMap::new(), bytes: 0, rounds: 0, limits: (VALUES_MAX, BYTES_MAX) }
    }
}

impl Candidates {
    /// Takes the next value.
    pub fn add(&mut self, value: &str) {
        if let Some(count) = self.counts.get_mut(value) {
            *count += 1;
            return;
        }
        let (values_max, bytes_max) = self.limits;
        if self.counts.len() < values_max && self.bytes < bytes_max {
            self.bytes += value.len();
            self.counts.insert(value.into(), 1);
            return;
        }
        self.rounds += 1;
        let bytes = &mut self.bytes;
        self.counts.retain(|value, count| {
            *count -= 1;
            if *count == 0 {
                *bytes -= value.len();
            }
            *count > 0
        });
    }

    /// How many different values there were; none if they are more than are kept.
    pub fn distinct(&self) -> Option<usize> {
        (self.rounds == 0).then_some(self.counts.len())
    }

    /// The most rows of a value that is no candidate.
    pub fn missed_max(&self) -> u64 {
        self.rounds
    }

    /// The second pass: the candidates without their counts. None if it is not needed.
    pub fn again(&mut self) -> Option<Recount<'_>> {
        if self.rounds == 0 {
            return None;
        }
        self.counts.values_mut().for_each(|count| *count = 0);
        Some(Recount(self))
    }

    /// The values that occur most often, so many at most.
    pub fn frequent(self, most: usize) -> Frequent {
        let missed_max = self.missed_max();
        let mut values: Vec<_> = self.counts.into_iter().collect();
        values.sort_unstable_by(|(a, of_a), (b, of_b)| (of_b, a).cmp(&(of_a, b)));
        let next = values.get(most).map_or(0, |(_, count)| *count);
        values.truncate(most);
        Frequent { values, others_max: next.max(missed_max) }
    }
}

/// The second pass.
#[derive(Debug)]
pub struct Recount<'c>(&'c mut Candidates);

impl Recount<'_> {
    /// Takes the next value again.
    pub fn add(&mut self, value: &str) {
        if let Some(count) = self.0.counts.get_mut(value) {
            *count += 1;
        }
    }
}

/// The smallest, the largest and the mean of values that are numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbers {
    /// The smallest, as it was sent.
    pub smallest: (f64, Box<str>),
    /// The largest, as it was sent.
    pub largest: (f64, Box<str>),
    /// The mean.
    pub mean: f64,
    count: f64,
}

/// Numbers, as long as all values are.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum AllNumbers {
    /// No value came yet.
    #[default]
    None,
    /// All were.
    These(Numbers),
    /// One was not.
    NotAll,
}

impl AllNumbers {
    /// Takes the next value.
    pub fn add(&mut self, value: &str) {
        let number = value.parse::<f64>().ok().filter(|number| number.is_finite());
        match (number, &mut *self) {
            (_, Self::NotAll) => {}
            (None, _) => *self = Self::NotAll,
            (Some(number), Self::None) => {
                let (smallest, largest) = ((number, value.into()), (number, value.into()));
                *self = Self::These(Numbers { smallest, largest, mean: number, count: 1.0 });
            }
            (Some(number), Self::These(all)) => {
                if number < all.smallest.0 {
                    all.smallest = (number, value.into());
                }
                if number > all.largest.0 {
                    all.largest = (number, value.into());
                }
                all.count += 1.0;
                // Both parts stay as small as the numbers: a sum, or a difference, might not.
                all.mean += number / all.count - all.mean / all.count;
            }
        }
    }

    /// The numbers, if all values were.
    pub fn all(self) -> Option<Numbers> {
        match self {
            Self::These(numbers) => Some(numbers),
            Self::None | Self::NotAll => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        /// The model: a count of everything.
        #[test]
        fn counts_are_exact_and_what_is_missed_is_as_rare_as_is_said(
            values in prop::collection::vec("[ab]{1,4}", 0..200), room in 1..12_usize, bytes in 1..40_usize, most in 1..6_usize,
        ) {
            let mut model: HashMap<Box<str>, u64> = HashMap::new();
            let mut found = Candidates { limits: (room, bytes), ..Candidates::default() };
            for value in &values {
                *model.entry(value.as_str().into()).or_default() += 1;
                found.add(value);
                prop_assert!(found.counts.len() <= room && found.bytes <= bytes + 4);
                prop_assert_eq!(found.bytes, found.counts.keys().map(|value| value.len()).sum::<usize>());
            }
            match found.distinct() {
                Some(distinct) => prop_assert_eq!(distinct, model.len()),
                None => prop_assert!(model.len() > room || model.keys().map(|value| value.len()).sum::<usize>() > bytes),
            }
            if let Some(mut again) = found.again() {
                values.iter().for_each(|value| again.add(value));
            }
            let exact = found.distinct().is_some();
            let Frequent { values: frequent, others_max } = found.frequent(most);
            for (value, count) in &frequent {
                prop_assert_eq!(model.get(value), Some(count));
            }
            prop_assert!(frequent.is_sorted_by(|(a, of_a), (b, of_b)| (of_b, a) < (of_a, b)));
            let others = model.iter().filter(|(value, _)| !frequent.iter().any(|(listed, _)| listed == *value));
            let most_of_others = others.map(|(_, count)| *count).max().unwrap_or(0);
            prop_assert!(most_of_others <= others_max, "{} {}", most_of_others, others_max);
            if exact {
                prop_assert_eq!(most_of_others, others_max);
                prop_assert_eq!(frequent.len(), model.len().min(most));
            }
        }
    }

    fn numbers(values: &[&str]) -> Option<(String, String, f64)> {
        let mut all = AllNumbers::default();
        values.iter().for_each(|value| all.add(value));
        all.all().map(|all| (all.smallest.1.into(), all.largest.1.into(), all.mean))
    }

    #[test]
    fn values_are_numbers_if_all_of_them_are() {
        let check = |values: &[&str], expected: Option<(&str, &str, f64)>| {
            let expected = expected.map(|(least, most, mean)| (least.into(), most.into(), mean));
            assert_eq!(numbers(values), expected, "{values:?}");
        };
        check(&[], None);
        check(&["7"], Some(("7", "7", 7.0)));
        check(&["10", "9.50", "-3"], Some(("-3", "10", 5.5)));
        check(&["1", "two", "3"], None);
        check(&["1", "NaN"], None);
        check(&["inf"], None);
        check(
            &["12345678901234567890", "1e3"],
            Some(("1e3", "12345678901234567890", 6_172_839_450_617_284_000.0)),
        );
        check(&["1.7e308", "1.7e308"], Some(("1.7e308", "1.7e308", 1.7e308)));
    }
}
