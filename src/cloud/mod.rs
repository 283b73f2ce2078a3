//! The egress to the cloud.
