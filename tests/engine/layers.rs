//! Imports run only downward in the order of docs/internals/design.md, "The layers", and the model stays pure.
//!
//! Reads every file under `src`, without its comments and literals, and looks at each path that starts with `crate::`,
//! `self::`, `super::` or `std::`, in `use` trees and in the code. It doesn't expand macros or follow renamed imports.

use std::fmt::Write as _;
use std::path::Path;

/// The layers, lowest first: each may use those before it. A new module at the top of `src` gets its place here and in
/// the design.
const LAYERS: [&str; 21] = [
    "model",
    "layout",
    "sync",
    "clock",
    "durable",
    "folder",
    "tokens",
    "audit",
    "config",
    "telemetry",
    "order",
    "kafka",
    "bucket",
    "journal",
    "store",
    "batch",
    "engine",
    "cluster",
    "http",
    "cli",
    "main",
];

/// The front doors in `http`: they don't know each other, and only `http` itself and its router know them.
const FRONT_DOORS: [&str; 4] = ["adobe", "native", "ops", "inspector"];

/// The paths that the pure core must not use.
const IMPURE: [&str; 9] = [
    "std::fs",
    "std::io",
    "std::net",
    "std::thread",
    "std::env",
    "std::process",
    "tokio",
    "std::time::SystemTime",
    "std::time::Instant",
];

#[test]
fn imports_run_downward_and_the_model_is_pure() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut faults = String::new();
    let mut paths = 0;
    for (name, text) in files(&src) {
        let source = Source::read(&name, &text);
        paths += source.paths.len();
        for fault in source.faults() {
            writeln!(faults, "src/{fault}").unwrap();
        }
    }
    assert!(paths > 10, "only {paths} paths were found: the reader is broken");
    assert!(faults.is_empty(), "\n{faults}");
}

