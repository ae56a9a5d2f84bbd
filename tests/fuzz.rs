//! Fuzz targets: the journal reader, the snapshot reader, profile bytes, the batch file, plain and compressed, paths and
//! parameters. Each is a test with random inputs here, and a coverage-guided fuzzer's target with `cargo bolero test --test fuzz NAME` (`cargo install
//! cargo-bolero`). How many inputs: `BOLERO_RANDOM_ITERATIONS`.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should say where"
)]

use std::fs;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use profiled::batch::csv::Parser;
use profiled::batch::encoding::{Decoded, Encoding};
use profiled::http::decode::{parameters, segments};
use profiled::journal::entry::{Checkpoint, decode_group};
use profiled::journal::log::{Log, LogError, LogSettings, Position};
use profiled::journal::snapshot::{SnapshotReader, SnapshotWriter, verify};
use profiled::model::id::{IdKind, Key};
use profiled::model::profile::{Attribute, Profile, Source, Stored, decode};
use profiled::model::seq::{Millis, Seq};
use profiled::model::update::list_id;

/// A change to a file: a byte to flip bits of, or a place to cut at, or bytes put over others.
#[derive(Debug, Clone, bolero::TypeGenerator)]
enum Harm {
    Flip(u16, u8),
    Cut(u16),
    Overwrite(u16, Vec<u8>),
    Swap(u16, u16),
}

/// Does harm to a file's bytes, wherever it is told to, modulo their length.
fn harm(bytes: &mut Vec<u8>, harms: &[Harm]) {
    for one in harms {
        let at = |place: u16, length: usize| usize::from(place) % length.max(1);
        let length = bytes.len();
        match one {
            _ if length == 0 => {}
            Harm::Flip(place, bits) => bytes[at(*place, length)] ^= bits,
            Harm::Cut(place) => bytes.truncate(at(*place, length)),
            Harm::Overwrite(place, with) => {
                let from = at(*place, length);
                let to = (from + with.len()).min(length);
                bytes[from..to].copy_from_slice(&with[..to - from]);
            }
            Harm::Swap(a, b) => bytes.swap(at(*a, length), at(*b, length)),
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn request_line() {
    bolero::check!().with_type::<(String, Vec<u8>, Vec<(String, String)>)>().for_each(
        |(path, query, pairs)| {
            if let Some(segments) = segments(path) {
                assert_eq!(segments.len(), path.strip_prefix('/').unwrap_or(path).split('/').count());
            }
            let found = parameters(query);
            let sent = query.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()).count();
            assert_eq!(found.pairs.len() + found.broken.len(), sent);
            // What a form's own writer makes of any text is read back as it was.
            let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
            let found = parameters(form.as_bytes());
            assert_eq!((&found.pairs, found.broken.len()), (pairs, 0));
        },
    );
}

#[test]
fn journal() {
    let settings = LogSettings { segment_bytes: 1024 };
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) =
        Log::open(folder.path(), settings, Position::START, |_, _, _| Ok::<_, LogError>(())).unwrap();
    let payloads: Vec<Vec<u8>> = (0..12_u8).map(|n| vec![n; 40 + usize::from(n) * 23]).collect();
    for payload in &payloads {
        log.append(payload).unwrap();
    }
    drop(log);
    let whole: Vec<(PathBuf, Vec<u8>)> =
        files(folder.path()).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    let total = whole.len();
    assert!(total > 2, "several segments");
    bolero::check!().with_type::<(u8, Vec<Harm>, Vec<u8>)>().for_each(|(which, harms, group)| {
        drop(decode_group(group));
        files(folder.path()).iter().for_each(|file| fs::remove_file(file).unwrap());
        for (n, (path, bytes)) in whole.iter().enumerate() {
            let mut bytes = bytes.clone();
            if n == usize::from(*which) % total {
                harm(&mut bytes, harms);
            }
            fs::write(path, bytes).unwrap();
        }
        let mut seen = vec![];
        let opened = Log::open(folder.path(), settings, Position::START, |_, _, payload| {
            seen.push(payload.to_vec());
            Ok::<_, LogError>(())
        });
        assert!(payloads.starts_with(&seen), "frames that were never written");
        if opened.is_ok() && usize::from(*which) % total + 1 < total {
            assert_eq!(seen.len(), payloads.len(), "only the last segment may have lost its end");
        }
    });
}

#[test]
fn snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0000000000000000.snap");
    let mut writer =
        SnapshotWriter::create(&path, &Checkpoint { last_seq: 7, ..Checkpoint::default() }).unwrap();
    let pairs: Vec<(Vec<u8>, Vec<u8>)> =
        (0..60_u8).map(|n| (vec![n; 3 + usize::from(n % 5)], vec![n; usize::from(n) * 40])).collect();
    pairs.iter().for_each(|(key, value)| writer.push(key, value).unwrap());
    writer.finish().unwrap();
    let whole = fs::read(&path).unwrap();
    bolero::check!().with_type::<Vec<Harm>>().for_each(|harms| {
        let mut bytes = whole.clone();
        harm(&mut bytes, harms);
        fs::write(&path, &bytes).unwrap();
        let mut seen = 0;
        if let Ok(mut reader) = SnapshotReader::open(&path) {
            while let Ok(Some((key, value))) = reader.next_pair() {
                assert_eq!((key, value), (pairs[seen].0.as_slice(), pairs[seen].1.as_slice()));
                seen += 1;
            }
        }
        assert_eq!(verify(&path).is_ok(), bytes == whole, "all of it or an error");
    });
}

