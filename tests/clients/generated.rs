//! Clients for Python and TypeScript, generated from the document that a daemon serves. The programs in `examples/generated` use
//! them, and so does whoever generates a client.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{self, Daemon, output_of};

/// A row of each outcome that the programs print, and a visitor.
const ROWS: &str = "{\"thirdPartyId\":\"crm-1\",\"tier\":\"gold\",\"points\":12}\n\
                    {\"thirdPartyId\":\"crm-2\",\"tier\":[\"gold\"]}\n\
                    {\"thirdPartyId\":\"crm-3\",\"tier\":null}\n";
const PRINTED: &str = "3 rows were accepted\n\
                       line 1: created\n\
                       line 2: failed nested_value\n\
                       line 3: ignored\n\
                       crm-1: points is 12\n\
                       crm-1: tier is gold\n\
                       1 rows failed\n";

fn below_the_project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs a tool, which must do its work. Returns what it said.
fn done(tool: &mut Command) -> String {
    let output = output_of(tool);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool:?}: {said}");
    said.into_owned()
}

/// A daemon that asks for tokens, one of them, and its document in a folder.
struct Served {
    daemon: Daemon,
    token: String,
    folder: tempfile::TempDir,
}

impl Served {
    fn start() -> Self {
        let mut daemon = Daemon::configured("[clients.demo]\nv2_creates_profiles = true\n");
        let token = daemon.make_token(&["--client", "demo", "--scope", "batch,read"]);
        daemon.restart();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("openapi.json"), daemon.get("/openapi.json").body).unwrap();
        fs::write(folder.path().join("rows.ndjson"), ROWS).unwrap();
        fs::write(folder.path().join("none.ndjson"), "{\"tier\":\"gold\"}\n").unwrap();
        Self { daemon, token, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a program with the rows of a file.
    fn run(&self, mut program: Command, rows: &str, token: &str) -> Output {
        program.arg(self.path(rows)).arg("crm-1");
        program
            .env("PROFILED_URL", self.daemon.url())
            .env("PROFILED_CLIENT", "demo")
            .env("PROFILED_TOKEN", token);
        program.output().unwrap()
    }

    /// Runs a program right and wrong: a problem comes back as what the document says it is.
    fn try_out(&self, program: impl Fn() -> Command) {
        let posted = self.run(program(), "rows.ndjson", &self.token);
        assert!(posted.status.success(), "{}", String::from_utf8_lossy(&posted.stderr));
        assert_eq!(String::from_utf8_lossy(&posted.stdout), PRINTED);
        let complaint = |rows: &str, token: &str| {
            let refused = self.run(program(), rows, token);
            assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stdout));
            String::from_utf8_lossy(&refused.stderr).into_owned()
        };
        let said = complaint("none.ndjson", &self.token);
        assert!(said.starts_with("400 Bad Request: line 1: the first line names no visitor"), "{said}");
        let said = complaint("rows.ndjson", "prf_0_0");
        assert!(said.starts_with("401 Unauthorized: "), "{said}");
    }
}

#[test]
fn a_python_client_that_is_generated_posts_ndjson_and_reads_what_became_of_it() {
    let generator = below_the_project("target/openapi-python/bin/openapi-python-client");
    if let Err(error) = Command::new(&generator).arg("--version").output() {
        let why = "openapi-python-client is not here: bash .ci/run puts it into target/openapi-python";
        return support::skip(&format!("{why} ({error})"));
    }
    let served = Served::start();
    let said = done(
        Command::new(&generator)
            .args(["generate", "--meta", "none", "--path"])
            .arg(served.path("openapi.json"))
            .arg("--config")
            .arg(below_the_project("examples/generated/openapi-python-client.yaml"))
            .arg("--output-path")
            .arg(served.path("profiled_client")),
    );
    // It leaves out what it does not know, with a warning: that may be forms of a body or an answer, but no schema and no call.
    let warnings = said.lines().filter(|line| line.contains("nsupported content")).count();
    assert_eq!(said.matches("WARNING").count(), warnings, "{said}");
    served.try_out(|| {
        let mut python = Command::new(below_the_project("target/openapi-python/bin/python"));
        python.env("PYTHONPATH", served.folder.path()).env("PYTHONDONTWRITEBYTECODE", "1");
        python.arg(below_the_project("examples/generated/batch.py"));
        python
    });
}

#[test]
fn a_typescript_client_that_is_generated_posts_ndjson_and_reads_what_became_of_it() {
    let modules = below_the_project("target/openapi-node/node_modules");
    if !modules.join(".bin/openapi-typescript").exists() {
        return support::skip(
            "openapi-typescript is not here: bash .ci/run puts it into target/openapi-node",
        );
    }
    if let Err(error) = Command::new("node").arg("--version").output() {
        return support::skip(&format!("node cannot be run ({error}): install Node.js"));
    }
    let served = Served::start();
    let tool = |name: &str| {
        let mut tool = Command::new(modules.join(".bin").join(name));
        tool.current_dir(served.folder.path());
        tool
    };
    done(tool("openapi-typescript").args(["openapi.json", "--output", "profiled.d.ts"]));
    std::os::unix::fs::symlink(&modules, served.path("node_modules")).unwrap();
    for file in ["batch.mts", "tsconfig.json"] {
        fs::copy(below_the_project("examples/generated").join(file), served.path(file)).unwrap();
    }
    done(tool("tsc").arg("--project").arg("."));
    served.try_out(|| {
        let mut node = Command::new("node");
        node.arg(served.path("batch.mjs"));
        node
    });

    // The types are those of the calls: what no daemon takes or answers does not compile.
    let program = fs::read_to_string(served.path("batch.mts")).unwrap();
    for (right, wrong) in [
        ("batch.status === 'incomplete'", "batch.status === 'done'"),
        ("query: { client }", "query: { client, version: 'v3' }"),
        ("error.detail", "error.details"),
        ("'/api/v1/batches/{id}/outcomes'", "'/api/v1/batches/{id}/outcome'"),
    ] {
        assert!(program.contains(right), "{right}");
        fs::write(served.path("batch.mts"), program.replacen(right, wrong, 1)).unwrap();
        let compiled = tool("tsc").args(["--project", ".", "--noEmit"]).output().unwrap();
        assert!(!compiled.status.success(), "{wrong} compiles");
    }
}
