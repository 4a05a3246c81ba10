//! Types keep to the vocabulary: standard words, one name for one idea, few fields, short impls.
//!
//! Each exception is a ratchet: the list names its limit, and the limit may only shrink.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use crate::source::{Source, root, sources};

const FIELDS_MAX: usize = 12;
const IMPL_LINES_MAX: usize = 400;

/// Names that several types share, with how many do.
const SHARED_NAMES: &[(&str, usize)] = &[
    ("Admission", 2),
    ("Applied", 2),
    ("Batch", 2),
    ("BudgetShare", 2),
    ("Change", 2),
    ("Changed", 2),
    ("Client", 2),
    ("Command", 4),
    ("CommandError", 2),
    ("ConfigError", 2),
    ("Connection", 2),
    ("Control", 2),
    ("Cursor", 2),
    ("Damage", 2),
    ("DamageReport", 2),
    ("DamagedRange", 2),
    ("Delivery", 2),
    ("Disk", 2),
    ("Draft", 2),
    ("Endpoint", 2),
    ("Entry", 6),
    ("EventBuilder", 2),
    ("Exit", 2),
    ("Failure", 4),
    ("Header", 5),
    ("Identity", 2),
    ("Machine", 3),
    ("Malformed", 2),
    ("Mode", 2),
    ("Network", 2),
    ("Next", 2),
    ("Node", 2),
    ("OpenError", 5),
    ("Outcome", 2),
    ("Pending", 2),
    ("Pool", 2),
    ("Progress", 5),
    ("PublishSession", 2),
    ("ReadError", 2),
    ("ReadLimits", 2),
    ("Reader", 3),
    ("Receiver", 2),
    ("ReceiverState", 2),
    ("Record", 2),
    ("Recovery", 2),
    ("Refusal", 2),
    ("Repair", 2),
    ("Request", 4),
    ("RequestError", 2),
    ("Role", 3),
    ("Secret", 2),
    ("Section", 2),
    ("Shared", 4),
    ("Sink", 2),
    ("Slot", 4),
    ("State", 5),
    ("StoredEvent", 2),
    ("Subscription", 2),
    ("Value", 2),
    ("Waiting", 2),
    ("Window", 2),
    ("Worker", 2),
    ("Writer", 2),
];

/// Structs with more fields than [`FIELDS_MAX`], as (crate, type, fields).
const WIDE_STRUCTS: &[(&str, &str, usize)] = &[
    ("cli", "BenchPublishArguments", 13),
    ("delivery", "PartitionLeader", 13),
    ("partition", "Writer", 13),
    ("server", "DeliveryConfig", 14),
    ("testkit", "FakePublisherState", 15),
];

/// Types with more impl lines than [`IMPL_LINES_MAX`], as (crate, type, lines).
const LONG_IMPLS: &[(&str, &str, usize)] = &[
    ("catalog", "Catalog", 468),
    ("catalog", "Draft", 476),
    ("control", "Control", 529),
    ("edge", "ControlServices", 440),
    ("delivery", "PartitionLeader", 669),
    ("delivery", "SubscriptionState", 981),
    ("partition", "Partition", 405),
    ("log", "Log", 406),
];

/// Words that type names may be made of, one a line; the glossary of crates/README.md adds its own.
const WORDS: &str = include_str!("words.txt");

struct TypeDefinition {
    crate_name: String,
    name: String,
    place: String,
    is_public: bool,
}

