use fanfare_model::{AccountId, SubscriptionId};
use fanfare_partition::AttachedFilter;

use super::*;

/// An attachment with one chosen type per span.
pub(crate) fn attachment(spans: &[(u64, &str)]) -> Attachment {
    let specs = spans.iter().zip(1..).map(|((from, event_type), revision)| AttachedFilter {
        from: Offset(*from),
        revision,
        filter: Choice::from_iter([((*event_type).to_owned(), None)]).encode(),
    });
    Attachment {
        subscription: SubscriptionId::from_bytes([1; 16]),
        account: AccountId::from_bytes([2; 16]),
        epoch: 1,
        from: Offset::ZERO,
        filters: specs.collect(),
        matched_to: None,
    }
}

fn specs(choices: &Choices) -> Specs {
    let spans = choices.spans.iter().map(|(from, choice)| {
        let types = choice.types().map(|(event_type, _)| (event_type.to_owned(), None));
        (*from, Spec { types: types.collect() })
    });
    Specs { spans: spans.collect() }
}

/// The types that are chosen at each offset.
fn chosen(choices: &Choices, offsets: &[u64]) -> Vec<String> {
    let specs = specs(choices);
    let types = |offset: &u64| specs.at(Offset(*offset)).types().map(|(name, _)| name.to_owned()).collect();
    offsets.iter().map(types).collect()
}

#[test]
fn each_offset_has_the_choice_that_held_when_it_was_published() {
    let choices = Choices::of(&attachment(&[(3, "a"), (10, "b"), (20, "c")])).unwrap();
    assert_eq!(chosen(&choices, &[3, 9, 10, 19, 20, 99]), ["a", "a", "b", "b", "c", "c"]);
    assert_eq!(choices.revision(), 3);
    let specs = specs(&choices);
    let ahead = |front: u64| specs.from(Offset(front)).map(|(span, _)| (span.start.0, span.end.0)).collect();
    let expected: [(u64, Vec<_>); 4] = [
        (0, vec![(3, 10), (10, 20), (20, u64::MAX)]),
        (9, vec![(3, 10), (10, 20), (20, u64::MAX)]),
        (10, vec![(10, 20), (20, u64::MAX)]),
        (20, vec![(20, u64::MAX)]),
    ];
    for (front, spans) in expected {
        let found: Vec<(u64, u64)> = ahead(front);
        assert_eq!(found, spans, "{front}");
    }
}

#[test]
fn a_choice_is_kept_while_it_is_needed_here_even_if_the_partition_has_forgotten_it() {
    let mut choices = Choices::of(&attachment(&[(0, "a")])).unwrap();
    choices.change(&attachment(&[(0, "a"), (10, "b")]), Offset(3)).unwrap();
    choices.change(&attachment(&[(10, "b"), (20, "c")]), Offset(9)).unwrap();
    assert_eq!(chosen(&choices, &[9, 10, 20]), ["a", "b", "c"]);
    choices.change(&attachment(&[(10, "b"), (20, "c"), (30, "d")]), Offset(20)).unwrap();
    assert_eq!(choices.spans.len(), 2);
    assert_eq!(chosen(&choices, &[20, 30]), ["c", "d"]);
    choices.change(&attachment(&[(10, "b"), (20, "c"), (30, "e")]), Offset(20)).unwrap();
    assert_eq!(chosen(&choices, &[20, 30]), ["c", "e"], "what never held is replaced");
    for at in 4..200 {
        choices.change(&attachment(&[(at * 10, "f")]), Offset(20)).unwrap();
    }
    assert_eq!(choices.spans.len(), KEPT_MAX);
}
