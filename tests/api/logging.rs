//! The real daemon with a log that cannot be written. Whatever happens to its standard error, it does its work, reports that it is
//! healthy, and stops cleanly.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, PipeWriter, Read, Write as _, pipe};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Daemon, request, wait_for};

/// A daemon that logs everything.
fn talkative() -> Daemon {
    let mut daemon = Daemon::configured("");
    daemon.set_variable("PROFILED_LOG", "trace");
    daemon
}

/// Has it apply batches, and asks for its health.
fn check_work(daemon: &Daemon) {
    daemon.mbox("demo", "mboxPC=1&mbox3rdPartyId=x");
    for n in 0..20 {
        let batch = daemon.post_batch("demo", format!("batch=thirdPartyId,a\nx,{n}\n"));
        assert_eq!(daemon.wait_complete(&batch).successful, 1);
    }
    assert_eq!(daemon.value("demo", "third-party", "x", "a").as_deref(), Some("19"));
    assert_eq!((daemon.get("/healthz").status, daemon.get("/readyz").status), (200, 200));
}

/// Has it log at least this many lines: one for each request.
fn talk(daemon: &Daemon, lines: usize) {
    let ask = request("GET", "/healthz", "a", &[], None);
    for _ in 0..lines.div_ceil(100) {
        let mut connection = daemon.connect();
        connection.write(&ask.repeat(100));
        (0..100).for_each(|_| assert_eq!(connection.read().status, 200));
    }
}

/// A pipe whose reader has ended.
fn unread() -> PipeWriter {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    writer
}

/// The same, and at least this many lines of its log must be lost. Then stops it.
fn check_works(mut daemon: Daemon, lost_min: f64) {
    wait_for("lines to be lost", || {
        talk(&daemon, 1000);
        (daemon.metrics().value("profiled_log_lines_lost_total") >= lost_min).then_some(())
    });
    check_work(&daemon);
    daemon.terminate();
    assert_eq!(daemon.ended().code(), Some(0));
}

#[test]
fn it_works_with_its_log_going_to_a_full_disk() {
    let mut daemon = talkative();
    daemon.try_restart_to(OpenOptions::new().write(true).open("/dev/full").unwrap().into()).unwrap();
    check_works(daemon, 10.0);
}

#[test]
fn it_works_with_its_log_going_to_a_pipe_whose_reader_goes() {
    let mut daemon = talkative();
    let (mut reader, writer) = pipe().unwrap();
    daemon.try_restart_to(writer.into()).unwrap();
    reader.read_exact(&mut [0; 100]).unwrap();
    check_work(&daemon);
    drop(reader);
    check_works(daemon, 10.0);
}

#[test]
fn it_works_with_its_log_going_to_a_pipe_that_nobody_reads() {
    let mut daemon = talkative();
    let (reader, writer) = pipe().unwrap();
    daemon.try_restart_to(writer.into()).unwrap();
    // A limited number of lines waits; further ones are lost.
    check_works(daemon, 10.0);
    drop(reader);
}

/// A line that was cut off does not run into the next one.
#[test]
fn a_reader_that_reads_again_sees_how_many_lines_it_missed() {
    let mut daemon = talkative();
    let (reader, writer) = pipe().unwrap();
    daemon.try_restart_to(writer.into()).unwrap();
    wait_for("lines to be lost", || {
        talk(&daemon, 1000);
        (daemon.metrics().value("profiled_log_lines_lost_total") > 0.0).then_some(())
    });
    let reported =
        BufReader::new(reader).lines().find(|line| line.as_ref().unwrap().contains("log lines were lost"));
    assert!(reported.is_some());
    daemon.terminate();
    assert_eq!(daemon.ended().code(), Some(0));
}

#[test]
fn it_works_with_standard_error_closed() {
    let mut daemon = talkative();
    let mut command = Command::new("/bin/sh");
    let serve = daemon.command(Stdio::null());
    command.args(["-c", "exec \"$0\" \"$@\" 2>&-"]).arg(serve.get_program()).args(serve.get_args());
    let mut process = command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    daemon.take_on(process, &line);
    check_works(daemon, 0.0);
}

/// `setsid --ctty` makes the terminal the daemon's own. The system sends it a `SIGHUP` when the terminal is closed.
#[test]
fn it_works_after_its_terminal_was_closed() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let mut daemon = talkative();
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, vec![]).unwrap().into_string().unwrap();
    let open = || OpenOptions::new().read(true).write(true).open(&name).unwrap();
    let mut command = Command::new("setsid");
    let serve = daemon.command(Stdio::null());
    command.arg("--ctty").arg(serve.get_program()).args(serve.get_args());
    command.env_clear().env("PROFILED_LOG", "trace");
    let mut process = command.stdin(open()).stdout(Stdio::piped()).stderr(open()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    daemon.take_on(process, &line);
    let mut terminal = File::from(terminal);
    terminal.read_exact(&mut [0; 100]).unwrap();
    drop(terminal);
    check_works(daemon, 10.0);
}

