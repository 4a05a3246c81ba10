//! `fanfare.v1.SubscriptionService`.

use fanfare_control::{
    DeliveryState, RedriveControl, Resource, Selector, SelectorVersion, SubscriptionSettings,
    SubscriptionStats, SubscriptionStatus,
};
use fanfare_model::{StartAt, SubscribedType, Subscription};
use fanfare_proto::v1::{self, selector::Version};
use tonic::{Request, Response, Status};

use super::{ControlServices, open, required, update_mask::UpdateMask};
use crate::{
    grpc::time::{from_api, to_api},
    page::PagedList,
    problem::Problem,
};

/// Paths that an update may name.
const FIELDS: [&str; 3] = ["description", "sink_id", "selectors"];

#[tonic::async_trait]
impl v1::subscription_service_server::SubscriptionService for ControlServices {
    async fn create_subscription(
        &self,
        request: Request<v1::CreateSubscriptionRequest>,
    ) -> Result<Response<v1::CreateSubscriptionResponse>, Status> {
        use v1::create_subscription_request::From;
        let (tenant, request) = open(request)?;
        let control = self.once(tenant, &request);
        let v1::CreateSubscriptionRequest { subscription, from, .. } = request;
        let start = match from {
            None | Some(From::Earliest(false)) => StartAt::Next,
            Some(From::Earliest(true)) => StartAt::Earliest,
            Some(From::Time(time)) => StartAt::Time(from_api("time", time)?),
        };
        let settings = settings(required("subscription", subscription)?);
        let created = control.create_subscription(tenant, settings, start).await;
        let subscription = Some(to_message(&created.map_err(Problem::from)?));
        Ok(Response::new(v1::CreateSubscriptionResponse { subscription }))
    }

    async fn get_subscription(
        &self,
        request: Request<v1::GetSubscriptionRequest>,
    ) -> Result<Response<v1::GetSubscriptionResponse>, Status> {
        let (tenant, request) = open(request)?;
        let subscription = self.control.subscription(tenant, &request.id).map_err(Problem::from)?;
        Ok(Response::new(v1::GetSubscriptionResponse { subscription: Some(to_message(&subscription)) }))
    }

    async fn list_subscriptions(
        &self,
        request: Request<v1::ListSubscriptionsRequest>,
    ) -> Result<Response<v1::ListSubscriptionsResponse>, Status> {
        let (tenant, v1::ListSubscriptionsRequest { page_size, page_token }) = open(request)?;
        let list = PagedList::new("subscriptions");
        let page = list.request(page_size, &page_token)?;
        let listed = self.control.list_subscriptions(tenant, &page).map_err(Problem::from)?;
        Ok(Response::new(v1::ListSubscriptionsResponse {
            subscriptions: listed.items.iter().map(to_message).collect(),
            next_page_token: list.token(listed.next),
        }))
    }

    async fn update_subscription(
        &self,
        request: Request<v1::UpdateSubscriptionRequest>,
    ) -> Result<Response<v1::UpdateSubscriptionResponse>, Status> {
        let (tenant, request) = open(request)?;
        let mask = UpdateMask::read(request.update_mask, &FIELDS)?;
        let given = required("subscription", request.subscription)?;
        let change = |stored: &Subscription| settings(merged(&mask, stored_message(stored), given.clone()));
        let updated = self.control.update_subscription(tenant, &given.id, &given.etag, change).await;
        let subscription = Some(to_message(&updated.map_err(Problem::from)?));
        Ok(Response::new(v1::UpdateSubscriptionResponse { subscription }))
    }

    async fn delete_subscription(
        &self,
        request: Request<v1::DeleteSubscriptionRequest>,
    ) -> Result<Response<v1::DeleteSubscriptionResponse>, Status> {
        let (tenant, request) = open(request)?;
        let v1::DeleteSubscriptionRequest { id, etag } = request;
        let confirmed = self.control.delete_subscription(tenant, &id, &etag).await;
        let reconciling = !confirmed.map_err(Problem::from)?;
        Ok(Response::new(v1::DeleteSubscriptionResponse { reconciling }))
    }

    async fn pause_subscription(
        &self,
        request: Request<v1::PauseSubscriptionRequest>,
    ) -> Result<Response<v1::PauseSubscriptionResponse>, Status> {
        let (tenant, request) = open(request)?;
        let control = self.once(tenant, &request);
        let paused = control.pause_subscription(tenant, &request.id, &request.etag).await;
        let subscription = Some(to_message(&paused.map_err(Problem::from)?));
        Ok(Response::new(v1::PauseSubscriptionResponse { subscription }))
    }

