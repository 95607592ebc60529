//! The protocols that clients speak to us. Today MQTT; the IoT Hub dialect will be a second reading of the same packets.

pub(crate) mod mqtt;
