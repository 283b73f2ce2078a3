"""AWS IoT Core's control plane on loopback: moto, with the policy that devices get already made.

Prints its URL as the first line and ends when stdin closes, so that it cannot outlive its parent. With `--authority DIR`
device certificates are issued by the authority whose `root.pem` and `root.key` are there, so that they serve for mutual
TLS; otherwise each is signed by itself.
"""

import argparse
import datetime
import json
import logging
import os
import pathlib
import sys

import boto3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from moto.core.config import default_user_config
from moto.iot.models import FakeCertificate, IoTBackend
from moto.server import ThreadedMotoServer

POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["iot:Connect", "iot:Publish"], "Resource": "*"}],
}


def load_authority(directory):
    """The issuer's certificate and key."""
    certificate = x509.load_pem_x509_certificate((directory / "root.pem").read_bytes())
    key = serialization.load_pem_private_key((directory / "root.key").read_bytes(), password=None)
    return certificate, key


def use_real_certificates(authority):
    """Two faults of moto's: its certificates are signed by themselves, and one for a CSR is for a key of moto's own."""

    def issue(subject, public_key, own_key):
        now = datetime.datetime.now(datetime.timezone.utc)
        issuer, key = (authority[0].subject, authority[1]) if authority else (subject, own_key)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=365))
            .sign(key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode()

    def generate(self, domain_name, subject, key=None):
        key = key or rsa.generate_private_key(public_exponent=65537, key_size=2048)
        return issue(subject, key.public_key(), key)

    def from_csr(self, csr, set_as_active):
        request = x509.load_pem_x509_csr(csr.encode())
        if not request.is_signature_valid:
            raise ValueError("the CSR is not signed with its key")
        own_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = issue(request.subject, request.public_key(), own_key)
        status = "ACTIVE" if set_as_active else "INACTIVE"
        certificate = FakeCertificate(pem, status, self.account_id, self.region_name)
        self.certificates[certificate.certificate_id] = certificate
        return certificate

    IoTBackend._generate_certificate_pem = generate
    IoTBackend.create_certificate_from_csr = from_csr
    # as AWS does: the id is the fingerprint of the DER
    default_user_config["iot"] = {"use_valid_cert": True}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--authority", type=pathlib.Path)
    options = parser.parse_args()
    use_real_certificates(load_authority(options.authority) if options.authority else None)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    iot = boto3.client(
        "iot",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="loopback",
        aws_secret_access_key="loopback",
    )
    iot.create_policy(policyName="cloud-relay", policyDocument=json.dumps(POLICY))
    print(url, flush=True)
    sys.stdin.read()
    os._exit(0)  # stopping the server in good order would take it a second, and there is nothing to save


main()
