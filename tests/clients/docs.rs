//! README, the book, CONTRIBUTING and the examples are right: links lead somewhere, the named rules and files exist, every setting
//! and metric is there, and code that is marked as shell runs as it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{Daemon, skip, wait_for};
use profiled::config::ClientSettings;
use profiled::telemetry::metrics::{OF_HTTPS, OF_THE_ORDER};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All files below a folder of the project whose names end so, as paths from the root.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = Path::new(folder).join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(path.to_str().unwrap(), ending));
        } else if path.to_str().unwrap().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// All pages that people read.
fn pages() -> Vec<PathBuf> {
    let top =
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "BENCHMARKS.md", "data/README.md"];
    let mut pages: Vec<PathBuf> = top.iter().map(PathBuf::from).collect();
    pages.extend(files("docs", ".md"));
    pages.extend(files("examples", ".md"));
    pages
}

/// A page without its blocks of code.
fn prose(text: &str) -> String {
    let mut code = false;
    text.lines()
        .filter(|line| {
            let fence = line.trim_start().starts_with("```");
            code ^= fence;
            !code && !fence
        })
        .map(|line| format!("{line}\n"))
        .collect()
}

/// The blocks of code of a page that are marked so.
fn blocks(text: &str, mark: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(marked) = line.strip_prefix("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            if marked == mark {
                blocks.push(block.join("\n"));
            }
        }
    }
    blocks
}

