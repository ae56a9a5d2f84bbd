use super::block::{BLOCK, BLOCK_BYTES, BUFFER_BYTES_KEPT, DATA, FOOT, HEAD, VERSION, footer};
use super::error::{Damage, Unwritable};
use super::preamble::preamble;
use super::writer::POINTS;
use super::*;
use crate::durable::disk::{FaultyDisk, Operation, SystemDisk};
use crate::durable::record::FrameAddress;
use crate::journal::entry::{BatchAcceptedEntry, BatchCompletedEntry, KnownBatch};
use crate::journal::entry::{Checkpoint, encode_checkpoint};
use proptest::prelude::*;
use rustix::io::Errno;
use serde_bytes::ByteBuf;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

const SALT: u64 = 7;
const SMALL: usize = 4 << 10;

/// Failpoints hold for the whole process: while this is kept, no other test here has any set.
fn healthy() -> fail::FailScenario<'static> {
    fail::FailScenario::setup()
}

fn batch(seq: u64) -> KnownBatch {
    let accepted = BatchAcceptedEntry {
        client: "acme".into(),
        seq,
        spool: seq,
        bytes: 1234,
        crc32c: Some(99),
        rows: 56,
        v2: seq > 3,
        key_kind: 1,
        creates: true,
        replaces: false,
        removes: true,
        lifetime_ms: 1 << 40,
        max_profile_bytes: 64 << 10,
        key: None,
        reading: 1,
        blocked_ids: Some(vec!["void".into()]),
        history_max: 16,
        as_of_ms: Some(1_700_000_000_000),
        undoes: Some(3),
        name: Some("nightly".into()),
        by: ByteBuf::from(vec![0]),
    };
    let completed = BatchCompletedEntry { seq, counts: Default::default(), at_ms: 99, store_reach: 0 };
    KnownBatch { completed: (seq > 3).then_some(completed), ..KnownBatch::pending((1, 48), accepted) }
}

fn checkpoint() -> Checkpoint {
    let incomplete = vec![batch(3), batch(4)];
    Checkpoint { position: (3, 4096), last_seq: 77, incomplete, ..Checkpoint::default() }
}

/// Keys of different lengths, and values of these.
fn pairs(lengths: &[usize]) -> Pairs {
    let key = |n: usize| format!("key{n:05}{}", "x".repeat(n % 7)).into_bytes();
    let value = |n, length| (0..length).map(|at| u8::try_from((at * 31 + n * 7) % 251).unwrap()).collect();
    lengths.iter().enumerate().map(|(n, &length)| (key(n), value(n, length))).collect()
}

/// About 64 KB in many blocks, one of them a long pair's.
fn sample() -> Pairs {
    let mut lengths = [300, 0, 2700, 1500, 90].repeat(13);
    lengths[50] = 9000;
    pairs(&lengths)
}

fn write(path: &Path, pairs: &Pairs, block_bytes: usize, salt: u64) -> Summary {
    let disk = Box::new(FaultyDisk::default());
    let mut writer = SnapshotWriter::create_on(disk, path, &checkpoint(), salt, block_bytes).unwrap();
    for (key, value) in pairs {
        writer.push(key, value).unwrap();
    }
    writer.finish().unwrap()
}

/// What comes of reading: the pairs as far as they go, and how it ends.
fn read(path: &Path) -> (Pairs, Result<(Checkpoint, Summary), SnapshotError>) {
    let mut seen = Vec::new();
    let mut reader = match SnapshotReader::open(path) {
        Ok(reader) => reader,
        Err(error) => return (seen, Err(error)),
    };
    loop {
        match reader.next_pair() {
            Ok(Some((key, value))) => seen.push((key.to_vec(), value.to_vec())),
            Ok(None) => return (seen, reader.finish()),
            Err(error) => {
                let again = reader.next_pair().unwrap_err();
                assert_eq!(again.to_string(), error.to_string(), "there is no way on after an error");
                assert_eq!(reader.summary(), None);
                return (seen, Err(error));
            }
        }
    }
}

/// Counts, lengths and digest, made of the pairs in the plainest way.
fn summary_of(pairs: &Pairs) -> Summary {
    let mut row = Vec::new();
    for part in pairs.iter().flat_map(|(key, value)| [key, value]) {
        row.extend_from_slice(&u32::try_from(part.len()).unwrap().to_le_bytes());
        row.extend_from_slice(part);
    }
    Summary {
        count: pairs.len() as u64,
        bytes: (row.len() - 8 * pairs.len()) as u64,
        digest: xxhash_rust::xxh3::xxh3_128(&row),
    }
}

