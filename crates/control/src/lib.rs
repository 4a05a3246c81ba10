//! The control services: thin edges that convert, check what the edge can check, and call the catalog.
//!
//! Each answer is the caller's own: every object is reached through the tenant that authentication put into the
//! request. Secrets leave the node once, in the answer that created them.

mod event_types;
mod schemas;
mod sinks;
mod subscriptions;

mod dead_letters;

mod control;
mod page;
mod status;
mod time;

pub use control::Control;

#[cfg(test)]
mod tests;
