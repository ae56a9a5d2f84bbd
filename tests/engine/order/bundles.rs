//! Bundled rows have the same result as the same rows one by one: for any stored value, rules and rows, the profile has the same
//! bytes and each row the same outcome.

use crate::support::seed::{config, with_each_seed};
use profiled::batch::accepted::Accepted;
use profiled::batch::checksum::FileSum;
use profiled::batch::csv::Parser;
use profiled::batch::index::IndexBuilder;
use profiled::batch::pending::Pending;
use profiled::batch::resolve::apply_bundles;
use profiled::model::author::Author;
use profiled::model::batch::{BatchId, BatchRules, ConsecutiveV2, EmptyValues, Outcome, RowReading};
use profiled::model::id::{ClientCode, IdKind, Key};
use profiled::model::profile::{Attribute, Profile, Source, Stored, StoredBytes};
use profiled::model::seq::{Millis, Seq};
use profiled::model::update::{Applied, Row, apply_rows, outcome_of_row_already_in};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

const NAMES: [&str; 3] = ["a", "bb", "ccc"];
const AT: u64 = 10_000;

/// The value that is stored before: attributes and a layer by name and length, at which time, and whether it is dead.
#[derive(Debug, Clone)]
struct Before {
    kind: u8,
    attributes: Vec<(usize, usize)>,
    layer: Vec<(usize, usize)>,
    /// The times that the attributes are of, by number, and that of the layer: after `AT - 100`; none if nobody said.
    times: [Option<u64>; 4],
}

fn value(length: usize) -> String {
    "vwxyz".chars().cycle().skip(length).take(length).collect()
}

fn stored(before: &Before, values: &[String]) -> Option<StoredBytes> {
    let seq = Seq::from_parts(Millis(AT - 50), 0);
    let held = |all: &[(usize, usize)], layered: bool| {
        let by_name: BTreeMap<usize, usize> = all.iter().copied().collect();
        let one = |(name, length): (usize, usize)| Attribute {
            name: NAMES[name],
            value: values[length].as_str(),
            seq,
            source: Source::BatchV2,
            as_of: before.times[if layered { NAMES.len() } else { name }].map(|ms| Millis(AT - 100 + ms)),
        };
        by_name.into_iter().map(one).collect::<Vec<_>>()
    };
    let profile = Profile {
        attributes: held(&before.attributes, false),
        layer: held(&before.layer, true),
        ..Profile::born_at(seq)
    };
    let stored = match before.kind {
        0 => return None,
        1 => Stored::Tombstone { applied_seq: seq, erased: true },
        2 => Stored::Profile(Profile { last_active: Millis(1), ..profile }),
        3 => Stored::Profile(Profile { applied_seq: Seq::from_parts(Millis(AT), 0), ..profile }),
        _ => Stored::Profile(profile),
    };
    Some(stored.encode())
}

fn pending(folder: &Path, rules: &BatchRules, text: &str, bundle_rows_min: usize) -> Pending {
    let (mut parser, mut index, mut rows) =
        (Parser::default(), IndexBuilder::bundling_from(bundle_rows_min), 0);
    let mut each = |row: profiled::batch::csv::Row<'_>| {
        rows += 1;
        index.add(&row, rules.empty_values);
    };
    parser.push(text.as_bytes(), &mut each).unwrap();
    let header = parser.finish(&mut each).unwrap().clone();
    let upload = folder.join("upload");
    std::fs::write(&upload, text).unwrap();
    let path = folder.join(format!("{bundle_rows_min}.index"));
    let index = index.finish(&path, &upload, &header, rules).unwrap();
    let FileSum { bytes, crc32c } = FileSum::of(text.as_bytes());
    let id = BatchId { client: ClientCode::new("demo").unwrap(), seq: rules.seq };
    let key_kind = header.key_kind();
    let accepted = Accepted {
        id,
        rules: rules.clone(),
        key_kind,
        spool: 1,
        bytes,
        crc32c,
        rows,
        key: None,
        name: None,
        by: Author::default(),
    };
    let sum = accepted.sum();
    // As it was written, and as a restart reads it.
    let opened = Pending::open(accepted.clone(), sum, &upload, &path, vec![]).unwrap();
    if rows % 2 == 0 { Pending::new(accepted, header, index, upload) } else { opened }
}

fn before() -> impl Strategy<Value = Before> {
    let held = || prop::collection::vec((0..NAMES.len(), 1usize..24), 0..4);
    let time = || prop::option::of(0u64..100);
    let layer = prop_oneof![Just(vec![]), held()];
    (0u8..12, held(), layer, [time(), time(), time(), time()])
        .prop_map(|(kind, attributes, layer, times)| Before { kind, attributes, layer, times })
}

