//! No system at all: each publisher's bytes go to the cloud over a TLS connection of its own.
//!
//! It shows what the publishers and the cloud manage together. It has no port of MQTT, no disk and no promise: a
//! publisher hears of its message when the cloud has it, and without the cloud it hears nothing.
//!
//! It is a process like every other system: this very program, started with [`ARGUMENT`].

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use cloud_relay_sandbox::process::Environment;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::Outcome;
use crate::setting::Setting;
use crate::system::{Program, System};

/// The first argument that turns this program into the pipe.
pub(crate) const ARGUMENT: &str = "--pipe";
/// Bytes read at once, as the publishers and the cloud do.
const READ_BYTES: usize = 64 * 1024;

/// See the module.
pub(crate) struct Direct;

impl System for Direct {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn program(&self, setting: &Setting) -> Outcome<Program> {
        let certificate = setting.write("device.pem", &setting.identity().certificate_pem)?;
        let private_key = setting.write("device.key", &setting.identity().private_key_pem)?;
        let arguments: [OsString; 6] = [
            ARGUMENT.into(),
            setting.listen().to_string().into(),
            setting.cloud().port().to_string().into(),
            setting.root_file().into(),
            certificate.into(),
            private_key.into(),
        ];
        Ok(Program {
            path: std::env::current_exe()?,
            arguments: arguments.into(),
            environment: Environment::new(),
        })
    }

    fn is_pipe(&self) -> bool {
        true
    }
}

/// Is the pipe, until it is killed.
pub(crate) fn run(arguments: &[String]) -> Outcome<()> {
    let [listen, cloud_port, root, certificate, private_key] = arguments else {
        return Err(format!("{ARGUMENT} is not for people").into());
    };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(root)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(certificate)?],
            PrivateKeyDer::from_pem_file(private_key)?,
        )?;
    let connector = TlsConnector::from(Arc::new(config));
    let (listen, cloud_port) = (listen.parse()?, cloud_port.parse()?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(accept(listen, cloud_port, connector))
}

async fn accept(listen: SocketAddr, cloud_port: u16, connector: TlsConnector) -> Outcome<()> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (publisher, _) = listener.accept().await?;
        let connector = connector.clone();
        tokio::spawn(async move {
            if let Err(error) = pass_on(publisher, cloud_port, connector).await {
                eprintln!("{error}");
            }
        });
    }
}

async fn pass_on(
    mut publisher: TcpStream,
    cloud_port: u16,
    connector: TlsConnector,
) -> Outcome<()> {
    let cloud = TcpStream::connect((Ipv4Addr::LOCALHOST, cloud_port)).await?;
    for stream in [&cloud, &publisher] {
        stream.set_nodelay(true)?;
    }
    let name = ServerName::try_from("localhost")?;
    let mut cloud = connector.connect(name, cloud).await?;
    copy_bidirectional_with_sizes(&mut publisher, &mut cloud, READ_BYTES, READ_BYTES).await?;
    Ok(())
}
