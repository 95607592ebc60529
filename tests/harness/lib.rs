//! Starts and stops real processes for the tests.