fn rules() -> impl Strategy<Value = BatchRules> {
    let max = prop_oneof![2 => Just(1usize << 20), 3 => Just(60), 3 => Just(35), 2 => Just(14)];
    let as_of = prop::option::of((0u64..100).prop_map(|ms| Millis(AT - 100 + ms)));
    let flags = any::<[bool; 4]>();
    (flags, max, as_of).prop_map(|([creates, replaces, removes, v2], max_profile_bytes, as_of)| BatchRules {
        seq: Seq::from_parts(Millis(AT), 0),
        source: if v2 { Source::BatchV2 } else { Source::BatchV1 },
        creates,
        consecutive_v2: if replaces { ConsecutiveV2::Replace } else { ConsecutiveV2::Merge },
        empty_values: if removes { EmptyValues::Remove } else { EmptyValues::Ignore },
        lifetime_ms: 1000,
        max_profile_bytes,
        reading: RowReading::default(),
        history_max: 16,
        as_of,
        undoes: None,
    })
}

#[test]
fn bundled_rows_have_the_same_result_as_one_by_one() {
    with_each_seed(|seed| bundled_rows_come_to_the_same(config(seed, 1500)));
}

fn bundled_rows_come_to_the_same(config: ProptestConfig) {
    proptest!(config, |(
        before in before(),
        rules in rules(),
        lengths in prop_oneof![Just(8usize), Just(24), Just(70)],
        rows in prop::collection::vec((0usize..3, prop::collection::vec(0usize..70, 0..=3)), 1..40),
    )| {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let mut text = format!("batch=pcId,{}\n", NAMES.join(","));
        for (id, cells) in &rows {
            // A third are empty.
            let cells = cells.iter().map(|length| format!(",{}", value((length % lengths).saturating_sub(lengths / 3))));
            // The third id has few rows, so in about half of the cases none of them are bundled.
            text.push_str(&format!("p{id}{}\n", cells.collect::<String>()));
        }
        let keys = [0, 1, 2].map(|n| Key::new(&ClientCode::new("demo").unwrap(), IdKind::Pc, &format!("p{n}")));
        let values: Vec<String> = (0..24).map(value).collect();
        let stored = stored(&before, &values);
        let decoded = || stored.as_ref().map(|stored| stored.decode().unwrap());

        let one_by_one = pending(folder.path(), &rules, &text, usize::MAX);
        let found = one_by_one.find(&keys).unwrap();
        prop_assert!(found.bundles.is_empty());
        let cells: Vec<_> = found.rows.iter().map(|row| row.cells(&one_by_one.header)).collect();
        let applying: Vec<_> = found.rows.iter().zip(&cells).map(|(row, cells)| Row { line: row.line, cells }).collect();
        let mut expected: Vec<(u32, Outcome)> = vec![];
        let then = match apply_rows(decoded(), &rules, &applying, |line, outcome| expected.push((line, outcome))) {
            Applied::AlreadyIn => None,
            Applied::Unchanged => Some(None),
            Applied::Changed(profile) => {
                // The profile shows afterwards what the rows came to, but for those that failed or brought nothing.
                let shows = expected.iter().zip(&cells).enumerate();
                if !expected.iter().any(|(_, outcome)| *outcome == Outcome::Failed) {
                    for (n, ((line, outcome), cells)) in shows.filter(|(_, ((_, outcome), _))| *outcome != Outcome::Ignored) {
                        let shown = outcome_of_row_already_in(&profile, &rules, n == 0, cells);
                        prop_assert!(shown == *outcome || *outcome == Outcome::Created, "line {}: {:?}, {:?}", line, shown, outcome);
                    }
                }
                Some(Some(Stored::Profile(profile).encode()))
            }
        };

        for bundle_rows_min in [1, 4, 12] {
            let bundled = pending(folder.path(), &rules, &text, bundle_rows_min);
            let found = bundled.find(&keys).unwrap();
            let (of_rows, of_bundles): (Vec<_>, Vec<_>) = (found.rows.iter().collect(), found.bundles.iter().collect());
            let Some(applied) = apply_bundles(&bundled, decoded(), &of_rows, &of_bundles).unwrap() else {
                prop_assert_eq!(&then, &None);
                continue;
            };
            prop_assert_eq!(&Some(applied.now), &then, "from {} rows on\n{}", bundle_rows_min, text);
            let mut became: Vec<(u32, Outcome)> =
                found.rows.iter().zip(applied.rows).map(|(row, outcome)| (row.line, outcome)).collect();
            for (bundle, outcomes) in found.bundles.iter().zip(&applied.bundles) {
                prop_assert_eq!(outcomes.rows(), bundle.rows);
                let lines = bundled.lines_of(bundle).unwrap();
                became.extend((0..).zip(lines).map(|(row, line)| (line, outcomes.of(row).unwrap())));
            }
            became.sort_unstable_by_key(|(line, _)| *line);
            prop_assert_eq!(&became, &expected, "from {} rows on\n{}", bundle_rows_min, text);
        }
    });
}
