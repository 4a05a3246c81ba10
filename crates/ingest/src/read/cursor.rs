//! Position of a read in one partition.

use fanfare_catalog::Tenant;
use fanfare_model::Offset;
use fanfare_partition::{AccountFilter, Partition, Positions, ReadError, Role};
use tokio::sync::watch;

use super::{ReadFrom, ReadRefusal};

pub(super) struct Cursor {
    pub(super) partition: Partition,
    pub(super) next: Offset,
    /// High watermark at the beginning of the read: the end of a read that does not follow.
    pub(super) end: Offset,
    positions: watch::Receiver<Positions>,
}

impl Cursor {
    pub(super) async fn open(
        partition: Partition,
        tenant: Tenant,
        from: ReadFrom,
    ) -> Result<Self, ReadRefusal> {
        let positions = partition.positions();
        let Positions { log_start, high_watermark, .. } = *positions.borrow();
        let next = match from {
            ReadFrom::Earliest => log_start,
            ReadFrom::Latest => high_watermark,
            ReadFrom::Time(time) => partition.offset_at(time).await?,
            ReadFrom::Offset(offset) if offset < log_start => {
                return Err(ReadError::OutOfRange { offset, log_start }.into());
            }
            ReadFrom::Offset(requested) if requested > high_watermark => {
                return Err(ReadRefusal::OffsetAhead { requested, high_watermark });
            }
            ReadFrom::Offset(requested) => requested,
        };
        if next == high_watermark {
            // A partition whose log is damaged looks empty: only a read of it tells the two apart.
            partition.read(next, AccountFilter::One(tenant.account()), 0).await?;
        }
        Ok(Self { partition, next, end: high_watermark, positions })
    }

    pub(super) fn has_more(&self, follow: bool) -> bool {
        match follow {
            true => self.next < self.positions.borrow().high_watermark,
            false => self.next < self.end,
        }
    }

    /// Waits until the partition has more events, or has failed.
    pub(super) async fn wait_for_more(&mut self) {
        let (next, mut role) = (self.next, self.partition.role());
        let is_open = tokio::select! {
            biased;
            more = self.positions.wait_for(|positions| positions.high_watermark > next) => more.is_ok(),
            failed = role.wait_for(|role| *role == Role::Failed) => failed.is_ok(),
        };
        if !is_open {
            // The partition is gone with the node; the stop token ends this read.
            std::future::pending::<()>().await;
        }
    }
}
