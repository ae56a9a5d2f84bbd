//! The default content of an mbox, in the form that each kind of call reads. There are no offers here.
//!
//! | call | the answer |
//! | --- | --- |
//! | `mbox/json` | `{"sessionId","tntId","offers":[]}`: what at.js reads |
//! | `mbox/ajax`, `mbox/standard` | the script with which Adobe's servers tell mbox.js to show the page's own content, and the `pcId` to keep; or, with `callback=NAME`, a call of it with the JSON |
//! | `ubox/raw`, `ubox/image`, `ubox/page` | a redirect to `mboxDefault`; with `mboxNoRedirect=1`, its text |
//!
//! Sources: Adobe's "Integrate Recommendations with email" (rawbox: parameters, limits of a name, error texts), "Test an
//! email image Adbox", "Work with redirectors"; mbox.js 55 (Adobe-Marketing-Cloud/target-api-examples,
//! `travel-demo/js/mbox.js`) and answers of Adobe's servers to it, kept in public copies of pages.

use hyper::header::HeaderValue;
use hyper::{StatusCode, Uri};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;

use crate::http::error::HttpError;
use crate::http::request::Params;
use crate::http::response::{self, Answer, Door};
use crate::http::script;

/// The longest name of an mbox, in characters: Adobe's limit.
const NAME_CHARS_MAX: usize = 250;
/// What an mbox's name must not hold, by Adobe's documentation, also not encoded once more.
const NOT_IN_NAMES: [&str; 8] = ["'", "\"", "<", ">", "%22", "%27", "%3C", "%3E"];
/// What apps with Adobe's mobile SDK 4 send as `mboxDefault`, to be given nothing and show what they have themselves.
const NONE: &str = "none";
/// What a browser encodes in a URL.
const NOT_IN_URLS: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'^').add(b'`').add(b'{').add(b'|').add(b'}');

/// How a call wants to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `mbox/json`: at.js.
    Json,
    /// `mbox/ajax`: mbox.js, once the page is loaded.
    Ajax,
    /// `mbox/standard`: mbox.js, while the page loads.
    Standard,
    /// `ubox/raw`: apps, and what sends emails.
    Raw,
    /// `ubox/image`: an image in an email or a banner.
    Image,
    /// `ubox/page`: a link in one.
    Page,
}

impl Kind {
    /// The kind that the last part of a path names; no path that leads here has another.
    pub(super) fn named(name: &str) -> Self {
        match name {
            "ajax" => Self::Ajax,
            "standard" => Self::Standard,
            "raw" => Self::Raw,
            "image" => Self::Image,
            "page" => Self::Page,
            _ => Self::Json,
        }
    }

    /// The form in which it is refused.
    pub(super) fn door(self) -> Door {
        match self {
            Self::Json => Door::Mbox,
            Self::Ajax | Self::Standard => Door::MboxScript,
            Self::Raw | Self::Image | Self::Page => Door::Ubox,
        }
    }

    /// Whether it is one of the calls of emails, banners and apps, which keep a visitor's ids in cookies.
    pub(super) fn is_ubox(self) -> bool {
        self.door() == Door::Ubox
    }
}

/// What a call is answered with, but for the ids.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DefaultContent {
    /// JSON.
    Json,
    /// A script that calls a function with the JSON.
    Callback(String),
    /// A script that shows what the page has.
    Page(MboxOnPage),
    /// Text.
    Text(String),
    /// A redirect.
    Redirect(HeaderValue),
}

/// Which mbox of a page, as mbox.js counts them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MboxOnPage {
    factory: String,
    name: String,
    number: u32,
}

/// What is handed back of a visitor's ids.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Handed<'a> {
    pub(super) session_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tnt_id: Option<&'a str>,
    /// at.js looks for them; none mean that the page's own content stays.
    pub(super) offers: [(); 0],
}