struct SnapshotFolder(TempDir);

impl SnapshotFolder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self) -> PathBuf {
        self.0.path().join("a.snap")
    }
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// A file of these blocks, numbered and summed as they should be.
fn forged(blocks: &[([u8; 4], Vec<u8>)]) -> Vec<u8> {
    let mut bytes = preamble(VERSION, SALT);
    for (number, (kind, payload)) in (0..).zip(blocks) {
        BLOCK.put(*kind, payload, FrameAddress { salt: SALT, at: number }, &mut bytes).unwrap();
    }
    bytes
}

fn head() -> ([u8; 4], Vec<u8>) {
    let mut payload = Vec::new();
    encode_checkpoint(&checkpoint(), &mut payload).unwrap();
    (HEAD, payload)
}

fn data(pairs: &[(&str, &str)]) -> ([u8; 4], Vec<u8>) {
    let mut payload = Vec::new();
    for part in pairs.iter().flat_map(|(key, value)| [key, value]) {
        payload.extend_from_slice(&u32::try_from(part.len()).unwrap().to_le_bytes());
        payload.extend_from_slice(part.as_bytes());
    }
    (DATA, payload)
}

#[test]
fn what_was_written_reads_back() {
    #[track_caller]
    fn check(pairs: &Pairs, block_bytes: usize, blocks: u64) {
        let folder = SnapshotFolder::new();
        let expected = summary_of(pairs);
        assert_eq!(write(&folder.path(), pairs, block_bytes, SALT), expected);
        let (seen, end) = read(&folder.path());
        assert!(seen == *pairs, "{} of {} pairs", seen.len(), pairs.len());
        assert_eq!(end.unwrap(), (checkpoint(), expected));
        assert_eq!(verify(&folder.path()).unwrap(), (checkpoint(), expected));
        let mut reader = SnapshotReader::open(&folder.path()).unwrap();
        while reader.next_pair().unwrap().is_some() {}
        assert_eq!(reader.next_pair().unwrap(), None);
        assert_eq!(reader.summary(), Some(expected));
        assert_eq!(reader.blocks.number, blocks + 2, "with its head and foot, {block_bytes}");
        assert_eq!(folder.names(), ["a.snap"]);
    }
    check(&vec![], BLOCK_BYTES, 0);
    check(&pairs(&[0]), BLOCK_BYTES, 1);
    check(&pairs(&[40]), BLOCK_BYTES, 1);
    check(&vec![(vec![], vec![]), (vec![0], vec![]), (vec![0, 0], vec![1])], BLOCK_BYTES, 1);
    check(&pairs(&[10; 20]), BLOCK_BYTES, 1);
    check(&pairs(&[10; 20]), 1, 20);
    check(&pairs(&[BLOCK_BYTES - 16, 0]), BLOCK_BYTES, 2);
    check(&pairs(&[BLOCK_BYTES]), BLOCK_BYTES, 1);
    check(&pairs(&[5, 3 << 20, 5, 5, 4 << 20, 200 << 10]), BLOCK_BYTES, 5);
    check(&pairs(&[1000; 3000]), BLOCK_BYTES, 47);
    check(&sample(), SMALL, 27);
}

#[test]
fn the_digest_depends_on_the_pairs_alone() {
    let folder = SnapshotFolder::new();
    let whole = write(&folder.path(), &sample(), BLOCK_BYTES, 1);
    assert_eq!(write(&folder.path(), &sample(), SMALL, 2), whole);
    let digest = |pairs: &[(&str, &str)]| {
        let owned = pairs.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec()));
        write(&folder.path(), &owned.collect(), SMALL, 2).digest
    };
    assert_ne!(digest(&[("a", "bc")]), digest(&[("ab", "c")]));
    assert_ne!(digest(&[("a", ""), ("b", "")]), digest(&[("a", "b")]));
}

