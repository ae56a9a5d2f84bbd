//! Batch files that come compressed, on the real daemon: the same outcome as plain ones, every refusal, and bombs.

use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use crate::support::{Daemon, Details, Reply, chunked, request, wait_for};

const V2: &str = "/m2/demo/v2/profile/batchUpdate";
const SMALL: &str = "batch=thirdPartyId,a,b\nx,1,two words\nnobody,1,\nx,,\na%2Bb,1,\n";
const MIB: usize = 1 << 20;

fn gzip(file: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    encoder.write_all(file).unwrap();
    encoder.finish().unwrap()
}

fn zlib(file: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(vec![], flate2::Compression::default());
    encoder.write_all(file).unwrap();
    encoder.finish().unwrap()
}

/// Without zlib's frame, as some send it.
fn raw_deflate(file: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(vec![], flate2::Compression::default());
    encoder.write_all(file).unwrap();
    encoder.finish().unwrap()
}

fn zstd(file: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(vec![], 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(file).unwrap();
    encoder.finish().unwrap()
}

/// The encodings by their names, and what encodes.
type Encoder = fn(&[u8]) -> Vec<u8>;
const ENCODINGS: [(&str, Encoder); 3] = [("gzip", gzip), ("x-gzip", gzip), ("zstd", zstd)];

fn post(daemon: &Daemon, encoding: &str, body: &[u8]) -> Reply {
    daemon.call("POST", V2, &[("Content-Type", "text/csv"), ("Content-Encoding", encoding)], Some(body))
}

/// The same, in chunks of a byte.
fn post_byte_by_byte(daemon: &Daemon, encoding: &str, body: &[u8]) -> Reply {
    let headers = [("Content-Encoding", encoding), ("Transfer-Encoding", "chunked")];
    let mut bytes = request("POST", V2, "a", &headers, None);
    for byte in body {
        bytes.extend_from_slice(b"1\r\n");
        bytes.extend_from_slice(&[*byte, b'\r', b'\n']);
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    daemon.send(&bytes)
}

fn refused(reply: &Reply, status: u16, words: &str) {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_eq!(reply.element("success").as_deref(), Some("false"));
    assert!(reply.text().contains(words), "{words:?} in {}", reply.text());
}

/// No byte of a refused body may be left or shown.
fn nothing_left(daemon: &Daemon) {
    wait_for("the spool folder to be empty", || daemon.spooled().is_empty().then_some(()));
    assert_eq!(daemon.get("/api/v1/batches?client=demo").json()["batches"].as_array().unwrap().len(), 0);
}

#[test]
fn a_compressed_batch_has_the_same_result_as_a_plain_one() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mboxPC=1&mbox3rdPartyId=x");
    let check = |reply: &Reply, how: &str| {
        assert_eq!(reply.status, 200, "{how}: {}", reply.text());
        let id = reply.batch_id();
        let visitor = daemon.visitor("demo", "third-party", "x").unwrap();
        assert_eq!(visitor["attributes"]["b"]["value"], "two words", "{how}");
        assert_eq!(visitor["attributes"]["b"]["batchId"], id.as_str(), "{how}");
        let details = Details { size: 4, consumed: 4, successful: 1, not_found: 1, failed: 1, ignored: 1 };
        assert_eq!(daemon.wait_complete(&id), details, "{how}");
        let batch = daemon.get(&format!("/api/v1/batches/{id}")).json();
        assert_eq!(batch["bytes"], SMALL.len(), "{how}: the size is the decoded file's");
    };
    let mut posted = 1;
    check(&daemon.try_batch(V2, SMALL), "plain");
    for (encoding, encode) in ENCODINGS {
        let body = encode(SMALL.as_bytes());
        check(&post(&daemon, encoding, &body), encoding);
        check(&post_byte_by_byte(&daemon, encoding, &body), &format!("{encoding} byte by byte"));
        let (first, second) = SMALL.as_bytes().split_at(30);
        let parts = [encode(first), encode(b""), encode(second)].concat();
        check(&post(&daemon, encoding, &parts), &format!("{encoding} in three parts"));
        posted += 3;
    }
    let spooled: Vec<_> =
        daemon.spooled().into_iter().filter(|path| path.extension().is_some_and(|it| it == "csv")).collect();
    assert_eq!(spooled.len(), posted);
    for path in spooled {
        assert_eq!(std::fs::read(path).unwrap(), SMALL.as_bytes(), "what is kept is the decoded file");
    }
}

#[test]
fn deflate_is_taken_with_zlibs_frame_and_without_and_has_the_same_limits() {
    let daemon = Daemon::start_with(&["--body-bytes-limit", "100000", "--rows-limit", "1000"]);
    daemon.mbox("demo", "mboxPC=1&mbox3rdPartyId=x");
    let bytes = format!("{SMALL}{}", "x".repeat(100_000 - SMALL.len()));
    for (how, encode) in [("framed", zlib as Encoder), ("raw", raw_deflate)] {
        let body = encode(SMALL.as_bytes());
        for reply in [post(&daemon, "deflate", &body), post_byte_by_byte(&daemon, "Deflate", &body)] {
            assert_eq!(reply.status, 200, "{how}: {}", reply.text());
            let details =
                Details { size: 4, consumed: 4, successful: 1, not_found: 1, failed: 1, ignored: 1 };
            assert_eq!(daemon.wait_complete(&reply.batch_id()), details, "{how}");
        }
        post(&daemon, "deflate", &encode(&bytes.as_bytes()[..99_999])).batch_id();
        let kept = daemon.get("/api/v1/batches?client=demo").json()["batches"].as_array().unwrap().len();
        for end in 1..body.len() {
            let words = format!("deflate stream was cut short: it ends after {end} bytes");
            refused(&post(&daemon, "deflate", &body[..end]), 400, &words);
        }
        for rest in [b"x".as_slice(), &[0; 16], &body] {
            refused(&post(&daemon, "deflate", &[&body, rest].concat()), 400, "something follows its end");
        }
        refused(&post(&daemon, "deflate", SMALL.as_bytes()), 400, "is not deflate");
        refused(&post(&daemon, "deflate", &encode(b"")), 400, "the body is empty");
        refused(&post(&daemon, "deflate", &encode(bytes.as_bytes())), 413, "100000 bytes");
        refused(&post(&daemon, "deflate", &encode(&vec![0; 16 * MIB])), 413, "");
        let now = daemon.get("/api/v1/batches?client=demo").json()["batches"].as_array().unwrap().len();
        assert_eq!(now, kept, "{how}: nothing of what was refused is left");
    }
}

#[test]
fn a_large_batch_comes_compressed_too() {
    let daemon = Daemon::start();
    let mut file = String::from("batch=thirdPartyId,a,b\n");
    (1..=300_000).for_each(|row| writeln!(file, "{row},{},{}", row % 7919, row * 31).unwrap());
    for (encoding, encode) in ENCODINGS {
        let id = post(&daemon, encoding, &encode(file.as_bytes())).batch_id();
        assert_eq!(daemon.wait_complete(&id).not_found, 300_000, "{encoding}");
    }
}

#[test]
fn a_stream_that_is_cut_short_is_refused_wherever_it_is() {
    let daemon = Daemon::start();
    for (encoding, encode) in ENCODINGS {
        let body = encode(SMALL.as_bytes());
        for end in 1..body.len() {
            refused(
                &post(&daemon, encoding, &body[..end]),
                400,
                &format!("cut short: it ends after {end} bytes"),
            );
        }
        refused(&post(&daemon, encoding, b""), 400, "the body is empty");
        refused(&post(&daemon, encoding, &encode(b"")), 400, "the body is empty");
    }
    nothing_left(&daemon);
}

#[test]
fn a_stream_that_was_changed_is_refused_or_the_same_file() {
    let daemon = Daemon::start();
    let mut accepted = 0;
    for (encoding, encode) in [("gzip", gzip as Encoder), ("zstd", zstd)] {
        let body = encode(SMALL.as_bytes());
        for at in 0..body.len() {
            let mut changed = body.clone();
            changed[at] ^= 1 << (at % 8);
            let reply = post(&daemon, encoding, &changed);
            if reply.status == 200 {
                accepted += 1;
                continue;
            }
            assert_eq!(reply.status, 400, "{encoding}, byte {at}: {}", reply.text());
        }
    }
    for path in daemon.spooled() {
        if path.extension().is_some_and(|it| it == "csv") {
            assert_eq!(std::fs::read(path).unwrap(), SMALL.as_bytes());
        }
    }
    assert!(accepted < 10, "{accepted} changes were not seen: gzip's time, system and level mean nothing");
}

#[test]
fn what_follows_a_stream_must_be_another() {
    let daemon = Daemon::start();
    for (encoding, encode) in ENCODINGS {
        let body = encode(SMALL.as_bytes());
        for rest in [b"garbage and more of it".as_slice(), &[0; 16], SMALL.as_bytes()] {
            refused(&post(&daemon, encoding, &[&body, rest].concat()), 400, "something follows its end");
        }
        refused(&post(&daemon, encoding, SMALL.as_bytes()), 400, "is not ");
        refused(&daemon.try_batch(V2, &body), 400, "Content-Encoding: ");
    }
    nothing_left(&daemon);
}

#[test]
fn other_encodings_are_refused_and_the_message_lists_the_right_ones() {
    let daemon = Daemon::start();
    for encoding in ["br", "compress", "gzip, gzip", "zstd,gzip", "identity, gzip", "aws-chunked"] {
        let reply = post(&daemon, encoding, SMALL.as_bytes());
        refused(&reply, 415, "compressed with gzip, zstd or deflate");
        assert!(reply.text().contains(encoding), "{}", reply.text());
        assert_eq!(reply.header("accept-encoding"), Some("gzip, zstd, deflate"), "{encoding}");
    }
    let twice = [("Content-Encoding", "gzip"), ("Content-Encoding", "gzip")];
    let reply = daemon.call("POST", V2, &twice, Some(&gzip(&gzip(SMALL.as_bytes()))));
    refused(&reply, 415, "gzip, gzip");
    for encoding in ["identity", "IDENTITY", ""] {
        post(&daemon, encoding, SMALL.as_bytes()).batch_id();
    }
    post(&daemon, "GZIP", &gzip(SMALL.as_bytes())).batch_id();
}

#[test]
fn forms_with_parts_and_json_are_shown_the_right_call() {
    let daemon = Daemon::start();
    for media_type in ["multipart/form-data; boundary=x", "application/json", "application/gzip"] {
        let reply = daemon.call("POST", V2, &[("Content-Type", media_type)], Some(SMALL.as_bytes()));
        let url = format!("http://{}{V2}", daemon.address());
        refused(&reply, 415, &format!("curl -X POST --data-binary @BATCH.TXT {url}"));
        refused(&reply, 415, "-H \"Content-Encoding: gzip\" --data-binary @BATCH.TXT.gz");
        assert_eq!(reply.header("accept-encoding"), None);
    }
}

#[test]
fn other_doors_take_nothing_compressed() {
    let daemon = Daemon::start();
    let form = [("Content-Type", "application/x-www-form-urlencoded"), ("Content-Encoding", "gzip")];
    let json = [("Content-Type", "application/json"), ("Content-Encoding", "gzip")];
    for (path, headers) in [
        ("/m2/demo/profile/update", &form),
        ("/m2/demo/mbox/json", &form),
        ("/rest/v1/delivery?client=demo&sessionId=s", &json),
    ] {
        let reply = daemon.call("POST", path, headers, Some(&gzip(b"mboxPC=1&profile.a=1")));
        assert_eq!(reply.status, 415, "{path}: {}", reply.text());
        assert!(reply.text().contains("Content-Encoding"), "{path}: {}", reply.text());
    }
}

#[test]
fn the_limits_hold_on_what_comes_out() {
    let daemon = Daemon::start_with(&["--body-bytes-limit", "100000", "--rows-limit", "1000"]);
    let mut rows = String::from("batch=thirdPartyId,a\n");
    (0..1000).for_each(|row| writeln!(rows, "{row},1").unwrap());
    let bytes = format!("{SMALL}{}", "x".repeat(100_000 - SMALL.len()));
    for (encoding, encode) in ENCODINGS {
        post(&daemon, encoding, &encode(rows.as_bytes())).batch_id();
        refused(&post(&daemon, encoding, &encode((rows.clone() + "x,1\n").as_bytes())), 413, "1000 rows");
        refused(&post(&daemon, encoding, &encode(bytes.as_bytes())), 413, "100000 bytes");
        post(&daemon, encoding, &encode(&bytes.as_bytes()[..99_999])).batch_id();
        // Streams of nothing could go on for ever.
        let nothing = encode(b"").repeat(10_000);
        refused(&post(&daemon, encoding, &nothing), 413, "compressed");
        let mut in_chunks = request(
            "POST",
            V2,
            "a",
            &[("Content-Encoding", encoding), ("Transfer-Encoding", "chunked")],
            None,
        );
        in_chunks.extend(chunked(&nothing));
        refused(&daemon.send(&in_chunks), 413, "compressed");
    }
    // Data that does not compress becomes longer, but not longer than allowed.
    let mut seed = 1u64;
    let mut noise = String::from("batch=thirdPartyId,a\n1,");
    while noise.len() < 99_999 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        noise.push(char::from(b'a' + (seed >> 59) as u8 % 26));
    }
    let stored = {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::none());
        encoder.write_all(noise.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    assert!(stored.len() >= 100_000);
    post(&daemon, "gzip", &stored).batch_id();
}

/// A header and `of` MiB of zeros, as gzip of one member, made in a hundredth of a second.
fn gzip_bomb(mib: usize) -> Vec<u8> {
    use flate2::{Compress, Compression, FlushCompress};
    let mut deflate = Compress::new(Compression::best(), false);
    let mut once = |bytes: &[u8]| {
        let mut out = Vec::with_capacity(MIB);
        deflate.compress_vec(bytes, &mut out, FlushCompress::Full).unwrap();
        out
    };
    let head = once(b"batch=thirdPartyId,a\nx,");
    // After a full flush nothing before it counts, so the same blocks always mean the same zeros.
    let zeros = once(&vec![0; 16 * MIB]);
    let mut bomb = gzip(b"")[..10].to_vec();
    bomb.extend(head);
    (0..mib / 16).for_each(|_| bomb.extend_from_slice(&zeros));
    bomb
}

/// The same as members, each whole and sound.
fn gzip_bomb_of_members(mib: usize) -> Vec<u8> {
    let mut bomb = gzip(b"batch=thirdPartyId,a\nx,");
    let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::best());
    encoder.write_all(&vec![0; 16 * MIB]).unwrap();
    let member = encoder.finish().unwrap();
    (0..mib / 16).for_each(|_| bomb.extend_from_slice(&member));
    bomb
}

