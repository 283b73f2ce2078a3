"""The SAM template as CloudFormation gets it: transformed by AWS's own translator, then linted.

Linting the source alone lets faults pass, so each run also plants some and must find every one. Checks besides that the
role may do exactly what the function's client calls, and that each action is allowed on resources that it knows. Prints what it found wrong and ends with 1, or `template is sound`.
"""

import json
import logging
import os
import pathlib
import re
import sys

import cfnlint
from cfnlint.api import ManualArgs, lint
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

HERE = pathlib.Path(__file__).parent
PROVISION = HERE.parent.parent
SOURCE = (PROVISION / "template.yaml").read_text()
REGION = "eu-central-1"
# the Service Authorization Reference, as cfn-lint has it: which resources an action knows
REFERENCE = pathlib.Path(cfnlint.__file__).parent / "data/AdditionalSpecs/Policies.json"
KNOWN = json.loads(REFERENCE.read_text())["iot"]["Actions"]

# what is planted: the text, and what it becomes
PLANTED = {
    "a runtime that does not exist": ("Runtime: provided.al2023", "Runtime: provided.al2099"),
    "a reference to nothing": ("!Ref DevicePolicy", "!Ref DevicesPolicy"),
    "a misspelt property of the API": ("ThrottlingRateLimit", "ThrottleRateLimit"),
    "a misspelt property of the log group": ("RetentionInDays", "RetentionDays"),
    "a retention that cannot be had": ("RetentionInDays: 30", "RetentionInDays: 31"),
    "a statement that is no statement": ("Sid: KeepDevices\n              Effect: Allow", "Sid: KeepDevices\n              Effect: Permit"),
    "an action on resources that it does not know": ("- iot:CreateThing\n", "- iot:CreateThing\n                - iot:ListAttachedPolicies\n"),
    "an output of nothing": ("https://${Api}.", "https://${HttpApi}."),
}


class NoManagedPolicies:
    """Names of managed policies are looked up in AWS; the template uses none but Lambda's own."""

    def load(self):
        return {"AWSLambdaBasicExecutionRole": "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"}


def faults(source):
    """What the translator or the linter object to."""
    template = yaml_parse(source)
    template["Resources"]["Function"]["Properties"]["CodeUri"] = "s3://bucket/key"
    try:
        translated = transform(template, {}, NoManagedPolicies())
    except Exception as error:  # the translator has no common error
        return [f"samtranslator: {error}"], None
    matches = lint(json.dumps(translated), config=ManualArgs(regions=[REGION]))
    found = [f"{match.rule.id} {match.message}" for match in matches]
    return found + resource_faults(translated), translated


def resource_faults(translated):
    """Actions that their statement allows on resources that they do not know: in effect, not at all."""
    found = []
    for resource in translated["Resources"].values():
        properties = resource.get("Properties", {})
        policies = properties.get("Policies", []) + [properties]
        for statement in (each for policy in policies for each in policy.get("PolicyDocument", {}).get("Statement", [])):
            kinds = set(re.findall(r":(\w+)/", json.dumps(statement["Resource"]))) or {"*"}
            for action in (name for name in as_list(statement["Action"]) if name.startswith("iot:")):
                known = set(KNOWN[action.removeprefix("iot:").lower()].get("Resources", ["*"]))
                if not known & kinds:
                    found.append(f"{action} knows {sorted(known)}, not {sorted(kinds)}")
    return found


def as_list(value):
    return value if isinstance(value, list) else [value]


def role_faults():
    """The role's actions against the calls in the source."""
    called = set(re.findall(r'Call::new\(\s*"(\w+)"', (PROVISION / "src/iot/aws.rs").read_text()))
    allowed = set(re.findall(r"^\s+- iot:(\w+)$", SOURCE, re.MULTILINE))
    return [f"the role lacks iot:{name}" for name in sorted(called - allowed)] + [
        f"the role needs no iot:{name}" for name in sorted(allowed - called)
    ]


def environment_faults(translated):
    """Every variable that the function is given is one that it reads."""
    function = translated["Resources"]["Function"]["Properties"]
    read = (PROVISION / "src/config.rs").read_text()
    given = function["Environment"]["Variables"]
    return [f"the function reads no {name}" for name in given if f'"{name}"' not in read]


def main():
    os.environ["AWS_DEFAULT_REGION"] = REGION  # the translator asks boto3 for it
    logging.disable(logging.WARNING)
    found, translated = faults(SOURCE)
    found += role_faults()
    if translated:
        found += environment_faults(translated)
    for name, (text, planted) in PLANTED.items():
        if text not in SOURCE:
            found.append(f"cannot plant {name}")
        elif not (caught := faults(SOURCE.replace(text, planted))[0]):
            found.append(f"overlooked: {name}")
        else:
            print(f"caught {name}: {caught[0].splitlines()[0]}")
    print("\n".join(found) if found else "template is sound")
    sys.exit(1 if found else 0)


main()
