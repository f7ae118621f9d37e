"""The examples that every Kafka tutorial has, as they stand there."""

import json
import threading
import time

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic

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

# Topics with a retention of their own: what a topic was given is what it has, and what is too much goes.
admin = KafkaAdminClient(bootstrap_servers='localhost:9092')
admin.create_topics([
    NewTopic(name='clicks', num_partitions=1, replication_factor=3, topic_configs={'retention.ms': '604800000', 'retention.bytes': '1073741824'}),
    NewTopic(name='logs', num_partitions=1, replication_factor=3, topic_configs={'retention.bytes': '1048576', 'segment.bytes': '1048576'}),
    NewTopic(name='sessions', num_partitions=1, replication_factor=3, topic_configs={'retention.ms': '1000', 'segment.bytes': '1048576'}),
])


def config(topic):
    return str(admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)]))


assert '604800000' in config('clicks') and '1073741824' in config('clicks'), config('clicks')
for topic in ('clicks', 'logs', 'sessions'):
    for i in range(40):
        producer.send(topic, value='x' * 100_000)
    producer.flush()
consumer = KafkaConsumer(bootstrap_servers='localhost:9092')
first = {}
deadline = time.time() + 30
while time.time() < deadline:
    first = {p.topic: o for p, o in consumer.beginning_offsets([TopicPartition(t, 0) for t in ('clicks', 'logs', 'sessions')]).items()}
    if first['logs'] >= 20 and first['sessions'] >= 20:
        break
    time.sleep(0.2)
assert first['clicks'] == 0 and 20 <= first['logs'] < 40 and 20 <= first['sessions'] <= 40, first
consumer.close()
admin.close()
print('ok')
