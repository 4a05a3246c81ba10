//! The faults of one seed, drawn before each life.

use crate::{
    disk::SimulatedDisk,
    receiver::Mood,
    world::{Dice, End, World},
};

#[derive(Clone, Debug)]
pub(crate) struct LifePlan {
    pub(crate) first_mood: Mood,
    moods: &'static [Mood],
    /// None in the last life, which ends when everything is delivered.
    pub(crate) end_after_ms: Option<(u64, End)>,
    /// The life ends before the disk operation of this number, if it comes first.
    end_at_operation: Option<(u64, End)>,
    pub(crate) pause_ms_max: u64,
}

const STORMY: &[Mood] =
    &[Mood::Well, Mood::Shaky, Mood::Shaky, Mood::Failing, Mood::Throttling, Mood::Hanging, Mood::Refusing];

impl LifePlan {
    pub(crate) fn draw(dice: &Dice) -> Self {
        let end = match dice.below(6) {
            0 => End::Stop,
            1 => End::Kill,
            _ => End::PowerLoss,
        };
        let by_operation = end != End::Stop && dice.chance(70);
        Self {
            first_mood: if dice.chance(50) { Mood::Well } else { Mood::Shaky },
            moods: if dice.chance(60) { STORMY } else { &[Mood::Well, Mood::Shaky] },
            end_at_operation: by_operation.then(|| (dice.below(2_000), end.clone())),
            end_after_ms: Some((dice.between(500, 6_000), end)),
            pause_ms_max: dice.between(5, 80),
        }
    }

    /// The last life: nothing fails any more.
    pub(crate) fn calm() -> Self {
        Self {
            first_mood: Mood::Well,
            moods: &[Mood::Well],
            end_after_ms: None,
            end_at_operation: None,
            pause_ms_max: 40,
        }
    }

    pub(crate) fn mood(&self, dice: &Dice) -> Mood {
        self.moods[usize::try_from(dice.below(self.moods.len() as u64)).expect("few moods")]
    }

    /// Sets the faults of the disk.
    pub(crate) fn arm(&self, _world: &World, disk: &SimulatedDisk) {
        if let Some((operation, end)) = &self.end_at_operation {
            disk.end_after(*operation, end.clone());
        }
    }
}
