"""What AWS IoT Core holds, as JSON, seen by AWS's own Python SDK: look.py ENDPOINT."""

import json
import sys

import boto3

iot = boto3.client(
    "iot",
    endpoint_url=sys.argv[1],
    region_name="us-east-1",
    aws_access_key_id="loopback",
    aws_secret_access_key="loopback",
)
things = [thing["thingName"] for thing in iot.list_things()["things"]]
certificates = {}
for listed in iot.list_certificates()["certificates"]:
    certificate = iot.describe_certificate(certificateId=listed["certificateId"])["certificateDescription"]
    arn = certificate["certificateArn"]
    certificates[certificate["certificateId"]] = {
        "status": certificate["status"],
        "pem": certificate["certificatePem"],
        "things": iot.list_principal_things(principal=arn)["things"],
        "policies": [policy["policyName"] for policy in iot.list_attached_policies(target=arn)["policies"]],
    }
print(json.dumps({"things": things, "certificates": certificates}))
