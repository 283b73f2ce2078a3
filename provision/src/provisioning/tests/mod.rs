//! The steps over parties in memory: a fault at every call, requests at once, what the owner may have left.

mod faults;
mod rivals;
mod states;
pub(crate) mod world;
