//! JSON Schemas as the broker understands them: compiled offline, with bounded cost.
//!
//! Registering a schema, publishing an event and delivering an event at a pinned version use the same validators, so
//! that all three agree. Nothing is fetched: a reference that leaves the document is refused.

mod cost;
mod tree;

use std::{
    collections::HashMap,
    fmt::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use fanfare_model::Data;
use jsonschema::{PatternOptions, Retrieve, Uri, ValidationError, Validator, error::ValidationErrorKind};
use parking_lot::RwLock;
use serde_json::Value;

use self::{
    cost::CostBound,
    tree::{Borrowed, ParseError, Tree},
};

/// Largest document that is compiled at all; a node may set a lower limit for what it registers.
pub const DOCUMENT_BYTES_MAX: usize = 1 << 20;
/// Deepest nesting of arrays and objects in an event's data.
pub const DATA_DEPTH_MAX: usize = 64;
/// Violations of one event that are reported.
pub const VIOLATIONS_MAX: usize = 8;

const MESSAGE_CHARS_MAX: usize = 256;
/// Most steps of one validation: about 50 ms of a core, as far as steps were measured (5 ns), and often much less.
pub const STEPS_MAX: u64 = 10_000_000;
/// Bytes of violations up to which all of them are looked for. The validator finds all before it gives the first one: at
/// most one a step, each with a copy of a part of the data.
const VIOLATIONS_BYTES_MAX: u64 = 64 << 20;
/// Compiled size of one regular expression, and of the cache it matches with.
const PATTERN_BYTES_MAX: usize = 1 << 20;
const DATASCHEMA_PREFIX: &str = "urn:fanfare:schema:";

/// The `dataschema` of events of this schema version.
#[must_use]
pub fn dataschema_uri(schema_id: &str, version: u32) -> String {
    format!("{DATASCHEMA_PREFIX}{schema_id}:{version}")
}

/// Schema id and version named by a `dataschema`; none if it is not of the form of [`dataschema_uri`].
#[must_use]
pub fn parse_dataschema(dataschema: &str) -> Option<(&str, u32)> {
    let (schema_id, version) = dataschema.strip_prefix(DATASCHEMA_PREFIX)?.rsplit_once(':')?;
    let canonical = version.starts_with(|first: char| ('1'..='9').contains(&first));
    let version = version.parse().ok().filter(|_| canonical && !schema_id.is_empty())?;
    Some((schema_id, version))
}

/// The defect of a document that cannot be registered as a schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaProblem {
    #[error("the document has {size_bytes} bytes; at most {limit_bytes} are allowed")]
    TooLarge { size_bytes: usize, limit_bytes: usize },
    #[error("the document is not JSON: {message}")]
    NotJson { message: String },
    #[error("the document refers to {uri:?}, which is outside of it; copy what it refers to into $defs")]
    RemoteReference { uri: String },
    #[error("the document refers to what it does not contain: {message}")]
    DanglingReference { message: String },
    #[error("validating data with the document may take too long: {why}")]
    TooCostly { why: String },
    /// `pointer` is a JSON pointer into the document.
    #[error("the document is not a valid JSON Schema at {pointer:?}: {message}")]
    Invalid { pointer: String, message: String },
}

/// One violation of a schema by data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// JSON pointer into the data; empty for the whole.
    pub pointer: String,
    /// One line, of bounded length.
    pub message: String,
}

/// The reason for which data is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataProblem {
    #[error("the event has no data, but its type has a schema")]
    Missing,
    #[error("the data is not JSON: {message}")]
    NotJson { message: String },
    #[error("the data is nested deeper than {DATA_DEPTH_MAX} levels")]
    TooDeep,
    #[error(
        "validating the data with its schema may take {steps} steps, and {STEPS_MAX} are allowed: send less data in one \
         event, or a schema with fewer alternatives"
    )]
    TooCostly { steps: u64 },
    /// At least one, at most [`VIOLATIONS_MAX`].
    #[error("the data violates its schema at {:?}: {}", .0[0].pointer, .0[0].message)]
    Violations(Vec<Violation>),
}

/// A schema document ready to validate. Formats are checked, in every draft.
pub struct CompiledSchema {
    validator: Validator<Borrowed>,
    cost: CostBound,
    /// Does the document contain `anyOf` or `oneOf`? Their one violation holds all violations of all branches.
    has_branches: bool,
}

