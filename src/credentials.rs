//! The device's certificate and private key, as they come from the environment.
