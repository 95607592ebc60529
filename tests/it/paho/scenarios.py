"""What paho-mqtt sees of a router: one function per scenario, chosen by name on the command line.

`python scenarios.py HOST PORT NAME`: exit code 0 if everything was as it must be.
"""

import os
import sys

from paho.mqtt.reasoncodes import ReasonCode

from station import PacketTypes, Station, SubscribeOptions, after, properties

ADDRESS = ("", 0)


def pair(version=5, filter="a/#", qos=1):
    subscriber, publisher = Station(ADDRESS, "subscriber", version), Station(ADDRESS, "publisher", version)
    subscriber.connect()
    publisher.connect()
    assert subscriber.subscribe((filter, qos)) == [qos]
    return subscriber, publisher


def user_properties():
    """Passed on unchanged and in order, with names that come again."""
    subscriber, publisher = pair()
    wanted = [("b", "1"), ("a", "2"), ("b", "1"), ("", ""), ("ключ", "値"), ("a", "3")]
    for qos in range(2):
        publisher.publish("a/b", "x", qos=qos, UserProperty=wanted)
        assert subscriber.message().properties.UserProperty == wanted


def content_and_format():
    """Content type and payload format indicator arrive as they were sent, and are absent where they were."""
    subscriber, publisher = pair()
    publisher.publish("a/b", "{}", ContentType="application/json", PayloadFormatIndicator=1)
    got = subscriber.message().properties
    assert (got.ContentType, got.PayloadFormatIndicator) == ("application/json", 1)
    publisher.publish("a/b", b"\xff\x00")
    message = subscriber.message()
    assert message.payload == b"\xff\x00"
    assert not hasattr(message.properties, "ContentType") and not hasattr(message.properties, "PayloadFormatIndicator")


def request_and_response():
    """Response topic and correlation data make a call of two messages."""
    service, caller = pair(filter="service/#")
    assert caller.subscribe(("answers/caller", 1)) == [1]
    caller.publish("service/add", "1 2", ResponseTopic="answers/caller", CorrelationData=b"\x00call-7\xff")
    request = service.message()
    answer = str(sum(map(int, request.payload.split())))
    service.publish(request.properties.ResponseTopic, answer, CorrelationData=request.properties.CorrelationData)
    response = caller.message()
    assert (response.payload, response.properties.CorrelationData) == (b"3", b"\x00call-7\xff")


def message_expiry():
    """Counted down while a message waits, and the end of it when it is over."""
    sleeper = Station(ADDRESS, "sleeper")
    sleeper.connect(SessionExpiryInterval=600)
    assert sleeper.subscribe(("a", 1)) == [1]
    sleeper.disconnect()
    publisher = Station(ADDRESS, "publisher")
    publisher.connect()
    publisher.publish("a", "short", MessageExpiryInterval=1)
    publisher.publish("a", "long", MessageExpiryInterval=100)
    publisher.publish("a", "for ever")
    after(2.1)
    sleeper = Station(ADDRESS, "sleeper")
    flags, _ = sleeper.connect(clean=False, SessionExpiryInterval=600)
    assert flags.session_present
    long, forever = sleeper.message(), sleeper.message()
    assert (long.payload, forever.payload) == (b"long", b"for ever")
    assert 90 <= long.properties.MessageExpiryInterval <= 98, long.properties
    assert not hasattr(forever.properties, "MessageExpiryInterval")
    sleeper.expect_silence()


def subscription_identifiers():
    """All that match come with the one copy of a message."""
    subscriber, publisher = pair(filter="none")
    assert subscriber.subscribe(("a/+", 1), SubscriptionIdentifier=7) == [1]
    assert subscriber.subscribe(("a/#", 0), SubscriptionIdentifier=268_435_455) == [0]
    publisher.publish("a/b", "both")
    publisher.publish("a/b/c", "one")
    both, one = subscriber.message(), subscriber.message()
    assert sorted(both.properties.SubscriptionIdentifier) == [7, 268_435_455] and both.qos == 1
    assert one.properties.SubscriptionIdentifier == [268_435_455] and one.qos == 0
    subscriber.expect_silence()


