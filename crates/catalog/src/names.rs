//! Rules for names and texts. Applied to every command, so a rule here is part of the format: tightening
//! one would make replicas of two versions disagree about the same log.

use crate::ChangeError;

const EVENT_TYPE_BYTES_MAX: usize = 255;
const SCHEMA_ID_BYTES_MAX: usize = 128;
const ACCOUNT_NAME_BYTES_MAX: usize = 128;
const DESCRIPTION_BYTES_MAX: usize = 1024;

pub(crate) fn check_event_type(field: &str, name: &str) -> Result<(), ChangeError> {
    check(field, name, EVENT_TYPE_BYTES_MAX, "._-/:")
}

pub(crate) fn check_schema_id(field: &str, id: &str) -> Result<(), ChangeError> {
    check(field, id, SCHEMA_ID_BYTES_MAX, "._-")
}

/// Any text that prints on one line.
pub(crate) fn check_account_name(field: &str, name: &str) -> Result<(), ChangeError> {
    if name.is_empty() || name.len() > ACCOUNT_NAME_BYTES_MAX {
        return Err(ChangeError::invalid(field, format!("must have 1 to {ACCOUNT_NAME_BYTES_MAX} bytes")));
    }
    if name.trim() != name || name.chars().any(char::is_control) {
        let problem = "must not begin or end with a space, nor hold control characters";
        return Err(ChangeError::invalid(field, problem));
    }
    Ok(())
}

pub(crate) fn check_description(field: &str, text: &str) -> Result<(), ChangeError> {
    check_bytes(field, text, DESCRIPTION_BYTES_MAX)
}

pub(crate) fn check_bytes(field: &str, text: &str, bytes_max: usize) -> Result<(), ChangeError> {
    if text.len() > bytes_max {
        let problem = format!("has {} bytes; at most {bytes_max} are kept", text.len());
        return Err(ChangeError::invalid(field, problem));
    }
    Ok(())
}

fn check(field: &str, name: &str, bytes_max: usize, punctuation: &str) -> Result<(), ChangeError> {
    if name.is_empty() || name.len() > bytes_max {
        return Err(ChangeError::invalid(field, format!("must have 1 to {bytes_max} characters")));
    }
    match name.chars().find(|&letter| !letter.is_ascii_alphanumeric() && !punctuation.contains(letter)) {
        Some(letter) => {
            let problem = format!("must not hold {letter:?}: use letters, digits and any of {punctuation}");
            Err(ChangeError::invalid(field, problem))
        }
        None => Ok(()),
    }
}
