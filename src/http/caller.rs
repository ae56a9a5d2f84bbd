//! Who calls, and how. It is the peer of the connection or, if that is a proxy in `trusted_proxies`, the caller whom the proxy
//! names. Nobody else's word counts.
//!
//! Each proxy appends its own caller to `X-Forwarded-For`. So the list is read from its end, and the first address that is no
//! trusted proxy is the caller; the caller may have made up what stands before it. `X-Forwarded-Proto` and `X-Forwarded-Host` are
//! read at the same distance from their ends, if proxies append to them too, or from their one value if they do not.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use hyper::header::HeaderMap;

use crate::config::Callers;

const FOR: &str = "x-forwarded-for";
const PROTO: &str = "x-forwarded-proto";
const HOST: &str = "x-forwarded-host";

/// Who calls, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    /// Where it is.
    pub(super) address: IpAddr,
    /// Whether only a proxy says so.
    pub(super) forwarded: bool,
    /// Whether it called by HTTPS.
    pub(super) https: bool,
    /// The host that it called, if a proxy says that.
    pub(super) host: Option<String>,
}

impl Caller {
    /// The caller behind a connection from `peer`, which came by HTTPS or not.
    pub(super) fn of(peer: IpAddr, https: bool, headers: &HeaderMap, callers: &Callers) -> Self {
        let peer = peer.to_canonical();
        let mut caller = Self { address: peer, forwarded: false, https, host: None };
        if !callers.trusts(peer) {
            return caller;
        }
        let mut proxies = 0;
        for entry in entries(headers, FOR).into_iter().rev() {
            let Some(address) = entry.and_then(address) else { break };
            proxies += 1;
            (caller.address, caller.forwarded) = (address, true);
            if !callers.trusts(address) {
                break;
            }
        }
        let at = |name| {
            let mut entries = entries(headers, name);
            entries.drain(..entries.len().saturating_sub(proxies.max(1)));
            entries.first().copied().flatten()
        };
        match at(PROTO) {
            Some(proto) if proto.eq_ignore_ascii_case("https") => caller.https = true,
            Some(proto) if proto.eq_ignore_ascii_case("http") => caller.https = false,
            _ => {}
        }
        caller.host = at(HOST).filter(|host| is_host(host)).map(str::to_owned);
        caller
    }
}

/// Whether a text can be a host and a port.
pub(super) fn is_host(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._:[]".contains(c))
}

/// What stands between the commas of a header's lines, in their order; nothing for a line that is no text.
fn entries<'a>(headers: &'a HeaderMap, name: &'static str) -> Vec<Option<&'a str>> {
    let mut entries = vec![];
    for line in headers.get_all(name) {
        match line.to_str() {
            Ok(line) => entries.extend(line.split(',').map(|entry| Some(entry.trim()))),
            Err(_) => entries.push(None),
        }
    }
    entries
}

