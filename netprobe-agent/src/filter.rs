//! The one filter grammar.
