"""Publishes GitHub's real webhook payloads against GitHub's real JSON Schemas, delivers all of them to a webhook
receiver whose signatures are checked by verifiers that others wrote and to Kinesis as served by moto, kills the
broker in the middle, and accounts for every event.

Usage: account.py PROGRAM PROTO_FOLDER NODE_MODULES WORK_FOLDER
"""

import collections
import http.server
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import boto3
import grpc
import grpc_tools
from grpc_tools import protoc
from jsonschema import Draft7Validator
from standardwebhooks import Webhook
from twilio.request_validator import RequestValidator

PROGRAM, PROTO, MODULES, WORK = (pathlib.Path(argument).resolve() for argument in sys.argv[1:5])
TWILIO_TOKEN = "0123456789abcdef0123456789abcdef"
REPEATS = 6
KILL_AFTER = 700
WINDOW = 256
DEADLINE_S = 120


def generate_stubs():
    folder = WORK / "stubs"
    folder.mkdir(parents=True, exist_ok=True)
    files = [str(path.relative_to(PROTO)) for path in sorted(PROTO.rglob("*.proto"))]
    arguments = ["protoc", f"-I{PROTO}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    arguments.append(f"-I{pathlib.Path(grpc_tools.__file__).parent / '_proto'}")
    assert protoc.main(arguments + files) == 0, "the protocol does not compile for Python"
    sys.path.insert(0, str(folder))
    # CloudEvents' package is called io, as a module of Python's own: give that one a folder to look further in.
    io.__path__ = [str(folder / "io")]


class Node:
    """The broker's process and its directory."""

    def __init__(self, environment):
        self.directory = WORK / "data"
        self.environment = {**os.environ, **environment}
        founding = [PROGRAM, "init", "--data-dir", self.directory]
        subprocess.run(founding, env=self.environment, check=True, stdout=subprocess.DEVNULL)
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [PROGRAM, "serve", "--listen", "127.0.0.1:0", "--data-dir", self.directory],
            env={**self.environment, "FANFARE_TELEMETRY__LOG_FORMAT": "json"},
            stderr=subprocess.PIPE,
            text=True,
        )
        log = []
        for line in self.process.stderr:
            log.append(line)
            if '"ready"' in line:
                self.address = json.loads(line)["fields"]["grpc"]
                threading.Thread(target=lambda: [None for _ in self.process.stderr], daemon=True).start()
                return
        raise SystemExit("the broker did not start:\n" + "".join(log))

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    @property
    def metadata(self):
        key = (self.directory / "first-key").read_text().strip()
        return (("authorization", f"Bearer {key}"),)


class Receiver(http.server.BaseHTTPRequestHandler):
    """Takes events only if both signatures hold."""

    protocol_version = "HTTP/1.1"
    webhook = None
    delivered = collections.Counter()
    bodies = {}
    refused = []
    lock = threading.Lock()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            self.webhook.verify(body, dict(self.headers.items()))
            url = f"http://{self.headers['host']}{self.path}"
            signature = self.headers["X-Twilio-Signature"]
            assert RequestValidator(TWILIO_TOKEN).validate(url, body.decode(), signature), "Twilio's signature"
            assert not RequestValidator(TWILIO_TOKEN).validate(url, body.decode() + " ", signature), "a changed body"
            status = 200
        except Exception as error:  # every failure must be seen by the test
            with self.lock:
                self.refused.append(repr(error))
            status = 500
        if status == 200:
            event = json.loads(body)
            with self.lock:
                self.delivered[event["id"]] += 1
                self.bodies[event["id"]] = event
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def start_receiver():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/hook?tenant=1"


def start_kinesis():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "kinesis", endpoint_url=endpoint, region_name="eu-west-1", aws_access_key_id="test", aws_secret_access_key="test"
    )
    client.create_stream(StreamName="events", ShardCount=2)
    eventually("the stream", lambda: client.describe_stream_summary(StreamName="events")["StreamDescriptionSummary"]["StreamStatus"] == "ACTIVE")
    arn = client.describe_stream_summary(StreamName="events")["StreamDescriptionSummary"]["StreamARN"]
    return client, endpoint, arn


