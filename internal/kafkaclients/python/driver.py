"""Drives kafka-python and confluent-kafka-python; ../doc.go has the arguments."""

import sys
import threading
import time


def say(*words):
    print(*words, flush=True)


def key_of(n):
    return None if n % 2 else b"k%d" % (n % 7)


def text(b):
    return "-" if b is None else b.decode()


def show(partition, offset, key, value, headers):
    say("record", partition, offset, text(key), text(value), text(headers[-1][1]) if headers else "-")


class Pace:
    def __init__(self, rate):
        self.rate, self.start, self.n = rate, time.time(), 0

    def wait(self):
        if self.rate:
            self.n += 1
            time.sleep(max(0, self.start + self.n / self.rate - time.time()))


left = threading.Event()  # standard input has ended


def watch_input():
    sys.stdin.read()
    left.set()


class KafkaPython:
    def produce(self, a):
        from kafka import KafkaProducer

        p = KafkaProducer(
            bootstrap_servers=a["brokers"], acks="all", linger_ms=5, enable_idempotence=a["idempotent"],
            compression_type=None if a["codec"] == "none" else a["codec"],
        )
        pace, futures = Pace(a["rate"]), []
        for n in range(a["count"]):
            pace.wait()
            f = p.send(a["topic"], key=key_of(n), value=b"v%d" % n, headers=[("n", b"%d" % n)])
            f.add_callback(lambda _, n=n: say("acked", n))
            futures.append(f)
        for f in futures:
            f.get(timeout=60)
        p.close()

    def consume(self, a):
        from kafka import KafkaConsumer, TopicPartition

        c = KafkaConsumer(bootstrap_servers=a["brokers"])
        partitions = [TopicPartition(a["topic"], p) for p in c.partitions_for_topic(a["topic"])]
        c.assign(partitions)
        if a["from"] == "earliest":
            c.seek_to_beginning()
        else:
            for tp, found in c.offsets_for_times({tp: int(a["from"]) for tp in partitions}).items():
                if found is None:
                    c.seek_to_end(tp)
                else:
                    c.seek(tp, found.offset)
        for n, m in enumerate(c, 1):
            show(m.partition, m.offset, m.key, m.value, m.headers)
            if n == a["count"]:
                break
        c.close()

    def group(self, a):
        from kafka import KafkaConsumer

        c = KafkaConsumer(
            a["topic"], bootstrap_servers=a["brokers"], group_id=a["group"], auto_offset_reset="earliest", max_poll_records=10,
            enable_auto_commit=a["commit"] == "auto", auto_commit_interval_ms=100, heartbeat_interval_ms=300,
        )
        n = 0
        while n < a["count"] and not left.is_set():
            for tp, records in c.poll(timeout_ms=200).items():
                for m in records:
                    if n == a["count"]:
                        break
                    n += 1
                    show(m.partition, m.offset, m.key, m.value, m.headers)
                    if a["commit"] == "manual":
                        from kafka.structs import OffsetAndMetadata

                        c.commit({tp: OffsetAndMetadata(m.offset + 1, "", -1)})
        c.close()

    def admin(self, a):
        from kafka import KafkaAdminClient
        from kafka.admin import ConfigResource, ConfigResourceType, NewTopic

        adm = KafkaAdminClient(bootstrap_servers=a["brokers"])
        adm.create_topics([NewTopic(a["topic"], 3, 3, topic_configs={"retention.ms": "3600000"})])
        assert a["topic"] in adm.list_topics()
        adm.alter_configs([ConfigResource(ConfigResourceType.TOPIC, a["topic"], {"retention.ms": "7200000"})])
        described = adm.describe_configs([ConfigResource(ConfigResourceType.TOPIC, a["topic"])])
        assert "7200000" in str(described), described
        adm.describe_cluster()
        adm.delete_topics([a["topic"]])
        adm.close()


