use fanfare_proto::v1::{
    GetEventRequest, PublishBatchRequest, ReadEventsRequest, ReadEventsResponse, StoredEvent,
    read_events_request::From,
};
use futures_util::StreamExt;
use tonic::Streaming;

use super::*;

async fn publish(caller: &Caller, events: Vec<CloudEvent>) {
    let results =
        caller.publisher.clone().publish_batch(PublishBatchRequest { events }).await.unwrap().into_inner();
    assert!(results.results.iter().all(|result| result.error.is_none()));
}

async fn open(caller: &Caller, request: ReadEventsRequest) -> Result<Streaming<ReadEventsResponse>, Status> {
    let opened =
        timeout(DEADLINE, caller.reader.clone().read_events(request)).await.expect("it answers in time");
    opened.map(tonic::Response::into_inner)
}

/// Everything up to the end of the read.
async fn read(caller: &Caller, request: ReadEventsRequest) -> Vec<StoredEvent> {
    let pages = open(caller, request).await.unwrap().map(|page| page.unwrap().events);
    timeout(DEADLINE, pages.collect::<Vec<_>>()).await.expect("it ends in time").concat()
}

fn ids(events: &[StoredEvent]) -> Vec<&str> {
    events.iter().map(|stored| stored.event.as_ref().unwrap().id.as_str()).collect()
}

async fn next(pages: &mut Streaming<ReadEventsResponse>) -> Vec<String> {
    let page = timeout(DEADLINE, pages.next()).await.expect("it comes in time").expect("it goes on").unwrap();
    ids(&page.events).into_iter().map(str::to_owned).collect()
}

fn from(from: From) -> ReadEventsRequest {
    ReadEventsRequest { from: Some(from), ..ReadEventsRequest::default() }
}

#[tokio::test]
async fn events_are_read_from_every_position_as_they_were_published() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let partition = Some(u32::from(caller.partition));
    let first = with(json(event("a"), "{\"n\": 1}"), "subject", text("s"));
    publish(&caller, vec![first.clone(), event("b")]).await;
    node.pass(1000);
    publish(&caller, vec![event("c"), event("d")]).await;

    let all = read(&caller, from(From::Earliest(true))).await;
    assert_eq!(ids(&all), ["a", "b", "c", "d"]);
    assert_eq!(all.iter().map(|stored| stored.offset).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!((Some(all[0].partition), all[0].event.as_ref()), (partition, Some(&first)));
    let time = all[2].append_time.unwrap();
    assert!(time.seconds > all[0].append_time.unwrap().seconds);

    let table = [
        (ReadEventsRequest { partition, ..from(From::Offset(1)) }, vec!["b", "c", "d"]),
        (ReadEventsRequest { partition, ..from(From::Offset(4)) }, vec![]),
        (from(From::Time(time)), vec!["c", "d"]),
        (from(From::Time(prost_types::Timestamp { seconds: time.seconds - 1, nanos: 1 })), vec!["c", "d"]),
        (from(From::Time(prost_types::Timestamp { seconds: -5, nanos: 0 })), vec!["a", "b", "c", "d"]),
        (from(From::Latest(true)), vec![]),
        (ReadEventsRequest::default(), vec![]),
        (ReadEventsRequest { limit: 3, ..from(From::Earliest(true)) }, vec!["a", "b", "c"]),
        (ReadEventsRequest { partition, limit: 1, ..from(From::Offset(2)) }, vec!["c"]),
    ];
    for (request, expected) in table {
        assert_eq!(ids(&read(&caller, request.clone()).await), expected, "{request:?}");
    }
}

#[tokio::test]
async fn a_follower_sees_every_event_committed_after_its_start() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    publish(&caller, vec![event("before")]).await;
    let follow = ReadEventsRequest { follow: true, ..from(From::Latest(true)) };
    let mut latest = open(&caller, follow.clone()).await.unwrap();
    let mut two = open(&caller, ReadEventsRequest { limit: 2, ..follow }).await.unwrap();
    for id in ["x", "y", "z"] {
        publish(&caller, vec![event(id)]).await;
        assert_eq!(next(&mut latest).await, [id]);
    }
    assert_eq!(next(&mut two).await, ["x"]);
    assert_eq!(next(&mut two).await, ["y"]);
    assert!(timeout(DEADLINE, two.next()).await.unwrap().is_none(), "it ends at its limit");
}

