//! Are files of the TLS listener that cannot be used named, and renewed ones used?

use tempfile::TempDir;

use super::*;

/// PEM of a certificate for `name` and of its key.
fn made_for(name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// A directory with a certificate for `localhost` and its key.
pub(in crate::local) fn files() -> (TempDir, LocalTls) {
    let directory = tempfile::tempdir().unwrap();
    let files = LocalTls {
        listen: ([127, 0, 0, 1], 0).into(),
        cert_path: directory.path().join("cert.pem"),
        key_path: directory.path().join("key.pem"),
        client_ca_path: None,
    };
    write(&files, &made_for("localhost"));
    (directory, files)
}

fn write(files: &LocalTls, (cert, key): &(String, String)) {
    std::fs::write(&files.cert_path, cert).unwrap();
    std::fs::write(&files.key_path, key).unwrap();
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_its_variable() {
    let (directory, mut files) = files();
    let (other_cert, other_key) = made_for("other");
    let said = |files: &LocalTls| server_config(files).unwrap_err().to_string();

    let cert = std::fs::read(&files.cert_path).unwrap();
    for (content, part) in [("", "holds no certificate"), (&other_cert, "together")] {
        std::fs::write(&files.cert_path, content).unwrap();
        let said = said(&files);
        assert!(said.starts_with(CERT) && said.contains(part), "{said}");
        assert!(said.contains("cert.pem"), "{said}");
    }
    std::fs::remove_file(&files.cert_path).unwrap();
    assert!(said(&files).contains("cannot read"), "{}", said(&files));
    std::fs::write(&files.cert_path, cert).unwrap();

    std::fs::write(&files.key_path, &other_cert).unwrap();
    let words = said(&files);
    assert!(
        words.starts_with(KEY) && words.contains("key.pem holds no private key"),
        "{words}"
    );
    std::fs::write(&files.key_path, other_key).unwrap();
    assert!(said(&files).contains("cannot be used together"));

    files.client_ca_path = Some(directory.path().join("ca.pem"));
    write(&files, &made_for("localhost"));
    assert!(said(&files).starts_with(CLIENT_CA), "{}", said(&files));
}

#[tokio::test(start_paused = true)]
async fn a_renewed_certificate_is_used_after_a_while_and_a_broken_one_never() {
    let (_directory, files) = files();
    let tls = Arc::new(Tls::new(files.clone()).unwrap());
    let in_use = || Arc::as_ptr(&tls.lock().config);
    let first = in_use();
    write(&files, &made_for("renewed"));
    tls.acceptor().await;
    assert_eq!(in_use(), first, "not read again at once");
    tokio::time::advance(FILES_AGE_MAX).await;
    tls.acceptor().await;
    let second = in_use();
    assert_ne!(second, first);
    write(&files, &("broken".to_owned(), "broken".to_owned()));
    tokio::time::advance(FILES_AGE_MAX).await;
    tls.acceptor().await;
    assert_eq!(in_use(), second);
}