/// The same as zstd: blocks of four bytes, each of which becomes 128 KiB.
fn zstd_bomb(mib: usize) -> Vec<u8> {
    let head = b"batch=thirdPartyId,a\nx,";
    // No checksum, no size, a window of 128 KiB.
    let mut bomb = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38];
    let block = |kind: u32, size: u32| ((size << 3) | (kind << 1)).to_le_bytes()[..3].to_vec();
    bomb.extend(block(0, 23));
    bomb.extend_from_slice(head);
    for _ in 0..mib * 8 {
        bomb.extend(block(1, 128 << 10));
        bomb.push(0);
    }
    bomb
}

#[test]
fn bombs_are_stopped_at_the_limits_and_take_no_memory() {
    const TEN_GIB: usize = 10 << 10;
    let bombs =
        [("gzip", gzip_bomb(TEN_GIB)), ("gzip", gzip_bomb_of_members(TEN_GIB)), ("zstd", zstd_bomb(TEN_GIB))];
    for (arguments, words) in [
        (&[][..], "1000 to one (decode_ratio_max)"),
        (&["--decode-ratio-max", "1000000"], "52428800 bytes or more"),
        (&["--decode-ratio-max", "1000000", "--spool-max-bytes", "40MiB"], "spool_max_bytes"),
    ] {
        let daemon = Daemon::start_with(arguments);
        // The memory that plain uploads need is already allocated: waiting pieces, and a row of 4 MiB.
        let mut plain = request("POST", V2, "a", &[("Content-Length", "20000000")], None);
        plain.extend_from_slice(b"batch=thirdPartyId,a\nx,");
        plain.resize(plain.len() + 12 * MIB, 0);
        for _ in 0..4 {
            let mut client = daemon.connect();
            client.write(&plain);
            client.end();
            refused(&client.read(), 400, "broke off");
        }
        let before = daemon.memory_kib("VmHWM:");
        for (encoding, bomb) in &bombs {
            let status = if words == "spool_max_bytes" { 507 } else { 413 };
            assert!(bomb.len() < 12 * MIB, "{encoding}: {}", bomb.len());
            refused(&post(&daemon, encoding, bomb), status, words);
            refused(&post_in_chunks(&daemon, encoding, bomb), status, words);
        }
        nothing_left(&daemon);
        let grown = (daemon.memory_kib("VmHWM:") - before) / 1024;
        assert!(grown < 48, "{arguments:?}: the bombs took {grown} MiB");
    }
}