#[test]
fn the_layout_is_as_described() {
    let _healthy = healthy();
    let folder = SnapshotFolder::new();
    let made = || {
        SnapshotWriter::create_on(
            Box::new(SystemDisk(&POINTS)),
            &folder.path(),
            &Checkpoint::default(),
            SALT,
            SMALL,
        )
    };
    let mut writer = made().unwrap();
    writer.push(b"key", b"value").unwrap();
    writer.finish().unwrap();
    let bytes = fs::read(folder.path()).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(
        hex(&bytes),
        "70726f66536e617001000000070000000000000012339e6d6865616409000000b9a6857c56202326070000000000000000646174611000000033f5bf7eeafb9a91030000006b65790500000076616c7565666f6f7420000000e7602b2caa43aeaf01000000000000000800000000000000b6406de965c8f8ba8c7a34a624c725a1",
        "a layout that changes needs a new version"
    );
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    let folder = SnapshotFolder::new();
    let sample = sample();
    write(&folder.path(), &sample, SMALL, SALT);
    let file = OpenOptions::new().write(true).open(folder.path()).unwrap();
    let length = file.metadata().unwrap().len();
    assert!((60_000..80_000).contains(&length), "{length}");
    for cut in (0..length).rev() {
        file.set_len(cut).unwrap();
        let (seen, end) = read(&folder.path());
        assert!(sample.starts_with(&seen), "cut at {cut}");
        let damage = match end {
            Err(SnapshotError::Damaged { damage, offset, .. }) if offset <= cut => damage,
            end => panic!("cut at {cut}: {end:?}"),
        };
        assert_eq!(damage, Damage::Truncated { length: cut });
    }
}

#[test]
fn a_file_with_any_byte_changed_is_refused() {
    let folder = SnapshotFolder::new();
    let sample = sample();
    write(&folder.path(), &sample, SMALL, SALT);
    let bytes = fs::read(folder.path()).unwrap();
    let file = OpenOptions::new().write(true).open(folder.path()).unwrap();
    for (at, &byte) in (0..).zip(&bytes) {
        // Each bit in turn, and all of them.
        let change = if at % 9 == 8 { 0xff } else { 1 << (at % 9) };
        file.write_all_at(&[byte ^ change], at).unwrap();
        let (seen, end) = read(&folder.path());
        assert!(sample.starts_with(&seen), "changed at {at}");
        match end {
            Err(SnapshotError::Damaged { offset, .. }) => {
                assert!(offset <= at, "{offset} is behind {at}")
            }
            end => panic!("changed at {at}: {end:?}"),
        }
        file.write_all_at(&[byte], at).unwrap();
    }
    assert_eq!(fs::read(folder.path()).unwrap(), bytes);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    #[track_caller]
    fn check(bytes: &[u8], expected: &str) {
        let folder = SnapshotFolder::new();
        fs::write(folder.path(), bytes).unwrap();
        let message = read(&folder.path()).1.unwrap_err().to_string();
        let expected = expected.replace("FILE", folder.path().to_str().unwrap());
        assert!(message.starts_with(&expected), "{message}\nis not\n{expected}");
        assert_eq!(verify(&folder.path()).unwrap_err().to_string(), message);
    }
    let foot = |pairs: &[(&str, &str)]| {
        let owned = pairs.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec()));
        (FOOT, footer(&summary_of(&owned.collect())))
    };
    let head_end = 24 + 16 + head().1.len();
    let at = |offset: usize, rest: &str| format!("the snapshot FILE is damaged at byte {offset}: {rest}");
    let (a, b) = (("a", "1"), ("b", "2"));
    let good = forged(&[head(), data(&[a, b]), foot(&[a, b])]);
    let changed = |place: usize| {
        let mut bytes = good.clone();
        bytes[place] ^= 1;
        bytes
    };
    check(b"", &at(0, "what begins there is cut off: the file ends at byte 0"));
    check(&good[..23], &at(0, "what begins there is cut off: the file ends at byte 23"));
    check(&good[..24], &at(24, "what begins there is cut off: the file ends at byte 24"));
    check(&good[..head_end + 30], &at(head_end, "what begins there is cut off"));
    check(&changed(0), &at(0, "there is no \"profSnap\", so this is not a snapshot"));
    check(&changed(8), &at(0, "the preamble does not match its checksum"));
    check(&changed(12), &at(0, "the preamble does not match its checksum"));
    check(&changed(24), &at(24, "the header of block 0 does not match its checksum"));
    check(&changed(40), &at(24, "the payload of block 0 does not match its checksum"));
    check(&changed(head_end + 4), &at(head_end, "the header of block 1 does not match its checksum"));
    check(&changed(head_end + 16), &at(head_end, "the payload of block 1 does not match its checksum"));
    check(&changed(good.len() - 1), &at(head_end + 36, "the payload of block 2 does not match"));
    check(
        &[preamble(2, SALT), good[24..].to_vec()].concat(),
        "the snapshot FILE has format version 2 (byte 8); this program reads version 1",
    );
    check(
        &forged(&[(HEAD, vec![8, 0, 0, 0, 0])]),
        "the checkpoint at byte 40 of the snapshot FILE: format version 8; this program reads version 7",
    );
    check(&forged(&[(HEAD, vec![1])]), "the checkpoint at byte 40 of the snapshot FILE: damaged: ");
    check(&forged(&[data(&[a])]), &at(24, "block 0 is of a kind that does not belong there"));
    check(&forged(&[head(), head()]), &at(head_end, "block 1 is of a kind that does not belong there"));
    check(&forged(&[head(), (*b"what", vec![])]), &at(head_end, "block 1 is of a kind"));
    check(
        &forged(&[head(), (DATA, vec![1, 0, 0, 0, 97])]),
        &at(head_end + 16, "the block ends inside a pair"),
    );
    check(
        &forged(&[head(), (DATA, [data(&[a]).1, vec![0xff; 8]].concat())]),
        &at(head_end + 16 + 10, "the block ends inside a pair"),
    );
    let order = "the key there is not greater than the one before it";
    check(&forged(&[head(), data(&[a, a])]), &at(head_end + 16 + 10, order));
    check(&forged(&[head(), data(&[b, a])]), &at(head_end + 16 + 10, order));
    check(&forged(&[head(), data(&[b]), data(&[a])]), &at(head_end + 16 + 10 + 16, order));
    let one = forged(&[head(), data(&[a]), foot(&[a, b])]);
    check(&one, &at(head_end + 26, "by the footer there are 2 pairs, but 1 were read"));
    let longer = forged(&[head(), data(&[a]), foot(&[("a", "11")])]);
    check(&longer, &at(head_end + 26, "by the footer the keys and values have 3 bytes, but 2 were read"));
    let other = forged(&[head(), data(&[a]), foot(&[("a", "2")])]);
    check(&other, &at(head_end + 26, "by the footer the pairs have the digest "));
    check(&forged(&[head(), (FOOT, vec![0; 33])]), &at(head_end, "the footer has 33 bytes instead of 32"));
    check(&forged(&[head(), (FOOT, vec![])]), &at(head_end, "the footer has 0 bytes instead of 32"));
    check(&[&good[..], b"x"].concat(), &at(good.len(), "the snapshot ends there, but 1 bytes follow"));
    check(&good.repeat(2), &at(good.len(), "the snapshot ends there, but "));
    let two_feet = forged(&[head(), foot(&[]), foot(&[])]);
    check(&two_feet, &at(head_end + 48, "the snapshot ends there, but 48 bytes follow"));
}