/// The files below `folder`, with their names below it and their texts, sorted by name.
pub(crate) fn files(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().replace('\\', "/");
                found.push((name, std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// A file's place in the crate, and the paths that it uses.
struct Source {
    name: String,
    module: Vec<String>,
    /// Line and path; those into the crate start with `crate`.
    paths: Vec<(usize, Vec<String>)>,
    /// Lines with `async` or `await`.
    asyncs: Vec<usize>,
}

impl Source {
    fn read(name: &str, text: &str) -> Self {
        let module = module_of(name);
        let mut source = Self { name: name.into(), module, paths: Vec::new(), asyncs: Vec::new() };
        let tokens = tokens(text);
        // Modules that are open here, each with the depth of braces outside it.
        let mut inline: Vec<(String, usize)> = Vec::new();
        let mut clock_from: Option<usize> = None;
        let mut depth = 0;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            match token.text.as_str() {
                "{" => depth += 1,
                "}" => {
                    depth -= 1;
                    inline.retain(|&(_, outside)| outside < depth);
                    clock_from = clock_from.filter(|&outside| outside < depth);
                }
                "mod" if text_at(&tokens, at + 2) == "{" => {
                    inline.push((text_at(&tokens, at + 1).into(), depth));
                }
                "impl" if (1..4).map(|n| text_at(&tokens, at + n)).eq(["Clock", "for", "SystemClock"]) => {
                    clock_from = Some(depth);
                }
                "async" | "await" => source.asyncs.push(token.line),
                _ => {}
            }
            if starts_path(&tokens, at) {
                let mut here = source.module.clone();
                here.extend(inline.iter().map(|(name, _)| name.clone()));
                let mut found = Vec::new();
                let end = expand(&tokens, at, &[], &mut found);
                for (line, path) in found {
                    // SystemClock is the one place that may read the clock.
                    let clock = clock_from.is_some() && path.join("::").starts_with("std::time::SystemTime");
                    if !clock {
                        source.paths.push((line, absolute(&here, path)));
                    }
                }
                // A tree's braces have been read with it.
                at = end;
            } else {
                at += 1;
            }
        }
        source
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let Some(rank) = self.rank() else {
            return vec![format!(
                "{}: belongs to no layer: give it a place in src/lib.rs and in LAYERS",
                self.name
            )];
        };
        for (line, path) in &self.paths {
            if let Some(why) = self.upward(rank, path).or_else(|| self.impure(path)) {
                faults.push(format!("{}:{line}: {}: {why}", self.name, path.join("::")));
            }
        }
        if self.in_model() {
            faults.extend(
                self.asyncs.iter().map(|line| format!("{}:{line}: async: the model is pure", self.name)),
            );
        }
        faults
    }

    fn rank(&self) -> Option<usize> {
        // lib.rs names all modules, as main.rs may.
        let layer = self.module.first().map_or("main", String::as_str);
        LAYERS.iter().position(|it| *it == layer)
    }

    /// Why this path is not allowed here, if it goes up.
    fn upward(&self, rank: usize, path: &[String]) -> Option<String> {
        if path.first().is_none_or(|it| it != "crate") {
            return None;
        }
        let there = path.get(1)?.as_str();
        let here = self.module.first().map_or("main", String::as_str);
        match LAYERS.iter().position(|it| *it == there) {
            None if here == "main" => None,
            None => Some("goes through the crate's root: name the module".into()),
            Some(other) if other > rank => Some(format!("{here} must not import {there}, which is above it")),
            Some(_) if here == "http" && there == "http" => self.sideways(path.get(2)?),
            Some(_) => None,
        }
    }

    /// Why this module of `http` must not be used here.
    fn sideways(&self, there: &str) -> Option<String> {
        let door = |it: &str| FRONT_DOORS.contains(&it);
        match self.module.get(1).map(String::as_str) {
            None | Some("router") => None,
            Some(here) if here == there => None,
            Some(here) if door(here) && door(there) => {
                Some(format!("http::{here} must not know http::{there}"))
            }
            Some(here) if door(here) && there == "router" => {
                Some(format!("the router is above http::{here}"))
            }
            Some(here) if door(there) => {
                Some(format!("http::{there} is above http::{here}: only the router knows it"))
            }
            Some(_) => None,
        }
    }

    /// Why this path is not allowed here, if this is the model.
    fn impure(&self, path: &[String]) -> Option<String> {
        let path = path.join("::");
        let within =
            |it: &&str| path.strip_prefix(*it).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
        let impure = self.in_model() && IMPURE.iter().any(within);
        impure.then(|| "the model is pure: no async, no input or output, no clock but SystemClock".into())
    }

    fn in_model(&self) -> bool {
        self.module.first().is_some_and(|it| it == "model")
    }
}

/// The module that a file below `src` holds; nothing for the crate's root.
pub(crate) fn module_of(name: &str) -> Vec<String> {
    let mut parts: Vec<String> = name.trim_end_matches(".rs").split('/').map(Into::into).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

/// Whether a path to check begins here. `crate` in `pub(crate)` is not a path, nor is the `self` of a method.
pub(crate) fn starts_path(tokens: &[Token], at: usize) -> bool {
    let root = matches!(text_at(tokens, at), "crate" | "self" | "super" | "std" | "tokio");
    root && text_at(tokens, at + 1) == "::" && (at == 0 || text_at(tokens, at - 1) != "::")
}

/// Expands the path or tree at `at` below `prefix`, and gives the place after it.
pub(crate) fn expand(
    tokens: &[Token],
    at: usize,
    prefix: &[String],
    found: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    let mut path = prefix.to_vec();
    let line = tokens.get(at).map_or(0, |it| it.line);
    let mut at = at;
    loop {
        match text_at(tokens, at) {
            "{" => {
                at += 1;
                while !matches!(text_at(tokens, at), "}" | "") {
                    at = expand(tokens, at, &path, found);
                    while !matches!(text_at(tokens, at), "," | "}" | "") {
                        at += 1; // `as name`
                    }
                    if text_at(tokens, at) == "," {
                        at += 1;
                    }
                }
                return at + 1;
            }
            // Generics of a path in the code, `Vec::<crate::engine::Engine>::new`, are checked separately.
            "<" => break,
            name => path.push(name.into()),
        }
        at += 1;
        if text_at(tokens, at) != "::" {
            break;
        }
        at += 1;
    }
    found.push((line, path));
    at
}

/// The path from the crate's root, for one that starts with `self` or `super`.
pub(crate) fn absolute(here: &[String], path: Vec<String>) -> Vec<String> {
    let ups = path.iter().take_while(|it| matches!(it.as_str(), "self" | "super")).count();
    if ups == 0 {
        return path;
    }
    let supers = path.iter().take(ups).filter(|it| *it == "super").count();
    let kept = here.len().saturating_sub(supers);
    ["crate".to_owned()]
        .into_iter()
        .chain(here[..kept].iter().cloned())
        .chain(path.into_iter().skip(ups))
        .collect()
}

/// A word, a `::`, or another character that is not white space.
pub(crate) struct Token {
    pub(crate) line: usize,
    pub(crate) text: String,
}

pub(crate) fn text_at(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |it| it.text.as_str())
}

/// Cuts source into tokens, and leaves out comments and the insides of literals.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let get = |at: usize| chars.get(at).copied().unwrap_or('\0');
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let start = at;
        match (get(at), get(at + 1)) {
            ('/', '/') => {
                while at < chars.len() && get(at) != '\n' {
                    at += 1;
                }
            }
            ('/', '*') => {
                let mut open = 0;
                loop {
                    match (get(at), get(at + 1)) {
                        ('/', '*') => (open, at) = (open + 1, at + 2),
                        ('*', '/') => (open, at) = (open - 1, at + 2),
                        _ => at += 1,
                    }
                    if open == 0 || at >= chars.len() {
                        break;
                    }
                }
            }
            ('"', _) => at = after_string(&chars, at),
            ('\'', '\\') => {
                at += 3;
                while at < chars.len() && get(at) != '\'' {
                    at += 1;
                }
                at += 1;
            }
            ('\'', _) if get(at + 2) == '\'' => at += 3,
            ('\'', _) => at += 1, // a lifetime: its name is a word
            (':', ':') => {
                tokens.push(Token { line, text: "::".into() });
                at += 2;
            }
            (c, _) if word(c) => {
                while word(get(at)) {
                    at += 1;
                }
                let text: String = chars[start..at].iter().collect();
                let hashes = (at..).take_while(|&at| get(at) == '#').count();
                if matches!(text.as_str(), "r" | "br" | "cr") && get(at + hashes) == '"' {
                    let end: String = ['"'].into_iter().chain(std::iter::repeat_n('#', hashes)).collect();
                    at += hashes + 1;
                    while at < chars.len() && !end.chars().enumerate().all(|(n, c)| get(at + n) == c) {
                        at += 1;
                    }
                    at += end.len();
                } else {
                    tokens.push(Token { line, text });
                }
            }
            (c, _) => {
                if !c.is_whitespace() {
                    tokens.push(Token { line, text: c.into() });
                }
                at += 1;
            }
        }
        line += chars[start..at.min(chars.len())].iter().filter(|&&c| c == '\n').count();
    }
    tokens
}