/// Compiles a document. Patterns must be of the linear-time kind: no look-around, no back-references.
///
/// Takes time in proportion to the document: off the async threads for documents of tenants.
///
/// # Errors
/// If the document is too large, no JSON, no schema, refers to anything outside itself, or may take too long to compile or
/// to validate ordinary data.
pub fn compile(document: &str) -> Result<CompiledSchema, SchemaProblem> {
    if document.len() > DOCUMENT_BYTES_MAX {
        return Err(SchemaProblem::TooLarge { size_bytes: document.len(), limit_bytes: DOCUMENT_BYTES_MAX });
    }
    let schema = serde_json::from_str::<Value>(document)
        .map_err(|error| SchemaProblem::NotJson { message: one_line(&error) })?;
    // Before it is compiled: that may take for ever, too.
    let cost =
        CostBound::of(&schema).map_err(|excess| SchemaProblem::TooCostly { why: excess.to_string() })?;
    let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX);
    let validator = jsonschema::options_for::<Borrowed>()
        .with_retriever(NothingOutside)
        .with_pattern_options(patterns)
        .should_validate_formats(true)
        .build(&schema)
        .map_err(|error| schema_problem(&error))?;
    if let Some(reference) = &cost.unresolved {
        let why =
            format!("{reference:?} is not found; refer to it by its JSON pointer, such as #/$defs/NAME");
        return Err(SchemaProblem::TooCostly { why });
    }
    let has_branches = has_branches(&schema);
    Ok(CompiledSchema { validator, cost, has_branches })
}

impl CompiledSchema {
    /// # Errors
    /// If the data is not JSON or violates the schema.
    pub fn validate(&self, data: Data<'_>) -> Result<(), DataProblem> {
        let json = match data {
            Data::Text(text) => text,
            Data::Binary(bytes) => {
                str::from_utf8(bytes).map_err(|error| DataProblem::NotJson { message: one_line(&error) })?
            }
            Data::None => return Err(DataProblem::Missing),
            Data::Proto(_) => {
                return Err(DataProblem::NotJson { message: "it is a protobuf message".to_owned() });
            }
        };
        let value = Tree::parse(json, DATA_DEPTH_MAX).map_err(|error| match error {
            ParseError::NotJson(error) => DataProblem::NotJson { message: one_line(&error) },
            ParseError::TooDeep => DataProblem::TooDeep,
        })?;
        let steps = self.steps(&value, json.len());
        if steps > STEPS_MAX {
            return Err(DataProblem::TooCostly { steps });
        }
        if self.validator.is_valid(&value) {
            return Ok(());
        }
        let violations = self.violations(&value, steps.saturating_mul(json.len() as u64));
        // Validity and violations come from two walks of the same value. If the second finds nothing the event is still
        // refused.
        match violations.is_empty() {
            true => Err(DataProblem::Violations(vec![Violation {
                pointer: String::new(),
                message: "the data does not match; it or the schema is too large to tell where".to_owned(),
            }])),
            false => Err(DataProblem::Violations(violations)),
        }
    }

    /// Most steps of the validation. Data that is small enough at a glance is not looked at.
    fn steps(&self, value: &Tree<'_>, data_bytes: usize) -> u64 {
        let at_a_glance = self.cost.of_bytes(data_bytes);
        if at_a_glance <= STEPS_MAX { at_a_glance } else { self.cost.of_data(&value.size()) }
    }

    /// The first violations, within bounded memory: all that fit, else the first one, or none where the validator would
    /// collect many for it.
    fn violations(&self, value: &Tree<'_>, violations_bytes: u64) -> Vec<Violation> {
        if violations_bytes <= VIOLATIONS_BYTES_MAX {
            return self.validator.iter_errors(value).take(VIOLATIONS_MAX).map(violation).collect();
        }
        match self.has_branches {
            true => Vec::new(),
            false => self.validator.validate(value).err().map(violation).into_iter().collect(),
        }
    }
}

/// A name of a property counts too: the answer may be yes for a document without branches, never the reverse.
fn has_branches(schema: &Value) -> bool {
    match schema {
        Value::Object(members) => members
            .iter()
            .any(|(name, member)| matches!(name.as_str(), "anyOf" | "oneOf") || has_branches(member)),
        Value::Array(items) => items.iter().any(has_branches),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

impl fmt::Debug for CompiledSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledSchema").field("draft", &self.validator.draft()).finish_non_exhaustive()
    }
}