class Confluent:
    def produce(self, a):
        from confluent_kafka import Producer

        failed = []
        p = Producer({
            "bootstrap.servers": a["brokers"], "acks": "all", "linger.ms": 5, "compression.type": a["codec"],
            "enable.idempotence": a["idempotent"], "queue.buffering.max.messages": 1000000,
        })
        pace = Pace(a["rate"])
        for n in range(a["count"]):
            pace.wait()
            if left.is_set():
                break

            def told(err, _, n=n):
                if err:
                    failed.append(err)
                else:
                    say("acked", n)

            p.produce(a["topic"], key=key_of(n), value=b"v%d" % n, headers=[("n", b"%d" % n)], on_delivery=told)
            p.poll(0)
        assert p.flush(60) == 0
        assert not failed, failed[0]

    def consume(self, a):
        from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

        c = Consumer({"bootstrap.servers": a["brokers"], "group.id": "none", "enable.auto.commit": False})
        numbers = c.list_topics(a["topic"], 10).topics[a["topic"]].partitions
        partitions = [TopicPartition(a["topic"], p, OFFSET_BEGINNING) for p in numbers]
        if a["from"] != "earliest":
            partitions = c.offsets_for_times([TopicPartition(a["topic"], p, int(a["from"])) for p in numbers], 10)
        c.assign(partitions)
        n = 0
        while n < a["count"]:
            m = c.poll(1)
            if m is None:
                continue
            assert not m.error(), m.error()
            n += 1
            show(m.partition(), m.offset(), m.key(), m.value(), m.headers())
        c.close()

    def group(self, a):
        from confluent_kafka import Consumer

        conf = {
            "bootstrap.servers": a["brokers"], "group.id": a["group"], "auto.offset.reset": "earliest",
            "enable.auto.commit": a["commit"] == "auto", "auto.commit.interval.ms": 100, "group.protocol": a["protocol"],
        }
        if a["protocol"] == "classic":
            conf["heartbeat.interval.ms"] = 300
        c = Consumer(conf)
        c.subscribe([a["topic"]])
        n = 0
        while n < a["count"] and not left.is_set():
            m = c.poll(0.2)
            if m is None:
                continue
            assert not m.error(), m.error()
            n += 1
            show(m.partition(), m.offset(), m.key(), m.value(), m.headers())
            if a["commit"] == "manual":
                c.commit(m, asynchronous=False)
        c.close()

    def admin(self, a):
        from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

        def done(futures):
            return [f.result(20) for f in futures.values()]

        adm, topic = AdminClient({"bootstrap.servers": a["brokers"]}), a["topic"]
        done(adm.create_topics([NewTopic(topic, 3, 3, config={"retention.ms": "3600000"})]))
        assert len(adm.list_topics(topic, 10).topics[topic].partitions) == 3
        entry = ConfigEntry("retention.ms", "7200000", incremental_operation=AlterConfigOpType.SET)
        done(adm.incremental_alter_configs([ConfigResource("TOPIC", topic, incremental_configs=[entry])]))
        configs = done(adm.describe_configs([ConfigResource("TOPIC", topic)]))[0]
        assert configs["retention.ms"].value == "7200000", configs
        adm.list_consumer_groups().result(10)
        adm.describe_cluster().result(10)
        done(adm.delete_topics([topic]))


def main():
    a = {"codec": "none", "protocol": "classic", "from": "earliest", "commit": "auto", "count": "0", "rate": "0", "idempotent": "false"}
    a.update(arg.split("=", 1) for arg in sys.argv[2:])
    a["count"], a["rate"], a["idempotent"] = int(a["count"]), int(a["rate"]), a["idempotent"] == "true"
    mode = sys.argv[1]
    if mode == "group" or a["rate"]:
        threading.Thread(target=watch_input, daemon=True).start()
    getattr({"kafka-python": KafkaPython, "confluent-kafka": Confluent}[a["client"]](), mode)(a)


main()
