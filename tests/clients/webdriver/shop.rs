//! Something of everything to look at, and a walk through every page that there is.

use super::driver::Browser;
use crate::support::{Daemon, wait_for};

/// A file of which some rows fail, each for its own reason, two for the same; lines 6 to 10.
pub(crate) const FAULTY: &str = "batch=thirdPartyId,city,tier\n\
    crm-1,Oslo,gold\ncrm-2,Z%C3%BCrich,\nnobody,Rome,gold\ncrm-3,,\n\
    crm-4,100%,gold\ncrm-5,%zz,\n,Bern,gold\ncrm/6,Bern,gold\ncrm-7,Bern,gold,more\n";
/// A file of which one row fails.
pub(crate) const SENT: &str =
    "batch=thirdPartyId,city,tier\ncrm-1,Rome,gold\ncrm-2,Bern,\nnobody,Oslo,gold\ncrm-1,%zz,\n";

/// A daemon that has visitors and batches, and one that asks for tokens.
pub(crate) struct Shop {
    pub(crate) daemon: Daemon,
    pub(crate) guarded: Daemon,
    pub(crate) token: String,
    pub(crate) batch: String,
    pub(crate) pending: String,
    /// A batch most of whose rows found nobody.
    pub(crate) amiss: String,
}

impl Shop {
    pub(crate) fn open() -> Self {
        let daemon = Daemon::start_configured(
            "default_client = 'demo'\n[clients.demo]\n[clients.fresh]\n[clients.slow]\nbatch_shows_after_seconds = 86400",
        );
        for number in 1..=60 {
            daemon.mbox("demo", &format!("mbox=home&mboxPC=pc{number}.28_0&mbox3rdPartyId=crm-{number}&profile.city=Bern&profile.visits={number}"));
        }
        let known = |count: u32, value: &str| -> String {
            let rows = (1..=count).map(|number| format!("crm-{number},{value},{number}00\n"));
            format!("batch=thirdPartyId,segment,score\n{}", rows.collect::<String>())
        };
        let v1 = daemon.post_batch_v1("demo", known(48, "returning"));
        daemon.wait_complete(&v1);
        daemon
            .post_form("/m2/demo/profile/update", "mbox3rdPartyId=crm-1&profile.consent=yes%2C+to+all+of+it");
        let batch = daemon.post_batch("demo", FAULTY);
        daemon.wait_complete(&batch);
        let unknown: String = (1..=40).map(|number| format!("{number},2026\n")).collect();
        let amiss = daemon.post_batch("demo", format!("batch=thirdPartyId,season\n{unknown}crm-2,2026\n"));
        daemon.wait_complete(&amiss);
        let later = daemon.post_batch("demo", known(75, "newsletter"));
        daemon.wait_complete(&later);
        daemon.mbox(
            "demo",
            "mbox=basket&mbox3rdPartyId=crm-1&profile.last_seen_product_category=shoes%2Fwinter",
        );
        daemon.mbox("slow", "mbox=home&mbox3rdPartyId=crm-1");
        let pending = daemon.post_batch("slow", known(75, "newsletter"));
        let (guarded, token) = guarded();
        Self { daemon, guarded, token, batch, pending, amiss }
    }

    /// Five calls that write, one of each kind.
    pub(crate) fn calls(&self) -> [Box<dyn Fn() + '_>; 5] {
        let daemon = &self.daemon;
        let delivery = r#"{"id":{"thirdPartyId":"crm-1"},"execute":{"mboxes":[{"index":0,"name":"basket","profileParameters":{"tier":"gold"}}]}}"#;
        let json = ("Content-Type", "application/json");
        [
            Box::new(|| {
                daemon.mbox("demo", "mbox=home&mboxPC=pc1.28_0&mbox3rdPartyId=undefined&profile.city=Bern");
            }),
            Box::new(move || {
                let path = "/rest/v1/delivery?client=demo&sessionId=s";
                daemon.call("POST", path, &[json], Some(delivery.as_bytes()));
            }),
            Box::new(|| {
                daemon.post_form("/m2/demo/profile/update", "mbox3rdPartyId=nobody&profile.consent=yes");
            }),
            Box::new(|| {
                daemon.call(
                    "POST",
                    "/m2/demo/v2/profile/batchUpdate?dryRun=true",
                    &[],
                    Some(SENT.as_bytes()),
                );
            }),
            Box::new(|| {
                daemon.get("/m2/demo/mbox/jsn?mboxPC=pc1");
            }),
        ]
    }

    /// Shows page after page, in each of its states.
    pub(crate) fn walk(&self, browser: &Browser, mut visit: impl FnMut(&str)) {
        let (batch, pending) = (format!("/batches/{}", self.batch), format!("/batches/{}", self.pending));
        let rows = format!("{batch}?outcome=not_found");
        let values = format!("{batch}?attribute=city");
        let amiss = format!("/batches/{}", self.amiss);
        let pages = [
            ("home", "/"),
            ("home-fresh", "/?client=fresh"),
            ("visitor", "/visitors?client=demo&by=any&id=crm-1"),
            ("visitor-unknown", "/visitors?client=demo&by=any&id=nobody"),
            ("find", "/find?client=demo&attribute=city&value=Bern"),
            ("find-active", "/find?client=demo"),
            ("find-nobody", "/find?client=demo&attribute=city&value=Ur"),
            ("batches", "/batches?client=demo"),
            ("batches-fresh", "/batches?client=fresh"),
            ("batch", &batch),
            ("batch-rows", &rows),
            ("batch-values", &values),
            ("batch-amiss", &amiss),
            ("batch-pending", &pending),
            ("upload", "/upload?client=demo"),
            ("live", "/live?client=demo"),
            ("refused", "/batches/demo-1-1"),
        ];
        for (name, path) in pages {
            browser.open(&format!("{}{path}", self.daemon.url()));
            visit(name);
        }
        browser.open(&format!("{}/live?client=demo", self.daemon.url()));
        browser.wait_text("[data-said]", "Listening.");
        for call in self.calls() {
            call();
        }
        browser.wait_text("[data-said]", "5 calls");
        wait_for("all rows", || (browser.rows(".calls").len() == 5).then_some(()));
        browser.run("document.querySelector('.calls details').open = true", serde_json::json!([]));
        visit("live-calls");
        browser.open(&format!("{}/upload?client=demo", self.daemon.url()));
        browser.fill("#file", browser.file("visitors.csv", SENT).to_str().unwrap());
        browser.wait_text("[data-said]", "was tried out");
        visit("upload-tried");
        browser.fill("#file", browser.file("no-header.csv", "city\nOslo\n").to_str().unwrap());
        browser.wait_text("[data-said]", "would be refused");
        visit("upload-refused");
        browser.open(&self.guarded.url());
        visit("prompt");
        browser.fill("#token", "not-one");
        browser.click("main button");
        browser.wait_text("#wrong", "not taken");
        visit("prompt-again");
        browser.fill("#token", &self.token);
        browser.click("main button");
        browser.wait_text("h1", "Look a visitor up");
        visit("home-signed-in");
        browser.click(".who button");
        browser.wait_text("h1", "A token is needed");
    }
}

/// A daemon that asks for tokens, with one visitor; and a token.
pub(crate) fn guarded() -> (Daemon, String) {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=home&mbox3rdPartyId=crm-1&profile.city=Bern");
    let token = daemon.make_token(&["--client", "demo", "--scope", "admin"]);
    daemon.hang_up();
    wait_for("tokens to be asked for", || (daemon.get("/").status == 401).then_some(()));
    (daemon, token)
}
