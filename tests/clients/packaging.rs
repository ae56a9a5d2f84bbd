//! The files that are shipped with the binary: the dashboard, the alert rules, the unit, the Debian package, the recipe for an image;
//! and the workflows that check and release it.
//! A check that needs a tool outside Rust says that it is skipped if the tool is missing.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::{Daemon, long, skip, variable, wait_for};
use profiled::telemetry::metrics::{OF_HTTPS, OF_THE_ORDER};

pub(super) fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

pub(super) fn file(name: &str) -> String {
    std::fs::read_to_string(root().join("packaging").join(name)).unwrap()
}

/// The output of a tool, if it is there. The tool must succeed.
pub(super) fn content(command: &mut Command, input: &str) -> Option<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let (content, said) = verdict(command, input)?;
    assert!(content, "{name}: {said}");
    Some(said)
}

/// Whether a program is content with what it reads, and what it says of it. Nothing if it is not here, which is said.
fn verdict(command: &mut Command, input: &str) -> Option<(bool, String)> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut process) = command.spawn() else {
        skip(&format!("{name} is not here"));
        return None;
    };
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let Output { status, stdout, stderr } = process.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    Some((status.success(), said))
}

/// A daemon that has done some of everything, so that each of its metrics is there.
fn busy() -> Daemon {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox3rdPartyId=x&profile.a=1");
    let batch = daemon.post_batch("demo", "batch=thirdPartyId,a\nx,1\ny,2\n");
    daemon.wait_complete(&batch);
    daemon.visitor("demo", "third-party", "x").unwrap();
    let folder = daemon.data().join("../backup");
    let (code, _, complaints) = daemon.run(&["backup", folder.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{complaints}");
    wait_for("the sweeper to have counted the profiles", || {
        (daemon.metrics().value("profiled_live_profiles") == 1.0).then_some(())
    });
    daemon
}

/// The families of metrics that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let ours = |word: &&str| word.starts_with("profiled_") || word.starts_with("process_");
    let words = text.split(|c| !is_part(c)).filter(ours);
    words
        .map(|word| {
            let family =
                ["_total", "_bucket", "_count", "_sum"].iter().find_map(|ending| word.strip_suffix(ending));
            family.unwrap_or(word).to_owned()
        })
        .collect()
}

#[test]
fn the_dashboard_and_the_alerts_name_metrics_that_there_are() {
    let daemon = busy();
    let seen = daemon.metrics();
    let mut families = seen.names();
    families.extend(OF_THE_ORDER.iter().chain(&OF_HTTPS));
    for name in ["grafana.json", "alerts.yaml"] {
        let named = named(&file(name));
        assert!(named.len() > 8, "{name}: {named:?}");
        let unknown: Vec<_> = named.iter().filter(|name| !families.contains(name.as_str())).collect();
        assert!(unknown.is_empty(), "{name}: {unknown:?}");
    }
    let dashboard: serde_json::Value = serde_json::from_str(&file("grafana.json")).unwrap();
    let shown = named(&dashboard.to_string());
    let hidden: Vec<_> = families.iter().filter(|name| !shown.contains(**name)).collect();
    assert!(hidden.is_empty(), "the dashboard shows none of {hidden:?}");
}

/// The units that suit what an expression gives.
fn units(expression: &str) -> &'static [&'static str] {
    let has = |part: &str| expression.contains(part);
    match () {
        () if has(" / ") => &["percentunit"],
        () if has("increase(") => &["short"],
        () if has("_bytes_total") => &["Bps"],
        // Seconds in a second.
        () if has("_seconds_total") => &["percentunit"],
        () if has("requests_total") => &["reqps"],
        () if has("rows") && (has("rate(") || has("_per_second")) => &["rowsps"],
        () if has("order_offset") && has("rate(") => &["recps"],
        () if has("_seconds_bucket") => &["s"],
        () if has("rate(") => &["cps"],
        () if has("_timestamp_seconds") && !has("time()") => &["dateTimeFromNow"],
        () if has("_seconds") => &["s"],
        () if has("_bytes") => &["bytes"],
        () => &["short"],
    }
}