/// An address as proxies write it: with a port or without, one of IPv6 perhaps in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = || text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|it| it.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    bare().or_else(with_port).or_else(in_brackets).map(|it| it.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn callers() -> Callers {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "trusted_proxies = ['10.0.0.0/8', '127.0.0.1', '2001:db8::/32']")
            .unwrap();
        let options = crate::config::ServeOptions::of_file(file.path());
        Config::resolve(&options).unwrap().callers
    }

    /// The caller of a request with these header lines that came over plain HTTP.
    fn caller(peer: &str, lines: &[(&str, &[u8])]) -> Caller {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = hyper::header::HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, hyper::header::HeaderValue::from_bytes(value).unwrap());
        }
        Caller::of(peer.parse().unwrap(), false, &headers, &callers())
    }

    #[test]
    fn the_address_is_the_last_that_no_trusted_proxy_has() {
        #[track_caller]
        fn check(peer: &str, lines: &[&str], expected: &str) {
            let lines: Vec<_> = lines.iter().map(|line| ("X-Forwarded-For", line.as_bytes())).collect();
            let caller = caller(peer, &lines);
            let address: IpAddr = expected.parse().unwrap();
            assert_eq!(caller.address, address, "{peer} {lines:?}");
            let peer = peer.parse::<IpAddr>().unwrap().to_canonical();
            assert_eq!(caller.forwarded, address != peer, "{peer}");
        }
        check("10.0.0.1", &[], "10.0.0.1");
        check("10.0.0.1", &["192.0.2.7"], "192.0.2.7");
        check("10.0.0.1", &["  192.0.2.7 "], "192.0.2.7");
        check("::ffff:10.0.0.1", &["192.0.2.7"], "192.0.2.7");
        check("127.0.0.1", &["192.0.2.7"], "192.0.2.7");
        check("127.0.0.2", &["192.0.2.7"], "127.0.0.2");
        check("192.0.2.1", &["192.0.2.7"], "192.0.2.1");
        check("2001:db8::1", &["2001:db9::7"], "2001:db9::7");
        check("2001:db9::1", &["192.0.2.7"], "2001:db9::1");
        // The caller made up what stands first.
        check("10.0.0.1", &["198.51.100.1, 192.0.2.7"], "192.0.2.7");
        check("10.0.0.1", &["127.0.0.1, 192.0.2.7"], "192.0.2.7");
        check("10.0.0.1", &["198.51.100.1, 192.0.2.7, 10.9.9.9"], "192.0.2.7");
        check("10.0.0.1", &["198.51.100.1, 192.0.2.7", "10.9.9.9"], "192.0.2.7");
        check("10.0.0.1", &["192.0.2.7", "198.51.100.1"], "198.51.100.1");
        check("10.0.0.1", &["10.9.9.8, 10.9.9.9"], "10.9.9.8");
        check("10.0.0.1", &["192.0.2.7:50123"], "192.0.2.7");
        check("10.0.0.1", &["::ffff:192.0.2.7"], "192.0.2.7");
        check("10.0.0.1", &["2001:db9::7"], "2001:db9::7");
        check("10.0.0.1", &["[2001:db9::7]"], "2001:db9::7");
        check("10.0.0.1", &["[2001:db9::7]:50123"], "2001:db9::7");
        // What is no address ends the search at whoever passed it on.
        check("10.0.0.1", &["unknown"], "10.0.0.1");
        check("10.0.0.1", &["192.0.2.7, unknown, 10.9.9.9"], "10.9.9.9");
        check("10.0.0.1", &["192.0.2.7,"], "10.0.0.1");
        check("10.0.0.1", &[""], "10.0.0.1");
        for garbage in
            [",,,", "192.0.2", "192.0.2.7:", "192.0.2.7:x", "[2001:db9::7", "_hidden", "\"192.0.2.7\""]
        {
            check("10.0.0.1", &[garbage], "10.0.0.1");
        }
        for garbage in
            ["2001:db9::7]", "[192.0.2.7]", "fe80::1%eth0", "[]", "localhost", "192.0.2.7 10.0.0.1"]
        {
            check("10.0.0.1", &[garbage], "10.0.0.1");
        }
        assert_eq!(
            caller("10.0.0.1", &[("X-Forwarded-For", b"192.0.2.7, \xff")]).address.to_string(),
            "10.0.0.1"
        );
    }

    #[test]
    fn proto_and_host_count_from_a_trusted_proxy_alone() {
        #[track_caller]
        fn check(peer: &str, lines: &[(&str, &str)], https: bool, host: Option<&str>) {
            let lines: Vec<_> = lines.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
            let caller = caller(peer, &lines);
            assert_eq!((caller.https, caller.host.as_deref()), (https, host), "{peer} {lines:?}");
        }
        let (f, p, h) = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host");
        check("10.0.0.1", &[(p, "https"), (h, "p.example")], true, Some("p.example"));
        check("10.0.0.1", &[(p, "HTTPS"), (h, "[2001:db8::1]:8443")], true, Some("[2001:db8::1]:8443"));
        check("192.0.2.1", &[(p, "https"), (h, "p.example")], false, None);
        check("10.0.0.1", &[(p, "http")], false, None);
        check("10.0.0.1", &[(p, "wss"), (h, "a/b")], false, None);
        check("10.0.0.1", &[(p, ""), (h, "")], false, None);
        // The proxy adds to what the caller made up.
        check(
            "10.0.0.1",
            &[(f, "192.0.2.7"), (p, "https, http"), (h, "evil, p.example")],
            false,
            Some("p.example"),
        );
        check("10.0.0.1", &[(p, "https"), (p, "http")], false, None);
        // Two proxies: the first says how the caller called, the second how the first did.
        let two = (f, "192.0.2.7, 10.9.9.9");
        check("10.0.0.1", &[two, (p, "https, http"), (h, "p.example, inner")], true, Some("p.example"));
        check(
            "10.0.0.1",
            &[two, (p, "http, https, http"), (h, "evil, p.example, inner")],
            true,
            Some("p.example"),
        );
        check("10.0.0.1", &[two, (p, "https"), (h, "p.example")], true, Some("p.example"));
    }
}
