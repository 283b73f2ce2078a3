//! From when until when a certificate is valid.
//!
//! The TLS library checks this, but hands it out in its errors only. So it is asked whether it would accept the
//! certificate at the beginning and at the end of time: it names the limit that is missed. No parser of our own, and
//! none besides the one that has to understand the certificate anyway.

use std::time::Duration;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};

/// When a certificate is valid, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not before this.
    pub from_unix_s: u64,
    /// Not after this.
    pub until_unix_s: u64,
}

/// The validity of `certificate`, `None` if the TLS library does not tell.
pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Validity> {
    let certificate = ParsedCertificate::try_from(certificate).ok()?;
    let check_at = |unix_s| {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(unix_s));
        // Without roots it can never be accepted, but its time is checked first.
        let none = RootCertStore::empty();
        match verify_server_cert_signed_by_trust_anchor(&certificate, &none, &[], time, &[]) {
            Err(Error::InvalidCertificate(error)) => Some(error),
            _ => None,
        }
    };
    let from_unix_s = match check_at(0)? {
        CertificateError::NotValidYetContext { not_before, .. } => not_before.as_secs(),
        _ => 0,
    };
    match check_at(u64::MAX)? {
        CertificateError::ExpiredContext { not_after, .. } => Some(Validity {
            from_unix_s,
            until_unix_s: not_after.as_secs(),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn valid(from: (i32, u8, u8), until: (i32, u8, u8)) -> Option<Validity> {
        let mut params = CertificateParams::new(vec!["device".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        let key = KeyPair::generate().unwrap();
        of(params.self_signed(&key).unwrap().der())
    }

    #[test]
    fn both_ends_are_read_in_either_encoding() {
        // To 2049 as UTCTime, from 2050 on as GeneralizedTime (RFC 5280, 4.1.2.5).
        let expected = Validity {
            from_unix_s: 1_767_225_600,
            until_unix_s: 2_524_521_600,
        };
        assert_eq!(valid((2026, 1, 1), (2049, 12, 31)), Some(expected));
        let expected = Validity {
            from_unix_s: 2_524_608_000,
            until_unix_s: 4_102_358_400,
        };
        assert_eq!(valid((2050, 1, 1), (2099, 12, 31)), Some(expected));
    }

    #[test]
    fn what_was_valid_from_the_epoch_on_has_no_other_start() {
        let validity = valid((1970, 1, 1), (2027, 1, 1)).unwrap();
        assert_eq!(validity.from_unix_s, 0);
    }

    #[test]
    fn a_certificate_as_aws_makes_it_is_read() {
        let pem = include_bytes!("../../tests/fixtures/rsa2048-cert.pem");
        let der = rustls_pemfile::certs(&mut pem.as_slice())
            .next()
            .unwrap()
            .unwrap();
        let validity = of(&der).unwrap();
        assert!(
            validity.from_unix_s > 1_700_000_000 && validity.until_unix_s > validity.from_unix_s
        );
    }

    #[test]
    fn garbage_has_no_validity() {
        assert_eq!(of(&CertificateDer::from(vec![0x30, 0x00])), None);
    }
}