impl DefaultContent {
    /// What a call is to be answered with. Checked before anything is written.
    pub(super) fn of(kind: Kind, params: &Params) -> Result<Self, HttpError> {
        let name = params.get("mbox");
        if let Some(name) = name {
            check_name(name)?;
        }
        let missing = || wrong("bad request: the mbox parameter is missing");
        match kind {
            Kind::Json => Ok(Self::Json),
            Kind::Ajax | Kind::Standard => {
                match params.get("callback").or_else(|| params.get("mboxCallback")) {
                    Some(callback) if script::is_callback(callback) => {
                        Ok(Self::Callback(callback.to_owned()))
                    }
                    Some(_) => Err(wrong("bad request: callback is not the name of a function")),
                    None => Ok(Self::Page(MboxOnPage {
                        factory: params.get("mboxFactoryId").unwrap_or("default").to_owned(),
                        name: name.ok_or_else(missing)?.to_owned(),
                        number: params.get("mboxId").and_then(|number| number.parse().ok()).unwrap_or(0),
                    })),
                }
            }
            Kind::Raw | Kind::Image | Kind::Page => {
                name.ok_or_else(missing)?;
                Self::of_ubox(kind, params)
            }
        }
    }

    fn of_ubox(kind: Kind, params: &Params) -> Result<Self, HttpError> {
        let redirects = matches!(params.get("mboxNoRedirect"), None | Some("0" | "false"));
        match params.get("mboxDefault") {
            default if !redirects => Ok(Self::Text(default.unwrap_or_default().to_owned())),
            None => Err(wrong("Cannot redirect to default content, please specify mboxDefault parameter")),
            Some(default) => match (location(default), kind) {
                (Some(location), _) => Ok(Self::Redirect(location)),
                (None, Kind::Raw) if default == NONE => Ok(Self::Text(String::new())),
                (None, Kind::Raw) => Ok(Self::Text(default.to_owned())),
                (None, _) => Err(wrong(
                    "Cannot redirect to default content, mboxDefault must be an absolute URL of http or https",
                )),
            },
        }
    }

    /// The answer.
    pub(super) fn answer(self, handed: &Handed<'_>) -> Result<Answer, HttpError> {
        let json = || script::json(handed).map_err(|e| HttpError::Inside(format!("an answer in JSON: {e}")));
        Ok(match self {
            Self::Json => response::json_text(StatusCode::OK, json()?),
            // The comment keeps the name from being the first bytes of something else than a script.
            Self::Callback(name) => response::script(StatusCode::OK, format!("/**/{name}({});", json()?)),
            Self::Page(place) => response::script(StatusCode::OK, place.script(handed.tnt_id)),
            Self::Text(text) => response::text(StatusCode::OK, text),
            Self::Redirect(location) => response::redirect(location),
        })
    }
}

impl MboxOnPage {
    /// `loaded` shows the page's own content as soon as it is there and ends mbox.js's wait; `forceId` has mbox.js keep
    /// the `pcId` in its cookie.
    fn script(&self, pc_id: Option<&str>) -> String {
        let factory = format!("mboxFactories.get({})", script::literal(&self.factory, '\''));
        let name = script::literal(&self.name, '\'');
        let mut script =
            format!("{factory}.get({name},{}).setOffer(new mboxOfferDefault()).loaded();", self.number);
        if let Some(pc_id) = pc_id {
            script.push_str(&format!("{factory}.getPCId().forceId({});", script::literal(pc_id, '"')));
        }
        script
    }
}

fn check_name(name: &str) -> Result<(), HttpError> {
    if name.chars().nth(NAME_CHARS_MAX).is_some() {
        return Err(HttpError::Wrong(format!("Mbox name [{name}] is too long")));
    }
    let upper = name.to_ascii_uppercase();
    if name.contains(char::is_control) || NOT_IN_NAMES.iter().any(|it| upper.contains(it)) {
        return Err(HttpError::Wrong(format!("Invalid mbox name:= {name}")));
    }
    Ok(())
}

/// Where to redirect to: an absolute URL of http or https, with a host, without a user's name before it.
fn location(url: &str) -> Option<HeaderValue> {
    if url.contains(|c: char| c.is_control() || c == '\\') {
        return None;
    }
    let url = utf8_percent_encode(url, NOT_IN_URLS).to_string();
    let parsed: Uri = url.parse().ok()?;
    let authority = parsed.authority()?;
    let http = matches!(parsed.scheme_str(), Some("http" | "https"));
    if !http || authority.host().is_empty() || authority.as_str().contains('@') {
        return None;
    }
    HeaderValue::try_from(url).ok()
}

