//! The part of retention that a seed decides, and what producers may expect of it.

use crate::world::Dice;

/// Length of the dedup window, below which nothing is trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retention {
    /// Longer than the simulation: every repeat is recognised, and nothing is trimmed.
    Ample,
    /// Some seconds: logs are trimmed, and retention overtakes events that are not delivered.
    Short,
}

impl Retention {
    pub(crate) fn draw(dice: &Dice) -> Self {
        if dice.chance(40) { Self::Short } else { Self::Ample }
    }

    pub(crate) fn dedup_window_ms(self) -> u64 {
        match self {
            Self::Ample => 600_000,
            Self::Short => 6_000,
        }
    }

    /// An event is not published again that was published first longer ago: the repeat must be appended within the
    /// dedup window, and a node may take a while for that.
    pub(crate) fn repeat_age_us_max(self) -> u64 {
        match self {
            Self::Ample => u64::MAX,
            Self::Short => 3_000_000,
        }
    }

    /// True if retention may overtake an event of that age.
    pub(crate) fn overtakes(self, age_ms: u64) -> bool {
        self == Self::Short && age_ms >= self.dedup_window_ms()
    }

    /// The wall clock jumps by so much at most, either way: far more than events are kept for.
    pub(crate) fn clock_jump_ms_max(self) -> u64 {
        2 * 86_400_000
    }

    /// Longest life, so that a life without a crash meets a check of retention.
    pub(crate) fn life_ms_max(self) -> u64 {
        match self {
            Self::Ample => 6_000,
            Self::Short => 9_000,
        }
    }

    /// Chance in percent that the receiver is away for a whole life.
    pub(crate) fn away_chance(self) -> u64 {
        match self {
            Self::Ample => 20,
            Self::Short => 40,
        }
    }
}
