//! A 500,000-row batch on 1,000,000 profiles, in one process: from the first byte to acknowledged, readable, complete.
//!
//! `cargo bench --bench ingest [-- PROFILES ROWS]`
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints, and stops where it cannot go on"
)]

use profiled::app::{App, BatchState, BatchStatus, BatchVersion};
use profiled::config::{Config, ServeOptions};
use profiled::model::batch::EmptyValues;
use profiled::model::id::{ClientCode, IdKind, VisitorId};
use profiled::model::seq::SystemClock;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CHUNK: usize = 64 << 10;

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let profiles = numbers.first().copied().unwrap_or(1_000_000);
    let rows = numbers.get(1).copied().unwrap_or(500_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(profiles, rows));
}

async fn run(profiles: usize, rows: usize) {
    let folder = tempfile::Builder::new().prefix("ingest").tempdir_in("target").unwrap();
    let toml = folder.path().join("profiled.toml");
    std::fs::write(&toml, "[clients.demo]\nv2_creates_profiles = true\n").unwrap();
    let options = ServeOptions {
        data: Some(folder.path().join("data").to_str().unwrap().parse().unwrap()),
        config: Some(toml),
        ..ServeOptions::default()
    };
    let config = Config::resolve(options).unwrap();
    let app = App::open(config, Arc::new(SystemClock)).unwrap();
    let client = ClientCode::new("demo").unwrap();

    for from in (0..profiles).step_by(500_000) {
        let file = batch(from..(from + 500_000).min(profiles), 1, 0);
        report("create", post(&app, &client, &file, BatchVersion::V2).await);
    }
    for round in 0..3 {
        // Every second visitor, one in ten unknown.
        let file = batch(0..rows, 2, 10 + round);
        report("update", post(&app, &client, &file, BatchVersion::V1).await);
    }
    let store = bytes_under(&folder.path().join("data").join("store"));
    println!("store {} MiB, peak memory {}", store >> 20, peak_memory());
    app.stop().await;
}

/// Rows of five attributes, about 75 bytes each.
fn batch(numbers: std::ops::Range<usize>, step: usize, round: usize) -> Vec<u8> {
    let mut text = String::from("batch=thirdPartyId,tier,points,city,lastPurchase,segment\n");
    for n in numbers {
        // Scrambled, so that a file is not in key order.
        let visitor = (n * 7_919) % 500_009 * step;
        let unknown = if round > 0 && n % 10 == 0 { "x" } else { "" };
        let id = if step == 1 { n } else { visitor };
        writeln!(
            text,
            "{unknown}crm-{id:08},gold,{},Amsterdam-{},2026-11-{:02},segment-{}-{round}",
            n % 10_000,
            n % 89,
            n % 28 + 1,
            n % 17
        )
        .unwrap();
    }
    text.into_bytes()
}

struct Figures {
    acknowledged: Duration,
    complete: Duration,
    status: BatchStatus,
}

async fn post(app: &App, client: &ClientCode, file: &[u8], version: BatchVersion) -> Figures {
    let began = Instant::now();
    let mut upload = app.accept_batch(client, version, EmptyValues::Ignore).await.unwrap();
    for chunk in file.chunks(CHUNK) {
        upload.push(bytes::Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    let accepted = upload.finish().await.unwrap();
    let acknowledged = began.elapsed();
    let id = VisitorId::new(IdKind::ThirdParty, "crm-00000002").unwrap();
    assert!(app.read(client, &id).await.unwrap().is_some());
    loop {
        let status = app.batch(&accepted.id).unwrap();
        if matches!(status.state, BatchState::Complete) {
            return Figures { acknowledged, complete: began.elapsed(), status };
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn report(what: &str, figures: Figures) {
    let Figures { acknowledged, complete, status } = figures;
    let per_second = status.rows as f64 / complete.as_secs_f64();
    println!(
        "{what}: {} rows, {} MiB: acknowledged after {acknowledged:.0?}, complete after {complete:.0?}, {per_second:.0} rows/s, {:?}, peak {}",
        status.rows,
        status.bytes >> 20,
        status.counts,
        peak_memory(),
    );
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("unknown").to_owned()
}

fn bytes_under(folder: &std::path::Path) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        bytes += if metadata.is_dir() { bytes_under(&entry.path()) } else { metadata.len() };
    }
    bytes
}
