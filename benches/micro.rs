//! Benchmarks of the parts: parsing a batch's bytes, changing a profile, committing a group of writes, serving a
//! request.
//!
//! `cargo bench --features benches --bench micro [-- NAME]`
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on should say where")]

mod support;

use std::hint::black_box;
use std::io::Read;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use flate2::Compression;
use flate2::read::GzEncoder;
use profiled::batch::csv::Parser;
use profiled::batch::encoding::{Decoded, Encoding};
use profiled::journal::entry::{Cause, Change, Entry, WriteEntry, encode_group};
use profiled::journal::log::{Log, LogError, LogSettings, Position};
use profiled::model::batch::{BatchRules, ConsecutiveV2, EmptyValues, RowReading};
use profiled::model::id::{ClientCode, IdKind, Key};
use profiled::model::profile::{Attribute, Profile, Source, Stored, set_all};
use profiled::model::seq::{Millis, Seq};
use profiled::model::update::{Applied, Cell, Row, apply_rows, merge};
use serde_bytes::ByteBuf;
use support::rows::{Batch, NAMES};
use support::{CREATES, Daemon};

/// The same allocator as the daemon.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROWS: usize = 50_000;
/// Writes per group commit.
const GROUPS: [u64; 3] = [1, 16, 256];
const LOG_BYTES_MAX: u64 = 1 << 30;
const VALUES: [&str; 5] = ["gold-3", "4711", "Amsterdam-45", "2026-11-05T07", "autumn-segment-12-1"];

criterion_group!(parts, batch_file, profile, journal, request);
criterion_main!(parts);

/// Batch files: parsed as they are, with form-encoded cells, and decompressed.
fn batch_file(criterion: &mut Criterion) {
    let plain = Batch { profiles: 2 * ROWS, rows: ROWS, round: 1 }.csv();
    let escaped = String::from_utf8(plain.clone()).unwrap().replace("Amsterdam-", "%C4%B0zmir+n%C2%BA");
    let mut group = criterion.benchmark_group("batch file");
    group.sample_size(20);
    for (name, file) in [("parse", plain.as_slice()), ("parse, one cell in six escaped", escaped.as_bytes())]
    {
        group.throughput(Throughput::Bytes(file.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| parsed(file)));
    }
    let mut gzip = vec![];
    GzEncoder::new(plain.as_slice(), Compression::default()).read_to_end(&mut gzip).unwrap();
    let zstd = zstd::encode_all(plain.as_slice(), 3).unwrap();
    group.throughput(Throughput::Bytes(plain.len() as u64));
    for (name, encoding, bytes) in
        [("decode gzip", Encoding::Gzip, gzip), ("decode zstd", Encoding::Zstd, zstd)]
    {
        let decode = || {
            let mut decoded = Decoded::of(encoding, bytes.as_slice()).unwrap();
            std::io::copy(&mut decoded, &mut std::io::sink()).unwrap()
        };
        group.bench_function(name, |bencher| bencher.iter(decode));
    }
    group.finish();
}

fn parsed(file: &[u8]) -> usize {
    let (mut parser, mut cells) = (Parser::default(), 0);
    let mut count = |row: profiled::batch::csv::Row<'_>| {
        cells += row.content.map_or(0, |cells| cells.attributes().count());
    };
    parser.push(file, &mut count).unwrap();
    parser.finish(&mut count).unwrap();
    cells
}