/// Schemas compiled once and kept while they are in use, up to a number of document bytes.
///
/// The key is the document's address, which the entry keeps alive. So a schema that was deleted and registered again
/// under the same name never gets the validator of the old one.
#[derive(Debug)]
pub struct SchemaCache {
    document_bytes_max: usize,
    entries: RwLock<Entries>,
    clock: AtomicU64,
}

#[derive(Debug, Default)]
struct Entries {
    by_address: HashMap<usize, Entry>,
    document_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    document: Arc<str>,
    compiled: Arc<CompiledSchema>,
    last_used: AtomicU64,
}

impl SchemaCache {
    #[must_use]
    pub fn new(document_bytes_max: usize) -> Self {
        Self { document_bytes_max, entries: RwLock::default(), clock: AtomicU64::new(0) }
    }

    /// The cached validator, if there is one. Cheap.
    #[must_use]
    pub fn cached(&self, document: &Arc<str>) -> Option<Arc<CompiledSchema>> {
        let entries = self.entries.read();
        let entry = entries.by_address.get(&address(document))?;
        entry.last_used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        Some(entry.compiled.clone())
    }

    /// The cached validator, or a new one, which takes as long as [`compile`].
    ///
    /// # Errors
    /// As [`compile`]. Registered documents were compiled once before, so they do not fail.
    pub fn compiled(&self, document: &Arc<str>) -> Result<Arc<CompiledSchema>, SchemaProblem> {
        if let Some(compiled) = self.cached(document) {
            return Ok(compiled);
        }
        let compiled = Arc::new(compile(document)?);
        let last_used = AtomicU64::new(self.clock.fetch_add(1, Ordering::Relaxed));
        let entry = Entry { document: document.clone(), compiled: compiled.clone(), last_used };
        self.entries.write().insert(entry, self.document_bytes_max);
        Ok(compiled)
    }
}

impl Entries {
    fn insert(&mut self, entry: Entry, document_bytes_max: usize) {
        while !self.by_address.is_empty() && self.document_bytes + entry.document.len() > document_bytes_max {
            self.remove_oldest();
        }
        self.document_bytes += entry.document.len();
        if let Some(replaced) = self.by_address.insert(address(&entry.document), entry) {
            self.document_bytes -= replaced.document.len();
        }
    }

    fn remove_oldest(&mut self) {
        let oldest = self
            .by_address
            .iter()
            .min_by_key(|(_, entry)| entry.last_used.load(Ordering::Relaxed))
            .map(|(&key, _)| key);
        if let Some(removed) = oldest.and_then(|key| self.by_address.remove(&key)) {
            self.document_bytes -= removed.document.len();
        }
    }
}

fn address(document: &Arc<str>) -> usize {
    Arc::as_ptr(document).addr()
}

/// Refuses every resource that is not in the document itself.
struct NothingOutside;

impl Retrieve for NothingOutside {
    fn retrieve(&self, _: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Err("references outside the document are not followed".into())
    }
}

fn schema_problem(error: &ValidationError<'_>) -> SchemaProblem {
    use jsonschema::ReferencingError;
    match error.kind() {
        ValidationErrorKind::Referencing(
            ReferencingError::Unretrievable { uri, .. }
            | ReferencingError::UnknownSpecification { specification: uri },
        ) => SchemaProblem::RemoteReference { uri: uri.chars().take(MESSAGE_CHARS_MAX).collect() },
        ValidationErrorKind::Referencing(error) => {
            SchemaProblem::DanglingReference { message: one_line(error) }
        }
        _ => SchemaProblem::Invalid {
            pointer: error.instance_path().as_str().to_owned(),
            message: one_line(error),
        },
    }
}

fn violation(error: ValidationError<'_>) -> Violation {
    Violation { pointer: error.instance_path().as_str().to_owned(), message: one_line(&error) }
}

/// The text of `display` without control characters, cut to a bounded length while it is written.
fn one_line(display: &dyn fmt::Display) -> String {
    let mut line = Line { text: String::new(), room: MESSAGE_CHARS_MAX };
    if write!(line, "{display}").is_err() {
        line.text.push('…');
    }
    line.text
}

struct Line {
    text: String,
    room: usize,
}

impl Write for Line {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for character in part.chars() {
            self.room = self.room.checked_sub(1).ok_or(fmt::Error)?;
            self.text.push(if character.is_control() { ' ' } else { character });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
