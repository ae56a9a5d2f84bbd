//! The settings as tables: their defaults, where each may be given, and the errors for wrong ones.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser};

use super::value::{DAY_MS, HOUR_MS};
use super::*;
use crate::model::batch::{BatchReading, ConsecutiveV2};
use crate::model::blocked::BlockedIds;

#[derive(Parser)]
struct Serve {
    #[command(flatten)]
    options: ServeOptions,
}

fn options(flags: &str) -> ServeOptions {
    Serve::try_parse_from(["serve"].into_iter().chain(flags.split_whitespace())).unwrap().options
}

/// Resolves the flags and a `profiled.toml` with that text. The error leaves the folder's name out.
fn resolve(flags: &str, file: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(DEFAULT_FILE);
    std::fs::write(&path, file).unwrap();
    let folder = format!("{}/", folder.path().display());
    let resolved = Config::resolve_with(&options(flags), &path);
    let reachable = resolved.and_then(|config| config.check_reach(false).map(|()| config));
    reachable.map_err(|e| e.to_string().replace(&folder, ""))
}

fn client(code: &str) -> ClientCode {
    ClientCode::new(code).unwrap()
}

#[test]
fn defaults_are_those_of_the_design() {
    let config = Config::resolve_with(&ServeOptions::default(), Path::new("no such file")).unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8750");
    assert_eq!(config.server.data_folder, Path::new("./profiled-data"));
    assert_eq!(config.server.cache_bytes, 616 << 20);
    assert_eq!((config.server.public_url.clone(), config.server.default_client.clone()), (None, None));
    assert!(!config.server.allow_anonymous);
    let limits = Limits {
        profile_bytes_max: 1_048_576,
        spool_bytes_max: 21_474_836_480,
        body_bytes_limit: 52_428_800,
        rows_limit: 500_000,
        concurrent_uploads_max: 32,
        decode_ratio_max: 1000,
    };
    assert_eq!(config.limits, limits);
    assert_eq!(config.timeouts.header_read, Duration::from_secs(10));
    let pace = Pace { idle_max: Duration::from_secs(30), bytes_per_second_min: 1024 };
    assert_eq!((config.timeouts.body(), config.timeouts.answer()), (pace, pace));
    assert_eq!(config.timeouts.idle_connection, Duration::from_secs(60));
    assert_eq!(config.timeouts.tls_handshake, Duration::from_secs(10));
    assert_eq!(config.tls(), None);
    let upkeep = Upkeep {
        retention_ms: 2_592_000_000,
        journal_segment_bytes: 67_108_864,
        snapshot_journal_bytes: 1_073_741_824,
        erase_within_ms: 86_400_000,
        disk_reserve_bytes: 268_435_456,
    };
    assert_eq!(config.upkeep, upkeep);
    let heads = HeadLimits { bytes_max: 81_920, lines_max: 100, uri_bytes_max: 32_768 };
    assert_eq!(config.heads, heads);
    let callers = Callers {
        connections_max: 8192,
        connections_per_address_max: 1024,
        loopback_exempt: true,
        site_calls_per_second: NonZeroU32::new(1000),
        failed_authorisations_per_minute: NonZeroU32::new(60),
        trusted_proxies: Arc::default(),
    };
    assert_eq!(config.callers, callers);
    assert_eq!((config.server.log.as_str(), config.server.log_format), ("info", LogFormat::Text));
    let settings = config.client(&client("any")).unwrap();
    assert_eq!(settings, ClientSettings::default());
    assert_eq!(
        (settings.v2_creates_profiles, settings.consecutive_v2, settings.lifetime_ms),
        (false, ConsecutiveV2::Merge, 1_209_600_000)
    );
}

