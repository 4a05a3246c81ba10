//! `fanfare publish`: one event, the same event many times, or one event per line of stdin.

use std::{io, path::Path, time::Duration};

use clap::Args;
use fanfare_client::{Acknowledgement, DEFAULT_SOURCE, EventBuilder, PublishStream, Stored};
use fanfare_proto::{cloudevents::v1::CloudEvent, v1};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Stdin},
    time::Instant,
};

use crate::{
    failure::{Exit, Failure},
    output::{Output, OutputFields},
    session::Session,
    terminal::say,
};

/// A line of stdin and a file may be as long as a request.
const INPUT_BYTES_MAX: u64 = 4 << 20;

#[derive(Args, Debug)]
pub struct PublishArguments {
    /// Event type, such as com.acme.order.paid
    #[arg(value_name = "TYPE")]
    event_type: String,
    /// JSON, @FILE, or - for one JSON value per line of stdin; no data if left out
    #[arg(value_name = "JSON|@FILE|-")]
    data: Option<String>,
    /// Source of the event, a URI reference
    #[arg(long, value_name = "URI", default_value = DEFAULT_SOURCE)]
    source: String,
    /// Subject of the event; decides the order unless --partition-key is given
    #[arg(long)]
    subject: Option<String>,
    /// Events of one key stay in order
    #[arg(long, value_name = "KEY")]
    partition_key: Option<String>,
    /// Identity within the source; a repeat is stored once [default: a fresh UUIDv7]
    #[arg(long, conflicts_with = "count")]
    id: Option<String>,
    /// Schema version the data is meant for
    #[arg(long, value_name = "URI")]
    dataschema: Option<String>,
    /// Publish so many events with the same data
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Events per second, with --count or stdin [default: as fast as they are committed]
    #[arg(long, value_name = "PER-SECOND", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
}

pub(crate) async fn run(arguments: PublishArguments, session: &Session) -> Result<(), Failure> {
    if arguments.data.as_deref() == Some("-") {
        if arguments.id.is_some() || arguments.count.is_some() {
            return Err(Failure::usage(
                "--id and --count make no sense for events from stdin",
                "leave them out: each line is one event with an id of its own",
            ));
        }
        return Box::pin(publish_lines(&arguments, session)).await;
    }
    let data = read_data(arguments.data.as_deref()).await?;
    match arguments.count {
        Some(count) => Box::pin(publish_many(&arguments, data.as_deref(), count, session)).await,
        None => publish_one(&arguments, data.as_deref(), session).await,
    }
}

async fn publish_one(
    arguments: &PublishArguments,
    data: Option<&str>,
    session: &Session,
) -> Result<(), Failure> {
    let event = build(arguments, data).map_err(|error| not_json(&error))?;
    let client = session.connect().await?;
    let (id, started) = (event.id.clone(), Instant::now());
    let attempted = format!("publish {}", arguments.event_type);
    let stored = client.publish(event).await.map_err(|status| Failure::from_status(&attempted, &status))?;
    let v1::PublishResponse { partition, offset, duplicate } = stored;
    print_stored(session.output, &id, Stored { partition, offset, duplicate }, started.elapsed())
}

async fn publish_many(
    arguments: &PublishArguments,
    data: Option<&str>,
    count: u64,
    session: &Session,
) -> Result<(), Failure> {
    let mut stream = PublishSession::open(arguments, session).await?;
    for number in 1..=count {
        stream.wait_for_turn().await?;
        let event = build(arguments, data).map_err(|error| not_json(&error))?;
        stream.send(event, number).await?;
    }
    stream.finish().await
}

