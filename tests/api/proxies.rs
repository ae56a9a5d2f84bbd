//! The real daemon behind a proxy: what `trusted_proxies` say of their callers counts, and nobody else's word does.

use crate::support::{Daemon, request};

const FILE: &[u8] = b"batch=thirdPartyId,a\nx,1\n";
const SAYS: [(&str, &str); 3] = [
    ("X-Forwarded-For", "198.51.100.1, 192.0.2.7"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "profiles.example:8443"),
];

fn status_url(daemon: &Daemon, headers: &[(&str, &str)]) -> String {
    let reply = daemon.call("POST", "/m2/demo/v2/profile/batchUpdate", headers, Some(FILE));
    reply.element("batchStatus").unwrap()
}

fn cookies(daemon: &Daemon, headers: &[(&str, &str)]) -> Vec<String> {
    let reply = daemon.call("GET", "/m2/demo/ubox/raw?mbox=m&mboxDefault=d", headers, None);
    let cookies = reply.headers.into_iter().filter(|(name, _)| name == "set-cookie");
    let cookies: Vec<_> = cookies.map(|(_, value)| value).collect();
    assert_eq!(cookies.len(), 2, "{cookies:?}");
    cookies
}

#[test]
fn a_trusted_proxys_word_counts_for_urls_and_cookies() {
    let daemon = Daemon::start_configured("trusted_proxies = ['10.0.0.0/8', '127.0.0.1']");
    assert!(status_url(&daemon, &SAYS).starts_with("https://profiles.example:8443/m2/demo/"));
    assert!(cookies(&daemon, &SAYS).iter().all(|cookie| cookie.ends_with("; SameSite=None; Secure")));
    assert!(status_url(&daemon, &[]).starts_with(&format!("{}/m2/demo/", daemon.url())));
    let garbage = [("X-Forwarded-Proto", "gopher"), ("X-Forwarded-Host", "a/b?c")];
    assert!(status_url(&daemon, &garbage).starts_with(&format!("{}/m2/demo/", daemon.url())));
    assert!(cookies(&daemon, &garbage).iter().all(|cookie| cookie.ends_with("; SameSite=Lax")));
}

#[test]
fn nobody_elses_word_counts() {
    for settings in ["", "trusted_proxies = ['10.0.0.0/8', '::1']"] {
        let daemon = Daemon::start_configured(settings);
        assert!(status_url(&daemon, &SAYS).starts_with(&format!("{}/m2/demo/", daemon.url())));
        assert!(cookies(&daemon, &SAYS).iter().all(|cookie| cookie.ends_with("; SameSite=Lax")));
    }
}

#[test]
fn limits_per_address_are_those_of_whom_a_trusted_proxy_calls_for() {
    let daemon = Daemon::start_configured(
        "trusted_proxies = ['127.0.0.1']\nsite_calls_per_second = 5\nconnections_per_address_max = 1\n\
         loopback_exempt = false",
    );
    let mut proxy = [daemon.connect(), daemon.connect()];
    let mut call = |caller: &str, n: usize| {
        let headers = [("X-Forwarded-For", caller)];
        proxy[n % 2].write(&request("GET", "/m2/demo/mbox/json?mboxPC=1", "a", &headers, None));
        proxy[n % 2].read().status
    };
    let refused = (0..1_000).map(|n| call("192.0.2.7", n)).position(|status| status == 429);
    assert!(refused.is_some_and(|taken| taken >= 5), "{refused:?}");
    assert_eq!(call("127.0.0.1, 198.51.100.1", 0), 200);
    // Not even a proxy can say that its caller is on this machine, and so spared.
    assert!((0..1_000).map(|n| call("127.0.0.2", n)).any(|status| status == 429));
}

#[test]
fn a_proxy_on_this_machine_does_not_spare_its_callers() {
    let daemon = Daemon::start_configured("trusted_proxies = ['127.0.0.1']\nsite_calls_per_second = 5");
    let mut proxy = daemon.connect();
    let mut call = |headers: &[(&str, &str)]| {
        proxy.write(&request("GET", "/m2/demo/mbox/json?mboxPC=1", "a", headers, None));
        proxy.read().status
    };
    assert!((0..1_000).any(|_| call(&[("X-Forwarded-For", "192.0.2.7")]) == 429));
    assert!((0..1_000).any(|_| call(&[("X-Forwarded-For", "127.0.0.2")]) == 429));
    assert!((0..20).all(|_| call(&[]) == 200));
}
