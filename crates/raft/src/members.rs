//! The record that a group has had another member than this replica.
//!
//! Log and checkpoint name the members as well, but both may be damaged when an operator asks whether a loss can be
//! accepted. Invariant: the record is durable before log or checkpoint hold a membership with another member.

use fanfare_environment::Environment;
use fanfare_log::{Fatal, OpenError, Store};
use tokio::sync::Mutex;

use crate::{
    entry::{Membership, StoredMembership, encoding},
    id::GroupId,
};

const VERSION: u32 = 1;

/// Keeps the record of one replica.
pub(crate) struct MembersRecord {
    store: Store,
    environment: Environment,
    file: String,
    is_written: Mutex<bool>,
}

impl MembersRecord {
    pub(crate) fn new(store: Store, group: GroupId, environment: Environment) -> Self {
        Self { store, environment, file: file_name(group), is_written: Mutex::new(false) }
    }

    /// Durable at return if the membership has several members. Written once per start; free after that.
    pub(crate) async fn note(&self, membership: &Membership) -> Result<(), Fatal> {
        if !has_several(membership) {
            return Ok(());
        }
        let mut is_written = self.is_written.lock().await;
        if *is_written {
            return Ok(());
        }
        let (store, file, bytes) =
            (self.store.clone(), self.file.clone(), encoding::encode_membership(membership));
        self.environment.run_blocking(move || store.save_file(&file, VERSION, &bytes)).await?;
        *is_written = true;
        Ok(())
    }
}

/// Evidence, in words, that the group has had several members; None if there is none. `memberships` are those of the
/// checkpoint. Blocking.
pub(crate) fn evidence(
    store: &Store,
    group: GroupId,
    memberships: &[StoredMembership],
) -> Result<Option<String>, OpenError> {
    let known = memberships.iter().map(StoredMembership::membership).find(|known| has_several(known));
    if let Some(membership) = known {
        return Ok(Some(described(membership)));
    }
    let file = file_name(group);
    let doubt = |reason: &dyn std::fmt::Display| format!("its record in {file} cannot be read ({reason})");
    match store.load_file(&file) {
        Ok(None) => Ok(None),
        Ok(Some((_, bytes))) => Ok(Some(match encoding::decode_membership(&bytes) {
            Ok(membership) => described(&membership),
            Err(malformed) => doubt(&malformed),
        })),
        // The file is there, and only a group with several members has one.
        Err(error @ (OpenError::Corrupt { .. } | OpenError::Newer { .. } | OpenError::Io(_))) => {
            Ok(Some(doubt(&error)))
        }
        Err(other) => Err(other),
    }
}

fn has_several(membership: &Membership) -> bool {
    membership.nodes().count() > 1
}

fn described(membership: &Membership) -> String {
    let members = membership.nodes().map(|(replica, at)| format!("replica {replica} on node {}", at.node));
    members.collect::<Vec<_>>().join(", ")
}

/// Name of the file that holds the record.
fn file_name(group: GroupId) -> String {
    format!("members-{group}")
}
