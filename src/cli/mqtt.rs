//! The packets that the tools send to the relay's own broker, in MQTT 3.1.1 or 5. Pure.

use std::io;

use crate::local::LocalLogin;

const CONNECT: u8 = 0x10;

/// The protocol level of MQTT 3.1.1 and of 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    V311 = 4,
    V5 = 5,
}

/// CONNECT with a clean session, no keep alive and no properties (MQTT 3.1.1 and 5, section 3.1).
pub(super) fn connect(
    level: Level,
    client_id: &str,
    login: Option<&LocalLogin>,
) -> io::Result<Vec<u8>> {
    const CLEAN_SESSION: u8 = 0x02;
    const USER_NAME_AND_PASSWORD: u8 = 0xC0;
    let flags = match login {
        Some(_) => CLEAN_SESSION | USER_NAME_AND_PASSWORD,
        None => CLEAN_SESSION,
    };
    let mut body = b"\x00\x04MQTT".to_vec();
    body.extend([level as u8, flags, 0, 0]);
    if level == Level::V5 {
        put_length(&mut body, 0)?;
    }
    put_text(&mut body, client_id)?;
    if let Some(login) = login {
        put_text(&mut body, &login.user)?;
        put_text(&mut body, login.password.expose())?;
    }
    packet(CONNECT, &[&body])
}

pub(super) fn put_text(bytes: &mut Vec<u8>, text: &str) -> io::Result<()> {
    let len = u16::try_from(text.len()).map_err(io::Error::other)?;
    bytes.extend(len.to_be_bytes());
    bytes.extend(text.as_bytes());
    Ok(())
}

/// A packet from its first byte and the parts of its body.
pub(super) fn packet(first: u8, parts: &[&[u8]]) -> io::Result<Vec<u8>> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut bytes = vec![first];
    put_length(&mut bytes, len)?;
    for part in parts {
        bytes.extend(*part);
    }
    Ok(bytes)
}

/// A variable byte integer (MQTT 5, 1.5.5).
pub(super) fn put_length(bytes: &mut Vec<u8>, len: usize) -> io::Result<()> {
    let mut rest = u32::try_from(len).map_err(io::Error::other)?;
    loop {
        let more = if rest > 127 { 128 } else { 0 };
        bytes.push(u8::try_from(rest % 128).unwrap_or(0) | more);
        rest /= 128;
        if rest == 0 {
            return Ok(());
        }
    }
}