async fn publish_lines(arguments: &PublishArguments, session: &Session) -> Result<(), Failure> {
    let mut stream = PublishSession::open(arguments, session).await?;
    let mut lines = InputLines { stdin: BufReader::new(tokio::io::stdin()), line: Vec::new(), number: 0 };
    loop {
        let more = tokio::select! {
            biased;
            settled = stream.inner.next(), if stream.inner.outstanding() > 0 => {
                stream.print(settled)?;
                continue;
            }
            more = lines.read() => more?,
        };
        if !more {
            return stream.finish().await;
        }
        let (line, number) = lines.take();
        let text = String::from_utf8_lossy(&line);
        if text.trim().is_empty() {
            continue;
        }
        match build(arguments, Some(text.trim())) {
            Ok(event) => {
                stream.wait_for_turn().await?;
                stream.send(event, number).await?;
            }
            Err(error) => stream.refuse(number, &not_json(&error)),
        }
    }
}

/// Lines of stdin, each at most as long as a request. Reading is cancel safe: a line that was begun stays.
struct InputLines {
    stdin: BufReader<Stdin>,
    line: Vec<u8>,
    number: u64,
}

impl InputLines {
    /// True if a line was read; `take` gives that line.
    async fn read(&mut self) -> Result<bool, Failure> {
        let room = INPUT_BYTES_MAX.saturating_sub(self.line.len() as u64);
        let read = (&mut self.stdin).take(room).read_until(b'\n', &mut self.line).await;
        read.map_err(|error| Failure::new(Exit::Failed, format!("read stdin: {error}"), "check the input"))?;
        if self.line.len() as u64 >= INPUT_BYTES_MAX {
            return Err(Failure::new(
                Exit::Failed,
                format!("line {}: longer than {INPUT_BYTES_MAX} bytes", self.number + 1),
                "write one JSON value per line",
            ));
        }
        Ok(!self.line.is_empty())
    }

    fn take(&mut self) -> (Vec<u8>, u64) {
        self.number += 1;
        (std::mem::take(&mut self.line), self.number)
    }
}

/// A publish stream that prints what becomes of its events.
struct PublishSession<'a> {
    inner: PublishStream,
    arguments: &'a PublishArguments,
    output: Output,
    /// Line (or count) and id by ordinal, for what is outstanding.
    names: std::collections::HashMap<u64, (u64, String)>,
    committed: u64,
    failed: u64,
    started: Instant,
    turns: u64,
}

impl<'a> PublishSession<'a> {
    async fn open(arguments: &'a PublishArguments, session: &Session) -> Result<Self, Failure> {
        let client = session.connect().await?;
        let inner = client
            .publish_stream()
            .await
            .map_err(|status| Failure::from_status("open publish stream", &status))?;
        Ok(Self {
            inner,
            arguments,
            output: session.output,
            names: std::collections::HashMap::new(),
            committed: 0,
            failed: 0,
            started: Instant::now(),
            turns: 0,
        })
    }

    /// Waits until the rate allows the next event; prints what is settled meanwhile.
    async fn wait_for_turn(&mut self) -> Result<(), Failure> {
        let Some(rate) = self.arguments.rate else { return Ok(()) };
        let due = self.started + Duration::from_secs(1).mul_f64(self.turns as f64 / f64::from(rate));
        self.turns += 1;
        loop {
            tokio::select! {
                biased;
                settled = self.inner.next(), if self.inner.outstanding() > 0 => self.print(settled)?,
                () = tokio::time::sleep_until(due) => return Ok(()),
            }
        }
    }

    async fn send(&mut self, event: CloudEvent, number: u64) -> Result<(), Failure> {
        let id = event.id.clone();
        let ordinals = self.inner.send(vec![event]).await.map_err(|status| self.broken(&status))?;
        self.names.insert(ordinals.start, (number, id));
        while let Some(settled) = self.inner.try_next() {
            self.print(Ok(Some(settled)))?;
        }
        Ok(())
    }

    fn refuse(&mut self, number: u64, failure: &Failure) {
        self.failed += 1;
        let unit = if self.arguments.count.is_some() { "event" } else { "line" };
        say(&format!("{unit} {number}: {}", failure.summary()));
    }