fn wrong(message: &str) -> HttpError {
    HttpError::Wrong(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KINDS: [Kind; 6] = [Kind::Json, Kind::Ajax, Kind::Standard, Kind::Raw, Kind::Image, Kind::Page];

    #[test]
    fn only_absolute_urls_of_http_are_redirected_to() {
        let check = |url: &str, expected: Option<&str>| {
            let location = location(url);
            assert_eq!(location.as_ref().map(|it| it.to_str().unwrap()), expected, "{url:?}");
        };
        for url in ["http://a", "https://a.example:8443/b.gif?c=d&e=%20#f", "http://[::1]/", "HTTPS://a/"] {
            check(url, Some(url));
        }
        check("http://a/é b?<\">", Some("http://a/%C3%A9%20b?%3C%22%3E"));
        for url in [
            "",
            "/",
            "//a",
            "a",
            "http:",
            "http://",
            "http:///a",
            "http:a",
            "javascript:alert(1)",
            "javascript://a/%0aalert(1)",
            "java\nscript:alert(1)",
            "data:text/html,x",
            "ftp://a/",
            " http://a",
            "http://a\r\nSet-Cookie: x",
            "http://a/\u{0}",
            "http://a\\b",
            "http://good.example@evil.example/",
        ] {
            check(url, None);
        }
    }

    #[test]
    fn names_are_checked_by_adobes_rules() {
        let checked = |name: &str| check_name(name).map_err(|e| e.to_string());
        for name in ["a", "target-global-mbox", "a b", "100% & more;", "Ünï/cödé", &"é".repeat(250)] {
            assert_eq!(checked(name), Ok(()), "{name}");
        }
        for name in ["a'b", "\"", "<", ">", "a%22", "a%27", "a%3cb", "a%3E", "a\nb"] {
            assert_eq!(checked(name), Err(format!("Invalid mbox name:= {name}")));
        }
        let long = "x".repeat(251);
        assert_eq!(checked(&long), Err(format!("Mbox name [{long}] is too long")));
    }

    proptest! {
        #[test]
        fn no_name_or_id_breaks_out_of_the_script(
            factory in ".*", name in ".*|[\\x00-\\x7f\u{2028}]*", number: u32, pc_id in ".*|[\\x00-\\x7f]*",
        ) {
            let place = MboxOnPage { factory: factory.clone(), name: name.clone(), number };
            let (strings, around) = script::parsed_back(&place.script(Some(&pc_id)));
            prop_assert_eq!(strings, vec![factory.clone(), name, factory, pc_id]);
            let expected = format!(
                "mboxFactories.get('').get('',{number}).setOffer(new mboxOfferDefault()).loaded();\
                 mboxFactories.get('').getPCId().forceId(\"\");"
            );
            prop_assert_eq!(around, expected);
        }

        #[test]
        fn any_ids_come_back_from_the_json(session_id in ".*|[\\x00-\\x7f]*", tnt_id in ".*") {
            let handed = Handed { session_id: &session_id, tnt_id: Some(&tnt_id), offers: [] };
            let json = script::json(&handed).unwrap();
            let unsafe_here = ['<', '>', '&', '\u{2028}', '\u{2029}', '\n'];
            prop_assert!(!json.contains(unsafe_here));
            let read: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!((&read["sessionId"], &read["tntId"]), (&session_id.into(), &tnt_id.into()));
        }

        #[test]
        fn any_query_is_answered_or_refused(
            query in proptest::collection::vec(any::<u8>(), 0..200),
            named in "(&(mbox|mboxDefault|callback|mboxNoRedirect|mboxId|mboxFactoryId)=[ -~é\\n%]{0,20}){0,6}",
        ) {
            let mut bytes = query;
            bytes.extend_from_slice(named.as_bytes());
            let params = Params::decode(&bytes);
            for kind in KINDS {
                if let Ok(content) = DefaultContent::of(kind, &params) {
                    let handed = Handed { session_id: "s", tnt_id: Some("p"), offers: [] };
                    prop_assert!(content.answer(&handed).is_ok());
                }
            }
        }
    }
}