/// A panel once showed rows and seconds on one axis without a unit.
#[test]
fn each_panel_of_the_dashboard_has_units_that_suit_what_it_shows() {
    let dashboard: serde_json::Value = serde_json::from_str(&file("grafana.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(!title.is_empty() && ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let overrides = panel["fieldConfig"]["overrides"].as_array().unwrap();
        for target in panel["targets"].as_array().unwrap() {
            let own = overrides
                .iter()
                .filter(|it| it["matcher"]["options"] == target["refId"])
                .flat_map(|it| it["properties"].as_array().unwrap())
                .find(|property| property["id"] == "unit");
            let unit = own.map_or(&panel["fieldConfig"]["defaults"]["unit"], |own| &own["value"]);
            let (unit, shown) = (unit.as_str().unwrap(), target["expr"].as_str().unwrap());
            assert!(units(shown).contains(&unit), "{title}: {unit} for {shown}, not {:?}", units(shown));
            let of_clients =
                shown.contains("profiled_rows_total") || shown.contains("profiled_batches_total");
            assert_eq!(shown.contains(r#"client=~"$client""#), of_clients, "{title}: {shown}");
            assert!(shown.contains(r#"instance=~"$instance""#), "{title}: {shown}");
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let variables: Vec<&str> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(variables, ["datasource", "instance", "client"]);
}

#[test]
fn grafanas_own_types_take_the_dashboard() {
    let dashboard = file("grafana.json");
    // It is built from tests/clients/dashboard.
    let mut check = Command::new(root().join("target/tools/bin/dashboard-check"));
    let Some(_) = content(&mut check, &dashboard) else { return };
    for (right, wrong, expected) in [
        ("\"unit\"", "\"unti\"", "defaults.unti: Grafana knows no such field"),
        ("\"stat\"", "\"state\"", "no panel of the type \"state\""),
        ("\"expr\"", "\"query\"", "unexpected field 'query'"),
        ("\"w\": 4", "\"w\": 40", "gridPos.w"),
    ] {
        let (content, said) = verdict(&mut check, &dashboard.replace(right, wrong)).unwrap();
        assert!(!content && said.contains(expected), "{wrong}: {said}");
    }
}

#[test]
fn prometheus_own_reader_reads_the_metrics() {
    let daemon = busy();
    let reader = "import sys\n\
        from prometheus_client.openmetrics.parser import text_string_to_metric_families as read\n\
        families = list(read(sys.stdin.read()))\n\
        bare = [it.name for it in families if not it.documentation.strip()]\n\
        assert not bare, bare\n\
        print(len(families), 'families,', sum(len(it.samples) for it in families), 'samples')\n";
    let python = root().join("target/prometheus/bin/python3");
    if let Some(said) = content(Command::new(python).args(["-c", reader]), &daemon.get("/metrics").text()) {
        let families: usize = said.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(families, daemon.metrics().names().len(), "{said}");
    }
}

#[test]
fn prometheus_takes_the_alert_rules() {
    let rules = root().join("packaging/alerts.yaml");
    let said = content(Command::new("promtool").args(["check", "rules"]).arg(&rules), "");
    let alerts = file("alerts.yaml");
    let count = alerts.matches("- alert:").count() + alerts.matches("- record:").count();
    assert!(said.is_none_or(|said| said.contains(&format!("{count} rules found"))));
}

#[test]
fn the_alerts_fire_when_they_should() {
    let folder = tempfile::tempdir().unwrap();
    let tests = folder.path().join("alerts.test.yaml");
    std::fs::copy(root().join("packaging/alerts.yaml"), folder.path().join("alerts.yaml")).unwrap();
    std::fs::copy(root().join("tests/clients/alerts.test.yaml"), &tests).unwrap();
    let said = content(Command::new("promtool").args(["test", "rules"]).arg(&tests), "");
    assert!(said.is_none_or(|said| said.contains("SUCCESS")));
}

#[test]
fn systemd_takes_the_unit_and_finds_it_well_shut() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("profiled.service");
    let here = file("profiled.service").replace("/usr/bin/profiled", env!("CARGO_BIN_EXE_profiled"));
    std::fs::write(&unit, here).unwrap();
    let analyze = || Command::new("systemd-analyze");
    let said = content(analyze().args(["verify", "--man=no"]).arg(&unit), "");
    assert!(said.is_none_or(|said| said.trim().is_empty()), "it has something to say");
    // In tenths: below 2.0 is what systemd calls OK, and few services are.
    let security = ["security", "--offline=true", "--threshold=20", "--no-pager"];
    content(analyze().args(security).arg(&unit), "");
}

#[test]
fn the_unit_lets_through_the_system_calls_that_the_daemon_makes() {
    let Some(filter) = content(Command::new("systemd-analyze").args(["syscall-filter", "--no-pager"]), "")
    else {
        return;
    };
    let mut allowed = BTreeSet::new();
    let unit = std::fs::read_to_string(root().join("packaging/profiled.service")).unwrap();
    for sets in unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (refused, sets) = sets.strip_prefix('~').map_or((false, sets), |sets| (true, sets));
        for call in sets.split(' ').flat_map(|set| match set.starts_with('@') {
            true => calls_of(&filter, set),
            false => BTreeSet::from([set.to_owned()]),
        }) {
            if refused {
                allowed.remove(&call);
            } else {
                allowed.insert(call);
            }
        }
    }
    // Whatever is refused, systemd lets these through.
    allowed.extend(calls_of(&filter, "@default"));
    assert!(allowed.len() > 200 && allowed.contains("fdatasync"), "{allowed:?}");
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-c", "-U", "name", "-o"]).arg(&trace).arg(env!("CARGO_BIN_EXE_profiled"));
    strace.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(folder.path().join("data"));
    strace.current_dir(&folder).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut process) = strace.spawn() else {
        skip("strace is not here");
        return;
    };
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let Some(url) = line.trim_end().strip_prefix("listening on ") else {
        skip("strace may not trace here");
        process.wait().unwrap();
        return;
    };
    let cli = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_profiled"))
            .args(arguments)
            .env("PROFILED_URL", url)
            .output()
            .unwrap()
    };
    let batch = folder.path().join("batch.csv");
    std::fs::write(&batch, "batch=thirdPartyId,a\nx,1\n").unwrap();
    let posted = cli(&["batch", "post", batch.to_str().unwrap(), "--client", "demo", "--wait"]);
    assert!(posted.status.success(), "{posted:?}");
    assert!(cli(&["compact"]).status.success());
    let traced = rustix::process::Pid::from_child(&process);
    let children = std::fs::read_to_string(format!("/proc/{traced}/task/{traced}/children")).unwrap();
    let daemon: i32 = children.split_whitespace().next().unwrap().parse().unwrap();
    let daemon = rustix::process::Pid::from_raw(daemon).unwrap();
    rustix::process::kill_process(daemon, rustix::process::Signal::TERM).unwrap();
    process.wait().unwrap();
    let made = std::fs::read_to_string(trace).unwrap();
    let made: BTreeSet<_> = made.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let made = made.into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
    // What raises the limit of open files may be refused: the unit has set it.
    let refused: Vec<_> =
        made.filter(|name| !["syscall", "total"].contains(name) && !allowed.contains(*name)).collect();
    assert!(refused.is_empty(), "{refused:?}");
}

/// The unit's `ProcSubset=pid` hides `/proc/stat`, among others. So the daemon had no metrics of its process as a service.
#[test]
fn the_process_is_measured_although_the_unit_hides_the_kernels_files() {
    assert!(file("profiled.service").contains("\nProcSubset=pid\n"));
    let folder = tempfile::tempdir().unwrap();
    let mut apart = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        apart.arg("--map-root-user");
    }
    let script = "mount -t proc -o subset=pid proc /proc && ! test -e /proc/stat && exec \"$0\" \"$@\"";
    apart.args([
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "sh",
        "-c",
        script,
        env!("CARGO_BIN_EXE_profiled"),
    ]);
    let mut daemon = Daemon::configured("");
    let serve = daemon.command(Stdio::null());
    apart.args(serve.get_args()).current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::piped());
    let Ok(mut process) = apart.spawn() else {
        return skip("unshare is not here");
    };
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line.is_empty() {
        process.wait().unwrap();
        return skip("no namespaces may be made here");
    }
    daemon.take_on(process, &line);
    let seen = daemon.metrics();
    assert!(
        seen.value("process_resident_memory_bytes") > 1e6 && seen.value("process_start_time_seconds") > 1e9
    );
}

/// The system calls of one of systemd's sets, those of the sets in it, too.
fn calls_of(filter: &str, set: &str) -> BTreeSet<String> {
    let lines = filter.lines().skip_while(|line| line.trim() != set).skip(1);
    let own = lines.take_while(|line| line.starts_with(char::is_whitespace));
    let names = own.map(str::trim).filter(|name| !name.is_empty() && !name.starts_with('#'));
    names
        .flat_map(|name| match name.starts_with('@') {
            true => calls_of(filter, name),
            false => BTreeSet::from([name.to_owned()]),
        })
        .collect()
}

#[test]
fn a_release_has_an_archive_a_bill_of_materials_and_a_debian_package_that_starts() {
    if !root().join("target/tools/bin/cargo-deb").exists() {
        return skip("cargo-deb is not here");
    }
    // The binary that is packed: this build's, or in `.ci/run` the one that is shipped.
    let profile = variable("PACKAGED_PROFILE");
    let profile = profile.as_deref().unwrap_or(if cfg!(debug_assertions) { "dev" } else { "release" });
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made");
    let mut release = Command::new("bash");
    release.arg(root().join(".ci/release")).arg(profile).arg(&made).arg("--fast");
    let said = content(&mut release, "").unwrap();
    let ending = |ending: &str| {
        let mut files = std::fs::read_dir(&made).unwrap().map(|entry| entry.unwrap().path());
        files
            .find(|path| path.to_str().unwrap().ends_with(ending))
            .unwrap_or_else(|| panic!("there is no {ending}: {said}"))
    };
    check_archive(&ending(".tar.gz"));
    check_bill(&ending(".cdx.json"));
    check_package(&ending(".deb"), folder.path());
}

fn check_archive(archive: &Path) {
    let listed = content(Command::new("tar").arg("-tzf").arg(archive), "").unwrap();
    let name = concat!("profiled-", env!("CARGO_PKG_VERSION"), "-");
    assert!(listed.lines().all(|line| line.starts_with(name)), "{listed}");
    for part in ["profiled", "man/profiled-serve.1", "completions/profiled.zsh", "LICENSE-MIT", "alerts.yaml"]
    {
        assert!(listed.lines().any(|line| line.split_once('/').unwrap().1 == part), "{part}: {listed}");
    }
}

fn check_bill(bill: &Path) {
    let bill: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(bill).unwrap()).unwrap();
    let parts = bill["components"].as_array().unwrap();
    let has = |name: &str| parts.iter().any(|part| part["name"] == name);
    assert!(has("sled") && has("rdkafka") && !has("proptest"), "{} parts", parts.len());
}

