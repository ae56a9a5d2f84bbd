//! Fuzz targets: the journal reader, the snapshot reader, profile bytes, the batch file, plain and compressed, paths and
//! parameters, and where requests end.
//!
//! Each is a test with random inputs here (`BOLERO_RANDOM_ITERATIONS` says how many), and a target of a coverage-guided fuzzer:
//! `cargo install cargo-bolero`, then `cargo bolero test --test engine fuzz::NAME`.

use std::fmt::Debug;
use std::fs;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::seed::with_each_seed;
use crate::support::variable;
use bolero::TypeGenerator;
use bolero::generator::bolero_generator::driver::Options;
use bolero::generator::bolero_generator::driver::bytes::Driver;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use profiled::batch::csv::Parser;
use profiled::batch::encoding::{Decoded, Encoding};
use profiled::config::HeadLimits;
use profiled::http::decode::{parameters, segments};
use profiled::http::framing::Framing;
use profiled::journal::entry::{Checkpoint, decode_group};
use profiled::journal::log::{Log, LogError, LogSettings, Position};
use profiled::journal::snapshot::{SnapshotReader, SnapshotWriter, verify};
use profiled::model::id::{IdKind, Key};
use profiled::model::profile::{Attribute, Profile, Source, Stored, decode};
use profiled::model::seq::{Millis, Seq};
use profiled::model::update::list_id;
use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How many inputs each target gets unless a variable says otherwise.
const INPUTS: u32 = 1000;
/// How many random bytes an input is made of, at most.
const INPUT_BYTES: usize = 1 << 16;

/// Runs a target with the fuzzer's inputs; without a fuzzer, with random inputs of each seed.
macro_rules! check {
    ($input:ty, $target:expr $(,)?) => {
        if cfg!(fuzzing) {
            bolero::check!().with_type::<$input>().for_each($target);
        } else {
            with_random_inputs::<$input>($target);
        }
    };
}

/// Half of the inputs are of each seed.
fn with_random_inputs<T: TypeGenerator + Debug>(target: impl Fn(&T)) {
    let inputs: u32 = variable("BOLERO_RANDOM_ITERATIONS").map_or(INPUTS, |inputs| inputs.parse().unwrap());
    with_each_seed(|seed| {
        let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes_of(seed));
        let mut bytes = vec![0; INPUT_BYTES];
        for number in 0..inputs / 2 {
            random.fill_bytes(&mut bytes);
            let mut driver = Driver::new(&bytes, &Options::default().with_max_len(INPUT_BYTES));
            let input = T::generate(&mut driver).unwrap();
            let printed = PrintOnPanic(number, &input);
            target(&input);
            drop(printed);
        }
    });
}

/// A seed as proptest's generator of random numbers takes it.
fn bytes_of(seed: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes
}

/// Prints its input if it is dropped while the test fails.
struct PrintOnPanic<'i, T: Debug>(u32, &'i T);

impl<T: Debug> Drop for PrintOnPanic<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("input {}: {:?}", self.0, self.1);
        }
    }
}

/// A change to a file: a byte to flip bits of, or a place to cut at, or bytes put over others.
#[derive(Debug, Clone, bolero::TypeGenerator)]
enum Harm {
    Flip(u16, u8),
    Cut(u16),
    Overwrite(u16, Vec<u8>),
    Swap(u16, u16),
}

