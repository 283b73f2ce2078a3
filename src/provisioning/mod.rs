//! The request to `PROVISION_URL` and the Supervisor client.