/// Unpacks the package into a folder, and starts its daemon.
fn check_package(package: &Path, folder: &Path) {
    let into = folder.join("root");
    content(Command::new("dpkg-deb").arg("-x").arg(package).arg(&into), "").unwrap();
    let control = content(Command::new("dpkg-deb").args(["--info"]).arg(package), "").unwrap();
    for part in ["Package: profiled", "conffiles", "postinst", "prerm", "Depends: libc6"] {
        assert!(control.contains(part), "{part}: {control}");
    }
    let postinst = content(Command::new("dpkg-deb").arg("--info").arg(package).arg("postinst"), "").unwrap();
    assert!(postinst.contains("systemd-sysusers") && postinst.contains("deb-systemd"), "{postinst}");
    for part in [
        "etc/profiled/profiled.toml",
        "usr/lib/sysusers.d/profiled.conf",
        "usr/share/man/man1/profiled-batch-post.1.gz",
        "usr/share/bash-completion/completions/profiled",
        "usr/share/zsh/vendor-completions/_profiled",
        "usr/share/fish/vendor_completions.d/profiled.fish",
        "usr/share/doc/profiled/grafana.json",
    ] {
        assert!(into.join(part).is_file(), "{part}");
    }
    let unit =
        ["usr/lib/systemd/system", "lib/systemd/system"].map(|at| into.join(at).join("profiled.service"));
    assert!(unit.iter().any(|unit| unit.is_file()), "there is no unit");

    let mut daemon = Command::new(into.join("usr/bin/profiled"))
        .args(["serve", "--listen", "127.0.0.1:0", "--config"])
        .arg(into.join("etc/profiled/profiled.toml"))
        .arg("--data")
        .arg(into.join("var/lib/profiled"))
        .env_clear()
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut line).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&daemon), rustix::process::Signal::TERM)
        .unwrap();
    assert!(line.starts_with("listening on http://127.0.0.1:"), "{line:?}");
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn the_image_says_whether_it_is_healthy() {
    let recipe = file("Dockerfile");
    let check = recipe.lines().find(|line| line.starts_with("HEALTHCHECK ")).unwrap();
    let (_, command) = check.split_once(" CMD ").unwrap();
    let command: Vec<String> = serde_json::from_str(command).unwrap();
    assert_eq!(command[0], "/usr/bin/profiled");
    let arguments: Vec<&str> = command[1..].iter().map(String::as_str).collect();
    let mut daemon = Daemon::start();
    // Without one the check would need a token, too.
    daemon.make_token(&["--all-clients", "--scope", "admin"]);
    daemon.hang_up();
    wait_for("tokens to be asked for", || (daemon.get("/api/v1/status").status == 401).then_some(()));
    assert_eq!(daemon.run(&arguments).0, Some(0));
    daemon.kill9();
    assert_eq!(daemon.run(&arguments).0, Some(1));
}

