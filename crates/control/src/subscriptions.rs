//! `fanfare.v1.SubscriptionService`. A change is answered when every partition that it concerns has taken it.

use std::{ops::Bound, sync::Arc};

use fanfare_catalog::{ChangeError, NewSubscription, ObjectKind, Tenant};
use fanfare_delivery::{State, SubscriptionStats};
use fanfare_model::{SinkId, StartAt, SubscribedType, Subscription, SubscriptionId};
use fanfare_proto::v1;
use tonic::{Request, Response, Status};

use crate::{
    control::{Control, parse_id, revision, tenant},
    page::Page,
    status::{change_status, data_loss, invalid, reconcile_status},
    time::{from_api, to_api},
};

#[tonic::async_trait]
impl v1::subscription_service_server::SubscriptionService for Control {
    async fn create_subscription(
        &self,
        request: Request<v1::CreateSubscriptionRequest>,
    ) -> Result<Response<v1::CreateSubscriptionResponse>, Status> {
        use v1::create_subscription_request::From;
        let tenant = tenant(&request)?;
        let v1::CreateSubscriptionRequest { subscription, from } = request.into_inner();
        let start = match from {
            None | Some(From::Earliest(false)) => StartAt::Next,
            Some(From::Earliest(true)) => StartAt::Earliest,
            Some(From::Time(time)) => StartAt::Time(from_api("time", time)?),
        };
        let wanted = wanted(required(subscription)?)?;
        let created = self.catalog.create_subscription(tenant, wanted, start).await;
        let subscription = self.attached(tenant, created).await?;
        Ok(Response::new(v1::CreateSubscriptionResponse { subscription }))
    }

    async fn get_subscription(
        &self,
        request: Request<v1::GetSubscriptionRequest>,
    ) -> Result<Response<v1::GetSubscriptionResponse>, Status> {
        let found = self.subscription(tenant(&request)?, &request.get_ref().id)?;
        Ok(Response::new(v1::GetSubscriptionResponse { subscription: Some(shown(&found)) }))
    }

    async fn list_subscriptions(
        &self,
        request: Request<v1::ListSubscriptionsRequest>,
    ) -> Result<Response<v1::ListSubscriptionsResponse>, Status> {
        let account = self.account(tenant(&request)?)?;
        let v1::ListSubscriptionsRequest { page_size, page_token } = request.into_inner();
        let page = Page::<SubscriptionId>::parse("subscriptions", page_size, &page_token)?;
        let from = page.after.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = account.subscriptions.range((from, Bound::Unbounded));
        let (subscriptions, next_page_token) = page.take(rest.map(|(id, found)| (*id, shown(found))));
        Ok(Response::new(v1::ListSubscriptionsResponse { subscriptions, next_page_token }))
    }

    async fn update_subscription(
        &self,
        request: Request<v1::UpdateSubscriptionRequest>,
    ) -> Result<Response<v1::UpdateSubscriptionResponse>, Status> {
        let tenant = tenant(&request)?;
        let given = required(request.into_inner().subscription)?;
        let id = parse_id("subscription.id", &given.id)?;
        let expected = revision(&given.etag);
        let updated = self.catalog.update_subscription(tenant, id, wanted(given)?, expected).await;
        let subscription = self.attached(tenant, updated).await?;
        Ok(Response::new(v1::UpdateSubscriptionResponse { subscription }))
    }

    async fn delete_subscription(
        &self,
        request: Request<v1::DeleteSubscriptionRequest>,
    ) -> Result<Response<v1::DeleteSubscriptionResponse>, Status> {
        let tenant = tenant(&request)?;
        let id = parse_id("id", &request.get_ref().id)?;
        self.catalog.delete_subscription(tenant, id).await.map_err(|error| change_status(&error))?;
        self.reconciled(tenant, id).await?;
        Ok(Response::new(v1::DeleteSubscriptionResponse {}))
    }

    async fn pause_subscription(
        &self,
        request: Request<v1::PauseSubscriptionRequest>,
    ) -> Result<Response<v1::PauseSubscriptionResponse>, Status> {
        let tenant = tenant(&request)?;
        let id = parse_id("id", &request.get_ref().id)?;
        let subscription = self.attached(tenant, self.catalog.pause_subscription(tenant, id).await).await?;
        Ok(Response::new(v1::PauseSubscriptionResponse { subscription }))
    }

