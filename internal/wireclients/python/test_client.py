"""What a client of generated stubs can do: ../doc.go says which and why."""

import queue
import threading
import time
import unittest

import grpc

import batch
from cluster import BROKERS, TIMEOUT, brokers, create, detail, eventually, first, leader
from penstock.v1 import admin_pb2, common_pb2, fetch_pb2, group_pb2, produce_pb2
from penstock.v1.common_pb2 import Header, Record


def produce(topic, records, partition=0, **extra):
    answer = leader(topic, partition).producing.Produce(
        produce_pb2.ProduceRequest(
            partitions=[produce_pb2.ProducePartition(topic=topic, partition=partition, records=records, **extra)]
        ),
        timeout=TIMEOUT,
    )
    return answer.results[0]


def fetch(topic, offset=0, partition=0, structured=True, wait=5000):
    answer = leader(topic, partition).fetching.Fetch(
        fetch_pb2.FetchRequest(
            structured=structured,
            max_wait_ms=wait,
            partitions=[fetch_pb2.FetchPartition(topic=topic, partition=partition, fetch_offset=offset, max_bytes=32 << 20)],
        ),
        timeout=TIMEOUT,
    )
    return answer.results[0], answer.batches


def bytes_of(records):
    """Records as (key, value, headers), absent ones as None."""
    return [
        (
            r.key if r.HasField("key") else None,
            r.value if r.HasField("value") else None,
            [(h.key, h.value if h.HasField("value") else None) for h in r.headers],
        )
        for r in records
    ]


