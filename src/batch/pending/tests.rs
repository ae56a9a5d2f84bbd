//! Pending batches for the tests of this and other modules, and tests of opening one.

use super::*;
use crate::batch::csv::{Parser, Row};
use crate::batch::index::IndexBuilder;
use crate::model::author::Author;
use crate::model::batch::{BatchId, BatchRules, ConsecutiveV2, EmptyValues, RowReading};
use crate::model::id::{ClientCode, IdKind};
use crate::model::profile::Source;
use crate::model::seq::Seq;

impl Pending {
    /// A v1 batch of this file, kept in a folder under its seq.
    pub(crate) fn of_text(folder: &Path, client: &str, seq: u64, text: &str) -> Self {
        Self::of_text_read(folder, client, seq, text, &RowReading::default())
    }

    /// The same of a file that is read so.
    pub(crate) fn of_text_read(
        folder: &Path,
        client: &str,
        seq: u64,
        text: &str,
        reading: &RowReading,
    ) -> Self {
        let rules = BatchRules {
            seq: Seq::from_u64(seq),
            source: Source::BatchV1,
            creates: false,
            consecutive_v2: ConsecutiveV2::Merge,
            empty_values: EmptyValues::Ignore,
            lifetime_ms: 1 << 40,
            max_profile_bytes: 1 << 20,
            reading: reading.clone(),
            history_max: 16,
            as_of: None,
            undoes: None,
        };
        Self::of_rules(folder, client, rules, text, BUNDLE_ROWS_MIN)
    }

    /// The same, under other rules, which say its seq.
    pub(crate) fn of_rules(
        folder: &Path,
        client: &str,
        rules: BatchRules,
        text: &str,
        bundle_rows_min: usize,
    ) -> Self {
        let (mut parser, mut rows) = (Parser::new(&rules.reading), 0);
        let mut index = IndexBuilder::bundling_from(bundle_rows_min);
        let mut each = |row: Row<'_>| {
            rows += 1;
            index.add(&row, rules.empty_values);
        };
        parser.push(text.as_bytes(), &mut each).unwrap();
        let header = parser.finish(&mut each).unwrap().clone();
        let seq = rules.seq;
        let path = folder.join(seq.get().to_string());
        std::fs::write(&path, text).unwrap();
        let index = index.finish(&path.with_extension("index"), &path, &header, &rules).unwrap();
        let id = BatchId { client: ClientCode::new(client).unwrap(), seq };
        let FileSum { bytes, crc32c } = FileSum::of(text.as_bytes());
        let key_kind = header.key_kind();
        let accepted = Accepted {
            id,
            rules,
            key_kind,
            spool: seq.get(),
            bytes,
            crc32c,
            rows,
            key: None,
            name: None,
            by: Author::default(),
        };
        Self::new(accepted, header, index, path)
    }
}

/// The bytes as they were written before records had one place in the code: no later program may write others.
#[test]
fn the_format_of_the_index_is_these_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let rules = BatchRules {
        seq: Seq::from_u64(7),
        source: Source::BatchV2,
        creates: true,
        consecutive_v2: ConsecutiveV2::Merge,
        empty_values: EmptyValues::Ignore,
        lifetime_ms: 1 << 40,
        max_profile_bytes: 1 << 20,
        reading: RowReading::default(),
        history_max: 16,
        as_of: None,
        undoes: None,
    };
    Pending::of_rules(folder.path(), "demo", rules, "batch=pcId,a\nx,1\ny,2\nx,3\n", 2);
    let expected = [
        // Head, and the bundle of x: effects, places, contents, directory.
        &b"prfindx2\x01\0\0\0\x43\0\0\0\x42\xe7\x7d\x59"[..],
        b"\x01\x01\x00\x04\x00\x01\x013",
        b"\x0d\0\0\0\x02\0\0\0\x15\0\0\0\x04\0\0\0",
        b"\x01\x01x\x14\x01\x02\x04\x02\x02\x08\x1c",
        b"\x11\xcd\xb2\x80\x64\x6c\xf0\xea\x02\0\0\0\x02\0\0\0\x2c\0\0\0\0\0\0\0\x0b\0\0\0",
        b"\x01\0\0\0",
        // The entry of y.
        b"\xe5\xa9\xc0\xd7\xe6\x57\x2b\x27\x11\0\0\0\x03\0\0\0",
    ];
    assert_eq!(std::fs::read(folder.path().join("7.index")).unwrap(), expected.concat());
}

/// A batch whose rows are read as they were before batches said how: with its index gone, its rows are the same.
#[test]
fn a_batch_of_before_is_opened_as_it_was_read_then() {
    let folder = tempfile::tempdir().unwrap();
    let rules = |reading| BatchRules {
        seq: Seq::from_u64(7),
        source: Source::BatchV2,
        creates: true,
        consecutive_v2: ConsecutiveV2::Merge,
        empty_values: EmptyValues::Ignore,
        lifetime_ms: 1 << 40,
        max_profile_bytes: 1 << 20,
        reading,
        history_max: 16,
        as_of: None,
        undoes: None,
    };
    let text = "batch=pcId,a\nalice.smith,1\nundefined,2\nx,\"3\ny,4\nz,5\"\nw,6\n";
    let client = ClientCode::new("demo").unwrap();
    for (reading, ids_found) in
        [(RowReading::before(), &["alice", "undefined", "x", "w"][..]), (RowReading::default(), &["x", "w"])]
    {
        let before = Pending::of_rules(folder.path(), "demo", rules(reading), text, BUNDLE_ROWS_MIN);
        let accepted = Accepted::from_entry(before.accepted.to_entry()).unwrap();
        assert_eq!((&accepted, accepted.rows), (&*before.accepted, 4));
        let (file, index) = (folder.path().join("7"), folder.path().join("7.index"));
        std::fs::remove_file(&index).unwrap();
        let sum = accepted.sum();
        let opened = Pending::open(accepted, sum, &file, &index, vec![]).unwrap();
        let found = |id: &str| opened.find(&[Key::new(&client, IdKind::Pc, id)]).unwrap().rows.len();
        let ids = ["alice", "undefined", "x", "y", "z", "w"];
        let shown: Vec<_> = ids.into_iter().filter(|id| found(id) == 1).collect();
        assert_eq!(shown, ids_found);
    }
}
