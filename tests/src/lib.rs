//! Harness of the truth tests.
