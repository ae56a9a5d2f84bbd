//! No circles of files: no file under `src` may use a file that leads back to it. And within the engine, rooms use only the rooms
//! below them.
//!
//! A path counts for the file that defines the name: a name that a module only re-exports counts for the file it comes from.
//! Unit tests are left out. They may use any file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use super::layers::{Token, absolute, expand, files, module_of, starts_path, text_at, tokens};

/// The engine's rooms and its files beside them, lowest first: each may use those before it. Those in one line don't know each other.
const ROOMS: &[&[&str]] = &[
    &["types", "scarce"],
    &["error"],
    &["heartbeat", "priority", "signals"],
    &["health"],
    &["gates", "disk_space", "peers"],
    &["shared"],
    &["commit"],
    &["driver"],
    &["open"],
    &["upkeep"],
    &["read"],
    &["ingest"],
    &["node"],
    &["start"],
    &["vitals"],
    &["mod"],
    &["operator", "offline"],
];

#[test]
fn files_form_no_circles_and_rooms_know_only_those_below() {
    let graph = Graph::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let edges: usize = graph.names.values().map(BTreeSet::len).sum();
    assert!(edges > 100, "only {edges} imports were found: the reader is broken");

    let (circles, upward) = (graph.circles(), graph.upward());
    // Not captured with the test's output: the numbers show in every run.
    let line = format!(
        "{} files with {edges} imports: {} circles, {} imports that go up within the engine\n",
        graph.names.len(),
        circles.len(),
        upward.len()
    );
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    let mut wrong = String::new();
    for circle in &circles {
        writeln!(wrong, "a circle of {} files:", circle.len()).unwrap();
        for file in circle.iter() {
            let others: Vec<_> = graph.names[file].intersection(circle).cloned().collect();
            writeln!(wrong, "    {file} names {}", others.join(", ")).unwrap();
        }
    }
    for (file, room, named) in &upward {
        writeln!(wrong, "src/{file} names {named}: {room} is not below it").unwrap();
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Which file uses which.
struct Graph {
    names: BTreeMap<String, BTreeSet<String>>,
}

/// A file's paths into the crate, and the sources of the names that it re-exports.
#[derive(Default)]
struct Named {
    paths: Vec<Vec<String>>,
    handed_on: BTreeMap<String, Vec<String>>,
}

impl Graph {
    fn read(src: &Path) -> Self {
        Self::of(&files(src))
    }

    fn of(files: &[(String, String)]) -> Self {
        let files: Vec<_> = files.iter().filter(|(name, _)| !is_test(name)).collect();
        let modules: BTreeMap<Vec<String>, &str> =
            files.iter().map(|(name, _)| (module_of(name), name.as_str())).collect();
        let read: BTreeMap<&str, Named> =
            files.iter().map(|(name, text)| (name.as_str(), named(name, text, &modules))).collect();
        let mut names = BTreeMap::new();
        for (&file, named) in &read {
            let mut others = BTreeSet::new();
            // The crate's root uses all files, and no file uses it.
            if !module_of(file).is_empty() {
                for path in &named.paths {
                    if let Some(other) = holder(path, &modules, &read)
                        && other != file
                        && !module_of(other).is_empty()
                    {
                        others.insert(other.to_owned());
                    }
                }
            }
            names.insert(file.to_owned(), others);
        }
        Self { names }
    }

    /// All files that are reached from this one.
    fn reached(&self, from: &str) -> BTreeSet<String> {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.to_owned()]);
        while let Some(file) = next.pop() {
            for other in &self.names[&file] {
                if seen.insert(other.clone()) {
                    next.push(other.clone());
                }
            }
        }
        seen
    }

    /// The sets of files that all reach each other.
    fn circles(&self) -> Vec<BTreeSet<String>> {
        let reached: BTreeMap<&str, _> =
            self.names.keys().map(|file| (file.as_str(), self.reached(file))).collect();
        let mut circles = BTreeSet::new();
        for (file, others) in &reached {
            if others.contains(*file) {
                circles.insert(
                    others.iter().filter(|it| reached[it.as_str()].contains(*file)).cloned().collect(),
                );
            }
        }
        circles.into_iter().collect()
    }

    /// Imports within the engine that don't go down: the file, the room it names, and the file there.
    fn upward(&self) -> Vec<(String, String, String)> {
        let rank = |room: &str| ROOMS.iter().position(|rooms| rooms.contains(&room));
        let mut found = vec![];
        for (file, others) in &self.names {
            let Some(here) = room_of(file) else { continue };
            let Some(above) = rank(here) else {
                found.push((file.clone(), here.to_owned(), "a room that has no place in ROOMS".to_owned()));
                continue;
            };
            for other in others {
                let Some(there) = room_of(other) else { continue };
                if there != here && rank(there).is_none_or(|below| below >= above) {
                    found.push((file.clone(), there.to_owned(), other.clone()));
                }
            }
        }
        found
    }
}

fn is_test(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.contains("/tests/")
}

/// The room of a file of the engine.
fn room_of(file: &str) -> Option<&str> {
    let below = file.strip_prefix("engine/")?;
    below.split('/').next().map(|room| room.trim_end_matches(".rs"))
}

