//! The connect flags, the same in both versions (MQTT 3.1.2.3, MQTT 5 3.1.2.3).

pub(super) const RESERVED: u8 = 0x01;
/// Clean session, clean start in MQTT 5.
pub(super) const CLEAN: u8 = 0x02;
pub(super) const WILL: u8 = 0x04;
pub(super) const WILL_QOS_AND_RETAIN: u8 = 0x38;
pub(super) const PASSWORD: u8 = 0x40;
pub(super) const USER_NAME: u8 = 0x80;
