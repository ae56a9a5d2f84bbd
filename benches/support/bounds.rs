//! The lower bounds on this machine: each part of a batch's way by itself, as fast as it can be.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use profiled::batch::csv::Parser;

use profiled::model::batch::{BatchRules, ConsecutiveV2, EmptyValues, RowReading};
use profiled::model::profile::{Attribute, Profile, Source, Stored, StoredBytes, set_all};
use profiled::model::seq::{Millis, Seq};
use profiled::model::update::{Applied, Cell, Row, apply_rows};

use super::rows::{self, Batch, NAMES, UNKNOWN_EVERY, id, live_bytes};

/// Sends the file's bytes over loopback to a reader that discards them.
pub fn sent(file: &[u8]) -> Duration {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = vec![0; 256 << 10];
            while stream.read(&mut buffer).unwrap() > 0 {}
        });
        stream.write_all(file).unwrap();
        drop(stream);
    });
    began.elapsed()
}

/// Writes the same bytes to a file and syncs it.
pub fn synced(folder: &Path, file: &[u8]) -> Duration {
    let began = Instant::now();
    let mut to = std::fs::File::create(folder.join("synced")).unwrap();
    to.write_all(file).unwrap();
    to.sync_all().unwrap();
    began.elapsed()
}

/// Runs only the parser, on one thread.
pub fn parsed(file: &[u8]) -> Duration {
    let began = Instant::now();
    let (mut parser, mut rows) = (Parser::default(), 0);
    parser.push(file, |row| rows += usize::from(row.content.is_ok())).unwrap();
    parser.finish(|row| rows += usize::from(row.content.is_ok())).unwrap();
    assert!(rows > 0);
    began.elapsed()
}

/// Decodes each known visitor's profile, applies the row and encodes it again, on two threads. Reads and stores
/// nothing.
pub fn applied(batch: Batch) -> Duration {
    let (then, now) = (Seq::from_parts(Millis(1_000), 0), Seq::from_parts(Millis(2_000), 0));
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
    let stored = |row: &rows::Row| {
        let mut profile = Profile::born_at(then);
        let attribute =
            |(&name, value)| Attribute { name, value, seq: then, source: Source::BatchV2, as_of: None };
        set_all(
            &mut profile.attributes,
            NAMES.iter().zip(row.values.iter().map(String::as_str)).map(attribute),
        );
        Stored::Profile(profile).encode()
    };
    let known: Vec<(StoredBytes, rows::Row)> = (0..batch.rows)
        .filter(|n| n % UNKNOWN_EVERY != 0)
        .map(|n| (stored(&Batch { round: 0, ..batch }.row(n)), batch.row(n)))
        .collect();
    let apply_all = |known: &[(StoredBytes, rows::Row)]| {
        for (bytes, row) in known {
            let values = row.values.iter().map(String::as_str);
            let cells: Vec<Cell<'_>> = (0..)
                .zip(NAMES)
                .zip(values)
                .map(|((attribute, name), value)| Cell { attribute, name, value })
                .collect();
            let row = [Row { line: 2, cells: &cells }];
            let Applied::Changed(profile) =
                apply_rows(Some(bytes.decode().unwrap()), &rules, &row, |_, _| {})
            else {
                panic!("a later row of a known visitor changes it")
            };
            black_box(Stored::Profile(profile).encode());
        }
    };
    let (low, high) = known.split_at(known.len() / 2);
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| apply_all(low));
        apply_all(high);
    });
    began.elapsed()
}

/// Runs only sled: the same visitors in key order with two writers, one atomic swap each of a value of the same length,
/// then a flush and a sync. No HTTP, parsing, order, outcomes or journal.
pub fn sled_alone(folder: &Path, batch: Batch, rounds: usize) -> Vec<Duration> {
    let folder = folder.join("sled-alone");
    let value = vec![b'v'; live_bytes(batch.profiles, 0) / batch.profiles - id(0).len()];
    let tree =
        sled::Config::new().path(&folder).cache_capacity(512 << 20).flush_every_ms(None).open().unwrap();
    for n in 0..batch.profiles {
        tree.insert(id(n), value.as_slice()).unwrap();
    }
    tree.flush().unwrap();
    let mut visitors: Vec<String> =
        (0..batch.rows).filter(|n| n % UNKNOWN_EVERY != 0).map(|n| batch.id(n)).collect();
    visitors.sort_unstable();
    let (low, high) = visitors.split_at(visitors.len() / 2);
    let swap = |visitors: &[String], round: usize| {
        for visitor in visitors {
            let change = |was: Option<&[u8]>| {
                let mut now = was?.to_vec();
                now[0] = round as u8;
                Some(now)
            };
            assert!(tree.update_and_fetch(visitor, change).unwrap().is_some());
        }
    };
    let round = |round| {
        let began = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| swap(low, round));
            swap(high, round);
        });
        tree.flush().unwrap();
        std::fs::File::open(folder.join("db")).unwrap().sync_data().unwrap();
        began.elapsed()
    };
    (1..=rounds).map(round).collect()
}
