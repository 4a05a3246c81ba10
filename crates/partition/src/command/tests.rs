use super::*;

fn commands() -> Vec<(&'static str, Command)> {
    let subscription = SubscriptionId::from_bytes([0xd0; 16]);
    let account = AccountId::from_bytes([0xa0; 16]);
    let filter: Arc<[u8]> = Arc::from([0xab, 0xcd]);
    let attach = |start| Command::Attach {
        subscription,
        account,
        epoch: 3,
        filter_revision: 9,
        filter: filter.clone(),
        start,
    };
    let record = RecordChange {
        read_to: Offset(0x64),
        window: vec![Offset(0x50), Offset(0x51)],
        parked: vec![ParkedKey {
            key: KeyHash(7),
            from: Offset(0x40),
            attempts: 2,
            retry_in_ms: 1_500,
            pending: 4,
        }],
        released: vec![KeyHash(8), KeyHash(9)],
        outage: Some(SinkOutage {
            sink_revision: 0x21,
            reason: OutageReason::Throttled,
            age_ms: 60_000,
            probes: 3,
            retry_after_ms: 2_000,
        }),
    };
    let settled = BTreeMap::from([(Outcome::Delivered, 5), (Outcome::DeadLettered(Reason::Rejected), 1)]);
    let (epoch, matched) = (3, 12);
    let empty = CursorAdvance {
        subscription,
        epoch,
        matched,
        matched_to: None,
        settled: BTreeMap::new(),
        record: None,
    };
    let full = CursorAdvance { matched_to: Some(Offset(0x70)), settled, record: Some(record), ..empty };
    let position = Position { term: 4, leader: 5, index: 6 };
    let (id, kind) = (RedriveId::from_bytes([0xe0; 16]), RedriveKind::Purge);
    let progress = RedriveProgress {
        id,
        position: Offset(0x90),
        withdrawn: vec![Offset(0x81), Offset(0x82)],
        stayed: 3,
        last_failure: Some("no".to_owned()),
    };
    vec![
        ("attach next", attach(Start::Next)),
        ("attach earliest", attach(Start::Earliest)),
        ("attach time", attach(Start::Time { time: Timestamp(0x11), offset: Offset(0x22) })),
        ("detach", Command::Detach { subscription, epoch: 3, reason: Reason::Deleted }),
        (
            "advance",
            Command::Advance {
                term: 4,
                advance: Advance { frontier: Offset(0x80), cursors: vec![full, empty] },
            },
        ),
        ("trim", Command::Trim { term: 4, to: Offset(0x30), position }),
        (
            "start redrive",
            Command::Redrive(RedriveCommand::Start(StartRedrive { id, account, subscription, kind, filter })),
        ),
        ("advance redrive", Command::Redrive(RedriveCommand::Advance { term: 4, progress })),
        ("cancel redrive", Command::Redrive(RedriveCommand::Cancel { id, account })),
    ]
}

#[test]
fn formats_equal_the_golden_file() {
    let mut golden = include_str!("golden.txt").lines();
    for (name, command) in commands() {
        let hex: String = command.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(Some(format!("{name}: {hex}").as_str()), golden.next());
        assert_eq!(Command::decode(&command.encode()), Ok(command));
    }
    assert_eq!(golden.next(), None);
}

#[test]
fn cut_extended_or_flipped_bytes_never_panic_and_never_pass_for_the_same_command() {
    for (name, command) in commands() {
        let bytes = command.encode();
        for end in 0..bytes.len() {
            assert!(Command::decode(&bytes[..end]).is_err(), "{name} cut at {end}");
        }
        assert_eq!(
            Command::decode(&[&bytes[..], &[0]].concat()),
            Err(CodecError::Malformed(Malformed("command")))
        );
        for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert_ne!(Command::decode(&flipped).as_ref(), Ok(&command), "{name} flipped at {at}");
        }
    }
}

#[test]
fn newer_version_is_refused_by_number() {
    let (_, command) = commands().remove(0);
    let mut bytes = command.encode();
    bytes[0] = 4;
    let newer = CodecError::Version { what: "command", version: VERSION + 1, known: VERSION };
    assert_eq!(Command::decode(&bytes), Err(newer));
}

#[test]
fn counters_that_settled_more_than_they_matched_are_refused() {
    let mut out = Writer::new();
    encode_counters(&mut out, &Counters { matched: 4, settled: BTreeMap::from([(Outcome::Delivered, 5)]) });
    assert_eq!(decode_counters(&mut Reader::new(out.as_slice(), "test")), Err(CodecError::Value("counters")));
}
