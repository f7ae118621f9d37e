"""The examples that every Kafka tutorial has, as they stand there, against `penstock dev`."""

import json
import threading
import time

from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

admin = KafkaAdminClient(bootstrap_servers='localhost:9092')
admin.create_topics([NewTopic(name='orders', num_partitions=3, replication_factor=1)])
admin.close()

producer = KafkaProducer(bootstrap_servers='localhost:9092', value_serializer=lambda v: json.dumps(v).encode('utf-8'))


def send(ids):
    for i in ids:
        producer.send('orders', key=str(i % 10).encode(), value={'order_id': i, 'amount': 10 * i})
    producer.flush()


class Member(threading.Thread):
    """A consumer of a group, on a thread of its own; it notes what it reads, and where."""

    def __init__(self, group):
        super().__init__()
        self.group, self.stop = group, threading.Event()
        self.read, self.assigned = [], set()
        self.start()

    def run(self):
        consumer = KafkaConsumer(
            'orders', bootstrap_servers='localhost:9092', group_id=self.group, auto_offset_reset='earliest',
            enable_auto_commit=True, auto_commit_interval_ms=5000, value_deserializer=lambda m: json.loads(m.decode('utf-8')),
        )
        while not self.stop.is_set():
            for records in consumer.poll(timeout_ms=200).values():
                self.read.extend((r.partition, r.value['order_id']) for r in records)
            self.assigned = {p.partition for p in consumer.assignment()}
        consumer.close()


def until(what, ok):
    deadline = time.time() + 40
    while not ok():
        assert time.time() < deadline, (what, [(m.group, m.assigned, m.read) for m in members])
        time.sleep(0.1)


def ids(group):
    return [i for m in members if m.group == group for _, i in m.read]


send(range(30))
# Two groups at once: three consumers share the partitions, another has all of them.
members = [Member('payment-service') for _ in range(3)] + [Member('analytics')]
try:
    until('each of three consumers has a partition', lambda: sorted(sorted(m.assigned) for m in members[:3]) == [[0], [1], [2]])
    until('what was there is read from earliest', lambda: set(ids('payment-service')) == set(ids('analytics')) == set(range(30)))
    for m in members:
        m.read = []
    send(range(30, 90))
    until('both groups get everything', lambda: all(set(ids(g)) >= set(range(30, 90)) for g in ('payment-service', 'analytics')))
    for group in ('payment-service', 'analytics'):
        assert sorted(ids(group)) == list(range(30, 90)), (group, 'some twice', sorted(ids(group)))
    for m in members[:3]:
        assert {p for p, _ in m.read} == m.assigned, (m.assigned, m.read)
    assert {p for p, _ in members[3].read} == {0, 1, 2}, members[3].read
finally:
    for m in members:
        m.stop.set()
    for m in members:
        m.join()
producer.close()
print('ok')