#[test]
fn the_builder_gets_what_is_copied_and_nothing_else() {
    let ignored = std::fs::read_to_string(root().join(".dockerignore")).unwrap();
    let lines: Vec<&str> = ignored.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines[0], "*", "everything is ignored but what is named");
    let sent: BTreeSet<&str> = lines[1..].iter().map(|line| line.strip_prefix('!').unwrap()).collect();
    let recipe = file("Dockerfile");
    let steps = recipe.lines().filter_map(|line| line.strip_prefix("COPY "));
    let copied: BTreeSet<&str> = steps
        .filter(|step| !step.starts_with("--from"))
        .flat_map(|step| step.split_whitespace().rev().skip(1))
        .collect();
    assert_eq!(sent, copied);
}

/// A program of `target/lint`, where `.ci/run` puts the linters.
fn linter(name: &str) -> Command {
    Command::new(root().join("target/lint/bin").join(name))
}

#[test]
fn linters_take_the_recipe_the_scripts_and_the_workflows() {
    // Debian's own versions are the ones that are wanted.
    content(linter("hadolint").args(["--ignore", "DL3008"]).arg(root().join("packaging/Dockerfile")), "");
    content(linter("shellcheck").args(["--severity=error"]).arg(root().join(".ci/run")), "");
    content(linter("shellcheck").arg(root().join(".ci/release")), "");
    let mut actionlint = Command::new(root().join("target/tools/bin/actionlint"));
    // It checks the scripts within the workflows, too.
    actionlint.arg("-shellcheck").arg(root().join("target/lint/bin/shellcheck")).arg("-no-color");
    content(actionlint.current_dir(root()), "");
}