def topic_aliases():
    """A topic is said once and its alias stands for it from then on."""
    subscriber = Station(ADDRESS, "subscriber")
    subscriber.connect()
    assert subscriber.subscribe(("a/#", 1)) == [1]
    publisher = Station(ADDRESS, "publisher")
    _, greeting = publisher.connect()
    assert greeting.TopicAliasMaximum >= 1
    publisher.publish("a/long/topic", "first", TopicAlias=1)
    publisher.publish("", "second", TopicAlias=1)
    publisher.publish("a/other", "third", TopicAlias=1)
    publisher.publish("", "fourth", TopicAlias=1)
    got = [(message.topic, message.payload.decode()) for message in (subscriber.message() for _ in range(4))]
    assert got == [("a/long/topic", "first"), ("a/long/topic", "second"), ("a/other", "third"), ("a/other", "fourth")]


def shared_subscriptions():
    """Every message goes to one member, and none of them goes empty-handed; others outside the group get all."""
    publisher = Station(ADDRESS, "publisher")
    _, greeting = publisher.connect()
    assert getattr(greeting, "SharedSubscriptionAvailable", 1) == 1
    members = [Station(ADDRESS, f"member-{number}") for number in range(3)]
    for member in members:
        member.connect()
        assert member.subscribe(("$share/group/a/+", 1)) == [1]
    outsider = Station(ADDRESS, "outsider")
    outsider.connect()
    assert outsider.subscribe(("a/+", 1)) == [1]
    texts = [str(number) for number in range(60)]
    for text in texts:
        publisher.publish("a/b", text)
    assert outsider.texts(len(texts)) == texts
    after(1.0)
    shares = [[member.messages.get().payload.decode() for _ in range(member.messages.qsize())] for member in members]
    assert sorted(sum(shares, []), key=int) == texts, shares
    assert all(shares), shares


def no_local_and_retain_as_published():
    """The options of a subscription."""
    client = Station(ADDRESS, "client")
    client.connect()
    assert client.subscribe(("own", SubscribeOptions(qos=1, noLocal=True))) == [1]
    assert client.subscribe(("kept", SubscribeOptions(qos=1, retainAsPublished=True))) == [1]
    assert client.subscribe(("plain", SubscribeOptions(qos=1))) == [1]
    client.publish("own", "x")
    client.publish("kept", "y", retain=True)
    client.publish("plain", "z", retain=True)
    kept, plain = client.message(), client.message()
    assert (kept.payload, kept.retain, plain.payload, plain.retain) == (b"y", True, b"z", False)
    client.expect_silence()


def retained():
    """Stored, replaced, cleared; retain handling 0, 1 and 2."""
    publisher = Station(ADDRESS, "publisher")
    publisher.connect()
    for topic, payload in [("a/1", "old"), ("a/1", "new"), ("a/2", "gone"), ("a/2", "")]:
        publisher.publish(topic, payload, retain=True, UserProperty=[("k", payload)])
    client = Station(ADDRESS, "client")
    client.connect()
    assert client.subscribe(("a/+", SubscribeOptions(qos=1, retainHandling=1))) == [1]
    message = client.message()
    assert (message.topic, message.payload, message.retain) == ("a/1", b"new", True)
    assert message.properties.UserProperty == [("k", "new")]
    assert client.subscribe(("a/+", SubscribeOptions(qos=1, retainHandling=1))) == [1]
    client.expect_silence()
    assert client.subscribe(("a/+", SubscribeOptions(qos=1, retainHandling=0))) == [1]
    assert client.message().payload == b"new"
    assert client.subscribe(("a/#", SubscribeOptions(qos=1, retainHandling=2))) == [1]
    client.expect_silence()


def will_delay():
    """A will waits for its delay; a client that comes back in time takes it along, DISCONNECT 0x04 sends it."""
    watcher = Station(ADDRESS, "watcher")
    watcher.connect()
    assert watcher.subscribe(("wills/#", 1)) == [1]

    def mortal(client_id, delay):
        props = properties(PacketTypes.WILLMESSAGE, WillDelayInterval=delay, UserProperty=[("why", "gone")])
        station = Station(
            ADDRESS, client_id, will={"topic": f"wills/{client_id}", "payload": "gone", "qos": 1, "properties": props}
        )
        station.connect(SessionExpiryInterval=600)
        return station

    mortal("now", 0).vanish()
    message = watcher.message()
    assert (message.topic, message.payload) == ("wills/now", b"gone")
    assert message.properties.UserProperty == [("why", "gone")]
    mortal("later", 2).vanish()
    watcher.expect_silence()
    assert watcher.message().topic == "wills/later"
    mortal("back", 2).vanish()
    again = Station(ADDRESS, "back")
    flags, _ = again.connect(clean=False, SessionExpiryInterval=600)
    assert flags.session_present
    after(2.5)
    watcher.expect_silence()
    polite = mortal("polite", 0)
    polite.disconnect()
    watcher.expect_silence()
    leaving = mortal("leaving", 0)
    leaving.client.disconnect(reasoncode=ReasonCode(PacketTypes.DISCONNECT, identifier=4))
    assert watcher.message().topic == "wills/leaving"


