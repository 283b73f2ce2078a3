//! The local MQTT broker.
