//! `fanfare status`: every subscription on one screen, the failing ones first.

use crate::{
    age::span,
    failure::Failure,
    page::Limit,
    session::Session,
    subscription::{StatusLine, SubscriptionHealth, collect_health, list_all},
    terminal::say,
};

pub(crate) async fn run(limit: &Limit, session: &Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    let subscriptions = list_all(&client, limit).await?;
    let mut healths = collect_health(&client, subscriptions).await;
    healths.sort_by_key(|health| (!health.needs_attention(), health.until_loss().unwrap_or(i64::MAX)));
    let summary = summary(&healths);
    session.output.list(&healths.into_iter().map(StatusLine).collect::<Vec<_>>())?;
    if !session.output.is_json() {
        say(&summary);
    }
    Ok(())
}

fn summary(healths: &[SubscriptionHealth]) -> String {
    let count = healths.len();
    let failing = healths.iter().filter(|health| health.needs_attention()).count();
    let pending: u64 = healths.iter().flat_map(|health| &health.stats).map(|stats| stats.pending).sum();
    let dead: u64 = healths.iter().flat_map(|health| &health.stats).map(|stats| stats.dead_lettered).sum();
    let loss = healths.iter().filter_map(SubscriptionHealth::until_loss).min();
    let loss = match loss {
        None => String::new(),
        Some(..=0) => "; the oldest exceed the retention and leave the log".to_owned(),
        Some(until) => {
            format!("; nothing is lost for {}, unless a log is full before", span(until.unsigned_abs()))
        }
    };
    let dead = if dead > 0 {
        format!("\n{dead} events were given up: `fanfare deadletter list` shows them")
    } else {
        String::new()
    };
    format!("{count} subscriptions, {failing} need attention; {pending} events pending{loss}{dead}")
}
