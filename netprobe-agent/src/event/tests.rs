//! Golden and rule tests of the event schema.