/// The names by which a page's headings can be linked to, as code hosts and mdBook make them.
fn anchors(text: &str) -> BTreeSet<String> {
    prose(text)
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut wrong = Vec::new();
    for page in pages() {
        let text = prose(&read(&page));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            if !root().join(&target).exists() {
                wrong.push(format!("{}: {link}: there is no such file", page.display()));
            } else if !anchor.is_empty() && !anchors(&read(&target)).contains(anchor) {
                wrong.push(format!("{}: {link}: there is no such heading", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_summary_lists_every_page_of_the_book() {
    let summary = read("docs/SUMMARY.md");
    for page in files("docs", ".md") {
        let name = page.strip_prefix("docs").unwrap().to_str().unwrap();
        assert!(name == "SUMMARY.md" || summary.contains(&format!("({name})")), "{name} is not listed");
    }
}

/// If a file is renamed, the docs must have its new name.
#[test]
fn every_source_file_that_is_named_exists() {
    let mut wrong = Vec::new();
    for page in pages() {
        let text = read(&page);
        let words = text.split(|c: char| c.is_whitespace() || "`()[],;:|\"'".contains(c));
        for word in words.map(|word| word.trim_end_matches('.')) {
            let file = ["src/", "tests/", "benches/", "packaging/", "templates/"]
                .iter()
                .any(|folder| word.starts_with(folder) && word.len() > folder.len());
            let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            if file && plain && !root().join(word).exists() {
                wrong.push(format!("{}: {word}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_rule_that_a_comment_cites_is_in_the_design() {
    let design = read("docs/internals/design.md");
    let mut cited = BTreeMap::new();
    for folder in ["src", "tests", "benches"] {
        for file in files(folder, ".rs") {
            for line in
                read(&file).lines().filter_map(|line| line.split_once("//")).map(|(_, comment)| comment)
            {
                for word in line.split(|c: char| !c.is_alphanumeric()) {
                    let number = word.strip_prefix('R').filter(|rest| !rest.is_empty());
                    if let Some(number) = number.and_then(|rest| rest.parse::<u32>().ok()) {
                        cited.insert(number, file.clone());
                    }
                }
            }
        }
    }
    assert!(cited.len() > 5, "{cited:?}");
    for (number, file) in cited {
        assert!(design.contains(&format!("**R{number} ")), "R{number} of {} is no rule", file.display());
    }
    for title in read("tests/engine/layers.rs")
        .split("design.md, \"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
    {
        assert!(design.contains(&format!("## {title}\n")), "{title} is no section of the design");
    }
}

/// A line of a table on the page of settings.
struct Row {
    takes: String,
    default: String,
}

/// The tables of a part of the page of settings, by key.
fn settings(page: &str, from: &str, to: Option<&str>) -> BTreeMap<String, Row> {
    let start = page.find(from).unwrap_or_else(|| panic!("{from} is not on the page"));
    let end = to.map_or(page.len(), |to| page.find(to).unwrap());
    let mut rows = BTreeMap::new();
    for line in page[start..end].lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let row = Row { takes: cells[1].into(), default: cells[2].trim_matches('`').into() };
        let twice = rows.insert(cells[0].trim_matches('`').to_owned(), row);
        assert!(twice.is_none(), "twice: {line}");
    }
    rows
}

/// The program's message about a file with this text.
fn complaint(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("profiled.toml");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_profiled"));
    let output = command.arg("serve").arg("--config").arg(file).current_dir(&folder).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// The keys of a table of the file, as the program's error for a wrong key lists them.
fn keys(table: &str) -> BTreeSet<String> {
    let said = complaint(&format!("{table}no_such_key = 1\n"));
    let keys: BTreeSet<_> = said.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    keys.into_iter()
        .filter(|key| !["no_such_key", "ingest", "clients", "cluster", "kafka"].contains(&key.as_str()))
        .collect()
}

/// The page of settings is generated from the declarations. This looks at it from outside, through the program: no setting
/// is missing, none too many, bounds and defaults are right.
#[test]
fn every_setting_is_in_the_docs_with_its_default_and_nothing_else_is() {
    let page = read("docs/settings.md");
    let (ingest, clients, shared, nodes) = (
        "## Slowing batches in business hours",
        "## Clients",
        "### For all clients",
        "## Several nodes over Kafka",
    );
    let mut top = settings(&page, "# Settings", Some(ingest));
    top.extend(settings(&page, shared, Some(nodes)));
    let tables = [
        ("", top),
        ("[ingest]\n", settings(&page, ingest, Some(clients))),
        ("[clients.demo]\n", settings(&page, clients, Some(shared))),
        ("[cluster]\n", settings(&page, nodes, None)),
    ];
    for (table, rows) in &tables {
        let on_the_page: BTreeSet<String> = rows.keys().cloned().collect();
        assert_eq!(on_the_page, keys(table), "{table}");
        for (key, row) in rows {
            let said = complaint(&format!("{table}{key} = [[]]\n"));
            let takes = said.split(" is not ").last().unwrap().trim();
            assert!(row.takes.ends_with(takes), "{key}: it takes {takes}");
        }
    }

    let help = Command::new(env!("CARGO_BIN_EXE_profiled")).args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for (key, row) in &tables[0].1 {
        let flag = format!("--{}", key.replace('_', "-"));
        let from = ["[=<", " <"].iter().find_map(|next| help.find(&format!(" {flag}{next}")));
        let from = from.unwrap_or_else(|| panic!("--help does not have {flag}"));
        let text = help[from..].split("[env: ").next().unwrap();
        let default = text.split_once("[default: ").unwrap().1.split(']').next().unwrap();
        assert_eq!(row.default, default, "{key}");
    }

    let client = ClientSettings::default();
    let default = |key: &str| tables[2].1[key].default.clone();
    assert_eq!(default("lifetime_days"), (client.lifetime_ms / DAY_MS).to_string());
    assert_eq!(default("v2_creates_profiles"), client.v2_creates_profiles.to_string());
    assert_eq!(default("consecutive_v2"), format!("{:?}", client.consecutive_v2).to_lowercase());
    assert_eq!(default("batch_reading"), format!("{:?}", client.batch_reading).to_lowercase());
}

#[test]
fn the_example_of_the_settings_is_taken() {
    let page = read("docs/settings.md");
    let examples = blocks(&page, "toml");
    let example = examples.last().unwrap().replace("127.0.0.1:8750", "127.0.0.1:0");
    let lines: Vec<&str> = example
        .lines()
        .filter(|line| !line.starts_with("data = ") && !line.starts_with("listen = "))
        .collect();
    let daemon = Daemon::start_configured(&lines.join("\n"));
    assert_eq!(daemon.get("/readyz").status, 200);
}

#[test]
fn every_metric_is_in_the_docs_and_no_other() {
    let page = read("docs/operating.md");
    let table = page.split("## Metrics\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let reported: BTreeSet<String> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .flat_map(|line| line.split(" | ").next().unwrap().split('`').skip(1).step_by(2))
        .map(|name| name.split('{').next().unwrap())
        .map(|name| name.strip_suffix("_total").unwrap_or(name))
        .map(|name| if name.starts_with("process_") { name.to_owned() } else { format!("profiled_{name}") })
        .collect();
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox3rdPartyId=x&profile.a=1");
    let batch = daemon.post_batch("demo", "batch=thirdPartyId,a\nx,1\n");
    daemon.wait_complete(&batch);
    let seen = wait_for("the batch to be counted", || {
        let seen = daemon.metrics();
        seen.names().contains("profiled_rows").then_some(seen)
    });
    let of_some = OF_THE_ORDER.into_iter().chain(OF_HTTPS);
    let families: BTreeSet<String> = seen.names().into_iter().chain(of_some).map(str::to_owned).collect();
    assert_eq!(reported, families);
}

/// The example of an endpoint is the endpoint: each line that the diff adds is in the file that it names.
#[test]
fn the_diff_of_an_endpoint_is_what_the_sources_have() {
    let page = read("CONTRIBUTING.md");
    let section = page.split("## Where to add an endpoint\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let (mut source, mut seen) = (String::new(), 0);
    for line in blocks(section, "diff").concat().lines() {
        if let Some(path) = line.strip_prefix(" // ") {
            source = read(path);
        } else if let Some(added) = line.strip_prefix('+') {
            assert!(
                source.lines().any(|line| line == added),
                "{added:?} is not in the file that is named before it"
            );
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

/// The calls in the tables of a page, as `GET /path`, and what each takes.
fn calls(page: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        for call in cells[0].split('`').skip(1).step_by(2) {
            let Some((methods, rest)) = call.split_once(" /") else { continue };
            let path = rest.split(['?', '[', ' ']).next().unwrap();
            for method in methods.split('·') {
                found.insert(format!("{method} /{path}"), cells[1].to_owned());
            }
        }
    }
    found
}

/// The tables of the calls follow from the code: no call is missing, none too many, and each says who may make it.
#[test]
fn every_call_is_in_the_docs_with_what_it_takes_and_no_other() {
    let mut reported = calls(&read("docs/native-api.md"));
    reported.extend(calls(&read("docs/adobe-calls.md")));
    let document = Daemon::start().get("/openapi.json").json();
    let mut described = BTreeMap::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let call = format!("{} {path}", method.to_uppercase());
            let says = operation["description"].as_str().unwrap();
            let takes = says.split("It takes ").nth(1).unwrap().split('.').next().unwrap();
            described.insert(call, takes.to_owned());
        }
    }
    assert_eq!(reported, described);
}

/// Runs a script with bash in a folder, against a daemon. None: there is no bash, or no curl.
fn bash(daemon: &Daemon, folder: &Path, script: &str) -> Option<Output> {
    if Command::new("curl").arg("--version").output().is_err() {
        skip("curl is not here");
        return None;
    }
    let binaries = Path::new(env!("CARGO_BIN_EXE_profiled")).parent().unwrap();
    // A call that is refused ends the script.
    let script = format!(
        "set -euo pipefail\nPATH=$BINARIES:$PATH\ncurl() {{ command curl -fsS \"$@\"; }}\n{script}\n"
    );
    let run = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder)
        .env("BINARIES", binaries)
        .env("PROFILED_URL", daemon.url())
        .output();
    if run.is_err() {
        skip("bash is not here");
    }
    run.ok()
}

/// The port is another one; all else is as it is written.
#[test]
fn what_is_marked_as_shell_runs_as_it_is_written() {
    let mut pages = vec![PathBuf::from("README.md")];
    pages.extend(files("docs", ".md"));
    for page in pages {
        let script = blocks(&read(&page), "sh").join("\n");
        if script.is_empty() || page.starts_with("docs/internals") {
            continue;
        }
        let daemon = Daemon::start();
        let folder = tempfile::tempdir().unwrap();
        let script = script.replace("127.0.0.1:8750", &daemon.address().to_string());
        let Some(output) = bash(&daemon, folder.path(), &script) else { return };
        assert!(output.status.success(), "{}: {output:?}", page.display());
    }
}

/// A text in which all numbers and durations are the same.
fn without_numbers(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars() {
        let number = c.is_ascii_digit() || (plain.ends_with('#') && ".,".contains(c));
        if !number {
            plain.push(c);
        } else if !plain.ends_with('#') {
            plain.push('#');
        }
    }
    ["#ms", "#µs", "#s"].iter().fold(plain, |text, unit| text.replace(unit, "#"))
}

#[test]
fn the_demo_says_what_the_readme_shows() {
    let readme = read("README.md");
    let shown = blocks(&readme, "console");
    let shown = shown.iter().find(|block| block.starts_with("$ cargo run --release -- demo\n")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_profiled"));
    let demo = demo.args(["demo", "--exit"]).current_dir(&folder).output().unwrap();
    let said = without_numbers(&String::from_utf8(demo.stdout).unwrap());
    let said: BTreeSet<&str> = said.lines().collect();
    let temporary =
        |line: &str| line.starts_with("A fresh daemon serves") || line.contains("/profiled-demo-");
    for line in shown.lines().skip(1).filter(|line| !line.is_empty() && *line != "…" && !temporary(line)) {
        assert!(said.contains(without_numbers(line).as_str()), "{line}: {said:#?}");
    }
    assert!(said.iter().any(|line| temporary(line)), "{said:#?}");
}

#[test]
fn the_nightly_uploads_post_wait_and_keep_what_failed() {
    for (program, script) in [("sh", "nightly.sh"), ("python3", "nightly.py"), ("node", "nightly.mjs")] {
        if Command::new(program).arg("-c").arg("").output().is_err() {
            skip(&format!("{program} is not here"));
            continue;
        }
        let daemon = Daemon::start();
        daemon.mbox("demo", "mbox3rdPartyId=crm-1");
        let folder = tempfile::tempdir().unwrap();
        let (good, bad) = (folder.path().join("good.csv"), folder.path().join("bad.csv"));
        std::fs::write(&good, "batch=thirdPartyId,tier\ncrm-1,gold\n").unwrap();
        std::fs::write(&bad, "batch=thirdPartyId,tier\ncrm-1,silver\na/b,1\n").unwrap();
        let script = root().join("examples").join(script);
        let run = |file: &Path| {
            let mut command = Command::new(program);
            command.arg(&script).arg(file).env("PROFILED_URL", daemon.url()).output().unwrap()
        };
        let done = run(&good);
        assert!(done.status.success(), "{program}: {done:?}");
        assert_eq!(daemon.value("demo", "third-party", "crm-1", "tier").as_deref(), Some("gold"));
        let done = run(&bad);
        assert_eq!(done.status.code(), Some(1), "{program}: {done:?}");
        let failed = std::fs::read_to_string(folder.path().join("bad.csv.failed")).unwrap();
        assert_eq!(failed.lines().collect::<Vec<_>>(), ["batch=thirdPartyId,tier", "a/b,1"], "{program}");
    }
}
