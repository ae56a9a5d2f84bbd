//! The rows for every bench and every peer: five attributes, about 75 bytes per row, one visitor in ten unknown.

use std::fmt::Write as _;
use std::ops::Range;

/// The attributes of a row.
pub const NAMES: [&str; 5] = ["tier", "points", "city", "lastPurchase", "segment"];
/// One row in this many names an unknown visitor.
pub const UNKNOWN_EVERY: usize = 10;
/// The most rows of one file.
pub const FILE_ROWS: usize = 500_000;

pub struct Row {
    pub id: String,
    pub values: [String; 5],
}

/// A batch for a number of profiles. Its visitors are spread evenly over the profiles, in random order; one in ten is
/// unknown. Another round has other values for the same visitors.
#[derive(Clone, Copy)]
pub struct Batch {
    pub profiles: usize,
    pub rows: usize,
    pub round: usize,
}

impl Batch {
    pub fn rows(self) -> impl Iterator<Item = Row> {
        (0..self.rows).map(move |n| self.row(n))
    }

    pub fn row(self, n: usize) -> Row {
        Row { id: self.id(n), values: values(n, self.round) }
    }

    pub fn known(self) -> usize {
        self.rows - self.rows.div_ceil(UNKNOWN_EVERY)
    }

    /// The visitor of row `n`.
    pub fn id(self, n: usize) -> String {
        match n % UNKNOWN_EVERY {
            0 => format!("unknown-{n:08}"),
            // A permutation, so that no peer profits from sorted rows.
            _ => id(self.profiles / self.rows * (n * 7_919 % self.rows)),
        }
    }

    /// The points in row `n`.
    pub fn points(self, n: usize) -> String {
        points(n, self.round)
    }

    /// The batch file.
    pub fn csv(self) -> Vec<u8> {
        csv(self.rows())
    }
}

/// The profiles that a bench starts with.
pub fn seeds(visitors: Range<usize>) -> impl Iterator<Item = Row> {
    visitors.map(|n| Row { id: id(n), values: values(n, 0) })
}

/// The files that create these profiles.
pub fn seed_files(profiles: usize) -> impl Iterator<Item = Vec<u8>> {
    let files = (0..profiles).step_by(FILE_ROWS);
    files.map(move |first| csv(seeds(first..(first + FILE_ROWS).min(profiles))))
}

pub fn id(n: usize) -> String {
    format!("crm-{n:012}")
}

/// The device of visitor `n`.
pub fn pc_id(n: usize) -> String {
    format!("device-{n:012}")
}

/// The bytes of a profile's names, values and keys, plus 17 bytes for each attribute's seq and source.
pub fn live_bytes(profiles: usize, round: usize) -> usize {
    let sample = (0..1_000).map(|n| n * profiles.div_ceil(1_000) % profiles.max(1));
    let bytes = |n: usize| -> usize {
        let texts: usize =
            NAMES.iter().zip(values(n, round)).map(|(name, value)| name.len() + value.len() + 17).sum();
        // A key: the client with its length, the kind of id, the id.
        1 + "demo".len() + 1 + id(n).len() + texts
    };
    sample.map(bytes).sum::<usize>() * profiles / 1_000
}

fn points(n: usize, round: usize) -> String {
    format!("{}", n % 10_000 + round)
}

fn values(n: usize, round: usize) -> [String; 5] {
    [
        format!("gold-{}", n % 7),
        points(n, round),
        format!("Amsterdam-{}", n % 89),
        format!("2026-11-{:02}T{:02}", n % 28 + 1, n % 24),
        format!("autumn-segment-{}-{round}", n % 17),
    ]
}

/// Rows as a batch file.
pub fn csv(rows: impl Iterator<Item = Row>) -> Vec<u8> {
    csv_by("thirdPartyId", rows)
}

/// Rows as a batch file, keyed by ids of this kind.
pub fn csv_by(kind: &str, rows: impl Iterator<Item = Row>) -> Vec<u8> {
    let mut text = format!("batch={kind},{}\n", NAMES.join(","));
    for Row { id, values } in rows {
        writeln!(text, "{id},{}", values.join(",")).unwrap();
    }
    text.into_bytes()
}