    async fn resume_subscription(
        &self,
        request: Request<v1::ResumeSubscriptionRequest>,
    ) -> Result<Response<v1::ResumeSubscriptionResponse>, Status> {
        let tenant = tenant(&request)?;
        let id = parse_id("id", &request.get_ref().id)?;
        let subscription = self.attached(tenant, self.catalog.resume_subscription(tenant, id).await).await?;
        Ok(Response::new(v1::ResumeSubscriptionResponse { subscription }))
    }

    async fn get_subscription_stats(
        &self,
        request: Request<v1::GetSubscriptionStatsRequest>,
    ) -> Result<Response<v1::GetSubscriptionStatsResponse>, Status> {
        let tenant = tenant(&request)?;
        let subscription = self.subscription(tenant, &request.get_ref().id)?;
        if let Some(damage) = self.delivery.damage(tenant.account()) {
            return Err(data_loss(&damage, "what became of its events cannot be told"));
        }
        Ok(Response::new(shown_stats(self.delivery.stats(tenant.account(), subscription.id))))
    }
}

impl Control {
    fn subscription(&self, tenant: Tenant, id: &str) -> Result<Arc<Subscription>, Status> {
        let id = parse_id::<SubscriptionId>("id", id)?;
        let found = self.account(tenant)?.subscriptions.get(&id).cloned();
        found.ok_or_else(|| {
            change_status(&ChangeError::NotFound { kind: ObjectKind::Subscription, name: id.to_string() })
        })
    }

    /// Waits until the partitions have the change, then shows it.
    async fn attached(
        &self,
        tenant: Tenant,
        changed: Result<Arc<Subscription>, ChangeError>,
    ) -> Result<Option<v1::Subscription>, Status> {
        let changed = changed.map_err(|error| change_status(&error))?;
        self.reconciled(tenant, changed.id).await?;
        Ok(Some(shown(&changed)))
    }

    async fn reconciled(&self, tenant: Tenant, id: SubscriptionId) -> Result<(), Status> {
        if let Some(damage) = self.delivery.damage(tenant.account()) {
            return Err(data_loss(
                &damage,
                "the change is made, but takes effect only when that is repaired; do not repeat it",
            ));
        }
        self.delivery.reconciled(tenant.account(), id).await.map_err(|error| reconcile_status(&error))
    }
}

fn required(given: Option<v1::Subscription>) -> Result<v1::Subscription, Status> {
    given.ok_or_else(|| invalid("subscription", "is required"))
}

fn wanted(given: v1::Subscription) -> Result<NewSubscription, Status> {
    let subscribed = |given: v1::SubscribedType| SubscribedType {
        event_type: given.r#type,
        schema_version: (given.schema_version > 0).then_some(given.schema_version),
    };
    Ok(NewSubscription {
        description: given.description,
        sink: parse_id::<SinkId>("subscription.sink_id", &given.sink_id)?,
        types: given.types.into_iter().map(subscribed).collect(),
    })
}

fn shown(subscription: &Subscription) -> v1::Subscription {
    let subscribed = |subscribed: &SubscribedType| v1::SubscribedType {
        r#type: subscribed.event_type.clone(),
        schema_version: subscribed.schema_version.unwrap_or_default(),
    };
    v1::Subscription {
        id: subscription.id.to_string(),
        description: subscription.description.clone(),
        sink_id: subscription.sink.to_string(),
        types: subscription.types.iter().map(subscribed).collect(),
        paused: subscription.paused,
        create_time: Some(to_api(subscription.created)),
        update_time: Some(to_api(subscription.updated)),
        etag: subscription.revision.to_string(),
    }
}

fn shown_stats(stats: SubscriptionStats) -> v1::GetSubscriptionStatsResponse {
    let state = match stats.state {
        State::Unknown => v1::DeliveryState::Unspecified,
        State::Active => v1::DeliveryState::Active,
        State::Paused => v1::DeliveryState::Paused,
        State::SinkDown => v1::DeliveryState::SinkDown,
    };
    let partitions = stats.partitions.into_iter().map(|(partition, matched, pending, frontier)| {
        v1::PartitionStats { partition: partition.into(), matched, pending, frontier: frontier.0 }
    });
    v1::GetSubscriptionStatsResponse {
        matched: stats.matched,
        delivered: stats.delivered,
        dead_lettered: stats.dead_lettered,
        expired: stats.expired,
        cancelled: stats.cancelled,
        pending: stats.pending,
        reasons: stats.reasons.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect(),
        oldest_pending_age_ms: stats.oldest_pending_age_ms,
        state: state.into(),
        parked_keys: stats.parked_keys,
        last_failure: stats.last_failure,
        partitions: partitions.collect(),
    }
}