/// A profile of five attributes: decoded, changed by a row, encoded, merged at a login.
fn profile(criterion: &mut Criterion) {
    let (then, now) = (Seq::from_parts(Millis(1_000), 0), Seq::from_parts(Millis(2_000), 0));
    let attributes = |seq, source| {
        let attribute = move |(&name, value)| Attribute { name, value, seq, source, as_of: None };
        let mut attributes = vec![];
        // A profile keeps its attributes sorted by name.
        set_all(&mut attributes, NAMES.iter().zip(VALUES).map(attribute));
        attributes
    };
    let known = Profile { attributes: attributes(then, Source::BatchV1), ..Profile::born_at(then) };
    let bytes = Stored::Profile(known.clone()).encode();
    let mut group = criterion.benchmark_group("profile");
    group.bench_function("decode", |bencher| bencher.iter(|| drop(black_box(bytes.decode().unwrap()))));
    group.bench_function("encode", |bencher| {
        let stored = Stored::Profile(known.clone());
        bencher.iter(|| stored.encode());
    });
    let cells: Vec<Cell<'_>> = (0..)
        .zip(NAMES)
        .zip(VALUES)
        .map(|((attribute, name), value)| Cell { attribute, name, value })
        .collect();
    let rules = BatchRules {
        seq: now,
        source: Source::BatchV1,
        creates: false,
        consecutive_v2: ConsecutiveV2::Merge,
        empty_values: EmptyValues::Ignore,
        lifetime_ms: 14 * 24 * 60 * 60 * 1000,
        max_profile_bytes: 1 << 20,
        reading: RowReading::default(),
        history_max: 16,
        as_of: None,
        undoes: None,
    };
    group.bench_function("decode, apply a row of five, encode", |bencher| {
        let rows = [Row { line: 2, cells: &cells }];
        bencher.iter(|| match apply_rows(Some(bytes.decode().unwrap()), &rules, &rows, |_, _| {}) {
            Applied::Changed(profile) => Stored::Profile(profile).encode(),
            Applied::Unchanged | Applied::AlreadyIn => {
                unreachable!("a later row of a known visitor changes it")
            }
        });
    });
    let anonymous = Profile { attributes: attributes(now, Source::Mbox), ..Profile::born_at(now) };
    group.bench_function("merge at a login", |bencher| {
        let merged = |mut into: Profile<'static>| {
            merge(&mut into, &anonymous, now, 16);
            into
        };
        bencher.iter_batched(|| known.clone(), merged, BatchSize::SmallInput);
    });
    group.finish();
}

/// Group commit: encodes the entries of many site calls, writes them as one frame, and syncs.
fn journal(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let opened =
        Log::open(folder.path(), LogSettings::default(), Position::START, |_, _, _| Ok::<_, LogError>(()));
    let mut log = opened.unwrap().0;
    let client = ClientCode::new("demo").unwrap();
    let key = Key::new(&client, IdKind::ThirdParty, "crm-00000001");
    let write = |seq| {
        let change = Change { key: ByteBuf::from(key.as_bytes()), value: ByteBuf::from([7; 230]) };
        Entry::Write(WriteEntry {
            seq,
            changes: vec![change],
            resolved: vec![],
            resolved_bundles: vec![],
            cause: Cause::default(),
        })
    };
    let mut group = criterion.benchmark_group("journal");
    group.sample_size(30);
    for writes in GROUPS {
        let entries: Vec<Entry> = (1..=writes).map(write).collect();
        group.throughput(Throughput::Elements(writes));
        group.bench_function(format!("group commit of {writes}"), |bencher| {
            let mut frame = vec![];
            bencher.iter(|| {
                frame.clear();
                encode_group(&entries, &mut frame).unwrap();
                let at = log.append(&frame).unwrap();
                // Nobody reads these segments.
                if log.bytes() > LOG_BYTES_MAX {
                    log.remove_before(at).unwrap();
                }
            });
        });
    }
    group.finish();
}

/// A request through hyper and the router on an open connection: the fixed cost of every call.
fn request(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let daemon = Daemon::start(folder.path(), CREATES);
    let mut client = daemon.client();
    let mut group = criterion.benchmark_group("request");
    for (name, path, status) in [
        ("healthz", "/healthz", 200),
        ("no such path", "/m2/demo/nowhere", 404),
        ("a visitor whom nobody knows", "/rest/v1/profiles/nobody?client=demo", 404),
    ] {
        group.bench_function(name, |bencher| bencher.iter(|| assert_eq!(client.get(path).status, status)));
    }
    group.finish();
}
