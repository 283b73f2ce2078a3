//! A certificate signing request (PKCS #10, RFC 2986) for a P-256 key, as PEM. Pure: whoever has the key signs.
//!
//! It says one name and one key, and asks for no extension: AWS IoT Core decides what is in the
//! certificate. One shape of request takes a page of DER; a library for all of them, `rcgen`, would
//! bring eight crates.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Characters in a line of PEM (RFC 7468, section 2).
const PEM_LINE_CHARS: usize = 64;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const UTF8_STRING: u8 = 0x0c;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]`, constructed: the attributes of a request.
const ATTRIBUTES: u8 = 0xa0;

/// OBJECT IDENTIFIER 2.5.4.3: the common name.
const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];
/// OBJECT IDENTIFIER 1.2.840.10045.2.1, then 1.2.840.10045.3.1.7: a public key on the curve P-256.
const P256_PUBLIC_KEY: [u8; 19] = [
    0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d,
    0x03, 0x01, 0x07,
];
/// OBJECT IDENTIFIER 1.2.840.10045.4.3.2: ECDSA with SHA-256.
const ECDSA_WITH_SHA256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// The request of `common_name` for the public key `point` (uncompressed), signed by `sign` (ASN.1).
pub(super) fn pem<E>(
    common_name: &str,
    point: &[u8],
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
) -> Result<String, E> {
    let attribute = [&COMMON_NAME, &*tlv(UTF8_STRING, common_name.as_bytes())].concat();
    let subject = tlv(SEQUENCE, &tlv(SET, &tlv(SEQUENCE, &attribute)));
    let public_key = [tlv(SEQUENCE, &P256_PUBLIC_KEY), bit_string(point)].concat();
    let info = [
        tlv(INTEGER, &[0]),
        subject,
        tlv(SEQUENCE, &public_key),
        tlv(ATTRIBUTES, &[]),
    ];
    let info = tlv(SEQUENCE, &info.concat());
    let signature = bit_string(&sign(&info)?);
    let request = [info, tlv(SEQUENCE, &ECDSA_WITH_SHA256), signature].concat();
    Ok(armour("CERTIFICATE REQUEST", &tlv(SEQUENCE, &request)))
}

/// `der` as PEM under `label`.
pub(super) fn armour(label: &str, der: &[u8]) -> String {
    let mut pem = format!("-----BEGIN {label}-----");
    for (at, character) in STANDARD.encode(der).chars().enumerate() {
        if at % PEM_LINE_CHARS == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem + &format!("\n-----END {label}-----\n")
}

/// A tag, the length of the content, and the content (X.690, section 8.1).
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    const LONG_FORM: usize = 0x80;
    let length = content.len().to_be_bytes();
    let significant: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut bytes = vec![tag];
    if content.len() >= LONG_FORM {
        let count = LONG_FORM + significant.len();
        bytes.push(u8::try_from(count).expect("invariant: a length has at most eight bytes"));
        bytes.extend(significant);
    } else {
        bytes.extend(significant.first().or(Some(&0)));
    }
    bytes.extend_from_slice(content);
    bytes
}

/// Whole bytes as a BIT STRING: none of the last one's bits is unused.
fn bit_string(bytes: &[u8]) -> Vec<u8> {
    tlv(BIT_STRING, &[&[0], bytes].concat())
}
