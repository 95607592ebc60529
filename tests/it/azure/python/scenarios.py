"""What the published Python SDK does, one function for each scenario: `scenarios.py CONFIG SCENARIO`.

Knows: azure-iot-device as it is published, unmodified, and the control port of the test IoT Hub. CONFIG is JSON: where
the hub is, where clients connect (the hub itself, or the gateway in between), and who they are. The same scenarios run
against both; what only one of them has is asked by `through_a_gateway`. Always: every step has a deadline.
"""

import json
import os
import queue
import sys
import threading
import time

from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient, Message, MethodResponse, X509, exceptions

from cloud import PATIENCE, Cloud, until

CONFIG = json.loads(sys.argv[1])
CLOUD = Cloud(CONFIG["control"])
# Properties with everything that an encoder can get wrong.
ODD = {"level": "high", "with space": "a b", "signs": "&=%+/?#$;,:@", "ümläut": "ß€", "empty": ""}
# Lines between "here is what I do" and the control port: one identity for each scenario keeps them apart.
DEVICE = CONFIG["device"]
MODULE = CONFIG["module"]


def through_a_gateway():
    """Whether clients connect to a gateway and not to the hub."""
    return CONFIG["gateway"] is not None


def where():
    """What every client is told."""
    options = {"server_verification_cert": open(CONFIG["ca"], encoding="utf-8").read()}
    if through_a_gateway():
        options["gateway_hostname"] = CONFIG["gateway"]
    return options


def device(**options):
    """A leaf device with keys."""
    client = IoTHubDeviceClient.create_from_symmetric_key(
        symmetric_key=DEVICE["key"], hostname=CONFIG["hub"], device_id=DEVICE["id"],
        connection_retry_interval=1, **where(), **options
    )
    return watched(client)


def module(**options):
    """A module that finds everything in its environment, as in a container of IoT Edge."""
    os.environ.update(MODULE["environment"])
    return watched(IoTHubModuleClient.create_from_edge_environment(connection_retry_interval=1, **options))


def watched(client):
    """Remembers what goes wrong in the SDK's own threads."""
    client.on_background_exception = lambda error: print(f"in the background: {error!r}", flush=True)
    return client


def message(text, **system):
    """A message with odd properties."""
    made = Message(text)
    for name, value in system.items():
        setattr(made, name, value)
    made.custom_properties.update(ODD)
    return made


def check_odd(properties):
    """Whether all odd properties arrived as they were."""
    got = {name: properties.get(name) for name in ODD}
    assert got == ODD, got


def telemetry_with_properties():
    client = device()
    client.connect()
    for number in range(5):
        client.send_message(
            message(
                json.dumps({"n": number}), message_id=f"m{number}", correlation_id="c/1", content_type="application/json",
                content_encoding="utf-8",
            )
        )
    client.shutdown()
    arrived = CLOUD.arrived(DEVICE["id"], 5)
    assert [it["body"] for it in arrived] == [f'{{"n": {number}}}' for number in range(5)], arrived
    for number, got in enumerate(arrived):
        system = got["system"]
        assert system["$.mid"] == f"m{number}" and system["$.cid"] == "c/1", system
        assert system["$.ct"] == "application/json" and system["$.ce"] == "utf-8", system
        check_odd(got["properties"])


def telemetry_over_websocket():
    client = device(websockets=True)
    client.connect()
    client.send_message(message("over 443"))
    client.shutdown()
    assert CLOUD.arrived(DEVICE["id"])[0]["body"] == "over 443"
    if not through_a_gateway():
        events = CLOUD.get("/events", id=DEVICE["id"])
        assert any(it["kind"] == "connected" and "websocket" in it["text"] for it in events), events


def a_certificate_instead_of_a_key():
    certified = CONFIG["certified"]
    proof = X509(cert_file=certified["cert"], key_file=certified["key"])
    client = IoTHubDeviceClient.create_from_x509_certificate(
        x509=proof, hostname=CONFIG["hub"], device_id=certified["id"], **where()
    )
    client.connect()
    client.send_message(message("certified"))
    client.shutdown()
    assert CLOUD.arrived(certified["id"])[0]["body"] == "certified"


def a_wrong_key_is_refused():
    client = IoTHubDeviceClient.create_from_symmetric_key(
        symmetric_key="d3Jvbmcga2V5IHdyb25nIGtleSB3cm9uZyBrZXk=", hostname=CONFIG["hub"], device_id=DEVICE["id"],
        connection_retry=False, **where()
    )
    started = time.monotonic()
    try:
        client.connect()
    except exceptions.CredentialError:
        pass
    else:
        raise AssertionError("a wrong key gets in")
    # edgeHub lets an unknown client hang for 100 s; nobody should wait so long for a no.
    assert time.monotonic() - started < 15
    client.shutdown()