#[test]
fn no_block_is_taken_for_another() {
    let folder = SnapshotFolder::new();
    let pairs = pairs(&[100; 4]);
    let blocks_of = |salt: u64| {
        write(&folder.path(), &pairs, 1, salt);
        let bytes = fs::read(folder.path()).unwrap();
        let mut reader = SnapshotReader::open(&folder.path()).unwrap();
        let mut ends = vec![24, reader.blocks.offset];
        while reader.next_pair().unwrap().is_some() {
            ends.push(reader.blocks.offset);
        }
        ends.push(reader.blocks.offset);
        let part = |ends: &[u64]| {
            bytes[usize::try_from(ends[0]).unwrap()..usize::try_from(ends[1]).unwrap()].to_vec()
        };
        (bytes[..24].to_vec(), ends.windows(2).map(part).collect::<Vec<_>>())
    };
    let (preamble, blocks) = blocks_of(SALT);
    let (_, foreign) = blocks_of(SALT + 1);
    assert_eq!(blocks.len(), 6);
    let check = |case: &str, blocks: &[&[u8]], bad: u64| {
        fs::write(folder.path(), [&preamble[..], &blocks.concat()].concat()).unwrap();
        let (seen, end) = read(&folder.path());
        assert!(pairs.starts_with(&seen), "{case}");
        match end {
            Err(SnapshotError::Damaged { damage: Damage::BlockHeader { number }, .. }) => {
                assert_eq!(number, bad, "{case}");
            }
            end => panic!("{case}: {end:?}"),
        }
    };
    let [head, a, b, c, d, foot] = [0, 1, 2, 3, 4, 5].map(|n: usize| &blocks[n][..]);
    check("one left out", &[head, a, c, d, foot], 2);
    check("the first left out", &[head, b, c, d, foot], 1);
    check("the last left out", &[head, a, b, c, foot], 4);
    check("all left out", &[head, foot], 1);
    check("the head left out", &[a, b, c, d, foot], 0);
    check("two swapped", &[head, a, c, b, d, foot], 2);
    check("one twice", &[head, a, a, b, c, d, foot], 2);
    check("another snapshot's", &[head, a, &foreign[2], c, d, foot], 2);
    check("another snapshot's head", &[&foreign[0], a, b, c, d, foot], 0);
    check("another snapshot's foot", &[head, a, b, c, d, &foreign[5]], 5);
}