#[test]
fn a_flag_beats_the_file_and_the_file_beats_the_default() {
    #[track_caller]
    fn check<T: PartialEq + fmt::Debug>(flags: &str, file: &str, field: fn(Config) -> T, expected: T) {
        assert_eq!(field(resolve(flags, file).unwrap()), expected, "{flags:?} over {file:?}");
    }
    let cache = |it: Config| it.server.cache_bytes;
    check("", "", cache, 616 * MIB);
    let store_cache = |it: Config| it.store_cache_bytes();
    check("", "", store_cache, 512 * MIB);
    check("--cache 128MiB", "", store_cache, 24 * MIB);
    check("--cache 24MiB", "", store_cache, 4 * MIB);
    let held = |it: Config| it.held_bytes_max();
    check("", "", held, 77 * MIB);
    check("--cache 128MiB", "", held, 16 * MIB);
    check("", "cache = '16MiB'", cache, 16 * MIB);
    check("", "cache = 16777216", cache, 16 * MIB);
    check("--cache 32MiB", "cache = '16MiB'", cache, 32 * MIB);
    check("--cache 33554432", "", cache, 32 * MIB);
    let listen = |it: Config| it.server.listen.to_string();
    check("", "listen = '127.0.0.1:0'", listen, "127.0.0.1:0".into());
    check("--listen [::1]:9", "listen = '0.0.0.0:0'", listen, "[::1]:9".into());
    check("--listen 0.0.0.0:9 --allow-anonymous", "", listen, "0.0.0.0:9".into());
    check("--listen 0.0.0.0:9", "allow_anonymous = true", listen, "0.0.0.0:9".into());
    check("--listen [::ffff:127.0.0.1]:9", "", listen, "[::ffff:127.0.0.1]:9".into());
    check("--allow-anonymous=false", "allow_anonymous = true", |it| it.server.allow_anonymous, false);
    check("", "data = 'd'", |it| it.server.data_folder, "d".into());
    check("--data e", "data = 'd'", |it| it.server.data_folder, "e".into());
    let public_url = |it: Config| it.server.public_url.unwrap().as_str().to_owned();
    check("", "public_url = 'https://p.example/a/'", public_url, "https://p.example/a".into());
    check("--public-url http://q:80", "public_url = 'https://p'", public_url, "http://q:80".into());
    check("--default-client b", "default_client = 'a'", |it| it.server.default_client, Some(client("b")));
    check("", "max_profile_bytes = '64KiB'", |it| it.limits.profile_bytes_max, 65_536);
    check("", "spool_max_bytes = 1", |it| it.limits.spool_bytes_max, 1);
    check("", "body_bytes_limit = 2000", |it| it.limits.body_bytes_limit, 2000);
    check("--rows-limit 7", "rows_limit = 8", |it| it.limits.rows_limit, 7);
    check("", "concurrent_uploads_max = 2", |it| it.limits.concurrent_uploads_max, 2);
    check("", "decode_ratio_max = 7", |it| it.limits.decode_ratio_max, 7);
    check("--retention-days 0", "", |it| it.upkeep.retention_ms, 0);
    check("", "journal_segment_bytes = \"1MiB\"", |it| it.upkeep.journal_segment_bytes, 1 << 20);
    check("", "snapshot_journal_bytes = \"1MiB\"", |it| it.upkeep.snapshot_journal_bytes, 1 << 20);
    check("--erase-within-hours 1", "", |it| it.upkeep.erase_within_ms, 3_600_000);
    check("--backup-folder /b", "", |it| it.backups.folder.clone(), Some("/b".into()));
    check("", "backup_every_hours = 1", |it| it.backups.every, Duration::from_secs(3600));
    let endpoint = |it: Config| it.backups.endpoint.map(|endpoint| endpoint.as_str().to_owned());
    check("", "s3_endpoint = 'https://s:9000/'", endpoint, Some("https://s:9000".into()));
    check("--s3-endpoint http://s --s3-allow-http", "", endpoint, Some("http://s".into()));
    let region = |it: Config| it.backups.region.map(|region| region.as_str().to_owned());
    check("", "s3_region = 'eu-west-1'", region, Some("eu-west-1".into()));
    check("--s3-allow-http", "", |it| it.backups.allow_http, true);
    if cfg!(feature = "s3") {
        let url = |it: Config| it.backups.url.map(|url| url.to_string());
        check("", "backup_url = 's3://backups/a/b/'", url, Some("s3://backups/a/b".into()));
        check("--backup-url s3://backups", "", url, Some("s3://backups".into()));
    }
    check("", "backups_kept = 1", |it| it.backups.kept, 1);
    check("--disk-reserve-bytes 0", "", |it| it.upkeep.disk_reserve_bytes, 0);
    check("", "header_read_timeout_seconds = 1", |it| it.timeouts.header_read.as_secs(), 1);
    check("", "body_idle_timeout_seconds = 2", |it| it.timeouts.body_idle_max.as_secs(), 2);
    check("", "answer_idle_timeout_seconds = 2", |it| it.timeouts.answer_idle_max.as_secs(), 2);
    let rate = |it: Config| it.timeouts.body_bytes_per_second_min;
    check("--body-bytes-per-second-min 0", "body_bytes_per_second_min = '2KiB'", rate, 0);
    check("", "body_bytes_per_second_min = '2KiB'", rate, 2048);
    let rate = |it: Config| it.timeouts.answer_bytes_per_second_min;
    check("--answer-bytes-per-second-min 0", "answer_bytes_per_second_min = '2KiB'", rate, 0);
    check("", "answer_bytes_per_second_min = '2KiB'", rate, 2048);
    check("", "idle_connection_timeout_seconds = 3", |it| it.timeouts.idle_connection.as_secs(), 3);
    check("--log-format json", "log_format = 'text'", |it| it.server.log_format, LogFormat::Json);
    check("--tls-handshake-timeout-seconds 4", "", |it| it.timeouts.tls_handshake.as_secs(), 4);
    let tls = Some(TlsFiles { cert: "c".into(), key: "k".into() });
    check("--tls-cert c", "tls_key = 'k'\ntls_cert = 'd'", |it| it.tls(), tls);
    check("", "connections_max = 9", |it| it.callers.connections_max, 9);
    check("", "connections_per_address_max = 8", |it| it.callers.connections_per_address_max, 8);
    check("--loopback-exempt=false", "", |it| it.callers.loopback_exempt, false);
    check("", "header_bytes_max = '4KiB'", |it| it.heads.bytes_max, 4096);
    check("", "headers_max = 20", |it| it.heads.lines_max, 20);
    check("", "uri_bytes_max = 300", |it| it.heads.uri_bytes_max, 300);
    check("", "site_calls_per_second = 5", |it| it.callers.site_calls_per_second, NonZeroU32::new(5));
    check("--site-calls-per-second 0", "", |it| it.callers.site_calls_per_second, None);
    let failures = |it: Config| it.callers.failed_authorisations_per_minute;
    check("", "failed_authorisations_per_minute = 7", failures, NonZeroU32::new(7));
    let batch_calls =
        |it: Config| ["a", "b"].map(|code| it.client(&client(code)).unwrap().batch_calls_per_minute);
    let rates = |a, b| [NonZeroU32::new(a), NonZeroU32::new(b)];
    check("", "batch_calls_per_minute = 50", batch_calls, rates(50, 50));
    let file = "batch_calls_per_minute = 50\n[clients.a]\nbatch_calls_per_minute = 0\n[clients.b]";
    check("", file, batch_calls, rates(0, 50));
    check("--batch-calls-per-minute 9", file, batch_calls, rates(0, 9));
    let shows = |it: Config| ["a", "b"].map(|code| it.client(&client(code)).unwrap().batch_shows_after_ms);
    let file = "batch_shows_after_seconds = 9\n[clients.a]\nbatch_shows_after_seconds = 0\n[clients.b]";
    check("", file, shows, [0, 9_000]);
    check("--batch-shows-after-seconds 2", "", shows, [2_000, 2_000]);
    let kept = |it: Config| ["a", "b"].map(|code| it.client(&client(code)).unwrap().status_kept_ms);
    let file = "status_kept_seconds = 60\n[clients.a]\nstatus_kept_seconds = 0\n[clients.b]";
    check("", file, kept, [None, Some(60_000)]);
    let ingest =
        |it: Config| (it.ingest.rows_per_second_max.map(NonZeroU32::get), it.ingest.window.is_some());
    check("", "[ingest]", ingest, (None, false));
    check("", "[ingest]\nmax_rows_per_second = 20000", ingest, (Some(20_000), false));
    let file = "[ingest]\nmax_rows_per_second = 9\nwindow = 'Mon-Fri 08:00-18:00 Europe/Paris'";
    check("", file, ingest, (Some(9), true));
    let rows =
        |it: Config| [9, 21].map(|hour| it.ingest.rows_per_second_at(Millis(hour * HOUR_MS)).is_some());
    // 1 January 1970 was a Thursday.
    check("", "[ingest]\nmax_rows_per_second = 9\nwindow = 'Thu 08:00-18:00 UTC'", rows, [true, false]);
    check("", "[ingest]\nmax_rows_per_second = 9", rows, [true, true]);
    let proxies = |it: Config| it.callers.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>();
    let file = "trusted_proxies = ['10.1.2.3/8', '::1']";
    check("", file, proxies, vec!["10.0.0.0/8".into(), "::1/128".into()]);
    check(
        "--trusted-proxies 127.0.0.1,::ffff:1.2.3.4",
        file,
        proxies,
        vec!["127.0.0.1/32".into(), "1.2.3.4/32".into()],
    );
    check("", "trusted_proxies = []", proxies, vec![]);
    check("--log warn,profiled::batch=debug", "log = 'off'", |it| it.server.log.as_str().len(), 26);
}

