//! Work of matching a regular expression.

/// States of a compiled pattern, about, at its limit of size.
const PATTERN_STATES_MAX: u64 = 32_768;
/// States of a class of characters beyond ASCII.
const CLASS_STATES: u64 = 16;
/// Steps of one state of a pattern for a unit of text.
const STATE_STEPS: u64 = 10;

/// Steps of a pattern for a unit of text. A pattern may be of the kind whose table of states grows without end; the matcher
/// then looks at each state of the pattern for each byte.
pub(super) fn pattern_steps(pattern: &str) -> u64 {
    4 + pattern_states(pattern) * STATE_STEPS
}

/// States of the compiled pattern, about.
pub(super) fn pattern_states(pattern: &str) -> u64 {
    // By open group: states before the last atom, and those of the last atom.
    let mut groups: Vec<[u64; 2]> = vec![[0, 0]];
    let mut characters = pattern.chars().peekable();
    let atom = |groups: &mut Vec<[u64; 2]>, states: u64| {
        if let Some([before, last]) = groups.last_mut() {
            *before = before.saturating_add(*last).min(PATTERN_STATES_MAX);
            *last = states;
        }
    };
    while let Some(character) = characters.next() {
        match character {
            '(' => groups.push([0, 0]),
            ')' => {
                let group = if groups.len() > 1 { groups.pop() } else { None };
                atom(&mut groups, group.map_or(1, |[before, last]| before + last));
            }
            '[' => {
                let mut states = 4;
                while let Some(inner) = characters.next().filter(|&inner| inner != ']') {
                    let is_wide = inner == '^' || inner == '\\' || !inner.is_ascii();
                    states += if is_wide { CLASS_STATES } else { 0 };
                    if inner == '\\' {
                        characters.next();
                    }
                }
                atom(&mut groups, states);
            }
            '\\' => {
                let is_class = characters.next().is_some_and(|class| "dDwWsSpP".contains(class));
                atom(&mut groups, if is_class { CLASS_STATES } else { 1 });
            }
            '.' => atom(&mut groups, 3),
            '{' => {
                let inside: String =
                    std::iter::from_fn(|| characters.next_if(|&inside| inside != '}')).collect();
                characters.next_if_eq(&'}');
                let most = inside.split(',').filter_map(|number| number.trim().parse::<u64>().ok()).max();
                if let Some([_, last]) = groups.last_mut() {
                    *last = last.saturating_mul(most.unwrap_or(1).max(1)).min(PATTERN_STATES_MAX);
                }
            }
            _ => atom(&mut groups, 1),
        }
    }
    let states = groups.iter().flatten().fold(0_u64, |sum, &states| sum.saturating_add(states));
    states.min(PATTERN_STATES_MAX)
}