fn after_string(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&c) = chars.get(at) {
        match c {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

#[test]
fn a_path_that_does_not_run_downward_is_found() {
    #[track_caller]
    fn check(name: &str, text: &str, expected: &[&str]) {
        let found = Source::read(name, text).faults();
        assert_eq!(found.len(), expected.len(), "{name} {text:?}: {found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{name} {text:?}: {found:?} is not {expected:?}");
        }
    }
    check("engine.rs", "use crate::batch::apply;\nuse crate::model::id::{Key, VisitorId};", &[]);
    check(
        "model/id.rs",
        "\nuse crate::store::Stored;",
        &["model/id.rs:2: crate::store::Stored: model must not"],
    );
    check(
        "store/sled.rs",
        "use crate::{model::id, engine::{self, Engine}};",
        &["store/sled.rs:1: crate::engine::self", "store"],
    );
    check(
        "store/mod.rs",
        "use crate::{\n model::{id::Key, seq::*},\n http as h,\n};",
        &["store/mod.rs:3: crate::http:"],
    );
    check(
        "config.rs",
        "fn f() { crate::telemetry::install(); }",
        &["config.rs:1: crate::telemetry::install"],
    );
    check("telemetry.rs", "use crate::config::LogFilter;", &[]);
    check(
        "batch/apply.rs",
        "fn f(x: Vec<crate::cli::C>) {}",
        &["batch/apply.rs:1: crate::cli::C: batch must not"],
    );
    check("batch/apply.rs", "type X = Vec::<crate::cli::C>;", &["batch/apply.rs:1: crate::cli::C"]);
    check("batch/apply.rs", "use super::super::http::x;", &["batch/apply.rs:1: crate::http::x"]);
    check(
        "batch/apply.rs",
        "mod tests { use super::*; use super::super::csv; use super::super::super::engine; }",
        &["batch/apply.rs:1: crate::engine: batch must not import engine"],
    );
    check(
        "batch/apply.rs",
        "mod a { mod b {} fn f() {} }\nuse super::super::engine;",
        &["batch/apply.rs:2: crate::engine:"],
    );
    check("batch/mod.rs", "use self::fold::x; use super::journal::x;", &[]);
    check(
        "batch/mod.rs",
        "macro_rules! m { () => { $crate::engine::f() } }",
        &["batch/mod.rs:1: crate::engine::f"],
    );
    check(
        "batch/mod.rs",
        "pub(crate) fn f() {} pub(in crate::engine) fn g() {}",
        &["batch/mod.rs:1: crate::engine"],
    );
    check(
        "store/mod.rs",
        "use crate::Stored;",
        &["store/mod.rs:1: crate::Stored: goes through the crate's root"],
    );
    check(
        "store/mod.rs",
        "// crate::engine\n/* crate::engine /* */ crate::engine */ const X: &str = \"\\\"crate::engine\";",
        &[],
    );
    check(
        "store/mod.rs",
        "const X: &str = r#\"\"crate::engine\"#;\nuse crate::engine;",
        &["store/mod.rs:2: crate::engine"],
    );
    check(
        "store/mod.rs",
        "const Q: [char; 3] = ['\"', '\\'', '\\u{22}']; use crate::engine;",
        &["store/mod.rs:1: "],
    );
    check("store/mod.rs", "fn f<'a>(x: &'a str) {} use crate::engine;", &["store/mod.rs:1: crate::engine"]);
    check("lib.rs", "pub mod model; pub use crate::http::Server; pub use crate::X;", &[]);
    check("main.rs", "use crate::anything::at_all;", &[]);
    check("util.rs", "", &["util.rs: belongs to no layer"]);
    check(
        "http/adobe/mbox.rs",
        "use crate::http::{error::E, request, response, auth, server}; use super::x;",
        &[],
    );
    check(
        "http/adobe/mbox.rs",
        "use crate::http::native::profiles;",
        &["http/adobe/mbox.rs:1: crate::http::native"],
    );
    check(
        "http/ops.rs",
        "use super::{error, inspector::page};",
        &["http/ops.rs:1: crate::http::inspector::page: http"],
    );
    check(
        "http/ops.rs",
        "use super::router::Router;",
        &["http/ops.rs:1: crate::http::router::Router: the router"],
    );
    check(
        "http/error.rs",
        "use super::adobe::xml;",
        &["http/error.rs:1: crate::http::adobe::xml: http::adobe is above"],
    );
    check("http/router.rs", "use super::{adobe, native, ops, inspector};", &[]);
    check("http/mod.rs", "use self::adobe::x; pub mod native;", &[]);
    check(
        "http/native/batches.rs",
        "use super::profiles; use crate::cli::C;",
        &["http/native/batches.rs:1: crate::cli"],
    );
}

#[test]
fn an_impure_model_is_found() {
    #[track_caller]
    fn check(text: &str, expected: usize) {
        let found = Source::read("model/seq.rs", text).faults();
        assert_eq!(found.len(), expected, "{text:?}: {found:#?}");
        assert!(found.iter().all(|it| it.starts_with("model/seq.rs:1: ")), "{found:?}");
        assert!(Source::read("journal/log.rs", text).faults().is_empty());
    }
    check("use std::{fmt, collections::BTreeMap}; use std::time::{Duration, UNIX_EPOCH};", 0);
    check("use std::{fmt, fs::File, io};", 2);
    check("fn f() { std::thread::sleep(std::time::Duration::ZERO) }", 1);
    check("use std::net; use std::env; use std::process::exit;", 3);
    check("async fn f() { g().await }", 2);
    check("use tokio::sync::Mutex;", 1);
    check("use std::time::{Instant, SystemTime};", 2);
    check("impl Clock for SystemClock { fn now(&self) { std::time::SystemTime::now() } }", 0);
    check("impl Clock for SystemClock { fn now(&self) {} } fn f() { std::time::SystemTime::now(); }", 1);
    check("impl Clock for Other { fn now(&self) { std::time::SystemTime::now() } }", 1);
}
