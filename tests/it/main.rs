//! Behaviour of a real router over real sockets: one file per promise, every test named by what a user can rely on.
//!
//! Knows: what `harness` shows of a router from outside. Never: its insides.
//! Always: a store and ports of its own per test, so that all run side by side; every wait has a deadline; nothing that
//! is missing on the machine makes a test pass.

mod access;
mod authentication;
mod broken_disks;
mod budgets;
mod children;
mod cloud;
mod cloud_faults;
mod cloud_mistakes;
mod cloud_pools;
mod cloud_senders;
mod cloud_to_device;
mod commands;
mod compression;
mod configuration;
mod connections;
mod dialect;
mod drains;
mod durability;
mod foreign;
mod forwarded;
mod identities;
mod inputs;
mod limits;
mod listeners;
mod losses;
mod lost_logs;
mod malformed;
mod manifests;
mod network;
mod pace;
mod paho;
mod properties;
mod proxied;
mod refusals;
mod retained;
mod routes;
mod rumqttc;
mod runtime;
mod scale;
mod scenarios;
mod scripts;
mod sdk;
mod sdk_direct;
mod series;
mod sessions;
mod shards;
mod space;
mod spill;
mod stores;
mod subscriptions;
mod tls;
mod topics;
mod twins_offline;
mod uplink;
mod uplink_exact;
mod uplink_tls;
mod uplink_topics;
mod watchdogs;
mod websocket;
mod wills;