class Topics(unittest.TestCase):
    def test_life_of_a_topic(self):
        created = create("life", 2, retention_ms="86400000")
        self.assertEqual((len(created.topic_id), created.partitions, created.replication_factor), (16, 2, len(BROKERS)))

        first.admin.AlterTopic(admin_pb2.AlterTopicRequest(name="life", set={"retention.bytes": "1000000"}), timeout=TIMEOUT)
        first.admin.AddPartitions(admin_pb2.AddPartitionsRequest(name="life", total=5), timeout=TIMEOUT)
        described = first.admin.DescribeTopic(admin_pb2.DescribeTopicRequest(name="life"), timeout=TIMEOUT)
        self.assertEqual(described.topic.topic_id, created.topic_id)
        self.assertEqual(len(described.topic.partitions), 5)
        self.assertEqual(
            {c.name: c.value for c in described.configs if not c.is_default},
            {"retention.ms": "86400000", "retention.bytes": "1000000"},
        )

        first.admin.DeleteTopic(admin_pb2.DeleteTopicRequest(name="life"), timeout=TIMEOUT)
        with self.assertRaises(grpc.RpcError) as gone:
            first.admin.DescribeTopic(admin_pb2.DescribeTopicRequest(name="life"), timeout=TIMEOUT)
        self.assertEqual(gone.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_a_refusal_has_a_typed_detail(self):
        create("twice")
        with self.assertRaises(grpc.RpcError) as refused:
            first.admin.CreateTopic(admin_pb2.CreateTopicRequest(name="twice"), timeout=TIMEOUT)
        self.assertEqual(refused.exception.code(), grpc.StatusCode.ALREADY_EXISTS)
        error = detail(refused.exception)
        self.assertEqual((error.code, error.topic, error.retriable), (common_pb2.ERROR_CODE_TOPIC_EXISTS, "twice", False))

    def test_every_broker_is_in_the_metadata(self):
        cluster = first.admin.DescribeCluster(admin_pb2.DescribeClusterRequest(), timeout=TIMEOUT)
        self.assertCountEqual([b.address for b in cluster.brokers], BROKERS)


class Producing(unittest.TestCase):
    def test_records_of_every_codec(self):
        create("codecs")
        sent = [
            Record(key=b"k", value=b"\x00\xff" * 50, timestamp_ms=7, headers=[Header(key="h", value=b"1"), Header(key="none")]),
            Record(key=b"", value=b"", timestamp_ms=8),
            Record(timestamp_ms=9),
        ]
        codecs = [v for v in common_pb2.Compression.values() if v != common_pb2.COMPRESSION_UNSPECIFIED]
        for i, codec in enumerate(codecs):
            result = produce("codecs", sent, compression=codec)
            self.assertFalse(result.HasField("error"), result)
            self.assertEqual(result.base_offset, i * len(sent))
        got = []
        while len(got) < len(codecs) * len(sent):
            result, _ = fetch("codecs", len(got))
            self.assertFalse(result.HasField("error"), result)
            got += result.records
        self.assertEqual([r.offset for r in got], list(range(len(got))))
        self.assertEqual([r.timestamp_ms for r in got], [7, 8, 9] * len(codecs))
        self.assertEqual(bytes_of(got), bytes_of(sent) * len(codecs))

    def test_batches_of_this_client(self):
        create("batches", 2)
        records = [(b"k", b"v" * 1000, [("h", b"1"), ("none", None)]), (None, b"", []), (b"tombstone", None, [])]
        for p in range(2):  # two batches of one partition, one of the other, as each broker leads them
            raw = [batch.encode(records, 1000 + i) for i in range(2 - p)]
            answer = leader("batches", p).producing.Produce(
                produce_pb2.ProduceRequest(
                    acks=produce_pb2.ACKS_ALL,
                    correlation_id=1 << 60,
                    partitions=[produce_pb2.ProducePartition(topic="batches", partition=p, batch_count=len(raw))],
                    batches=raw,
                ),
                timeout=TIMEOUT,
            )
            self.assertEqual(answer.correlation_id, 1 << 60)
            self.assertFalse(answer.results[0].HasField("error"), answer)
            result, batches = fetch("batches", partition=p, structured=False)
            self.assertEqual((result.batch_count, result.high_watermark), (len(raw), len(raw) * len(records)))
            got = []
            for theirs, ours in zip(batches, raw, strict=True):
                self.assertEqual(theirs[16:], ours[16:], "nothing but the base offset and the leader epoch is written")
                got += batch.decode(theirs)[0]
            self.assertEqual([r[0] for r in got], list(range(len(raw) * len(records))))
            self.assertEqual([r[2:] for r in got], records * len(raw))

    def test_a_batch_that_comes_twice_is_stored_once(self):
        create("idempotent")
        at = leader("idempotent")
        identity = at.producing.InitProducer(produce_pb2.InitProducerRequest(), timeout=TIMEOUT)
        for sequence, offset in [(0, 0), (0, 0), (2, 2), (2, 2)]:
            raw = batch.encode([(None, b"v", [])] * 2, 1, (identity.producer_id, identity.producer_epoch, sequence))
            answer = at.producing.Produce(
                produce_pb2.ProduceRequest(
                    partitions=[produce_pb2.ProducePartition(topic="idempotent", batch_count=1)], batches=[raw]
                ),
                timeout=TIMEOUT,
            )
            self.assertEqual(answer.results[0].base_offset, offset)
        self.assertEqual(fetch("idempotent")[0].high_watermark, 4)

    def test_a_stream_is_answered_in_order(self):
        create("stream")
        requests = 300

        def sent():
            for i in range(requests):
                yield produce_pb2.ProduceRequest(
                    correlation_id=i,
                    partitions=[produce_pb2.ProducePartition(topic="stream", records=[Record(value=b"%d" % i)])],
                )

        answers = list(leader("stream").producing.ProduceStream(sent(), timeout=TIMEOUT))
        self.assertEqual([a.correlation_id for a in answers], list(range(requests)))
        self.assertEqual([a.results[0].base_offset for a in answers], list(range(requests)))
        got = []
        while len(got) < requests:
            got += fetch("stream", len(got))[0].records
        self.assertEqual([r.value for r in got], [b"%d" % i for i in range(requests)])

    def test_any_legal_encoding_is_taken(self):
        create("encodings")
        raw = batch.encode([(None, b"v", [])], 1)
        partition = produce_pb2.ProducePartition(topic="encodings", batch_count=1)
        odd = (
            produce_pb2.ProduceRequest(batches=[raw]).SerializeToString()  # the batches first
            + produce_pb2.ProduceRequest(partitions=[partition]).SerializeToString()
            + bytes([0xC0, 0x3E, 0x01])  # field 1000, which no version has
            + produce_pb2.ProduceRequest(correlation_id=1).SerializeToString()
            + produce_pb2.ProduceRequest(correlation_id=2).SerializeToString()  # the last one counts
        )
        call = leader("encodings").channel.unary_unary(
            "/penstock.v1.ProduceService/Produce", response_deserializer=produce_pb2.ProduceResponse.FromString
        )
        answer = call(odd, timeout=TIMEOUT)
        self.assertEqual(answer.correlation_id, 2)
        self.assertFalse(answer.results[0].HasField("error"), answer)
        self.assertEqual(fetch("encodings")[0].records[0].value, b"v")

    def test_damage_on_the_way_is_refused(self):
        create("damage")
        raw = bytearray(batch.encode([(None, b"value", [])], 1))
        raw[-2] ^= 1
        answer = leader("damage").producing.Produce(
            produce_pb2.ProduceRequest(
                partitions=[produce_pb2.ProducePartition(topic="damage", batch_count=1)], batches=[bytes(raw)]
            ),
            timeout=TIMEOUT,
        )
        self.assertEqual(answer.results[0].error.code, common_pb2.ERROR_CODE_CORRUPT_BATCH)

    def test_others_name_the_leader(self):
        create("led")
        leads = leader("led")
        for b in brokers.values():
            if b is leads:
                continue
            answer = b.producing.Produce(
                produce_pb2.ProduceRequest(
                    partitions=[produce_pb2.ProducePartition(topic="led", records=[Record(value=b"v")])]
                ),
                timeout=TIMEOUT,
            )
            error = answer.results[0].error
            self.assertEqual(error.code, common_pb2.ERROR_CODE_NOT_LEADER)
            self.assertEqual((error.retriable, error.leader.address), (True, leads.address))


class Fetching(unittest.TestCase):
    def test_a_stream_reads_to_the_end_and_waits(self):
        create("tail")
        for i in range(20):
            self.assertEqual(produce("tail", [Record(value=b"%d" % i)]).base_offset, i)
        requests, got = queue.SimpleQueue(), []
        answers = leader("tail").fetching.FetchStream(iter(requests.get, None), timeout=TIMEOUT)
        later = threading.Timer(0.2, lambda: produce("tail", [Record(value=b"20")]))
        later.start()
        while len(got) < 21:
            requests.put(
                fetch_pb2.FetchRequest(
                    structured=True,
                    max_wait_ms=20_000,
                    correlation_id=len(got),
                    partitions=[fetch_pb2.FetchPartition(topic="tail", fetch_offset=len(got))],
                )
            )
            answer = next(answers)
            self.assertEqual(answer.correlation_id, len(got))
            got += answer.results[0].records
        requests.put(None)
        later.join()
        self.assertEqual([r.value for r in got], [b"%d" % i for i in range(21)])

    def test_large_answers(self):
        create("large", max_message_bytes="8388608")
        value = bytes(range(256)) * (6 << 12)  # 6 MiB: hundreds of frames
        self.assertFalse(produce("large", [Record(value=value)]).HasField("error"))
        self.assertEqual(fetch("large")[0].records[0].value, value)
        ((record,), _) = batch.decode(fetch("large", structured=False)[1][0])
        self.assertEqual(record[3], value)

    def test_out_of_range(self):
        create("range")
        self.assertEqual(fetch("range", 1000)[0].error.code, common_pb2.ERROR_CODE_OFFSET_OUT_OF_RANGE)

    def test_offsets_by_time(self):
        create("times")
        for ms in (1000, 2000, 3000):
            produce("times", [Record(value=b"v", timestamp_ms=ms)])

        def ask(query, ms=0):
            answer = leader("times").fetching.ListOffsets(
                fetch_pb2.ListOffsetsRequest(
                    partitions=[fetch_pb2.ListOffsetsPartition(topic="times", query=query, timestamp_ms=ms)]
                ),
                timeout=TIMEOUT,
            )
            self.assertFalse(answer.results[0].HasField("error"), answer)
            return answer.results[0].offset

        self.assertEqual(ask(fetch_pb2.OFFSET_QUERY_EARLIEST), 0)
        self.assertEqual(ask(fetch_pb2.OFFSET_QUERY_LATEST), 3)
        self.assertEqual(ask(fetch_pb2.OFFSET_QUERY_TIMESTAMP, 1500), 1)
        self.assertEqual(ask(fetch_pb2.OFFSET_QUERY_TIMESTAMP, 3001), -1)


def coordinator(group):
    """The broker that runs a group, once there is one."""

    def ask():
        try:
            found = first.groups.FindCoordinator(group_pb2.FindCoordinatorRequest(group=group), timeout=TIMEOUT)
        except grpc.RpcError as e:
            if detail(e).retriable:
                return None
            raise
        return brokers[found.address]

    return eventually(ask, f"the coordinator of {group}")


def retried(call, request):
    """Calls a coordinator, again while it loads."""

    def ask():
        try:
            return call(request, timeout=TIMEOUT)
        except grpc.RpcError as e:
            if detail(e).retriable:
                return None
            raise

    return eventually(ask, call)


class Member:
    """A member of a group, of one Session stream."""

    def __init__(self, group, topic):
        self.up = queue.SimpleQueue()
        self.down = coordinator(group).groups.Session(iter(self.up.get, None), timeout=2 * TIMEOUT)
        self.up.put(group_pb2.SessionRequest(join=group_pb2.JoinGroup(group=group, topics=[topic], client_id="python")))
        self.id, self.epoch, self.owned, self.commits = "", 0, None, {}
        self.lock = threading.Condition()
        self.ended = None
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        try:
            for answer in self.down:
                with self.lock:
                    for c in answer.commits:
                        self.commits[c.id] = c
                    if not answer.commits:
                        self.id, self.epoch = answer.member_id or self.id, answer.member_epoch
                    if answer.HasField("assignment"):
                        self.owned = list(answer.assignment.partitions)
                        self.beat()
                    self.lock.notify_all()
        except grpc.RpcError as e:
            with self.lock:
                self.ended = e
                self.lock.notify_all()

    def beat(self):
        self.up.put(
            group_pb2.SessionRequest(
                heartbeat=group_pb2.Heartbeat(member_epoch=self.epoch, has_owned=True, owned=self.owned or [])
            )
        )

    def wait(self, what):
        deadline = time.monotonic() + TIMEOUT
        with self.lock:
            while not self.ended and not what(self):
                if not self.lock.wait(0.2):  # the epoch may have risen: what is owned is said again
                    self.beat()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self.id}: {self.owned}")
        if self.ended:
            raise self.ended

    def commit(self, number):
        """Stores the offset 0 of all that it owns, with its name."""
        offsets = [
            group_pb2.OffsetCommit(topic=p.topic, partition=p.partition, offset=0, leader_epoch=-1, metadata=self.id)
            for p in self.owned
        ]
        self.up.put(
            group_pb2.SessionRequest(
                commit=group_pb2.SessionCommit(id=number, member_epoch=self.epoch, offsets=offsets)
            )
        )
        self.wait(lambda m: number in m.commits)
        return self.commits[number]

    def leave(self):
        self.up.put(group_pb2.SessionRequest(leave=group_pb2.LeaveGroup()))
        self.up.put(None)
        self.reader.join(TIMEOUT)


