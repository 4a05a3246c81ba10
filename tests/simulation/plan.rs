//! The faults of one life, drawn before it begins.

use fanfare_log::memory::Failure;

use crate::{
    disk::{Moment, SimulatedDisk},
    receiver::Mood,
    retention::Retention,
    world::{Dice, End},
};

#[derive(Clone, Debug)]
pub(crate) struct LifePlan {
    pub(crate) first_mood: Mood,
    moods: &'static [Mood],
    /// None in the last life, which ends when everything is delivered.
    pub(crate) end_after_ms: Option<(u64, End)>,
    /// The life ends there, if the moment comes before.
    end_at: Option<(Moment, End)>,
    disk_fault: Option<DiskFault>,
    /// A full disk has room again after this time.
    pub(crate) room_after_ms: u64,
    /// The system moves so few bytes at a time.
    transfer_bytes_max: Option<usize>,
    /// Moves of the wall clock, in milliseconds.
    pub(crate) clock_jumps_ms: Vec<i64>,
    pub(crate) pause_ms_max: u64,
    /// The partition with a flipped bit.
    pub(crate) damaged: Option<u16>,
    /// The disk has answered a sync and lost what was to be durable.
    pub(crate) deceived: bool,
}

/// A fault of the disk after so many calls of its kind.
#[derive(Clone, Copy, Debug)]
enum DiskFault {
    Call {
        passing: u64,
    },
    Write {
        passing: u64,
        failure: Failure,
    },
    Sync {
        passing: u64,
    },
    /// A sync succeeds and makes nothing durable.
    Lie {
        passing: u64,
    },
    /// Only so much fits in any more.
    Full {
        free_bytes: u64,
    },
}

const WELL: &[Mood] = &[Mood::Well];
const FINE: &[Mood] = &[Mood::Well, Mood::Well, Mood::Shaky];
/// The receiver was repaired.
const MENDED: &[Mood] = &[Mood::Mended];
const STORMY: &[Mood] =
    &[Mood::Well, Mood::Shaky, Mood::Shaky, Mood::Failing, Mood::Throttling, Mood::Hanging, Mood::Refusing];
/// The receiver is away for a whole life: a backlog grows that retention overtakes.
const AWAY: &[Mood] = &[Mood::Failing, Mood::Refusing];
/// Parts of paths whose operations a crash may follow closely.
const PLACES: [&str; 6] = ["/files", ".seg", "/journal", "/pool", ".keys", "/logs"];

impl LifePlan {
    pub(crate) fn draw(dice: &Dice, retention: Retention) -> Self {
        let end = match dice.below(6) {
            0 => End::Stop,
            1 => End::Kill,
            _ => End::PowerLoss,
        };
        let moods = match dice.below(8) {
            _ if dice.chance(retention.away_chance()) => AWAY,
            0..5 => STORMY,
            5 => MENDED,
            _ => FINE,
        };
        let end_at = match dice.below(10) {
            _ if end == End::Stop => None,
            0..4 => Some(Moment::Operation(dice.below(2_000))),
            4..7 => Some(Moment::After { part: place(dice), passing: dice.between(1, 80) }),
            7..9 => Some(Moment::BeforeSync { part: place(dice), passing: dice.below(40) }),
            _ => None,
        };
        Self {
            first_mood: moods[0],
            moods,
            end_at: end_at.map(|moment| (moment, end.clone())),
            end_after_ms: Some((dice.between(500, retention.life_ms_max()), end)),
            disk_fault: dice.chance(30).then(|| DiskFault::draw(dice)),
            room_after_ms: dice.between(200, 4_000),
            transfer_bytes_max: dice.chance(10).then_some(4096),
            clock_jumps_ms: clock_jumps(dice, retention.clock_jump_ms_max()),
            pause_ms_max: dice.between(20, 120),
            damaged: None,
            deceived: false,
        }
    }

    /// A life in which a sync lies, before the power fails.
    pub(crate) fn lying(dice: &Dice) -> Self {
        Self {
            end_after_ms: Some((dice.between(500, 4_000), End::PowerLoss)),
            disk_fault: Some(DiskFault::Lie { passing: dice.below(400) }),
            ..Self::calm(Mood::Well, None)
        }
    }

    /// The life after that: nothing is published, because nobody can say what is there.
    pub(crate) fn deceived() -> Self {
        Self { deceived: true, ..Self::calm(Mood::Well, None) }
    }

    pub(crate) fn lies(&self) -> bool {
        matches!(self.disk_fault, Some(DiskFault::Lie { .. }))
    }

    /// The last life: nothing fails any more, but for a bit of the partition `damaged`.
    pub(crate) fn calm(mood: Mood, damaged: Option<u16>) -> Self {
        let moods = if mood == Mood::Mended { MENDED } else { WELL };
        Self {
            first_mood: mood,
            moods,
            end_after_ms: None,
            end_at: None,
            disk_fault: None,
            room_after_ms: 0,
            transfer_bytes_max: None,
            clock_jumps_ms: Vec::new(),
            pause_ms_max: 40,
            damaged,
            deceived: false,
        }
    }

    pub(crate) fn mood(&self, dice: &Dice) -> Mood {
        self.moods[usize::try_from(dice.below(self.moods.len() as u64)).expect("few moods")]
    }

    /// Sets the faults of the disk.
    pub(crate) fn arm(&self, disk: &SimulatedDisk) {
        if let Some((moment, end)) = &self.end_at {
            disk.end_at(*moment, end.clone());
        }
        let memory = disk.memory();
        match self.disk_fault {
            None => {}
            Some(DiskFault::Call { passing }) => memory.fail_call(passing, Failure::Io),
            Some(DiskFault::Write { passing, failure }) => memory.fail_write(passing, failure),
            Some(DiskFault::Sync { passing }) => memory.fail_sync(passing, Failure::Io),
            Some(DiskFault::Lie { passing }) => memory.lie_at_sync(passing),
            Some(DiskFault::Full { free_bytes }) => memory.leave_free(free_bytes),
        }
        if let Some(bytes) = self.transfer_bytes_max {
            memory.shorten_transfers(bytes);
        }
    }
}

impl DiskFault {
    fn draw(dice: &Dice) -> Self {
        let passing = dice.below(1_000);
        match dice.below(5) {
            0 => Self::Call { passing },
            1 => Self::Write { passing: passing / 2, failure: Failure::Io },
            2 => Self::Write { passing: passing / 2, failure: Failure::DiskFull },
            3 => Self::Sync { passing: passing / 2 },
            _ => Self::Full { free_bytes: dice.between(1 << 10, 3 << 20) },
        }
    }
}

fn place(dice: &Dice) -> &'static str {
    PLACES[usize::try_from(dice.below(PLACES.len() as u64)).expect("few places")]
}

fn clock_jumps(dice: &Dice, ms_max: u64) -> Vec<i64> {
    let jumps = if dice.chance(20) { dice.between(1, 2) } else { 0 };
    let jump = |_| {
        let ms = i64::try_from(dice.between(1, ms_max)).expect("a small number");
        if dice.chance(50) { ms } else { -ms }
    };
    (0..jumps).map(jump).collect()
}
