//! Faults that a test asks for: each happens once, after a number of calls that pass.
use std::io;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Io,
    DiskFull,
}

impl Failure {
    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Self::Io => EIO,
            Self::DiskFull => ENOSPC,
        })
    }
}

/// Either way nothing becomes durable.
#[derive(Clone, Copy)]
pub(super) enum SyncFault {
    Fail(Failure),
    /// Succeeds all the same.
    Lie,
}

impl SyncFault {
    pub(super) fn into_result(self) -> io::Result<()> {
        match self {
            Self::Fail(failure) => Err(failure.error()),
            Self::Lie => Ok(()),
        }
    }
}

struct Pending<T> {
    passing: u64,
    fault: T,
}

#[derive(Default)]
pub(super) struct Faults {
    call: Option<Pending<Failure>>,
    write: Option<Pending<Failure>>,
    sync: Option<Pending<SyncFault>>,
}

impl Faults {
    pub(super) fn fail_call(&mut self, passing: u64, failure: Failure) {
        self.call = Some(Pending { passing, fault: failure });
    }

    pub(super) fn fail_write(&mut self, passing: u64, failure: Failure) {
        self.write = Some(Pending { passing, fault: failure });
    }

    pub(super) fn fail_sync(&mut self, passing: u64, failure: Failure) {
        self.sync = Some(Pending { passing, fault: SyncFault::Fail(failure) });
    }

    pub(super) fn lie_at_sync(&mut self, passing: u64) {
        self.sync = Some(Pending { passing, fault: SyncFault::Lie });
    }

    pub(super) fn is_pending(&self) -> bool {
        self.call.is_some() || self.write.is_some() || self.sync.is_some()
    }

    pub(super) fn check_call(&mut self) -> io::Result<()> {
        take(&mut self.call).map_or(Ok(()), |failure| Err(failure.error()))
    }

    pub(super) fn check_write(&mut self) -> io::Result<()> {
        take(&mut self.write).map_or(Ok(()), |failure| Err(failure.error()))
    }

    pub(super) fn take_sync_fault(&mut self) -> Option<SyncFault> {
        take(&mut self.sync)
    }
}

/// The fault, if it is due at this call.
fn take<T>(pending: &mut Option<Pending<T>>) -> Option<T> {
    match pending {
        Some(Pending { passing, .. }) if *passing > 0 => {
            *passing -= 1;
            None
        }
        _ => pending.take().map(|pending| pending.fault),
    }
}