def messages_from_the_cloud():
    client = device()
    got = queue.Queue()
    client.on_message_received = got.put
    client.connect()
    for number in range(3):
        CLOUD.tell(
            "POST", "/c2d",
            {
                "id": DEVICE["id"], "messageId": f"c2d-{number}", "body": f"order {number}", "ack": "full",
                "properties": {"prop": "a b&c"}, "system": {"$.cid": "corr", "$.ct": "text/plain"},
            },
        )
    for number in range(3):
        came = got.get(timeout=PATIENCE)
        assert came.data == f"order {number}".encode(), came.data
        assert came.message_id == f"c2d-{number}" and came.correlation_id == "corr", came
        assert came.custom_properties["prop"] == "a b&c", came.custom_properties
    feedback = until("feedback", lambda: [it for it in CLOUD.get("/feedback") if it["deviceId"] == DEVICE["id"]][2:])
    assert feedback[0]["description"] == "Success", feedback
    client.shutdown()


def messages_from_the_cloud_wait_for_the_device():
    CLOUD.tell("POST", "/c2d", {"id": DEVICE["id"], "messageId": "early", "body": "early", "ack": "positive"})
    client = device()
    got = queue.Queue()
    client.on_message_received = got.put
    client.connect()
    assert got.get(timeout=PATIENCE).data == b"early"
    until("feedback", lambda: [it for it in CLOUD.get("/feedback") if it["originalMessageId"] == "early"])
    client.shutdown()


def twins(client=None, identity=None):
    client, identity = client or device(), identity or DEVICE["id"]
    CLOUD.tell("PATCH", "/twin", {"rate": 5, "deep": {"a": [1, 2]}}, id=identity)
    patches = queue.Queue()
    client.connect()
    client.on_twin_desired_properties_patch_received = patches.put
    twin = client.get_twin()
    assert twin["desired"]["rate"] == 5 and twin["desired"]["deep"] == {"a": [1, 2]}, twin
    assert twin["desired"]["$version"] == 2, twin
    client.patch_twin_reported_properties({"fw": "1.2", "old": {"x": 1}})
    client.patch_twin_reported_properties({"old": None, "ümläut": "ß"})

    def reported():
        twin = CLOUD.get("/twin", id=identity)["reported"]
        return twin if twin.get("ümläut") == "ß" else None

    cloud = until("the reported properties", reported)
    assert cloud["fw"] == "1.2" and "old" not in cloud, cloud
    until("the subscription to patches", lambda: through_a_gateway() or desired_is_subscribed(identity))
    CLOUD.tell("PATCH", "/twin", {"rate": 7}, id=identity)
    patch = patches.get(timeout=PATIENCE)
    assert patch["rate"] == 7 and patch["$version"] == 3, patch
    again = client.get_twin()
    assert again["desired"]["rate"] == 7 and again["reported"]["fw"] == "1.2", again
    client.shutdown()


def desired_is_subscribed(identity):
    """Whether the hub knows that the client wants patches."""
    return "$iothub/twin/PATCH/properties/desired/#" in CLOUD.connection(identity)["filters"]


def twins_of_a_module():
    twins(module(), MODULE["id"])


def call(identity, name, payload=None, **times):
    """Calls a method from the cloud, which waits until the client listens."""
    times = {"responseTimeoutInSeconds": 10, "connectTimeoutInSeconds": 10, **times}
    return CLOUD.ask("POST", "/method", {"id": identity, "methodName": name, "payload": payload, **times})


def methods(client=None, identity=None):
    client, identity = client or device(), identity or DEVICE["id"]

    def answer(request):
        if request.name == "slow":
            return
        status = 200 if request.name == "echo me" else 404
        client.send_method_response(MethodResponse.create_from_method_request(request, status, {"got": request.payload}))

    client.connect()
    client.on_method_request_received = answer
    status, result = call(identity, "echo me", {"delay": 1, "text": "ß"})
    assert status == 200 and result == {"status": 200, "payload": {"got": {"delay": 1, "text": "ß"}}}, result
    status, result = call(identity, "unknown", None)
    assert status == 200 and result["status"] == 404, result
    status, result = call(identity, "slow", None, responseTimeoutInSeconds=1)
    assert status == 504, (status, result)
    client.shutdown()
    status, result = call(identity, "echo me", None, connectTimeoutInSeconds=0)
    assert status == 404, (status, result)


def methods_of_a_module():
    methods(module(), MODULE["id"])


def a_module_calls_a_method():
    target = device()
    target.connect()

    def answer(request):
        target.send_method_response(MethodResponse.create_from_method_request(request, 201, {"heard": request.payload}))

    target.on_method_request_received = answer
    caller = module()
    caller.connect()
    parameters = {
        "methodName": "blink", "payload": {"times": 3}, "responseTimeoutInSeconds": 10, "connectTimeoutInSeconds": 10,
    }
    result = caller.invoke_method(parameters, DEVICE["id"])
    assert result == {"status": 201, "payload": {"heard": {"times": 3}}}, result
    caller.shutdown()
    target.shutdown()


def a_module_in_its_environment():
    client = module()
    client.connect()
    client.send_message(message("plain", message_id="p1"))
    client.send_message_to_output(message("from an output", message_id="o1"), "alert")
    client.shutdown()
    arrived = {it["body"]: it for it in CLOUD.arrived(MODULE["id"], 2)}
    check_odd(arrived["plain"]["properties"])
    check_odd(arrived["from an output"]["properties"])
    assert arrived["from an output"]["system"]["$.mid"] == "o1", arrived
    if not through_a_gateway():
        assert arrived["from an output"]["system"]["$.on"] == "alert", arrived


