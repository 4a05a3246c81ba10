//! The reason of a failed attempt, for people and for statistics.

use std::{error::Error, fmt, iter};

/// A stable class, and one line that is safe to show to the sink's owner and to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// One of the constants of this type.
    pub class: &'static str,
    /// HTTP status, 0 if none was received.
    pub status: u16,
    /// At most 256 characters, all printable.
    pub message: String,
}

impl Failure {
    /// The destination is, or resolves to, an address that the operator does not allow.
    pub const ADDRESS_FORBIDDEN: &'static str = "address_forbidden";
    pub const DNS: &'static str = "dns";
    /// No connection, be it refused, unreachable or not answered in time.
    pub const CONNECT: &'static str = "connect";
    /// The account's sinks have as many connections open as they may.
    pub const CONNECTION_BUDGET: &'static str = "connection_budget";
    pub const TLS: &'static str = "tls";
    /// Connected, but no answer in time.
    pub const TIMEOUT: &'static str = "timeout";
    /// Connected, but the connection ended before an answer.
    pub const CONNECTION_LOST: &'static str = "connection_lost";
    /// The answer was not HTTP, or its head too large.
    pub const PROTOCOL: &'static str = "protocol";
    pub const HTTP_STATUS: &'static str = "http_status";
    /// A 3xx answer: redirects are never followed.
    pub const REDIRECT: &'static str = "redirect";
    /// 410: the receiver says that it will take nothing any more.
    pub const GONE: &'static str = "gone";
    /// The event cannot be expressed in the sink's format.
    pub const ENCODING: &'static str = "encoding";
    /// The event is larger than the sink can take.
    pub const TOO_LARGE: &'static str = "too_large";
    pub const THROTTLED: &'static str = "throttled";
    /// Credentials missing or refused.
    pub const CREDENTIALS: &'static str = "credentials";
    /// The service answered with an error of its own.
    pub const SERVICE: &'static str = "service";

    const MESSAGE_CHARS_MAX: usize = 256;

    /// Cuts `message`, which may come from anywhere, and replaces characters that could disturb a terminal or a log.
    #[must_use]
    pub fn new(class: &'static str, message: &str) -> Self {
        Self { class, status: 0, message: printable(message) }
    }

    #[must_use]
    pub fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }
}

/// Class, status if there is one, and message, in one line.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            0 => write!(f, "{}: {}", self.class, self.message),
            status => write!(f, "{} {status}: {}", self.class, self.message),
        }
    }
}

/// The text of the innermost error of a chain, which names the reason.
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

fn printable(text: &str) -> String {
    let mut words = text.trim().chars().map(|symbol| if is_printable(symbol) { symbol } else { ' ' });
    let mut line: String = words.by_ref().take(Failure::MESSAGE_CHARS_MAX).collect();
    if words.next().is_some() {
        line.pop();
        line.extend(iter::once('…'));
    }
    line
}

/// False for control characters and for those that reorder or hide text.
fn is_printable(symbol: char) -> bool {
    !symbol.is_control()
        && !matches!(symbol,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_one_short_printable_line() {
        let failure = Failure::new(Failure::TLS, " a\r\nb\x1b[31mc\u{202e}d\0e ");
        assert_eq!(failure.message, "a  b [31mc d e");
        let long = Failure::new(Failure::TLS, &"é".repeat(1000)).message;
        assert_eq!(long.chars().count(), 256);
        assert!(long.ends_with('…'));
        assert_eq!(Failure::new(Failure::TLS, &"x".repeat(256)).message, "x".repeat(256));
    }
}
