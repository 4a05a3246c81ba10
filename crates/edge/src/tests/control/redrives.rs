//! Redrives and purges of dead letters, as a client sees them.

use fanfare_proto::v1::*;

use super::*;

const SUBSCRIPTION: &str = "DF00000000000000000000000000000001";

async fn purge(caller: &Caller, request: PurgeDeadLettersRequest) -> Result<Redrive, Status> {
    let begun = answer(caller.dead_letters.clone().purge_dead_letters(request)).await;
    begun.map(|begun| begun.redrive.unwrap())
}

fn wanted(request_id: &str) -> PurgeDeadLettersRequest {
    PurgeDeadLettersRequest {
        subscription_id: SUBSCRIPTION.to_owned(),
        filter: Some(DeadLetterFilter {
            reasons: vec!["rejected".to_owned()],
            ..DeadLetterFilter::default()
        }),
        request_id: request_id.to_owned(),
    }
}

#[tokio::test]
async fn purge_is_a_resource_that_a_repeat_does_not_begin_again() {
    let node = Node::new().await;
    let acme = node.caller("acme").await;
    let begun = purge(&acme, wanted("monday")).await.unwrap();
    assert_eq!((begun.subscription_id.as_str(), begun.kind()), (SUBSCRIPTION, RedriveKind::Purge));
    assert_eq!(begun.filter.as_ref().unwrap().reasons, ["rejected"]);
    assert_eq!(begun.state(), RedriveState::Done, "there is no letter");
    assert_eq!(begun.progress, Some(RedriveProgress { withdrawn_count: 0, stayed_count: 0, percent: 100 }));
    assert_eq!(purge(&acme, wanted("monday")).await.unwrap().id, begun.id);
    assert_ne!(purge(&acme, wanted("")).await.unwrap().id, begun.id);

    let mut letters = acme.dead_letters.clone();
    let listed = answer(letters.list_redrives(ListRedrivesRequest::default())).await.unwrap();
    assert_eq!((listed.redrives.len(), listed.next_page_token.as_str()), (2, ""));
    let got = answer(letters.get_redrive(GetRedriveRequest { id: begun.id.clone() })).await.unwrap();
    assert_eq!(got.redrive.as_ref(), Some(&begun));
    let cancelled = answer(letters.cancel_redrive(CancelRedriveRequest { id: begun.id.clone() })).await;
    assert_eq!(cancelled.unwrap().redrive, Some(begun.clone()), "one that has ended stays as it is");

    let mut foreign = node.caller("other").await.dead_letters;
    for refused in [
        answer(foreign.get_redrive(GetRedriveRequest { id: begun.id.clone() })).await.map(drop),
        answer(foreign.cancel_redrive(CancelRedriveRequest { id: begun.id.clone() })).await.map(drop),
    ] {
        assert_eq!(told(&refused.unwrap_err()).1, "REDRIVE_UNKNOWN");
    }
}

#[tokio::test]
async fn redrive_of_no_subscription_or_by_a_wrong_filter_is_refused_by_its_field() {
    let node = Node::new().await;
    let acme = node.caller("acme").await;
    let request = RedriveDeadLettersRequest {
        subscription_id: SUBSCRIPTION.to_owned(),
        ..RedriveDeadLettersRequest::default()
    };
    let unknown = answer(acme.dead_letters.clone().redrive_dead_letters(request)).await.unwrap_err();
    assert_eq!(told(&unknown).1, "SUBSCRIPTION_UNKNOWN");
    let by_ids = |ids: &[&str]| DeadLetterFilter {
        ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        ..DeadLetterFilter::default()
    };
    let many = vec!["0".repeat(32); 1_001];
    let cases = [
        ("filter.reasons[0]", DeadLetterFilter { reasons: vec!["tired".to_owned()], ..by_ids(&[]) }),
        ("filter.ids[1]", by_ids(&[&"0".repeat(32), "x"])),
        ("filter.ids", by_ids(&many.iter().map(String::as_str).collect::<Vec<_>>())),
    ];
    for (field, filter) in cases {
        let refused = purge(&acme, PurgeDeadLettersRequest { filter: Some(filter), ..wanted("") }).await;
        assert_eq!(fields(&refused.unwrap_err()), [field]);
    }
    let refused = purge(&acme, PurgeDeadLettersRequest { request_id: "x".repeat(129), ..wanted("") }).await;
    assert_eq!(fields(&refused.unwrap_err()), ["request_id"]);
}
