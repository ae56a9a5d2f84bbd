//! Paths and parameters as text: bytes in, text out, no I/O; decoded once, and only as UTF-8. Public for the fuzz targets.

use percent_encoding::percent_decode;

/// Parameters in the order sent.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// Names and values.
    pub pairs: Vec<(String, String)>,
    /// Names, as well as they can be shown, of those that are not UTF-8.
    pub broken: Vec<String>,
}

/// Decodes `name=value&…`: `+` is a space, `%XX` a byte of UTF-8; a `%` that begins nothing stands for itself.
pub fn parameters(bytes: &[u8]) -> Parameters {
    let mut decoded = Parameters::default();
    for pair in bytes.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        let mut sides = pair.splitn(2, |byte| *byte == b'=');
        let (name, value) = (sides.next().unwrap_or_default(), sides.next().unwrap_or_default());
        match (form_decoded(name), form_decoded(value)) {
            (Some(name), Some(value)) => decoded.pairs.push((name, value)),
            (Some(name), None) => decoded.broken.push(name),
            (None, _) => decoded.broken.push(String::from_utf8_lossy(name).into_owned()),
        }
    }
    decoded
}

/// The parts of a path between its slashes; none if they are not UTF-8.
pub fn segments(path: &str) -> Option<Vec<String>> {
    let segment = |text: &str| Some(percent_decode(text.as_bytes()).decode_utf8().ok()?.into_owned());
    path.strip_prefix('/').unwrap_or(path).split('/').map(segment).collect()
}

fn form_decoded(bytes: &[u8]) -> Option<String> {
    let spaced: Vec<u8> = bytes.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_decode(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_once_and_only_as_utf_8() {
        let check = |text: &str, pairs: &[(&str, &str)], broken: &[&str]| {
            let seen = parameters(text.as_bytes());
            let found: Vec<_> =
                seen.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!((found.as_slice(), seen.broken.as_slice()), (pairs, &*owned(broken)), "{text}");
        };
        check("", &[], &[]);
        check("&&a=1&", &[("a", "1")], &[]);
        check("a=1+2&b=%2B%26%3D&c", &[("a", "1 2"), ("b", "+&="), ("c", "")], &[]);
        check("a=b=c&=x", &[("a", "b=c"), ("", "x")], &[]);
        check("a=%2541&b=100%&c=%zz", &[("a", "%41"), ("b", "100%"), ("c", "%zz")], &[]);
        check("profile.%E5%90%8D=%F0%9F%8E%BF", &[("profile.名", "🎿")], &[]);
        check("a=%FF&b=1", &[("b", "1")], &["a"]);
        check("%FF=1", &[], &["%FF"]);
    }

    #[test]
    fn a_path_is_split_first_and_decoded_then() {
        let check = |path: &str, expected: Option<&[&str]>| {
            assert_eq!(segments(path), expected.map(owned), "{path}");
        };
        check("/", Some(&[""]));
        check("/a/b", Some(&["a", "b"]));
        check("/a%2Fb/c", Some(&["a/b", "c"]));
        check("/a+b/%2525", Some(&["a+b", "%25"]));
        check("//a/", Some(&["", "a", ""]));
        check("/%E5%90%8D", Some(&["名"]));
        check("/%FF", None);
    }

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }
}
