"""Two paho-mqtt clients through the broker; the plan comes as JSON on the command line.

Exits 0 when every step happened, else says which one did not.
"""

import json
import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

PATIENCE_S = 15
plan = json.loads(sys.argv[1])
version = {3: mqtt.MQTTv31, 4: mqtt.MQTTv311, 5: mqtt.MQTTv5}[plan["version"]]
is_5 = version == mqtt.MQTTv5
prefix = plan["prefix"]


class Client:
    def __init__(self, who, will=None):
        arguments = {} if is_5 else {"clean_session": True}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=who["id"],
            protocol=version,
            transport=plan["transport"],
            **arguments,
        )
        self.events = queue.Queue()
        self.messages = queue.Queue()
        self.client.on_connect = lambda c, u, f, reason, p: self.events.put(("connect", reason))
        self.client.on_subscribe = lambda c, u, mid, codes, p: self.events.put(("subscribe", codes))
        self.client.on_unsubscribe = lambda c, u, mid, codes, p: self.events.put(("unsubscribe", codes))
        self.client.on_message = lambda c, u, message: self.messages.put(message)
        if plan["transport"] == "websockets":
            self.client.ws_set_options(path="/mqtt")
        if "ca" in plan:
            self.client.tls_set(ca_certs=plan["ca"], certfile=who["certificate"], keyfile=who["key"])
        if will:
            self.client.will_set(*will)
        self.client.connect("127.0.0.1", plan["port"], keepalive=30)
        self.client.loop_start()
        reason = self.event("connect")
        assert not reason.is_failure, f"CONNACK {reason}"

    def event(self, kind):
        found, value = self.events.get(timeout=PATIENCE_S)
        assert found == kind, f"{found} came instead of {kind}"
        return value

    def message(self, topic, payload, qos, retain):
        message = self.messages.get(timeout=PATIENCE_S)
        got = (message.topic, message.payload.decode(), message.qos, message.retain)
        assert got == (topic, payload, qos, retain), f"{got} instead of {(topic, payload, qos, retain)}"
        return message


reader = Client(plan["clients"][0])
reader.client.subscribe(f"{prefix}/+/x", qos=2)
assert [code.value for code in reader.event("subscribe")] == [2]

writer = Client(plan["clients"][1], will=(f"{prefix}/will/x", "gone", 1, False))
for qos in (0, 1, 2):
    topic = f"{prefix}/qos{qos}/x"
    writer.client.publish(topic, f"with {qos}", qos=qos).wait_for_publish(PATIENCE_S)
    reader.message(topic, f"with {qos}", qos, False)

writer.client.publish(f"{prefix}/kept/x", "kept", qos=1, retain=True).wait_for_publish(PATIENCE_S)
reader.message(f"{prefix}/kept/x", "kept", 1, False)
reader.client.unsubscribe(f"{prefix}/+/x")
reader.event("unsubscribe")
reader.client.subscribe(f"{prefix}/+/x", qos=2)
reader.event("subscribe")
reader.message(f"{prefix}/kept/x", "kept", 1, True)

large = "x" * 200_000
writer.client.publish(f"{prefix}/large/x", large, qos=1).wait_for_publish(PATIENCE_S)
reader.message(f"{prefix}/large/x", large, 1, False)

if is_5:
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = "text/plain"
    properties.ResponseTopic = "answers"
    properties.CorrelationData = b"\x00\x01"
    properties.UserProperty = [("b", "1"), ("a", "2"), ("b", "0")]
    writer.client.publish(f"{prefix}/rich/x", "rich", qos=1, properties=properties).wait_for_publish(PATIENCE_S)
    got = reader.message(f"{prefix}/rich/x", "rich", 1, False).properties
    assert got.ContentType == "text/plain", got
    assert got.ResponseTopic == "answers", got
    assert got.CorrelationData == b"\x00\x01", got
    assert got.UserProperty == properties.UserProperty, got
    reader.client.subscribe(f"{prefix}/deaf", options=SubscribeOptions(qos=1, noLocal=True))
    reader.event("subscribe")
    reader.client.publish(f"{prefix}/deaf", "mine", qos=1).wait_for_publish(PATIENCE_S)
    writer.client.publish(f"{prefix}/deaf", "theirs", qos=1).wait_for_publish(PATIENCE_S)
    reader.message(f"{prefix}/deaf", "theirs", 1, False)

# A network that fails: the will comes.
writer.client.loop_stop()
writer.client.socket().close()
reader.message(f"{prefix}/will/x", "gone", 1, False)
reader.client.disconnect()
reader.client.loop_stop()