#[test]
fn each_error_says_where_what_and_what_would_be_right() {
    #[track_caller]
    fn check(file: &str, expected: &str) {
        assert_eq!(resolve("", file).unwrap_err(), expected, "{file}");
    }
    let keys: Vec<&str> = known(Table::Top).iter().map(|declared| declared.key).collect();
    assert!(keys.len() > 40, "{keys:?}");
    check(
        "listen = '127.0.0.1:1'\n\nlifetime = 3",
        &format!(
            "profiled.toml line 3: unknown key `lifetime`, expected one of `{}`, `ingest`, `clients`, `cluster`",
            keys.join("`, `")
        ),
    );
    check(
        "[clients.demo]\nlifetime_days = 3\nconsecutive = 'merge'",
        "profiled.toml line 3: unknown key `consecutive`, expected one of `ims_orgs`, `v2_creates_profiles`, \
         `consecutive_v2`, `batch_reading`, `blocked_ids`, `lifetime_days`, `history_max`, `batch_calls_per_minute`, `batch_shows_after_seconds`, \
         `status_kept_seconds`",
    );
    check(
        "[ingest]\nwindow = 'Mon-Fri 08:00-18:00 Europe/Paris'",
        "profiled.toml line 2: window is set without max_rows_per_second: say how many rows a second are applied inside \
         the window",
    );
    check(
        "[ingest]\nmax_rows_per_second = 9\nwindow = 'Mo-Fr 8-18'",
        "profiled.toml line 3: \"Mo-Fr 8-18\" is not days, hours and a time zone, such as \
         \"Mon-Fri 08:00-18:00 Europe/Paris\" or \"Fri-Sun 22:00-06:00 UTC\"",
    );
    check(
        "[ingest]\nmax_rows = 9",
        "profiled.toml line 2: unknown key `max_rows`, expected one of `max_rows_per_second`, `window`",
    );
    let size = "such as 128MiB, 500MB or 1048576";
    check(
        "cache = '7MiB'",
        &format!("profiled.toml line 1: \"7MiB\" is not a size from 8MiB to 1TiB, {size}"),
    );
    check("\ncache = -1", &format!("profiled.toml line 2: -1 is not a size from 8MiB to 1TiB, {size}"));
    check("cache = 1.5", &format!("profiled.toml line 1: 1.5 is not a size from 8MiB to 1TiB, {size}"));
    check("rows_limit = 0", "profiled.toml line 1: 0 is not a whole number from 1 to 20000000");
    check("rows_limit = '9'", "profiled.toml line 1: \"9\" is not a whole number from 1 to 20000000");
    check(
        "data = 'd'\nlisten = 'localhost'",
        "profiled.toml line 2: \"localhost\" is not an address and a port, such as 127.0.0.1:8750 or [::1]:8750",
    );
    check("allow_anonymous = 'true'", "profiled.toml line 1: \"true\" is not true or false");
    check("data = ''", "profiled.toml line 1: \"\" is not a path, such as \"./profiled-data\"");
    let url = "is not a URL without a query, such as https://profiles.example.com";
    for wrong in
        ["profiles.example.com", "ftp://a", "https://a?b", "https://a&b", "https://u@a", "http://", "x"]
    {
        check(&format!("public_url = '{wrong}'"), &format!("profiled.toml line 1: {wrong:?} {url}"));
    }
    let long = format!("https://{}.example", "x".repeat(64));
    check(
        &format!("public_url = '{long}'"),
        &format!(
            "profiled.toml line 1: {long:?} is not short enough: a public_url has at most 64 characters"
        ),
    );
    check("default_client = 'a b'", "profiled.toml line 1: \"a b\" is not a client code: ' ' is not allowed");
    check("[clients.\"a&b\"]", "profiled.toml line 1: \"a&b\" is not a client code: '&' is not allowed");
    check(
        "[clients.a]\nconsecutive_v2 = 'both'",
        "profiled.toml line 2: \"both\" is not \"merge\" or \"replace\"",
    );
    check(
        "[clients.a]\nbatch_reading = 'strict'",
        "profiled.toml line 2: \"strict\" is not \"kind\" or \"adobe\"",
    );
    check(
        "[clients.a]\nlifetime_days = 3651",
        "profiled.toml line 2: 3651 is not a whole number from 1 to 3650",
    );
    check(
        "[clients.a]\nims_orgs = [\n  'A@AdobeOrg',\n  '']",
        "profiled.toml line 4: \"\" is not an organisation id, such as \"ABCDEF@AdobeOrg\"",
    );
    let filter = "a log filter: off, error, warn, info, debug, trace or target=level, several with commas";
    let data = std::path::absolute("profiled-data").unwrap();
    check(
        "\nbackup_folder = 'profiled-data/backups'",
        &format!(
            "profiled.toml line 2: {0}/backups is in the data folder {0}: what destroys the data would destroy the backups, \
             too; name a folder elsewhere, on another disk if there is one",
            data.display()
        ),
    );
    check(
        "backup_folder = '/b'\nbackup_url = 's3://backups/p'",
        "profiled.toml line 2: backup_url is set beside backup_folder: scheduled backups go to one place, so keep one of the two",
    );
    for wrong in [
        "https://b/p",
        "s3://b",
        "s3://backups//p",
        "s3://backups/../p",
        "s3://backups/a?b",
        "s3://user@backups/p",
    ] {
        let right = "a bucket and a prefix of letters, digits and .-_=+@,: such as \"s3://backups/profiled\"";
        check(
            &format!("backup_url = '{wrong}'"),
            &format!("profiled.toml line 1: \"{wrong}\" is not {right}"),
        );
    }
    for wrong in ["storage", "ftp://storage", "https://storage/?a=b", "https://key:secret@storage"] {
        let right = "a URL without a query, such as \"https://storage.example.com\"";
        check(
            &format!("s3_endpoint = '{wrong}'"),
            &format!("profiled.toml line 1: \"{wrong}\" is not {right}"),
        );
    }
    check(
        "s3_region = 'eu west'",
        "profiled.toml line 1: \"eu west\" is not the name of a region, such as \"eu-west-1\"",
    );
    check(
        "s3_endpoint = 'http://storage:9000'",
        "profiled.toml line 1: http://storage:9000 would carry all profiles unencrypted: use https, or set s3_allow_http = true if \
         nobody else is on that network",
    );
    if !cfg!(feature = "s3") {
        check(
            "backup_url = 's3://backups/p'",
            "profiled.toml line 1: backup_url is set, but this profiled was built without S3: build it with `--features s3`, or install \
             the Debian package or the image, which have it",
        );
    }
    check("log = 'inof'", &format!("profiled.toml line 1: \"inof\" is not {filter}"));
    check("log = 'a=b=c'", &format!("profiled.toml line 1: \"a=b=c\" is not {filter}"));
    check("log = 1", &format!("profiled.toml line 1: 1 is not {filter}"));
    check("\ntls_cert = 'c'", "profiled.toml line 2: tls_cert is set without tls_key: set both, or neither");
    check(
        "trusted_proxies = [\n'10.0.0.0/33']",
        "profiled.toml line 2: \"10.0.0.0/33\" is not an address or a network, such as 127.0.0.1 or 10.0.0.0/8",
    );
    check("\n\nlisten =", "profiled.toml line 3: string values must be quoted, expected literal string");
    check("log = 'off'\nlog = 'off'", "profiled.toml line 2: duplicate key");
    check(
        "\nlisten = '0.0.0.0:8750'",
        "profiled.toml line 2: 0.0.0.0:8750 can be reached from other machines, and there are no tokens: \
         make one with `profiled token new`, listen on a loopback address such as 127.0.0.1:8750, or set --allow-anonymous",
    );
    let order = "order = 'kafka://k:9092/p'";
    check(
        &format!("[cluster]\n{order}"),
        "profiled.toml line 2: order is set without node: a node of several has both; a single daemon has neither",
    );
    check(
        "[cluster]\nnode = 'a'",
        "profiled.toml line 2: node is set without order: a node of several has both; a single daemon has neither",
    );
    check(
        "[cluster]\nchanges_topic = 'profiled.changes'",
        "profiled.toml line 2: changes_topic is set without order: only nodes of several pass changes on to a topic",
    );
    check(
        &format!("[cluster]\n{order}\nnode = 'a'\nchanges_topic = 'a/b'"),
        "profiled.toml line 4: \"a/b\" is not a topic's name of 1 to 249 letters, digits, '_', '-' and '.'",
    );
    check(
        &format!("listen = '[::]:8750'\n[cluster]\n{order}\nnode = 'a'"),
        "profiled.toml line 1: [::]:8750 is every address of this machine, and no other node can reach it there: set advertise to \
         the URL at which they can",
    );
    check(
        "default_client = 'c'\n[clients.a]\n[clients.b]",
        "profiled.toml line 1: c is not a configured client: add [clients.c], or choose one of a, b",
    );
    check(
        "[clients.b]\nims_orgs = ['O@AdobeOrg']\n[clients.a]\nims_orgs = ['O@AdobeOrg']",
        "profiled.toml line 2: O@AdobeOrg is already listed under [clients.a]: an organisation belongs to one client",
    );
}

