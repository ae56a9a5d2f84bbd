//! A real browser, on a page of another origin: what it may call, read and keep. Left out, and said so, where there is
//! no Chromium.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::support::{Daemon, wait_for};
use serde_json::Value;

const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// Calls every door as a site does, and writes what came of it into `#result`.
const PAGE: &str = r#"<!doctype html><title>shop</title><pre id="result"></pre><script>
const daemon = "DAEMON", own = location.origin, seen = {};
const call = async (name, run) => {
  try { seen[name] = await run(); } catch (error) { seen[name] = "refused: " + error.name; }
};
const loaded = (tag, url) => new Promise((resolve, reject) => {
  const element = document.createElement(tag);
  element.onload = () => resolve("loaded");
  element.onerror = () => reject(new Error("not loaded"));
  element.src = url;
  document.body.append(element);
});
const mboxFactories = { get: factory => ({
  get: (name, number) => ({ setOffer: offer => ({ loaded: () => { seen.shown = [factory, name, number]; } }) }),
  getPCId: () => ({ forceId: id => { seen.kept = id; } }),
}) };
function mboxOfferDefault() {}
(async () => {
  await call("beacon", () => navigator.sendBeacon(daemon + "/m2/demo/mbox/json?mbox=m&mboxPC=beacon",
    "profile.by=" + encodeURIComponent("a beacon")));
  await call("json", async () => (await fetch(daemon + "/m2/demo/mbox/json?mbox=m&mboxSession=s", {
    credentials: "include",
    method: "POST",
    headers: { "X-EXC-SDK": "test", "X-EXC-SDK-Version": "1", "X-Request-Id": "r" },
    body: new URLSearchParams({ "profile.by": "fetch" }),
  })).json());
  await call("delivery", async () => (await fetch(daemon + "/rest/v1/delivery?client=demo&sessionId=s", {
    credentials: "include",
    method: "POST",
    headers: { "Content-Type": "application/json", "X-EXC-SDK": "test" },
    body: JSON.stringify({ context: { channel: "web" }, execute: { pageLoad: { profileParameters: { by: "sdk" } } } }),
  })).json());
  await call("refusal", async () => (await fetch(daemon + "/m2/demo/mbox/json?mbox=a%3Cb")).json());
  await call("ajax", () => loaded("script", daemon + "/m2/demo/mbox/ajax?profile.by=script&mbox="
    + encodeURIComponent("a\\b</scrıpt>(`${1}`\u2028)".replace(/[<>]/g, ""))));
  await call("image", () => loaded("img", daemon + "/m2/demo/ubox/image?mbox=m&mboxPC=image&profile.by=image&mboxDefault="
    + encodeURIComponent(own + "/pixel.gif")));
  await call("raw", async () => (await fetch(daemon + "/m2/demo/ubox/raw?mbox=m&mboxNoRedirect=1&mboxDefault=%3Cb%3E")).text());
  await call("native", async () => (await fetch(daemon + "/api/v1/profiles/beacon?client=demo&by=pc")).json());
  await call("single", async () => (await fetch(daemon + "/m2/demo/profile/update?mboxPC=beacon&profile.a=1")).text());
  document.getElementById("result").textContent = "[[" + encodeURIComponent(JSON.stringify(seen)) + "]]";
})();
</script>"#;

const PIXEL: &[u8] = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\x04\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";

#[test]
fn a_page_of_another_origin_calls_the_sites_doors_and_reads_their_answers() {
    let Some(browser) =
        BROWSERS.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok())
    else {
        // Past the test's capture, so that the script which runs all suites sees it.
        std::io::stderr().write_all(b"\nskipped: there is no chromium\n").unwrap();
        return;
    };
    let daemon = Daemon::start();
    let page = serve(PAGE.replace("DAEMON", &daemon.url()));
    let dom = dom(browser, &page);
    let seen = dom.split_once("[[").and_then(|(_, rest)| rest.split_once("]]"));
    let seen = percent_encoding::percent_decode_str(seen.expect(&dom).0).decode_utf8().unwrap();
    let seen: Value = serde_json::from_str(&seen).unwrap();

    assert_eq!(seen["beacon"], true, "{seen}");
    assert_eq!(seen["json"]["sessionId"], "s", "{seen}");
    assert_eq!(seen["refusal"]["error"], "Invalid mbox name:= a<b", "{seen}");
    assert_eq!(seen["ajax"], "loaded", "{seen}");
    assert_eq!(seen["shown"], serde_json::json!(["default", "a\\b/scrıpt(`${1}`\u{2028})", 0]), "{seen}");
    assert_eq!(seen["image"], "loaded", "{seen}");
    assert_eq!(seen["raw"], "<b>", "{seen}");
    assert_eq!(seen["native"], "refused: TypeError", "{seen}");
    assert_eq!(seen["single"], "refused: TypeError", "{seen}");

    let by = |id: &str| daemon.value("demo", "pc", id, "by");
    let reported = seen.to_string();
    assert_eq!(by(seen["json"]["tntId"].as_str().expect(&reported)).as_deref(), Some("fetch"));
    assert_eq!(by(seen["kept"].as_str().expect(&reported)).as_deref(), Some("script"));
    assert_eq!(by(seen["delivery"]["id"]["tntId"].as_str().expect(&reported)).as_deref(), Some("sdk"));
    assert_eq!(by("image").as_deref(), Some("image"));
    assert_eq!(wait_for("the beacon", || by("beacon")), "a beacon");
}

/// The page's DOM once it has resolved.
fn dom(browser: &str, page: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let process = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--disable-dev-shm-usage", "--no-proxy-server"])
        .arg(format!("--user-data-dir={}", folder.path().display()))
        .args(["--virtual-time-budget=20000", "--dump-dom", page])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut process = Ended(process);
    let mut output = process.0.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut dom = String::new();
        output.read_to_string(&mut dom).map(|_| dom)
    });
    wait_for("the browser to end", || process.0.try_wait().unwrap());
    reader.join().unwrap().unwrap()
}

/// A process that does not outlive the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Serves the page from an origin of its own, for as long as the test runs. Gives its URL.
fn serve(page: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let page = page.clone();
            std::thread::spawn(move || answer(socket.unwrap(), &page));
        }
    });
    url
}

/// Answers one request; a browser also opens connections that it doesn't use.
fn answer(mut socket: TcpStream, page: &str) -> Option<()> {
    let mut lines = BufReader::new(socket.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    lines.find(|line| line.as_ref().is_ok_and(String::is_empty))?.ok()?;
    let (media_type, body) = match first.split(' ').nth(1)? {
        "/" => ("text/html;charset=UTF-8", page.as_bytes()),
        "/pixel.gif" => ("image/gif", PIXEL),
        _ => ("text/plain", &b""[..]),
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(body)).ok()
}