def inputs():
    client = module()
    got = queue.Queue()
    client.on_message_received = got.put
    client.connect()
    if through_a_gateway():
        # A route of the gateway leads from this output to this input.
        sender = device()
        sender.connect()
        sender.send_message(message("to an input", message_id="i1", correlation_id="c1"))
        sender.shutdown()
    else:
        text = {"id": MODULE["id"], "input": "in1", "messageId": "i1", "body": "to an input", "properties": ODD}
        until("the input", lambda: CLOUD.tell("POST", "/input", text)["sent"])
    came = got.get(timeout=PATIENCE)
    assert came.input_name == "in1" and came.data == b"to an input" and came.message_id == "i1", came
    check_odd({name: value or "" for name, value in came.custom_properties.items()})
    client.shutdown()


def kick():
    """Has the test cut every connection to the gateway; it removes the file when that is done."""
    with open(CONFIG["kick"], "w", encoding="utf-8"):
        pass
    until("the cut of all connections", lambda: not os.path.exists(CONFIG["kick"]))


def a_client_comes_back():
    client = device(keep_alive=10)
    client.connect()
    client.send_message(message("before"))
    identity = DEVICE["id"]
    if through_a_gateway():
        kick()
    else:
        CLOUD.tell("POST", "/disconnect", {"id": identity, "reset": True})

    def after():
        # Until it has noticed, the SDK says that there is no connection instead of waiting for one.
        try:
            client.send_message(message("after"))
        except (exceptions.ClientError, exceptions.ConnectionDroppedError, exceptions.NoConnectionError):
            return False
        return True

    until("an acknowledgement", after)
    bodies = [it["body"] for it in CLOUD.arrived(identity, 2)]
    assert bodies[0] == "before" and "after" in bodies, bodies
    if not through_a_gateway():
        assert CLOUD.connected_times(identity) >= 2
    client.shutdown()


def unacknowledged_messages_come_again():
    # Only against the hub: it takes the message, keeps its word to itself and hangs up.
    identity = DEVICE["id"]
    client = device()
    client.connect()
    CLOUD.tell("PUT", "/faults", {"id": identity, "faults": {"dropAfterMessages": 2, "reset": True}})
    for number in range(4):
        client.send_message(message(f"m{number}"))
    bodies = [it["body"] for it in CLOUD.arrived(identity, 5)]
    assert bodies == ["m0", "m1", "m1", "m2", "m3"], bodies
    client.shutdown()


def offline_start():
    """The gateway has started without the cloud: it knows its clients, and the twin as it was, from the run before."""
    identity = DEVICE["id"]
    client = device()
    client.connect()
    twin = client.get_twin()
    assert twin["desired"]["rate"] == 5, twin
    client.patch_twin_reported_properties({"fw": "2.0"})
    for number in range(3):
        client.send_message(message(f"offline {number}"))
    assert client.get_twin()["reported"]["fw"] == "2.0"
    assert CLOUD.get("/telemetry", id=identity) == []
    patches = queue.Queue()
    client.on_twin_desired_properties_patch_received = patches.put
    CLOUD.tell("PATCH", "/twin", {"rate": 6}, id=identity)
    CLOUD.tell("PATCH", "/hub", {"offline": False})
    arrived = CLOUD.arrived(identity, 3)
    assert [it["body"] for it in arrived] == [f"offline {number}" for number in range(3)], arrived
    for got in arrived:
        check_odd(got["properties"])
    until("the report", lambda: CLOUD.get("/twin", id=identity)["reported"].get("fw") == "2.0")
    assert patches.get(timeout=PATIENCE)["rate"] == 6
    client.shutdown()


def a_token_is_renewed():
    # The SDK renews 120 s before the end: here after 3 s.
    client = module(sastoken_ttl=123) if CONFIG.get("renew") == "module" else device(sastoken_ttl=123)
    identity = MODULE["id"] if CONFIG.get("renew") == "module" else DEVICE["id"]
    stop = threading.Event()
    sent = []

    def send():
        while not stop.is_set():
            client.send_message(message(f"m{len(sent)}"))
            sent.append(len(sent))
            stop.wait(0.2)

    client.connect()
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    if through_a_gateway():
        # The gateway says so in its own metrics; the test that starts it looks there.
        time.sleep(6)
    else:
        until("a second connection", lambda: CLOUD.connected_times(identity) >= 2)
    stop.set()
    sender.join(PATIENCE)
    assert not sender.is_alive(), "a message is not acknowledged"
    bodies = {it["body"] for it in CLOUD.arrived(identity, len(sent))}
    assert bodies == {f"m{number}" for number in sent}, bodies
    client.shutdown()


def main():
    """Plays one scenario; only what the SDK itself did wrong ends up in `violations`."""
    scenario = globals()[sys.argv[2]]
    scenario()
    violations = CLOUD.violations()
    assert not violations, violations


if __name__ == "__main__":
    main()