#[test]
fn the_error_for_a_key_in_the_wrong_table_names_the_right_one() {
    let check = |file: &str, expected: &str| assert_eq!(resolve("", file).unwrap_err(), expected, "{file}");
    check(
        "lifetime_days = 3",
        "profiled.toml line 1: unknown key `lifetime_days`, it belongs under [clients.NAME]",
    );
    check(
        "[ingest]\nlog = 'off'",
        "profiled.toml line 2: unknown key `log`, it belongs at the top of the file, before its first table",
    );
    check(
        "[clients.a]\nwindow = ''",
        "profiled.toml line 2: unknown key `window`, it belongs under [ingest]",
    );
    check("ingest = 5", "profiled.toml line 1: `ingest` is not a table, such as [ingest]");
}

/// A flag that overrides a line of the file does not hide that the line is wrong.
#[test]
fn a_wrong_line_is_an_error_even_under_a_flag() {
    let wrong = resolve("--rows-limit 5", "rows_limit = 0").unwrap_err();
    assert_eq!(wrong, "profiled.toml line 1: 0 is not a whole number from 1 to 20000000");
}

#[test]
fn a_hangup_changes_what_its_declaration_says() {
    let old = resolve("", "").unwrap();
    let file = "listen = '127.0.0.1:1'\ndata = 'd'\ncache = '16MiB'\nallow_anonymous = true\nlog = 'off'\nlog_format = 'json'\n\
                tls_cert = 'c'\ntls_key = 'k'\njournal_segment_bytes = '1MiB'\nsnapshot_journal_bytes = '1MiB'\n\
                rows_limit = 7\npublic_url = 'http://p'\nclock_ahead_max_seconds = 0\nconnections_max = 9\n\
                batch_calls_per_minute = 3\n[ingest]\nmax_rows_per_second = 5\n[clients.a]";
    let new = resolve("", file).unwrap();
    let now = old.following(&new);
    assert_eq!((now.server.listen, &now.server.data_folder), (old.server.listen, &old.server.data_folder));
    assert_eq!((now.server.cache_bytes, now.server.allow_anonymous), (616 * MIB, false));
    assert_eq!((&now.server.log, now.server.log_format), (&old.server.log, LogFormat::Text));
    assert_eq!((now.tls(), now.upkeep.journal_segment_bytes), (None, 64 * MIB));
    assert_eq!((now.upkeep.snapshot_journal_bytes, now.limits.rows_limit), (MIB, 7));
    assert_eq!((&now.server.public_url, now.server.clock_ahead_max), (&new.server.public_url, None));
    assert_eq!((&now.callers, &now.ingest), (&new.callers, &new.ingest));
    assert_eq!(now.clients().count(), 1);
    assert_eq!(now.client(&client("a")), new.client(&client("a")));
}