class Groups(unittest.TestCase):
    def test_two_members_share_and_commit(self):
        create("shared", 4)
        one = Member("sharing", "shared")
        one.wait(lambda m: m.owned and len(m.owned) == 4)
        two = Member("sharing", "shared")
        two.wait(lambda m: m.owned and len(m.owned) == 2)
        one.wait(lambda m: len(m.owned) == 2)
        self.assertCountEqual([p.partition for p in one.owned + two.owned], range(4))

        at = coordinator("sharing").groups
        described = at.DescribeGroup(group_pb2.DescribeGroupRequest(group="sharing"), timeout=TIMEOUT)
        self.assertCountEqual([m.member_id for m in described.members], [one.id, two.id])
        for member in (one, two):
            stored = member.commit(7)
            self.assertFalse(stored.HasField("error") or stored.failed, stored)
        committed = at.FetchOffsets(group_pb2.FetchOffsetsRequest(group="sharing"), timeout=TIMEOUT)
        self.assertEqual(
            {r.partition: r.metadata for r in committed.results},
            {p.partition: m.id for m in (one, two) for p in m.owned},
        )

        one.leave()
        two.wait(lambda m: len(m.owned) == 4)
        two.leave()

    def test_offsets_of_a_group_without_members(self):
        create("read", 1)
        produce("read", [Record(value=b"v")] * 10)
        at = coordinator("reading").groups
        commit = group_pb2.OffsetCommit(topic="read", offset=6, leader_epoch=-1, metadata="kept")
        stored = retried(at.CommitOffsets, group_pb2.CommitOffsetsRequest(group="reading", offsets=[commit]))
        self.assertFalse(stored.results[0].HasField("error"), stored)
        (found,) = at.FetchOffsets(group_pb2.FetchOffsetsRequest(group="reading"), timeout=TIMEOUT).results
        self.assertEqual((found.topic, found.partition, found.offset, found.metadata), ("read", 0, 6, "kept"))
        (none,) = retried(
            coordinator("nobody").groups.FetchOffsets,
            group_pb2.FetchOffsetsRequest(group="nobody", partitions=[common_pb2.TopicPartition(topic="read")]),
        ).results
        self.assertEqual(none.offset, -1)

        commit.offset = 2
        (reset,) = at.ResetOffsets(group_pb2.ResetOffsetsRequest(group="reading", offsets=[commit]), timeout=TIMEOUT).results
        self.assertEqual((reset.before, reset.after), (6, 2))
        self.assertIn("reading", [g.group for g in at.ListGroups(group_pb2.ListGroupsRequest(), timeout=TIMEOUT).groups])
        offset = at.FetchOffsets(group_pb2.FetchOffsetsRequest(group="reading"), timeout=TIMEOUT).results[0].offset
        self.assertEqual(len(fetch("read", offset)[0].records), 8)
        at.DeleteGroup(group_pb2.DeleteGroupRequest(group="reading"), timeout=TIMEOUT)
        with self.assertRaises(grpc.RpcError) as gone:
            at.DescribeGroup(group_pb2.DescribeGroupRequest(group="reading"), timeout=TIMEOUT)
        self.assertEqual(detail(gone.exception).code, common_pb2.ERROR_CODE_UNKNOWN_GROUP)


if __name__ == "__main__":
    unittest.main()