/// A block's payload, or all of a file: nothing, bytes, or what looks like pairs.
fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..80);
    let pair = (0u8..4, any::<[u8; 3]>(), 0u8..4, any::<[u8; 3]>()).prop_map(|(k, key, v, value)| {
        [&[k, 0, 0, 0][..], &key[..3.min(k.into())], &[v, 0, 0, 0], &value[..3.min(v.into())]].concat()
    });
    prop_oneof![bytes, proptest::collection::vec(pair, 0..5).prop_map(|pairs| pairs.concat())]
}

proptest! {
    #[test]
    fn reading_any_bytes_never_panics(bytes in any_payload(), whole in any::<bool>()) {
        let folder = SnapshotFolder::new();
        let start = if whole { preamble(VERSION, SALT) } else { vec![] };
        fs::write(folder.path(), [start, bytes].concat()).unwrap();
        prop_assert!(read(&folder.path()).1.is_err());
    }

    #[test]
    fn any_payloads_give_ascending_pairs_or_an_error(
        start in prop_oneof![4 => Just(Some(head())), 1 => any_payload().prop_map(|it| Some((HEAD, it))), 1 => Just(None)],
        rest in proptest::collection::vec((prop_oneof![9 => Just(DATA), 1 => Just(FOOT), 1 => any::<[u8; 4]>()], any_payload()), 0..4),
    ) {
        let folder = SnapshotFolder::new();
        let blocks: Vec<_> = start.into_iter().chain(rest).collect();
        fs::write(folder.path(), forged(&blocks)).unwrap();
        let (seen, end) = read(&folder.path());
        prop_assert!(seen.is_sorted_by(|(a, _), (b, _)| a < b));
        prop_assert!(end.is_err(), "no footer was made for it");
    }

    #[test]
    fn any_splice_of_a_snapshot_is_refused_or_changes_nothing(
        from in 0usize..70_000, length in 0usize..3000, to in 0usize..70_000, instead in any_payload(),
    ) {
        let folder = SnapshotFolder::new();
        let sample = sample();
        write(&folder.path(), &sample, SMALL, SALT);
        let bytes = fs::read(folder.path()).unwrap();
        let (from, to) = (from % bytes.len(), to % bytes.len());
        let moved = &bytes[from..bytes.len().min(from + length)];
        let behind = &bytes[bytes.len().min(to + moved.len())..];
        let spliced = [&bytes[..to], &instead, moved, behind].concat();
        fs::write(folder.path(), &spliced).unwrap();
        let (seen, end) = read(&folder.path());
        prop_assert!(sample.starts_with(&seen));
        prop_assert_eq!(end.is_ok(), spliced == bytes);
    }
}

#[test]
fn keys_out_of_order_are_refused_and_end_the_snapshot() {
    let _healthy = healthy();
    let check = |keys: &[&[u8]]| {
        let folder = SnapshotFolder::new();
        let mut writer = SnapshotWriter::create(&folder.path(), &checkpoint()).unwrap();
        let (last, before) = keys.split_last().unwrap();
        before.iter().for_each(|key| writer.push(key, b"v").unwrap());
        let refused = |error, expected| match error {
            SnapshotError::Refused { why, .. } => assert_eq!(why, expected, "{keys:?}"),
            error => panic!("{keys:?}: {error}"),
        };
        refused(writer.push(last, b"v").unwrap_err(), Unwritable::Order { number: before.len() as u64 });
        refused(writer.push(b"zzz", b"v").unwrap_err(), Unwritable::Stopped);
        refused(writer.finish().unwrap_err(), Unwritable::Stopped);
        assert!(folder.names().is_empty(), "{keys:?}");
    };
    check(&[b"a", b"a"]);
    check(&[b"b", b"a"]);
    check(&[b"", b""]);
    check(&[b"a", b"ab", b"a"]);
    check(&[b"a", b"c", b"b"]);
    check(&[b"\x7f", b"\xff", b"\x80"]);
}