/// A key that two declarations share would be two settings with one name.
#[test]
fn keys_are_declared_once_and_each_default_is_a_value_that_is_taken() {
    let mut keys = std::collections::BTreeSet::new();
    for declared in SECTIONS.iter().flat_map(|section| section.settings) {
        assert!(keys.insert(declared.key), "{} is declared twice", declared.key);
        assert!(!declared.text().is_empty() && declared.text().ends_with('.'), "{}", declared.key);
        if let value::DefaultText::Written(default) = (declared.default)() {
            assert!((declared.check)(Written::flag(default.trim_matches('"'))).is_ok(), "{}", declared.key);
        }
    }
}

#[test]
fn an_error_in_a_flag_names_the_flag() {
    let anonymous = resolve("--listen 192.0.2.1:80", "").unwrap_err();
    assert!(anonymous.starts_with("--listen (PROFILED_LISTEN): 192.0.2.1:80 can be reached"), "{anonymous}");
    let half = resolve("--tls-key k", "").unwrap_err();
    assert_eq!(half, "--tls-key (PROFILED_TLS_KEY): tls_key is set without tls_cert: set both, or neither");
    let default = resolve("--default-client c", "[clients.a]").unwrap_err();
    assert!(default.starts_with("--default-client (PROFILED_DEFAULT_CLIENT): c is not"), "{default}");
    let Err(cache) = Serve::try_parse_from(["serve", "--cache", "1XB"]) else { panic!("1XB was taken") };
    let (cache, expected) = (cache.to_string(), "'--cache <SIZE>': \"1XB\" is not a size from 8MiB to 1TiB");
    assert!(cache.contains(expected), "{cache}");
}

