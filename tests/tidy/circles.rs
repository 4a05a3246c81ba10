//! Files of different concerns that need each other in a circle can only be read all at once.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Source, sources};

/// Files of one crate, as modules, and the files that each of them names.
type Uses = BTreeMap<String, BTreeSet<String>>;

/// Circles that stand, by crate. A circle may only shrink.
const KNOWN: &[(&str, &[&str])] = &[];

#[test]
fn files_of_different_concerns_do_not_need_each_other_in_a_circle() {
    let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
    for (name, uses) in crates() {
        for circle in circles(&uses).into_iter().filter(|circle| concerns(circle) > 1) {
            let known = KNOWN.iter().position(|(of, files)| {
                *of == name && circle.iter().all(|file| files.contains(&file.as_str()))
            });
            match known {
                Some(known) if KNOWN[known].1.len() == circle.len() => _ = seen.insert(known),
                Some(known) => {
                    seen.insert(known);
                    wrong.push(format!("crates/{name}: the circle has shrunk to {circle:?}: list that"))
                }
                None => wrong.push(format!("crates/{name}: {circle:?}: move what they share below both")),
            }
        }
    }
    let gone = (0..KNOWN.len()).filter(|known| !seen.contains(known));
    wrong.extend(gone.map(|known| format!("{:?}: the circle is gone: take it off the list", KNOWN[known])));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_circle_is_found_through_grouped_imports() {
    let text = "use crate::{a::{B, C}, d::e::F};\nuse crate::g;\n";
    assert_eq!(paths(text, "x::y").into_iter().collect::<Vec<_>>(), ["a::B", "a::C", "d::e::F", "g"]);
    let text = "use self::z::Z;\nuse super::w;\nuse super::super::v::V;\nuse std::fmt;\n";
    assert_eq!(paths(text, "x::y").into_iter().collect::<Vec<_>>(), ["v::V", "x::w", "x::y::z::Z"]);
    let uses =
        |file: &str, used: &[&str]| (file.to_owned(), used.iter().map(|&file| file.to_owned()).collect());
    let graph =
        Uses::from([uses("a", &["b::x"]), uses("b::x", &["c"]), uses("c", &["a"]), uses("d", &["a"])]);
    assert_eq!(circles(&graph), [BTreeSet::from(["a".to_owned(), "b::x".to_owned(), "c".to_owned()])]);
}

fn crates() -> BTreeMap<String, Uses> {
    let sources = sources();
    let mut crates: BTreeMap<String, BTreeMap<String, &Source>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.is_test()) {
        let Some((name, module)) = source.crate_name().zip(module(source)) else { continue };
        crates.entry(name.to_owned()).or_default().insert(module, source);
    }
    let uses = |files: &BTreeMap<String, &Source>| -> Uses {
        let used = |source: &Source| {
            let product: String = source.product().map(|(_, line)| format!("{line}\n")).collect();
            let module = module(source).unwrap_or_default();
            let used = paths(&product, &module);
            used.iter().filter_map(|path| file_of(path, files)).filter(|file| *file != module).collect()
        };
        files.iter().map(|(module, source)| (module.clone(), used(source))).collect()
    };
    crates.iter().map(|(name, files)| (name.clone(), uses(files))).collect()
}

/// Path of the module below the crate's root; none for the root itself, which names everything.
fn module(source: &Source) -> Option<String> {
    let (_, file) = source.path.strip_prefix("crates/")?.split_once("/src/")?;
    let module = file.strip_suffix(".rs")?.replace('/', "::");
    (module != "lib" && module != "main").then_some(module)
}

/// Paths below the crate's root that the `use` items of `module` name, groups taken apart.
fn paths(text: &str, module: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for item in text.split("use ").skip(1) {
        let item: String = item.split(';').next().unwrap_or_default().split_whitespace().collect();
        let (mut base, mut rest) = (module, item.as_str());
        if let Some(below_root) = item.strip_prefix("crate::") {
            (base, rest) = ("", below_root);
        } else if let Some(below) = item.strip_prefix("self::") {
            rest = below;
        } else if !item.starts_with("super::") {
            continue;
        }
        while let Some(above) = rest.strip_prefix("super::") {
            (base, rest) = (base.rsplit_once("::").map_or("", |(parent, _)| parent), above);
        }
        let prefix = if base.is_empty() { String::new() } else { format!("{base}::") };
        expand(&prefix, rest, &mut found);
    }
    found
}

fn expand(prefix: &str, tree: &str, found: &mut BTreeSet<String>) {
    let Some((path, group)) = tree.split_once('{') else {
        found.insert(format!("{prefix}{tree}"));
        return;
    };
    let prefix = format!("{prefix}{path}");
    let (mut depth, mut start) = (0, 0);
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                if start < at {
                    expand(&prefix, &group[start..at], found);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The file that holds `path`: the longest module that it begins with.
fn file_of(path: &str, files: &BTreeMap<String, &Source>) -> Option<String> {
    let ends = path.match_indices("::").map(|(at, _)| at).chain([path.len()]).collect::<Vec<_>>();
    ends.iter().rev().map(|&end| path[..end].to_owned()).find(|module| files.contains_key(module))
}

/// Files that reach each other, each set once.
fn circles(uses: &Uses) -> Vec<BTreeSet<String>> {
    let reached: BTreeMap<&String, BTreeSet<String>> =
        uses.keys().map(|file| (file, reach(file, uses))).collect();
    let circle = |file: &String| -> BTreeSet<String> {
        let mutual = reached[file].iter().filter(|other| reached[*other].contains(file));
        mutual.cloned().collect()
    };
    let circles: BTreeSet<_> = uses.keys().map(circle).filter(|circle| circle.len() > 1).collect();
    circles.into_iter().collect()
}

fn reach(from: &str, uses: &Uses) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(file) = next.pop() {
        next.extend(uses[file].iter().filter(|used| reached.insert((*used).clone())).map(String::as_str));
    }
    reached
}

/// Number of folders or files right below the crate's root that a circle spans.
fn concerns(circle: &BTreeSet<String>) -> usize {
    circle.iter().map(|file| file.split("::").next()).collect::<BTreeSet<_>>().len()
}
