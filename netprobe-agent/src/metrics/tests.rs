//! Tests of counting, bounds and the page.
