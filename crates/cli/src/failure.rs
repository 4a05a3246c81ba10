//! A failed command as people read it: the attempt, the fault, the next step.
//!
//! The one place where a gRPC status becomes a message, a hint and an exit code.

use std::{
    error::Error as _,
    io::{self, IsTerminal},
    process::ExitCode,
};

use fanfare_client::ConnectError;
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    context::ContextError,
    terminal::{Format, say},
};

/// Exit codes. 0 is success; clap itself exits with 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The request was refused or failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// It does not exist.
    NotFound = 3,
    /// It exists already, changed meanwhile, or is in a state that does not allow it.
    Conflict = 4,
    /// The node cannot be reached, is overloaded, or did not answer in time.
    Unavailable = 5,
    /// No key, a wrong one, or one that may not.
    Auth = 6,
}

/// The message, reason and next step of a failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    /// `SCREAMING_CASE` reason of the server, if it gave one.
    reason: Option<String>,
    details: Vec<String>,
    next: String,
    /// The reader of stdout went away: there is nobody to tell.
    silent: bool,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            reason: None,
            details: Vec::new(),
            next: next.into(),
            silent: false,
        }
    }

    pub(crate) fn usage(message: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message, next)
    }

    /// `attempted` is what the user asked for, such as "create sink".
    pub(crate) fn from_status(attempted: &str, status: &Status) -> Self {
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.clone()).filter(|reason| !reason.is_empty());
        let lost = is_transport(status);
        let message = format!("{attempted}: {}", message_of(status));
        let mut lines = detail_lines(&details);
        // A detail that the message contains already, with or without its place, is not repeated.
        lines.retain(|line| {
            let what = line.split_once(": ").map_or(line.as_str(), |(_, what)| what);
            !message.contains(what)
        });
        Self {
            exit: if lost { Exit::Unavailable } else { exit_of(status.code()) },
            message,
            next: next_step(if lost { Code::Unavailable } else { status.code() }, reason.as_deref()),
            details: lines,
            reason,
            silent: false,
        }
    }

    pub(crate) fn from_publish_error(attempted: &str, error: &fanfare_proto::v1::PublishError) -> Self {
        let code = Code::from_i32(error.code);
        let mut details = Vec::new();
        if !error.field.is_empty() {
            details.push(format!("at {}", error.field));
        }
        if let Some(delay) = error.retry_after_ms {
            details.push(format!("a retry can help after {delay} ms"));
        }
        Self {
            exit: exit_of(code),
            message: format!("{attempted}: {}", error.message),
            reason: Some(error.reason.clone()).filter(|reason| !reason.is_empty()),
            details,
            next: next_step(code, Some(&error.reason)),
            silent: false,
        }
    }

    /// The node answered without what was asked for.
    pub(crate) fn incomplete(attempted: &str) -> Self {
        let message = format!("{attempted}: the answer lacks what was asked for");
        Self::new(Exit::Failed, message, "use the `fanfare` of the node's version")
    }

    pub(crate) fn from_connect(error: ConnectError) -> Self {
        let next = match &error {
            ConnectError::Address { .. } => "give --addr as http://HOST:PORT",
            ConnectError::Key => "copy the key again: it is printable ASCII without blanks",
            ConnectError::Unreachable { .. } => {
                "start a node with `fanfare dev`, or name another with --addr or FANFARE_ADDR"
            }
        };
        let exit = match &error {
            ConnectError::Unreachable { .. } => Exit::Unavailable,
            ConnectError::Address { .. } | ConnectError::Key => Exit::Usage,
        };
        Self::new(exit, with_sources(&error), next)
    }

    pub(crate) fn from_context(error: &ContextError) -> Self {
        let (exit, next) = match error {
            ContextError::NoHome => {
                (Exit::Failed, "name a file with FANFARE_CONTEXT_FILE, or give --addr and --key".into())
            }
            ContextError::Read { path, .. } | ContextError::Write { path, .. } => (
                Exit::Failed,
                format!(
                    "check the rights of {}, or name another file with FANFARE_CONTEXT_FILE",
                    path.display()
                ),
            ),
            ContextError::Parse { path, .. } => (
                Exit::Failed,
                format!(
                    "mend {} (current = \"NAME\"; below [contexts.NAME]: addr = \"http://HOST:PORT\", key = \"KEY\") or move it away",
                    path.display()
                ),
            ),
            ContextError::Unknown { .. } => {
                (Exit::NotFound, "see `fanfare context list`, or save one with `fanfare context add`".into())
            }
            ContextError::Exists { .. } => {
                (Exit::Conflict, "choose another name, or overwrite it with --replace".into())
            }
            ContextError::Name { .. } => (Exit::Usage, "choose a name such as prod".into()),
        };
        Self::new(exit, with_sources(error), next)
    }

    pub(crate) fn from_output(error: io::Error) -> Self {
        let silent = error.kind() == io::ErrorKind::BrokenPipe;
        let failure = Self::new(Exit::Failed, format!("write to stdout: {error}"), "check where stdout goes");
        Self { silent, ..failure }
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// The message and what is known about it, on one line, for lists of failures.
    pub(crate) fn summary(&self) -> String {
        let reason = self.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let details = self.details.iter().map(|detail| format!("; {detail}")).collect::<String>();
        format!("{}{reason}{details}", self.message)
    }

    /// Prints it to stderr and gives the exit code.
    pub(crate) fn report(&self, format: Format) -> ExitCode {
        if self.silent {
            return ExitCode::SUCCESS;
        }
        match format {
            Format::Json => say(&self.as_json()),
            Format::Table => self.print(),
        }
        ExitCode::from(self.exit as u8)
    }

    fn print(&self) {
        let colored = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let reason = self.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        if colored {
            // Written past `say`, which would strip the colour; the message itself still goes through it.
            eprint!("\u{1b}[31merror:\u{1b}[0m ");
            say(&format!("{}{reason}", self.message));
        } else {
            say(&format!("error: {}{reason}", self.message));
        }
        for detail in &self.details {
            say(&format!("  {detail}"));
        }
        say(&format!("next: {}", self.next));
    }

    fn as_json(&self) -> String {
        json!({"error": {
            "exit": self.exit as u8,
            "reason": self.reason,
            "message": self.message,
            "details": self.details,
            "next": self.next,
        }})
        .to_string()
    }
}