#[test]
fn a_file_that_is_named_must_be_there_and_be_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my.toml");
    let options = ServeOptions::of_file(&path);
    let resolve = || Config::resolve(&options).map_err(|e| e.to_string());
    let missing = "there is no such file: create it, or leave out --config (PROFILED_CONFIG)";
    assert_eq!(resolve().unwrap_err(), format!("{}: {missing}", path.display()));
    std::fs::write(&path, b"data = 'd'\n# \xff").unwrap();
    let expected = format!("{} line 2: this is not UTF-8: save the file as UTF-8", path.display());
    assert_eq!(resolve().unwrap_err(), expected);
    std::fs::write(&path, "data = 'd'").unwrap();
    assert_eq!(resolve().unwrap().server.data_folder, Path::new("d"));
    let options = ServeOptions::of_file(folder.path());
    assert!(matches!(Config::resolve(&options), Err(ConfigError::Unreadable { .. })));
}

#[test]
fn blocked_ids_are_so_few_that_a_batchs_entry_stays_small() {
    let of = |many: usize, bytes: usize| {
        let ids: Vec<String> = (0..many).map(|n| format!("'{n:0bytes$}'")).collect();
        resolve("", &format!("[clients.a]\nblocked_ids = [{}]", ids.join(", ")))
            .map_err(|error| error.to_string())
    };
    assert!(of(100, 40).is_ok() && of(1, 4096).is_ok());
    for (many, bytes) in [(101, 3), (100, 41), (1, 4097)] {
        let why = of(many, bytes).unwrap_err();
        assert!(why.contains("line 2: blocked_ids are at most 100, of 4096 bytes together"), "{why}");
    }
}

