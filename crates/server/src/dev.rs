//! `fanfare dev`: a node on loopback with an account, a receiver, a sample event type and a trickle of events,
//! so that everything the broker does can be watched within seconds of cloning.
//!
//! Nothing here is a short cut: events go through gRPC, the replicated log and the ordinary webhook sink.

mod console;
mod receiver;
mod sample;

use std::{net::SocketAddr, path::PathBuf, time::Instant};

use anyhow::Context;
use fanfare_model::Secret;
use fanfare_sinks::EgressPolicy;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{ByteSize, Config, LogFormat, TelemetryConfig},
    data_directory, first_key,
    node::Node,
    private_files, shutdown, telemetry, terminal,
};
use console::{Console, Greeting, SavedContext};
use receiver::DevReceiver;
use sample::SampleLoad;

/// The client's context that this command writes, and no other.
const CONTEXT: &str = "dev";

/// Starts a node to try things out: no configuration, loopback only.
#[derive(Debug, clap::Args)]
pub(crate) struct DevCommand {
    /// Data directory, kept between starts.
    #[arg(long, default_value = ".fanfare")]
    data_dir: PathBuf,
    /// Keep nothing: a temporary directory, removed at the end.
    #[arg(long, conflicts_with = "data_dir")]
    ephemeral: bool,
    /// Port of the broker; 0 takes any free one.
    #[arg(long, default_value_t = 7070)]
    port: u16,
    /// Port of the built-in receiver; 0 takes any free one.
    #[arg(long, default_value_t = 7079)]
    receiver_port: u16,
    /// Sample events per second; 0 publishes none.
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// Stop after so many sample events were published and delivered.
    #[arg(long)]
    events: Option<u64>,
}

/// Runs until interrupted, or until `--events` were delivered.
///
/// # Errors
/// If the node cannot start, or the samples cannot be registered.
pub(crate) async fn run(command: DevCommand) -> anyhow::Result<()> {
    let started = Instant::now();
    anyhow::ensure!(
        (0.0..=1000.0).contains(&command.rate),
        "--rate {}: give 0 to 1000 events a second; `fanfare bench publish` measures more",
        command.rate
    );
    private_files::restrict_umask();
    let temporary = command.ephemeral.then(tempfile::tempdir).transpose()?;
    let data_dir =
        temporary.as_ref().map_or_else(|| command.data_dir.clone(), |folder| folder.path().to_owned());
    let receiver_address = SocketAddr::from(([127, 0, 0, 1], command.receiver_port));
    let listener = TcpListener::bind(receiver_address).await.with_context(|| {
        format!(
            "listen on {receiver_address} for the built-in receiver; choose another port with --receiver-port"
        )
    })?;
    let destination = format!("http://{}/webhook", listener.local_addr()?);

    let config = config(&command, &data_dir);
    telemetry::install(&config.telemetry)?;
    data_directory::check_not_foreign(&data_dir)?;
    let node = Node::start(config, egress()).await?;
    let key = key(&node, &data_dir).await?;
    let context = write_context(&node, &key)?;

    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let receiver = DevReceiver::start(listener, &tasks, stop.clone());
    let ready = started.elapsed();
    let sample = SampleLoad::register(node.grpc, key, &destination).await?;
    let mut console = Console::new(receiver, sample, command.rate, command.events);
    let shown = async {
        console.greet(&Greeting {
            node: &node,
            ready,
            data_dir: &data_dir,
            ephemeral: command.ephemeral,
            context,
        })?;
        tokio::select! {
            result = console.run() => result?,
            () = shutdown::requested() => {}
        }
        console.farewell(&data_dir, command.ephemeral)
    };
    let shown = shown.await;
    node.shutdown().await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    // The reader of the output has seen enough, as in `fanfare dev | head`.
    shown.or_else(|error| if terminal::is_closed_pipe(&error) { Ok(()) } else { Err(error) })
}

fn config(command: &DevCommand, data_dir: &std::path::Path) -> Config {
    let mut config = Config::default();
    config.node.data_dir = data_dir.to_owned();
    config.listen.grpc = SocketAddr::from(([127, 0, 0, 1], command.port));
    config.storage.segment_bytes = ByteSize::mib(16);
    config.storage.retention_bytes = ByteSize(1 << 30);
    config.storage.pool_segments_max = 4;
    config.telemetry = TelemetryConfig { log: "warn,openraft=error".into(), log_format: LogFormat::Text };
    config
}

/// Lets the client find the node; without a home there is no place for it, and the flags do.
fn write_context(node: &Node, key: &Secret) -> anyhow::Result<SavedContext> {
    let Some(path) = fanfare_cli::context::default_path() else { return Ok(SavedContext::NoHome) };
    let saved = fanfare_cli::context::save(&path, CONTEXT, &format!("http://{}", node.grpc), key.expose());
    let selected = saved.with_context(|| format!("write the client's contexts {}", path.display()))?;
    Ok(if selected == CONTEXT { SavedContext::Selected } else { SavedContext::Beside { selected } })
}

fn egress() -> EgressPolicy {
    EgressPolicy {
        allow_cidrs: Vec::new(),
        allow_http: true,
        allow_loopback: true,
        allow_node_credentials: true,
    }
}

/// The dev account's key: made on the first start, kept beside the data for the next.
async fn key(node: &Node, data_dir: &std::path::Path) -> anyhow::Result<Secret> {
    let file = data_dir.join("dev-key");
    first_key::ensure(&node.catalog, "dev", &file).await?;
    let text = std::fs::read_to_string(&file).with_context(|| {
        format!("read the dev account's key {}; remove {} to begin anew", file.display(), data_dir.display())
    })?;
    Ok(Secret::new(text.trim().to_owned()))
}