/// Writes numbers of given lengths in bits, one after the other, as deflate does.
fn packed(numbers: impl IntoIterator<Item = (u64, u32)>) -> Vec<u8> {
    let (mut bytes, mut bits, mut held) = (vec![], 0, 0);
    for (number, width) in numbers {
        bits |= number << held;
        held += width;
        while held >= 8 {
            bytes.push((bits & 0xff) as u8);
            bits >>= 8;
            held -= 8;
        }
    }
    assert_eq!(held, 0, "whole bytes");
    bytes
}

/// The largest possible body that repeats a member of these empty blocks.
fn gzip_of_blocks(blocks: &[u8]) -> Vec<u8> {
    let mut member = gzip(b"")[..10].to_vec();
    member.extend(blocks.repeat(53_000_000 / blocks.len()));
    // The last block, the checksum and the length.
    member.extend([3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    member
}

/// A body of empty members once kept its worker busy for 26 seconds, and empty blocks for longer. Empty parts must cost about as
/// much as a file of the same length.
#[test]
fn empty_members_and_blocks_cost_little() {
    let stored = [0, 0, 0, 0xff, 0xff];
    let fixed = packed([(2, 10); 4]);
    // Two code lengths are used: 18, for many zeros, and 1, for the end of a block and for a distance.
    let lengths = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1];
    let dynamic: Vec<(u64, u32)> = [(4, 3), (0, 5), (0, 5), (14, 4)]
        .into_iter()
        .chain(lengths.map(|length| (u64::from(matches!(length, 1 | 18)), 3)))
        .chain([(1, 1), (127, 7), (1, 1), (107, 7), (0, 1), (0, 1), (0, 1)])
        .collect();
    let dynamic = packed(dynamic.repeat(4));
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
    let repeated = |unit: &[u8]| unit.repeat(53_000_000 / unit.len());
    let daemon = Daemon::start();
    for (what, encoding, body) in [
        ("members", "gzip", repeated(&gzip(b""))),
        ("stored blocks", "gzip", gzip_of_blocks(&stored)),
        ("blocks of the fixed codes", "gzip", gzip_of_blocks(&fixed)),
        ("blocks of codes of their own", "gzip", gzip_of_blocks(&dynamic)),
        ("frames", "zstd", repeated(&zstd(b""))),
        ("frames to be skipped", "zstd", repeated(&skippable)),
    ] {
        let before = daemon.cpu_time();
        refused(&post(&daemon, encoding, &body), 400, "the body is empty");
        let took = daemon.cpu_time() - before;
        // On an idle machine these take hundreds of milliseconds; the slowest takes 1.3 seconds.
        assert!(took < Duration::from_secs(5), "{what}: {took:?}");
    }
    nothing_left(&daemon);
}

fn post_in_chunks(daemon: &Daemon, encoding: &str, body: &[u8]) -> Reply {
    let headers = [("Content-Encoding", encoding), ("Transfer-Encoding", "chunked")];
    let mut bytes = request("POST", V2, "a", &headers, None);
    bytes.extend(chunked(body));
    daemon.send(&bytes)
}

#[test]
fn a_huge_zstd_window_is_refused_before_it_is_allocated() {
    let daemon = Daemon::start();
    refused(&post(&daemon, "zstd", &zstd(b"batch=\n")), 400, "");
    let before = daemon.memory_kib("VmHWM:");
    for log in [24, 27, 31] {
        let mut encoder = zstd::Encoder::new(vec![], 1).unwrap();
        encoder.set_parameter(zstd::zstd_safe::CParameter::WindowLog(log)).unwrap();
        encoder.write_all(SMALL.as_bytes()).unwrap();
        refused(&post(&daemon, "zstd", &encoder.finish().unwrap()), 400, "larger than 8 MiB");
    }
    // 3.75 TiB, the largest that a frame can name.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 0x01, 0x00, 0x00];
    refused(&post(&daemon, "zstd", &frame), 400, "larger than 8 MiB");
    let grown = (daemon.memory_kib("VmHWM:") - before) / 1024;
    assert!(grown < 8, "{grown} MiB");
    nothing_left(&daemon);
}
