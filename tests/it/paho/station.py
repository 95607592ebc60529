"""A client of paho-mqtt whose every step has a deadline: what it gets goes into queues, and who waits in vain fails.

Knows: paho-mqtt 2.x with its second callback interface. Never: what a scenario expects.
"""

import queue
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

# Seconds that a step waits for what must happen.
PATIENCE = 20.0
# Seconds after which what must not come is taken not to come.
QUIET = 0.5

__all__ = ["PATIENCE", "QUIET", "PacketTypes", "Station", "SubscribeOptions", "properties", "mqtt"]


def properties(packet, **values):
    """Properties of a packet: `properties(PacketTypes.PUBLISH, ContentType="x")`; user properties as a list of pairs."""
    made = Properties(packet)
    for name, value in values.items():
        setattr(made, name, value)
    return made


class Station:
    """One client; `version` is 4 for 3.1.1 and 5 for 5.0."""

    def __init__(self, address, client_id, version=5, will=None, manual=False):
        self.address = address
        self.version = version
        protocol = mqtt.MQTTv5 if version == 5 else mqtt.MQTTv311
        session = {} if version == 5 else {"clean_session": True}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id, protocol=protocol, manual_ack=manual, **session
        )
        if will is not None:
            self.client.will_set(**will)
        self.connected = queue.Queue()
        self.disconnected = queue.Queue()
        self.messages = queue.Queue()
        self.granted = queue.Queue()
        self.removed = queue.Queue()
        self.published = queue.Queue()
        self.client.on_connect = lambda _c, _u, flags, reason, props: self.connected.put((flags, reason, props))
        self.client.on_disconnect = lambda _c, _u, flags, reason, props: self.disconnected.put((flags, reason, props))
        self.client.on_message = lambda _c, _u, message: self.messages.put(message)
        self.client.on_subscribe = lambda _c, _u, mid, reasons, props: self.granted.put((mid, reasons, props))
        self.client.on_unsubscribe = lambda _c, _u, mid, reasons, props: self.removed.put((mid, reasons, props))
        self.client.on_publish = lambda _c, _u, mid, reason, props: self.published.put((mid, reason, props))

    def connect(self, clean=True, keepalive=60, **values):
        """Connects; returns CONNACK's flags and properties. Keywords are properties of CONNECT."""
        extra = {}
        if self.version == 5:
            extra = {"clean_start": clean, "properties": properties(PacketTypes.CONNECT, **values)}
        else:
            self.client._clean_session = clean
        self.client.connect(*self.address, keepalive=keepalive, **extra)
        self.client.loop_start()
        flags, reason, props = take(self.connected, "CONNACK")
        assert not reason.is_failure, f"CONNACK says {reason}"
        return flags, props

    def subscribe(self, *filters, **values):
        """Subscribes to pairs of filter and QoS or options; the reason codes as numbers. Keywords are properties."""
        props = properties(PacketTypes.SUBSCRIBE, **values) if self.version == 5 else None
        wanted = [(name, how if isinstance(how, SubscribeOptions) else self.options(how)) for name, how in filters]
        result, mid = self.client.subscribe(wanted, properties=props)
        assert result == mqtt.MQTT_ERR_SUCCESS, result
        got, reasons, _ = take(self.granted, "SUBACK")
        assert got == mid, (got, mid)
        return [reason.value for reason in reasons]

    def options(self, qos):
        return SubscribeOptions(qos=qos) if self.version == 5 else qos

    def unsubscribe(self, *filters):
        """Unsubscribes; the reason codes as numbers, none in 3.1.1."""
        result, mid = self.client.unsubscribe(list(filters))
        assert result == mqtt.MQTT_ERR_SUCCESS, result
        got, reasons, _ = take(self.removed, "UNSUBACK")
        assert got == mid, (got, mid)
        return [reason.value for reason in reasons]

    def publish(self, topic, payload, qos=1, retain=False, **values):
        """Publishes and waits for the end of its handshake. Keywords are properties."""
        props = properties(PacketTypes.PUBLISH, **values) if self.version == 5 else None
        info = self.client.publish(topic, payload, qos=qos, retain=retain, properties=props)
        mid, reason, _ = take(self.published, f"the end of the handshake of {payload!r}")
        assert mid == info.mid and not reason.is_failure, (mid, info.mid, reason)

    def message(self):
        """The next message."""
        return take(self.messages, "a message")

    def texts(self, count):
        """The payloads of the next messages."""
        return [self.message().payload.decode() for _ in range(count)]

    def expect_silence(self):
        """No message comes."""
        try:
            message = self.messages.get(timeout=QUIET)
        except queue.Empty:
            return
        raise AssertionError(f"{message.topic}: {message.payload!r} came as well")

    def disconnect(self, **values):
        """Says goodbye. Keywords are properties of DISCONNECT."""
        props = properties(PacketTypes.DISCONNECT, **values) if self.version == 5 else None
        self.client.disconnect(properties=props)
        take(self.disconnected, "the end of the connection")
        self.client.loop_stop()

    def vanish(self):
        """Is gone without a word."""
        self.client.loop_stop()
        self.client._sock_close()

    def ended(self):
        """Waits until the server ends the connection; the reason code as a number."""
        _, reason, _ = take(self.disconnected, "the end of the connection")
        self.client.loop_stop()
        return reason.value


def take(source, what):
    try:
        return source.get(timeout=PATIENCE)
    except queue.Empty:
        raise AssertionError(f"waited {PATIENCE:.0f} s in vain for {what}") from None


def after(seconds):
    """Lets time pass, for what the protocol counts in seconds."""
    time.sleep(seconds)
