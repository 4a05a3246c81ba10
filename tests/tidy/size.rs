//! Files and functions stay small enough to be read in one go.

use crate::source::{Source, sources};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 100;

/// Product files over the limit, each with the length it may not grow beyond.
const LONG_FILES: &[(&str, usize)] = &[];

/// Functions over the limit, by file and name.
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];

#[test]
fn files_stay_short() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let lines = source.product().count();
        let allowed =
            LONG_FILES.iter().find(|(path, _)| *path == source.path).map_or(FILE_LINES_MAX, |(_, max)| *max);
        if lines > allowed {
            wrong.push(format!("{} has {lines} lines, {allowed} are allowed", source.path));
        }
        if allowed > FILE_LINES_MAX && lines <= FILE_LINES_MAX {
            wrong.push(format!("{} is short enough now: take it off the list", source.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn functions_stay_short() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        for (name, lines) in functions(source) {
            let listed =
                LONG_FUNCTIONS.iter().find(|(path, listed, _)| *path == source.path && *listed == name);
            let allowed = listed.map_or(FUNCTION_LINES_MAX, |(_, _, max)| *max);
            if lines > allowed {
                wrong.push(format!("{}: fn {name} has {lines} lines, {allowed} are allowed", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Name and length of each function, told by its indentation: rustfmt puts the closing brace under the `fn`.
fn functions(source: &Source) -> Vec<(String, usize)> {
    let mut open: Vec<(usize, String, usize)> = Vec::new();
    let mut found = Vec::new();
    for (number, line) in source.product() {
        let indent = line.len() - line.trim_start().len();
        let words = line.trim_start();
        if let Some(name) = function_name(words)
            && !words.ends_with(';')
            && !words.ends_with('}')
        {
            open.push((indent, name.to_owned(), number));
        }
        let closes = words == "}" && open.last().is_some_and(|(start, _, _)| *start == indent);
        if closes && let Some((_, name, start)) = open.pop() {
            found.push((name, number - start + 1));
        }
    }
    found
}

#[test]
fn functions_take_no_tuples() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        for (name, signature) in signatures(source) {
            if takes_tuple(&signature) {
                wrong.push(format!("{}: fn {name} takes a tuple: give its parts names", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Name and parameters of each function.
fn signatures(source: &Source) -> Vec<(String, String)> {
    let mut signatures = Vec::new();
    let mut open: Option<(String, String)> = None;
    for (_, line) in source.product() {
        let words = line.trim_start();
        if open.is_none()
            && let Some(name) = function_name(words)
        {
            open = Some((name.to_owned(), String::new()));
        }
        let Some((_, text)) = &mut open else { continue };
        text.push_str(words);
        text.push(' ');
        if words.ends_with('{') || words.ends_with(';') || words.ends_with('}') {
            signatures.extend(open.take());
        }
    }
    signatures
}

/// True for a parameter `(a, b): (A, B)` or `pair: (A, B)`; tuples inside generics are data, not parameters.
fn takes_tuple(signature: &str) -> bool {
    let Some(start) = signature.find('(') else { return false };
    let parameters = signature[start..].split(" -> ").next().unwrap_or_default();
    parameters.match_indices(": (").any(|(at, _)| !parameters[at..].starts_with(": ()"))
}

fn function_name(words: &str) -> Option<&str> {
    let mut rest = words;
    for modifier in ["pub(crate) ", "pub(super) ", "pub ", "const ", "async ", "unsafe "] {
        rest = rest.strip_prefix(modifier).unwrap_or(rest);
    }
    rest.strip_prefix("fn ")?.split(['(', '<']).next()
}
