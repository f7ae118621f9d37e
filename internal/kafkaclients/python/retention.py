"""Topics with a retention of their own: what a topic was given is what it has, and what is too much goes."""

import time

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic

producer = KafkaProducer(bootstrap_servers='localhost:9092', value_serializer=lambda v: v.encode('utf-8'))
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
