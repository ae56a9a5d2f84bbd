//! The bytes of commit groups and checkpoints. Each begins with its version. Earlier versions can be read.

use super::earlier::{self, Accepted as _, Version1, Version2, Version3, Version4, Version5, Version6};
use super::types::{Checkpoint, Entry};
use crate::model::codec::{self, CodecError};

/// The version that a group's payload begins with.
pub const GROUP_VERSION: u8 = 7;
/// The first byte of a payload that replaces damaged groups that were given up.
const GROUP_GIVEN_UP: u8 = 0xff;
/// The version that a checkpoint begins with.
pub const CHECKPOINT_VERSION: u8 = 7;
/// The version of checkpoints before there was an order of several nodes.
const CHECKPOINT_WITHOUT_ORDER: u8 = 5;

/// A group's payload.
pub fn encode_group(entries: &[Entry], out: &mut Vec<u8>) -> Result<(), CodecError> {
    codec::encode_into(GROUP_VERSION, &entries, out)
}

/// A payload of this length without entries. It replaces damaged groups that were given up.
pub fn group_given_up(length: usize) -> Vec<u8> {
    vec![GROUP_GIVEN_UP; length]
}

/// Whether a payload stands where damaged groups were given up.
pub fn is_given_up(payload: &[u8]) -> bool {
    payload.first() == Some(&GROUP_GIVEN_UP)
}

/// The entries of a group's payload.
pub fn decode_group(payload: &[u8]) -> Result<Vec<Entry>, CodecError> {
    match payload.first() {
        Some(&GROUP_GIVEN_UP) => Ok(vec![]),
        Some(&Version1::VERSION) => earlier::decode_group::<Version1>(payload),
        Some(&Version2::VERSION) => earlier::decode_group::<Version2>(payload),
        Some(&Version3::VERSION) => earlier::decode_group::<Version3>(payload),
        Some(&Version4::VERSION) => earlier::decode_group::<Version4>(payload),
        Some(&Version5::VERSION) => earlier::decode_group::<Version5>(payload),
        Some(&Version6::VERSION) => earlier::decode_group::<Version6>(payload),
        _ => codec::decode(GROUP_VERSION, payload),
    }
}

/// A checkpoint's bytes.
pub fn encode_checkpoint(checkpoint: &Checkpoint, out: &mut Vec<u8>) -> Result<(), CodecError> {
    codec::encode_into(CHECKPOINT_VERSION, checkpoint, out)
}