    async fn resume_subscription(
        &self,
        request: Request<v1::ResumeSubscriptionRequest>,
    ) -> Result<Response<v1::ResumeSubscriptionResponse>, Status> {
        let (tenant, request) = open(request)?;
        let control = self.once(tenant, &request);
        let resumed = control.resume_subscription(tenant, &request.id, &request.etag).await;
        let subscription = Some(to_message(&resumed.map_err(Problem::from)?));
        Ok(Response::new(v1::ResumeSubscriptionResponse { subscription }))
    }

    async fn get_subscription_stats(
        &self,
        request: Request<v1::GetSubscriptionStatsRequest>,
    ) -> Result<Response<v1::GetSubscriptionStatsResponse>, Status> {
        let (tenant, request) = open(request)?;
        let stats = self.control.subscription_stats(tenant, &request.id).map_err(Problem::from)?;
        let withdrawals =
            RedriveControl::new(&self.control).withdrawals(tenant, &request.id).map_err(Problem::from)?;
        let (redriven, purged) = (withdrawals.redriven, withdrawals.purged);
        Ok(Response::new(v1::GetSubscriptionStatsResponse { redriven, purged, ..stats_message(stats) }))
    }
}

/// `stored` with the fields of `given` that the mask covers.
fn merged(mask: &UpdateMask, mut stored: v1::Subscription, given: v1::Subscription) -> v1::Subscription {
    mask.assign("description", &mut stored.description, given.description);
    mask.assign("sink_id", &mut stored.sink_id, given.sink_id);
    mask.assign("selectors", &mut stored.selectors, given.selectors);
    stored
}

fn settings(subscription: v1::Subscription) -> SubscriptionSettings {
    let selector = |selector: v1::Selector| Selector {
        event_type: selector.r#type,
        version: match selector.version {
            None => SelectorVersion::Latest,
            Some(Version::SchemaVersion(version)) => SelectorVersion::Pinned(version),
            Some(Version::AsPublished(())) => SelectorVersion::AsPublished,
        },
    };
    SubscriptionSettings {
        description: subscription.description,
        sink_id: subscription.sink_id,
        selectors: subscription.selectors.into_iter().map(selector).collect(),
    }
}

fn to_message(status: &SubscriptionStatus) -> v1::Subscription {
    v1::Subscription { reconciling: status.reconciling, ..stored_message(&status.subscription) }
}

fn stored_message(subscription: &Subscription) -> v1::Subscription {
    let selector = |chosen: &SubscribedType| v1::Selector {
        r#type: chosen.event_type.clone(),
        version: Some(chosen.schema_version.map_or(Version::AsPublished(()), Version::SchemaVersion)),
    };
    v1::Subscription {
        id: subscription.id.to_string(),
        description: subscription.description.clone(),
        sink_id: subscription.sink.to_string(),
        selectors: subscription.types.iter().map(selector).collect(),
        paused: subscription.paused,
        create_time: Some(to_api(subscription.created)),
        update_time: Some(to_api(subscription.updated)),
        etag: subscription.etag(),
        account_id: subscription.account.to_string(),
        reconciling: false,
    }
}

fn stats_message(stats: SubscriptionStats) -> v1::GetSubscriptionStatsResponse {
    let state = match stats.state {
        DeliveryState::Unknown => v1::DeliveryState::Unspecified,
        DeliveryState::Active => v1::DeliveryState::Active,
        DeliveryState::Paused => v1::DeliveryState::Paused,
        DeliveryState::SinkDown => v1::DeliveryState::SinkDown,
        DeliveryState::RejectsEverything => v1::DeliveryState::RejectsEverything,
        DeliveryState::Throttled => v1::DeliveryState::Throttled,
    };
    let partitions = stats.partitions.into_iter().map(|(partition, matched, pending, frontier)| {
        v1::PartitionStats { partition: partition.into(), matched, pending, frontier: frontier.0 }
    });
    v1::GetSubscriptionStatsResponse {
        matched: stats.matched,
        delivered: stats.delivered,
        dead_lettered: stats.dead_lettered,
        redriven: 0,
        purged: 0,
        expired: stats.expired,
        cancelled: stats.cancelled,
        pending: stats.pending,
        reasons: stats.reasons.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect(),
        oldest_pending_age_ms: stats.times.oldest_pending_age_ms,
        state: state.into(),
        parked_keys: stats.parked_keys,
        last_failure: stats.last_failure,
        partitions: partitions.collect(),
        failing_since_time: stats.times.failing_since.map(to_api),
        next_attempt_time: stats.times.next_attempt.map(to_api),
        first_loss_time: stats.times.first_loss.map(to_api),
    }
}
