//! Words that do not belong: in names, in code, in comments.

use crate::source::{Source, files, root, sources};

struct Rule {
    why: &'static str,
    words: &'static [&'static str],
    /// Path parts where the words are fine.
    except: &'static [&'static str],
}

const BANNED: &[Rule] = &[
    Rule {
        why: "memory is the backpressure: bound the queue",
        words: &["unbounded_channel", "mpsc::unbounded", "std::sync::mpsc::channel"],
        except: &[],
    },
    Rule {
        why: "failures of a detached task vanish: spawn through a TaskTracker",
        words: &["tokio::spawn(", "tokio::task::spawn(", "task::spawn_local("],
        except: &["crates/environment/src/simulated.rs"],
    },
    Rule {
        why: "threads are started through the environment",
        words: &["std::thread::spawn", "thread::Builder"],
        except: &["crates/environment/"],
    },
    Rule {
        why: "blocking files belong to the log, and to the composition root and the client",
        words: &["std::fs::", "use std::fs", "tokio::fs"],
        except: &[
            "crates/log/",
            "crates/server/",
            "crates/cli/",
            "crates/proto/build.rs",
            "crates/catalog/src/view_store",
            "tests/src/",
        ],
    },
    Rule {
        why: "unfinished work is not shipped",
        words: &[
            "todo!(",
            "unimplemented!(",
            "TODO",
            "FIXME",
            "XXX",
            "for now",
            "in a real ",
            "placeholder",
            "simplified",
        ],
        except: &[],
    },
    Rule {
        why: "a caller must be able to tell retry, fix and stop",
        words: &[
            "Other(String)",
            "Internal(String)",
            "Unknown(String)",
            "Generic(String)",
            "Result<(), String>",
            "&'static str>;",
        ],
        except: &[],
    },
    Rule { why: "no banners", words: &["// ---", "// ===", "// ***"], except: &[] },
];

/// Names that a deterministic state machine must not use.
const NONDETERMINISTIC: &[&str] =
    &["SystemTime", "Instant", "rand::", "HashMap", "HashSet", "f32", "f64", "std::env", "now()"];

const VAGUE_NAMES: &[&str] =
    &["util", "utils", "helper", "helpers", "common", "misc", "manager", "impls", "types", "models", "base"];

#[test]
fn banned_words_stay_out() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        for rule in BANNED.iter().filter(|rule| !rule.except.iter().any(|part| source.path.starts_with(part)))
        {
            for (number, line) in source.product() {
                if let Some(word) = rule.words.iter().find(|word| line.contains(**word)) {
                    wrong.push(format!("{}:{number}: `{word}`: {}", source.path, rule.why));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn state_machines_are_deterministic() {
    let is_state = |source: &&Source| {
        let replicated = ["partition", "catalog"].contains(&source.crate_name().unwrap_or_default())
            && (source.path.ends_with("/state.rs") || source.path.contains("/state/"));
        let of_delivery = ["crates/delivery/src/subscription/", "crates/delivery/src/judgement.rs"];
        let machine = replicated || of_delivery.iter().any(|path| source.path.starts_with(path));
        machine && !source.is_test()
    };
    let sources = sources();
    let machines: Vec<&Source> = sources.iter().filter(is_state).collect();
    assert!(machines.len() >= 2, "the state machines of partition and catalog were not found");
    let mut wrong = Vec::new();
    for source in machines {
        for (number, line) in source.product().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            if let Some(word) = NONDETERMINISTIC.iter().find(|word| line.contains(**word)) {
                wrong.push(format!("{}:{number}: `{word}`", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn tests_wait_for_conditions_and_never_sleep() {
    let mut wrong = Vec::new();
    // Paused time: a sleep there is a step of the simulation.
    let paused = ["tests/tidy/", "tests/simulation/", "crates/environment/"];
    for source in sources().iter().filter(|source| !paused.iter().any(|path| source.path.starts_with(path))) {
        for (number, line) in source.tests() {
            if line.contains("sleep(") || line.contains("#[ignore") {
                wrong.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_say_what_they_hold() {
    let vague: Vec<String> = sources()
        .iter()
        .filter(|source| source.path.split(['/', '.']).any(|part| VAGUE_NAMES.contains(&part)))
        .map(|source| source.path.clone())
        .collect();
    assert!(vague.is_empty(), "{}", vague.join("\n"));
}

#[test]
fn every_module_says_what_it_owns() {
    let silent: Vec<String> = sources()
        .iter()
        .filter(|source| !source.is_test() && !source.text.starts_with("//!"))
        .map(|source| source.path.clone())
        .collect();
    assert!(silent.is_empty(), "no `//!` at the top of\n{}", silent.join("\n"));
}

/// Openings that hide the subject of a sentence.
const FREE_RELATIVES: &[&str] = &["What", "Who", "Whoever", "Whose", "Whether", "Of"];

#[test]
fn comments_open_with_a_subject() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let mut in_comment = false;
        for (number, line) in source.product() {
            let text = line.trim_start();
            let comment = ["/// ", "//! ", "// "].iter().find_map(|marker| text.strip_prefix(marker));
            if let Some(comment) = comment
                && !in_comment
                && FREE_RELATIVES.contains(&comment.split(' ').next().unwrap_or_default())
            {
                wrong.push(format!("{}:{number}: {comment}", source.path));
            }
            in_comment = comment.is_some();
        }
    }
    assert!(wrong.is_empty(), "begin with the subject:\n{}", wrong.join("\n"));
}

#[test]
fn the_project_speaks_of_itself_only() {
    let foreign = [
        concat!("/wo", "rk/"),
        concat!("claude", ".ai"),
        concat!("this ", "session"),
        concat!("the ", "issue says"),
    ];
    let mut wrong = Vec::new();
    let folders = ["crates", "tests", "benches", "deploy", "proto", "docs"];
    for extension in ["rs", "md", "toml", "proto", "yaml", "py", "sh"] {
        for path in files(&folders, extension) {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if let Some(word) = foreign.iter().find(|word| text.contains(**word)) {
                wrong.push(format!("{}: {word}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn links_of_the_documents_lead_somewhere() {
    let mut dead = Vec::new();
    let documents = ["README.md", "crates/README.md", "crates/DECISIONS.md"];
    for document in documents {
        let path = root().join(document);
        let text = std::fs::read_to_string(&path).expect("a document");
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.starts_with("http")) {
            if !path.parent().expect("a folder").join(target).exists() {
                dead.push(format!("{document}: {target}"));
            }
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}