#[test]
fn a_pair_longer_than_any_block_is_refused() {
    let _healthy = healthy();
    let folder = SnapshotFolder::new();
    let mut writer = SnapshotWriter::create(&folder.path(), &checkpoint()).unwrap();
    let error = writer.push(b"k", &vec![0; BLOCK_BYTES_MAX - 8]).unwrap_err();
    let bytes = BLOCK_BYTES_MAX + 1;
    assert!(
        matches!(error, SnapshotError::Refused { why: Unwritable::TooLong { bytes: it }, .. } if it == bytes)
    );
}

#[test]
fn large_values_leave_no_large_buffer() {
    let folder = SnapshotFolder::new();
    let disk = Box::new(FaultyDisk::default());
    let mut writer =
        SnapshotWriter::create_on(disk, &folder.path(), &checkpoint(), SALT, BLOCK_BYTES).unwrap();
    for (key, value) in pairs(&[1, 8 << 20, 1, 1]) {
        writer.push(&key, &value).unwrap();
    }
    assert!(writer.payload.capacity() <= BUFFER_BYTES_KEPT);
    writer.finish().unwrap();
    let mut reader = SnapshotReader::open(&folder.path()).unwrap();
    while reader.next_pair().unwrap().is_some() {}
    assert!(reader.blocks.payload.capacity() <= BUFFER_BYTES_KEPT);
}

#[test]
fn an_unfinished_snapshot_leaves_no_file() {
    let _healthy = healthy();
    let folder = SnapshotFolder::new();
    let mut writer = SnapshotWriter::create(&folder.path(), &checkpoint()).unwrap();
    writer.push(b"k", &vec![1; 1 << 20]).unwrap();
    writer.push(b"l", b"").unwrap();
    assert_eq!(folder.names(), ["a.new"]);
    drop(writer);
    assert!(folder.names().is_empty());
}

#[test]
fn a_failing_disk_leaves_the_old_snapshot_alone() {
    let check = |at: Operation, error: Errno, message: &str, named: bool| {
        let folder = SnapshotFolder::new();
        let old = pairs(&[10; 5]);
        write(&folder.path(), &old, SMALL, SALT);
        for begun in [false, true] {
            let disk = FaultyDisk::default();
            if !begun {
                disk.set(Some((at, error)));
            }
            let attempt = || {
                let it = Box::new(disk.clone());
                let mut writer = SnapshotWriter::create_on(it, &folder.path(), &checkpoint(), SALT, SMALL)?;
                writer.push(b"new", b"value")?;
                disk.set(Some((at, error)));
                writer.push(b"newer", &[0; SMALL])?;
                writer.finish()
            };
            let failure = attempt().unwrap_err();
            assert!(
                matches!(&failure, SnapshotError::Io { source, .. } if Errno::from_io_error(source) == Some(error)),
                "{failure}"
            );
            assert!(failure.to_string().contains(message), "{failure} is not {message}");
            assert_eq!(folder.names(), ["a.snap"], "{at:?}");
            let (seen, end) = read(&folder.path());
            assert_eq!((seen == old, end.is_ok()), (!named, true), "{at:?}");
        }
    };
    check(Operation::Write, Errno::NOSPC, "could not write to ", false);
    check(Operation::Write, Errno::IO, "a.new", false);
    check(Operation::Sync, Errno::IO, "could not sync ", false);
    check(Operation::Rename, Errno::IO, "could not rename ", false);
    check(Operation::SyncFolder, Errno::IO, "could not sync ", true);
}

#[test]
fn what_is_not_synced_yet_is_bounded() {
    let folder = SnapshotFolder::new();
    let disk = FaultyDisk::default();
    let it = Box::new(disk.clone());
    let mut writer = SnapshotWriter::create_on(it, &folder.path(), &checkpoint(), SALT, BLOCK_BYTES).unwrap();
    disk.set(Some((Operation::Sync, Errno::IO)));
    let value = vec![0; 1 << 20];
    let failed = (0..64u8).find(|&n| writer.push(&[n], &value).is_err());
    assert_eq!(failed, Some(16));
    assert!(matches!(writer.finish().unwrap_err(), SnapshotError::Refused { why: Unwritable::Stopped, .. }));
}

