//! `fanfare subscription update` and `delete`: changes to what is delivered, with what they mean for pending events.

use clap::Args;
use fanfare_proto::v1;
use prost_types::FieldMask;

use super::{TypeArgument, stats};
use crate::{
    age::span,
    failure::{Exit, Failure},
    session::Session,
    terminal::say,
};

#[derive(Args, Debug)]
pub struct UpdateSubscriptionArguments {
    /// The subscription's id
    id: String,
    #[command(flatten)]
    change: SubscriptionChangeArguments,
}

#[derive(Args, Debug, Default)]
#[group(required = true, multiple = true)]
pub(super) struct SubscriptionChangeArguments {
    /// Deliver to this sink from now on, with what is pending
    #[arg(long, value_name = "ID")]
    sink: Option<String>,
    /// Event types, in the place of all before; may be repeated
    #[arg(long = "type", value_name = "TYPE[@VERSION]")]
    types: Vec<TypeArgument>,
    /// Text for people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

#[derive(Args, Debug)]
pub struct DeleteSubscriptionArguments {
    /// The subscription's id
    id: String,
    /// Do it; otherwise it is only said what would be cancelled
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(arguments: UpdateSubscriptionArguments, session: &Session) -> Result<(), Failure> {
    let attempted = format!("update subscription {}", arguments.id);
    let request = request(arguments);
    let updated = session
        .call(&attempted, async |client| {
            client.subscriptions().update_subscription(client.request(request)).await
        })
        .await?;
    let subscription = updated.subscription.ok_or_else(|| Failure::incomplete(&attempted))?;
    session.output.record(&subscription)?;
    if subscription.reconciling {
        say("changed, but not in effect in every partition yet");
    }
    Ok(())
}

fn request(arguments: UpdateSubscriptionArguments) -> v1::UpdateSubscriptionRequest {
    let SubscriptionChangeArguments { sink, types, description } = arguments.change;
    let given = [
        ("sink_id", sink.is_some()),
        ("selectors", !types.is_empty()),
        ("description", description.is_some()),
    ];
    let paths = given.into_iter().filter(|(_, given)| *given).map(|(path, _)| path.to_owned()).collect();
    let subscription = v1::Subscription {
        id: arguments.id,
        sink_id: sink.unwrap_or_default(),
        selectors: types.into_iter().map(|TypeArgument(selector)| selector).collect(),
        description: description.unwrap_or_default(),
        ..v1::Subscription::default()
    };
    v1::UpdateSubscriptionRequest { subscription: Some(subscription), update_mask: Some(FieldMask { paths }) }
}

pub(super) async fn delete(arguments: DeleteSubscriptionArguments, session: &Session) -> Result<(), Failure> {
    let DeleteSubscriptionArguments { id, yes } = arguments;
    let pending = match stats::get(&id, session).await {
        Ok(stats) => pending(&stats),
        Err(failure) if failure.exit() == Exit::NotFound => return Err(failure),
        Err(failure) => format!("its pending events are not known ({})", failure.summary()),
    };
    let attempted = format!("delete subscription {id}");
    if !yes {
        let next = "repeat with --yes to delete it; `fanfare subscription pause` only stops its deliveries";
        return Err(Failure::new(Exit::Usage, format!("{attempted}: not done: {pending}"), next));
    }
    let request = v1::DeleteSubscriptionRequest { id: id.clone(), etag: String::new() };
    let deleted = session
        .call(&attempted, async |client| {
            client.subscriptions().delete_subscription(client.request(request)).await
        })
        .await?;
    say(&format!("deleted subscription {id}: {pending}"));
    if deleted.reconciling {
        say("some partition has not confirmed it: attempts may start there until it does");
    }
    Ok(())
}

fn pending(stats: &v1::GetSubscriptionStatsResponse) -> String {
    match (stats.pending, stats.oldest_pending_age_ms) {
        (0, _) => "nothing is pending".to_owned(),
        (1, Some(age)) => format!("1 event is pending, {} old, and never delivered then", span(age)),
        (count, Some(age)) => {
            format!("{count} events are pending, the oldest {} old, and never delivered then", span(age))
        }
        (count, None) => format!("{count} events are pending, and never delivered then"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_given_is_changed() {
        let paths = |change| {
            let arguments = UpdateSubscriptionArguments { id: "DF1".to_owned(), change };
            request(arguments).update_mask.unwrap().paths
        };
        let sink = || Some("DG2".to_owned());
        let change = SubscriptionChangeArguments { sink: sink(), ..Default::default() };
        assert_eq!(paths(change), ["sink_id"]);
        let types = vec!["a.b@2".parse().unwrap()];
        let change = SubscriptionChangeArguments { sink: sink(), types, description: Some(String::new()) };
        assert_eq!(paths(change), ["sink_id", "selectors", "description"]);
    }

    #[test]
    fn deleting_tells_what_is_pending() {
        let stats = v1::GetSubscriptionStatsResponse {
            pending: 336,
            oldest_pending_age_ms: Some(61_000),
            ..Default::default()
        };
        assert!(pending(&stats).starts_with("336 events are pending, the oldest 1m 1s old"));
        assert_eq!(pending(&v1::GetSubscriptionStatsResponse::default()), "nothing is pending");
    }
}
