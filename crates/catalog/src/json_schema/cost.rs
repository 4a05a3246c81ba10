//! Upper bound of the work of validation, computed from the document alone. Pure.
//!
//! The validator has no limit of steps and cannot be interrupted, so that nothing may reach it whose end is not known. A
//! step is one keyword on one value; a value counts once, and once more for each [`UNIT_BYTES`] of text.
//!
//! A subschema is applied to a value in place (`$ref`, `allOf`, `anyOf`, ...) or to its children (`properties`, `items`,
//! ...). The steps that fall to one value `k` levels below the root are at most
//!
//! ```text
//! level 0: own + sum of level 0 of the subschemas in place
//! level k:       sum of level k of those in place + level k - 1 of those for children
//! ```
//!
//! where of the subschemas for children one of `properties`, `additionalProperties` or `items` counts, the costliest, and
//! every `patternProperties`, `contains`, `propertyNames` and `unevaluated*`. So a document of `n` subschemas takes
//! `n * DATA_DEPTH_MAX` additions, whatever its references multiply.

mod graph;
mod pattern;

use std::fmt;

use serde_json::Value;

use self::graph::Graph;
use super::DATA_DEPTH_MAX;

/// Subschemas of one document, those that are referred to counted once.
pub(super) const SUBSCHEMAS_MAX: usize = 20_000;
/// Work of compiling a document, in subschemas compiled.
pub(super) const COMPILED_MAX: u64 = 200_000;
/// Steps for a value without children: no value is cheaper.
pub(super) const FLAT_STEPS_MAX: u64 = 400_000;
/// Steps for a value among others of [`NESTED_LEVELS`] levels.
pub(super) const NESTED_STEPS_MAX: u64 = 1_000_000;
/// Levels of ordinary data.
pub(super) const NESTED_LEVELS: usize = 4;
/// Bytes of text that count like a value.
const UNIT_BYTES: u64 = 16;
/// Widths for which the bound of a document with `unevaluated*` is computed: powers of this.
const WIDTH_FACTOR: u64 = 8;
const WIDTHS: usize = 8;

/// The limit that a document exceeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    Subschemas,
    Compiled {
        subschemas: u64,
    },
    Flat {
        steps: u64,
    },
    Nested {
        steps: u64,
    },
    /// A value would be validated by the subschema at `pointer` again and again.
    Endless {
        pointer: String,
    },
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subschemas => write!(f, "there are more than {SUBSCHEMAS_MAX} subschemas"),
            Self::Compiled { subschemas } => write!(
                f,
                "unevaluatedProperties or unevaluatedItems make {subschemas} subschemas of those in place, and \
                 {COMPILED_MAX} are allowed; use additionalProperties or fewer references"
            ),
            Self::Flat { steps } => write!(
                f,
                "one value may take {steps} steps, and {FLAT_STEPS_MAX} are allowed; use fewer alternatives and references"
            ),
            Self::Nested { steps } => write!(
                f,
                "a value among {NESTED_LEVELS} levels may take {steps} steps, and {NESTED_STEPS_MAX} are allowed; use fewer \
                 alternatives that apply to the same member"
            ),
            Self::Endless { pointer } => {
                write!(
                    f,
                    "the subschema at {pointer:?} refers to itself for the same value; let it refer to a member"
                )
            }
        }
    }
}

/// Bounds of the steps of a document.
#[derive(Debug)]
pub(super) struct CostBound {
    /// By width of data.
    tables: Vec<StepTable>,
    /// A reference that is not known to lead anywhere.
    pub(super) unresolved: Option<String>,
}

/// Bounds for data of a width.
#[derive(Debug)]
struct StepTable {
    /// By level below the root: steps that fall to one value there.
    by_level: Vec<u64>,
    /// By depth of data: steps that fall to each value besides.
    deep: Vec<u64>,
}

/// Size of data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DataSize {
    /// Values, and units of text, by level below the root.
    units: [u64; DATA_DEPTH_MAX + 1],
    /// Most children of one value.
    width: u64,
}

impl Default for DataSize {
    fn default() -> Self {
        Self { units: [0; DATA_DEPTH_MAX + 1], width: 1 }
    }
}

impl DataSize {
    /// Adds a value of `text_bytes`, its name among them, with so many children.
    pub(super) fn add(&mut self, level: usize, text_bytes: usize, children: usize) {
        if let Some(units) = self.units.get_mut(level) {
            *units += 1 + text_bytes as u64 / UNIT_BYTES;
        }
        self.width = self.width.max(children as u64);
    }
}

impl CostBound {
    /// The bound of a document.
    ///
    /// # Errors
    /// If compiling the document or validating ordinary data may take too long.
    pub(super) fn of(schema: &Value) -> Result<Self, Excess> {
        let mut graph = Graph::new(schema);
        graph.build(schema)?;
        let order = graph.in_place_order()?;
        let compiled = graph.compiled(&order);
        if compiled > COMPILED_MAX {
            return Err(Excess::Compiled { subschemas: compiled });
        }
        let widths = if graph.nodes.iter().any(|node| node.evaluates) { WIDTHS } else { 1 };
        let widths = (0..u32::try_from(widths).unwrap_or(1)).map(|power| WIDTH_FACTOR.pow(power));
        let tables: Vec<StepTable> = widths.map(|width| graph.steps(&order, width)).collect();
        let narrow = &tables[0];
        if narrow.by_level[0] > FLAT_STEPS_MAX {
            return Err(Excess::Flat { steps: narrow.by_level[0] });
        }
        let nested = narrow.most(NESTED_LEVELS);
        if nested > NESTED_STEPS_MAX {
            return Err(Excess::Nested { steps: nested });
        }
        Ok(Self { tables, unresolved: graph.unresolved })
    }

    /// Most steps that data of so many bytes can take. Needs no look at the data, and is far above the truth.
    pub(super) fn of_bytes(&self, bytes: usize) -> u64 {
        let bytes = bytes as u64;
        // A value takes two bytes at least, with the comma.
        let units = bytes / 2 + 1 + bytes / UNIT_BYTES;
        self.table(bytes / 2).most(DATA_DEPTH_MAX).saturating_mul(units)
    }

    /// Most steps that data of this size can take.
    pub(super) fn of_data(&self, size: &DataSize) -> u64 {
        let table = self.table(size.width);
        let depth = size.units.iter().rposition(|units| *units > 0).unwrap_or(0);
        let units: u64 = size.units.iter().sum();
        let by_level = size.units.iter().zip(&table.by_level);
        by_level.fold(table.deep[depth].saturating_mul(units), |sum, (units, steps)| {
            sum.saturating_add(units.saturating_mul(*steps))
        })
    }

    /// The table for data of at least this width.
    fn table(&self, width: u64) -> &StepTable {
        let powers = 0..u32::try_from(self.tables.len()).unwrap_or(1);
        let wide_enough = self.tables.iter().zip(powers).find(|(_, power)| WIDTH_FACTOR.pow(*power) >= width);
        wide_enough.map_or(&self.tables[self.tables.len() - 1], |(table, _)| table)
    }
}

impl StepTable {
    /// Most steps for one value of data of so many levels.
    fn most(&self, depth: usize) -> u64 {
        let by_level = self.by_level[..=depth].iter().max().copied().unwrap_or(0);
        by_level.saturating_add(self.deep[depth])
    }
}

#[cfg(test)]
mod tests;