/// Damages a file's bytes at the given places, modulo their length.
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
    check!((String, Vec<u8>, Vec<(String, String)>), |(path, query, pairs)| {
        if let Some(segments) = segments(path) {
            assert_eq!(segments.len(), path.strip_prefix('/').unwrap_or(path).split('/').count());
        }
        let found = parameters(query);
        let sent = query.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()).count();
        assert_eq!(found.pairs.len() + found.broken.len(), sent);
        // Any text that a form writer encodes is read back unchanged.
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        let found = parameters(form.as_bytes());
        assert_eq!((&found.pairs, found.broken.len()), (pairs, 0));
    },);
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
    check!((u8, Vec<Harm>, Vec<u8>), |(which, harms, group)| {
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
    check!(Vec<Harm>, |harms| {
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
    let attribute = |name, value| Attribute { name, value, seq, source: Source::BatchV2, as_of: None };
    let mut profile = Profile::born_at(seq);
    profile.attributes = vec![attribute("a", "1"), attribute("city", "Zürich"), attribute("z", "")];
    profile.layer = vec![attribute("city", "Genève")];
    list_id(&mut profile, IdKind::Pc, "123.28_0", seq);
    let whole = Stored::Profile(profile).encode().as_slice().to_vec();
    check!((bool, Vec<Harm>, Vec<u8>), |(any, harms, bytes)| {
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
        let (mut parser, mut rows) = (Parser::default(), vec![]);
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
    check!((bool, Vec<u8>, Vec<u16>), |(headed, text, cuts)| {
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
    /// The decoded bytes of a source that comes in pieces of that size, and whether it was decoded to its end.
    fn file(encoding: Encoding, bytes: &[u8], piece: usize) -> (Vec<u8>, bool) {
        let mut file = vec![];
        let mut decoded = Decoded::of(encoding, BufReader::with_capacity(piece, bytes)).unwrap();
        // Small changes can make bombs, too.
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
    check!((bool, bool, Vec<Harm>, Vec<u8>, u8), |(any, is_gzip, harms, bytes, piece)| {
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
    },);
}

/// The pieces of a stream of requests: well-formed ones, nearly well-formed ones, and ones that two readers have understood
/// differently before.
const WIRE: [&str; 64] = [
    "GET / HTTP/1.1\r\n",
    "GET /b HTTP/1.0\r\n",
    "POST /c?d HTTP/1.1\r\n",
    "PUT /e HTTP/1.0\r\n",
    "HEAD /f HTTP/1.1\r\n",
    "CONNECT / HTTP/1.1\r\n",
    "OPTIONS * HTTP/1.1\r\n",
    "GET http://h/g HTTP/1.1\r\n",
    "Host: a\r\n",
    "Host: b\r\n",
    "Content-Length: ",
    "Content-Length:",
    "content-length: 16\r\n",
    "CONTENT-LENGTH: 0\r\n",
    "Content-Length: 5\r\n",
    "Content-Length : 5\r\n",
    " Content-Length: 5\r\n",
    "Content-Length: 5\n",
    "Content-Length\r\n",
    "Transfer-Encoding: chunked\r\n",
    "transfer-encoding:\tCHUNKED \r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Transfer-Encoding: chunked, gzip\r\n",
    "Transfer-Encoding: identity\r\n",
    "Transfer-Encoding:\r\n chunked\r\n",
    "Transfer-Encoding: ",
    "chunked",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Connection: upgrade\r\nUpgrade: h2c\r\n",
    "Expect: 100-continue\r\n",
    "Authorization: x\r\n",
    "Trailer: Content-Length\r\n",
    "X: y\r\n",
    "X: y\r\n folded\r\n",
    "\r\n",
    "\r\n\r\n",
    "\n",
    "\r",
    " ",
    "\t",
    "                                                            ",
    "00000000000000000000000000000000000000000000000000000000000000",
    "0",
    "5",
    "16",
    "+5",
    "0x5",
    "a",
    "F",
    "ffffffffffffffff",
    "18446744073709551615",
    "18446744073709551613",
    ",",
    ":",
    ";",
    ";ext=\"a\rb\"",
    "5\r\nhello\r\n",
    "5;x\r\nhello\r\n",
    "0\r\n\r\n",
    "0\r\nA: b\r\n\r\n",
    "0\r\nA: b\n\r\n\r\n",
    "hello",
    "0123456789abcdef",
];

/// A piece of a stream: one of [`WIRE`], by its place modulo their number; or a whole request.
#[derive(Debug, Clone, bolero::TypeGenerator)]
enum Wire {
    Piece(u8),
    Sized(u8, u8),
    Chunked(u8, u8),
    Bytes(u8, u8),
}

fn stream(wires: &[Wire]) -> Vec<u8> {
    let piece = |place: u8| WIRE[usize::from(place) % WIRE.len()].as_bytes();
    let mut all = vec![];
    for wire in wires {
        match wire {
            Wire::Piece(place) => all.extend(piece(*place)),
            Wire::Bytes(a, b) => all.extend([*a, *b]),
            Wire::Sized(more, length) => {
                let length = usize::from(length % 40);
                all.extend(b"POST /sized HTTP/1.1\r\n");
                all.extend(piece(*more));
                all.extend(format!("Content-Length: {length}\r\n\r\n{}", "s".repeat(length)).bytes());
            }
            Wire::Chunked(more, size) => {
                let size = usize::from(size % 40) + 1;
                all.extend(b"POST /chunked HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
                all.extend(format!("{size:x}\r\n{}\r\n", "c".repeat(size)).bytes());
                all.extend(piece(*more));
                all.extend(b"0\r\n\r\n");
            }
        }
    }
    all
}

/// A request as a reader understood it: its method and target, how many bytes its body has so far, and whether it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Understood {
    head: String,
    body: usize,
    ended: bool,
}

/// The requests that the guard finds in a stream, and the bytes that it passes on to hyper.
fn believed(stream: &[u8]) -> (Vec<Understood>, Vec<u8>) {
    let (mut framing, mut all, mut passed, mut head) = (Framing::new(HEADS), vec![], vec![], vec![]);
    for byte in stream {
        let (content, heads) = (framing.in_content(), framing.heads());
        if framing.between_requests() || framing.in_head() {
            head.push(*byte);
        }
        let cut = framing.advance(&[*byte]);
        if cut.is_none_or(|cut| cut.at == 1) {
            passed.push(*byte);
        }
        if let Some(cut) = cut {
            passed.extend(cut.ending.iter());
            break;
        }
        if framing.heads() > heads {
            let text = String::from_utf8_lossy(&head).trim_start_matches(['\r', '\n']).to_owned();
            let mut words = text.split(' ');
            let head = format!("{} {}", words.next().unwrap_or_default(), words.next().unwrap_or_default());
            all.push(Understood { head, body: 0, ended: false });
        }
        if framing.heads() > heads || !framing.in_head() && !framing.between_requests() {
            head.clear();
        }
        if let Some(last) = all.last_mut() {
            last.body += usize::from(content);
            last.ended |= framing.between_requests();
        }
    }
    (all, passed)
}

const HEADS: HeadLimits = HeadLimits { bytes_max: 80 << 10, lines_max: 100, uri_bytes_max: 32 << 10 };

/// The requests that hyper finds in bytes, and whether it read them to their end or closed before.
async fn served(bytes: &[u8], piece: usize) -> (Vec<Understood>, bool) {
    let seen = Arc::new(Mutex::new(vec![]));
    let refused = Arc::new(AtomicBool::new(false));
    let (mut client, socket) = tokio::io::duplex(1 << 20);
    let (notes, refuses) = (Arc::clone(&seen), Arc::clone(&refused));
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (seen, refuses) = (Arc::clone(&notes), Arc::clone(&refuses));
        async move {
            let (head, mut body) = request.into_parts();
            // After a CONNECT that is answered with 200 hyper reads no more requests.
            let last = head.version == hyper::Version::HTTP_10
                || head.method == hyper::Method::CONNECT
                || head.headers.get_all("connection").iter().any(|it| {
                    it.to_str()
                        .is_ok_and(|it| it.split(',').any(|it| it.trim().eq_ignore_ascii_case("close")))
                });
            let target = format!("{} {}", head.method, head.uri);
            let number = seen.lock().unwrap().len();
            seen.lock().unwrap().push((Understood { head: target, body: 0, ended: false }, last));
            loop {
                match body.frame().await {
                    Some(Ok(frame)) => {
                        let bytes = frame.into_data().map_or(0, |data| data.len());
                        seen.lock().unwrap()[number].0.body += bytes;
                    }
                    Some(Err(error)) => {
                        // hyper waits for a body that the stream's end cuts off. On any other fault it closes.
                        let source = std::error::Error::source(&error);
                        let source = source.and_then(|source| source.downcast_ref::<std::io::Error>());
                        let cut_off =
                            source.is_some_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof);
                        refuses.fetch_or(!cut_off, Ordering::Relaxed);
                        break;
                    }
                    None => {
                        seen.lock().unwrap()[number].0.ended = true;
                        break;
                    }
                }
            }
            Ok::<_, std::convert::Infallible>(hyper::Response::new(Full::<bytes::Bytes>::default()))
        }
    });
    let serving = http1::Builder::new()
        .half_close(true)
        .max_header_size(HEADS.bytes_max + 64)
        .serve_connection(TokioIo::new(socket), service);
    let sending = async {
        for piece in bytes.chunks(piece) {
            if client.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        client.shutdown().await.unwrap_or_default();
        let mut answers = vec![];
        client.read_to_end(&mut answers).await.unwrap_or_default();
    };
    let (result, ()) = tokio::join!(serving, sending);
    let seen = seen.lock().unwrap();
    // If hyper still waits for the end of a request, it has not closed.
    let waited = match result {
        Ok(()) => !seen.last().is_some_and(|(_, last)| *last),
        Err(error) => error.is_incomplete_message(),
    };
    let waited = waited && !refused.load(Ordering::Relaxed);
    (seen.iter().map(|(request, _)| request.clone()).collect(), waited)
}

/// Compares the guard with hyper: the guard has found each request that hyper answered, with the same head and the same body, or the
/// connection was closed before.
fn side_by_side(runtime: &tokio::runtime::Runtime, stream: &[u8], piece: usize) {
    let (believed, passed) = believed(stream);
    let (served, waited) = runtime.block_on(served(&passed, piece));
    let reported =
        || format!("{:?}\nguard: {believed:?}\nhyper: {served:?}", String::from_utf8_lossy(stream));
    let condemned = passed.len() < stream.len() || framing_ends_condemned(stream);
    for (at, request) in served.iter().enumerate() {
        match believed.get(at) {
            // The service refuses this request, because the guard has rejected it, and nothing follows.
            None if condemned && at == believed.len() => {}
            None => panic!("hyper takes a request that the guard does not know of: {}", reported()),
            Some(one) => {
                // hyper drops everything after a `#`.
                let (method, target) = one.head.split_once(' ').unwrap_or((&one.head, ""));
                let target = target.split('#').next().unwrap_or_default();
                assert_eq!(format!("{method} {target}"), request.head, "{}", reported());
                if request.ended || (waited && at + 1 == served.len()) {
                    assert_eq!((one.body, one.ended), (request.body, request.ended), "{}", reported());
                }
            }
        }
    }
    if waited && !condemned {
        assert_eq!(
            believed.len(),
            served.len(),
            "the guard believes in more than hyper takes: {}",
            reported()
        );
    }
}

fn framing_ends_condemned(stream: &[u8]) -> bool {
    let mut framing = Framing::new(HEADS);
    framing.advance(stream).is_some()
}

/// The guard in front of hyper finds requests that two readers could understand differently, so it must understand them as hyper
/// does. Once it did not: the part of a line that it kept was too short for a length after 60 spaces or 62 zeros, and for the size
/// of a chunk after 64 zeros.
#[test]
fn framing() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let next = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
    let twice = "GET /twice HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n";
    let (spaces, zeros) = (" ".repeat(60), "0".repeat(62));
    for (head, body) in [
        (format!("Content-Length:{spaces}16\r\n"), "0123456789abcdef".to_owned()),
        (format!("Content-Length: {zeros}{}\r\n", next.len()), next.to_owned()),
        ("Transfer-Encoding: chunked\r\n".into(), format!("00{zeros}5\r\nhello\r\n0\r\n\r\n")),
        ("Transfer-Encoding: chunked\r\n".into(), format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(80))),
        ("Transfer-Encoding: chunked\r\n".into(), "0\r\n\n\r\n\r\n".into()),
        ("Transfer-Encoding: chunked\r\n".into(), "0\r\nA: b\n\r\nC: d\r\n\r\n".into()),
        ("Transfer-Encoding: chunked\r\n".into(), format!("0\r\nA: {}\r\n\r\n", "b".repeat(99))),
        ("Transfer-Encoding: chunked\r\n".into(), "5;a\rb\r\nhello\r\n0\r\n\r\n".into()),
        ("Transfer-Encoding: chunked\r\n".into(), "0\r\nA: b\rc\r\n\r\n".into()),
        ("Transfer-Encoding: gzip, chunked\r\n".into(), "0\r\n\r\n".into()),
        ("Content-Length: 18446744073709551615\r\n".into(), "x".into()),
        ("Content-Length: 9223372036854775808\r\n".into(), "x".into()),
        ("Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 5\r\n".into(), "hello".into()),
        ("Expect: 100-continue\r\nContent-Length: 5\r\n".into(), "hello".into()),
    ] {
        let stream = format!("POST /first HTTP/1.1\r\n{head}\r\n{body}{next}{twice}{next}");
        for piece in [1, 7, stream.len()] {
            side_by_side(&runtime, stream.as_bytes(), piece);
        }
    }
    check!((Vec<Wire>, Vec<Harm>, u8), |(wires, harms, piece)| {
        let mut bytes = stream(wires);
        side_by_side(&runtime, &bytes, usize::from(*piece) + 1);
        harm(&mut bytes, harms);
        side_by_side(&runtime, &bytes, usize::from(*piece) + 1);
    });
}