#[tokio::test]
async fn an_open_read_ends_with_the_node_or_its_client() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let follow = ReadEventsRequest { follow: true, ..ReadEventsRequest::default() };
    let before = node.tasks.len();
    let gone = open(&caller, follow.clone()).await.unwrap();
    let mut open = open(&caller, follow).await.unwrap();
    assert_eq!(node.tasks.len(), before + 2);
    drop(gone);
    timeout(DEADLINE, async {
        while node.tasks.len() > before + 1 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("a read whose client is gone ends");
    node.stop.cancel();
    let end = timeout(DEADLINE, open.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(told(&end), (Code::Unavailable, "DRAINING".to_owned(), true));
}

#[tokio::test]
async fn a_read_of_types_skips_other_types() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    node.event_type(&caller, "sent", None, EventTypeStatus::Available).await;
    let sent = |id| CloudEvent { r#type: "sent".to_owned(), ..event(id) };
    publish(&caller, vec![event("a"), sent("b"), event("c"), sent("d")]).await;
    let of = |types: &[&str]| ReadEventsRequest {
        types: types.iter().map(|name| (*name).to_owned()).collect(),
        ..from(From::Earliest(true))
    };
    assert_eq!(ids(&read(&caller, of(&["sent"])).await), ["b", "d"]);
    assert_eq!(ids(&read(&caller, of(&["sent", "paid"])).await), ["a", "b", "c", "d"]);
    assert_eq!(ids(&read(&caller, of(&["none"])).await), Vec::<&str>::new());
    let one = ReadEventsRequest { limit: 1, ..of(&["sent"]) };
    assert_eq!(ids(&read(&caller, one).await), ["b"], "what is filtered does not count");
}

#[tokio::test]
async fn an_account_reads_only_its_own_events() {
    let node = Node::new().await;
    let mut callers = Vec::new();
    while callers.len() < 4 {
        let caller = node.caller(&format!("account-{}", callers.len())).await;
        if caller.partition == 0 {
            publish(&caller, vec![event(&caller.tenant.account().to_string())]).await;
        }
        callers.push(caller);
    }
    let sharing: Vec<_> = callers.iter().filter(|caller| caller.partition == 0).collect();
    assert!(sharing.len() >= 2, "two accounts share a partition");
    for caller in sharing {
        let own = caller.tenant.account().to_string();
        assert_eq!(ids(&read(caller, from(From::Earliest(true))).await), [own.as_str()]);
        for other in callers.iter().filter(|other| other.partition == 0 && other.tenant != caller.tenant) {
            let id = other.tenant.account().to_string();
            let status =
                caller.reader.clone().get_event(GetEventRequest { id, source: "/tests".to_owned() }).await;
            assert_eq!(told(&status.unwrap_err()).1, "EVENT_UNKNOWN");
        }
    }
}

#[tokio::test]
async fn an_event_is_read_by_source_and_id() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let elsewhere = CloudEvent { source: "/elsewhere".to_owned(), ..event("a") };
    publish(&caller, vec![event("a"), elsewhere.clone(), event("b")]).await;
    let get = |source: &str, id: &str| {
        let request = GetEventRequest { id: id.to_owned(), source: source.to_owned() };
        let mut reader = caller.reader.clone();
        async move { timeout(DEADLINE, reader.get_event(request)).await.unwrap().map(tonic::Response::into_inner) }
    };
    let found = get("/elsewhere", "a").await.unwrap().event.unwrap();
    assert_eq!((found.offset, found.event), (1, Some(elsewhere)));
    let unknown = get("/tests", "c").await.unwrap_err();
    assert_eq!(told(&unknown), (Code::NotFound, "EVENT_UNKNOWN".to_owned(), false));
    for (source, id, field) in [("", "a", "source"), ("/tests", "", "id")] {
        let status = get(source, id).await.unwrap_err();
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec![field.to_owned()]));
    }
}