fn exit_of(code: Code) -> Exit {
    match code {
        Code::NotFound => Exit::NotFound,
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted | Code::OutOfRange => Exit::Conflict,
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => Exit::Unavailable,
        Code::Unauthenticated | Code::PermissionDenied => Exit::Auth,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => Exit::Failed,
    }
}

fn next_step(code: Code, reason: Option<&str>) -> String {
    let step = match (reason.unwrap_or_default(), code) {
        ("EVENT_TYPE_UNKNOWN", _) => {
            "see the types with `fanfare type list`, or add it with `fanfare type create NAME`"
        }
        ("SCHEMA_VIOLATION", _) => {
            "fix the data; `fanfare type get TYPE` names its schema, `fanfare schema get ID --version 0` shows it"
        }
        ("ETAG_MISMATCH", _) => "it changed meanwhile: get it again, then repeat the change",
        ("EVENT_TOO_LARGE", _) => "send less, or keep the large part elsewhere and publish where it is",
        ("NO_LEADER", _) => {
            "repeat in a moment; a publish with the same --id and --source is not stored twice"
        }
        ("DISK_FULL", _) => {
            "free space on the node's disk, or let it keep less: storage.retention, storage.retention_bytes"
        }
        ("RETAINED_BYTES_LIMIT", _) => {
            "deliver or delete what fills the log, publish less, or raise limits.retained_percent"
        }
        (_, Code::InvalidArgument) => "correct what is named above and repeat",
        (_, Code::NotFound) => "see what exists: every kind has `list`, such as `fanfare sink list`",
        (_, Code::AlreadyExists) => "use another name or id, or get the one that exists",
        (_, Code::FailedPrecondition) => "change the state that is named above, then repeat",
        (_, Code::Aborted) => "read it again, then repeat",
        (_, Code::OutOfRange) => "start at what is still kept: --from earliest",
        (_, Code::ResourceExhausted) => "wait as told above, then repeat",
        (_, Code::Unavailable) => "check that the node runs (`fanfare dev` starts one) and repeat",
        (_, Code::DeadlineExceeded) => {
            "the outcome is unknown: repeat with the same --id and --source, or raise --timeout-seconds"
        }
        (_, Code::Unauthenticated) => {
            "give a key with --key or FANFARE_KEY; the context's key is sent only to the context's address"
        }
        (_, Code::PermissionDenied) => "use a key that may do this",
        (_, Code::Unimplemented) => "the node is of another version: use the `fanfare` that runs it",
        (_, Code::DataLoss) => "call the operator: stored data is damaged; the node's log names the file",
        (_, Code::Ok | Code::Cancelled | Code::Unknown | Code::Internal) => {
            "repeat it; if it stays, the node's log says more"
        }
    };
    step.to_owned()
}

fn detail_lines(details: &ErrorDetails) -> Vec<String> {
    let mut lines = Vec::new();
    for violation in details.bad_request().iter().flat_map(|bad| &bad.field_violations) {
        // The empty JSON pointer is the whole value.
        match violation.field.as_str() {
            "" => lines.push(violation.description.clone()),
            field => lines.push(format!("{field}: {}", violation.description)),
        }
    }
    for violation in details.precondition_failure().iter().flat_map(|failure| &failure.violations) {
        lines.push(format!("{}: {}", violation.subject, violation.description));
    }
    for violation in details.quota_failure().iter().flat_map(|failure| &failure.violations) {
        lines.push(format!("{}: {}", violation.subject, violation.description));
    }
    if let Some(resource) = details.resource_info() {
        lines.push(format!("{} {}", resource.resource_type, resource.resource_name));
    }
    if let Some(info) = details.error_info() {
        let mut metadata: Vec<_> =
            info.metadata.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        metadata.sort();
        lines.extend(metadata);
    }
    if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
        lines.push(format!("a retry can help after {} ms", delay.as_millis()));
    }
    lines
}

/// The connection failed, rather than the node answering with this code.
fn is_transport(status: &Status) -> bool {
    let first = status.source();
    std::iter::successors(first, |&error| error.source())
        .any(|error| error.is::<tonic::transport::Error>() || error.is::<hyper::Error>())
}

fn message_of(status: &Status) -> String {
    match (status.message(), status.source()) {
        ("", None) => status.code().description().to_owned(),
        ("", Some(source)) => with_sources(source),
        // The useful message is the source below "transport error".
        (_, Some(source)) if is_transport(status) => {
            let cause = source.source().unwrap_or(source);
            format!("the connection was lost: {}", with_sources(cause))
        }
        (message, _) => message.to_owned(),
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
