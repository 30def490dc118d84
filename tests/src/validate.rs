//! The million.
