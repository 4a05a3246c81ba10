use clap::{CommandFactory, Parser, error::ErrorKind};

use super::*;
use crate::{failure::Exit, terminal::Format};

#[derive(Debug, Parser)]
#[command(name = "fanfare")]
struct CommandLine {
    #[command(flatten)]
    global: GlobalOptions,
    #[command(subcommand)]
    command: Command,
}

fn parse(line: &str) -> Result<CommandLine, clap::Error> {
    CommandLine::try_parse_from(std::iter::once("fanfare").chain(line.split_whitespace()))
}

#[test]
fn the_command_tree_is_consistent() {
    CommandLine::command().debug_assert();
}

#[test]
fn documented_command_lines_are_understood() {
    for line in [
        "publish com.acme.order.paid {\"total\":42}",
        "publish t @order.json --source /shop --subject o-1 --id 7 --dataschema urn:x",
        "publish t - --rate 100",
        "publish t {} --count 1000 --rate 200 --partition-key k",
        "event tail --type a --type b --from earliest --limit 5 --no-follow",
        "event tail --from 17 --partition 3",
        "event tail --from 2026-01-31T12:00:00Z -o json",
        "event get 0192 --source /shop",
        "type create a.b --schema Acme.B --description x",
        "type update a.b --status deprecated",
        "type list --limit 3",
        "schema create Acme.B --file b.json",
        "schema version add Acme.B --file b.json",
        "schema version list Acme.B",
        "schema get Acme.B --version 2",
        "sink create webhook --url https://x.test/hook --batch --batch-events-max 10 --method put --timeout-ms 500",
        "sink create kinesis --arn arn:aws:kinesis:eu-west-1:1:stream/x --role-arn r --external-id e",
        "sink list --output json",
        "sink update DG1 --url https://new.test/ --signing-secret whsec_x --batch false",
        "sink update DG1 --role-arn r --description x",
        "sub update DF1 --sink DG2 --type a --type b@2",
        "sub delete DF1 --yes",
        "subscription create --sink DG1 --type a --type b@2 --from earliest",
        "sub pause DF1",
        "status --limit 20",
        "listen --type a --forward-to http://localhost:3000/hook",
        "listen -o json",
        "deadletter list --subscription DF1 --limit 5",
        "dlq get d1",
        "dlq redrive DF1 --all --follow",
        "dlq redrive DF1 d1 d2",
        "dlq purge DF1 --reason rejected --reason retention --since 2026-01-31T12:00:00Z",
        "dlq redrives --subscription DF1",
        "dlq cancel DR1",
        "bench publish --print-schema",
        "bench publish --producers 8 --in-flight 128 --batch 1 --keys 10000 --size-bytes 1024 --schema",
        "bench publish --rate 100000 --seconds 5 --warmup-seconds 1 --keys-file keys --count 1000000",
        "bench deliver --rate 1000 --seconds 5",
        "bench deliver --count 1000000 --sink-batch --patience-seconds 30",
        "context list",
        "context use prod",
        "context show prod --reveal",
        "context add prod --addr https://h:1 --key-file - --select",
        "context remove prod",
        "sink list --context prod",
        "--addr http://h:1 --key k subscription stats DF1 -o json",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn senseless_command_lines_are_refused_as_usage() {
    let cases = [
        ("", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("publish", ErrorKind::MissingRequiredArgument),
        ("publish t {} --id 1 --count 2", ErrorKind::ArgumentConflict),
        ("publish t {} --count 0", ErrorKind::ValueValidation),
        ("publish t {} --rate 0", ErrorKind::ValueValidation),
        ("event tail --from yesterday", ErrorKind::ValueValidation),
        ("sub update DF1", ErrorKind::MissingRequiredArgument),
        ("sub create --sink DG1", ErrorKind::MissingRequiredArgument),
        ("sub create --sink DG1 --type a@0", ErrorKind::ValueValidation),
        ("sink create webhook --url u --batch-events-max 3", ErrorKind::MissingRequiredArgument),
        ("sink create ftp --url u", ErrorKind::InvalidSubcommand),
        ("sink list -o yaml", ErrorKind::InvalidValue),
        ("listen --forward-to https://x.test/", ErrorKind::ValueValidation),
        ("bench publish --producers 0", ErrorKind::ValueValidation),
        ("bench publish --size-bytes 100", ErrorKind::ValueValidation),
        ("bench publish --seconds 0", ErrorKind::ValueValidation),
        ("bench deliver --rate 0", ErrorKind::ValueValidation),
        ("bench deliver --count 0", ErrorKind::ValueValidation),
        ("type list --limit 0", ErrorKind::ValueValidation),
        ("type list --timeout-seconds 0", ErrorKind::ValueValidation),
    ];
    for (line, expected) in cases {
        let error = parse(line).expect_err(line);
        assert_eq!(error.kind(), expected, "{line}");
        assert_eq!(error.exit_code(), Exit::Usage as i32, "{line}");
    }
}

#[test]
fn global_options_are_taken_before_and_after_the_command() {
    for line in ["--addr http://h:1 -o json type list", "type list --addr http://h:1 -o json"] {
        let global = parse(line).unwrap().global;
        assert_eq!((global.addr.as_deref(), global.output), (Some("http://h:1"), Format::Json), "{line}");
    }
}
