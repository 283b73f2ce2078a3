//! The cloud function that registers balena devices with AWS IoT Core.
//!
//! A device that has no credentials POSTs its UUID. The function asks balenaCloud whether there is such
//! a device, gives it a Thing and a certificate in AWS IoT Core, and stores certificate and key as the
//! device's variables in balenaCloud, which pushes them to the device. DELETE undoes it.
//!
//! # Layout
//!
//! * [`request`]: method and body of a request → what is asked for (pure).
//! * [`access`]: who may ask for what (pure).
//! * [`iot`], [`balena`]: the two parties, each a narrow trait and its client.
//! * [`pair`]: which certificate belongs to which key (pure).
//! * [`provisioning`]: the steps; each request completes what an earlier one left unfinished.
//! * [`handler`]: HTTP request → HTTP answer, whatever brought it here.
//! * [`config`]: environment → settings.
//! * [`serve`]: the function as a server of its own; `main` runs it, or AWS Lambda's loop.

pub mod access;
pub mod balena;
pub mod config;
pub mod handler;
pub mod iot;
pub mod pair;
pub mod provisioning;
pub mod request;
// The relay's own: this crate does not depend on the relay, and one type should mask what both must not show.
#[path = "../../src/secret.rs"]
pub mod secret;
pub mod serve;
