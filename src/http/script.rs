//! Puts text from clients into JavaScript so that none of it can end the literal that it stands in.

use serde::Serialize;

/// The longest name of a callback, in characters.
const CALLBACK_CHARS_MAX: usize = 128;

/// A string literal between `quote`s. All but ASCII letters, digits, blanks and `-_.:,=[]` stands as `\uXXXX`, so that the
/// literal ends neither itself, nor its line, nor a `<script>` that it is pasted into.
pub(super) fn literal(text: &str, quote: char) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push(quote);
    escape_to(&mut literal, text);
    literal.push(quote);
    literal
}

/// Text that stays within its line, for a comment.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    escape_to(&mut escaped, text);
    escaped
}

fn escape_to(script: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || matches!(c, ' ' | '-' | '_' | '.' | ':' | ',' | '=' | '[' | ']') {
            script.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                script.push_str(&format!("\\u{unit:04X}"));
            }
        }
    }
}

/// JSON that is also a JavaScript expression, wherever it is pasted: what could end a `<script>`, or a line in old
/// engines, stands escaped. Outside of strings JSON has none of these characters.
pub(super) fn json(value: &impl Serialize) -> Result<String, serde_json::Error> {
    let plain = serde_json::to_string(value)?;
    let mut safe = String::with_capacity(plain.len());
    for c in plain.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => safe.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => safe.push(c),
        }
    }
    Ok(safe)
}

/// Whether a text may be called: names of letters, digits, `_` and `$`, with dots between them.
pub(super) fn is_callback(text: &str) -> bool {
    let name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '$'))
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$'))
    };
    text.len() <= CALLBACK_CHARS_MAX && text.split('.').all(name)
}

/// The strings that the literals of a script stand for, and the script without them. Knows only what [`literal`]
/// writes, and takes nothing else.
#[cfg(test)]
pub(super) fn parsed_back(script: &str) -> (Vec<String>, String) {
    let (mut strings, mut around) = (vec![], String::new());
    let mut chars = script.chars();
    while let Some(quote) = chars.next() {
        around.push(quote);
        if !matches!(quote, '\'' | '"') {
            continue;
        }
        let mut units: Vec<u16> = vec![];
        loop {
            let c = chars.next().expect("a literal that does not end");
            assert!(c == ' ' || c.is_ascii_graphic() && c != '<', "{c:?} in {script}");
            if c == quote {
                break;
            }
            if c != '\\' {
                units.push(u16::try_from(u32::from(c)).unwrap());
                continue;
            }
            assert_eq!(chars.next(), Some('u'), "{script}");
            let digits: String = chars.by_ref().take(4).collect();
            units.push(u16::from_str_radix(&digits, 16).unwrap());
        }
        around.push(quote);
        strings.push(String::from_utf16(&units).unwrap());
    }
    (strings, around)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn literals_hold_what_they_are_given() {
        let check = |text: &str, expected: &str| assert_eq!(literal(text, '\''), expected);
        check("home-page_1.a:b c", "'home-page_1.a:b c'");
        check("'", "'\\u0027'");
        check("\\", "'\\u005C'");
        check("</script>", "'\\u003C\\u002Fscript\\u003E'");
        check("\r\n\u{2028}\u{2029}\0", "'\\u000D\\u000A\\u2028\\u2029\\u0000'");
        check("é😀", "'\\u00E9\\uD83D\\uDE00'");
    }

    #[test]
    fn json_can_be_pasted_into_a_script() {
        let text = "</script>\u{2028}&\"\\";
        let json = json(&[text]).unwrap();
        assert_eq!(json, r#"["\u003c/script\u003e\u2028\u0026\"\\"]"#);
        assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), [text]);
    }

    #[test]
    fn only_names_can_be_called() {
        for name in ["f", "_", "$", "jQuery17_1", "a.b.c", "a.$b._c1"] {
            assert!(is_callback(name), "{name}");
        }
        let long = "x".repeat(129);
        for name in
            ["", ".", "a.", ".a", "a..b", "1a", "a.1b", "a b", "alert(1)//", "a\n", "é", "a-b", "a[0]", &long]
        {
            assert!(!is_callback(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back_from_its_literal(text in ".*|\\PC*|[\\x00-\\x7f\u{2028}\u{2029}]*", double in any::<bool>()) {
            let quote = if double { '"' } else { '\'' };
            let (strings, around) = parsed_back(&literal(&text, quote));
            prop_assert_eq!(strings, vec![text]);
            prop_assert_eq!(around, format!("{quote}{quote}"));
        }
    }
}
