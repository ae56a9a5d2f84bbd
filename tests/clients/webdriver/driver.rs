//! Chromium by way of chromedriver: the part of WebDriver that the suite needs, over the harness's own HTTP client.
//!
//! What is read from a page is asked of the page as it is at that moment; waiting is always for a condition.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Connection, request, skip, wait_for};

/// What an element is called in WebDriver's answers.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// Keys that are no text, as WebDriver writes them.
pub(crate) const TAB: char = '\u{E004}';
pub(crate) const ENTER: char = '\u{E007}';

/// How a page is looked at.
#[derive(Clone, Copy)]
pub(crate) struct Look {
    pub(crate) name: &'static str,
    pub(crate) width: u32,
    height: u32,
    phone: bool,
    pub(crate) dark: bool,
}

pub(crate) const DESKTOP: Look =
    Look { name: "desktop", width: 1280, height: 800, phone: false, dark: false };
pub(crate) const DARK: Look = Look { name: "dark", dark: true, ..DESKTOP };
pub(crate) const PHONE: Look = Look { name: "phone", width: 390, height: 844, phone: true, dark: false };
pub(crate) const PHONE_DARK: Look = Look { name: "phone-dark", dark: true, ..PHONE };

/// A browser of its own profile and download folder, ended with the test.
pub(crate) struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    folder: TempDir,
}