/// The file that holds what a path names.
fn holder<'f>(
    path: &[String],
    modules: &BTreeMap<Vec<String>, &'f str>,
    read: &BTreeMap<&str, Named>,
) -> Option<&'f str> {
    let mut path = path.get(1..)?.to_vec();
    // A name may be re-exported more than once.
    for _ in 0..8 {
        let (length, file) = (0..=path.len()).rev().find_map(|n| Some((n, *modules.get(&path[..n])?)))?;
        let Some(from) = path.get(length).and_then(|name| read[file].handed_on.get(name)) else {
            return Some(file);
        };
        path = from[1..].iter().chain(&path[length + 1..]).cloned().collect();
    }
    None
}

/// The paths into the crate of a file, without those of its unit tests.
fn named(name: &str, text: &str, modules: &BTreeMap<Vec<String>, &str>) -> Named {
    let module = module_of(name);
    let is_child = |name: &str| {
        let child: Vec<String> = module.iter().cloned().chain([name.to_owned()]).collect();
        modules.contains_key(&child)
    };
    let tokens = without_tests(tokens(text));
    let mut named = Named::default();
    let mut at = 0;
    while at < tokens.len() {
        let after_use = at > 0 && text_at(&tokens, at - 1) == "use";
        let child = is_child(text_at(&tokens, at))
            && text_at(&tokens, at + 1) == "::"
            && (at == 0 || text_at(&tokens, at - 1) != "::");
        // `pub(in crate::engine)` says who may see an item, and uses nothing.
        let visibility = at > 1 && text_at(&tokens, at - 1) == "in" && text_at(&tokens, at - 2) == "(";
        if visibility || (!child && !starts_path(&tokens, at)) {
            at += 1;
            continue;
        }
        let mut found = vec![];
        let end = expand(&tokens, at, &[], &mut found);
        let public = after_use && at > 1 && matches!(text_at(&tokens, at - 2), "pub" | ")");
        for (_, path) in found {
            let path = if child { [vec!["self".to_owned()], path].concat() } else { path };
            let path = absolute(&module, path);
            if path.first().is_none_or(|root| root != "crate") {
                continue;
            }
            if public && let Some(last) = path.last() {
                named.handed_on.insert(last.clone(), path.clone());
            }
            named.paths.push(path);
        }
        at = end.max(at + 1);
    }
    named
}

/// Source without the items behind `#[cfg(test)]`.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let mut kept = vec![];
    let mut at = 0;
    while at < tokens.len() {
        let begins = ["#", "[", "cfg", "(", "test", ")", "]"];
        if (0..begins.len()).all(|n| text_at(&tokens, at + n) == begins[n]) {
            at += begins.len();
            // To the end of the item: its `;`, or the brace that closes it.
            let mut depth = 0_usize;
            while at < tokens.len() {
                match text_at(&tokens, at) {
                    "{" => depth += 1,
                    "}" => depth -= 1,
                    _ => {}
                }
                let ends = depth == 0 && matches!(text_at(&tokens, at), "}" | ";");
                at += 1;
                if ends {
                    break;
                }
            }
        } else {
            kept.push(Token { line: tokens[at].line, text: tokens[at].text.clone() });
            at += 1;
        }
    }
    kept
}

#[test]
fn circles_and_imports_that_go_up_are_found() {
    let graph = |files: &[(&str, &str)]| {
        Graph::of(&files.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect::<Vec<_>>())
    };
    let circles = |files: &[(&str, &str)]| graph(files).circles();

    assert_eq!(circles(&[("a.rs", "use crate::b::X;"), ("b.rs", "use crate::a::Y;")]).len(), 1);
    assert_eq!(circles(&[("a.rs", "use crate::b::X;"), ("b.rs", "use crate::c::Y;"), ("c.rs", "")]).len(), 0);
    let three =
        [("a.rs", "fn f() { super::b::f() }"), ("b.rs", "use crate::{c::X};"), ("c.rs", "use crate::a;")];
    assert_eq!(circles(&three)[0].len(), 3);
    let visible = [("a.rs", "use crate::b::X;"), ("b.rs", "pub(in crate::a) fn f() {}")];
    assert!(circles(&visible).is_empty());
    // A unit test may use any file.
    let tested = [("a.rs", "use crate::b::X;"), ("b.rs", "#[cfg(test)] mod tests { use crate::a::Y; }")];
    assert!(circles(&tested).is_empty());
    // A re-exported name counts for its source: `two` uses `one`, not the folder's own file.
    let folder = [
        ("f/mod.rs", "mod one; mod two; pub use one::X; pub fn g() { two::h() }"),
        ("f/one.rs", "pub struct X;"),
        ("f/two.rs", "use super::X; pub fn h() {}"),
    ];
    assert!(circles(&folder).is_empty());
    let hub =
        [("f/mod.rs", "mod one; pub struct Y; use one::X;"), ("f/one.rs", "use super::Y; pub struct X;")];
    assert_eq!(circles(&hub).len(), 1);

    let rooms = [
        ("engine/mod.rs", "use open::X; use commit::Y;"),
        ("engine/commit/mod.rs", "use crate::engine::open::X;"),
        ("engine/open/mod.rs", "use super::commit::Y;"),
    ];
    let up: Vec<_> = graph(&rooms).upward().into_iter().map(|(file, room, _)| (file, room)).collect();
    assert_eq!(up, [("engine/commit/mod.rs".to_owned(), "open".to_owned())]);
}
