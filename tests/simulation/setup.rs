//! The account, sink and subscriptions of a simulation: made at the first start, found again at each later one.

use fanfare_catalog::{NewKey, Tenant};
use fanfare_control::{
    Control, ControlError, EventTypeSettings, ListRequest, SinkKind, SinkSettings, SubscriptionSettings,
    WebhookSettings,
};
use fanfare_model::{StartAt, SubscribedType};

use crate::{event::TYPES, node::SimulatedNode, receiver::HOST};

/// One subscription: its path at the receiver, and its types.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) path: &'static str,
    pub(crate) types: &'static [&'static str],
}

pub(crate) const ROUTES: [Route; 2] =
    [Route { path: "/all", types: &TYPES }, Route { path: "/placed", types: &[TYPES[0]] }];

/// A route and its subscription's id.
#[derive(Clone, Debug)]
pub(crate) struct RoutedSubscription {
    pub(crate) route: Route,
    pub(crate) id: String,
}

pub(crate) struct Account {
    pub(crate) tenant: Tenant,
    pub(crate) subscriptions: Vec<RoutedSubscription>,
}

impl Account {
    /// Makes what is missing.
    pub(crate) async fn ensure(node: &SimulatedNode, key: &NewKey) -> anyhow::Result<Self> {
        node.catalog.bootstrap("simulated", key).await?;
        let control = &node.control;
        let tenant = control
            .authenticate(key.text.expose())
            .ok_or_else(|| anyhow::anyhow!("the account's key is not known"))?;
        for name in TYPES {
            if control.event_type(tenant, name).is_err() {
                let description = String::new();
                let settings =
                    EventTypeSettings { name: name.to_owned(), description, schema: None, status: None };
                control.create_event_type(tenant, settings).await?;
            }
        }
        let mut subscriptions = Vec::new();
        for route in ROUTES {
            let id = subscription(control, tenant, route).await?;
            subscriptions.push(RoutedSubscription { route, id });
        }
        Ok(Self { tenant, subscriptions })
    }
}

async fn subscription(control: &Control, tenant: Tenant, route: Route) -> Result<String, ControlError> {
    let subscriptions = control.list_subscriptions(tenant, &ListRequest { after: None, limit: 100 })?;
    if let Some(found) = subscriptions.items.iter().find(|found| found.description == route.path) {
        return Ok(found.id.to_string());
    }
    let sinks = control.list_sinks(tenant, &ListRequest { after: None, limit: 100 })?;
    let sink = match sinks.items.iter().find(|sink| sink.description == route.path) {
        Some(sink) => sink.clone(),
        None => control.create_sink(tenant, sink_settings(route)).await?,
    };
    let types = route
        .types
        .iter()
        .map(|name| SubscribedType { event_type: (*name).to_owned(), schema_version: None });
    let settings = SubscriptionSettings {
        description: route.path.to_owned(),
        sink_id: sink.id.to_string(),
        types: types.collect(),
    };
    Ok(control.create_subscription(tenant, settings, StartAt::Earliest).await?.id.to_string())
}

fn sink_settings(route: Route) -> SinkSettings {
    SinkSettings {
        description: route.path.to_owned(),
        kind: Some(SinkKind::Webhook(WebhookSettings {
            destination: format!("http://{HOST}{}", route.path),
            method: None,
            batch_events: false,
            batch_events_max: None,
            timeout_ms: Some(1_000),
            signing_secret: None,
            twilio_auth_token: None,
        })),
    }
}