/// The two workflows say the same as the rest of the repository.
#[test]
fn the_workflows_run_what_is_there() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    let (check, release) = (read(".github/workflows/ci.yaml"), read(".github/workflows/release.yaml"));
    assert!(
        check.contains("run: bash .ci/run\n") && release.contains("run: bash .ci/release release dist\n")
    );
    let manifest = read("Cargo.toml");
    let rust =
        manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    for workflow in [&check, &release] {
        assert!(workflow.contains(&format!("rustup toolchain install {rust} ")), "another Rust than {rust}");
    }
    let tool = read(".ci/run").lines().find_map(|line| {
        line.trim().split(' ').find(|word| word.starts_with("cargo-deb@")).map(str::to_owned)
    });
    assert!(release.contains(&tool.unwrap()), "another cargo-deb than .ci/run has");
    let cached = read(".ci/run").contains("${XDG_CACHE_HOME:-$HOME/.cache}/profiled-ci");
    assert!(cached && check.contains("~/.cache/profiled-ci\n"));
}

/// How many files and templates the sources here include, each of which must be there.
fn included_below(folder: &Path, context: &Path) -> usize {
    let mut found = 0;
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found += included_below(&path, context);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        for (call, from) in [
            ("include_str!(\"", folder.to_owned()),
            ("include_bytes!(\"", folder.to_owned()),
            ("#[template(path = \"", context.join("templates")),
        ] {
            for name in text.split(call).skip(1).map(|rest| rest.split('"').next().unwrap()) {
                assert!(from.join(name).is_file(), "{}: {name} is not copied", path.display());
                found += 1;
            }
        }
    }
    found
}

