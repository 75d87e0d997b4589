#!/usr/bin/env python3
"""Makes buckets and credentials on test servers, with nothing but Python: what a user does with the cloud's own tools.

prepare.py radosgw ENDPOINT BUCKET POLICY   a bucket with a policy; with versions, or a lock of a day, if its name ends so
prepare.py aws ENDPOINT COMMAND BUCKET FILE what `aws s3api COMMAND` does, for those of the walk-through
prepare.py rules ENDPOINT BUCKET            puts the lifecycle that comes on standard input in force, as
                                            `aws s3api put-bucket-lifecycle-configuration` does
prepare.py versions ENDPOINT BUCKET PREFIX  prints the key of each version and each delete marker
prepare.py in-force ENDPOINT BUCKET         prints the lifecycle in force, as `aws s3api get-bucket-lifecycle-configuration` does
prepare.py azurite ENDPOINT CONTAINER       a container; prints shared access signatures
"""

import base64
import datetime
import hashlib
import hmac
import html
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
import xml.etree.ElementTree

ACCOUNT = "devstoreaccount1"
# Azurite's own key, which stands in its documentation.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def sign(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def s3(endpoint, method, path, query="", body=b"", access="ADMIN", secret="admin-secret", more=None):
    """One request, signed as AWS Signature Version 4 has it."""
    now = datetime.datetime.now(datetime.timezone.utc)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    host, digest = urllib.parse.urlsplit(endpoint).netloc, hashlib.sha256(body).hexdigest()
    headers = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": stamp}
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{digest}"
    scope = f"{day}/us-east-1/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = ("AWS4" + secret).encode()
    for part in [day, "us-east-1", "s3", "aws4_request"]:
        key = sign(key, part)
    signature = sign(key, text).hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={access}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    url = endpoint + path + ("?" + query if query else "")
    headers.update(more or {})
    request = urllib.request.Request(url, data=body or None, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


def radosgw(endpoint, bucket, policy):
    locked = bucket.endswith("-lock")
    s3(endpoint, "PUT", f"/{bucket}", more={"x-amz-bucket-object-lock-enabled": "true"} if locked else {})
    text = open(policy).read().replace("BUCKET", bucket).replace("WRITER", "writer").replace("OWNER", "admin")
    json.loads(text)
    s3(endpoint, "PUT", f"/{bucket}", "policy=", text.encode())
    if bucket.endswith("-versions"):
        versions = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
        s3(endpoint, "PUT", f"/{bucket}", "versioning=", versions)
    if locked:
        retention = b"<DefaultRetention><Mode>COMPLIANCE</Mode><Days>1</Days></DefaultRetention>"
        lock = b"<ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule>" + retention + b"</Rule>"
        lock = b"<ObjectLockConfiguration>" + lock + b"</ObjectLockConfiguration>"
        s3(endpoint, "PUT", f"/{bucket}", "object-lock=", lock)


def to_xml(name, value):
    """JSON of the S3 API as its XML: lists repeat their element."""
    if isinstance(value, list):
        return "".join(to_xml(name, one) for one in value)
    if isinstance(value, dict):
        value = "".join(to_xml(key, one) for key, one in value.items())
        return f"<{name}>{value}</{name}>"
    value = str(value).lower() if isinstance(value, bool) else html.escape(str(value))
    return f"<{name}>{value}</{name}>"


def aws(endpoint, command, bucket, file):
    if command == "create-bucket":
        s3(endpoint, "PUT", f"/{bucket}")
    elif command == "put-bucket-versioning":
        versions = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
        s3(endpoint, "PUT", f"/{bucket}", "versioning=", versions)
    elif command == "put-bucket-policy":
        s3(endpoint, "PUT", f"/{bucket}", "policy=", open(file, "rb").read())
    elif command == "put-bucket-lifecycle-configuration":
        rules(endpoint, bucket, open(file))
    else:
        sys.exit(f"prepare.py: it knows no {command}")


def rules(endpoint, bucket, file=sys.stdin):
    inner = to_xml("Rule", json.load(file)["Rules"])
    body = f"<LifecycleConfiguration>{inner}</LifecycleConfiguration>".encode()
    digest = base64.b64encode(hashlib.md5(body).digest()).decode()
    s3(endpoint, "PUT", f"/{bucket}", "lifecycle=", body, more={"Content-MD5": digest})


def versions(endpoint, bucket, prefix):
    query = "prefix=" + urllib.parse.quote(prefix, safe="") + "&versions="
    answer = xml.etree.ElementTree.fromstring(s3(endpoint, "GET", f"/{bucket}", query))
    for element in answer:
        kind = element.tag.rsplit("}")[-1]
        if kind in ("Version", "DeleteMarker"):
            print(kind, from_xml(element)["Key"])


def from_xml(element):
    """The other way; numbers and truth values as they are in JSON."""
    children = list(element)
    if not children:
        text = element.text or ""
        return int(text) if text.isdigit() else {"true": True, "false": False}.get(text, text)
    return {child.tag.rsplit("}")[-1]: from_xml(child) for child in children}


def in_force(endpoint, bucket):
    answer = xml.etree.ElementTree.fromstring(s3(endpoint, "GET", f"/{bucket}", "lifecycle="))
    print(json.dumps({"Rules": [from_xml(rule) for rule in answer]}, indent=2))


def sas(container, rights):
    """A service SAS for a container, https://learn.microsoft.com/rest/api/storageservices/create-service-sas."""
    version, end = "2020-12-06", "2099-01-01T00:00:00Z"
    resource = f"/blob/{ACCOUNT}/{container}"
    text = "\n".join([rights, "", end, resource, "", "", "", version, "c", "", "", "", "", "", "", ""])
    signature = base64.b64encode(sign(base64.b64decode(KEY), text)).decode()
    return urllib.parse.urlencode({"sp": rights, "se": end, "sv": version, "sr": "c", "sig": signature})


def azurite(endpoint, container):
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
    headers = {"x-ms-date": date, "x-ms-version": "2020-12-06"}
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    # The account stands twice in the path of an emulator.
    path = f"/{ACCOUNT}/{ACCOUNT}/{container}\nrestype:container"
    text = "PUT" + "\n" * 12 + lines + path
    signature = base64.b64encode(sign(base64.b64decode(KEY), text)).decode()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{signature}"
    url = f"{endpoint}/{container}?restype=container"
    request = urllib.request.Request(url, data=b"", method="PUT", headers=headers)
    request.add_unredirected_header("Content-Type", "")
    request.add_unredirected_header("Content-Length", "0")
    with urllib.request.urlopen(request, timeout=30):
        pass
    print(f"writer {sas(container, 'c')}")
    print(f"lister {sas(container, 'cl')}")


try:
    commands = {"radosgw": radosgw, "azurite": azurite, "aws": aws, "rules": rules, "in-force": in_force, "versions": versions}
    commands[sys.argv[1]](*sys.argv[2:])
except urllib.error.HTTPError as error:
    sys.exit(f"prepare.py: {error}: {error.read().decode(errors='replace')}")