/// The checkpoint in these bytes.
pub fn decode_checkpoint(bytes: &[u8]) -> Result<Checkpoint, CodecError> {
    match bytes.first() {
        Some(&Version1::VERSION) => earlier::decode_checkpoint::<Version1>(bytes),
        Some(&Version2::VERSION) => earlier::decode_checkpoint::<Version2>(bytes),
        Some(&Version3::VERSION) => earlier::decode_checkpoint::<Version3>(bytes),
        Some(&Version4::VERSION) => earlier::decode_checkpoint_4::<Version4>(Version4::VERSION, bytes),
        Some(&CHECKPOINT_WITHOUT_ORDER) => {
            earlier::decode_checkpoint_4::<Version6>(CHECKPOINT_WITHOUT_ORDER, bytes)
        }
        Some(&Version6::VERSION) => earlier::decode_checkpoint_6(bytes),
        _ => codec::decode(CHECKPOINT_VERSION, bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::{
        BatchAcceptedEntry, BatchCompletedEntry, BatchGivenUpEntry, CatalogueMark, Cause, Change, KnownBatch,
        OrderEntry, Resolved, ResolvedBundle, RunOffered, SentKeyEntry, WriteEntry, WriteKind,
    };
    use super::*;
    use crate::journal::log::Position;
    use crate::model::batch::RowReading;
    use crate::model::seq::Seq;
    use crate::order::record::{ClusterId, RunId};
    use crate::order::{Offset, Place};
    use proptest::prelude::*;
    use serde_bytes::ByteBuf;

    proptest! {
        #[test]
        fn reading_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(decode_group(&bytes));
            for version in 1..=GROUP_VERSION {
                let versioned: Vec<u8> = std::iter::once(version).chain(bytes.iter().copied()).collect();
                drop(decode_group(&versioned));
                drop(decode_checkpoint(&versioned));
            }
        }
    }

    fn accepted(seq: u64, crc32c: Option<u32>, key: Option<&str>) -> BatchAcceptedEntry {
        let key = key.map(|key| SentKeyEntry { key: key.into(), bytes: 300, crc32c });
        BatchAcceptedEntry {
            client: "demo".into(),
            seq,
            spool: 11,
            bytes: 300,
            crc32c,
            rows: 3,
            v2: true,
            key_kind: 1,
            creates: false,
            replaces: true,
            removes: false,
            lifetime_ms: 1_209_600_000,
            max_profile_bytes: 1 << 20,
            key,
            reading: 0,
            blocked_ids: None,
            history_max: 0,
            as_of_ms: None,
            undoes: None,
            name: None,
            by: ByteBuf::new(),
        }
    }

    fn completed(store_reach: u64) -> BatchCompletedEntry {
        let counts = crate::model::batch::Counts { updated: 2, not_found: 1, ..Default::default() };
        BatchCompletedEntry { seq: 7, counts, at_ms: 99, store_reach }
    }

    fn group(crc32c: Option<u32>, key: Option<&str>, store_reach: u64) -> Vec<Entry> {
        let write = WriteEntry {
            seq: 5,
            changes: vec![Change { key: ByteBuf::from(*b"k"), value: ByteBuf::from(*b"v") }],
            resolved: vec![Resolved { batch: 3, line: 2, outcome: 1 }],
            resolved_bundles: vec![],
            cause: Cause::default(),
        };
        vec![
            Entry::Write(write),
            Entry::BatchAccepted(accepted(7, crc32c, key)),
            Entry::BatchCompleted(completed(store_reach)),
            Entry::BatchGivenUp(BatchGivenUpEntry { accepted: accepted(7, crc32c, key), end: completed(0) }),
        ]
    }

    /// A checkpoint as an earlier program wrote it, with a complete batch.
    fn checkpoint(crc32c: Option<u32>, key: Option<&str>) -> Checkpoint {
        let incomplete = KnownBatch::pending((1, 50), accepted(8, crc32c, key));
        Checkpoint {
            position: (1, 600),
            last_seq: 8,
            incomplete: vec![incomplete],
            complete: vec![(accepted(7, crc32c, key), completed(0))],
            ..Checkpoint::default()
        }
    }

    #[test]
    fn groups_and_checkpoints_read_back() {
        let (mut payload, mut bytes) = (vec![], vec![]);
        let mut written = group(Some(0x1234_5678), Some("k"), 6);
        if let Entry::BatchAccepted(batch) = &mut written[1] {
            (batch.reading, batch.blocked_ids) = (1, Some(vec!["void".into(), "n.n.".into()]));
        }
        if let Entry::Write(write) = &mut written[0] {
            write.resolved_bundles =
                vec![ResolvedBundle { batch: 3, first: 2, became: vec![(1, 1), (900, 0)] }];
            write.cause =
                Cause { kind: WriteKind::Removal, whole: true, removed: vec!["a".into(), "名".into()] };
        }
        encode_group(&written, &mut payload).unwrap();
        assert_eq!(decode_group(&payload).unwrap(), written);
        assert_eq!(decode_group(&group_given_up(9)).unwrap(), []);
        let catalogue = CatalogueMark { generation: 3, bytes: 4096 };
        let checkpoint =
            Checkpoint { catalogue, store_reach: 5, complete: vec![], ..checkpoint(Some(9), None) };
        encode_checkpoint(&checkpoint, &mut bytes).unwrap();
        assert_eq!(decode_checkpoint(&bytes).unwrap(), checkpoint);
    }

    #[test]
    fn a_checkpoint_held_the_accepted_batches_that_it_does_not_list_as_incomplete() {
        let checkpoint = checkpoint(None, None);
        assert_eq!([6, 7, 8, 9].map(|seq| checkpoint.held(Seq::from_u64(seq))), [true, true, false, false]);
        assert_eq!(checkpoint.needs_journal_from(), Position::from_pair((1, 50)));
    }

    #[test]
    fn no_entry_takes_more_bytes_than_its_bytes_max() {
        let seqs = [0, 1, u64::MAX];
        for (seq, many) in seqs.into_iter().flat_map(|seq| [0, 1, 300].map(|many| (seq, many))) {
            let bytes = ByteBuf::from(vec![7; many]);
            let write = WriteEntry {
                seq,
                changes: vec![Change { key: bytes.clone(), value: bytes }; many.min(3)],
                resolved: vec![Resolved { batch: seq, line: u32::MAX, outcome: u64::MAX }; many],
                resolved_bundles: vec![
                    ResolvedBundle {
                        batch: seq,
                        first: u32::MAX,
                        became: vec![(u32::MAX, u64::MAX); many]
                    };
                    many.min(3)
                ],
                cause: Cause {
                    kind: WriteKind::Sweep,
                    whole: true,
                    removed: vec!["n".repeat(many).into(); many],
                },
            };
            let accepted = BatchAcceptedEntry {
                client: "c".repeat(many),
                key: Some(SentKeyEntry { key: "k".repeat(many), bytes: seq, crc32c: Some(u32::MAX) }),
                spool: seq,
                bytes: seq,
                lifetime_ms: seq,
                reading: u8::MAX,
                blocked_ids: Some(vec!["x".repeat(many).into(); many.min(3)]),
                history_max: u16::MAX,
                as_of_ms: Some(seq),
                undoes: Some(seq),
                name: Some("n".repeat(many).into()),
                by: ByteBuf::from(vec![7; many]),
                ..accepted(seq, Some(u32::MAX), None)
            };
            let given_up = BatchGivenUpEntry { accepted: accepted.clone(), end: completed(u64::MAX) };
            let offered = RunOffered { run: RunId([u8::MAX; 16]), number: seq, at_ms: seq };
            let order = OrderEntry {
                cluster: ClusterId([u8::MAX; 16]),
                place: Place { offset: Offset(seq), within: u32::MAX },
                record_crc32c: u32::MAX,
                last_seq: seq,
                checksum: u32::MAX,
                runs: vec![offered; many],
            };
            for entry in [
                Entry::Write(write),
                Entry::BatchAccepted(accepted),
                Entry::BatchCompleted(completed(u64::MAX)),
                Entry::BatchGivenUp(given_up),
                Entry::Order(order),
                Entry::BatchApplied(completed(u64::MAX)),
                Entry::BatchCounted(completed(u64::MAX)),
            ] {
                let (mut none, mut one) = (vec![], vec![]);
                encode_group(&[], &mut none).unwrap();
                encode_group(std::slice::from_ref(&entry), &mut one).unwrap();
                assert!(one.len() - none.len() <= entry.bytes_max(), "{entry:?}");
            }
        }
    }

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    const END: &str = "07020001000063";

    /// As a program wrote them before a batch said how much history it keeps.
    #[test]
    fn groups_and_checkpoints_of_version_6_are_read() {
        let accepted = |seq: &str| {
            format!(
                "0464656d6f{seq}0bfb2c0101fc78563412030101000100fc00081948fc0000100001016bfb2c0101fc785634120000"
            )
        };
        let batch = accepted("07");
        let group_6 =
            format!("0605000501016b0176010302010000000001{batch}02{END}0603{batch}{END}0005{END}00");
        let mut expected = group(Some(0x1234_5678), Some("k"), 6);
        expected.push(Entry::BatchApplied(completed(0)));
        assert_eq!(decode_group(&bytes(&group_6)).unwrap(), expected);
        let checkpoint_6 = format!("0601fb580208010132{}00000003fb00100005", accepted("08"));
        let catalogue = CatalogueMark { generation: 3, bytes: 4096 };
        let expected = Checkpoint {
            catalogue,
            store_reach: 5,
            complete: vec![],
            ..checkpoint(Some(0x1234_5678), Some("k"))
        };
        assert_eq!(decode_checkpoint(&bytes(&checkpoint_6)).unwrap(), expected);
    }

    /// As a program wrote them before a write recorded its kind.
    #[test]
    fn groups_of_version_5_are_read() {
        let accepted =
            "0464656d6f070bfb2c0101fc78563412030101000100fc00081948fc0000100001016bfb2c0101fc785634120000";
        let group_5 = format!("0504000501016b0176010302010001{accepted}02{END}0603{accepted}{END}00");
        assert_eq!(decode_group(&bytes(&group_5)).unwrap(), group(Some(0x1234_5678), Some("k"), 6));
    }

    /// As a program wrote them before a batch recorded how its rows are read. Its rows are read by the rules of that time.
    #[test]
    fn groups_and_checkpoints_of_version_4_are_read() {
        let accepted = |seq: &str| {
            format!(
                "0464656d6f{seq}0bfb2c0101fc78563412030101000100fc00081948fc00001000\
                     01016bfb2c0101fc78563412"
            )
        };
        let group_4 =
            format!("0404000501016b0176010302010001{}02{END}0603{}{END}00", accepted("07"), accepted("07"));
        let checkpoint_4 = format!("0401fb5802080101 32{}00 03fb0010 05", accepted("08")).replace(' ', "");
        let (crc32c, key) = (Some(0x1234_5678), Some("k"));
        assert_eq!(decode_group(&bytes(&group_4)).unwrap(), group(crc32c, key, 6));
        let catalogue = CatalogueMark { generation: 3, bytes: 4096 };
        let expected = Checkpoint { catalogue, store_reach: 5, complete: vec![], ..checkpoint(crc32c, key) };
        assert_eq!(decode_checkpoint(&bytes(&checkpoint_4)).unwrap(), expected);
        let reading = RowReading::from_stored(accepted_reading(&expected), None);
        assert_eq!(reading, Some(RowReading::before()));
    }

    fn accepted_reading(checkpoint: &Checkpoint) -> u8 {
        checkpoint.incomplete[0].accepted.reading
    }

    /// As a program wrote them when the journal had the attributes' names and checkpoints had the complete batches. There was
    /// no `store_reach`, and no bundle of resolved rows.
    #[test]
    fn groups_and_checkpoints_of_version_3_are_read() {
        let accepted = |seq: &str| {
            format!(
                "0464656d6f{seq}0bfb2c0101fc7856341203010102016104636974790001\
                     00fc00081948fc0000100001016b"
            )
        };
        let group_3 =
            format!("0304000501016b01760103020101{}02{END}03{}{END}", accepted("07"), accepted("07"));
        let checkpoint_3 = format!("0301fb580208020028{}01{END}0132{}00", accepted("07"), accepted("08"));
        let (crc32c, key) = (Some(0x1234_5678), Some("k"));
        assert_eq!(decode_group(&bytes(&group_3)).unwrap(), group(crc32c, key, 0));
        assert_eq!(decode_checkpoint(&bytes(&checkpoint_3)).unwrap(), checkpoint(crc32c, key));
    }

    /// As a program wrote them before batches had keys.
    #[test]
    fn groups_and_checkpoints_of_version_2_are_read() {
        let accepted = |seq: &str| {
            format!(
                "0464656d6f{seq}0bfb2c0101fc7856341203010102016104636974790001\
                     00fc00081948fc00001000"
            )
        };
        let group_2 =
            format!("0204000501016b01760103020101{}02{END}03{}{END}", accepted("07"), accepted("07"));
        let checkpoint_2 = format!("0201fb580208020028{}01{END}0132{}00", accepted("07"), accepted("08"));
        assert_eq!(decode_group(&bytes(&group_2)).unwrap(), group(Some(0x1234_5678), None, 0));
        assert_eq!(decode_checkpoint(&bytes(&checkpoint_2)).unwrap(), checkpoint(Some(0x1234_5678), None));
    }

    /// As a program wrote them before uploads had checksums.
    #[test]
    fn groups_and_checkpoints_of_version_1_are_read() {
        let group_1 = "0103000501016b017601030201010464656d6f070bfb2c010301010201610463697479000100fc00081948fc0000\
                       10000207020001000063";
        let checkpoint_1 = "0101fb5802080200280464656d6f070bfb2c010301010201610463697479000100fc00081948fc00001000\
                            010702000100006301320464656d6f080bfb2c010301010201610463697479000100fc00081948fc0000100000";
        assert_eq!(decode_group(&bytes(group_1)).unwrap(), group(None, None, 0)[..3]);
        assert_eq!(decode_checkpoint(&bytes(checkpoint_1)).unwrap(), checkpoint(None, None));
    }
}
