//! Waits for the begin and the end of this node's leadership of a partition.

use fanfare_partition::Role;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::context::DeliveryContext;

/// The term in which this node leads. None if delivery drains, `cancel` says so, or the partition has stopped.
pub(crate) async fn gained(
    role: &mut watch::Receiver<Role>,
    context: &DeliveryContext,
    cancel: &CancellationToken,
) -> Option<u64> {
    let led = async {
        let role = role.wait_for(|role| matches!(role, Role::Leader { .. })).await;
        role.ok().map(|role| *role)
    };
    let led = tokio::select! {
        biased;
        () = cancel.cancelled() => return None,
        () = context.draining.cancelled() => return None,
        led = led => led,
    };
    match led {
        Some(Role::Leader { term }) => Some(term),
        _ => None,
    }
}

/// Ends when this node no longer leads in `term`, or the partition has stopped.
pub(crate) async fn lost(role: &mut watch::Receiver<Role>, term: u64) {
    // A leader whose lease has expired pauses; it is the same one when a quorum answers again.
    let changed = role.wait_for(|role| role.elected_term() != Some(term)).await;
    drop(changed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leadership_is_lost_with_the_term_and_not_with_the_lease() {
        let (sender, mut role) = watch::channel(Role::Leader { term: 3 });
        let mut lost = Box::pin(lost(&mut role, 3));
        let mut has_ended = || futures_util::FutureExt::now_or_never(&mut lost).is_some();
        assert!(!has_ended());
        sender.send_replace(Role::LeaseExpired { term: 3 });
        assert!(!has_ended(), "the scope pauses");
        sender.send_replace(Role::Leader { term: 3 });
        assert!(!has_ended());
        sender.send_replace(Role::LeaseExpired { term: 4 });
        assert!(has_ended());
    }
}