#[test]
fn public_type_names_are_made_of_known_words() {
    let glossary = glossary_words();
    let known: BTreeSet<&str> = WORDS.lines().chain(glossary.iter().map(String::as_str)).collect();
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for definition in definitions().iter().filter(|definition| definition.is_public) {
        for word in words(&definition.name) {
            if known.contains(word.as_str()) {
                used.insert(word);
            } else {
                wrong.push(format!("{}: `{}` in {}", definition.place, word, definition.name));
            }
        }
    }
    wrong.extend(
        WORDS
            .lines()
            .filter(|word| !used.contains(*word))
            .map(|word| format!("words.txt: nobody uses {word}")),
    );
    assert!(
        wrong.is_empty(),
        "use a standard term, or add the word to the glossary of crates/README.md:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn a_type_name_means_one_thing() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for definition in definitions() {
        places.entry(definition.name).or_default().push(definition.place);
    }
    let mut wrong = Vec::new();
    for (name, places) in &places {
        let allowed = SHARED_NAMES.iter().find(|(shared, _)| shared == name).map_or(1, |(_, count)| *count);
        if places.len() > allowed {
            wrong.push(format!("{name} is defined {} times: {}", places.len(), places.join(", ")));
        }
    }
    for (name, count) in SHARED_NAMES {
        let defined = places.get(*name).map_or(0, Vec::len);
        if defined < *count {
            wrong.push(format!("{name} is defined {defined} times now: lower its limit from {count}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn structs_have_few_fields() {
    let mut wrong = Vec::new();
    let mut wide = BTreeMap::new();
    for source in products() {
        for (name, fields) in struct_fields(&source) {
            if fields > FIELDS_MAX {
                wide.insert((source.crate_name().unwrap_or("tests").to_owned(), name), fields);
            }
        }
    }
    for ((crate_name, name), fields) in &wide {
        let allowed = ratchet(WIDE_STRUCTS, crate_name, name).unwrap_or(FIELDS_MAX);
        if *fields > allowed {
            wrong.push(format!("{crate_name}: {name} has {fields} fields, {allowed} are allowed"));
        }
    }
    wrong.extend(loose(WIDE_STRUCTS, &wide));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn types_have_short_impls() {
    let mut lines: BTreeMap<(String, String), usize> = BTreeMap::new();
    for source in products() {
        for (name, count) in impl_lines(&source) {
            *lines.entry((source.crate_name().unwrap_or("tests").to_owned(), name)).or_default() += count;
        }
    }
    lines.retain(|_, count| *count > IMPL_LINES_MAX);
    let mut wrong = Vec::new();
    for ((crate_name, name), count) in &lines {
        let allowed = ratchet(LONG_IMPLS, crate_name, name).unwrap_or(IMPL_LINES_MAX);
        if *count > allowed {
            wrong.push(format!("{crate_name}: impls of {name} have {count} lines, {allowed} are allowed"));
        }
    }
    wrong.extend(loose(LONG_IMPLS, &lines));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The limit that a ratchet list gives a type.
fn ratchet(list: &[(&str, &str, usize)], crate_name: &str, name: &str) -> Option<usize> {
    list.iter().find(|(listed, of, _)| *listed == crate_name && *of == name).map(|(_, _, max)| *max)
}

/// Entries of a ratchet list whose type has become smaller than its limit, or ordinary.
fn loose(list: &[(&str, &str, usize)], actual: &BTreeMap<(String, String), usize>) -> Vec<String> {
    list.iter()
        .filter(|(crate_name, name, max)| {
            actual.get(&((*crate_name).to_owned(), (*name).to_owned())).is_none_or(|size| size < max)
        })
        .map(|(crate_name, name, max)| format!("{crate_name}: {name} is below {max} now: lower its limit"))
        .collect()
}

fn products() -> Vec<Source> {
    let mut sources = sources();
    sources.retain(|source| !source.is_test() && source.path.starts_with("crates/"));
    sources
}

fn definitions() -> Vec<TypeDefinition> {
    let mut definitions = Vec::new();
    for source in products() {
        for (number, line) in source.product() {
            let is_public = line.trim_start().starts_with("pub ");
            if let Some(name) = defined_name(line, &["struct ", "enum ", "trait "]) {
                definitions.push(TypeDefinition {
                    crate_name: source.crate_name().unwrap_or_default().to_owned(),
                    name: name.to_owned(),
                    place: format!("{}:{number}", source.path),
                    is_public,
                });
            }
        }
    }
    definitions.retain(|definition| definition.crate_name != "proto");
    definitions
}

/// The name that the line defines with one of `keywords`, if it does.
fn defined_name<'a>(line: &'a str, keywords: &[&str]) -> Option<&'a str> {
    let mut rest = line.trim_start();
    for visibility in ["pub(crate) ", "pub(super) ", "pub "] {
        rest = rest.strip_prefix(visibility).unwrap_or(rest);
    }
    let rest = keywords.iter().find_map(|keyword| rest.strip_prefix(keyword))?;
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    Some(&rest[..end]).filter(|name| name.starts_with(char::is_uppercase))
}

/// Fields of each struct with named fields, told by indentation.
fn struct_fields(source: &Source) -> Vec<(String, usize)> {
    let mut structs = Vec::new();
    let mut open: Option<(String, usize, usize)> = None;
    for (_, line) in source.product() {
        let indent = line.len() - line.trim_start().len();
        if let Some((name, start, fields)) = &mut open {
            if line.trim_start() == "}" && indent == *start {
                structs.push((std::mem::take(name), *fields));
                open = None;
            } else if indent == *start + 4 && is_field(line) {
                *fields += 1;
            }
        } else if line.ends_with('{')
            && let Some(name) = defined_name(line, &["struct "])
        {
            open = Some((name.to_owned(), indent, 0));
        }
    }
    structs
}

fn is_field(line: &str) -> bool {
    let words = line.trim_start();
    let name = words.strip_prefix("pub(crate) ").or_else(|| words.strip_prefix("pub(super) "));
    let name = name.or_else(|| words.strip_prefix("pub ")).unwrap_or(words);
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(0);
    end > 0 && name[end..].starts_with(": ")
}

/// Lines of each impl block at the top level, by the type that it is for.
fn impl_lines(source: &Source) -> Vec<(String, usize)> {
    let mut impls = Vec::new();
    let mut open: Option<(String, usize)> = None;
    for (number, line) in source.product() {
        match &open {
            Some((name, start)) if line == "}" => {
                impls.push((name.clone(), number - start + 1));
                open = None;
            }
            None if line.starts_with("impl") && line.ends_with('{') => {
                let target = line.split(" for ").last().unwrap_or(line);
                let target = target.trim_start_matches("impl").trim_start();
                let target = target
                    .strip_prefix('<')
                    .map_or(target, |generic| generic.split_once("> ").map_or(generic, |(_, rest)| rest));
                let end = target.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(target.len());
                open = Some((target[..end].to_owned(), number));
            }
            _ => {}
        }
    }
    impls
}

/// The words of a name in camel case, in lower case.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for c in name.chars() {
        match words.last_mut() {
            Some(word) if !c.is_uppercase() => word.push(c),
            _ => words.push(c.to_lowercase().collect()),
        }
    }
    words
}

/// Words of the first column of the glossary's table.
fn glossary_words() -> Vec<String> {
    let map = fs::read_to_string(root().join("crates/README.md")).expect("the map");
    let glossary = map.split("## Glossary").nth(1).expect("the map has a glossary");
    let rows = glossary.lines().skip_while(|line| !line.starts_with('|')).skip(2);
    let terms = rows.take_while(|line| line.starts_with('|')).filter_map(|row| row.split('|').nth(1));
    terms
        .flat_map(|term| term.split([' ', ',', '`', '-', '/', '(', ')']))
        .map(str::to_lowercase)
        .filter(|word| !word.is_empty())
        .collect()
}
