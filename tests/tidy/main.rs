//! Style held as tests: what a reviewer would otherwise have to remember.
//!
//! A rule with exceptions carries them as a ratchet: each names its limit and may only shrink.

mod circles;
mod definitions;
mod edges;
mod size;
mod source;
mod text;
