"""AWS IoT Core's control plane on loopback: moto, with the policy that the Lambda attaches already made.

Prints its URL as the first line and ends when stdin closes, so that it cannot outlive its parent.
"""

import json
import logging
import os
import sys

import boto3
from moto.server import ThreadedMotoServer

POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["iot:Connect", "iot:Publish"], "Resource": "*"}],
}


def main() -> None:
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