#[test]
fn snapshots_are_listed_newest_first_and_leftovers_go() {
    let _healthy = healthy();
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("snapshots");
    let snapshots = Snapshots::open(&folder).unwrap();
    assert_eq!(snapshots.list().unwrap(), []);
    assert_eq!(snapshots.next_path().unwrap(), folder.join("0000000000000000.snap"));
    for number in 0..3 {
        let path = snapshots.next_path().unwrap();
        assert_eq!(path, snapshots.path_of(number));
        write(&path, &pairs(&[1, 2]), SMALL, SALT);
    }
    let others = ["x.new", "0000000000000009.txt", "9.snap", "000000000000000A.snap", "note.snap"];
    for name in others {
        fs::write(folder.join(name), b"").unwrap();
    }
    fs::write(folder.join("000000000000002a.new"), b"half").unwrap();

    let snapshots = Snapshots::open(&folder).unwrap();
    assert!(!folder.join("000000000000002a.new").exists());
    assert!(others.iter().all(|name| folder.join(name).exists()), "these are not ours");
    let numbers = || snapshots.list().unwrap().into_iter().map(|(_, number)| number).collect::<Vec<_>>();
    assert_eq!(numbers(), [2, 1, 0]);
    for (path, _) in snapshots.list().unwrap() {
        assert_eq!(verify(&path).unwrap().1.count, 2);
    }
    snapshots.remove(1).unwrap();
    assert_eq!(numbers(), [2, 0]);
    assert_eq!(snapshots.next_path().unwrap(), snapshots.path_of(3));
    let gone = snapshots.remove(1).unwrap_err().to_string();
    assert!(gone.starts_with("could not remove ") && gone.contains("0000000000000001.snap"), "{gone}");
    fs::write(snapshots.path_of(u64::MAX), b"").unwrap();
    snapshots.next_path().unwrap_err();
    Snapshots::open(&parent.path().join("no/such")).unwrap_err();
}

#[cfg(feature = "failpoints")]
#[test]
fn each_failpoint_fails_a_snapshot() {
    let _scenario = healthy();
    let folder = SnapshotFolder::new();
    let attempt = || {
        let mut writer = SnapshotWriter::create(&folder.path(), &checkpoint())?;
        writer.push(b"new", b"value")?;
        writer.finish()
    };
    write(&folder.path(), &pairs(&[10; 5]), SMALL, SALT);
    for name in ["snapshot-write", "snapshot-sync", "snapshot-rename", "snapshot-folder-sync"] {
        assert_eq!(verify(&folder.path()).unwrap().1.count, 5, "{name}");
        fail::cfg(name, "return").unwrap();
        assert!(matches!(attempt().unwrap_err(), SnapshotError::Io { .. }), "{name}");
        fail::remove(name);
        assert_eq!(folder.names(), ["a.snap"], "{name}");
    }
    assert_eq!(verify(&folder.path()).unwrap().1.count, 1, "it was renamed already");
    attempt().unwrap();
}

/// The bytes as they were written before frames had one place in the code: no later program may write others.
#[test]
fn the_format_is_these_bytes() {
    let pairs = vec![(b"a".to_vec(), b"11".to_vec()), (b"bc".to_vec(), vec![])];
    let blocks =
        [(HEAD, b"head!".to_vec()), data(&[("a", "11"), ("bc", "")]), (FOOT, footer(&summary_of(&pairs)))];
    let expected = [
        &b"profSnap\x01\0\0\0\x07\0\0\0\0\0\0\0\x12\x33\x9e\x6d"[..],
        b"head\x05\0\0\0\xce\xd2\xa8\xe9\x3d\x77\x51\x19head!",
        b"data\x15\0\0\0\x3e\xbc\xc4\xd2\xbf\x15\x4f\x0a\x01\0\0\0a\x02\0\0\x0011\x02\0\0\0bc\0\0\0\0",
        b"foot\x20\0\0\0\x70\x5d\x72\x54\xd5\x6d\x67\x2a\x02\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0",
        b"\xc5\xdf\x62\x09\x8a\xd5\x1f\xfc\xd1\xfc\x43\x94\x4c\xde\x4a\xb0",
    ];
    assert_eq!(forged(&blocks), expected.concat());
}
