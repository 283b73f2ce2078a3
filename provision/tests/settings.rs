//! The program with settings and arguments that it cannot use.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Command;

#[test]
fn a_setting_that_is_not_utf8_is_named_and_another_programs_variable_does_not_matter() {
    let output = Command::new(env!("CARGO_BIN_EXE_provision"))
        .args(["serve", "--listen", "127.0.0.1:0"])
        .env_clear()
        .env("AWS_IOT_POLICY", "cloud-relay")
        .env("BALENA_API_KEY", "key")
        .env("AWS_REGION", "eu-central-1")
        .env(
            "PROVISION_TOKEN",
            OsStr::from_bytes(b"\xFF123456789abcdef0"),
        )
        .env("SOMEBODY_ELSES", OsStr::from_bytes(b"\xFF"))
        .output()
        .expect("it runs");
    let says = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{says}");
    assert_eq!(says, "PROVISION_TOKEN: expected text in UTF-8\n");
}

#[test]
fn an_address_that_is_taken_is_named_after_the_warnings() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_provision"))
        .args(["serve", "--listen", &address])
        .env("AWS_IOT_POLICY", "cloud-relay")
        .env("BALENA_API_KEY", "key")
        .env("AWS_REGION", "eu-central-1")
        .output()
        .expect("it runs");
    let says = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{says}");
    let taken = format!("cannot listen on {address}");
    for part in ["WARN PROVISION_TOKEN is not set", &taken] {
        assert!(says.contains(part), "{says}");
    }
}

#[test]
fn arguments_that_are_not_understood_get_the_usage() {
    for word in [&b"server"[..], b"\xFF"] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_provision"));
        let output = program.arg(OsStr::from_bytes(word)).output();
        let output = output.expect("it runs");
        assert_eq!(output.status.code(), Some(64), "{output:?}");
        assert!(output.stderr.starts_with(b"usage: "), "{output:?}");
    }
}