#[test]
fn profile_bytes() {
    let seq = Seq::from_parts(Millis(1_700_000_000_000), 3);
    let attribute = |name, value| Attribute { name, value, seq, source: Source::BatchV2 };
    let mut profile = Profile::born_at(seq);
    profile.attributes = vec![attribute("a", "1"), attribute("city", "Zürich"), attribute("z", "")];
    profile.layer = vec![attribute("city", "Genève")];
    list_id(&mut profile, IdKind::Pc, "123.28_0", seq);
    let whole = Stored::Profile(profile).encode().as_slice().to_vec();
    bolero::check!().with_type::<(bool, Vec<Harm>, Vec<u8>)>().for_each(|(any, harms, bytes)| {
        let mut harmed = if *any { bytes.clone() } else { whole.clone() };
        harm(&mut harmed, harms);
        drop(Key::from_bytes(&harmed));
        if let Ok(stored) = decode(&harmed) {
            let again = stored.encode();
            assert_eq!(again.decode().unwrap(), stored, "what was read can be written and read");
        }
    });
}

#[test]
fn batch_file() {
    /// The rows of a file that comes in these pieces, or why it was refused.
    fn rows(pieces: &[&[u8]]) -> Result<Vec<String>, String> {
        let (mut parser, mut rows) = (Parser::new(), vec![]);
        let mut each = |row: profiled::batch::csv::Row<'_>| {
            let cells = row.content.map(|cells| {
                let values: Vec<(usize, &str)> = cells.attributes().collect();
                format!("{} {values:?}", cells.id())
            });
            rows.push(format!("{} {} {} {cells:?}", row.line, row.offset, row.len));
        };
        let pushed = pieces.iter().try_for_each(|piece| parser.push(piece, &mut each));
        let ended = pushed.and_then(|()| parser.finish(&mut each).map(drop));
        ended.map_err(|error| error.to_string()).map(|()| rows)
    }
    bolero::check!().with_type::<(bool, Vec<u8>, Vec<u16>)>().for_each(|(headed, text, cuts)| {
        let head: &[u8] = if *headed { b"batch=pcId,a,b%20c\n" } else { b"" };
        let file = [head, text].concat();
        let mut places: Vec<usize> = cuts.iter().map(|cut| usize::from(*cut) % (file.len() + 1)).collect();
        places.extend([0, file.len()]);
        places.sort_unstable();
        let pieces: Vec<&[u8]> = places.windows(2).map(|pair| &file[pair[0]..pair[1]]).collect();
        assert_eq!(rows(&pieces), rows(&[&file]), "a cut changes nothing");
    });
}

#[test]
fn compressed() {
    /// What comes out of bytes that come in pieces of that size, and whether all of it did.
    fn file(encoding: Encoding, bytes: &[u8], piece: usize) -> (Vec<u8>, bool) {
        let mut file = vec![];
        let mut decoded = Decoded::of(encoding, BufReader::with_capacity(piece, bytes)).unwrap();
        // Small changes make bombs, too.
        let whole = decoded.by_ref().take(1 << 20).read_to_end(&mut file).is_ok();
        (file, whole)
    }
    let text = "batch=pcId,a,b\n1,2,3\n1,2,3\n4,,ü\n".repeat(20);
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    gzip.write_all(text.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let mut zstd = zstd::Encoder::new(vec![], 3).unwrap();
    zstd.include_checksum(true).unwrap();
    zstd.write_all(text.as_bytes()).unwrap();
    let zstd = zstd.finish().unwrap();
    bolero::check!().with_type::<(bool, bool, Vec<Harm>, Vec<u8>, u8)>().for_each(
        |(any, is_gzip, harms, bytes, piece)| {
            let encoding = if *is_gzip { Encoding::Gzip } else { Encoding::Zstd };
            let sound = if *is_gzip { &gzip } else { &zstd };
            let mut harmed = if *any { bytes.clone() } else { sound.clone() };
            harm(&mut harmed, harms);
            let (whole, is_whole) = file(encoding, &harmed, usize::MAX >> 40);
            let pieces = file(encoding, &harmed, usize::from(*piece) + 1);
            assert_eq!(pieces.1, is_whole, "a cut changes nothing");
            if is_whole {
                assert_eq!(pieces.0, whole, "a cut changes nothing");
            }
            if is_whole && !*any && whole.len() == text.len() {
                assert_eq!(whole, text.as_bytes(), "no other file comes out of a harmed one");
            }
        },
    );
}
