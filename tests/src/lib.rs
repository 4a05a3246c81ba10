//! Harness for the suites that start real nodes.