def read_kinesis(client):
    found = collections.Counter()
    by_key = collections.defaultdict(list)
    for shard in client.list_shards(StreamName="events")["Shards"]:
        iterator = client.get_shard_iterator(
            StreamName="events", ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while iterator:
            page = client.get_records(ShardIterator=iterator, Limit=10000)
            for record in page["Records"]:
                event = json.loads(record["Data"])
                found[event["id"]] += 1
                by_key[record["PartitionKey"]].append(event["id"])
            if not page["Records"]:
                break
            iterator = page.get("NextShardIterator")
    return found, by_key


def eventually(what, look):
    end = time.monotonic() + DEADLINE_S
    while True:
        seen = look()
        if seen is True:
            return
        if time.monotonic() > end:
            raise SystemExit(f"{what} did not happen within {DEADLINE_S} s: {seen}")
        threading.Event().wait(0.05)


def schemas():
    """One self-contained document per event type, cut out of the published one."""
    whole = json.loads((MODULES / "@octokit/webhooks-schemas/schema.json").read_text())
    definitions = whole["definitions"]

    def references(node, into):
        if isinstance(node, dict):
            target = node.get("$ref", "")
            name = target.removeprefix("#/definitions/") if isinstance(target, str) else ""
            if name and name in definitions and name not in into:
                into.add(name)
                references(definitions[name], into)
            for value in node.values():
                references(value, into)
        elif isinstance(node, list):
            for value in node:
                references(value, into)

    documents = {}
    for choice in whole["oneOf"]:
        name = choice["$ref"].removeprefix("#/definitions/")
        needed = {name}
        references(definitions[name], needed)
        documents[name.removesuffix("_event").removesuffix("$event")] = {
            "$schema": whole["$schema"],
            "$ref": choice["$ref"],
            "definitions": {key: definitions[key] for key in sorted(needed)},
        }
    return documents


def payloads():
    examples = json.loads((MODULES / "@octokit/webhooks-examples/api.github.com/index.json").read_text())
    return [(group["name"], example) for group in examples for example in group["examples"]]


def subscribe(node, documents, hook, kinesis):
    """Registers every schema and type, both sinks and their subscriptions; gives ids and the signing secret."""
    from fanfare.v1 import event_type_pb2, event_type_pb2_grpc, schema_pb2, schema_pb2_grpc
    from fanfare.v1 import sink_pb2, sink_pb2_grpc, subscription_pb2, subscription_pb2_grpc

    channel, key = grpc.insecure_channel(node.address), node.metadata
    schemas, types = schema_pb2_grpc.SchemaServiceStub(channel), event_type_pb2_grpc.EventTypeServiceStub(channel)
    for name, document in documents.items():
        schema_id = f"GitHub.{name}"
        schemas.CreateSchema(
            schema_pb2.CreateSchemaRequest(schema=schema_pb2.Schema(id=schema_id), document=json.dumps(document)),
            metadata=key,
        )
        event_type = event_type_pb2.EventType(name=f"com.github.{name}", schema_id=schema_id)
        types.CreateEventType(event_type_pb2.CreateEventTypeRequest(event_type=event_type), metadata=key)

    sinks = sink_pb2_grpc.SinkServiceStub(channel)
    webhook = sink_pb2.WebhookSink(destination=hook, twilio_auth_token=TWILIO_TOKEN)
    created = sinks.CreateSink(sink_pb2.CreateSinkRequest(sink=sink_pb2.Sink(webhook=webhook)), metadata=key).sink
    endpoint, arn = kinesis
    stream = sink_pb2.KinesisSink(arn=arn, endpoint_override=endpoint)
    other = sinks.CreateSink(sink_pb2.CreateSinkRequest(sink=sink_pb2.Sink(kinesis=stream)), metadata=key).sink

    subscriptions = subscription_pb2_grpc.SubscriptionServiceStub(channel)
    chosen = [subscription_pb2.Selector(type=f"com.github.{name}", schema_version=1) for name in documents]
    ids = []
    for sink in (created, other):
        request = subscription_pb2.CreateSubscriptionRequest(
            subscription=subscription_pb2.Subscription(sink_id=sink.id, selectors=chosen)
        )
        ids.append(subscriptions.CreateSubscription(request, metadata=key).subscription.id)
    return ids, created.webhook.signing_secret


def cloud_event(identifier, name, payload):
    from io.cloudevents.v1.cloudevents_pb2 import CloudEvent

    event = CloudEvent(id=identifier, source="/github", spec_version="1.0", type=f"com.github.{name}")
    repository = payload.get("repository") or {}
    event.attributes["subject"].ce_string = repository.get("full_name") or name
    event.attributes["datacontenttype"].ce_string = "application/json"
    event.text_data = json.dumps(payload)
    return event


def publish_all(node, events, invalid):
    """Publishes in batches, each event until it is acknowledged, and kills the broker on the way. Gives the
    positions. Events of `invalid` must be refused, each alone."""
    from fanfare.v1 import publisher_pb2, publisher_pb2_grpc

    positions, waiting, killed = {}, list(events), False
    while waiting:
        batch, waiting = waiting[:20], waiting[20:]
        stub = publisher_pb2_grpc.PublisherServiceStub(grpc.insecure_channel(node.address))
        if len(positions) >= KILL_AFTER and not killed:
            killed = True
            call = stub.PublishBatch.future(
                publisher_pb2.PublishBatchRequest(events=batch), metadata=node.metadata, timeout=10
            )
            node.kill()
            node.start()
            waiting = batch + waiting
            call.cancel()
            continue
        answer = stub.PublishBatch(publisher_pb2.PublishBatchRequest(events=batch), metadata=node.metadata, timeout=30)
        for event, result in zip(batch, answer.results, strict=True):
            if event.id in invalid:
                assert result.error.reason == "SCHEMA_VIOLATION", f"{event.id} was not refused: {result}"
                assert "violates its schema at" in result.error.message, f"the refusal names no pointer: {result}"
                continue
            if result.error.HasField("retry_after_ms"):
                waiting.append(event)
                continue
            assert not result.HasField("error"), f"{event.type} {event.id}: {result.error}"
            positions[event.id] = (result.partition, result.offset)
    assert killed, "the broker was never killed: too few events"
    return positions


def check_unknown_type(node):
    from fanfare.v1 import publisher_pb2, publisher_pb2_grpc

    stub = publisher_pb2_grpc.PublisherServiceStub(grpc.insecure_channel(node.address))
    unknown = cloud_event("wrong", "no_such_event", {})
    answer = stub.PublishBatch(publisher_pb2.PublishBatchRequest(events=[unknown]), metadata=node.metadata)
    assert answer.results[0].error.reason == "EVENT_TYPE_UNKNOWN", answer


def check_stats(node, identifiers, expected):
    from fanfare.v1 import subscription_pb2, subscription_pb2_grpc

    stub = subscription_pb2_grpc.SubscriptionServiceStub(grpc.insecure_channel(node.address))
    for identifier in identifiers:

        def settled(identifier=identifier):
            request = subscription_pb2.GetSubscriptionStatsRequest(id=identifier)
            stats = stub.GetSubscriptionStats(request, metadata=node.metadata)
            total = stats.delivered + stats.dead_lettered + stats.expired + stats.cancelled + stats.pending
            assert stats.matched == total, f"the numbers do not add up: {stats}"
            return True if stats.delivered == stats.matched == expected else f"{stats}"

        eventually(f"delivery of {expected} events to {identifier}", settled)


def main():
    WORK.mkdir(parents=True, exist_ok=True)
    generate_stubs()
    client, endpoint, arn = start_kinesis()
    node = Node(
        {
            "FANFARE_DELIVERY__ALLOW_HTTP": "true",
            "FANFARE_DELIVERY__ALLOW_CIDRS": '["127.0.0.0/8"]',
            "FANFARE_SINKS__KINESIS__ALLOW_NODE_CREDENTIALS": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
    )
    try:
        account_for_everything(node, client, endpoint, arn)
    finally:
        node.kill()


def account_for_everything(node, client, endpoint, arn):
    documents = schemas()
    subscriptions, secret = subscribe(node, documents, start_receiver(), (endpoint, arn))
    Receiver.webhook = Webhook(secret)

    sources = [
        (f"{name}-{number}-{repeat}", name, payload)
        for repeat in range(REPEATS)
        for number, (name, payload) in enumerate(payloads())
        if name in documents
    ]
    events = {identifier: cloud_event(identifier, name, payload) for identifier, name, payload in sources}
    # Some published examples do not satisfy the published schemas: another validator says which.
    formats = Draft7Validator.FORMAT_CHECKER
    validators = {name: Draft7Validator(document, format_checker=formats) for name, document in documents.items()}
    invalid = {identifier for identifier, name, payload in sources if not validators[name].is_valid(payload)}
    positions = publish_all(node, events.values(), invalid)
    sources = [source for source in sources if source[0] not in invalid]
    events = {identifier: events[identifier] for identifier, _, _ in sources}
    check_unknown_type(node)
    check_stats(node, subscriptions, len(events))

    assert not Receiver.refused, f"{len(Receiver.refused)} signatures were wrong: {Receiver.refused[:3]}"
    assert set(Receiver.delivered) == set(events), "the webhook's events are not the published ones"
    for identifier, name, payload in sources:
        received = Receiver.bodies[identifier]
        assert received["data"] == payload, f"{identifier} was changed on its way"
        assert received["dataschema"] == f"urn:fanfare:schema:GitHub.{name}:1", received["dataschema"]
    in_kinesis, by_key = read_kinesis(client)
    assert set(in_kinesis) == set(events), "Kinesis holds other events than the published ones"
    for key, identifiers in by_key.items():
        first = list(dict.fromkeys(identifiers))
        assert first == sorted(first, key=positions.get), f"the order of {key} was changed"
    for sink, counts in (("webhook", Receiver.delivered), ("kinesis", in_kinesis)):
        repeats = sum(counts.values()) - len(counts)
        assert repeats <= WINDOW, f"{repeats} repeats at the {sink} after one kill"
        print(f"{sink}: {len(counts)} events of {len(documents)} types, {repeats} repeated by the kill")
    print(f"refused by their schema, as another validator says: {len(invalid)}")


if __name__ == "__main__":
    main()
