//! Redrives of dead letters as messages.

use fanfare_control::{DeadLetterFilter, Redrive, RedriveKind, RedriveRequest, RedriveState};
use fanfare_proto::v1;

use crate::{
    grpc::time::{from_api, to_api},
    problem::Problem,
};

/// # Errors
/// If a time of the filter is out of range.
pub(super) fn request(
    subscription_id: String,
    kind: RedriveKind,
    filter: Option<v1::DeadLetterFilter>,
    request_id: String,
) -> Result<RedriveRequest, Problem> {
    let v1::DeadLetterFilter { ids, reasons, start_time, end_time } = filter.unwrap_or_default();
    let from = start_time.map(|time| from_api("filter.start_time", time)).transpose()?;
    let before = end_time.map(|time| from_api("filter.end_time", time)).transpose()?;
    Ok(RedriveRequest { subscription_id, kind, ids, reasons, from, before, request_id })
}

pub(super) fn message(redrive: &Redrive) -> v1::Redrive {
    let kind = match redrive.start.kind {
        RedriveKind::Deliver => v1::RedriveKind::Deliver,
        RedriveKind::Purge => v1::RedriveKind::Purge,
    };
    let state = match redrive.state {
        RedriveState::Running => v1::RedriveState::Running,
        RedriveState::Done => v1::RedriveState::Done,
        RedriveState::Cancelled => v1::RedriveState::Cancelled,
    };
    let percent = match redrive.state {
        RedriveState::Done => 100,
        RedriveState::Running | RedriveState::Cancelled => {
            let part = u128::from(redrive.position.0) * 100 / u128::from(redrive.end.0.max(1));
            u32::try_from(part).unwrap_or(100)
        }
    };
    v1::Redrive {
        id: redrive.start.id.to_string(),
        subscription_id: redrive.start.subscription.to_string(),
        kind: kind.into(),
        filter: DeadLetterFilter::of(redrive).map(filter_message),
        state: state.into(),
        progress: Some(v1::RedriveProgress {
            withdrawn_count: redrive.withdrawn,
            stayed_count: redrive.stayed,
            percent,
        }),
        create_time: Some(to_api(redrive.created)),
        update_time: Some(to_api(redrive.updated)),
        last_failure: redrive.last_failure.clone(),
    }
}

fn filter_message(filter: DeadLetterFilter) -> v1::DeadLetterFilter {
    v1::DeadLetterFilter {
        ids: filter.ids.iter().map(|id| format!("{id:032x}")).collect(),
        reasons: filter.reasons.iter().map(|reason| reason.name().to_owned()).collect(),
        start_time: filter.from.map(to_api),
        end_time: filter.before.map(to_api),
    }
}
