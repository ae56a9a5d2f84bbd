//! Redis: hashes, written by pipelined commands whose bytes are prepared before the clock starts.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{LeftOut, Peer, Server, come_up, free_port, version};
use crate::support::kernel;
use crate::support::rows::{Batch, NAMES, Row, seeds};

/// The command for a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// `HSET`: no order, no check whether the visitor exists.
    Hset,
    /// A function that checks that the visitor exists and has no later write.
    Function,
}

/// One seq per visitor. profiled keeps one per attribute, so Redis has less to do.
const FUNCTION: &str = "#!lua name=profiles
redis.register_function('apply', function(keys, args)
  local seq = redis.call('HGET', keys[1], 'seq')
  if not seq or tonumber(seq) >= tonumber(args[2]) then return 0 end
  redis.call('HSET', keys[1], unpack(args))
  return 1
end)";

/// Profiles are sent in slices of this size, to bound memory.
const SEED_SLICE: usize = 100_000;

pub(super) struct Redis {
    server: Server,
    port: u16,
    stream: TcpStream,
    ask: Ask,
    version: String,
    prepared: Vec<u8>,
    rows: usize,
}

/// Starts a server with its own folder. Returns it with its port and version.
fn serve(folder: &Path) -> Result<(Server, u16, String), LeftOut> {
    let program = Path::new("redis-server");
    let Some(version) = version(program) else { return Err(LeftOut("there is no redis-server".into())) };
    std::fs::create_dir_all(folder).unwrap();
    let port = free_port();
    let mut command = Command::new(program);
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"]).arg(folder);
    command.args(["--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0"]);
    command.args(["--save", "", "--maxmemory", "0"]);
    let server = Server::start(command.stdout(Stdio::null()));
    come_up(|| TcpStream::connect(("127.0.0.1", port)));
    let number = version.split_once("v=").unwrap().1.split(' ').next().unwrap();
    Ok((server, port, number.to_owned()))
}

const SETTINGS: &str = "appendonly everysec (an answer is not yet durable), no rewrites of the file meanwhile, RDB off, maxmemory off";

impl Redis {
    pub(super) fn start(folder: &Path, ask: Ask) -> Result<Self, LeftOut> {
        let (server, port, version) = serve(folder)?;
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut redis = Self { server, port, stream, ask, version, prepared: vec![], rows: 0 };
        if ask == Ask::Function {
            let mut load = vec![];
            command(&mut load, &["FUNCTION", "LOAD", FUNCTION]);
            redis.stream.write_all(&load).unwrap();
            // The answer is the library's name: its length, then the name.
            let mut answer = BufReader::new(redis.stream.try_clone().unwrap()).lines();
            assert_eq!(answer.next().unwrap().unwrap(), "$8");
            assert_eq!(answer.next().unwrap().unwrap(), "profiles");
        }
        Ok(redis)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl Peer for Redis {
    fn settings(&self) -> String {
        let asked = match self.ask {
            Ask::Hset => "no order, no unknown-visitor check",
            Ask::Function => "one seq a visitor, unknown visitors skipped",
        };
        format!("{}; {SETTINGS}; {asked}", self.version)
    }

    fn seed(&mut self, profiles: usize) {
        for first in (0..profiles).step_by(SEED_SLICE) {
            let slice = first..(first + SEED_SLICE).min(profiles);
            let mut bytes = vec![];
            let rows = slice.len();
            seeds(slice).for_each(|row| hset(&mut bytes, &row, self.ask == Ask::Function));
            pipeline(&mut self.stream, &bytes, rows);
        }
    }

    fn prepare(&mut self, batch: Batch) {
        self.prepared.clear();
        self.rows = batch.rows;
        let seq = batch.round.to_string();
        for row in batch.rows() {
            match self.ask {
                Ask::Hset => hset(&mut self.prepared, &row, false),
                Ask::Function => {
                    let mut words = vec!["FCALL", "apply", "1", &row.id, "seq", &seq];
                    words.extend(
                        NAMES.iter().zip(&row.values).flat_map(|(name, value)| [*name, value.as_str()]),
                    );
                    command(&mut self.prepared, &words);
                }
            }
        }
    }

    fn apply(&mut self) -> Duration {
        pipeline(&mut self.stream, &self.prepared, self.rows)
    }

    fn points(&mut self, id: &str) -> Option<String> {
        let mut ask = vec![];
        command(&mut ask, &["HGET", id, "points"]);
        self.stream.write_all(&ask).unwrap();
        let mut answer = BufReader::new(self.stream.try_clone().unwrap()).lines();
        (answer.next()?.ok()? != "$-1").then(|| answer.next().unwrap().unwrap())
    }

    fn written(&self) -> u64 {
        kernel::written(self.server.0.id())
    }

    fn memory(&self) -> Option<u64> {
        kernel::memory(self.server.0.id(), "VmHWM")
    }
}

fn hset(out: &mut Vec<u8>, row: &Row, with_seq: bool) {
    let mut words = vec!["HSET", &row.id];
    if with_seq {
        words.extend(["seq", "0"]);
    }
    words.extend(NAMES.iter().zip(&row.values).flat_map(|(name, value)| [*name, value.as_str()]));
    command(out, &words);
}

fn command(out: &mut Vec<u8>, words: &[&str]) {
    write!(out, "*{}\r\n", words.len()).unwrap();
    for word in words {
        write!(out, "${}\r\n{word}\r\n", word.len()).unwrap();
    }
}

/// Sends commands and reads all their answers, which are one line each.
fn pipeline(stream: &mut TcpStream, commands: &[u8], answers: usize) -> Duration {
    let mut reader = stream.try_clone().unwrap();
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut buffer, mut lines, mut last) = (vec![0; 256 << 10], 0, b'\n');
            while lines < answers {
                let read = reader.read(&mut buffer).unwrap();
                assert!(read > 0, "Redis closed the connection");
                for &byte in buffer.get(..read).unwrap() {
                    assert!(last != b'\n' || byte == b':', "Redis answered no number");
                    lines += usize::from(byte == b'\n');
                    last = byte;
                }
            }
        });
        stream.write_all(commands).unwrap();
    });
    began.elapsed()
}