#[test]
fn it_starts_and_works_with_standard_output_closed() {
    let mut daemon = Daemon::configured("");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_profiled"));
    command.args(["serve", "--data"]).arg(daemon.data()).env_clear().env("PROFILED_LISTEN", free.to_string());
    let process = command.stdin(Stdio::null()).stdout(unread()).stderr(Stdio::null()).spawn().unwrap();
    daemon.take_on(process, &format!("listening on http://{free}"));
    wait_for("the daemon to listen", || std::net::TcpStream::connect(free).ok());
    // Where it opens its folder it may close a connection without an answer.
    wait_for("the daemon to serve", || {
        let mut stream = std::net::TcpStream::connect(free).ok()?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(())
    });
    check_work(&daemon);
    daemon.terminate();
    assert_eq!(daemon.ended().code(), Some(0));
}

/// Whether a value is Rust's own way to print one, which no program that reads the log expects.
fn is_debug_text(value: &str) -> bool {
    value == "None" || value.starts_with("Some(") || value.starts_with('"') || value.contains(" { ")
}

/// Lines for programs once had `"actor":"Actor { token: Some(\"1f\"), … }"` and times as texts.
#[test]
fn lines_for_programs_have_plain_fields() {
    let mut daemon = talkative();
    daemon.set_variable("PROFILED_LOG_FORMAT", "json");
    let token = daemon.make_token(&["--all-clients", "--scope", "admin"]);
    let id = daemon.run(&["token", "list"]).1.split_whitespace().find_map(|word| {
        (word.len() == 8 && word.bytes().all(|b| b.is_ascii_hexdigit())).then(|| word.to_owned())
    });
    daemon.keep_complaints().restart().set_variable("PROFILED_TOKEN", &token);
    daemon.mbox("demo", "mboxPC=1&mbox3rdPartyId=x&profile.a=1");
    let file = daemon.data().with_file_name("batch.csv");
    std::fs::write(&file, "batch=thirdPartyId,a\nx,2\na/b,3\n").unwrap();
    let run = |arguments: &[&str]| {
        let (code, _, complaints) = daemon.run(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {complaints}");
    };
    run(&["batch", "post", file.to_str().unwrap(), "--client", "demo", "--wait"]);
    run(&["profile", "erase", "x", "--client", "demo"]);
    run(&["compact"]);
    assert_eq!(daemon.get("/api/v1/status").status, 401);
    daemon.hang_up();
    daemon.wait_for_complaint("settings reloaded");
    daemon.terminate();
    assert_eq!(daemon.ended().code(), Some(0));

    let log = daemon.complaints();
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let with = |message: &str, field: &str| {
        let said: Vec<&Value> = events.iter().filter(|event| event["message"] == message).collect();
        assert!(!said.is_empty() && said.iter().all(|event| !event[field].is_null()), "{message}: {said:?}");
        said[0][field].clone()
    };
    for event in events.iter().filter(|event| {
        let target = event["target"].as_str().unwrap();
        target == "audit" || target.starts_with("profiled")
    }) {
        for (name, value) in event.as_object().unwrap() {
            assert!(!value.as_str().is_some_and(is_debug_text), "{name}: {event}");
            assert!(value.is_number() || !name.ends_with("_ms"), "{name}: {event}");
        }
    }
    assert_eq!(with("administrative act", "actor_token"), id.unwrap());
    assert_eq!(with("administrative act", "address"), "127.0.0.1");
    assert!(with("administrative act", "request").is_string());
    assert!(with("answered", "took_ms").as_f64().is_some_and(|ms| ms < 600_000.0));
    assert!(with("a batch is complete", "applied_ms").is_number());
    assert!(with("a snapshot was taken", "took_ms").is_number());
}

#[test]
fn what_is_rusts_own_way_to_print_is_told_from_text() {
    let check = |value: &str, expected: bool| assert_eq!(is_debug_text(value), expected, "{value}");
    check(&format!("{:?}", Some(1)), true);
    check(&format!("{:?}", None::<u8>), true);
    check(&format!("{:?}", "a"), true);
    check("Actor { token: None }", true);
    check("the certificate was reloaded", false);
}

/// The reader of a command's output may stop reading, or be gone. The command ends, and does not panic.
#[test]
fn commands_do_not_mind_readers_that_are_gone() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mboxPC=1&mbox3rdPartyId=x&profile.a=1");
    let batch = daemon.post_batch("demo", "batch=thirdPartyId,a\nx,1\ny,2\n");
    daemon.wait_complete(&batch);
    let (batch, data) = (batch.as_str(), daemon.data());
    let commands: [&[&str]; 11] = [
        &["--help"],
        &["batch", "list", "--client", "demo"],
        &["batch", "list", "--client", "demo", "--json"],
        &["batch", "status", batch],
        &["batch", "rows", batch],
        &["batch", "repair", batch],
        &["profile", "get", "x", "--client", "demo"],
        &["profile", "get", "nobody", "--client", "demo"],
        &["token", "list", "--data", data.to_str().unwrap()],
        &["man", "serve"],
        &["completions", "bash"],
    ];
    for arguments in commands {
        let mut command = Command::new(env!("CARGO_BIN_EXE_profiled"));
        command.args(arguments).env_clear().env("PROFILED_URL", daemon.url());
        let ended = command.stdin(Stdio::null()).stdout(unread()).stderr(unread()).status();
        let code = ended.unwrap().code();
        assert!(matches!(code, Some(0..=2)), "{arguments:?}: {code:?}");
    }
}