impl Browser {
    /// A browser; `None`, and said so, where there is none.
    pub(crate) fn start() -> Option<Self> {
        let Ok(mut driver) = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
        else {
            skip("there is no chromedriver (Debian's package chromium-driver)");
            return None;
        };
        if Command::new("chromium").arg("--version").output().is_err() {
            skip("there is no chromium");
            driver.kill().unwrap();
            driver.wait().unwrap();
            return None;
        }
        let mut lines = BufReader::new(driver.stdout.take().unwrap());
        let port = loop {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).unwrap() > 0, "chromedriver ended");
            if let Some((_, port)) = line.trim_end_matches(['.', '\n']).split_once("successfully on port ") {
                break port.parse::<u16>().unwrap();
            }
        };
        // Its pipe must not fill.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        let folder = tempfile::tempdir().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut browser = Self { driver, address, session: String::new(), folder };
        let profile = format!("--user-data-dir={}", browser.folder.path().join("profile").display());
        std::fs::create_dir(browser.downloads()).unwrap();
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--no-proxy-server",
            "--hide-scrollbars",
            &profile,
        ];
        let options = json!({
            "args": arguments,
            "prefs": { "download.default_directory": browser.downloads(), "download.prompt_for_download": false },
        });
        let wanted = json!({ "capabilities": { "alwaysMatch": { "browserName": "chrome", "goog:chromeOptions": options } } });
        let begun = browser.asked("POST", "/session", &wanted).unwrap();
        browser.session = begun["sessionId"].as_str().unwrap().to_owned();
        browser.look(DESKTOP);
        Some(browser)
    }

    /// Where it puts what it downloads.
    pub(crate) fn downloads(&self) -> PathBuf {
        self.folder.path().join("downloads")
    }

    /// A file on the disk of whoever sits before the browser.
    pub(crate) fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn asked(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let stream = TcpStream::connect(self.address).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
        let mut connection = Connection::on(stream);
        let body = (method == "POST").then(|| body.to_string());
        let media_type = ("Content-Type", "application/json");
        let bytes = request(
            method,
            path,
            &self.address.to_string(),
            &[media_type],
            body.as_deref().map(str::as_bytes),
        );
        connection.write(&bytes);
        let reply = connection.read();
        let mut answer = reply.json();
        if reply.status == 200 {
            return Ok(answer["value"].take());
        }
        Err(format!("{method} {path}: {}: {}", answer["value"]["error"], answer["value"]["message"]))
    }

    fn try_do(&self, what: &str, body: &Value) -> Result<Value, String> {
        self.asked("POST", &format!("/session/{}/{what}", self.session), body)
    }

    #[track_caller]
    fn must(&self, what: &str, body: &Value) -> Value {
        self.try_do(what, body).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Goes to a page, and waits until it is loaded.
    #[track_caller]
    pub(crate) fn open(&self, url: &str) {
        self.must("url", &json!({ "url": url }));
    }

    /// Runs the body of a function in the page; gives what it returns.
    #[track_caller]
    pub(crate) fn run(&self, script: &str, arguments: Value) -> Value {
        self.must("execute/sync", &json!({ "script": script, "args": arguments }))
    }

    /// The same for a script that calls its last argument when it is done.
    #[track_caller]
    pub(crate) fn run_until_reply(&self, script: &str, arguments: Value) -> Value {
        self.must("execute/async", &json!({ "script": script, "args": arguments }))
    }

    /// A command of Chromium's own.
    #[track_caller]
    pub(crate) fn command(&self, name: &str, arguments: Value) -> Value {
        self.must("goog/cdp/execute", &json!({ "cmd": name, "params": arguments }))
    }

    /// From now on pages are looked at like this.
    pub(crate) fn look(&self, look: Look) {
        let Look { width, height, phone, dark, .. } = look;
        let scale = if phone { 2 } else { 1 };
        self.command(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone }),
        );
        let scheme = if dark { "dark" } else { "light" };
        self.command(
            "Emulation.setEmulatedMedia",
            json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }),
        );
    }

    /// From now on pages run no scripts of their own.
    pub(crate) fn run_no_scripts(&self) {
        self.command("Emulation.setScriptExecutionDisabled", json!({ "value": true }));
    }

    #[track_caller]
    fn element(&self, css: &str) -> String {
        let found = self.must("element", &json!({ "using": "css selector", "value": css }));
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    /// Clicks the element, where a person would.
    #[track_caller]
    pub(crate) fn click(&self, css: &str) {
        let element = self.element(css);
        self.must(&format!("element/{element}/click"), &json!({}));
    }

    /// Clicks what leads to another page, and waits for that page: the one before may say the same.
    #[track_caller]
    pub(crate) fn follow(&self, css: &str) {
        self.run("document.documentElement.dataset.before = 'yes'", json!([]));
        self.click(css);
        wait_for("another page", || self.text("html:not([data-before])"));
    }

    /// Types into a field, or gives a file field a path.
    #[track_caller]
    pub(crate) fn fill(&self, css: &str, text: &str) {
        let element = self.element(css);
        self.must(&format!("element/{element}/value"), &json!({ "text": text }));
    }

    /// Presses keys, one after the other, wherever the focus is.
    #[track_caller]
    pub(crate) fn press(&self, keys: impl IntoIterator<Item = char>) {
        let strokes: Vec<_> = keys
            .into_iter()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key })))
            .collect();
        self.must("actions", &json!({ "actions": [{ "type": "key", "id": "keys", "actions": strokes }] }));
    }

    /// Drops a file from outside onto the middle of the element.
    #[track_caller]
    pub(crate) fn drop_file(&self, css: &str, path: &Path) {
        let place = self.run(
            "const it = document.querySelector(arguments[0]); it.scrollIntoView({ block: 'center' });
             const box = it.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]",
            json!([css]),
        );
        let files = json!({ "items": [], "files": [path], "dragOperationsMask": 1 });
        for step in ["dragEnter", "dragOver", "drop"] {
            self.command(
                "Input.dispatchDragEvent",
                json!({ "type": step, "x": place[0], "y": place[1], "data": files }),
            );
        }
    }

    /// The path, with the query, that it is at.
    pub(crate) fn path(&self) -> String {
        self.run("return location.pathname + location.search", json!([])).as_str().unwrap().to_owned()
    }

    /// The text of the first such element, as it is to be seen; `None` where there is none, or a page is just loading.
    pub(crate) fn text(&self, css: &str) -> Option<String> {
        let script =
            "return document.querySelector(arguments[0])?.innerText.replace(/\\s+/g, ' ').trim() ?? null";
        let reported = self.try_do("execute/sync", &json!({ "script": script, "args": [css] })).ok()?;
        reported.as_str().map(str::to_owned)
    }

    /// Waits until the first such element has this text somewhere in it; gives all of its text.
    #[track_caller]
    pub(crate) fn wait_text(&self, css: &str, part: &str) -> String {
        wait_for(&format!("{part:?} in {css}"), || self.text(css).filter(|text| text.contains(part)))
    }

    /// The cells of the rows of a table, as they are to be seen.
    #[track_caller]
    pub(crate) fn rows(&self, table: &str) -> Vec<Vec<String>> {
        let script = "return [...document.querySelector(arguments[0]).tBodies[0].rows].map(
            row => [...row.cells].map(cell => cell.innerText.replace(/\\s+/g, ' ').trim()))";
        serde_json::from_value(self.run(script, json!([table]))).unwrap()
    }

    /// Keeps a picture of the whole page under `target/screenshots`.
    #[track_caller]
    pub(crate) fn picture(&self, name: &str) {
        let size = self.command("Page.getLayoutMetrics", json!({}))["cssContentSize"].take();
        let clip = json!({ "x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1 });
        let taken =
            self.command("Page.captureScreenshot", json!({ "captureBeyondViewport": true, "clip": clip }));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), plain(taken["data"].as_str().unwrap())).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser when its session does; whatever fails here must not hide why the test did.
        let path = format!("/session/{}", self.session);
        let bytes = request("DELETE", &path, &self.address.to_string(), &[], None);
        if let Ok(mut stream) = TcpStream::connect(self.address) {
            let asked = std::io::Write::write_all(&mut stream, &bytes);
            drop(stream.set_read_timeout(Some(Duration::from_secs(20))));
            drop(asked.and_then(|()| stream.read(&mut [0])));
        }
        drop(self.driver.kill());
        drop(self.driver.wait());
    }
}

/// Bytes from base64, as RFC 4648 has it.
fn plain(text: &str) -> Vec<u8> {
    let (mut bytes, mut held, mut bits) = (vec![], 0_u32, 0);
    for letter in text.bytes().take_while(|letter| *letter != b'=') {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        held = held << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits).to_be_bytes()[3]);
            held &= (1 << bits) - 1;
        }
    }
    bytes
}
