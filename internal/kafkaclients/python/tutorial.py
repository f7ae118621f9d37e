"""The examples that every Kafka tutorial has, as they stand there."""

import json
import threading
import time

from kafka import KafkaConsumer, KafkaProducer

producer = KafkaProducer(bootstrap_servers='localhost:9092', value_serializer=lambda v: json.dumps(v).encode('utf-8'))
for i in range(30):
    producer.send('orders', key=str(i % 10).encode(), value={'order_id': i, 'amount': 10 * i})
producer.flush()


def read(group, into, until):
    consumer = KafkaConsumer(
        'orders', bootstrap_servers='localhost:9092', group_id=group, auto_offset_reset='earliest',
        enable_auto_commit=True, auto_commit_interval_ms=5000, value_deserializer=lambda m: json.loads(m.decode('utf-8')),
    )
    while not until.is_set():
        for records in consumer.poll(timeout_ms=200).values():
            into.extend(r.value['order_id'] for r in records)
    consumer.close()


def group_of(n, group):
    seen, done = [[] for _ in range(n)], threading.Event()
    threads = [threading.Thread(target=read, args=(group, s, done)) for s in seen]
    for t in threads:
        t.start()
    deadline = time.time() + 40
    while len(set(sum(seen, []))) < 30 and time.time() < deadline:
        time.sleep(0.1)
    done.set()
    for t in threads:
        t.join()
    return sorted(set(sum(seen, [])))


assert group_of(3, 'payment-service') == list(range(30))  # three consumers share the partitions
assert group_of(1, 'analytics') == list(range(30))  # another group gets everything
print('ok')