def session_expiry():
    """0 ends a session with its connection, n after n seconds; what waited is there when it is not."""
    publisher = Station(ADDRESS, "publisher")
    publisher.connect()
    for expiry, pause, present in [(0, 0.0, False), (600, 0.0, True), (1, 2.5, False)]:
        client_id = f"session-{expiry}"
        client = Station(ADDRESS, client_id)
        client.connect(SessionExpiryInterval=expiry)
        assert client.subscribe(("a", 1)) == [1]
        client.disconnect()
        for number in range(3):
            publisher.publish("a", str(number), qos=min(number, 1))
        after(pause)
        client = Station(ADDRESS, client_id)
        flags, _ = client.connect(clean=False, SessionExpiryInterval=600)
        assert flags.session_present == present, expiry
        if present:
            assert client.texts(2) == ["1", "2"]
        client.expect_silence()
        client.disconnect(SessionExpiryInterval=0)


def quality_of_service():
    """Each QoS of a message against each of a subscription, in both versions: the lower one arrives, once."""
    for version in (4, 5):
        publisher = Station(ADDRESS, f"publisher-{version}", version)
        publisher.connect()
        for granted in range(3):
            subscriber = Station(ADDRESS, f"subscriber-{version}-{granted}", version)
            subscriber.connect()
            assert subscriber.subscribe(("a", granted)) == [granted]
            for sent in range(3):
                publisher.publish("a", f"{sent}", qos=sent)
                message = subscriber.message()
                assert (message.payload.decode(), message.qos, message.dup) == (f"{sent}", min(sent, granted), False)
            subscriber.expect_silence()
            subscriber.disconnect()


def exactly_once_in_bulk():
    """Many QoS 2 messages in flight at once, both ways, in order, each once."""
    subscriber, publisher = Station(ADDRESS, "subscriber"), Station(ADDRESS, "publisher")
    publisher.client.max_inflight_messages_set(50)
    subscriber.connect()
    publisher.connect()
    assert subscriber.subscribe(("a/#", 2)) == [2]
    texts = [str(number) for number in range(500)]
    for text in texts:
        publisher.client.publish("a/b", text, qos=2)
    assert subscriber.texts(len(texts)) == texts
    subscriber.expect_silence()


def an_old_client():
    """3.1.1: session kept without clean session, retained messages, will, takeover."""
    publisher = Station(ADDRESS, "publisher", 4)
    publisher.connect()
    publisher.publish("kept", "old", retain=True)
    client = Station(ADDRESS, "old", 4, will={"topic": "wills/old", "payload": "gone", "qos": 1, "retain": True})
    flags, _ = client.connect(clean=False)
    assert not flags.session_present
    assert client.subscribe(("kept", 1), ("a", 2)) == [1, 2]
    message = client.message()
    assert (message.payload, message.retain) == (b"old", True)
    client.vanish()
    for number in range(3):
        publisher.publish("a", str(number), qos=2)
    heir = Station(ADDRESS, "old", 4)
    flags, _ = heir.connect(clean=False)
    assert flags.session_present
    assert heir.texts(3) == ["0", "1", "2"]
    late = Station(ADDRESS, "late", 4)
    late.connect()
    assert late.subscribe(("wills/#", 1)) == [1]
    message = late.message()
    assert (message.topic, message.payload, message.retain) == ("wills/old", b"gone", True)


def takeover():
    """A second client of the same name: the first hears 0x8E."""
    first, second = Station(ADDRESS, "twin"), Station(ADDRESS, "twin")
    first.connect()
    first.client.reconnect_delay_set(60, 60)
    second.connect()
    assert first.ended() == 0x8E


def reason_codes():
    """UNSUBACK tells success from a subscription that was never there; a filter alone can be refused."""
    client = Station(ADDRESS, "client")
    client.connect()
    assert client.subscribe(("a", 0), ("b/#", 1), ("/" * 300, 1), ("c", 1)) == [0, 1, 0x8F, 1]
    assert client.unsubscribe("a", "never", "b/#") == [0, 0x11, 0]


if __name__ == "__main__":
    ADDRESS = (sys.argv[1], int(sys.argv[2]))
    globals()[sys.argv[3]]()
    # Threads of clients that nobody stopped must not hold the process.
    os._exit(0)