#[test]
fn once_a_client_is_configured_others_are_not_served() {
    let file = "default_client = 'a'\n[clients.a]\nims_orgs = ['A@AdobeOrg', 'B@AdobeOrg']\n\
                v2_creates_profiles = true\nconsecutive_v2 = 'replace'\nbatch_reading = 'adobe'\nblocked_ids = ['VOID']\nlifetime_days = 90\n[clients.b]";
    let config = resolve("", file).unwrap();
    let a = config.client(&client("a")).unwrap();
    assert!(a.v2_creates_profiles);
    assert_eq!((a.consecutive_v2, a.lifetime_ms), (ConsecutiveV2::Replace, 90 * DAY_MS));
    assert!(a.blocked_ids == BlockedIds::these(["void"]));
    assert_eq!(a.batch_reading, BatchReading::Adobe);
    assert_eq!(config.client(&client("b")), Some(ClientSettings::default()));
    assert_eq!(config.client(&client("c")), None);
    assert_eq!(config.clients().count(), 2);
    assert_eq!(config.client_of_ims_org("B@AdobeOrg"), Some(&client("a")));
    assert_eq!(config.client_of_ims_org("C@AdobeOrg"), None);
}

#[test]
fn every_setting_is_a_flag_and_a_variable_of_the_same_name() {
    let command = ServeOptions::augment_args(clap::Command::new("serve"));
    for argument in command.get_arguments() {
        let key = argument.get_id().as_str();
        let variable = format!("PROFILED_{}", key.to_uppercase());
        assert_eq!(argument.get_env(), Some(variable.as_ref()), "{key}");
        assert_eq!(argument.get_long(), Some(key.replace('_', "-").as_str()), "{key}");
    }
}

