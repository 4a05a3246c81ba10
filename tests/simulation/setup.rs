//! The accounts, sinks and subscriptions of a simulation: made at the first start, found again at each later one.

use fanfare_catalog::{NewKey, Tenant};
use fanfare_control::{
    Control, ControlError, EventTypeSettings, ListRequest, Selector, SelectorVersion, SinkKind, SinkSettings,
    SubscriptionSettings, WebhookSettings,
};
use fanfare_model::{DeliverySettings, StartAt};
use parking_lot::Mutex;

use crate::{
    event::{ACCOUNTS, EventName, TYPES},
    node::{PARTITIONS, SimulatedNode},
    receiver::HOST,
};

/// One subscription: its path at the receiver, its account and its types.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) path: &'static str,
    pub(crate) account: u32,
    types: &'static [&'static str],
}

const ROUTES: [Route; 4] = [
    Route { path: "/all", account: 0, types: &TYPES },
    Route { path: "/placed", account: 0, types: &[TYPES[0]] },
    Route { path: "/other", account: 1, types: &TYPES },
    Route { path: "/third", account: 2, types: &TYPES },
];

impl Route {
    pub(crate) fn of(path: &str) -> Option<Self> {
        ROUTES.into_iter().find(|route| route.path == path)
    }

    /// True if the subscription's events are of the event's account and type.
    pub(crate) fn matches(self, name: EventName) -> bool {
        self.account == name.account && self.types.contains(&name.event_type())
    }
}

/// A route and its subscription's id.
#[derive(Clone, Debug)]
pub(crate) struct RoutedSubscription {
    pub(crate) route: Route,
    pub(crate) id: String,
}

pub(crate) struct Account {
    pub(crate) number: u32,
    pub(crate) tenant: Tenant,
    /// The partition of its events.
    pub(crate) partition: u16,
    pub(crate) subscriptions: Vec<RoutedSubscription>,
}

impl Account {
    /// Makes what is missing of each account; `keys` are the known ones, by the account's number.
    pub(crate) async fn ensure_all(
        node: &SimulatedNode,
        keys: &Mutex<Vec<NewKey>>,
    ) -> anyhow::Result<Vec<Self>> {
        let mut accounts: Vec<Self> = Vec::new();
        for number in 0..ACCOUNTS {
            let account = Self::ensure(node, number, keys).await?;
            let shares = accounts.iter().any(|other| other.partition == account.partition);
            anyhow::ensure!(
                shares == (number >= PARTITIONS.into()),
                "an account has a partition of its own while one is free"
            );
            accounts.push(account);
        }
        Ok(accounts)
    }

    async fn ensure(node: &SimulatedNode, number: u32, keys: &Mutex<Vec<NewKey>>) -> anyhow::Result<Self> {
        let key = keys.lock().get(number as usize).cloned();
        let key = match key {
            Some(key) => key,
            None => {
                let key = other_account(node, number).await?;
                keys.lock().push(key.clone());
                key
            }
        };
        if number == 0 {
            node.catalog.bootstrap("simulated", &key).await?;
        }
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
        for route in ROUTES.into_iter().filter(|route| route.account == number) {
            let id = subscription(control, tenant, route).await?;
            subscriptions.push(RoutedSubscription { route, id });
        }
        let view = node.catalog.view();
        let view = view.account(tenant.account()).ok_or_else(|| anyhow::anyhow!("the account is gone"))?;
        let [partition] = view.account.shard.partitions[..] else {
            anyhow::bail!("the events of an account go to {:?}", view.account.shard.partitions);
        };
        Ok(Self { number, tenant, partition, subscriptions })
    }
}

/// A key of an account besides the first, which is made if it is not there. A crash may have left it without a known
/// key.
async fn other_account(node: &SimulatedNode, number: u32) -> anyhow::Result<NewKey> {
    let name = format!("account {number}");
    let view = node.catalog.view();
    let found = view.accounts.values().find(|found| found.account.name == name);
    let id = match found {
        Some(found) => found.account.id,
        None => node.catalog.create_account(&name).await?.id,
    };
    Ok(node.catalog.create_key(id, "").await?)
}

async fn subscription(control: &Control, tenant: Tenant, route: Route) -> Result<String, ControlError> {
    let subscriptions = control.list_subscriptions(tenant, &ListRequest { after: None, limit: 100 })?;
    if let Some(found) = subscriptions.items.iter().find(|found| found.subscription.description == route.path)
    {
        return Ok(found.subscription.id.to_string());
    }
    let sinks = control.list_sinks(tenant, &ListRequest { after: None, limit: 100 })?;
    let sink = match sinks.items.iter().find(|sink| sink.description == route.path) {
        Some(sink) => sink.clone(),
        None => control.create_sink(tenant, sink_settings(route)).await?,
    };
    let selectors = route
        .types
        .iter()
        .map(|name| Selector { event_type: (*name).to_owned(), version: SelectorVersion::AsPublished });
    let settings = SubscriptionSettings {
        description: route.path.to_owned(),
        sink_id: sink.id.to_string(),
        selectors: selectors.collect(),
    };
    Ok(control.create_subscription(tenant, settings, StartAt::Earliest).await?.subscription.id.to_string())
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
        delivery: DeliverySettings::default(),
    }
}
