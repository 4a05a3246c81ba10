use proptest::prelude::*;

use super::*;

fn event(offset: u64, key: u64, size: usize) -> BufferedEvent {
    let bytes = Bytes::from(vec![0; size]);
    BufferedEvent {
        offset: Offset(offset),
        key: KeyHash(key),
        append_time: Timestamp(offset),
        bytes,
        schema: SchemaCheck::Passed(None),
    }
}

fn window(events: usize, bytes: usize) -> Window {
    Window::new(Limits { events, bytes }, [])
}

#[test]
fn settled_events_occupy_the_window_until_they_are_released() {
    let mut window = window(2, 1_000);
    window.admit(event(1, 1, 10));
    window.admit(event(2, 2, 10));
    assert!(!window.has_room(10, 0));
    assert!(window.settle(Offset(1)));
    assert!(!window.has_room(10, 0), "the event may still be sent twice");
    window.release(1);
    assert!(window.has_room(10, 0));
    assert!(!window.has_room(10, 1), "one event outside the window is in flight");
}

#[test]
fn one_event_may_exceed_the_bytes_alone() {
    let mut window = window(10, 100);
    assert!(window.has_room(5_000, 0));
    window.admit(event(1, 1, 5_000));
    assert!(!window.has_room(1, 0));
    assert!(window.settle(Offset(1)));
    assert!(window.has_room(100, 0), "bytes are free as soon as an event is settled");
}

#[test]
fn an_event_is_settled_once_and_an_unknown_one_never() {
    let mut window = window(10, 100);
    for offset in [3, 5, 9] {
        window.admit(event(offset, offset, 1));
    }
    assert!(window.settle(Offset(5)));
    for offset in [0, 4, 5, 10] {
        assert!(!window.settle(Offset(offset)), "{offset}");
    }
    assert_eq!((window.len(), window.settled_unreplicated()), (2, 1));
}

#[derive(Clone, Debug)]
enum Step {
    Admit { gap: u64, key: u64 },
    Settle(usize),
    TakeKey(u64),
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u64..4, 0u64..4).prop_map(|(gap, key)| Step::Admit { gap, key }),
        4 => any::<usize>().prop_map(Step::Settle),
        1 => (0u64..4).prop_map(Step::TakeKey),
        1 => Just(Step::Release),
    ]
}

proptest! {
    #[test]
    fn window_agrees_with_a_plain_list(steps in prop::collection::vec(step(), 0..200)) {
        let mut window = window(8, usize::MAX);
        let (mut model, mut settled, mut next): (Vec<(u64, u64)>, usize, u64) = (Vec::new(), 0, 0);
        for step in steps {
            match step {
                Step::Admit { gap, key } => {
                    next += gap;
                    prop_assert_eq!(window.has_room(1, 0), model.len() + settled < 8);
                    if window.has_room(1, 0) {
                        window.admit(event(next, key, 1));
                        model.push((next, key));
                    }
                }
                Step::Settle(at) if !model.is_empty() => {
                    let (offset, _) = model.remove(at % model.len());
                    prop_assert!(window.settle(Offset(offset)));
                    settled += 1;
                }
                Step::Settle(_) => {}
                Step::TakeKey(key) => {
                    let taken = window.take_key(KeyHash(key));
                    let expected = model.iter().filter(|(_, other)| *other == key).map(|(offset, _)| Offset(*offset));
                    prop_assert_eq!(taken, expected.collect::<Vec<_>>());
                    model.retain(|(_, other)| *other != key);
                }
                Step::Release => {
                    window.release(settled);
                    settled = 0;
                }
            }
            let unsettled: Vec<_> = window.unsettled().map(|event| event.offset.0).collect();
            prop_assert_eq!(unsettled, model.iter().map(|(offset, _)| *offset).collect::<Vec<_>>());
            prop_assert_eq!((window.len(), window.settled_unreplicated()), (model.len(), settled));
        }
    }
}