/// The environment of a running test can't be changed safely, so the test runs itself again in another.
#[test]
fn a_variable_beats_the_file_and_a_flag_beats_the_variable() {
    const NAME: &str = "config::tests::a_variable_beats_the_file_and_a_flag_beats_the_variable";
    if options("").flags.get("cache") == Some("24MiB") {
        assert_eq!(resolve("", "cache = '16MiB'").unwrap().server.cache_bytes, 24 * MIB);
        assert_eq!(resolve("--cache 32MiB", "cache = '16MiB'").unwrap().server.cache_bytes, 32 * MIB);
        assert!(resolve("--listen 0.0.0.0:0", "").unwrap().server.allow_anonymous);
        return;
    }
    let again = std::process::Command::new(std::env::current_exe().unwrap())
        .args([NAME, "--exact"])
        .env("PROFILED_CACHE", "24MiB")
        .env("PROFILED_ALLOW_ANONYMOUS", "true")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success() && output.contains("1 passed"), "{output}");
}

/// Which settings a reload takes over, and which wait for a start.
#[track_caller]
fn check_changes(before: &str, next: &str, taken: &[&str], at_start: &[&str]) {
    let changed = resolve("", before).unwrap().changes_to(&resolve("", next).unwrap());
    assert_eq!((changed.taken.as_slice(), changed.at_start.as_slice()), (&*owned(taken), &*owned(at_start)));
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn each_setting_that_differs_is_named_where_the_file_has_it() {
    check_changes("", "", &[], &[]);
    check_changes("", "retention_days = 30", &[], &[]);
    check_changes("rows_limit = 5", "rows_limit = 6", &["rows_limit"], &[]);
    check_changes(
        "",
        "listen = \"127.0.0.1:1\"\nretention_days = 3\n[ingest]\nmax_rows_per_second = 5",
        &["retention_days", "ingest.max_rows_per_second"],
        &["listen"],
    );
    let cluster = |secret: &str| {
        let node = "[cluster]\norder = \"kafka://a:1/t\"\nnode = \"a\"\n";
        format!("{node}[cluster.kafka]\n\"sasl.password\" = \"{secret}\"")
    };
    check_changes(&cluster("one"), &cluster("two"), &[], &["cluster.kafka.sasl.password"]);
}

#[test]
fn a_client_is_named_if_it_is_new_or_gone_and_else_what_is_its_own() {
    check_changes("", "[clients.a]", &["clients.a"], &[]);
    check_changes("[clients.a]\n[clients.b]", "[clients.b]\n[clients.c]", &["clients.a", "clients.c"], &[]);
    let two = "[clients.a]\n[clients.b]\nbatch_calls_per_minute = 5";
    check_changes(two, &format!("batch_calls_per_minute = 7\n{two}"), &["batch_calls_per_minute"], &[]);
    check_changes(two, &two.replace('5', "6"), &["clients.b.batch_calls_per_minute"], &[]);
    // It goes by its own value from now on.
    let own = format!(
        "batch_calls_per_minute = 7\n{}",
        two.replace("[clients.a]", "[clients.a]\nbatch_calls_per_minute = 8")
    );
    check_changes(two, &own, &["batch_calls_per_minute", "clients.a.batch_calls_per_minute"], &[]);
}
