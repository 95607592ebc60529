"""The cloud's side of a scenario: the control port of the test IoT Hub, and waiting with a deadline.

Knows: JSON over plain HTTP. Never: the SDK under test.
"""

import json
import time
import urllib.error
import urllib.parse
import urllib.request

# Seconds that a step waits for what must happen.
PATIENCE = 20.0


def until(what, ask, seconds=PATIENCE):
    """Asks until the answer is true; fails with `what` after a while."""
    deadline = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain for: {what}")
        time.sleep(0.02)


class Cloud:
    """The hub as a test sees it."""

    def __init__(self, url):
        self.url = url

    def ask(self, method, path, body=None, query=None, timeout=60):
        """One request; returns status and JSON (or text)."""
        url = self.url + path
        if query:
            url += "?" + urllib.parse.urlencode(query)
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, method=method)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return response.status, json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def get(self, path, **query):
        """One answer that must be good."""
        status, answer = self.ask("GET", path, query=query)
        assert status == 200, (path, status, answer)
        return answer

    def tell(self, method, path, body=None, **query):
        """One order that must be carried out."""
        status, answer = self.ask(method, path, body, query)
        assert status == 200, (path, status, answer)
        return answer

    def arrived(self, identity, count=1):
        """The messages of an identity, when there are so many."""
        found = until(f"{count} messages of {identity}", lambda: self._enough(identity, count))
        return found

    def _enough(self, identity, count):
        found = self.get("/telemetry", id=identity)
        return found if len(found) >= count else None

    def connection(self, identity):
        """The connection of an identity, when there is one."""
        return until(f"a connection of {identity}", lambda: self.connections(identity))[0]

    def connections(self, identity):
        """The connection of an identity, or nothing."""
        return [it for it in self.get("/connections") if it["id"] == identity]

    def connected_times(self, identity):
        """How often it has connected."""
        return len([it for it in self.get("/events", id=identity) if it["kind"] == "connected"])

    def violations(self):
        """What clients did wrong."""
        return [it for it in self.get("/events") if it["kind"] == "violation"]