#[tokio::test]
async fn invalid_positions_are_refused() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    publish(&caller, vec![event("a")]).await;
    let partition = Some(u32::from(caller.partition));
    let other = Some(u32::from(caller.partition) + 1);
    let nanos = prost_types::Timestamp { seconds: 0, nanos: -1 };
    let table = [
        (from(From::Offset(0)), Code::InvalidArgument, "REQUEST_INVALID"),
        (ReadEventsRequest { partition, ..from(From::Offset(2)) }, Code::OutOfRange, "OFFSET_AHEAD"),
        (
            ReadEventsRequest { partition: other, ..from(From::Earliest(true)) },
            Code::InvalidArgument,
            "PARTITION_UNKNOWN",
        ),
        (from(From::Time(nanos)), Code::InvalidArgument, "REQUEST_INVALID"),
        (
            ReadEventsRequest { types: vec![String::new(); 101], ..ReadEventsRequest::default() },
            Code::InvalidArgument,
            "REQUEST_INVALID",
        ),
    ];
    for (request, code, reason) in table {
        let status = open(&caller, request.clone()).await.unwrap_err();
        assert_eq!(told(&status), (code, reason.to_owned(), false), "{request:?}");
    }
}

#[tokio::test]
async fn a_read_of_a_partition_that_is_elsewhere_asks_to_retry() {
    let node = Node::new().await;
    let homeless = super::publish::homeless(&node).await;
    let status = open(&homeless, from(From::Earliest(true))).await.map(drop).unwrap_err();
    assert_eq!(told(&status), (Code::Unavailable, "NO_LEADER".to_owned(), true));
    let request = GetEventRequest { id: "a".to_owned(), source: "/tests".to_owned() };
    let status = homeless.reader.clone().get_event(request).await.unwrap_err();
    assert_eq!(told(&status), (Code::Unavailable, "NO_LEADER".to_owned(), true));
}

#[tokio::test]
async fn open_reads_are_limited_per_account_and_per_node() {
    let node = Node::new().await;
    let (caller, other) = (node.caller("acme").await, node.caller("other").await);
    let follow = ReadEventsRequest { follow: true, ..ReadEventsRequest::default() };
    let mut own = Vec::new();
    for _ in 0..READ_LIMITS.account_reads_max {
        own.push(open(&caller, follow.clone()).await.unwrap());
    }
    let refusal = open(&caller, follow.clone()).await.map(drop).unwrap_err();
    assert_eq!(told(&refusal), (Code::ResourceExhausted, "OVERLOADED".to_owned(), true));
    assert!(refusal.message().contains("an account may have 3"), "{refusal}");
    let _others = open(&other, follow.clone()).await.expect("what one account has leaves room for another");
    let refusal = open(&other, follow.clone()).await.map(drop).unwrap_err();
    assert!(refusal.message().contains("the node's 5"), "{refusal}");
    own.pop();
    let waiting = async {
        while open(&other, follow.clone()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, waiting).await.expect("a read that its client has left makes room");
}

#[tokio::test]
async fn a_slow_reader_gets_small_pages_and_every_event() {
    let node = Node::new().await;
    let caller = node.caller("acme").await;
    let data = serde_json::to_string(&"x".repeat(9_000)).unwrap();
    let count = 600;
    for first in (0..count).step_by(5) {
        let events = (first..first + 5).map(|number| json(event(&number.to_string()), &data)).collect();
        publish(&caller, events).await;
    }
    let mut pages = open(&caller, from(From::Earliest(true))).await.unwrap();
    let mut seen = Vec::new();
    while let Some(page) = timeout(DEADLINE, pages.next()).await.expect("it goes on") {
        let page = page.unwrap();
        let bytes: usize = page.events.iter().map(prost::Message::encoded_len).sum();
        assert!(bytes <= (256 << 10) + 10_000, "a page of {bytes} bytes");
        seen.extend(page.events.iter().map(|stored| stored.event.as_ref().unwrap().id.clone()));
    }
    assert_eq!(seen, (0..count).map(|number| number.to_string()).collect::<Vec<_>>());
}