    fn print(&mut self, settled: Result<Option<Acknowledgement>, tonic::Status>) -> Result<(), Failure> {
        let Some(settled) = settled.map_err(|status| self.broken(&status))? else { return Ok(()) };
        let (number, id) = self.names.remove(&settled.ordinal).unwrap_or_default();
        match settled.outcome {
            Ok(stored) => {
                self.committed += 1;
                print_stored(self.output, &id, stored, settled.elapsed)
            }
            Err(error) => {
                let failure =
                    Failure::from_publish_error(&format!("publish {}", self.arguments.event_type), &error);
                self.refuse(number, &failure);
                Ok(())
            }
        }
    }

    async fn finish(mut self) -> Result<(), Failure> {
        while self.inner.outstanding() > 0 || !self.names.is_empty() {
            let settled = self.inner.next().await;
            self.print(settled)?;
        }
        let seconds = self.started.elapsed().as_secs_f64();
        say(&format!("{} committed, {} failed in {seconds:.1} s", self.committed, self.failed));
        if self.failed > 0 {
            return Err(Failure::new(
                Exit::Failed,
                format!("{} of {} events were not published", self.failed, self.failed + self.committed),
                "correct what is named above and publish those again",
            ));
        }
        Ok(())
    }

    fn broken(&self, status: &tonic::Status) -> Failure {
        let attempted = format!("publish (after {} committed, {} unknown)", self.committed, self.names.len());
        Failure::from_status(&attempted, status)
    }
}

async fn read_data(data: Option<&str>) -> Result<Option<String>, Failure> {
    match data {
        Some(text) => match text.strip_prefix('@') {
            Some(path) => read_file(Path::new(path)).await.map(Some),
            None => Ok(Some(text.to_owned())),
        },
        None => Ok(None),
    }
}

/// A file of at most a request's size.
pub(crate) async fn read_file(path: &Path) -> Result<String, Failure> {
    let read = async {
        let mut text = String::new();
        let file = tokio::fs::File::open(path).await?;
        file.take(INPUT_BYTES_MAX + 1).read_to_string(&mut text).await?;
        if text.len() as u64 > INPUT_BYTES_MAX {
            return Err(io::Error::other(format!("longer than {INPUT_BYTES_MAX} bytes")));
        }
        Ok(text)
    };
    read.await.map_err(|error: io::Error| {
        Failure::usage(format!("read {}: {error}", path.display()), "name a file of UTF-8 text")
    })
}

fn build(arguments: &PublishArguments, data: Option<&str>) -> Result<CloudEvent, serde_json::Error> {
    let mut builder = EventBuilder::new(&arguments.event_type).source(&arguments.source);
    if let Some(id) = &arguments.id {
        builder = builder.id(id);
    }
    if let Some(subject) = &arguments.subject {
        builder = builder.subject(subject);
    }
    if let Some(key) = &arguments.partition_key {
        builder = builder.partition_key(key);
    }
    if let Some(uri) = &arguments.dataschema {
        builder = builder.dataschema(uri);
    }
    if let Some(data) = data {
        builder = builder.json(data)?;
    }
    Ok(builder.build())
}

fn not_json(error: &serde_json::Error) -> Failure {
    Failure::usage(
        format!("the data is not JSON: {error}"),
        "quote it for the shell, as in '{\"total\": 42}'",
    )
}

fn print_stored(output: Output, id: &str, stored: Stored, elapsed: Duration) -> Result<(), Failure> {
    let Stored { partition, offset, duplicate } = stored;
    let elapsed_ms = elapsed.as_secs_f64() * 1000.0;
    if output.is_json() {
        return output.fields(
            OutputFields::new()
                .with("partition", &partition)
                .with("offset", &offset)
                .with("id", &id)
                .with("duplicate", &duplicate)
                .with("committedMs", &((elapsed_ms * 1000.0).round() / 1000.0)),
        );
    }
    let note = if duplicate { " (duplicate: stored before)" } else { "" };
    output.line(&format!("{partition}@{offset}  id={id}  committed in {elapsed_ms:.1} ms{note}"))
}
