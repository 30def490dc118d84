//! Fast scripted load.