/// The recipe once copied neither the templates nor the data that the binary includes, so the build failed.
#[test]
fn the_image_compiles_from_exactly_what_is_copied() {
    let context = tempfile::tempdir().unwrap();
    let recipe = file("Dockerfile");
    let build = recipe.lines().skip_while(|line| !line.starts_with("FROM ")).skip(1);
    let build = build.take_while(|line| !line.starts_with("FROM "));
    for step in build.filter_map(|line| line.strip_prefix("COPY ")) {
        let mut parts: Vec<&str> = step.split_whitespace().collect();
        let to = context.path().join(parts.pop().unwrap());
        for part in parts {
            let from = root().join(part);
            // A folder's content is copied, a file itself.
            let (from, to) =
                if from.is_dir() { (from.join("."), to.as_path()) } else { (from, context.path()) };
            std::fs::create_dir_all(to).unwrap();
            let copied = Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
            assert!(copied.success(), "{step}");
        }
    }
    assert!(included_below(&context.path().join("src"), context.path()) > 10, "hardly anything is included");
    let manifest = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--no-deps", "--format-version", "1"])
        .current_dir(context.path())
        .output()
        .unwrap();
    assert!(manifest.status.success(), "{}", String::from_utf8_lossy(&manifest.stderr));
    // To compile it takes all that it depends on once more, in another form than the tests need.
    if !long() {
        return;
    }
    // Checking writes no binary over the tested one.
    let check = Command::new(env!("CARGO"))
        .args(["check", "--offline", "--locked", "--quiet", "--bin", "profiled"])
        .env("CARGO_TARGET_DIR", root().join("target"))
        .current_dir(context.path())
        .output()
        .unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}

#[test]
fn the_image_is_made_of_what_is_there_and_does_not_run_as_root() {
    let recipe = file("Dockerfile");
    let steps: Vec<&str> =
        recipe.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase())).collect();
    let stage = steps.iter().rposition(|step| step.starts_with("FROM ")).unwrap();
    let last = &steps[stage..];
    let user = last.iter().position(|step| step.starts_with("USER ")).unwrap_or_else(|| panic!("{last:?}"));
    assert!(!last[user].contains("root") && !last[user].contains(" 0"), "{}", last[user]);
    assert!(last.iter().position(|step| step.starts_with("ENTRYPOINT")).unwrap() > user);
    for step in steps[..stage].iter().filter_map(|step| step.strip_prefix("COPY ")) {
        let mut parts: Vec<&str> = step.split_whitespace().collect();
        parts.pop();
        parts.iter().for_each(|part| assert!(root().join(part).exists(), "{part} is not there to be copied"));
    }
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let version =
        manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(
        recipe.contains(&format!("FROM rust:{version}-")),
        "it is built with another Rust than {version}"
    );
}
