//! The protocols that clients speak to us. MQTT, and the IoT Hub dialect: another reading of the same packets.

pub(crate) mod iothub;
pub(crate) mod mqtt;
